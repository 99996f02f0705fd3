package restore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/pack"
	"github.com/pgtrove/pgtrove/snapshot"
)

// movingCluster has a snapshot in several packs.
func movingCluster(t *testing.T) (*cluster, *snapshot.Manifest) {
	t.Helper()
	r := rand.New(rand.NewPCG(11, 12))
	c := newCluster(t)
	c.repo.limit = 200_000
	for i := range 6 {
		c.files[fmt.Sprintf("data/base/1/%d", i)] = pages(r, 20+r.IntN(60))
	}
	return c, c.take(t, "snap")
}

// runFrom restores from v and compares with the cluster's files.
func runFrom(t *testing.T, c *cluster, v *moving, m *snapshot.Manifest, jobs int) error {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "data")
	_, err := Run(t.Context(), v, Options{Snapshot: m, To: dir, Jobs: jobs, Recovery: recovery(), IsDamage: isBroken})
	if err != nil {
		if _, err := os.Stat(filepath.Join(dir, "global/pg_control")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a restore that failed left pg_control: %v", err)
		}
		return err
	}
	for path, want := range c.files {
		got, err := os.ReadFile(filepath.Join(dir, strings.TrimPrefix(path, "data/")))
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %d bytes of %d, or others: %v", path, len(got), len(want), err)
		}
	}
	return nil
}

func TestARestoreGoesOnWhenPrunesMovePacksMeanwhile(t *testing.T) {
	c, m := movingCluster(t)
	whole := newMoving(c.repo)
	if err := runFrom(t, c, whole, m, 1); err != nil || whole.reads < 6 {
		t.Fatalf("%d reads: %v", whole.reads, err)
	}
	for _, jobs := range []int{1, 3} {
		for at := 1; at <= whole.reads; at++ {
			c, m := movingCluster(t)
			v := newMoving(c.repo)
			v.at, v.happen = at, func() { v.move(v.keys(pack.Data, pack.Meta)...) }
			if err := runFrom(t, c, v, m, jobs); err != nil {
				t.Fatalf("everything moved before read %d, %d jobs: %v", at, jobs, err)
			}
			if jobs == 1 && v.reloads > 1 {
				t.Errorf("everything moved once, before read %d, and the index was loaded %d times", at, v.reloads)
			}
			for id, n := range v.opened {
				if loc := v.places[id][0]; loc.Kind == pack.Data && n != 1 {
					t.Errorf("moved before read %d: chunk %s was opened %d times", at, id.Short(), n)
				}
			}
		}
	}
}

func TestWhatIsGoneForGoodEndsARestoreAndIsNamed(t *testing.T) {
	for _, kind := range []pack.Kind{pack.Data, pack.Meta} {
		c, m := movingCluster(t)
		v := newMoving(c.repo)
		key := v.keys(kind)[0]
		v.at, v.happen = 1, func() { v.remove(key) }
		err := runFrom(t, c, v, m, 2)
		if !errors.Is(err, errBroken) || kind == pack.Data && !strings.Contains(err.Error(), key) {
			t.Errorf("kind %d: %v", kind, err)
		}
		if v.reloads == 0 || v.reloads > 2*maxReloads {
			t.Errorf("kind %d: the index was loaded %d times", kind, v.reloads)
		}
	}
}

func TestADamagedChunkIsReadFromItsOtherPlace(t *testing.T) {
	c, m := movingCluster(t)
	v := newMoving(c.repo)
	for _, key := range v.keys(pack.Data) {
		v.repack(key)
		b := v.packs[key]
		for _, e := range v.dirs[key].Entries {
			b[e.Offset+1] ^= 1
		}
	}
	// The damaged places come last: they are looked at first.
	for _, all := range v.places {
		slices.Reverse(all)
	}
	_ = v.Reload(t.Context())
	v.reloads = 0
	if err := runFrom(t, c, v, m, 2); err != nil || v.reloads != 0 {
		t.Errorf("the index was loaded %d times: %v", v.reloads, err)
	}
}

func TestAPlaceThatHoldsSomethingElseIsNotTaken(t *testing.T) {
	c, m := movingCluster(t)
	v := newMoving(c.repo)
	for id, all := range v.places {
		wrong := all[0]
		wrong.Kind, wrong.Pack = pack.Archive, "packs/s/other"
		v.places[id] = append(slices.Clone(all), wrong)
		slices.Reverse(v.places[id])
	}
	_ = v.Reload(t.Context())
	key := v.keys(pack.Data)[0]
	v.at, v.happen = 3, func() { v.drop(key) }
	if err := runFrom(t, c, v, m, 1); !errors.Is(err, errBroken) {
		t.Errorf("got %v", err)
	}
}

