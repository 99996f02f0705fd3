package restore

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/pgtrove/pgtrove/pack"
	"github.com/pgtrove/pgtrove/snapshot"
)

func verify(t *testing.T, c *cluster, read bool, snapshots ...*snapshot.Manifest) *VerifyReport {
	t.Helper()
	var done atomic.Int64
	var announced int64
	r, err := Verify(t.Context(), c.repo, c.repo, VerifyOptions{
		Snapshots: snapshots, ReadData: read, Jobs: 3,
		IsDamage: func(err error) bool { return errors.Is(err, errBroken) },
		Events:   VerifyEvents{Read: func(n int64) { done.Add(n) }, Packs: func(_ int, n int64) { announced = n }},
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Damage) == 0 && (done.Load() != announced || announced != r.Bytes) {
		t.Errorf("announced %d bytes, did %d, reports %d", announced, done.Load(), r.Bytes)
	}
	return r
}

// twoSnapshots of a cluster whose second one shares most with the first.
func twoSnapshots(t *testing.T) (*cluster, *snapshot.Manifest, *snapshot.Manifest) {
	t.Helper()
	r := rand.New(rand.NewPCG(1, 2))
	c := newCluster(t)
	for i := range 20 {
		c.files[fmt.Sprintf("data/base/1/%d", i)] = pages(r, 5+r.IntN(60))
	}
	first := c.take(t, "first")
	c.files["data/base/1/3"] = pages(r, 100)
	c.files["data/base/1/new"] = pages(r, 100)
	return c, first, c.take(t, "second")
}

func TestASoundRepositoryHasNoDamage(t *testing.T) {
	c, first, second := twoSnapshots(t)
	for _, read := range []bool{false, true} {
		clear(c.repo.reads)
		clear(c.repo.opened)
		r := verify(t, c, read, first, second)
		if len(r.Damage) != 0 {
			t.Errorf("reading %v: %v", read, r.Damage)
		}
		if r.Snapshots != 2 || r.Files != 22+23 || r.Packs != len(c.repo.packs) || r.Chunks != int64(len(c.repo.index)) {
			t.Errorf("reading %v: %+v, of %d packs and %d chunks", read, r, len(c.repo.packs), len(c.repo.index))
		}
		for key, b := range c.repo.packs {
			if want := map[bool]int{true: len(b), false: min(len(b), c.repo.tail)}[read]; c.repo.reads[key] != int64(want) {
				t.Errorf("reading %v: %d bytes of %s, which has %d", read, c.repo.reads[key], key, len(b))
			}
		}
		for id, loc := range c.repo.index {
			if n := c.repo.opened[id]; loc.Kind == pack.Data && n != map[bool]int{true: 1}[read] {
				t.Errorf("reading %v: chunk %s was opened %d times", read, id.Short(), n)
			}
		}
	}
}

func TestOneSnapshotIsVerifiedWithoutTheOthersChunks(t *testing.T) {
	c, first, second := twoSnapshots(t)
	r := verify(t, c, true, first)
	if len(r.Damage) != 0 || r.Files != 22 || r.Chunks >= int64(len(c.repo.index)) {
		t.Errorf("%+v", r)
	}
	// What only the second needs may be missing.
	for key, d := range c.repo.dirs {
		if d.Kind == pack.Data && !usedBy(t, c, key, first) {
			delete(c.repo.packs, key)
		}
	}
	if r := verify(t, c, true, first); len(r.Damage) != 0 {
		t.Errorf("%v", r.Damage)
	}
	if r := verify(t, c, true, second); len(r.Damage) == 0 {
		t.Error("no damage found in the second")
	}
}

// usedBy says whether a snapshot needs a pack, and which of its files do.
func usedBy(t *testing.T, c *cluster, key string, m *snapshot.Manifest) bool {
	return len(filesIn(t, c, key, 0, 1<<32-1, m)) > 0
}

// filesIn returns the files that need a chunk of the pack between two offsets.
func filesIn(t *testing.T, c *cluster, key string, from, to uint32, m *snapshot.Manifest) []string {
	t.Helper()
	found := map[string]bool{}
	err := m.Root.Walk(t.Context(), c.repo, func(e *snapshot.Entry) error {
		extents, err := snapshot.LoadRecipe(t.Context(), c.repo, e.Recipe)
		if err != nil {
			return err
		}
		for _, x := range extents {
			if loc := c.repo.index[x.ID]; !x.Zero && loc.Pack == key && loc.Offset >= from && loc.Offset <= to {
				found[e.Path] = true
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return slices.Sorted(maps.Keys(found))
}

// sharedPack is a data pack that both snapshots need, with several chunks.
func sharedPack(t *testing.T, c *cluster, a, b *snapshot.Manifest) string {
	t.Helper()
	for _, key := range slices.Sorted(maps.Keys(c.repo.dirs)) {
		if d := c.repo.dirs[key]; d.Kind == pack.Data && len(d.Entries) > 3 && usedBy(t, c, key, a) && usedBy(t, c, key, b) {
			return key
		}
	}
	t.Fatal("no such pack")
	return ""
}

func TestDamageIsFoundWithTheSnapshotsAndFilesConcerned(t *testing.T) {
	c, first, second := twoSnapshots(t)
	key := sharedPack(t, c, first, second)
	whole := c.repo.packs[key]
	e := c.repo.dirs[key].Entries[2]
	end := len(whole)
	for name, x := range map[string]struct {
		damage     func() []byte
		structure  bool // found without reading
		from, to   uint32
		harmsFiles bool
	}{
		"flipped bit in a chunk":    {func() []byte { b := slices.Clone(whole); b[e.Offset+9] ^= 4; return b }, false, e.Offset, e.Offset, true},
		"flipped bit behind them":   {func() []byte { b := slices.Clone(whole); b[7] ^= 4; return b }, false, 0, 0, false},
		"truncated":                 {func() []byte { return whole[:end-20] }, true, 0, 1<<32 - 1, true},
		"truncated in a chunk":      {func() []byte { return whole[:e.Offset+1] }, true, 0, 1<<32 - 1, true},
		"missing":                   {func() []byte { return nil }, true, 0, 1<<32 - 1, true},
		"another pack in its place": {func() []byte { return slices.Concat(whole[:8], make([]byte, end-8-len(trailer)), []byte(trailer)) }, false, 0, 1<<32 - 1, true},
	} {
		if b := x.damage(); b != nil {
			c.repo.packs[key] = b
		} else {
			delete(c.repo.packs, key)
		}
		for _, read := range []bool{false, true} {
			r := verify(t, c, read, first, second)
			if !read && !x.structure {
				if len(r.Damage) != 0 {
					t.Errorf("%s: found without reading: %v", name, r.Damage)
				}
				continue
			}
			if len(r.Damage) != 1 || r.Damage[0].Object != key || r.Damage[0].Err == nil {
				t.Errorf("%s, reading %v: %v", name, read, r.Damage)
				continue
			}
			d := r.Damage[0]
			if !x.harmsFiles {
				if len(d.Snapshots) != 0 {
					t.Errorf("%s: concerns %v", name, d.Snapshots)
				}
				continue
			}
			var files []string
			var ids []string
			for _, m := range []*snapshot.Manifest{first, second} {
				in := filesIn(t, c, key, x.from, x.to, m)
				if len(in) > 0 {
					ids = append(ids, m.ID)
				}
				files = append(files, in...)
			}
			slices.Sort(files)
			slices.Sort(d.Files)
			if !slices.Equal(d.Snapshots, ids) || !slices.Equal(d.Files, slices.Compact(files)) {
				t.Errorf("%s, reading %v: concerns %v %v, want %v %v", name, read, d.Snapshots, d.Files, ids, files)
			}
		}
		c.repo.packs[key] = whole
	}
}

func TestAChunkThatTheIndexHasLostIsFound(t *testing.T) {
	c, first, second := twoSnapshots(t)
	key := sharedPack(t, c, first, second)
	e := c.repo.dirs[key].Entries[1]
	files := filesIn(t, c, key, e.Offset, e.Offset, second)
	delete(c.repo.index, e.ID)
	r := verify(t, c, false, first, second)
	if len(r.Damage) != 1 || r.Damage[0].Object != "chunk "+e.ID.String() || !slices.Equal(r.Damage[0].Files, files) {
		t.Errorf("%v, want files %v", r.Damage, files)
	}
}

func TestAPackThatHoldsOtherChunksThanTheIndexSaysIsFound(t *testing.T) {
	c, first, second := twoSnapshots(t)
	key := sharedPack(t, c, first, second)
	d := *c.repo.dirs[key]
	d.Entries = slices.Clone(d.Entries)
	d.Entries[0].ID[0] ^= 1
	c.repo.dirs[key] = &d
	r := verify(t, c, false, first)
	if len(r.Damage) != 1 || r.Damage[0].Object != key || !errors.Is(r.Damage[0].Err, ErrMismatch) {
		t.Errorf("%v", r.Damage)
	}
}

func TestADamagedListingConcernsItsSnapshotAndNoOther(t *testing.T) {
	c, first, second := twoSnapshots(t)
	id := second.Root.Chunks[len(second.Root.Chunks)-1]
	if slices.Contains(first.Root.Chunks, id) {
		t.Fatal("the listings are the same")
	}
	loc := c.repo.index[id]
	c.repo.packs[loc.Pack][loc.Offset] ^= 1
	r := verify(t, c, false, first, second)
	found := false
	for _, d := range r.Damage {
		if slices.Contains(d.Snapshots, "first") {
			t.Errorf("concerns the first: %v", d)
		}
		found = found || slices.Contains(d.Snapshots, "second") && strings.Contains(d.Err.Error(), loc.Pack)
	}
	if !found {
		t.Errorf("%v", r.Damage)
	}
}

func TestAnOutageIsNoDamage(t *testing.T) {
	c, first, _ := twoSnapshots(t)
	c.repo.failRead = errors.New("cable pulled")
	_, err := Verify(t.Context(), c.repo, c.repo, VerifyOptions{
		Snapshots: []*snapshot.Manifest{first}, ReadData: true, Jobs: 2, IsDamage: func(err error) bool { return errors.Is(err, errBroken) },
	})
	if !errors.Is(err, c.repo.failRead) {
		t.Error(err)
	}
}

// TestHoweverManySnapshotsShareItEverythingIsReadOnce: what is stored, and the metadata of unchanged files.
func TestHoweverManySnapshotsShareItEverythingIsReadOnce(t *testing.T) {
	c, _, second := twoSnapshots(t)
	for _, shared := range []int{1, 5} {
		clear(c.repo.reads)
		clear(c.repo.asked)
		var all []*snapshot.Manifest
		for n := range shared {
			m := *second
			m.ID = fmt.Sprint("copy ", n)
			all = append(all, &m)
		}
		r := verify(t, c, true, all...)
		if len(r.Damage) > 0 || r.Snapshots != shared || r.ReadPacks != r.Packs || r.ReadBytes != r.Bytes {
			t.Errorf("%+v", r)
		}
		for key, n := range c.repo.reads {
			if n != int64(len(c.repo.packs[key])) {
				t.Errorf("%d snapshots: %d bytes were read of %s, which has %d", shared, n, key, len(c.repo.packs[key]))
			}
		}
		for id, n := range c.repo.asked {
			if n != 1 {
				t.Errorf("%d snapshots: metadata %s was read %d times", shared, id.Short(), n)
			}
		}
	}
}

func TestOnlyChosenPacksAreRead(t *testing.T) {
	c, first, second := twoSnapshots(t)
	key := sharedPack(t, c, first, second)
	for _, chosen := range []string{key, "another"} {
		clear(c.repo.reads)
		c.repo.packs[key][c.repo.dirs[key].Entries[1].Offset] ^= 1
		r, err := Verify(t.Context(), c.repo, c.repo, VerifyOptions{
			Snapshots: []*snapshot.Manifest{first, second}, ReadData: true, IsDamage: func(err error) bool { return errors.Is(err, errBroken) },
			Chosen: func(pack string) bool { return pack == chosen },
		})
		if err != nil || len(r.Damage) != map[bool]int{true: 1}[chosen == key] {
			t.Errorf("%s: %+v %v", chosen, r, err)
		}
		c.repo.packs[key][c.repo.dirs[key].Entries[1].Offset] ^= 1
		for other, n := range c.repo.reads {
			if want := map[bool]int{true: len(c.repo.packs[other]), false: min(c.repo.tail, len(c.repo.packs[other]))}[other == chosen]; n != int64(want) {
				t.Errorf("%d bytes were read of %s", n, other)
			}
		}
	}
}

func TestAllFilesAreNamedIfThatIsAskedFor(t *testing.T) {
	c := newCluster(t)
	r := rand.New(rand.NewPCG(3, 4))
	for i := range maxFilesNamed + 10 {
		c.files[fmt.Sprintf("data/base/1/%02d", i)] = pages(r, 3)
	}
	m := c.take(t, "first")
	for key := range c.repo.dirs {
		if c.repo.dirs[key].Kind == pack.Data {
			delete(c.repo.packs, key)
		}
	}
	total := 0
	for _, all := range []bool{true, false} {
		r, err := Verify(t.Context(), c.repo, c.repo, VerifyOptions{Snapshots: []*snapshot.Manifest{m, m}, AllFiles: all, IsDamage: func(err error) bool { return errors.Is(err, errBroken) }})
		if err != nil || len(r.Damage) != 1 {
			t.Fatalf("%+v %v", r, err)
		}
		d := r.Damage[0]
		if all {
			total = len(filesIn(t, c, d.Object, 0, 1<<32-1, m))
		}
		if (d.MoreFiles == 0) != all || total <= maxFilesNamed || len(d.Files)+int(d.MoreFiles) != total {
			t.Errorf("all %v: %d of %d files are named, and %d more", all, len(d.Files), total, d.MoreFiles)
		}
	}
}

// givenUp is a memRepo one of whose packs was given up.
type givenUp struct {
	*memRepo
	pack string
}

func (g givenUp) IsGivenUp(pack string) bool { return pack == g.pack }

func TestWhatStandsOnlyInAPackThatWasGivenUpIsDamaged(t *testing.T) {
	c, first, second := twoSnapshots(t)
	key := sharedPack(t, c, first, second)
	c.repo.packs[key][c.repo.dirs[key].Entries[1].Offset] ^= 1
	for _, read := range []bool{false, true} {
		r, err := Verify(t.Context(), givenUp{c.repo, key}, c.repo, VerifyOptions{
			Snapshots: []*snapshot.Manifest{first, second}, ReadData: read, IsDamage: func(err error) bool { return errors.Is(err, errBroken) },
		})
		if err != nil || len(r.Damage) != 1 || r.Damage[0].Object != key || !slices.Equal(r.Damage[0].Snapshots, []string{"first", "second"}) || len(r.Damage[0].Files) == 0 {
			t.Errorf("reading %v: %+v %v", read, r, err)
		}
	}
}
