// Package delta restores into directories that have content, with the built binary and real servers: what is right stays, what is
// wrong is fetched, what is not the snapshot's goes, and whatever interrupts it, it can be run again.
package delta

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/test/pgtest"
)

// world is a cluster with a tablespace, whose repository holds two snapshots of it, and the WAL behind them.
type world struct {
	*pgtest.Server
	t     *testing.T
	dir   string // scratch
	space string // where the tablespace is
	want  string // what pg_dumpall says at the end
}

func newWorld(t *testing.T, version string) *world {
	t.Helper()
	w := &world{t: t, dir: pgtest.TempDir(t)}
	w.space = filepath.Join(w.dir, "space")
	if err := os.Mkdir(w.space, 0o700); err != nil {
		t.Fatal(err)
	}
	pgtest.Own(t, w.space)
	w.Server = pgtest.New(t, version, pgtest.Options{Conf: map[string]string{
		"archive_mode": "on", "archive_command": pgtest.Binary(t) + " wal push %p", "autovacuum": "off",
	}})
	w.ExtraEnv = []string{"PGTROVE_REPO=" + filepath.Join(w.dir, "repo"), "PGTROVE_KEY_FILE=" + filepath.Join(w.dir, "key")}
	w.ok("init")
	w.Start(t)
	w.Exec(t, "CREATE TABLESPACE fast LOCATION '"+w.space+"'")
	w.Exec(t, "CREATE TABLE moved TABLESPACE fast AS SELECT n, repeat(md5(n::text), 5) FROM generate_series(1, 20000) n")
	w.Pgbench(t, "-i", "-s", "1", "-q")
	w.ok("backup", "--checkpoint", "fast")
	// Of many chunks the second snapshot uses a part only.
	w.Exec(t, "UPDATE pgbench_accounts SET abalance = aid WHERE aid % 1000 = 1")
	w.Exec(t, "UPDATE moved SET n = -n WHERE n % 1000 = 1")
	w.ok("backup", "--checkpoint", "fast")
	w.Exec(t, "UPDATE pgbench_tellers SET tbalance = 42")
	w.WaitArchived(t, w.SwitchWAL(t))
	w.want = w.dump(w.Server)
	t.Cleanup(func() {
		if !t.Failed() {
			w.ok("verify", "--read-data")
		}
	})
	return w
}

// dump is all that the server holds; of versions that no pg_dumpall is here for, what was written to it.
func (w *world) dump(s *pgtest.Server) string {
	w.t.Helper()
	if w.Version > "15" {
		const rows = "SELECT count(*), md5(string_agg(x::text, '\n' ORDER BY x::text)) FROM %s x"
		all := ""
		for _, table := range []string{"moved", "pgbench_accounts", "pgbench_branches", "pgbench_tellers", "pgbench_history", "pg_class", "pg_attribute"} {
			all += s.Query(w.t, fmt.Sprintf(rows, table)) + "\n"
		}
		return all
	}
	var kept []string
	for line := range strings.Lines(pgtest.MustRun(w.t, s.Command("pg_dumpall"))) {
		if !strings.HasPrefix(line, "\\restrict") && !strings.HasPrefix(line, "\\unrestrict") { // random words of recent minor versions
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "")
}

func (w *world) ok(args ...string) string {
	w.t.Helper()
	return pgtest.MustRun(w.t, w.Command("pgtrove", args...))
}

// refused runs a command that has to end with exit code 5 and these words.
func (w *world) refused(words []string, args ...string) {
	w.t.Helper()
	r := pgtest.Run(w.t, w.Command("pgtrove", args...))
	if r.Code != 5 {
		w.t.Errorf("pgtrove %s: exit %d\n%s%s", strings.Join(args, " "), r.Code, r.Stdout, r.Stderr)
	}
	for _, word := range words {
		if !strings.Contains(r.Stderr, word) {
			w.t.Errorf("pgtrove %s: the message lacks %q:\n%s", strings.Join(args, " "), word, r.Stderr)
		}
	}
}

type result struct {
	Type    string  `json:"type"`
	Size    int64   `json:"size"`
	Kept    int64   `json:"kept"`
	Copied  int64   `json:"copied"`
	Fetched int64   `json:"fetched"`
	Removed int64   `json:"removed"`
	Rate    int64   `json:"rate"`
	Seconds float64 `json:"seconds"`
}

func parse(t *testing.T, out string) (r result) {
	t.Helper()
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return r
}

// damage spoils pages of a stopped cluster at random, and adds what a cluster of another time would have.
func (w *world) damage(r *rand.Rand) {
	w.t.Helper()
	for _, top := range []string{filepath.Join(w.Dir, "base"), filepath.Join(w.Dir, "pg_xact"), w.space} {
		err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			info, err := d.Info()
			if err != nil || info.Size() == 0 || info.Size() < 1<<20 && r.IntN(20) > 0 {
				return err
			}
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			for range 1 + info.Size()/8192/100 {
				if _, err := f.WriteAt([]byte("damage"), r.Int64N(max(info.Size()-6, 1))); err != nil {
					return err
				}
			}
			return f.Close()
		})
		if err != nil {
			w.t.Fatal(err)
		}
	}
	versions, err := filepath.Glob(filepath.Join(w.space, "PG_"+w.Version+"_*"))
	if err != nil || len(versions) != 1 {
		w.t.Fatal(versions, err)
	}
	for _, path := range []string{
		filepath.Join(w.Dir, "base/99999/1"), filepath.Join(w.Dir, "standby.signal"), filepath.Join(w.Dir, "base/1/99999.1"), filepath.Join(versions[0], "77777/1"),
	} {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			w.t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("extra"), 0o600); err != nil {
			w.t.Fatal(err)
		}
	}
	pgtest.Own(w.t, w.Dir, w.space)
}

