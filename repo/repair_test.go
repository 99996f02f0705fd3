package repo

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/keys"
	"github.com/pgtrove/pgtrove/storage"
	"github.com/pgtrove/pgtrove/storage/fault"
)

// repair says of packs that they are damaged.
func repair(t *testing.T, r *Repo, packs ...string) (*RepairReport, error) {
	t.Helper()
	v := openView(t, r, "")
	defer func() { must(t, v.Close()) }()
	return r.Repair(t.Context(), v, RepairOptions{Host: "test", Now: options().Now, Packs: packs})
}

// unreadable counts the chunks that cannot be read, and fails if one reads as something else.
func unreadable(t *testing.T, r *Repo, ids []chunk.ID, want [][]byte) (n int) {
	t.Helper()
	v := openView(t, r, "")
	defer func() { must(t, v.Close()) }()
	for i, id := range ids {
		got, err := readChunk(t.Context(), v, id)
		switch {
		case isLoss(err) || errors.Is(err, storage.ErrNotExist):
			n++
		case err != nil || !slices.Equal(got, want[i]):
			t.Fatalf("chunk %d: %v", i, err)
		}
	}
	return n
}

func TestADamagedPackIsGivenUpAndWhatIsSoundInItStays(t *testing.T) {
	for what, x := range map[string]struct {
		harm   func(t *testing.T, s storage.Store, key string)
		copied func(all int) int
		lost   func(all int) int
	}{
		"a flipped bit in a chunk": {func(t *testing.T, s storage.Store, key string) {
			replace(t, s, key, func(b []byte) []byte { b[100] ^= 1; return b })
		}, func(all int) int { return all - 1 }, func(int) int { return 1 }},
		"an altered directory": {func(t *testing.T, s storage.Store, key string) {
			replace(t, s, key, func(b []byte) []byte { b[len(b)-30] ^= 1; return b })
		}, func(all int) int { return all }, func(int) int { return 0 }},
		"a pack that was cut short": {func(t *testing.T, s storage.Store, key string) {
			replace(t, s, key, func(b []byte) []byte { return b[:200<<10] })
		}, func(int) int { return 3 }, func(all int) int { return all - 3 }},
		"a pack that is gone": {func(t *testing.T, s storage.Store, key string) { must(t, s.Delete(t.Context(), key)) },
			func(int) int { return 0 }, func(all int) int { return all }},
	} {
		f, r, ids, data := aged(t)
		key := packsOf(t, f.store, commits(t, r)[0])[0]
		all := len(chunksOf(t, r, []string{key}))
		x.harm(t, f.store, key)
		report, err := repair(t, r, key)
		must(t, err)
		if report.Copied.Chunks != x.copied(all) || !slices.Equal(report.Marked, []string{key}) {
			t.Errorf("%s: %+v, of %d chunks", what, report, all)
		}
		named := 0
		for _, l := range report.Lost {
			named += len(l.Chunks)
		}
		if named != x.lost(all) || len(report.Lost) > 1 || len(report.Blind) > 0 {
			t.Errorf("%s: of %d chunks %d are named as lost, and %v say nothing", what, all, named, report.Blind)
		}
		if n := unreadable(t, r, ids, data); n != x.lost(all) {
			t.Errorf("%s: %d of %d chunks are lost", what, n, all)
		}
		before := list(t, f.store, "")
		if report, err = repair(t, r, key); err != nil || len(report.Known) != 1 || report.Copied.Chunks > 0 {
			t.Errorf("%s: once more: %+v %v", what, report, err)
		}
		if after := list(t, f.store, ""); !slices.Equal(before, after) {
			t.Errorf("%s: once more changed something", what)
		}
		if p := prune(t, r, pruning()); len(p.Damage) > 0 != (x.lost(all) > 0) || p.Swept.Packs > 1 { // the metadata is in no manifest
			t.Errorf("%s: %+v", what, p)
		}

		must(t, r.Write(t.Context(), options(), func(ctx context.Context, s *Session) error {
			again := putAll(ctx, t, s, data)
			if got := s.Added().Plain; got != int64(x.lost(all))*64<<10 {
				t.Errorf("%s: %d bytes were stored again, of %d chunks lost", what, got, x.lost(all))
			}
			return commitIDs(ctx, s, again)
		}))
		for range 4 {
			check(t, r, ids, data)
			if p := prune(t, r, pruning()); len(p.Damage) > 0 {
				t.Errorf("%s: %+v", what, p)
			}
		}
		check(t, r, ids, data)
		if left := slices.Concat(list(t, f.store, key), list(t, f.store, forgetPrefix), list(t, f.store, sessionsPrefix)); len(left) > 0 {
			t.Errorf("%s: left: %v", what, left)
		}
	}
}

