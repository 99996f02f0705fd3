package repo

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/storage"
	"github.com/pgtrove/pgtrove/storage/fault"
)

// putAll stores data within a session.
func putAll(ctx context.Context, t *testing.T, s *Session, data [][]byte) (ids []chunk.ID) {
	t.Helper()
	w, err := s.NewWriter()
	must(t, err)
	for _, b := range data {
		id, err := w.Bytes(ctx, b)
		must(t, err)
		ids = append(ids, id)
	}
	must(t, s.Flush(ctx))
	return ids
}

func commitIDs(ctx context.Context, s *Session, ids []chunk.ID) error {
	manifest, err := json.Marshal(ids)
	if err != nil {
		return err
	}
	return s.Commit(ctx, manifest)
}

// TestAHostEndsNoSessionOfAnother: credentials of one cluster's host let it create whatever it likes under its own cluster's names.
func TestAHostEndsNoSessionOfAnother(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	data := pieces(20, 10)
	sid, ids := backup(t, r, data)
	for _, cluster := range []string{"aaa", "zzz"} {
		end(t, f, r, cluster, sid, outcomeFenced)
	}
	if got := commits(t, r); !slices.Equal(got, []string{sid}) {
		t.Fatalf("hidden: %v", got)
	}
	for range 4 {
		if report := prune(t, r, pruning()); report.Valid != 1 || report.Swept.Packs > 1 { // the metadata is in no manifest
			t.Fatalf("%+v", report)
		}
		check(t, r, ids, data)
		end(t, f, r, "zzz", sid, outcomeFenced)
	}

	// A session that goes on.
	must(t, r.Write(t.Context(), options(), func(ctx context.Context, s *Session) error {
		ids = putAll(ctx, t, s, pieces(21, 10))
		end(t, f, r, "zzz", s.ID(), outcomeFenced)
		prune(t, r, pruning())
		var b *BlockedError
		if _, err := r.Prune(ctx, pruning()); !errors.As(err, &b) {
			t.Errorf("not waited for: %v", err)
		}
		return commitIDs(ctx, s, ids)
	}))
	for range 3 {
		if report := prune(t, r, pruning()); report.Valid != 2 {
			t.Fatalf("%+v", report)
		}
	}
	check(t, r, ids, pieces(21, 10))
}

func TestALostRunIsNoticedBeforeAnythingIsDeleted(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	backup(t, r, pieces(22, 10))
	prune(t, r, pruning())
	prune(t, r, pruning())
	for _, key := range list(t, f.store, gcPrefix) {
		must(t, f.store.Delete(t.Context(), key))
	}
	before := list(t, f.store, "")
	if _, err := r.Prune(t.Context(), pruning()); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), gcPrefix) {
		t.Errorf("prune: %v", err)
	}
	if err := r.Commits(t.Context(), "", func(Commit) error { return nil }); !errors.Is(err, ErrDamaged) {
		t.Errorf("commits: %v", err)
	}
	if after := list(t, f.store, ""); !slices.Equal(before, after) {
		t.Errorf("changed: %v", after)
	}
}

// blind is a storage that forgets sessions in listings.
type blind struct{ storage.Store }

func (s blind) List(ctx context.Context, prefix string, fn func(storage.Info) error) error {
	if prefix == sessionsPrefix {
		return nil
	}
	return s.Store.List(ctx, prefix, fn)
}

func TestAListingOfSessionsThatIsCutShortVoidsNothing(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	backup(t, r, pieces(23, 4))
	prune(t, r, pruning())
	backup(t, r, pieces(24, 4))
	before := list(t, f.store, "")
	if _, err := f.open(t, blind{f.store}).Prune(t.Context(), pruning()); !errors.Is(err, storage.ErrUnreachable) {
		t.Error(err)
	}
	if after := list(t, f.store, ""); !slices.Equal(before, after) {
		t.Errorf("changed: %v", after)
	}
}

// TestTheGoodOneOfTwoCopiesStays: marking finds that the newer one is damaged.
func TestTheGoodOneOfTwoCopiesStays(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	var id chunk.ID
	one := func(then func()) func(ctx context.Context, s *Session) error {
		return func(ctx context.Context, s *Session) error {
			w, err := s.NewWriter()
			must(t, err)
			id, err = w.Meta(ctx, []byte("a listing"))
			must(t, err)
			then()
			return commitIDs(ctx, s, []chunk.ID{id})
		}
	}
	first, second := options(), options()
	first.Now = func() time.Time { return time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC) }
	second.Now = func() time.Time { return time.Date(2000, 1, 2, 0, 0, 0, 0, time.UTC) }
	must(t, r.Write(t.Context(), first, one(func() { must(t, r.Write(t.Context(), second, one(func() {}))) })))
	packs := list(t, f.store, packsPrefix)
	if len(packs) != 2 {
		t.Fatal(packs)
	}
	replace(t, f.store, packs[1], func(b []byte) []byte { b[12] ^= 1; return b })
	o := pruning()
	o.Mark = func(ctx context.Context, v *View, snapshots []Commit, live func(chunk.ID)) error {
		if err := markManifests(ctx, v, snapshots, live); err != nil {
			return err
		}
		_, err := v.MetaChunk(ctx, id)
		return err
	}
	for range 4 {
		if report := prune(t, r, o); len(report.Damage) > 0 {
			t.Fatalf("%+v", report)
		}
	}
	if left := list(t, f.store, packsPrefix); !slices.Equal(left, packs[:1]) {
		t.Errorf("left: %v of %v", left, packs)
	}
}

