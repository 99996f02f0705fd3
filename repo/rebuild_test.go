package repo

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/keys"
	"github.com/pgtrove/pgtrove/storage"
	"github.com/pgtrove/pgtrove/storage/fault"
)

func rebuilding() RebuildOptions { return RebuildOptions{Host: "test", Now: pruning().Now} }

func rebuild(t *testing.T, r *Repo) *RebuildReport {
	t.Helper()
	report, err := r.Rebuild(t.Context(), rebuilding())
	must(t, err)
	return report
}

// flip flips a bit in the middle of an object.
func flip(t testing.TB, s storage.Store, key string) {
	t.Helper()
	replace(t, s, key, func(b []byte) []byte {
		b[len(b)/2] ^= 4
		return b
	})
}

// aged is a repository with a base and, of the newest snapshot, segments; and all that its snapshots hold.
func aged(t *testing.T) (f fixture, r *Repo, ids []chunk.ID, data [][]byte) {
	t.Helper()
	f = newFixture(t)
	r = f.open(t, f.store)
	data = pieces(50, 60)
	_, ids = backup(t, r, data[:40])
	prune(t, r, pruning())
	_, more := backup(t, r, data[40:])
	return f, r, append(ids, more...), data
}

func TestADamagedIndexIsMadeAnewFromThePacks(t *testing.T) {
	for what, lose := range map[string]func(t *testing.T, f fixture){
		"a shard of the base is altered": func(t *testing.T, f fixture) { flip(t, f.store, list(t, f.store, basePrefix)[0]) },
		"a shard of the base is gone":    func(t *testing.T, f fixture) { must(t, f.store.Delete(t.Context(), list(t, f.store, basePrefix)[0])) },
		"a segment is altered":           func(t *testing.T, f fixture) { flip(t, f.store, list(t, f.store, indexPrefix)[0]) },
		"everything is gone": func(t *testing.T, f fixture) {
			for _, key := range slices.Concat(list(t, f.store, basePrefix), list(t, f.store, indexPrefix)) {
				must(t, f.store.Delete(t.Context(), key))
			}
		},
	} {
		f, r, ids, data := aged(t)
		kill(t, f, options(), 1, writing(makeRuns(r, 56, 40))) // a session that a prune would end
		lose(t, f)
		v, err := r.OpenView(t.Context(), "", "main")
		must(t, err)
		var broken *IndexError
		if !errors.As(v.IndexDamage(), &broken) {
			t.Errorf("%s: the view says %v", what, v.IndexDamage())
		}
		lost := 0
		for i, id := range ids {
			switch got, err := readChunk(t.Context(), v, id); {
			case errors.Is(err, ErrMissing) && errors.As(err, &broken):
				lost++
			case err != nil || !slices.Equal(got, data[i]):
				t.Errorf("%s: chunk %d: %v", what, i, err)
			}
		}
		if lost == 0 {
			t.Errorf("%s, and every chunk was found", what)
		}
		must(t, v.Close())

		before := list(t, f.store, "")
		eager := pruning()
		eager.FenceAfter = time.Nanosecond
		if _, err := r.Prune(t.Context(), eager); !errors.As(err, &broken) || !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrMissing) {
			t.Errorf("%s: prune: %v", what, err)
		}
		o := rebuilding()
		o.DryRun = true
		dry, err := r.Rebuild(t.Context(), o)
		must(t, err)
		if after := list(t, f.store, ""); !slices.Equal(before, after) {
			t.Errorf("%s: a prune or a dry run changed something: %v", what, after)
		}
		if err := r.CheckIndex(t.Context(), nil); !errors.As(err, &broken) {
			t.Errorf("%s: the index is checked: %v", what, err)
		}
		if err := r.CheckIndex(t.Context(), func(string) bool { return false }); err != nil {
			t.Errorf("%s: nothing of the index is checked: %v", what, err)
		}
		report := rebuild(t, r)
		if err := r.CheckIndex(t.Context(), nil); err != nil {
			t.Errorf("%s: after that: %v", what, err)
		}
		if len(report.Unreadable)+len(report.Waiting) > 0 || report.Packs != dry.Packs || report.Packs.Packs != count(t, f.store, packsPrefix) || report.Valid != 2 || report.Run != 2 {
			t.Errorf("%s: %+v, dry %+v", what, report, dry)
		}
		check(t, r, ids, data)
		for range 3 {
			if p := prune(t, r, eager); len(p.Damage) > 0 || p.Valid != 2 {
				t.Errorf("%s: %+v", what, p)
			}
			check(t, r, ids, data)
		}
	}
}