// TestWhatASnapshotNeedsOfADamagedPackKeepsPrunesFromDeleting, until it is forgotten.
func TestWhatASnapshotNeedsOfADamagedPackKeepsPrunesFromDeleting(t *testing.T) {
	f, r, _, _ := aged(t)
	old := commits(t, r)[0]
	key := packsOf(t, f.store, old)[0]
	flip(t, f.store, key)
	_, err := repair(t, r, key)
	must(t, err)
	for range 2 {
		if p := prune(t, r, pruning()); len(p.Damage) == 0 || !strings.Contains(p.Damage[0].Error(), key) || p.Swept.Packs > 0 {
			t.Fatalf("%+v", p)
		}
	}
	must(t, r.Forget(t.Context(), old))
	for range 4 {
		if p := prune(t, r, pruning()); len(p.Damage) > 0 {
			t.Errorf("%+v", p)
		}
	}
	if left := slices.Concat(list(t, f.store, packsPrefix+old), list(t, f.store, forgetPrefix)); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestARepairThatCannotTellWhatIsSoundChangesNothing(t *testing.T) {
	f, owner, _, _ := aged(t)
	key := list(t, f.store, packsPrefix)[0]
	flip(t, f.store, key)
	before := list(t, f.store, "")
	b, err := owner.bundle.Issue(keys.IssueOptions{Name: "writer", Role: keys.Writer, Clusters: []string{keys.AnyCluster}})
	must(t, err)
	r, err := newRepo(f.store, owner.config, b)
	must(t, err)
	if _, err := repair(t, r, key); !errors.Is(err, keys.ErrRole) {
		t.Error(err)
	}
	if _, err := repair(t, owner); err != nil {
		t.Error(err)
	}
	if after := list(t, f.store, ""); !slices.Equal(before, after) {
		t.Errorf("changed: %v", after)
	}
}

// TestARepairThatWasTakenForDeadMarksNothing: what it copied may be gone.
func TestARepairThatWasTakenForDeadMarksNothing(t *testing.T) {
	for _, runs := range []int{2, 5} { // that it is fenced, and that the fence is gone too
		f, plain, ids, data := aged(t)
		key := packsOf(t, f.store, commits(t, plain)[0])[0]
		keep, err := f.store.Get(t.Context(), key, storage.Range{}, nil)
		must(t, err)
		flip(t, f.store, key)
		held := false
		r := f.open(t, fault.New(f.store, func(op fault.Op) fault.Action {
			if op.Verb == fault.Put && strings.HasPrefix(op.Key, snapshotsPrefix+pruneCluster+"/") && !held {
				held = true
				for range runs {
					prune(t, plain, pruning())
				}
			}
			return fault.Action{}
		}))
		if _, err := repair(t, r, key); !errors.Is(err, ErrOvertaken) || !held {
			t.Errorf("%d runs: %v", runs, err)
		}
		if marked := list(t, f.store, damagedPrefix); len(marked) > 0 {
			t.Errorf("%d runs: %v", runs, marked)
		}
		if n := unreadable(t, plain, ids, data); n > 1 {
			t.Errorf("%d runs: %d chunks are lost", runs, n)
		}
		replace(t, f.store, key, func([]byte) []byte { return keep })
		for range 4 {
			prune(t, plain, pruning())
			check(t, plain, ids, data)
		}
	}
}

// TestAPackThatIsCopiedBackIsTakenOutOf: from a copy of the repository, after it was given up.
func TestAPackThatIsCopiedBackIsTakenOutOf(t *testing.T) {
	f, r, ids, data := aged(t)
	key := packsOf(t, f.store, commits(t, r)[0])[0]
	keep, err := f.store.Get(t.Context(), key, storage.Range{}, nil)
	must(t, err)
	replace(t, f.store, key, func(b []byte) []byte { return b[:200<<10] })
	_, err = repair(t, r, key)
	must(t, err)
	lost := unreadable(t, r, ids, data)
	replace(t, f.store, key, func([]byte) []byte { return keep })
	check(t, r, ids, data)
	v := openView(t, r, "")
	if given := v.GivenUp(); !slices.Equal(given, []string{key}) {
		t.Errorf("given up are %v", given)
	}
	must(t, v.Close())
	if report, err := repair(t, r, key); err != nil || lost == 0 || report.Copied.Chunks != lost {
		t.Errorf("%d chunks were lost: %+v %v", lost, report, err)
	}
	for range 4 {
		if p := prune(t, r, pruning()); len(p.Damage) > 0 {
			t.Errorf("%+v", p)
		}
		check(t, r, ids, data)
	}
	if left := slices.Concat(list(t, f.store, key), list(t, f.store, forgetPrefix)); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}