// recovers starts the restored cluster, which has to have the original's contents, and stops it again.
func (w *world) recovers() {
	w.t.Helper()
	for _, gone := range []string{"base/99999", "base/1/99999.1", "standby.signal", "pgtrove.restore-incomplete"} {
		if _, err := os.Lstat(filepath.Join(w.Dir, gone)); !errors.Is(err, fs.ErrNotExist) {
			w.t.Errorf("%s is still there: %v", gone, err)
		}
	}
	w.Start(w.t)
	w.WaitPromoted(w.t)
	if w.dump(w.Server) != w.want {
		w.t.Error("the restored cluster has other contents")
	}
	w.Stop(w.t, pgtest.Fast)
	if w.Version == "15" { // of the others only servers are here
		pgtest.MustRun(w.t, w.Command("pg_checksums", "--check", "-D", w.Dir))
	}
}

func TestABrokenClusterIsRestoredInPlace(t *testing.T) {
	w := newWorld(t, "15")
	r := rand.New(rand.NewPCG(8, 8))
	w.refused([]string{"a server is running"}, "restore", "--delta", "--to", w.Dir)
	orphan := w.killPostmaster() // postmaster.pid stays
	w.refused([]string{"shared memory"}, "restore", "--delta", "--to", w.Dir)
	if err := syscall.Kill(orphan, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for alive(orphan) {
		time.Sleep(10 * time.Millisecond)
	}
	w.damage(r)
	if os.Geteuid() == 0 { // as after an edit by root
		if err := os.Lchown(filepath.Join(w.Dir, "pg_hba.conf"), 0, 0); err != nil {
			t.Fatal(err)
		}
	}
	w.refused([]string{"not empty", "--delta"}, "restore", "--to", w.Dir)
	plan := parse(t, w.ok("restore", "--delta", "--to", w.Dir, "--dry-run", "--json"))
	// The second snapshot uses parts of chunks, which only whole digests would prove: how many, the repository's key decides.
	if strict := parse(t, w.ok("restore", "--delta", "--strict", "--to", w.Dir, "--dry-run", "--json")); strict.Fetched <= plan.Fetched {
		t.Errorf("strictly %d bytes would be fetched, otherwise %d", strict.Fetched, plan.Fetched)
	}
	if plan.Type != "restore-plan" || plan.Fetched == 0 || plan.Rate == 0 || plan.Removed == 0 {
		t.Errorf("plan: %+v", plan)
	}
	done := parse(t, w.ok("restore", "--delta", "--to", w.Dir, "--json"))
	if done.Kept < done.Size/2 || done.Removed < 5 || done.Fetched < plan.Fetched || done.Fetched > plan.Fetched+1<<20 {
		t.Errorf("announced %+v, done %+v", plan, done)
	}
	t.Logf("%+v", done)
	w.recovers()

	// Once more, of the whole cluster that went on, and as root where this is root: everything belongs to the server's account after it.
	w.damage(r)
	cmd := w.Command("pgtrove", "restore", "--delta", "--strict", "--to", w.Dir)
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = nil
	}
	pgtest.MustRun(t, cmd)
	owner := inode(t, w.Home).Uid
	for _, top := range []string{w.Dir, w.space} {
		if err := filepath.WalkDir(top, func(path string, _ fs.DirEntry, err error) error {
			if err == nil && inode(t, path).Uid != owner {
				t.Errorf("%s belongs to %d", path, inode(t, path).Uid)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	w.recovers()

	w.damage(r)
	w.killAgainAndAgain(r)
	w.ok("restore", "--delta", "--to", w.Dir)
	w.recovers()
}

func TestClustersOfAllVersionsAreRestoredInPlace(t *testing.T) {
	for _, version := range pgtest.AllVersions() {
		if version == "15" { // see above
			continue
		}
		t.Run(version, func(t *testing.T) {
			w := newWorld(t, version)
			w.Stop(t, pgtest.Immediate)
			w.damage(rand.New(rand.NewPCG(8, 9)))
			if done := parse(t, w.ok("restore", "--delta", "--to", w.Dir, "--json")); done.Kept < done.Size/2 || done.Fetched == 0 || done.Removed < 5 {
				t.Errorf("%+v", done)
			}
			w.recovers()
		})
	}
}

// killPostmaster kills it while a backend is busy, which goes on and is returned.
func (w *world) killPostmaster() (backend int) {
	t := w.t
	t.Helper()
	busy := w.Command("psql", "-Xc", "/* busy */ DO $$ BEGIN LOOP END LOOP; END $$")
	if err := busy.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = busy.Wait() })
	w.WaitQuery(t, "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '/* busy%' AND state = 'active'", "1", time.Minute)
	backend, err := strconv.Atoi(w.Query(t, "SELECT pid FROM pg_stat_activity WHERE query LIKE '/* busy%'"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(w.Dir, "postmaster.pid"))
	if err != nil {
		t.Fatal(err)
	}
	line, _, _ := strings.Cut(string(b), "\n")
	pid, err := strconv.Atoi(line)
	if err == nil {
		err = syscall.Kill(pid, syscall.SIGKILL)
	}
	if err != nil {
		t.Fatal(err)
	}
	w.WaitExit(t, time.Minute)
	return backend
}

// alive says whether a process runs; one that has ended and that nobody has waited for does not.
func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(b), ") Z ")
}

func inode(t *testing.T, path string) *syscall.Stat_t {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t)
}

