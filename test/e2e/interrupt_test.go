package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/test/pgtest"
)

// beginSlowly starts a backup of a cluster with noise in it, into a repository without packs, and stops the process
// once it has stored the first: then the server is in backup mode, and most of the cluster is not read yet. The returned
// function lets it go on and waits for its end.
func beginSlowly(t *testing.T, repo string, cmd *exec.Cmd) (finish func() pgtest.Result) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, repo, "packs", 1)
	// Stopped between two instructions, whatever it is at: the test decides when it goes on.
	if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	return func() pgtest.Result {
		_ = cmd.Process.Signal(syscall.SIGCONT)
		_ = cmd.Wait()
		return pgtest.Result{Stdout: out.String(), Stderr: errs.String(), Code: pgtest.ExitCode(cmd.ProcessState)}
	}
}

// quiet checks that no connection of a backup is left: a non-exclusive backup ends with its connection.
func quiet(t *testing.T, s *pgtest.Server) {
	t.Helper()
	s.WaitQuery(t, "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'pgtrove%'", "0", time.Minute)
}

// noise fills a table with about 150 MB that compress little: several packs.
func noise(t *testing.T, s *pgtest.Server) {
	t.Helper()
	s.Exec(t, `CREATE TABLE noise AS SELECT md5(i::text) || md5((-i)::text) || md5((i * 7)::text) || md5((i * 11)::text) AS x
		FROM generate_series(1, 900000) AS i`)
	s.Exec(t, "CHECKPOINT")
}

func TestAnInterruptedBackupLeavesNothingHalf(t *testing.T) {
	w := newWorld(t, "15", pgtest.Options{Conf: map[string]string{"autovacuum": "off"}})
	noise(t, w.Server)
	archive := w.repo
	for i, c := range []struct {
		name   string
		signal syscall.Signal
		packs  int // in the repository before the signal
	}{
		{"Ctrl-C at the start", syscall.SIGINT, 0},
		{"Ctrl-C in the middle", syscall.SIGINT, 1},
		{"SIGTERM in the middle", syscall.SIGTERM, 1},
		{"kill -9 at the start", syscall.SIGKILL, 0},
		{"kill -9 in the middle", syscall.SIGKILL, 1},
	} {
		w.repo = filepath.Join(w.dir, "interrupted"+strconv.Itoa(i)) // one that has nothing to share
		w.ExtraEnv = w.env()
		w.ok("init", "--key-file", filepath.Join(w.dir, "key"+strconv.Itoa(i)))
		w.ExtraEnv = append(w.ExtraEnv, "PGTROVE_KEY_FILE="+filepath.Join(w.dir, "key"+strconv.Itoa(i)))
		cmd := w.Command("pgtrove", "backup", "--checkpoint", "fast", "--jobs", "1", "--wal", "include")
		var errs bytes.Buffer
		cmd.Stderr = &errs
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if c.packs == 0 {
			waitFor(t, w.repo, "sessions", 1)
		} else {
			waitFor(t, w.repo, "packs", c.packs)
		}
		if err := cmd.Process.Signal(c.signal); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		code := pgtest.ExitCode(cmd.ProcessState)
		if n := len(w.snapshots()); code == 0 || n != 0 {
			t.Errorf("%s: exit %d and %d snapshots", c.name, code, n)
		} else if c.signal != syscall.SIGKILL && !bytes.Contains(errs.Bytes(), []byte("interrupted")) {
			t.Errorf("%s: does not say so:\n%s", c.name, errs.String())
		}
		quiet(t, w.Server)
		w.ok("verify")
		again := w.backup("--wal", "include")
		if c.signal == syscall.SIGINT && c.packs > 0 && again.Added > 60<<20 {
			t.Errorf("%s: the rerun sent %d bytes; what was uploaded is not used", c.name, again.Added)
		}
		w.verify()
	}
	w.archived()
	w.ExtraEnv = nil
	w.repo = archive
	w.ExtraEnv = w.env()
	w.backup()
	w.archived()
	sameContents(t, w.Server, w.adopt(w.restore()))
}

// waitFor waits until a repository holds n objects of a kind: packs, or sessions, which are announced before the server
// is asked to begin.
func waitFor(t *testing.T, repo, kind string, n int) {
	t.Helper()
	pattern := map[string]string{"packs": "packs/*/[0-9]*", "sessions": "sessions/[0-9]*"}[kind]
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		found, err := filepath.Glob(filepath.Join(repo, pattern))
		if err != nil {
			t.Fatal(err)
		}
		if len(found) >= n {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d %s after a minute", len(found), kind)
		}
	}
}

func TestALostConnectionVoidsTheBackup(t *testing.T) {
	w := newWorld(t, "15", pgtest.Options{})
	noise(t, w.Server)
	finish := beginSlowly(t, w.repo, w.Command("pgtrove", "backup", "--checkpoint", "fast", "--jobs", "1"))
	w.Query(t, "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name LIKE 'pgtrove%'")
	quiet(t, w.Server)
	expect(t, finish(), 7, []string{"connection"}, "backup")
	if n := len(w.snapshots()); n != 0 {
		t.Errorf("%d snapshots", n)
	}
}

func TestAnInterruptedRestoreCannotStart(t *testing.T) {
	w := newWorld(t, "15", pgtest.Options{})
	w.Pgbench(t, "-i", "-s", "20", "-q")
	w.backup()
	w.archived()
	for _, signal := range []syscall.Signal{syscall.SIGKILL, syscall.SIGINT} {
		dir := w.newDir()
		cmd := w.Command("pgtrove", "restore", "--to", dir)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
			if _, err := os.Stat(filepath.Join(dir, "base", "1")); err == nil {
				break
			}
		}
		if err := cmd.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		if _, err := os.Stat(filepath.Join(dir, "global", "pg_control")); err == nil {
			t.Fatalf("%v: the restore was faster; the cluster is too small for this test", signal)
		}
		if err := pgtest.Adopt(t, w.Version, dir).StartErr(); err == nil {
			t.Errorf("%v: half a cluster starts", signal)
		}
		w.fails(5, []string{"not empty"}, "restore", "--to", dir)
	}
}
