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
	"github.com/pgtrove/pgtrove/pack"
	"github.com/pgtrove/pgtrove/storage/fault"
)

// TestWhatARemovedKeyHasPoisonedIsStoredAgain: whether a prune has taken its index segments into the base or not.
func TestWhatARemovedKeyHasPoisonedIsStoredAgain(t *testing.T) {
	for what, pruned := range map[string]func(f fixture){
		"no prune":               func(fixture) {},
		"a prune after removal":  func(f fixture) { prune(t, f.open(t, f.store), pruning()) },
		"two prunes, and a view": func(f fixture) { prune(t, f.open(t, f.store), pruning()); prune(t, f.open(t, f.store), pruning()) },
	} {
		t.Run(what, func(t *testing.T) {
			f := newFixture(t)
			owner := f.open(t, f.store)
			thief, key, _ := addKey(t, owner, NewKey{Name: "thief", Role: keys.Writer})
			host, _, id := addKey(t, owner, NewKey{Name: "test2", Role: keys.Writer})
			good, bad := pieces(81, 1)[0], pieces(82, 1)[0]
			digests := chunk.NewHasher(host.IDKey()).PageDigests(nil, 13, good)
			pagesAs(t, thief, "other", digests, bad)
			_, err := f.open(t, f.store).RemoveKey(t.Context(), key.ID)
			must(t, err)
			pruned(f)
			if _, added := pagesAs(t, openAs(t, f.store, id), "main", digests, good); added != int64(len(good)) {
				t.Errorf("the next backup refers to the poisoned chunk: it has stored %d bytes of %d", added, len(good))
			}
			if _, added := pagesAs(t, openAs(t, f.store, id), "main", digests, good); added != 0 {
				t.Errorf("the one after it stores %d bytes again", added)
			}
		})
	}
}

// TestPacksThatARemovedKeyLeftAreNotTakenOver: nobody signs them, so where a key was removed nothing says that they are not by that.
func TestPacksThatARemovedKeyLeftAreNotTakenOver(t *testing.T) {
	for removed, want := range map[bool]int64{false: 0, true: 1} {
		f := newFixture(t)
		owner := f.open(t, f.store)
		_, key, thiefID := addKey(t, owner, NewKey{Name: "thief", Role: keys.Writer})
		host, _, id := addKey(t, owner, NewKey{Name: "test2", Role: keys.Writer})
		good, bad := pieces(81, 1)[0], pieces(82, 1)[0]
		digests := chunk.NewHasher(host.IDKey()).PageDigests(nil, 13, good)
		no := errors.New("no")
		s := fault.New(f.store, func(op fault.Op) fault.Action {
			if op.Verb == fault.Put && (strings.HasPrefix(op.Key, indexPrefix) || strings.HasPrefix(op.Key, snapshotsPrefix)) {
				return fault.Action{Before: no}
			}
			return fault.Action{}
		})
		if err := openAs(t, s, thiefID).Write(t.Context(), options(), func(ctx context.Context, s *Session) error {
			w, err := s.NewWriter()
			if err != nil {
				return err
			}
			if _, err = w.Pages(ctx, 13, digests, bad); err != nil {
				return err
			}
			return s.Flush(ctx)
		}); !errors.Is(err, no) || len(list(t, f.store, packsPrefix)) == 0 {
			t.Fatal(err)
		}
		if removed {
			_, err := f.open(t, f.store).RemoveKey(t.Context(), key.ID)
			must(t, err)
		}
		if _, added := pagesAs(t, openAs(t, f.store, id), "main", digests, good); added != want*int64(len(good)) {
			t.Errorf("removed %t: the next backup has stored %d bytes of %d", removed, added, len(good))
		}
	}
}

