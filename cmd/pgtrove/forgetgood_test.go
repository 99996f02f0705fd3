package main

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/snapshot"
	"github.com/pgtrove/pgtrove/storage"
	"github.com/pgtrove/pgtrove/storage/fault"
)

// breaks takes away the packs of a snapshot.
func (w *retainer) breaks(id string) {
	w.t.Helper()
	for _, key := range w.list("packs/" + id + "/") {
		w.must(w.store.Delete(w.t.Context(), key))
	}
}

// TestNoRuleTakesABrokenSnapshotForAGoodOne: the newest lacks chunks, with and without a look at the space.
func TestNoRuleTakesABrokenSnapshotForAGoodOne(t *testing.T) {
	for _, quiet := range []bool{false, true} {
		w := newRetainer(t)
		ids := w.days("main", 0, 2)
		w.breaks(ids[2])
		w.settings.Quiet = quiet
		out, damage, err := w.forgetting(w.store, morning(3), forgetOptions{policy: snapshot.Policy{Last: 1}})
		w.must(err)
		if !errors.Is(damage, repo.ErrDamaged) || classify(damage).code != codeDamaged || !strings.Contains(damage.Error(), ids[2]) || strings.Contains(damage.Error(), ids[1]) {
			t.Errorf("%v", damage)
		}
		if !quiet && !strings.Contains(out, "lacks what is gone") {
			t.Errorf("%s", out)
		}
		if got := w.list("forget/"); !slices.Equal(got, []string{"forget/" + ids[0]}) {
			t.Errorf("%v", got)
		}
	}
}

func TestByNameTooABrokenSnapshotIsNoGoodOne(t *testing.T) {
	w := newRetainer(t)
	ids := w.days("main", 0, 2)
	w.breaks(ids[2])
	err := w.forget(t.Context(), w.open(w.store), []string{ids[0], ids[1]}, forgetOptions{})
	if classify(err).code != codeRefused || len(w.list("forget/")) > 0 {
		t.Errorf("%v: %v", err, w.list("forget/"))
	}
	w.must(w.forget(t.Context(), w.open(w.store), []string{ids[0], ids[2]}, forgetOptions{}))
}

// TestTwoWhoForgetAtOnceLeaveSomething: one has forgotten what the other counts on, just before that one makes its requests.
func TestTwoWhoForgetAtOnceLeaveSomething(t *testing.T) {
	for _, meant := range []bool{false, true} {
		w := newRetainer(t)
		ids := w.days("main", 0, 2)
		done := false
		s := fault.New(w.store, func(op fault.Op) fault.Action {
			if !done && op.Verb == fault.Put && strings.HasPrefix(op.Key, "forget/") {
				done = true
				r := w.open(w.store)
				forget := r.Forget
				if meant {
					forget = r.ForgetLast
				}
				w.must(forget(t.Context(), ids[2]))
			}
			return fault.Action{}
		})
		err := w.forget(t.Context(), w.open(s), []string{ids[0], ids[1]}, forgetOptions{})
		got := w.list("forget/")
		if meant && (err != nil || len(got) != 4) || !meant && (classify(err).code != codeRefused || !slices.Equal(got, []string{"forget/" + ids[2]})) {
			t.Errorf("meant: %v: %v: %v", meant, err, got)
		}
	}
}

// TestASecondLookGoesOnWithTheNextCluster: somebody forgets the newest of both clusters, while all before the newest are forgotten.
func TestASecondLookGoesOnWithTheNextCluster(t *testing.T) {
	for name, forget := range map[string]func(w *retainer, s storage.Store, ids []string) error{
		"by rules": func(w *retainer, s storage.Store, _ []string) error {
			_, _, err := w.forgetting(s, morning(2), forgetOptions{policy: snapshot.Policy{Last: 1}, allClusters: true})
			return err
		},
		"by name": func(w *retainer, s storage.Store, ids []string) error {
			return w.forget(t.Context(), w.open(s), ids, forgetOptions{})
		},
	} {
		w := newRetainer(t)
		a, b := w.days("a", 0, 1), w.days("b", 0, 1)
		s := w.atFirst("forget/", func(r *repo.Repo) {
			w.must(r.Forget(t.Context(), a[1]))
			w.must(r.Forget(t.Context(), b[1]))
		})
		err := forget(w, s, []string{a[0], b[0]})
		if got := w.forgotten(); classify(err).code != codeRefused || !slices.Equal(got, sorted(a[1], b[1])) ||
			!strings.Contains(err.Error(), "this would leave no snapshot of cluster a, and this would leave no snapshot of cluster b;") {
			t.Errorf("%s: %v: %v", name, err, got)
		}
	}
}

