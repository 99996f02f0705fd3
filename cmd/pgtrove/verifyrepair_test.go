package main

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/pack"
	"github.com/pgtrove/pgtrove/repo"
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

// rebuilds makes the index anew and returns the advice.
func (w *retainer) rebuilds() (hint string) {
	w.t.Helper()
	r := w.open(w.store)
	report, err := r.Rebuild(w.t.Context(), repo.RebuildOptions{Now: func() time.Time { return w.now }, Ended: endedAt})
	w.must(err)
	given, err := givenUp(w.t.Context(), r, report.Unreadable)
	w.must(err)
	if err = w.rebuildShortcomings(report, given); err == nil {
		return ""
	}
	return w.hint(err)
}

func (w *retainer) dropIndex() {
	w.t.Helper()
	for _, key := range append(w.list("index/"), w.list("base/")...) {
		w.must(w.store.Delete(w.t.Context(), key))
	}
	w.settings.CacheDir = w.t.TempDir()
}

func TestTheAdviceComesToAnEndWhereNothingSaysWhatAPackHolds(t *testing.T) {
	w := newRetainer(t)
	ids := w.days("main", 0, 1)
	key := w.packsOf(ids[1], pack.Data)[0]
	w.dropIndex()
	if _, _, code := w.verifies(verifyOptions{}); code != codeDamaged || !strings.Contains(w.stderr.String(), "hint: `pgtrove rebuild-index`") {
		t.Errorf("the packs say it: exit %d\n%s", code, w.stderr.String())
	}
	w.alter(key, -30)
	if hint := w.rebuilds(); !strings.Contains(hint, "`pgtrove verify --repair`") {
		t.Errorf("%s", hint)
	}
	advised := func(what string) {
		t.Helper()
		for _, part := range []string{"take a backup", "`pgtrove forget " + ids[1] + "`"} {
			if said := w.stderr.String(); !strings.Contains(said, part) || strings.Contains(said, "rebuild-index") {
				t.Errorf("%s: %s", what, said)
			}
		}
	}
	w.verifies(verifyOptions{})
	advised("verify")
	if _, _, code := w.verifies(verifyOptions{repair: true, share: readShare{1}}); code != codeDamaged {
		t.Errorf("exit %d", code)
	}
	advised("repair")
	if requests := w.list("forget/packs/"); !slices.Equal(requests, []string{"forget/" + key}) {
		t.Errorf("%v", requests)
	}
	if hint := w.rebuilds(); !strings.Contains(hint, "take a backup") {
		t.Errorf("%s", hint)
	}
}

// TestARepairListsWhatIsLostThoughAListingIsDamagedToo: only the snapshot whose listing is damaged needs what else is damaged.
func TestARepairListsWhatIsLostThoughAListingIsDamagedToo(t *testing.T) {
	w := newRetainer(t)
	ids := w.days("main", 0, 1)
	data, meta := w.packsOf(ids[0], pack.Data)[0], w.packsOf(ids[0], pack.Meta)[0]
	own := pack.Entry{}
	for key, all := range map[string]bool{data: false, meta: true} {
		dir, _, err := w.open(w.store).PackEnd(t.Context(), key)
		w.must(err)
		for _, e := range dir.Entries {
			if all {
				w.alter(key, int(e.Offset)+5)
			} else if e.Sealed > own.Sealed {
				own = e
			}
		}
	}
	w.alter(data, int(own.Offset)+5)
	o := verifyOptions{repair: true, share: readShare{1}}
	if _, _, code := w.verifies(o); code != codeDamaged {
		t.Errorf("exit %d", code)
	}
	if out := w.stdout.String(); !strings.Contains(out, `{"type":"lost","object":"`+data+`"`) || !strings.Contains(out, `"chunks":["`+own.ID.String()+`"]`) || strings.Contains(out, "null") {
		t.Errorf("%s", out)
	}
	if said := w.stderr.String(); strings.Contains(said, "pgtrove forget") || !strings.Contains(said, "take a backup") {
		t.Errorf("%s", said)
	}
	if w.verifies(o); !strings.Contains(w.stderr.String(), "`pgtrove forget "+ids[0]+"`") {
		t.Errorf("after that: %s", w.stderr.String())
	}
}
