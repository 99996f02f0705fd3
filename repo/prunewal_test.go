package repo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/storage"
	"github.com/pgtrove/pgtrove/storage/fault"
)

// walDir is where the tests' WAL stands: files are called by three digits, and their number is what the judge goes by.
const walDir = "wal/main/7/00000001/"

func walFile(n int) string { return fmt.Sprintf("%s%03d", walDir, n) }

func putWAL(t *testing.T, s storage.Store, numbers ...int) {
	t.Helper()
	for _, n := range numbers {
		must(t, s.Put(t.Context(), walFile(n), []byte("0123456789")))
	}
}

func upTo(last int) (all []int) {
	for n := 1; n <= last; n++ {
		all = append(all, n)
	}
	return all
}

// walLeft are the numbers of the files that are there.
func walLeft(t *testing.T, s storage.Store) (all []int) {
	t.Helper()
	for _, key := range list(t, s, walDir) {
		n, err := strconv.Atoi(strings.TrimPrefix(key, walDir))
		must(t, err)
		all = append(all, n)
	}
	return all
}

// walWorld is a repository with WAL in it. Each of its snapshots needs the WAL from a number on; a narrow one needs two files.
type walWorld struct {
	fixture
	r    *Repo
	from map[string]int
}

func newWALWorld(t *testing.T) *walWorld {
	f := newFixture(t)
	return &walWorld{f, f.open(t, f.store), map[string]int{}}
}

func (w *walWorld) backup(t *testing.T, from int) string {
	t.Helper()
	sid, _ := backup(t, w.r, pieces(byte(from), 3))
	w.from[sid] = from
	return sid
}

func (w *walWorld) pruning() PruneOptions {
	o := pruning()
	o.WAL = w.need
	return o
}

// need is a WALNeed.
func (w *walWorld) need(_ context.Context, staying, leaving []Commit) (WALJudge, error) {
	wants := func(all []Commit, n int) bool {
		return slices.ContainsFunc(all, func(c Commit) bool {
			from := w.from[c.ID]
			return n >= from && (!c.Narrowed || n < from+2)
		})
	}
	before := 0
	return func(_ context.Context, key string) (WALUse, bool, error) {
		rest, ok := strings.CutPrefix(key, walDir)
		n, err := strconv.Atoi(rest)
		follows := n <= before+1
		before = n
		switch {
		case !ok || err != nil || wants(staying, n):
			return WALNeeded, follows, nil
		case len(staying)+len(leaving) == 0:
			return WALUnclaimed, true, nil
		case wants(leaving, n):
			return WALParting, follows, nil
		}
		return WALUnneeded, follows, nil
	}, nil
}

func (w *walWorld) prune(t *testing.T) *PruneReport {
	t.Helper()
	report := prune(t, w.r, w.pruning())
	if len(report.Damage) > 0 {
		t.Fatal(report.Damage)
	}
	return report
}

// pinnedTooLate is a run that ends a snapshot which is pinned before it says so.
func (w *walWorld) pinnedTooLate(t *testing.T, sid string) {
	t.Helper()
	s := fault.New(w.store, func(op fault.Op) fault.Action {
		if op.Verb == fault.Put && strings.HasPrefix(op.Key, gcPrefix) {
			must(t, w.r.Pin(t.Context(), sid))
		}
		return fault.Action{}
	})
	if report := prune(t, w.open(t, s), w.pruning()); len(report.Expired) != 1 {
		t.Fatalf("%+v", report)
	}
}

func (w *walWorld) leaves(t *testing.T, what string, want ...int) {
	t.Helper()
	if got := walLeft(t, w.store); !slices.Equal(got, want) {
		t.Errorf("%s there are %v, want %v", what, got, want)
	}
}

