// Package e2e runs the built binary against real servers: what a person would do, and what goes wrong. Every test that
// writes a repository ends in a full check of it.
package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/test/pgtest"
)

// world is a server and the repository that it is backed up to.
type world struct {
	*pgtest.Server
	t    *testing.T
	dir  string // scratch
	repo string
	key  string
	more []string // environment
}

// newWorld makes a cluster that archives into a new repository, and starts it.
func newWorld(t *testing.T, version string, o pgtest.Options) *world {
	t.Helper()
	w := &world{t: t, dir: pgtest.TempDir(t)}
	w.repo = filepath.Join(w.dir, "repo")
	w.setUp(version, o)
	return w
}

// setUp makes cluster and repository, and starts the cluster.
func (w *world) setUp(version string, o pgtest.Options) {
	t := w.t
	t.Helper()
	w.key = filepath.Join(w.dir, "identity.txt")
	conf := map[string]string{"archive_mode": "on", "archive_command": pgtest.Binary(t) + " wal push %p", "autovacuum_naptime": "5s"}
	for k, v := range o.Conf {
		conf[k] = v
	}
	o.Conf = conf
	w.Server = pgtest.New(t, version, o)
	w.ExtraEnv = w.env()
	w.ok("init")
	w.Start(t)
	t.Cleanup(func() {
		if !t.Failed() {
			w.verify()
		}
	})
}

func (w *world) env() []string {
	return append([]string{"PGTROVE_REPO=" + w.repo, "PGTROVE_KEY_FILE=" + w.key}, w.more...)
}

// run runs pgtrove with the world's settings.
func (w *world) run(args ...string) pgtest.Result {
	w.t.Helper()
	return pgtest.Run(w.t, w.Command("pgtrove", args...))
}

// ok runs pgtrove and returns its standard output; any exit code but 0 fails the test.
func (w *world) ok(args ...string) string {
	w.t.Helper()
	r := w.run(args...)
	if r.Code != 0 {
		w.t.Fatalf("pgtrove %s: exit %d\n%s%s", strings.Join(args, " "), r.Code, r.Stdout, r.Stderr)
	}
	return r.Stdout
}

// fails runs pgtrove, which must end with this exit code, a message that contains every one of parts, and no stack.
func (w *world) fails(code int, parts []string, args ...string) pgtest.Result {
	w.t.Helper()
	return expect(w.t, w.run(args...), code, parts, args...)
}

func expect(t *testing.T, r pgtest.Result, code int, parts []string, args ...string) pgtest.Result {
	t.Helper()
	said := strings.ToLower(r.Stderr)
	if r.Code != code || !strings.Contains(said, "pgtrove: ") || strings.Contains(said, "goroutine ") {
		t.Errorf("pgtrove %s: exit %d, want %d\n%s%s", strings.Join(args, " "), r.Code, code, r.Stdout, r.Stderr)
	}
	for _, p := range parts {
		if !strings.Contains(said, strings.ToLower(p)) {
			t.Errorf("pgtrove %s: the message lacks %q:\n%s", strings.Join(args, " "), p, r.Stderr)
		}
	}
	return r
}

// verify checks every byte of the repository.
func (w *world) verify() {
	w.t.Helper()
	w.ok("verify", "--read-data")
}

// snapshot is the part of the --json output that tests look at.
type snapshot struct {
	Type          string            `json:"type"`
	ID            string            `json:"id"`
	SystemID      json.Number       `json:"system_id"`
	PGVersion     string            `json:"pg_version"`
	StartLSN      string            `json:"start_lsn"`
	StopLSN       string            `json:"stop_lsn"`
	StopTime      time.Time         `json:"stop_time"`
	Size          int64             `json:"size"`
	Read          int64             `json:"read"`
	Added         int64             `json:"added"`
	ChangedPages  int64             `json:"changed_pages"`
	SkippedFiles  int64             `json:"skipped_files_bytes"`
	SkippedBlocks int64             `json:"skipped_blocks_bytes"`
	Files         int               `json:"files"`
	Tags          map[string]string `json:"tags"`
	WAL           string            `json:"wal"`
}

// backup takes a snapshot, which must be complete.
func (w *world) backup(args ...string) snapshot {
	w.t.Helper()
	s := lastSnapshot(w.t, w.ok(append([]string{"backup", "--json", "--checkpoint", "fast"}, args...)...))
	if s.WAL != "complete" {
		w.t.Errorf("the snapshot's WAL is %q", s.WAL)
	}
	return s
}

// lastSnapshot reads the last line of JSON output.
func lastSnapshot(t *testing.T, out string) snapshot {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(out), "\n")
	var s snapshot
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &s); err != nil || s.Type != "snapshot" || s.ID == "" {
		t.Fatalf("the last line is no snapshot (%v):\n%s", err, out)
	}
	return s
}

func (w *world) snapshots() (out []snapshot) {
	w.t.Helper()
	for line := range strings.Lines(w.ok("snapshots", "--json")) {
		var s snapshot
		if err := json.Unmarshal([]byte(line), &s); err != nil {
			w.t.Fatal(err)
		}
		if s.Type == "snapshot" {
			out = append(out, s)
		}
	}
	return out
}

