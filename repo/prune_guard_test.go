package repo

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/storage"
	"github.com/pgtrove/pgtrove/storage/fault"
)

func TestSnapshotsThatVanishedStopAPruneUntilTheyAreForgotten(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	sid, _ := backup(t, r, pieces(8, 4))
	backup(t, r, pieces(8, 4))
	prune(t, r, pruning())
	must(t, f.store.Delete(t.Context(), snapshotsPrefix+"main/"+sid))
	_, err := r.announce(t.Context(), options(), false) // the run would fence it
	must(t, err)
	var v *VanishedError
	before := list(t, f.store, "")
	o := pruning()
	o.FenceAfter = time.Second
	if _, err := r.Prune(t.Context(), o); !errors.As(err, &v) || v.Snapshots[0].ID != sid {
		t.Fatal(err)
	}
	if after := list(t, f.store, ""); !slices.Equal(before, after) {
		t.Error("it changed something")
	}
	must(t, r.ForgetLast(t.Context(), sid))
	if report := prune(t, r, pruning()); report.Valid != 1 {
		t.Errorf("%+v", report)
	}
	if n := list(t, f.store, forgetPrefix); len(n) > 0 {
		t.Errorf("left: %v", n)
	}
}

func TestNoMoreIsDeletedAtOnceThanAllowed(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	sid, _ := backup(t, r, pieces(9, 40))
	backup(t, r, pieces(10, 20))
	must(t, r.ForgetLast(t.Context(), sid))
	prune(t, r, pruning())
	o := pruning()
	o.MaxDelete = 0.5
	var much *TooMuchError
	before := list(t, f.store, "")
	if _, err := r.Prune(t.Context(), o); !errors.As(err, &much) || much.Swept.Bytes < 40<<16 {
		t.Fatal(err)
	}
	if after := list(t, f.store, ""); !slices.Equal(before, after) {
		t.Error("it changed something")
	}
	o.MaxDelete = 0.7
	prune(t, r, o)
}

// TestDamageStopsDeletingAndNothingElse: a chunk that is needed is in no pack.
func TestDamageStopsDeletingAndNothingElse(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	gone, _ := backup(t, r, pieces(11, 4))
	hurt, _ := backup(t, r, pieces(12, 4))
	_, ids := backup(t, r, pieces(13, 4))
	must(t, r.ForgetLast(t.Context(), gone))
	prune(t, r, pruning())
	must(t, f.store.Delete(t.Context(), packsOf(t, f.store, hurt)[0]))
	packs := list(t, f.store, packsPrefix)
	for range 2 {
		report := prune(t, r, pruning())
		if len(report.Damage) != 1 || !strings.Contains(report.Damage[0].Error(), hurt) || !errors.Is(report.Damage[0], ErrMissing) {
			t.Fatalf("%+v", report)
		}
		if after := list(t, f.store, packsPrefix); !slices.Equal(packs, after) {
			t.Errorf("packs were deleted: %v", after)
		}
	}
	must(t, r.ForgetLast(t.Context(), hurt))
	for range 3 {
		if report := prune(t, r, pruning()); len(report.Damage) > 0 {
			t.Fatalf("%+v", report)
		}
	}
	if n := list(t, f.store, packsPrefix); len(n) >= len(packs) {
		t.Errorf("left: %v", n)
	}
	check(t, r, ids, pieces(13, 4))
}

func TestAnUnreadableSessionKeepsEverythingFromBeingDeleted(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	sid, _ := backup(t, r, pieces(18, 4))
	must(t, r.ForgetLast(t.Context(), sid))
	prune(t, r, pruning())
	const bad = sessionsPrefix + "20000101T000000Z-0123456789abcdef"
	must(t, f.store.Put(t.Context(), bad, []byte("rot")))
	report := prune(t, r, pruning())
	if len(report.Damage) != 1 || !strings.Contains(report.Damage[0].Error(), bad) || report.Swept.Packs > 0 {
		t.Fatalf("%+v", report)
	}
	must(t, f.store.Delete(t.Context(), bad))
	for range 3 {
		prune(t, r, pruning())
	}
	if n := list(t, f.store, packsPrefix); len(n) > 0 {
		t.Errorf("left: %v", n)
	}
}