// TestABackupGoesOnWithoutAPartOfTheIndex, and stores again what it does not know.
func TestABackupGoesOnWithoutAPartOfTheIndex(t *testing.T) {
	f, r, _, data := aged(t)
	flip(t, f.store, list(t, f.store, basePrefix)[0])
	var ids []chunk.ID
	must(t, r.Write(t.Context(), options(), func(ctx context.Context, s *Session) error {
		var broken *IndexError
		if !errors.As(s.IndexDamage(), &broken) || len(broken.Objects) != 1 {
			t.Errorf("the session says %v", s.IndexDamage())
		}
		ids = putAll(ctx, t, s, data)
		if added := s.Added(); added.Plain != 40*64<<10 {
			t.Errorf("%d bytes were stored", added.Plain)
		}
		return commitIDs(ctx, s, ids)
	}))
	check(t, r, ids, data)
	rebuild(t, r)
	for range 3 {
		prune(t, r, pruning())
		check(t, r, ids, data)
	}
}

func TestAWritersKeysAreEnoughToRebuild(t *testing.T) {
	f, owner, ids, data := aged(t)
	flip(t, f.store, list(t, f.store, basePrefix)[0])
	b, err := owner.bundle.Issue(keys.IssueOptions{Name: "writer", Role: keys.Writer, Clusters: []string{keys.AnyCluster}})
	must(t, err)
	r, err := newRepo(f.store, owner.config, b)
	must(t, err)
	rebuild(t, r)
	check(t, owner, ids, data)
}