// restore restores into a new directory and returns it.
func (w *world) restore(args ...string) string {
	w.t.Helper()
	dir := w.newDir()
	w.ok(append([]string{"restore", "--to", dir}, args...)...)
	return dir
}

// newDir is the path of a directory that does not exist yet.
func (w *world) newDir() string {
	return filepath.Join(w.dir, fmt.Sprintf("restored-%d", len(siblings(w.t, w.dir))))
}

func siblings(t *testing.T, dir string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// adopt starts a server on a restored directory and waits until it takes writes.
func (w *world) adopt(dir string) *pgtest.Server {
	w.t.Helper()
	s := pgtest.Adopt(w.t, w.Version, dir)
	// What the original archives to must not be written by its copy.
	s.Args = append(s.Args, "-c", "archive_mode=off")
	s.ExtraEnv = w.env()
	s.Start(w.t)
	s.WaitPromoted(w.t)
	return s
}

// archived makes everything written so far part of the archive.
func (w *world) archived() {
	w.t.Helper()
	w.WaitArchived(w.t, w.SwitchWAL(w.t))
}

// contents describes everything that a dump would hold: schemas and rows. pg_dumpall of 15 reads 13 to 15; for newer
// servers every table is read by queries.
func contents(t *testing.T, s *pgtest.Server) string {
	t.Helper()
	if major, _ := strconv.Atoi(s.Version); major <= 15 {
		var kept []string
		for line := range strings.Lines(pgtest.MustRun(t, s.Command("pg_dumpall"))) {
			if !strings.HasPrefix(line, "\\restrict") && !strings.HasPrefix(line, "\\unrestrict") { // random words of recent minor versions
				kept = append(kept, line)
			}
		}
		return strings.Join(kept, "")
	}
	var b strings.Builder
	b.WriteString(s.Query(t, "SELECT rolname, rolsuper, rolcanlogin FROM pg_roles ORDER BY 1"))
	for _, db := range strings.Fields(s.Query(t, "SELECT datname FROM pg_database WHERE datallowconn ORDER BY 1")) {
		tables := s.QueryIn(t, db, `SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
			WHERE relkind IN ('r', 'm', 'S') AND relpersistence = 'p' AND nspname NOT LIKE 'pg\_%' AND nspname <> 'information_schema' ORDER BY 1`)
		b.WriteString("\n" + db + "\n" + s.QueryIn(t, db, "SELECT relname, relkind, relnatts, relpages >= 0 FROM pg_class ORDER BY oid"))
		for _, table := range strings.Fields(tables) {
			fmt.Fprintf(&b, "\n%s %s", table, s.QueryIn(t, db,
				"SELECT count(*), md5(string_agg(md5(x::text), '' ORDER BY md5(x::text))) FROM "+table+" x"))
		}
	}
	return b.String()
}

// sameContents compares two servers.
func sameContents(t *testing.T, a, b *pgtest.Server) {
	t.Helper()
	if x, y := contents(t, a), contents(t, b); x != y {
		t.Errorf("the restored cluster has other contents:\n%s", firstDifference(x, y))
	}
}

func firstDifference(a, b string) string {
	x, y := strings.Split(a, "\n"), strings.Split(b, "\n")
	for i := range min(len(x), len(y)) {
		if x[i] != y[i] {
			return fmt.Sprintf("line %d: %.200q, want %.200q", i+1, y[i], x[i])
		}
	}
	return fmt.Sprintf("%d lines, want %d", len(y), len(x))
}

// sound runs PostgreSQL's own checks on a server: pg_amcheck while it runs, pg_checksums after it was stopped.
func sound(t *testing.T, s *pgtest.Server) {
	t.Helper()
	if major, _ := strconv.Atoi(s.Version); major >= 14 { // pg_amcheck wants 14
		pgtest.MustRun(t, s.Command("pg_amcheck", "--all", "--install-missing", "--heapallindexed"))
	}
	s.Stop(t, pgtest.Fast)
	if s.Version == "15" { // the packaged servers of the others come without it, and 15's refuses them
		pgtest.MustRun(t, s.Command("pg_checksums", "--check", "-D", s.Dir))
	}
}

// load runs pgbench beside the test; the returned function stops it.
func load(t *testing.T, s *pgtest.Server, clients int) (stop func()) {
	t.Helper()
	cmd := s.Command("pgbench", "-n", "-c", strconv.Itoa(clients), "-T", "120")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			_ = cmd.Process.Signal(os.Interrupt)
			_ = cmd.Wait()
		}
	}
	t.Cleanup(stop)
	return stop
}

// eachVersion runs a test on the versions that this run covers.
func eachVersion(t *testing.T, versions []string, test func(t *testing.T, version string)) {
	t.Helper()
	for _, v := range versions {
		t.Run("PostgreSQL"+v, func(t *testing.T) { test(t, v) })
	}
}

// rest are the versions that get the smoke test only.
func rest(t *testing.T) []string {
	t.Helper()
	return slices.DeleteFunc(pgtest.AllVersions(), func(v string) bool { return slices.Contains(pgtest.Versions(t), v) })
}