func TestWALThatNoSnapshotNeedsGoesInTwoRuns(t *testing.T) {
	w := newWALWorld(t)
	putWAL(t, w.store, upTo(9)...)
	must(t, w.store.Put(t.Context(), "wal/main/7/00000002.history", []byte("x")))
	first, second := w.backup(t, 3), w.backup(t, 6)
	w.prune(t)
	w.leaves(t, "after a run", upTo(9)...)
	report := w.prune(t)
	w.leaves(t, "before the first snapshot", 3, 4, 5, 6, 7, 8, 9)
	if report.WALStored != (Amount{10, 91}) || WALAmount(report.WALSwept) != (Amount{2, 20}) || len(report.WALCondemned) != 0 {
		t.Errorf("%+v", report)
	}
	must(t, w.r.ForgetLast(t.Context(), first))
	report = w.prune(t)
	if got := report.WALCondemned; len(got) != 1 || got[0].KeyRange != (KeyRange{walFile(3), walFile(5)}) || got[0].Amount != (Amount{3, 30}) {
		t.Errorf("%+v", got)
	}
	w.leaves(t, "condemned", 3, 4, 5, 6, 7, 8, 9)
	w.prune(t)
	w.leaves(t, "before the second", 6, 7, 8, 9)
	must(t, w.r.ForgetLast(t.Context(), second))
	w.prune(t)
	putWAL(t, w.store, 10) // archived when no snapshot was left
	w.prune(t)
	w.leaves(t, "after the last", 10)
	w.prune(t)
	w.prune(t)
	w.leaves(t, "as before the first", 10)
	if got := list(t, w.store, "wal/main/7/00000002.history"); len(got) != 1 {
		t.Error("the history is gone")
	}
}

func TestWALBeforeTheFirstBackupStays(t *testing.T) {
	w := newWALWorld(t)
	putWAL(t, w.store, 1, 2)
	for range 3 {
		w.prune(t)
	}
	w.leaves(t, "without snapshots", 1, 2)
}

func TestAPinBringsBackASnapshotWithItsWAL(t *testing.T) {
	w := newWALWorld(t)
	putWAL(t, w.store, upTo(9)...)
	first := w.backup(t, 3)
	w.backup(t, 6)
	must(t, w.r.ForgetLast(t.Context(), first))
	w.pinnedTooLate(t, first)
	for range 3 {
		w.prune(t)
	}
	w.leaves(t, "pinned after it expired", 3, 4, 5, 6, 7, 8, 9)
}

// TestWALOfWhatLeavesStaysOneRunLonger: a backup may commit, and be forgotten, that found WAL before it was condemned.
func TestWALOfWhatLeavesStaysOneRunLonger(t *testing.T) {
	w := newWALWorld(t)
	putWAL(t, w.store, upTo(9)...)
	w.backup(t, 6)
	var late string
	must(t, w.r.Write(t.Context(), options(), func(ctx context.Context, s *Session) error {
		late = s.ID()
		w.from[late] = 4
		w.prune(t)
		return commitIDs(ctx, s, putAll(ctx, t, s, pieces(4, 3)))
	}))
	must(t, w.r.ForgetLast(t.Context(), late))
	w.pinnedTooLate(t, late)
	w.leaves(t, "when it has left", 4, 5, 6, 7, 8, 9)
	w.prune(t)
	w.prune(t)
	w.leaves(t, "when it is back", 4, 5, 6, 7, 8, 9)
}

func TestTheNextRunGoesOnWhereASweepOfWALDied(t *testing.T) {
	w := newWALWorld(t)
	putWAL(t, w.store, upTo(9)...)
	w.backup(t, 6)
	w.prune(t)
	s := fault.New(w.store, func(op fault.Op) fault.Action {
		if op.Verb == fault.Delete && op.Key == walFile(3) {
			return fault.Action{Before: storage.ErrUnreachable}
		}
		return fault.Action{}
	})
	if _, err := w.open(t, s).Prune(t.Context(), w.pruning()); !errors.Is(err, storage.ErrUnreachable) {
		t.Fatal(err)
	}
	if report := w.prune(t); len(report.WALSwept) == 0 {
		t.Errorf("%+v", report)
	}
	w.leaves(t, "after the next", 6, 7, 8, 9)
}

func TestARowOfWALEndsWhereASegmentIsNotArchivedYet(t *testing.T) {
	w := newWALWorld(t)
	putWAL(t, w.store, 1, 2, 4, 5, 9)
	narrow := w.backup(t, 3) // needs 3 and 4
	must(t, w.r.Narrow(t.Context(), narrow))
	w.backup(t, 9)
	report := w.prune(t)
	if got := report.WALCondemned; len(got) != 2 || got[0].Last != walFile(2) || got[1].KeyRange != (KeyRange{walFile(5), walFile(5)}) {
		t.Errorf("%+v", got)
	}
	// It comes when the run has decided, and before it deletes.
	putWAL(t, w.store, 6, 8)
	w.prune(t)
	s := fault.New(w.store, func(op fault.Op) fault.Action {
		if op.Verb == fault.Put && strings.HasPrefix(op.Key, gcPrefix) {
			putWAL(t, w.store, 3, 7)
		}
		return fault.Action{}
	})
	prune(t, w.open(t, s), w.pruning())
	w.leaves(t, "in the end", 3, 4, 7, 9)
}

