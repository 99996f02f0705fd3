package crash

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/restore"
	"github.com/pgtrove/pgtrove/snapshot"
	"github.com/pgtrove/pgtrove/storage"
	"github.com/pgtrove/pgtrove/storage/fault"
)

func rebuilding() operation {
	return operation{
		name: "rebuild-index",
		do: func(ctx context.Context, w *world, r *repo.Repo) error {
			_, err := r.Rebuild(ctx, repo.RebuildOptions{Host: "backup1", Now: w.now.Now})
			return err
		},
		told: func(t *testing.T, w *world, what string, err error) {},
		done: func(*testing.T, *world) bool { return false },
	}
}

// change replaces an object; nil deletes it.
func (w *world) change(t *testing.T, key string, how func(b []byte) []byte) {
	t.Helper()
	b, err := w.store.Get(t.Context(), key, storage.Range{}, nil)
	must(t, err)
	must(t, w.store.Delete(t.Context(), key))
	if b = how(b); b != nil {
		must(t, w.store.Put(t.Context(), key, b))
	}
}

func (w *world) keys(t *testing.T, prefix string) (keys []string) {
	t.Helper()
	must(t, w.store.List(t.Context(), prefix, func(i storage.Info) error { keys = append(keys, i.Key); return nil }))
	return keys
}

// eachCrash ends the operation at every call, in every way, each time in a copy of base.
func eachCrash(t *testing.T, base *world, op operation, after func(t *testing.T, w *world, what string, err error)) {
	t.Helper()
	n := base.clone(t).count(t, op)
	for _, e := range endings() {
		for at := 1; at <= n && !t.Failed(); at++ {
			w := base.clone(t)
			err := w.disturbed(t, op, func(o fault.Op) fault.Action { return e.at(o, at) })
			after(t, w, fmt.Sprintf("call %d of %d, %s", at, n, e.name), err)
		}
	}
	t.Logf("%d calls, each gone wrong in %d ways", n, len(endings()))
}

func TestARebuildOfADamagedIndexMayEndAnywhere(t *testing.T) {
	onTmpfs(t)
	base, _, kept := history(t)
	reference := base.clone(t).settle(t, rebuilding(), "undisturbed")
	base.change(t, base.keys(t, "base/")[0], func(b []byte) []byte { return nil })
	base.change(t, base.keys(t, "index/"+kept)[0], func(b []byte) []byte { b[50] ^= 1; return b })
	eachCrash(t, base, rebuilding(), func(t *testing.T, w *world, what string, err error) {
		if err == nil {
			w.sound(t, what, kept)
		}
		if got := w.settle(t, rebuilding(), what); !maps.EqualFunc(got, reference, slices.Equal[[]string]) {
			t.Errorf("%s: in the end there is\n%s\nand not\n%s", what, show(got), show(reference))
		}
	})
}

// unreadable gives the files that cannot be restored, by snapshot, and the damaged packs.
func (w *world) unreadable(t *testing.T) (files, packs []string) {
	t.Helper()
	r := w.open(t, w.store)
	v, err := r.OpenView(t.Context(), "", cluster)
	must(t, err)
	defer func() { must(t, v.Close()) }()
	var all []*snapshot.Manifest
	must(t, r.Commits(t.Context(), "", func(c repo.Commit) error {
		m, err := snapshot.ParseManifest(c.Manifest)
		all = append(all, m)
		return err
	}))
	report, err := restore.Verify(t.Context(), v, r, restore.VerifyOptions{Snapshots: all, ReadData: true, AllFiles: true, IsDamage: isLoss})
	must(t, err)
	for _, d := range report.Damage {
		for _, s := range d.Snapshots {
			for _, f := range d.Files {
				files = append(files, s+" "+f)
			}
		}
		if strings.HasPrefix(d.Object, "packs/") {
			packs = append(packs, d.Object)
		}
	}
	slices.Sort(files)
	return slices.Compact(files), packs
}

func TestARepairMayEndAnywhere(t *testing.T) {
	onTmpfs(t)
	base, _, kept := history(t)
	r := base.open(t, base.store)
	pack := ""
	for _, key := range base.keys(t, "packs/"+kept) {
		if dir, err := r.PackDirectory(t.Context(), key); err == nil && dir.Kind == 1 && len(dir.Entries) > 1 {
			pack = key
			base.change(t, key, func(b []byte) []byte { b[dir.Entries[0].Offset+9] ^= 1; return b })
			break
		}
	}
	lost, packs := base.unreadable(t)
	if len(lost) == 0 || !slices.Equal(packs, []string{pack}) {
		t.Fatalf("%v of %v are lost", lost, packs)
	}
	repairing := operation{name: "repair", do: func(ctx context.Context, w *world, r *repo.Repo) error {
		v, err := r.OpenView(ctx, "", cluster)
		if err != nil {
			return err
		}
		_, err = r.Repair(ctx, v, repo.RepairOptions{Host: "backup1", Now: w.now.Now, Packs: packs})
		if closed := v.Close(); err == nil {
			err = closed
		}
		return err
	}}
	eachCrash(t, base, repairing, func(t *testing.T, w *world, what string, err error) {
		if now, _ := w.unreadable(t); !slices.Equal(now, lost) {
			t.Errorf("%s: lost are %v, and were %v", what, now, lost)
		}
		if marked := w.keys(t, "forget/packs/"); err == nil && len(marked) == 0 {
			t.Errorf("%s: success was told, and nothing is marked", what)
		}
		must(t, repairing.do(t.Context(), w, w.open(t, w.store)))
		w.take(t, w.taken[kept])
		w.sound(t, what, kept)
		for range 5 {
			w.prune(t)
		}
		w.sound(t, what+", then prunes", kept)
		if left := slices.Concat(w.keys(t, pack), w.keys(t, "forget/packs/")); len(left) > 0 {
			t.Errorf("%s: left: %v", what, left)
		}
	})
}
