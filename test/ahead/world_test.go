// Package ahead runs wal push and wal fetch as servers run them, with what they do before they are asked: segments that are pushed and fetched before
// their turn, outages, and what is given up. Every test ends in a full check of the repository that it wrote.
package ahead

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/test/pgtest"
	"github.com/pgtrove/pgtrove/test/s3test"
)

// world is a server and the repository that it archives into.
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

// inBucket is a world whose repository is on an S3 server, behind a proxy.
func inBucket(t *testing.T, version string, o pgtest.Options) (*world, *s3test.Server, *s3test.Proxy) {
	t.Helper()
	server := s3test.New(t, s3test.Options{})
	proxy := s3test.NewProxy(t, server.Addr)
	w := &world{t: t, dir: pgtest.TempDir(t), repo: "s3://" + server.Bucket() + "/repo"}
	w.more = append(server.Env(server.Root), "AWS_ENDPOINT_URL_S3=http://"+proxy.Addr, "PGTROVE_RETRY_TIME=1s")
	w.setUp(version, o)
	return w, server, proxy
}

// setUp makes cluster and repository, and starts the cluster.
func (w *world) setUp(version string, o pgtest.Options) {
	t := w.t
	t.Helper()
	w.key = filepath.Join(w.dir, "identity.txt")
	conf := map[string]string{"archive_mode": "on", "archive_command": pgtest.Binary(t) + " wal push %p", "autovacuum": "off"}
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
			w.ok("verify", "--read-data")
		}
	})
}

func (w *world) env() []string {
	return append([]string{"PGTROVE_REPO=" + w.repo, "PGTROVE_KEY_FILE=" + w.key}, w.more...)
}

// ends runs pgtrove, which must end with this exit code.
func (w *world) ends(code int, args ...string) pgtest.Result {
	w.t.Helper()
	r := pgtest.Run(w.t, w.Command("pgtrove", args...))
	if r.Code != code {
		w.t.Fatalf("pgtrove %s: exit %d, want %d\n%s%s", strings.Join(args, " "), r.Code, code, r.Stdout, r.Stderr)
	}
	return r
}

// ok runs pgtrove and returns its standard output; any exit code but 0 fails the test.
func (w *world) ok(args ...string) string {
	w.t.Helper()
	return w.ends(0, args...).Stdout
}

// backup takes a snapshot, which must be complete.
func (w *world) backup() {
	w.t.Helper()
	lines := strings.Split(strings.TrimSpace(w.ok("backup", "--json", "--checkpoint", "fast")), "\n")
	var s struct {
		WAL string `json:"wal"`
	}
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &s); err != nil || s.WAL != "complete" {
		w.t.Errorf("the snapshot's WAL is %q, %v", s.WAL, err)
	}
}

// restore restores into a new directory and returns it.
func (w *world) restore(args ...string) string {
	w.t.Helper()
	there, err := filepath.Glob(filepath.Join(w.dir, "*"))
	if err != nil {
		w.t.Fatal(err)
	}
	dir := filepath.Join(w.dir, fmt.Sprintf("restored-%d", len(there)))
	w.ok(append([]string{"restore", "--to", dir}, args...)...)
	return dir
}

// comesBack restores the newest snapshot with all that follows it, and compares what it holds with the server.
func (w *world) comesBack() {
	w.t.Helper()
	s := pgtest.Adopt(w.t, w.Version, w.restore())
	s.Args = append(s.Args, "-c", "archive_mode=off") // what the original archives to must not be written by its copy
	s.ExtraEnv = w.env()
	s.Start(w.t)
	s.WaitPromoted(w.t)
	tables := w.Query(w.t, "SELECT string_agg(relname, ' ') FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace")
	for _, table := range strings.Fields(tables) {
		rows := "SELECT count(*), md5(string_agg(x::text, '' ORDER BY x::text)) FROM " + table + " x"
		if was, is := w.Query(w.t, rows), s.Query(w.t, rows); was != is {
			w.t.Errorf("%s has %s, and had %s", table, is, was)
		}
	}
	s.Stop(w.t, pgtest.Fast)
}

// archived makes everything written so far part of the archive.
func (w *world) archived() {
	w.t.Helper()
	w.WaitArchived(w.t, w.SwitchWAL(w.t))
}

// segments writes n segments.
func (w *world) segments(n int) (names []string) {
	w.t.Helper()
	w.Exec(w.t, "CREATE TABLE IF NOT EXISTS filler (t text)")
	for range n {
		w.Exec(w.t, "INSERT INTO filler SELECT md5(random()::text) FROM generate_series(1, 2000)")
		names = append(names, w.SwitchWAL(w.t))
	}
	return names
}

// ready counts what waits for the archiver.
func (w *world) ready() int {
	w.t.Helper()
	found, err := filepath.Glob(filepath.Join(w.Dir, "pg_wal", "archive_status", "*.ready"))
	if err != nil {
		w.t.Fatal(err)
	}
	return len(found)
}

// eventually waits for something that takes as long as it takes.
func (w *world) eventually(what string, ok func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("%s: not so after two minutes", what)
		}
	}
}

// failing waits until the server's archiver has failed and said this.
func (w *world) failing(said string) {
	w.t.Helper()
	w.eventually("the archiver fails with "+said, func() bool { return strings.Contains(w.Log(), said) })
}

// stored says whether the archive has a segment.
func (w *world) stored(name string) bool {
	w.t.Helper()
	return strings.Contains(w.ok("inspect", "wal/"), "/"+name+"\n")
}

// load writes beside the test, at a rate that leaves the processors to others; the returned function stops it.
func (w *world) load() (stop func()) {
	w.t.Helper()
	cmd := w.Command("pgbench", "-n", "-c", "2", "-R", "100", "-T", "300")
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			_ = cmd.Process.Signal(os.Interrupt)
			_ = cmd.Wait()
		}
	}
	w.t.Cleanup(stop)
	return stop
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