func TestNarrowingIsForGoodAndItsRequestIsSpent(t *testing.T) {
	w := newWALWorld(t)
	putWAL(t, w.store, upTo(9)...)
	first := w.backup(t, 1)
	w.backup(t, 6)
	narrowed := func() (yes bool) {
		must(t, w.r.AllCommits(t.Context(), "", func(c Commit) error { yes = yes || c.ID == first && c.Narrowed; return nil }))
		return yes
	}
	if narrowed() {
		t.Error("nobody asked for it")
	}
	must(t, w.r.Narrow(t.Context(), first))
	must(t, w.r.Narrow(t.Context(), "19990101T000000Z-0000000000000000")) // gone long since
	if !narrowed() {
		t.Error("a request does not count")
	}
	w.prune(t)
	if left := list(t, w.store, forgetPrefix); len(left) > 0 || !narrowed() {
		t.Errorf("requests %v are left; narrow: %v", left, narrowed())
	}
	w.leaves(t, "condemned", upTo(9)...)
	w.prune(t)
	w.leaves(t, "narrowed", 1, 2, 6, 7, 8, 9)
	must(t, w.r.ForgetLast(t.Context(), first))
	w.pinnedTooLate(t, first) // it comes back as it was
	report := w.prune(t)
	if len(report.Returned) != 1 || !narrowed() {
		t.Errorf("returned: %v; narrow: %v", report.Returned, narrowed())
	}
	w.leaves(t, "pinned", 1, 2, 6, 7, 8, 9)
}

func TestDamageKeepsWALAndWhatIsKnownOfIt(t *testing.T) {
	w := newWALWorld(t)
	putWAL(t, w.store, upTo(9)...)
	last := w.backup(t, 3)
	w.prune(t)
	must(t, w.r.ForgetLast(t.Context(), last))
	w.prune(t) // sweeps 1 and 2, condemns the rest
	w.leaves(t, "before", 3, 4, 5, 6, 7, 8, 9)
	damaged := "20260101T000000Z-00000000000000dd"
	must(t, w.store.Put(t.Context(), sessionsPrefix+damaged, []byte("no announcement")))
	putWAL(t, w.store, 1)
	for range 2 {
		report := prune(t, w.r, w.pruning())
		if len(report.Damage) != 1 || len(report.WALSwept) > 0 {
			t.Fatalf("%+v", report)
		}
		w.leaves(t, "damaged", 1, 3, 4, 5, 6, 7, 8, 9)
	}
	must(t, w.store.Delete(t.Context(), sessionsPrefix+damaged))
	w.prune(t)
	w.leaves(t, "repaired", []int(nil)...)
}

func TestABackupDoesNotCountOnWALThatIsAboutToGo(t *testing.T) {
	w := newWALWorld(t)
	putWAL(t, w.store, upTo(9)...)
	w.backup(t, 6)
	w.prune(t)
	ask := func() (lost []int) {
		must(t, w.r.Write(t.Context(), options(), func(_ context.Context, s *Session) error {
			for n := range 10 {
				if s.LosesWAL(walFile(n)) {
					lost = append(lost, n)
				}
			}
			return nil
		}))
		return lost
	}
	if got := ask(); !slices.Equal(got, upTo(5)) {
		t.Errorf("condemned: %v", got)
	}
	// A run that dies before it has deleted anything may go on as long as it likes.
	s := fault.New(w.store, func(op fault.Op) fault.Action {
		if op.Verb == fault.Delete {
			return fault.Action{Before: storage.ErrUnreachable}
		}
		return fault.Action{}
	})
	o := w.pruning()
	o.Now = func() time.Time { return time.Now().Add(48 * time.Hour) } // the session above is over
	if _, err := w.open(t, s).Prune(t.Context(), o); !errors.Is(err, storage.ErrUnreachable) {
		t.Fatal(err)
	}
	if got := ask(); !slices.Equal(got, upTo(5)) {
		t.Errorf("swept: %v", got)
	}
	// Even if somebody needs it now.
	w.backup(t, 4)
	prune(t, w.r, o)
	if got := ask(); !slices.Equal(got, upTo(5)) {
		t.Errorf("swept before, and needed now: %v", got)
	}
	w.leaves(t, "in the end", 4, 5, 6, 7, 8, 9)
	for range 3 { // for that run may still go on
		if report := prune(t, w.r, o); len(report.WALCondemned) > 0 {
			t.Errorf("the next run deletes %v", report.WALCondemned)
		}
		if got := ask(); !slices.Equal(got, []int{4, 5}) {
			t.Errorf("some runs later: %v", got)
		}
	}
	must(t, w.store.Delete(t.Context(), walFile(4)))
	prune(t, w.r, o)
	if got := ask(); !slices.Equal(got, []int{5}) {
		t.Errorf("when one is gone: %v", got)
	}
}

