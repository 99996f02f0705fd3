package model

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/storage/mem"
)

// settled is a world after a backup, a prune and a pin, without a schedule: every call happens at once.
func settled(t *testing.T) *world {
	t.Helper()
	s := repeat(1, nil)
	m := image0(t)
	store := mem.New(nil)
	w := &world{script: s, plan: newPlan(s.tape(planTape), nil), image: m, oracle: newOracle(m, store), log: newLog(false)}
	w.disk = &disk{Store: store, oracle: w.oracle}
	if err := m.copy(t.Context(), store); err != nil {
		t.Fatal(err)
	}
	var err error
	if w.repo, err = m.open(t.Context(), client{w}); err != nil {
		t.Fatal(err)
	}
	p := &process{w: w, actor: &actor{name: "somebody", tape: s.tape("somebody")}}
	for _, job := range []func() error{
		func() error { return (&writer{image: m, cluster: "main", chunks: 1}).backup(t.Context(), p) },
		func() error { _, err := w.repo.Prune(t.Context(), pruneOptions("here", time.Now)); return err },
	} {
		if err := job(); err != nil {
			t.Fatal(err)
		}
	}
	if w.oracle.check(t.Context()); w.oracle.violation != "" {
		t.Fatal(w.oracle.violation)
	}
	return w
}

func (w *world) remove1(t *testing.T, prefix string) {
	t.Helper()
	for _, key := range slices.Sorted(maps.Keys(w.oracle.objects.there)) {
		if strings.HasPrefix(key, prefix) {
			if err := w.disk.Delete(t.Context(), key); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatalf("nothing is called %s", prefix)
}

func TestTheOracleSeesEveryBrokenPromise(t *testing.T) {
	for name, c := range map[string]struct {
		harm func(t *testing.T, w *world)
		want string
	}{
		"a pack is gone":         {func(t *testing.T, w *world) { w.remove1(t, "packs/") }, "is in no pack"},
		"the base is gone":       {func(t *testing.T, w *world) { w.remove1(t, "base/") }, "which is not there"},
		"the run is gone":        {func(t *testing.T, w *world) { w.remove1(t, "gc/") }, "does not count"},
		"the snapshot is gone":   {func(t *testing.T, w *world) { w.remove1(t, "snapshots/") }, "does not count"},
		"the pinned one is gone": {func(t *testing.T, w *world) { w.forgetPinned(t); w.remove1(t, "snapshots/") }, "its pin was acknowledged"},
		"a session is left": {func(t *testing.T, w *world) {
			if err := w.disk.Put(t.Context(), "sessions/20000101T000000Z-0000000000000000", nil); err != nil {
				t.Fatal(err)
			}
		}, "left over: sessions/"},
		"a mark is left": {func(t *testing.T, w *world) {
			if err := w.disk.Put(t.Context(), "pins/20000101T000000Z-0000000000000000", nil); err != nil {
				t.Fatal(err)
			}
		}, "left over: pins/"},
	} {
		t.Run(name, func(t *testing.T) {
			w := settled(t)
			before := w.oracle.objects.keys()
			c.harm(t, w)
			w.oracle.check(t.Context())
			w.oracle.checkLeft(t.Context(), before)
			if !strings.Contains(w.oracle.violation, c.want) {
				t.Errorf("the oracle says %q, want %q in it", w.oracle.violation, c.want)
			}
		})
	}
}

// forgetPinned makes it known that the snapshot was pinned, and then asked to be forgotten.
func (w *world) forgetPinned(t *testing.T) {
	t.Helper()
	for sid := range maps.Clone(w.oracle.told) {
		w.oracle.pinned(sid)
		w.oracle.forgotten[sid] = true
	}
}

func TestShrinkingFindsTheFewChoicesThatMatter(t *testing.T) {
	fails := func(c map[string][]int) bool {
		return slices.Contains(c["a"], 7) && len(c["b"]) > 3 && c["b"][3] > 1
	}
	before := map[string][]int{"a": {1, 2, 3, 7, 4, 0, 7, 2}, "b": {5, 5, 5, 5, 5, 5}, "c": {1, 2, 3}}
	if !fails(before) {
		t.Fatal("does not fail to begin with")
	}
	after := shrink(before, 10000, fails)
	for name, want := range map[string][]int{"a": {7}, "b": {0, 0, 0, 5}, "c": {}} {
		if !slices.Equal(after[name], want) {
			t.Errorf("%s shrunk to %v, want %v", name, after[name], want)
		}
	}
}