// TestAPruneKeepsWhatWasStoredAgainForDistrust: not the copy that a removed key has stored, however new its name says that it is.
func TestAPruneKeepsWhatWasStoredAgainForDistrust(t *testing.T) {
	f := newFixture(t)
	owner := f.open(t, f.store)
	thief, key, _ := addKey(t, owner, NewKey{Name: "thief", Role: keys.Writer})
	data := pieces(81, 20)
	o := options()
	o.Now = func() time.Time { return time.Now().AddDate(5, 0, 0) }
	var ids []chunk.ID
	store := func(r *Repo, o SessionOptions) (sid string) {
		t.Helper()
		must(t, r.Write(t.Context(), o, func(ctx context.Context, s *Session) error {
			w, err := s.NewWriter()
			if err != nil {
				return err
			}
			ids, sid = nil, s.sid
			for _, b := range data {
				id, err := w.Bytes(ctx, b)
				if err != nil {
					return err
				}
				ids = append(ids, id)
			}
			return commitIDs(ctx, s, ids)
		}))
		return sid
	}
	store(thief, o)
	_, err := f.open(t, f.store).RemoveKey(t.Context(), key.ID)
	must(t, err)
	sid := store(f.open(t, f.store), options())
	for range 3 {
		prune(t, f.open(t, f.store), pruning())
	}
	v := openView(t, f.open(t, f.store), "")
	defer func() { must(t, v.Close()) }()
	for _, id := range ids {
		all, err := v.Locations(id)
		must(t, err)
		if !slices.ContainsFunc(all, func(l pack.Location) bool { return strings.HasPrefix(l.Pack, packsPrefix+sid+"/") }) {
			t.Fatalf("%s is in %v only, and was stored again by %s", id.Short(), all, sid)
		}
	}
}

// TestWhatARotatedKeyHasStoredIsNotStoredAgain: another identity has taken its place, which is no reason to distrust it.
func TestWhatARotatedKeyHasStoredIsNotStoredAgain(t *testing.T) {
	f := newFixture(t)
	owner := f.open(t, f.store)
	host, key, _ := addKey(t, owner, NewKey{Name: "test", Role: keys.Writer})
	good := pieces(81, 1)[0]
	digests := chunk.NewHasher(host.IDKey()).PageDigests(nil, 13, good)
	pagesAs(t, host, "main", digests, good)
	id, to := recipient(t)
	_, _, err := owner.RotateKey(t.Context(), key.ID, to)
	must(t, err)
	for range 2 {
		if _, added := pagesAs(t, openAs(t, f.store, id), "main", digests, good); added != 0 {
			t.Errorf("stored again: %d bytes", added)
		}
		prune(t, f.open(t, f.store), pruning())
	}
}

// TestARemovedKeyMakesNobodyReadSegmentsAgain: who has signed a segment the cache knows.
func TestARemovedKeyMakesNobodyReadSegmentsAgain(t *testing.T) {
	f := newFixture(t)
	owner := f.open(t, f.store)
	gone, key, _ := addKey(t, owner, NewKey{Name: "test", Role: keys.Writer})
	o := options()
	o.CacheDir = t.TempDir()
	gets := 0
	s := fault.New(f.store, func(op fault.Op) fault.Action {
		if op.Verb == fault.Get && strings.HasPrefix(op.Key, indexPrefix) {
			gets++
		}
		return fault.Action{}
	})
	n := byte(0)
	run := func(r *Repo) int {
		t.Helper()
		gets, n = 0, n+1
		must(t, r.Write(t.Context(), o, func(ctx context.Context, s *Session) error {
			w, err := s.NewWriter()
			if err != nil {
				return err
			}
			if _, err := w.Bytes(ctx, pieces(n, 1)[0]); err != nil {
				return err
			}
			return s.Commit(ctx, []byte("1"))
		}))
		return gets
	}
	for range 5 {
		run(f.open(t, s))
	}
	run(gone)
	if read := run(f.open(t, s)); read != 0 { // the cache has what its own sessions wrote, whoever they were
		t.Errorf("%d segments are read that the cache has", read)
	}
	_, err := f.open(t, f.store).RemoveKey(t.Context(), key.ID)
	must(t, err)
	for range 2 {
		if read := run(f.open(t, s)); read != 0 {
			t.Errorf("after the removal of a key each backup reads %d segments", read)
		}
	}
}
