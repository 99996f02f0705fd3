// Package crash ends every operation that writes at every call to the storage, and makes sure that nothing is lost by it: what was
// committed restores bit by bit, and the prunes that follow leave what they would have left anyway.
package crash

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/restore"
	"github.com/pgtrove/pgtrove/storage"
	"github.com/pgtrove/pgtrove/storage/fault"
	"github.com/pgtrove/pgtrove/walarchive"
)

// Views of a repository are what restores go by when prunes move packs.
var _ restore.Renewable = (*repo.View)(nil)

// ending is how call n of an operation goes wrong.
type ending struct {
	name string
	at   func(op fault.Op, n int) fault.Action
}

func endings() []ending {
	down := fmt.Errorf("%w: injected", storage.ErrUnreachable)
	return []ending{
		{"the process dies before it", func(op fault.Op, n int) fault.Action {
			if op.N >= n {
				return fault.Action{Before: down}
			}
			return fault.Action{}
		}},
		{"the process dies after it, the answer unheard", func(op fault.Op, n int) fault.Action {
			switch {
			case op.N == n:
				return fault.Action{After: down}
			case op.N > n:
				return fault.Action{Before: down}
			}
			return fault.Action{}
		}},
		{"it fails", func(op fault.Op, n int) fault.Action {
			if op.N == n {
				return fault.Action{Before: down}
			}
			return fault.Action{}
		}},
		{"its answer is lost", func(op fault.Op, n int) fault.Action {
			if op.N == n {
				return fault.Action{After: down, Cut: 1} // a listing ends after its first object
			}
			return fault.Action{}
		}},
	}
}

// operation is something that writes.
type operation struct {
	name string
	do   func(ctx context.Context, w *world, r *repo.Repo) error
	// told checks what an operation promises that returned err.
	told func(t *testing.T, w *world, what string, err error)
	// done says whether it need not be done again.
	done func(t *testing.T, w *world) bool
}

func TestACrashAnywhereLosesNothing(t *testing.T) {
	onTmpfs(t)
	base, forgotten, kept := history(t)
	for _, op := range []operation{backing(base), pushing(), forgetting(kept), narrowing(forgotten), pinning(forgotten), pruning(), rebuilding()} {
		t.Run(op.name, func(t *testing.T) {
			want := base.clone(t)
			n := want.count(t, op)
			reference := want.settle(t, op, "undisturbed")
			for _, e := range endings() {
				for at := 1; at <= n; at++ {
					w := base.clone(t)
					what := fmt.Sprintf("call %d of %d, %s", at, n, e.name)
					err := w.disturbed(t, op, func(o fault.Op) fault.Action { return e.at(o, at) })
					w.sound(t, what, kept)
					op.told(t, w, what, err)
					if got := w.settle(t, op, what); !maps.EqualFunc(got, reference, slices.Equal[[]string]) {
						t.Errorf("%s: in the end there is\n%s\nand not\n%s", what, show(got), show(reference))
					}
					if t.Failed() {
						return
					}
				}
			}
			t.Logf("%d calls, each gone wrong in %d ways", n, len(endings()))
		})
	}
}

// onTmpfs makes restores, which sync every file, cheap.
func onTmpfs(t *testing.T) {
	t.Helper()
	if os.Getenv("TMPDIR") != "" {
		return
	}
	if _, err := os.Stat("/dev/shm"); err == nil {
		t.Setenv("TMPDIR", "/dev/shm")
	}
}