func TestAnOutageIsNotTakenForAMovedPack(t *testing.T) {
	c, m := movingCluster(t)
	v := newMoving(c.repo)
	down := errors.New("storage does not answer")
	v.at, v.happen = 8, func() { v.fail(down) }
	if err := runFrom(t, c, v, m, 2); !errors.Is(err, down) || v.reloads != 0 {
		t.Errorf("the index was loaded %d times: %v", v.reloads, err)
	}
	c, m = movingCluster(t)
	v = newMoving(c.repo)
	v.down = down
	key := v.keys(pack.Data)[0]
	v.at, v.happen = 3, func() { v.move(key) }
	if err := runFrom(t, c, v, m, 2); !errors.Is(err, down) || errors.Is(err, errBroken) || !strings.Contains(err.Error(), key) {
		t.Errorf("an index that cannot be loaded: %v", err)
	}
}

func verifyMoving(t *testing.T, v *moving, read bool, o VerifyOptions) *VerifyReport {
	t.Helper()
	o.ReadData, o.Jobs, o.IsDamage = read, 2, isBroken
	r, err := Verify(t.Context(), v, v, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestVerifyDoesNotCallDamagedWhatPrunesMoved(t *testing.T) {
	for _, read := range []bool{false, true} {
		c, m := movingCluster(t)
		v := newMoving(c.repo)
		o := VerifyOptions{Snapshots: []*snapshot.Manifest{m}}
		want := verifyMoving(t, v, read, o)
		for at := 1; at <= v.reads; at++ {
			c, m := movingCluster(t)
			v := newMoving(c.repo)
			v.at, v.happen = at, func() { v.move(v.keys(pack.Data, pack.Meta)...) }
			r := verifyMoving(t, v, read, VerifyOptions{Snapshots: []*snapshot.Manifest{m}})
			if len(r.Damage) != 0 || r.Files != want.Files || r.Chunks != want.Chunks || r.Snapshots != 1 {
				t.Errorf("moved before read %d: %+v", at, r)
			}
		}
	}
}

func TestVerifyStillFindsDamageThatAnotherLookDoesNotExplain(t *testing.T) {
	c, m := movingCluster(t)
	v := newMoving(c.repo)
	gone, flipped := v.keys(pack.Data)[0], v.keys(pack.Data)[1]
	delete(v.packs, gone)
	v.packs[flipped][v.dirs[flipped].Entries[0].Offset] ^= 1
	r := verifyMoving(t, v, true, VerifyOptions{Snapshots: []*snapshot.Manifest{m}})
	if len(r.Damage) != 2 || r.Damage[0].Snapshots == nil || r.Damage[1].Snapshots == nil || v.reloads != 1 {
		t.Errorf("%d looks: %v", v.reloads, r.Damage)
	}
}

// needs lists the packs that a snapshot needs.
type needs struct {
	*memRepo
	packs map[string]bool
}

func (n *needs) MetaChunk(ctx context.Context, id chunk.ID) ([]byte, error) {
	n.packs[n.index[id].Pack] = true
	return n.memRepo.MetaChunk(ctx, id)
}

func packsOf(t *testing.T, c *cluster, m *snapshot.Manifest) map[string]bool {
	t.Helper()
	n := &needs{c.repo, map[string]bool{}}
	if err := m.Root.Walk(t.Context(), n, func(e *snapshot.Entry) error {
		extents, err := snapshot.LoadRecipe(t.Context(), n, e.Recipe)
		for _, x := range extents {
			n.packs[c.repo.index[x.ID].Pack] = true
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return n.packs
}

func TestVerifyLeavesOutSnapshotsThatWereRemovedMeanwhile(t *testing.T) {
	c, first, second := twoSnapshots(t)
	keep := packsOf(t, c, second)
	v := newMoving(c.repo)
	v.at, v.happen = 1, func() {
		for key := range packsOf(t, c, first) {
			if !keep[key] {
				v.remove(key)
			}
		}
	}
	counts := func(_ context.Context, id string) (bool, error) { return id == second.ID, nil }
	r := verifyMoving(t, v, true, VerifyOptions{Snapshots: []*snapshot.Manifest{first, second}, Counts: counts})
	if len(r.Damage) != 0 || r.Snapshots != 1 || r.Files != second.Totals.Files || !slices.Equal(r.Removed, []string{first.ID}) {
		t.Errorf("%+v", r)
	}
	r = verifyMoving(t, v, true, VerifyOptions{Snapshots: []*snapshot.Manifest{first, second}})
	if len(r.Damage) == 0 {
		t.Error("nothing was removed")
	}
}