// TestWhatAPruneHasBegunToDeleteIsNotNamedAgain: it may be held up, and go on at any time.
func TestWhatAPruneHasBegunToDeleteIsNotNamedAgain(t *testing.T) {
	f := newFixture(t)
	data := pieces(51, 40)
	plain := f.open(t, f.store)
	old, ids := backup(t, plain, data[:30])
	held := f.open(t, fault.New(f.store, func(op fault.Op) fault.Action {
		if op.Verb == fault.Delete && strings.HasPrefix(op.Key, packsPrefix) {
			return fault.Action{Before: errKilled}
		}
		return fault.Action{}
	}))
	must(t, plain.Forget(t.Context(), old))
	backup(t, plain, data[30:])
	prune(t, plain, pruning()) // condemns
	if _, err := held.Prune(t.Context(), pruning()); !errors.Is(err, errKilled) {
		t.Fatal(err)
	}
	begun := list(t, f.store, packsPrefix+old+"/")
	unknown := func(when string) {
		t.Helper()
		must(t, plain.Write(t.Context(), options(), func(_ context.Context, s *Session) error {
			for _, id := range ids {
				if ok, err := s.view.has(id); ok || err != nil {
					t.Fatalf("%s: a chunk of a pack that is being deleted counts, %v", when, err)
				}
			}
			return nil
		}))
	}
	report := rebuild(t, plain)
	if len(begun) == 0 || report.Left.Packs < len(begun) {
		t.Fatalf("%d packs are being deleted: %+v", len(begun), report)
	}
	unknown("rebuilt")
	rebuild(t, plain)
	unknown("rebuilt again")
	// Damage keeps everything where it is; what is being deleted must not come back by that either.
	pack := packsOf(t, f.store, commits(t, plain)[0])[0]
	keep, err := f.store.Get(t.Context(), pack, storage.Range{}, nil)
	must(t, err)
	must(t, f.store.Delete(t.Context(), pack))
	o := pruning()
	o.FenceAfter = time.Nanosecond
	for range 2 {
		if report := prune(t, plain, o); len(report.Damage) == 0 {
			t.Fatalf("%+v", report)
		}
		unknown("pruned with damage")
	}
	must(t, f.store.Put(t.Context(), pack, keep))
	for range 4 {
		prune(t, plain, o)
	}
	if left := list(t, f.store, packsPrefix+old+"/"); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// TestACondemnedPackIsRescuedAfterARebuild: a session that began before it was condemned refers to it.
func TestACondemnedPackIsRescuedAfterARebuild(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	data := pieces(52, 20)
	old, _ := backup(t, r, data)
	prune(t, r, pruning())
	must(t, r.ForgetLast(t.Context(), old))
	var ids []chunk.ID
	must(t, r.Write(t.Context(), options(), func(ctx context.Context, s *Session) error {
		prune(t, r, pruning()) // condemns what the session knows
		ids = putAll(ctx, t, s, data)
		if s.Added().Plain > 0 {
			t.Error("the session did not know the chunks")
		}
		rebuild(t, r)
		return commitIDs(ctx, s, ids)
	}))
	flip(t, f.store, list(t, f.store, basePrefix)[0])
	rebuild(t, r)
	if report := prune(t, r, pruning()); report.Rescued.Packs == 0 {
		t.Errorf("%+v", report)
	}
	for range 3 {
		prune(t, r, pruning())
		check(t, r, ids, data)
	}
}

func TestARebuildEndsNoSnapshotAndTakesNoChanceAway(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	data := pieces(53, 40)
	gone, goneIDs := backup(t, r, data[:20])
	hidden, _ := backup(t, r, data[10:30])
	kept, _ := backup(t, r, data[20:])
	must(t, r.Forget(t.Context(), gone))
	prune(t, r, pruning())
	must(t, r.Forget(t.Context(), hidden))
	before, err := r.newestRun(t.Context())
	must(t, err)
	rebuild(t, r)
	after, err := r.newestRun(t.Context())
	must(t, err)
	if !slices.Equal(before.Valid, after.Valid) || !slices.Equal(before.Expired, after.Expired) || len(after.Valid) != 2 || len(after.Expired) != 1 {
		t.Errorf("before %+v, after %+v", before, after)
	}
	if got := commits(t, r); !slices.Equal(got, []string{kept}) {
		t.Errorf("%v", got)
	}
	must(t, f.store.Put(t.Context(), pinsPrefix+gone, []byte("a pin that the run did not see")))
	if report := prune(t, r, pruning()); len(report.Returned) != 1 || len(report.Expired) != 1 {
		t.Errorf("%+v", report)
	}
	for range 3 {
		prune(t, r, pruning())
		check(t, r, goneIDs, data[:20])
	}
}

func TestAPackWhoseDirectoryCannotBeReadStaysWhereTheOldIndexHasIt(t *testing.T) {
	f, r, ids, data := aged(t)
	pack := packsOf(t, f.store, commits(t, r)[0])[0]
	replace(t, f.store, pack, func(b []byte) []byte {
		b[len(b)-20] ^= 1
		return b
	})
	report := rebuild(t, r)
	if len(report.Unreadable) != 1 || !strings.Contains(report.Unreadable[0].Key, pack) || report.Known != 1 {
		t.Errorf("%+v", report)
	}
	check(t, r, ids, data)
	for _, key := range list(t, f.store, basePrefix) {
		flip(t, f.store, key)
	}
	packs := list(t, f.store, packsPrefix)
	report = rebuild(t, r)
	if len(report.Unreadable) != 1 || report.Known != 0 || report.Packs.Packs != len(packs)-1 {
		t.Errorf("%+v", report)
	}
	if p := prune(t, r, pruning()); len(p.Damage) == 0 {
		t.Errorf("%+v", p)
	}
	if after := list(t, f.store, packsPrefix); !slices.Equal(packs, after) {
		t.Errorf("packs were deleted: %v", after)
	}
}

// TestADamagedSegmentOfARunningBackupStaysUntilThatEnds.
func TestADamagedSegmentOfARunningBackupStaysUntilThatEnds(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	data := pieces(54, 40)
	backup(t, r, data[:10])
	var ids []chunk.ID
	must(t, r.Write(t.Context(), options(), func(ctx context.Context, s *Session) error {
		ids = putAll(ctx, t, s, data[:30])
		segment := list(t, f.store, indexPrefix+s.ID()+"/")[0]
		flip(t, f.store, segment)
		report := rebuild(t, r)
		if len(report.Waiting) != 1 || !strings.Contains(report.Waiting[0].Key, segment) {
			t.Errorf("%+v", report)
		}
		var broken *IndexError
		if _, err := r.Prune(ctx, pruning()); !errors.As(err, &broken) {
			t.Errorf("prune: %v", err)
		}
		check(t, r, ids, data[:30]) // by the base
		ids = append(ids, putAll(ctx, t, s, data[30:])...)
		return commitIDs(ctx, s, ids)
	}))
	if report := rebuild(t, r); len(report.Waiting) != 0 {
		t.Errorf("%+v", report)
	}
	for range 3 {
		prune(t, r, pruning())
		check(t, r, ids, data)
	}
	// One that is dead is ended.
	kill(t, f, options(), 1, writing(makeRuns(r, 55, 40)))
	o := rebuilding()
	o.FenceAfter = time.Minute
	report, err := r.Rebuild(t.Context(), o)
	must(t, err)
	if len(report.Fenced) != 1 {
		t.Errorf("%+v", report)
	}
	check(t, r, ids, data)
}

func TestOfARebuildAndAPruneAtOnceOneWins(t *testing.T) {
	f, plain, ids, data := aged(t)
	for _, first := range []func(){func() { prune(t, plain, pruning()) }, func() { rebuild(t, plain) }} {
		ran := false
		r := f.open(t, fault.New(f.store, func(op fault.Op) fault.Action {
			if op.Verb == fault.Put && strings.HasPrefix(op.Key, gcPrefix) && !ran {
				ran = true
				first()
			}
			return fault.Action{}
		}))
		if _, err := r.Rebuild(t.Context(), rebuilding()); !errors.Is(err, ErrOvertaken) || !ran {
			t.Errorf("rebuild: %v", err)
		}
		ran = false
		if _, err := r.Prune(t.Context(), pruning()); !errors.Is(err, ErrOvertaken) || !ran {
			t.Errorf("prune: %v", err)
		}
		check(t, plain, ids, data)
	}
}
