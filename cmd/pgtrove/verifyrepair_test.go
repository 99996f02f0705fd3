package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/pgtrove/pgtrove/pack"
	"github.com/pgtrove/pgtrove/storage"
)

// packsOf gives the packs of a kind that a snapshot brought.
func (w *retainer) packsOf(sid string, kind pack.Kind) (keys []string) {
	w.t.Helper()
	r := w.open(w.store)
	for _, key := range w.list("packs/" + sid + "/") {
		dir, _, err := r.PackEnd(w.t.Context(), key)
		w.must(err)
		if dir.Kind == kind {
			keys = append(keys, key)
		}
	}
	if len(keys) == 0 {
		w.t.Fatalf("%s has no such pack", sid)
	}
	return keys
}

// alter changes a byte of an object, at an offset from its beginning, or from its end.
func (w *retainer) alter(key string, at int) {
	w.t.Helper()
	b, err := w.store.Get(w.t.Context(), key, storage.Range{}, nil)
	w.must(err)
	b = slices.Clone(b)
	if at < 0 {
		at += len(b)
	}
	b[at] ^= 1
	w.must(w.store.Delete(w.t.Context(), key))
	w.must(w.store.Put(w.t.Context(), key, b))
}

func TestWhatIsLostAfterARepairIsDamageForEveryVerify(t *testing.T) {
	w := newRetainer(t)
	ids := w.days("main", 0, 1)
	lost := w.packsOf(ids[1], pack.Data)[0]
	w.alter(lost, 100)
	if _, _, code := w.verifies(verifyOptions{repair: true, share: readShare{1}}); code != codeDamaged {
		t.Fatalf("exit %d\n%s", code, w.stderr.String())
	}
	for _, share := range []uint64{0, 1, maxSlices} {
		_, damage, code := w.verifies(verifyOptions{share: readShare{share}})
		if code != codeDamaged || len(damage) != 1 || damage[0].Object != lost || !slices.Equal(damage[0].Snapshots, []string{ids[1]}) || len(damage[0].Files) == 0 {
			t.Errorf("%d slices: exit %d, %+v", share, code, damage)
		}
		if !strings.Contains(w.stderr.String(), "`pgtrove forget "+ids[1]+"`") {
			t.Errorf("%d slices: %s", share, w.stderr.String())
		}
	}
	for _, names := range [][]string{{ids[0]}} {
		if _, damage, code := w.verifies(verifyOptions{}, names...); code != 0 {
			t.Errorf("what is sound: exit %d, %+v", code, damage)
		}
	}
}