// TestWALThatARunBeganToDeleteCountsForNoWriterAgain: the run is held up, and its WAL is needed again before it goes on. That may be so of a branch that was taken over,
// when the snapshot leaves that took it over.
func TestWALThatARunBeganToDeleteCountsForNoWriterAgain(t *testing.T) {
	w := newWALWorld(t)
	putWAL(t, w.store, upTo(9)...)
	w.backup(t, 6)
	w.prune(t) // condemns 1 to 5
	again := w.pruning()
	again.WAL = func(context.Context, []Commit, []Commit) (WALJudge, error) {
		return func(context.Context, string) (WALUse, bool, error) { return WALNeeded, true, nil }, nil
	}
	held := false
	r := w.open(t, fault.New(w.store, func(op fault.Op) fault.Action {
		if op.Verb != fault.Delete || !strings.HasPrefix(op.Key, walPrefix) || held {
			return fault.Action{}
		}
		held = true
		for range 3 {
			prune(t, w.r, again)
			must(t, w.r.Write(t.Context(), options(), func(_ context.Context, s *Session) error {
				for n := 1; n <= 9; n++ {
					if key := walFile(n); s.LosesWAL(key) != (n <= 5) {
						t.Errorf("a writer counts on %s, or does not, and should: %v", key, n > 5)
					}
				}
				return nil
			}))
			again.Now = func() time.Time { return time.Now().Add(48 * time.Hour) } // the session is over
		}
		return fault.Action{}
	}))
	prune(t, r, w.pruning())
	w.leaves(t, "in the end", 6, 7, 8, 9)
}

func TestASweepOfWALStopsWhenANewerRunBegins(t *testing.T) {
	w := newWALWorld(t)
	putWAL(t, w.store, upTo(999)...)
	for n := 1; n < 300; n++ {
		must(t, w.store.Put(t.Context(), walFile(n)+"x", nil))
	}
	w.backup(t, 999)
	o := w.pruning()
	before := o.WAL
	o.WAL = func(ctx context.Context, staying, leaving []Commit) (WALJudge, error) {
		judge, err := before(ctx, staying, leaving)
		return func(ctx context.Context, key string) (WALUse, bool, error) {
			return judge(ctx, strings.TrimSuffix(key, "x"))
		}, err
	}
	prune(t, w.r, o)
	deleted := 0
	s := fault.New(w.store, func(op fault.Op) fault.Action {
		if op.Verb == fault.Delete && strings.HasPrefix(op.Key, walPrefix) {
			deleted++
			if deleted == walBatch {
				prune(t, w.open(t, w.store), PruneOptions{Host: "other", Now: o.Now, MaxDelete: 1, Mark: o.Mark})
			}
		}
		return fault.Action{}
	})
	report := prune(t, w.open(t, s), o)
	if !report.Stopped || deleted != walBatch {
		t.Errorf("stopped: %v after %d files", report.Stopped, deleted)
	}
	prune(t, w.r, o)
	w.leaves(t, "in the end", 999)
}

func TestARunThatNamesAnythingButWALOfOneTimelineIsDamaged(t *testing.T) {
	for _, r := range []KeyRange{
		{"snapshots/main/a/b/c", "snapshots/main/a/b/d"},
		{"wal/main/7/00000001/002", "wal/main/7/00000001/001"},
		{"wal/main/7/00000001/002", "wal/main/7/00000002/001"},
		{"wal/main/7/00000001.history", "wal/main/7/00000002.history"},
		{"wal/main/7/00000001/", "wal/main/7/00000001/001"},
		{"wal/main/7/00000001/001", ""},
	} {
		if g := (&gcRun{WALSweep: []KeyRange{r}}); g.validate() == nil {
			t.Errorf("%v is accepted to be deleted", r)
		}
		if g := (&gcRun{WALCondemned: []KeyRange{r}}); g.validate() == nil {
			t.Errorf("%v is accepted to be condemned", r)
		}
		if g := (&gcRun{WALBegun: []KeyRange{r}}); g.validate() == nil {
			t.Errorf("%v is accepted to be condemned for good", r)
		}
	}
}
