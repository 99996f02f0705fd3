package main

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/snapshot"
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