// history is a repository in which a prune has everything to do that a prune does: condemned packs to sweep, snapshots expired and forgotten,
// backups that were killed, packs that are mostly dead, a request to narrow, WAL of several snapshots and of two timelines. kept is the newest snapshot, and the one before it is forgotten.
func history(t *testing.T) (w *world, forgotten, kept string) {
	t.Helper()
	control, err := os.ReadFile("../../internal/pg/testdata/control-15.bin")
	must(t, err)
	w = newWorld(t)
	w.archives(t, 1, 1, 2)
	w.forks(t, 2, 2)
	f := files{"data/global/pg_control": control, "data/PG_VERSION": []byte("15\n")}
	f = f.with(dataFile, 1, run(0, 24)...).with("data/base/5/16385", 2, run(0, 12)...)
	first := w.take(t, f.with(small(0), 1, 0))
	f = f.with(dataFile, 3, run(4, 20)...)
	for n := range 8 {
		f = f.with(small(n), 2, 0)
	}
	second := w.take(t, f)
	w.kill(t, f.with(dataFile, 4, run(0, 10)...))
	must(t, w.open(t, w.store).Forget(t.Context(), first))
	w.now.advance(25 * time.Hour)
	w.prune(t)
	f = f.with(dataFile, 5, run(6, 19)...).with("data/base/5/16385", 6, 3)
	for n := range 6 {
		f = f.with(small(n), 3, 0)
	}
	kept = w.take(t, f)
	w.kill(t, f.with(dataFile, 7, run(0, 12)...))
	must(t, w.open(t, w.store).Forget(t.Context(), second))
	w.narrow[kept] = true
	must(t, w.open(t, w.store).Narrow(t.Context(), kept))
	w.now.advance(25 * time.Hour)
	if r := w.clone(t).prune(t); len(r.Fenced)*len(r.Expired)*r.Swept.Packs*r.Condemned.Packs*r.Repacked.Packs*r.Valid*len(r.WALSwept)*len(r.WALCondemned) == 0 {
		t.Fatalf("a prune does not have everything to do: %d sessions fenced, %d snapshots expired, %d stay; swept %v, condemned %v, repacked %v; of WAL swept %v, condemned %v",
			len(r.Fenced), len(r.Expired), r.Valid, r.Swept, r.Condemned, r.Repacked, r.WALSwept, r.WALCondemned)
	}
	return w, second, kept
}

// small is a relation of one page: several stand in one pack.
func small(n int) string { return fmt.Sprintf("data/base/5/%d", 20000+n) }

// kill begins a backup and ends it when it has stored some packs.
func (w *world) kill(t *testing.T, f files) {
	t.Helper()
	puts := 0
	down := fmt.Errorf("%w: injected", storage.ErrUnreachable)
	s := fault.New(w.store, func(op fault.Op) fault.Action {
		if op.Verb == fault.Put && strings.HasPrefix(op.Key, "packs/") {
			puts++
		}
		if puts > 1 {
			return fault.Action{Before: down}
		}
		return fault.Action{}
	})
	if _, err := w.backup(t.Context(), w.open(t, s), f); !errors.Is(err, storage.ErrUnreachable) {
		t.Fatalf("a backup that was killed: %v", err)
	}
}

// disturbed does the operation on a storage that goes wrong, counting calls from the operation's first.
func (w *world) disturbed(t *testing.T, op operation, decide func(fault.Op) fault.Action) error {
	t.Helper()
	opened := 0
	s := fault.New(w.store, func(o fault.Op) fault.Action {
		if opened == 0 {
			return fault.Action{}
		}
		o.N -= opened
		return decide(o)
	})
	r := w.open(t, s)
	opened = s.Calls()
	return op.do(t.Context(), w, r)
}

// count does the operation undisturbed and returns how many calls that takes.
func (w *world) count(t *testing.T, op operation) (calls int) {
	t.Helper()
	must(t, w.disturbed(t, op, func(o fault.Op) fault.Action {
		calls = o.N
		return fault.Action{}
	}))
	return calls
}

// settle does the operation again unless that is needless, and prunes until nothing is left to do. It returns what there is then.
func (w *world) settle(t *testing.T, op operation, what string) map[string][]string {
	t.Helper()
	if !op.done(t, w) {
		if err := op.do(t.Context(), w, w.open(t, w.store)); err != nil {
			t.Fatalf("%s: done again: %v", what, err)
		}
	}
	for n := 0; ; n++ {
		w.now.advance(25 * time.Hour) // whoever was killed is silent for long
		report := w.prune(t)
		wal := len(report.WALSwept) + len(report.WALCondemned)
		if n >= 2 && report.Swept.Packs+report.Condemned.Packs+len(report.Expired)+wal == 0 {
			break
		}
		if n == 8 {
			t.Fatalf("%s: prunes find no end: %+v", what, report)
		}
	}
	w.sound(t, what+", then prunes")
	return w.contents(t)
}