func TestSmallPacksThatAreAliveAreLeftAlone(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	backup(t, r, [][]byte{[]byte("a few bytes")})
	prune(t, r, pruning()) // condemns the metadata, which is in no manifest
	prune(t, r, pruning())
	if report := prune(t, r, pruning()); report.Condemned.Packs+report.Swept.Packs > 0 {
		t.Errorf("%+v", report)
	}
}

func TestObjectsThatTheStorageKeepsAreReportedAndLeft(t *testing.T) {
	f := newFixture(t)
	plain := f.open(t, f.store)
	sid, _ := backup(t, plain, pieces(14, 20))
	_, ids := backup(t, plain, pieces(15, 20))
	locked := packsOf(t, f.store, sid)[0]
	r := f.open(t, fault.New(f.store, func(op fault.Op) fault.Action {
		if op.Verb == fault.Delete && (op.Key == locked || op.Key == sessionsPrefix+sid) {
			return fault.Action{Before: storage.ErrDenied}
		}
		return fault.Action{}
	}))
	must(t, plain.ForgetLast(t.Context(), sid))
	if report := prune(t, r, pruning()); !slices.Equal(report.Locked, []string{sessionsPrefix + sid}) {
		t.Errorf("%v", report.Locked)
	}
	found := false
	for range 4 {
		report := prune(t, r, pruning())
		found = found || slices.Contains(report.Locked, locked)
	}
	if !found || !slices.Contains(list(t, f.store, packsPrefix), locked) {
		t.Errorf("%s was not reported, or not left", locked)
	}
	check(t, plain, ids, pieces(15, 20))
	for range 3 {
		prune(t, plain, pruning())
	}
	if n := list(t, f.store, sessionsPrefix); len(n) > 0 {
		t.Errorf("left: %v", n)
	}
}

func TestAnyFailedListingAbortsAPruneBeforeItDeletes(t *testing.T) {
	for n := 1; ; n++ {
		f := newFixture(t)
		plain := f.open(t, f.store)
		sid, _ := backup(t, plain, pieces(16, 10))
		_, ids := backup(t, plain, pieces(16, 5))
		must(t, plain.ForgetLast(t.Context(), sid))
		prune(t, plain, pruning())
		lists, deletes := 0, 0
		r := f.open(t, fault.New(f.store, func(op fault.Op) fault.Action {
			if op.Verb == fault.Delete {
				deletes++
			}
			if op.Verb == fault.List {
				lists++
				if lists == n+1 { // the first is that of Open
					return fault.Action{After: storage.ErrUnreachable, Cut: 1}
				}
			}
			return fault.Action{}
		}))
		_, err := r.Prune(t.Context(), pruning())
		if lists < n+1 {
			return
		}
		if !errors.Is(err, storage.ErrUnreachable) {
			t.Errorf("listing %d failed and the run said %v", n, err)
		}
		for range 3 {
			prune(t, plain, pruning())
		}
		check(t, plain, ids, pieces(16, 5))
	}
}

func TestTheBaseIsMadeOfShardsThatStay(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	backup(t, r, pieces(17, 4))
	prune(t, r, pruning())
	first := list(t, f.store, basePrefix)
	run, err := r.newestRun(t.Context())
	must(t, err)
	run.Bases[0].Chunks = shardChunks // as if it were full
	run.Condemned = nil
	run.Number++
	text, err := run.marshal()
	must(t, err)
	must(t, f.store.Put(t.Context(), gcKey(run.Number), r.seal(kindGC, gcKey(run.Number), text)))
	_, ids := backup(t, r, pieces(17, 8))
	prune(t, r, pruning())
	after := list(t, f.store, basePrefix)
	if len(after) != 2 || after[0] != first[0] {
		t.Errorf("%v, then %v", first, after)
	}
	check(t, r, ids, pieces(17, 8))
}
