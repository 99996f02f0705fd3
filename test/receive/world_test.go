// Package receive runs `pgtrove wal receive` against real servers: what is in the repository when servers, receivers and storage die. Every test that writes a
// repository ends in a full check of it.
package receive

import (
	"bufio"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/test/pgtest"
)

// patience is for what happens within seconds, on a machine that may be busy.
const patience = 90 * time.Second

// world is a server, and the repository that its WAL is received into. It archives nothing.
type world struct {
	*pgtest.Server
	t         *testing.T
	dir, repo string
	key       string
}

func newWorld(t *testing.T, version string, o pgtest.Options) *world {
	t.Helper()
	w := &world{t: t, dir: pgtest.TempDir(t)}
	w.repo, w.key = filepath.Join(w.dir, "repo"), filepath.Join(w.dir, "identity.txt")
	if o.WALSegMB == 0 {
		o.WALSegMB = 1
	}
	w.Server = pgtest.New(t, version, o)
	w.ExtraEnv = w.env()
	w.ok("init")
	w.Start(t)
	t.Cleanup(func() {
		if !t.Failed() {
			w.ok("verify", "--read-data")
		}
	})
	return w
}

func (w *world) env() []string {
	return []string{"PGTROVE_REPO=" + w.repo, "PGTROVE_KEY_FILE=" + w.key}
}

func (w *world) ok(args ...string) string {
	w.t.Helper()
	r := pgtest.Run(w.t, w.Command("pgtrove", args...))
	if r.Code != 0 {
		w.t.Fatalf("pgtrove %s: exit %d\n%s%s", strings.Join(args, " "), r.Code, r.Stdout, r.Stderr)
	}
	return r.Stdout
}

// backup takes a snapshot whose WAL the receiver brings.
func (w *world) backup() { w.ok("backup", "--wal", "include") }

// receiver is a running wal receive.
type receiver struct {
	t    *testing.T
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	mu   sync.Mutex
	said strings.Builder
	last progress
}

// progress is what wal receive says on its standard output.
type progress struct {
	Type      string `json:"type"`
	Connected bool   `json:"connected"`
	Timeline  uint32 `json:"timeline"`
	Received  pg.LSN `json:"received_lsn"`
	Durable   pg.LSN `json:"durable_lsn"`
	Lag       int64  `json:"lag"`
}

// receive starts wal receive from the server s.
func (w *world) receive(s *pgtest.Server, args ...string) *receiver {
	w.t.Helper()
	return begin(w.t, s.Command("pgtrove", append([]string{"wal", "receive", "--json", "-v", "--report", "1s", "--interval", "200ms"}, args...)...))
}

func begin(t *testing.T, cmd *exec.Cmd) *receiver {
	t.Helper()
	r := &receiver{t: t, cmd: cmd, done: make(chan struct{})}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = r
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(r.done)
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			var p progress
			if json.Unmarshal(lines.Bytes(), &p) == nil && p.Type == "receive" {
				r.mu.Lock()
				r.last = p
				r.mu.Unlock()
			}
		}
		_ = cmd.Wait() // its exit code is asked for
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it has ended, mostly
		<-r.done
		if t.Failed() {
			t.Logf("wal receive said:\n%s", r.text())
		}
	})
	return r
}

// Write takes what the program says.
func (r *receiver) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.said.Write(b)
}

func (r *receiver) text() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.said.String()
}

func (r *receiver) progress() progress {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last
}

// ended returns the exit code, once it has ended.
func (r *receiver) ended() int {
	r.t.Helper()
	select {
	case <-r.done:
	case <-time.After(patience):
		r.t.Fatal("wal receive does not end")
	}
	return pgtest.ExitCode(r.cmd.ProcessState)
}

// stop asks it to end, and returns the exit code.
func (r *receiver) stop() int {
	r.t.Helper()
	if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		r.t.Fatal(err)
	}
	return r.ended()
}

// kill ends it as a crash does.
func (r *receiver) kill() {
	r.t.Helper()
	if err := r.cmd.Process.Kill(); err != nil {
		r.t.Fatal(err)
	}
	<-r.done
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

// says waits until the receiver has said something so many times.
func (r *receiver) says(text string, times int) {
	r.t.Helper()
	wait(r.t, text, func() bool {
		select {
		case <-r.done:
			r.t.Fatalf("it has ended and never said %q", text)
		default:
		}
		return strings.Count(r.text(), text) >= times
	})
}

// reached waits until all WAL that the server has written is durable.
func (w *world) reached(s *pgtest.Server, r *receiver) pg.LSN {
	w.t.Helper()
	at := position(w.t, s)
	wait(w.t, "durable up to "+at.String(), func() bool { return r.progress().Durable >= at })
	return at
}

func position(t *testing.T, s *pgtest.Server) pg.LSN {
	t.Helper()
	at, err := pg.ParseLSN(s.Query(t, "SELECT pg_current_wal_flush_lsn()"))
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// crash kills the server as a failure of its host does.
func (w *world) crash(s *pgtest.Server) {
	w.t.Helper()
	s.Stop(w.t, pgtest.Immediate)
}

// recovered restores to the end of what the repository has, and starts that.
func (w *world) recovered() *pgtest.Server {
	w.t.Helper()
	return w.started(w.restored())
}

func (w *world) restored() (to string) {
	w.t.Helper()
	to, err := os.MkdirTemp(w.dir, "restored")
	if err != nil {
		w.t.Fatal(err)
	}
	pgtest.Own(w.t, to)
	w.ok("restore", "--to", to)
	return to
}

func (w *world) started(to string) *pgtest.Server {
	w.t.Helper()
	s := pgtest.Adopt(w.t, w.Version, to)
	s.ExtraEnv = w.env()
	s.Start(w.t)
	s.WaitPromoted(w.t)
	return s
}

func eachVersion(t *testing.T, test func(t *testing.T, version string)) {
	t.Helper()
	for _, v := range pgtest.Versions(t) {
		t.Run("PostgreSQL"+v, func(t *testing.T) { test(t, v) })
	}
}

// removeStandbySignal makes a primary of a stopped standby, as a person should not.
func removeStandbySignal(t *testing.T, s *pgtest.Server) {
	t.Helper()
	if err := os.Remove(filepath.Join(s.Dir, "standby.signal")); err != nil {
		t.Fatal(err)
	}
}