// contents is what a repository holds, without the names that differ each time: of most objects how many there are of each kind, of packs
// the chunks.
func (w *world) contents(t *testing.T) map[string][]string {
	t.Helper()
	r := w.open(t, w.store)
	out := map[string][]string{}
	seen := map[chunk.ID]string{}
	must(t, w.store.List(t.Context(), "", func(i storage.Info) error {
		kind, rest, _ := strings.Cut(i.Key, "/")
		if kind != "packs" {
			if kind != "wal" {
				rest = ""
			}
			out[kind] = append(out[kind], rest)
			return nil
		}
		dir, err := r.PackDirectory(t.Context(), i.Key)
		if err != nil {
			return err
		}
		for _, e := range dir.Entries {
			if other := seen[e.ID]; other != "" {
				t.Errorf("chunk %s stands in %s and in %s", e.ID.Short(), other, i.Key)
			}
			seen[e.ID] = i.Key
			out["chunks"] = append(out["chunks"], e.ID.String())
		}
		return nil
	}))
	slices.Sort(out["chunks"])
	return out
}

func show(contents map[string][]string) string {
	var b strings.Builder
	for _, kind := range slices.Sorted(maps.Keys(contents)) {
		fmt.Fprintf(&b, "%d %s ", len(contents[kind]), kind)
	}
	return b.String()
}

// backing takes a snapshot upon the newest.
func backing(base *world) operation {
	var f files
	for _, newest := range slices.Sorted(maps.Keys(base.taken)) {
		f = base.taken[newest]
	}
	f = f.with(dataFile, 8, run(2, 9)...).with("data/base/5/16387", 9, run(0, 5)...)
	taken := func(t *testing.T, w *world) bool {
		return w.any(t, func(c repo.Commit) bool { return base.taken[c.ID] == nil })
	}
	return operation{
		name: "backup",
		do: func(ctx context.Context, w *world, r *repo.Repo) error {
			sid, err := w.backup(ctx, r, f)
			w.taken[sid] = f // it may have committed, whatever it was told
			return err
		},
		told: func(t *testing.T, w *world, what string, err error) {
			if err == nil && !taken(t, w) {
				t.Errorf("%s: success was told, and there is no snapshot", what)
			}
		},
		done: taken,
	}
}

// pushing archives a WAL segment.
func pushing() operation {
	stored := func(t *testing.T, w *world) bool {
		_, got, err := walarchive.Archive{Objects: archive{w.open(t, w.store)}, Cluster: cluster, System: 1}.Fetch(t.Context(), walFile)
		if err != nil && !errors.Is(err, storage.ErrNotExist) {
			t.Error(err)
		}
		return err == nil && slices.Equal(got, walContent())
	}
	return operation{
		name: "wal push",
		do:   func(ctx context.Context, _ *world, r *repo.Repo) error { return push(ctx, r) },
		told: func(t *testing.T, w *world, what string, err error) {
			if err == nil && !stored(t, w) {
				t.Errorf("%s: success was told, and the archive has no such segment", what)
			}
		},
		done: stored,
	}
}

func forgetting(sid string) operation {
	hidden := func(t *testing.T, w *world) bool {
		return !w.any(t, func(c repo.Commit) bool { return c.ID == sid && !c.Forgotten })
	}
	return operation{
		name: "forget",
		do:   func(ctx context.Context, _ *world, r *repo.Repo) error { return r.Forget(ctx, sid) },
		told: func(t *testing.T, w *world, what string, err error) {
			if err == nil && !hidden(t, w) {
				t.Errorf("%s: success was told, and the snapshot is not hidden", what)
			}
		},
		done: hidden,
	}
}

// pinning brings a forgotten snapshot back.
func pinning(sid string) operation {
	pinned := func(t *testing.T, w *world) bool {
		return w.any(t, func(c repo.Commit) bool { return c.ID == sid && c.Pinned })
	}
	return operation{
		name: "pin",
		do:   func(ctx context.Context, _ *world, r *repo.Repo) error { return r.Pin(ctx, sid) },
		told: func(t *testing.T, w *world, what string, err error) {
			if err == nil && !pinned(t, w) {
				t.Errorf("%s: success was told, and the snapshot is not pinned", what)
			}
		},
		done: pinned,
	}
}

func pruning() operation {
	return operation{
		name: "prune",
		do: func(ctx context.Context, w *world, r *repo.Repo) error {
			_, err := r.Prune(ctx, w.pruning(r))
			return err
		},
		told: func(t *testing.T, w *world, what string, err error) {},
		done: func(*testing.T, *world) bool { return false },
	}
}