// TestWhatAnOlderRunMayStillDeleteIsBarredDespiteDamage: a run that found damage takes back what was condemned, but not what is on its way out.
func TestWhatAnOlderRunMayStillDeleteIsBarredDespiteDamage(t *testing.T) {
	f := newFixture(t)
	plain := f.open(t, f.store)
	data := pieces(25, 40)
	backup(t, plain, pieces(26, 40))
	o := options()
	var ids []chunk.ID
	err := plain.Write(t.Context(), o, func(ctx context.Context, s *Session) error {
		o.Former = s.ID()
		putAll(ctx, t, s, data)
		fencing := pruning()
		fencing.FenceAfter = time.Minute
		prune(t, plain, fencing)   // fences
		prune(t, plain, pruning()) // condemns
		held := false
		r := f.open(t, fault.New(f.store, func(op fault.Op) fault.Action {
			if op.Verb == fault.Delete && strings.HasPrefix(op.Key, packsPrefix+s.ID()) && !held {
				held = true
				must(t, f.store.Put(t.Context(), sessionsPrefix+"20000101T000000Z-0123456789abcdef", []byte("rot")))
				if report := prune(t, plain, pruning()); len(report.Damage) == 0 {
					t.Errorf("%+v", report)
				}
				must(t, plain.Write(t.Context(), o, func(ctx context.Context, s *Session) error {
					ids = putAll(ctx, t, s, data)
					return commitIDs(ctx, s, ids)
				}))
			}
			return fault.Action{}
		}))
		prune(t, r, pruning()) // sweeps, and is held up
		if !held {
			t.Error("nothing was swept")
		}
		return s.Commit(ctx, []byte("[]"))
	})
	if !errors.Is(err, ErrFenced) {
		t.Fatal(err)
	}
	check(t, plain, ids, data)
}

// TestAFenceHidesNothingThatOthersUse: a rerun refers to what a killed backup published, and a prune fences that, but does not get to its end.
func TestAFenceHidesNothingThatOthersUse(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	data := pieces(27, 40)
	if err := r.Write(t.Context(), options(), func(ctx context.Context, s *Session) error {
		putAll(ctx, t, s, data)
		return errKilled
	}); !errors.Is(err, errKilled) {
		t.Fatal(err)
	}
	run := func() (added Added) {
		must(t, r.Write(t.Context(), options(), func(ctx context.Context, s *Session) error {
			err := commitIDs(ctx, s, putAll(ctx, t, s, data))
			added = s.Added()
			return err
		}))
		return added
	}
	run()
	failing := f.open(t, fault.New(f.store, func(op fault.Op) fault.Action {
		if op.Verb == fault.Put && strings.HasPrefix(op.Key, gcPrefix) {
			return fault.Action{Before: storage.ErrUnreachable}
		}
		return fault.Action{}
	}))
	o := pruning()
	o.FenceAfter = time.Second
	if _, err := failing.Prune(t.Context(), o); !errors.Is(err, storage.ErrUnreachable) {
		t.Fatal(err)
	}
	if added := run(); added.Plain > 0 {
		t.Errorf("%d bytes were uploaded again", added.Plain)
	}
}

// future is a storage on which sessions were announced in ten years.
type future struct{ storage.Store }

func (s future) List(ctx context.Context, prefix string, fn func(storage.Info) error) error {
	return s.Store.List(ctx, prefix, func(i storage.Info) error {
		if strings.HasPrefix(i.Key, sessionsPrefix) {
			i.ModTime = i.ModTime.AddDate(10, 0, 0)
		}
		return fn(i)
	})
}

func TestASessionFromATimeToComeBlocksNobodyForYears(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	if err := r.Write(t.Context(), options(), func(context.Context, *Session) error { return errKilled }); !errors.Is(err, errKilled) {
		t.Fatal(err)
	}
	prune(t, r, pruning())
	if report, err := f.open(t, future{f.store}).Prune(t.Context(), pruning()); err != nil || len(report.Fenced) != 1 {
		t.Errorf("%+v, %v", report, err)
	}
}