// killAgainAndAgain interrupts restores, each a little later than the last. No server starts from what is there then.
func (w *world) killAgainAndAgain(r *rand.Rand) {
	t := w.t
	t.Helper()
	marker := filepath.Join(w.Dir, "pgtrove.restore-incomplete")
	tried := false
	for n, pause := 0, 20*time.Millisecond; n < 8 || !tried; pause += 15 * time.Millisecond {
		if killAfter(t, w.Command("pgtrove", "restore", "-q", "--delta", "--to", w.Dir), pause) {
			w.damage(r) // and on with the next
			pause = 20 * time.Millisecond
			continue
		}
		n++
		_, marked := os.Lstat(marker)
		_, control := os.Lstat(filepath.Join(w.Dir, "global/pg_control"))
		if !tried && marked == nil && control != nil {
			tried = true
			if err := w.StartErr(); err == nil {
				t.Fatal("a server started from half a cluster")
			}
		}
	}
}

// killAfter starts a command and kills it, unless it ends before.
func killAfter(t *testing.T, cmd *exec.Cmd, pause time.Duration) (ended bool) {
	t.Helper()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case err := <-done:
		if err != nil {
			t.Fatal(err)
		}
		return true
	case <-time.After(pause):
		_ = cmd.Process.Kill()
		<-done
		return false
	}
}

func TestOtherClustersAreLeftAlone(t *testing.T) {
	w := newWorld(t, "15")
	other := pgtest.New(t, "15", pgtest.Options{})
	w.refused([]string{"another cluster", "system identifier"}, "restore", "--delta", "--to", other.Dir)
	w.refused([]string{"no data directory", "PG_VERSION"}, "restore", "--delta", "--to", w.Home)
	// A copy of the data directory whose links lead into the live tablespace of the original.
	copied := filepath.Join(w.dir, "copied")
	for _, dir := range []string{"", "global", "pg_tblspc"} {
		if err := os.Mkdir(filepath.Join(copied, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{"PG_VERSION", "global/pg_control"} {
		b, err := os.ReadFile(filepath.Join(w.Dir, file))
		if err == nil {
			err = os.WriteFile(filepath.Join(copied, file), b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(w.space, filepath.Join(copied, "pg_tblspc", w.Query(t, "SELECT oid FROM pg_tablespace WHERE spcname = 'fast'"))); err != nil {
		t.Fatal(err)
	}
	pgtest.Own(t, copied)
	w.refused([]string{"tablespace", w.Dir}, "restore", "--delta", "--to", copied)

	// Pages of the live original are reused for a copy of it.
	copied = filepath.Join(w.dir, "new")
	space := filepath.Join(w.dir, "new-space")
	args := []string{"restore", "--reuse", w.Dir, "--to", copied, "--tablespace", w.space + "=" + space, "--archive-mode", "off", "--json"}
	done := parse(t, w.ok(args...))
	if done.Copied < done.Size/2 || done.Fetched > done.Size/4 {
		t.Errorf("reused: %+v", done)
	}
	s := pgtest.Adopt(t, w.Version, copied)
	s.ExtraEnv = w.ExtraEnv
	s.Start(t)
	s.WaitPromoted(t)
	if got := s.Query(t, "SHOW archive_mode"); got != "off" {
		t.Errorf("archive_mode is %s", got)
	}
	if w.dump(s) != strings.ReplaceAll(w.want, w.space, space) {
		t.Error("the copy has other contents")
	}
	if w.dump(w.Server) != w.want {
		t.Error("the original has other contents")
	}
	list := w.ok("restore", "--list")
	if !strings.Contains(list, "data/global/pg_control") || strings.Count(list, "\n") < 900 {
		t.Errorf("list:\n%.500s", list)
	}
}
