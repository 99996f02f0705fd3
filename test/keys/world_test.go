// Package keys holds keys to what their roles promise, on real servers: what a host needs works with the key of a host, and whoever steals it reads no
// backup. Every test ends in a full check of the repository that it wrote, by an owner.
package keys

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/keys"
	"github.com/pgtrove/pgtrove/test/pgtest"
)

// TestMain lets the tests run at once: most of the time they wait for a server or a disk.
func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "3"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	os.Exit(m.Run())
}

// patience is for what happens within seconds, on a machine that may be busy.
const patience = 90 * time.Second

// world is a database host with a server and a writer's key, and, elsewhere, the owner of the repository into which it backs up.
type world struct {
	*pgtest.Server
	t           *testing.T
	dir, repo   string
	owner, host string // identity files: of the owner, whose identity no command on the host has ever seen, and of the host
}

func newWorld(t *testing.T) *world { return newWorldOf(t, "db1") }

// newWorldOf has a host whose key has that name.
func newWorldOf(t *testing.T, name string) *world {
	t.Helper()
	w := &world{t: t, dir: pgtest.TempDir(t)}
	w.repo, w.owner, w.host = filepath.Join(w.dir, "repo"), filepath.Join(w.dir, "owner.txt"), filepath.Join(w.dir, "host.txt")
	text, recipient, err := keys.GenerateIdentity()
	if err != nil {
		t.Fatal(err)
	}
	w.write(w.owner, string(text))
	versions := pgtest.Versions(t)
	w.Server = pgtest.New(t, versions[len(versions)-1], pgtest.Options{WALSegMB: 1, Conf: map[string]string{
		"archive_mode": "on", "archive_command": pgtest.Binary(t) + " wal push %p", "autovacuum": "off", "max_wal_senders": "5",
	}})
	w.ExtraEnv = []string{"PGTROVE_REPO=" + w.repo, "PGTROVE_KEY_FILE=" + w.host}
	w.ok("", "init", "--owner-recipient", fmt.Sprint(recipient), "--name", name)
	w.Start(t)
	t.Cleanup(func() {
		if !t.Failed() {
			w.ok(w.owner, "verify", "--read-data")
		}
	})
	return w
}

func (w *world) write(path, text string) {
	w.t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
	pgtest.Own(w.t, path)
}

// command prepares pgtrove with a key; "" is the host's own. Other keys are used elsewhere: what they leave in a cache the host does not see.
func (w *world) command(key string, args ...string) *exec.Cmd {
	cmd := w.Command("pgtrove", args...)
	if key != "" && key != w.host {
		cmd.Env = append(cmd.Env, "PGTROVE_KEY_FILE="+key, "PGTROVE_CACHE_DIR="+filepath.Join(w.dir, "elsewhere"))
	}
	return cmd
}

func (w *world) ok(key string, args ...string) string {
	w.t.Helper()
	return w.ends(0, key, args...).Stdout
}

// ends runs a command that must end with this exit code.
func (w *world) ends(code int, key string, args ...string) pgtest.Result {
	w.t.Helper()
	r := pgtest.Run(w.t, w.command(key, args...))
	if r.Code != code {
		w.t.Fatalf("pgtrove %s: exit %d, want %d\n%s%s", strings.Join(args, " "), r.Code, code, r.Stdout, r.Stderr)
	}
	return r
}

// add makes a key with that of the owner, and returns its identity file.
func (w *world) add(role, name string, more ...string) string {
	w.t.Helper()
	path := filepath.Join(w.dir, name+".txt")
	w.ok(w.owner, append([]string{"key", "add", "--role", role, "--name", name, "--output", path}, more...)...)
	return path
}

// snapshot is a line of `snapshots --json` or of `backup --json`.
type snapshot struct {
	Type, ID, Cluster, WAL, Error string
	Size, Added                   int64
}

func lines(t *testing.T, text string) (all []snapshot) {
	t.Helper()
	for line := range strings.Lines(text) {
		var s snapshot
		if err := json.Unmarshal([]byte(line), &s); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		all = append(all, s)
	}
	return all
}

// backup takes a snapshot with a key.
func (w *world) backup(key string, more ...string) snapshot {
	w.t.Helper()
	all := lines(w.t, w.ok(key, append([]string{"backup", "--json"}, more...)...))
	return all[len(all)-1]
}

// restored restores with a key to a new directory.
func (w *world) restored(key string, more ...string) (to string) {
	w.t.Helper()
	to, err := os.MkdirTemp(w.dir, "restored")
	if err != nil {
		w.t.Fatal(err)
	}
	pgtest.Own(w.t, to)
	w.ok(key, append([]string{"restore", "--to", to, "--archive-mode", "off"}, more...)...)
	return to
}

// started starts a restored cluster.
func (w *world) started(to string) *pgtest.Server {
	w.t.Helper()
	s := pgtest.Adopt(w.t, w.Version, to)
	s.ExtraEnv = w.ExtraEnv
	s.Start(w.t)
	s.WaitPromoted(w.t)
	return s
}

// wait waits until something is so.
func wait(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// has says whether text has all the parts.
func has(text string, parts ...string) bool {
	for _, p := range parts {
		if !strings.Contains(text, p) {
			return false
		}
	}
	return true
}
