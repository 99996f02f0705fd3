package network

import (
	"bytes"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/pgtrove/pgtrove/test/pgtest"
)

// commands are the columns: each does its work on a bad network, and then it is looked at what came of it on a good one. An outage is code 7,
// or what the third column says.
func commands() []struct {
	name string
	code int
	do   func(r *row)
} {
	return []struct {
		name string
		code int
		do   func(r *row)
	}{
		{"backup", 7, (*row).backup},
		{"wal push", 7, (*row).push},
		{"wal fetch", 126, (*row).fetch},
		{"restore", 7, (*row).restore},
		{"verify", 7, (*row).verify},
	}
}

// row is one command on one network.
type row struct {
	*host
	mode
	way
	code int // of an outage
}

func TestEveryCommandOnEveryBadNetwork(t *testing.T) {
	w := newWorld(t)
	t.Run("modes", func(t *testing.T) {
		for _, m := range modes() {
			t.Run(m.name, func(t *testing.T) {
				t.Parallel()
				h, way := w.newHost(t, m.name, m.lock), m.make(t, w)
				for _, c := range commands() {
					c.do(&row{host: h, mode: m, way: way, code: c.code})
				}
				way.begin() // which looks at what came before
				h.ok("verify", "--read-data")
				h.ok("backup", "--checkpoint", "fast")
				h.ok("wal", "push", w.segment)
				h.holds(2)
			})
		}
	})
	t.Run("memory", w.memory)
}

// bad runs pgtrove on the bad network and says whether it has done its work.
func (r *row) bad(args ...string) bool {
	r.t.Helper()
	r.begin()
	got := r.run(r.addr, r.mend, append([]string{"--retry-time", r.retry}, args...)...)
	what := r.mode.name + ": pgtrove " + strings.Join(args, " ")
	if retried := strings.Contains(got.Stderr, "trying again"); retried == r.silent {
		r.t.Errorf("%s: whether it tried something again: %v\n%s", what, retried, got.Stderr)
	}
	if !r.lasting {
		if got.Code != 0 {
			r.t.Errorf("%s: exit %d\n%s", what, got.Code, got.Stderr)
		}
		return true
	}
	said := lastMessage(got.Stderr)
	if got.Code != r.code || !strings.Contains(said, "storage unreachable") || !strings.Contains(said, "tried ") ||
		!regexp.MustCompile(r.cause).MatchString(said) || strings.Contains(got.Stderr, "goroutine ") {
		r.t.Errorf("%s: exit %d, want %d, %q and how often it was tried\n%s", what, got.Code, r.code, r.cause, got.Stderr)
	}
	return false
}

// lastMessage is what pgtrove says at its end.
func lastMessage(stderr string) string {
	at := strings.LastIndex(stderr, "pgtrove: ")
	return stderr[max(at, 0):]
}

// holds makes sure that there are so many snapshots.
func (h *host) holds(n int) {
	h.t.Helper()
	if got := strings.Count(h.ok("snapshots", "--json"), `"type":"snapshot"`); got != n {
		h.t.Errorf("%s: %d snapshots, want %d", h.name, got, n)
	}
}

// backup ends with one snapshot in the repository, taken on the bad network if that can be. Where it cannot, it is a pack that does not arrive.
func (r *row) backup() {
	wal := map[bool]string{true: "none", false: "include"}[r.lasting]
	if !r.bad("backup", "--checkpoint", "fast", "--wal", wal) {
		r.holds(0)
		r.ok("backup", "--checkpoint", "fast", "--wal", "include")
	}
	r.holds(1)
}

// push ends with the WAL file in the repository.
func (r *row) push() {
	if r.bad("wal", "push", r.segment) {
		r.fetched()
		return
	}
	// It is there, the answer being lost, or it is not. There is nothing in between.
	got := pgtest.Run(r.t, r.command(r.storage.Addr, "wal", "fetch", filepath.Base(r.segment), filepath.Join(r.dir, "pushed")))
	if want := map[bool]int{true: 0, false: 4}[r.mode.name == "lost-lasting"]; got.Code != want {
		r.t.Errorf("%s: wal fetch after a push that failed: exit %d, want %d\n%s", r.mode.name, got.Code, want, got.Stderr)
	}
	r.ok("wal", "push", r.segment)
	r.fetched()
}

// fetched makes sure that the repository gives the WAL file back.
func (r *row) fetched() {
	r.t.Helper()
	to := filepath.Join(r.dir, "fetched")
	r.ok("wal", "fetch", filepath.Base(r.segment), to)
	r.isSegment(to)
}

func (r *row) isSegment(path string) {
	r.t.Helper()
	got, err := os.ReadFile(path)
	want, wrong := os.ReadFile(r.segment)
	if err != nil || wrong != nil || !bytes.Equal(got, want) {
		r.t.Errorf("%s: %s is not the WAL file that was pushed: %v %v", r.mode.name, path, err, wrong)
	}
}

func (r *row) fetch() {
	to := filepath.Join(r.dir, "from-afar")
	if r.bad("wal", "fetch", filepath.Base(r.segment), to) {
		r.isSegment(to)
	} else if _, err := os.Lstat(to); err == nil {
		r.t.Errorf("%s: a fetch that failed left something", r.mode.name)
	}
}

func (r *row) restore() {
	to := filepath.Join(r.dir, "restored")
	if !r.bad("restore", "--no-recovery", "--to", to) {
		if _, err := os.Lstat(filepath.Join(to, "global", "pg_control")); err == nil {
			r.t.Errorf("%s: a restore that failed can be started", r.mode.name)
		}
		to = filepath.Join(r.dir, "restored-then")
		r.ok("restore", "--no-recovery", "--to", to)
	}
	if got := relations(r.t, to); !maps.Equal(got, r.files) {
		r.t.Errorf("%s: %d files were restored, other than the %d that there are", r.mode.name, len(got), len(r.files))
	}
	if err := os.RemoveAll(to); err != nil {
		r.t.Error(err)
	}
}

func (r *row) verify() { r.bad("verify", "--read-data") }