// atFirst is the store, in which something happens before the first object is created whose key has a part.
func (w *retainer) atFirst(part string, does func(r *repo.Repo)) storage.Store {
	done := false
	return fault.New(w.store, func(op fault.Op) fault.Action {
		if !done && op.Verb == fault.Put && strings.Contains(op.Key, part) {
			done = true
			does(w.open(w.store))
		}
		return fault.Action{}
	})
}

// TestWhatCannotBeTakenBackIsNamed: before the second look a prune removes what was asked for, or the storage fails for it.
func TestWhatCannotBeTakenBackIsNamed(t *testing.T) {
	for name, want := range map[string]string{
		"a prune":     "could not be taken back: what a prune has removed already: ",
		"the storage": "is taken back, but for what is forgotten all the same: ",
	} {
		w := newRetainer(t)
		ids := w.days("main", 0, 2)
		state := 0
		s := fault.New(w.store, func(op fault.Op) fault.Action {
			switch {
			case state == 0 && op.Verb == fault.Put && op.Key == "forget/"+ids[0]:
				state = 1
				w.must(w.open(w.store).Forget(t.Context(), ids[2]))
			case state == 1 && op.Verb == fault.List && len(w.forgotten()) == 3 && name == "a prune":
				state = 2
				w.prunes(3, 1)
			case op.Verb == fault.Delete && op.Key == "forget/"+ids[0] && name == "the storage":
				return fault.Action{Before: storage.ErrUnreachable}
			}
			return fault.Action{}
		})
		err := w.forget(t.Context(), w.open(s), []string{ids[0], ids[1]}, forgetOptions{})
		if classify(err).code != codeRefused || !strings.Contains(err.Error(), want+ids[0]) {
			t.Errorf("%s: %v", name, err)
		}
		if got := w.forgotten(); slices.Contains(got, ids[1]) || !strings.Contains(w.hint(err), "pgtrove pin "+ids[0]) {
			t.Errorf("%s: %v; hint: %s", name, got, w.hint(err))
		}
	}
}

// TestAWindowIsNotNarrowedAwayWhileSomebodyForgets: one narrows what is older than its window, and another forgets by name what the window rests on, counting on
// what is narrowed.
func TestAWindowIsNotNarrowedAwayWhileSomebodyForgets(t *testing.T) {
	for at, prunes := range map[string]int{"forget/": 0, ".wal": 0, "3.wal": 1} {
		w := newRetainer(t)
		ids := w.days("main", 0, 5)
		o := forgetOptions{policy: snapshot.Policy{Daily: 5, PITR: snapshot.Period{Hours: 24}}}
		part := at
		if prunes > 0 { // once one is narrow
			part = ids[2] + ".wal"
		}
		err := func() error {
			s := w.atFirst(part, func(r *repo.Repo) {
				w.must(w.forget(t.Context(), r, []string{ids[3], ids[4], ids[5]}, forgetOptions{}))
				w.prunes(6, prunes)
			})
			_, _, err := w.forgetting(s, morning(6), o)
			return err
		}()
		if classify(err).code != codeRefused || !strings.Contains(err.Error(), "any more; what was asked for here is taken back") {
			t.Errorf("%s: %v", at, err)
		}
		if strings.Contains(err.Error(), "narrowed for good already: "+ids[1]) != (prunes > 0) {
			t.Errorf("%s: %v", at, err)
		}
		for _, key := range w.list("forget/") {
			if strings.HasSuffix(key, ".wal") || strings.HasSuffix(key, ids[0]) && prunes == 0 {
				t.Errorf("%s: %s stays", at, key)
			}
		}
		w.prunes(7, 4)
		if got := w.windows(); prunes == 0 && !slices.Equal(got, [][2]int{{0, 5}}) {
			t.Errorf("%s: %v", at, got)
		}
	}
}
