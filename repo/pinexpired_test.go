package repo

import (
	"errors"
	"strings"
	"testing"

	"github.com/pgtrove/pgtrove/storage/fault"
)

// ended is a repository of two snapshots, of which a run has ended the first.
func ended(t *testing.T) (f fixture, r *Repo, first, second string, whole func()) {
	f = newFixture(t)
	r = f.open(t, f.store)
	data := pieces(31, 4)
	first, ids := backup(t, r, data)
	second, _ = backup(t, r, pieces(33, 4))
	must(t, r.Forget(t.Context(), first))
	if report := prune(t, r, pruning()); len(report.Expired) != 1 {
		t.Fatalf("%+v", report)
	}
	return f, r, first, second, func() {
		t.Helper()
		shown := false
		must(t, r.Commits(t.Context(), "", func(c Commit) error { shown = shown || c.ID == first; return nil }))
		if !shown {
			t.Error("it is not shown")
		}
		check(t, r, ids, data)
	}
}

func TestASnapshotThatARunHasEndedComesBackWhenPinnedInTime(t *testing.T) {
	_, r, first, _, whole := ended(t)
	if err := r.Pin(t.Context(), first); !errors.Is(err, ErrNotCounted) {
		t.Errorf("it is said that no prune removes it: %v", err)
	}
	must(t, r.PinExpired(t.Context(), first))
	whole()
	if report := prune(t, r, pruning()); len(report.Returned) != 1 {
		t.Errorf("%+v", report)
	}
	for range 2 {
		prune(t, r, pruning())
	}
	whole()
	must(t, r.Pin(t.Context(), first))
}

func TestASnapshotThatDamageHoldsComesBackWhenPinned(t *testing.T) {
	f, r, first, second, whole := ended(t)
	must(t, f.store.Delete(t.Context(), packsOf(t, f.store, second)[0]))
	for range 2 {
		if report := prune(t, r, pruning()); len(report.Damage) == 0 {
			t.Fatal("no damage")
		}
	}
	must(t, r.PinExpired(t.Context(), first))
	for n := range 3 {
		if report := prune(t, r, pruning()); len(report.Returned) != 1 && n == 0 || report.Valid != 2 {
			t.Errorf("%+v", report)
		}
		whole()
	}
}

func TestASnapshotThatARunUnderWayRemovesIsNotSaidToBePinned(t *testing.T) {
	f, r, first, _, _ := ended(t)
	s := fault.New(f.store, func(op fault.Op) fault.Action {
		if op.Verb == fault.Put && strings.HasPrefix(op.Key, pinsPrefix) {
			prune(t, r, pruning())
		}
		return fault.Action{}
	})
	if err := f.open(t, s).PinExpired(t.Context(), first); !errors.Is(err, ErrNotCounted) {
		t.Error(err)
	}
	if err := r.PinExpired(t.Context(), first); !errors.Is(err, ErrNotCounted) {
		t.Error(err)
	}
	prune(t, r, pruning())
	if left := list(t, f.store, pinsPrefix); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestOnlyWhatARunHasEndedIsPinnedAsSuch(t *testing.T) {
	f, r, _, second, _ := ended(t)
	for _, id := range []string{second, "", "nonsense", "20260101T000000Z-0000000000000000"} {
		if err := r.PinExpired(t.Context(), id); !errors.Is(err, ErrNotCounted) {
			t.Errorf("%q: %v", id, err)
		}
	}
	if left := list(t, f.store, pinsPrefix); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}
