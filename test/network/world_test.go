// Package network runs the built binary on bad networks: between a real PostgreSQL server and a real S3 server, everything is slow, cut, lost or refused.
// Each command ends well, or loudly with the code of an outage, and nothing is lost.
package network

import (
	"bytes"
	"crypto/sha256"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/pgtrove/pgtrove/test/pgtest"
	"github.com/pgtrove/pgtrove/test/s3test"
)

// TestMain lets all rows of the table run at once: most of their time they wait.
func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "20"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	os.Exit(m.Run())
}

// world is a small cluster that rests, a WAL file of it, and the S3 server that everybody backs it up to.
type world struct {
	*pgtest.Server
	dir     string // scratch
	storage *s3test.Server
	network *s3test.Network
	bucket  string
	segment string // path of a WAL file that is full
	files   map[string]string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{dir: pgtest.TempDir(t), storage: s3test.New(t, s3test.Options{}), network: s3test.NewNetwork(t)}
	w.bucket = w.storage.Bucket()
	w.Server = pgtest.New(t, "15", pgtest.Options{WALSegMB: 4, Conf: map[string]string{"autovacuum": "off", "wal_keep_size": "64MB"}})
	w.Start(t)
	w.Exec(t, "CREATE EXTENSION pgcrypto")
	w.Exec(t, "CREATE TABLE noise AS SELECT n, gen_random_bytes(1000) FROM generate_series(1, 8000) n")
	full := w.Query(t, "SELECT pg_walfile_name(pg_current_wal_lsn() - 4 * 1024 * 1024)")
	w.SwitchWAL(t)
	w.Exec(t, "CHECKPOINT")
	content, err := os.ReadFile(filepath.Join(w.Dir, "pg_wal", full))
	if err != nil {
		t.Fatal(err)
	}
	w.segment = filepath.Join(w.dir, full)
	if err := os.WriteFile(w.segment, content, 0o600); err != nil {
		t.Fatal(err)
	}
	pgtest.Own(t, w.segment)
	w.files = relations(t, w.Dir)
	return w
}

// relations are the hashes of all files that a backup takes as they are and that do not change in a cluster that rests, by path.
func relations(t *testing.T, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	for _, top := range []string{"base", "global"} {
		if err := filepath.WalkDir(filepath.Join(dir, top), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || d.Name() == "pg_control" || d.Name() == "pg_internal.init" {
				return err
			}
			b, err := os.ReadFile(path)
			found[strings.TrimPrefix(path, dir)] = fmt.Sprintf("%d bytes %x", len(b), sha256.Sum256(b))
			return err
		}); err != nil {
			t.Error(err)
		}
	}
	return found
}

// host is a repository of its own in the bucket, and one way to it.
type host struct {
	*world
	t    *testing.T
	dir  string // scratch
	name string
	args []string
}

// newHost makes the repository. lock is for one whose objects nobody may delete or replace, in a bucket of its own, without versions.
func (w *world) newHost(t *testing.T, name string, lock bool) *host {
	t.Helper()
	h := &host{world: w, t: t, dir: pgtest.TempDir(t), name: name}
	bucket, init := w.bucket, []string{"init"}
	if lock {
		bucket, init = w.storage.Locked(), append(init, "--object-lock", "14d")
	}
	h.args = []string{"--repo", "s3://" + bucket + "/" + name, "--key-file", filepath.Join(h.dir, "key"), "--pgdata", w.Dir,
		"--cache-dir", filepath.Join(h.dir, "cache"), "-v"}
	h.ok(init...)
	return h
}

// command prepares pgtrove for the storage at addr.
func (h *host) command(addr string, args ...string) *exec.Cmd {
	h.t.Helper()
	cmd := pgtest.Command(h.t, h.dir, "pgtrove", append(append([]string{}, h.args...), args...)...)
	cmd.Env = append(append(cmd.Env, h.Env()...), h.storage.Env(h.storage.Root)...)
	cmd.Env = append(cmd.Env, "AWS_ENDPOINT_URL_S3=http://"+addr)
	cmd.Dir = h.dir
	return cmd
}

// ok runs pgtrove on a good network and returns its standard output.
func (h *host) ok(args ...string) string {
	h.t.Helper()
	r := pgtest.Run(h.t, h.command(h.storage.Addr, args...))
	if r.Code != 0 {
		h.t.Errorf("%s: pgtrove %s, on a good network: exit %d\n%s%s", h.name, strings.Join(args, " "), r.Code, r.Stdout, r.Stderr)
	}
	return r.Stdout
}

// run runs pgtrove on a way to the storage. retrying is called when it says for the first time that it tries something again.
func (h *host) run(addr string, retrying func(), args ...string) pgtest.Result {
	h.t.Helper()
	cmd := h.command(addr, args...)
	var stdout bytes.Buffer
	said := &watched{word: "trying again", then: retrying}
	cmd.Stdout, cmd.Stderr = &stdout, said
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	watchdog := hang(cmd.Process)
	_ = cmd.Wait() // the exit code says it
	if !watchdog.Stop() {
		h.t.Errorf("%s: pgtrove %s hangs\n%s", h.name, strings.Join(args, " "), said.text())
	}
	return pgtest.Result{Stdout: stdout.String(), Stderr: said.text(), Code: pgtest.ExitCode(cmd.ProcessState)}
}

// watched collects what is written, and acts when a word comes for the first time.
type watched struct {
	mu   sync.Mutex
	buf  bytes.Buffer
	word string
	then func()
}

// Write implements io.Writer.
func (w *watched) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n, err := w.buf.Write(p)
	if w.then != nil && bytes.Contains(w.buf.Bytes(), []byte(w.word)) {
		w.then()
		w.then = nil
	}
	return n, err
}

func (w *watched) text() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.String()
}
