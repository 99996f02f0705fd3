package restore

import (
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/pack"
	"github.com/pgtrove/pgtrove/snapshot"
)

// digestRepo knows page digests, too, and counts who asks.
type digestRepo struct {
	*memRepo
	digests map[chunk.ID][]chunk.Prefix
	askedOf []chunk.ID
}

func (d *digestRepo) PageDigests(_ context.Context, ids []chunk.ID, each func(chunk.ID, []chunk.Prefix) error) error {
	for _, id := range ids {
		d.askedOf = append(d.askedOf, id)
		if err := each(id, d.digests[id]); err != nil {
			return err
		}
	}
	return nil
}

// trial is a file whose recipe names pages of one chunk of ten.
type trial struct {
	repo  *digestRepo
	id    chunk.ID
	pages [][]byte // of the chunk
	dir   string
	judge *judge
}

func newTrial(t *testing.T) *trial {
	t.Helper()
	x := &trial{repo: &digestRepo{memRepo: newMemRepo(), digests: map[chunk.ID][]chunk.Prefix{}}, dir: t.TempDir()}
	rnd := rand.NewChaCha8([32]byte{1})
	all := make([]byte, 10*8192)
	_, _ = rnd.Read(all)
	x.pages = slices.Collect(slices.Chunk(all, 8192))
	h := chunk.NewHasher(testKey())
	digests := h.PageDigests(nil, 13, all)
	var err error
	x.id, err = x.repo.Pages(t.Context(), 13, digests, all)
	must(t, err)
	x.repo.finish(pack.Data)
	for i := range digests {
		x.repo.digests[x.id] = append(x.repo.digests[x.id], digests[i].Prefix())
	}
	x.judge = &judge{c: newSource(x.repo, nil), key: testKey(), jobs: 2}
	return x
}

// file makes a file of these pages of the chunk; -1 is some other page.
func (x *trial) file(t *testing.T, name string, pages ...int) place {
	t.Helper()
	var b []byte
	for _, p := range pages {
		if p < 0 {
			b = append(b, make([]byte, 8191)...)
			b = append(b, 7)
			continue
		}
		b = append(b, x.pages[p]...)
	}
	must(t, os.WriteFile(filepath.Join(x.dir, name), b, 0o600))
	root, err := os.OpenRoot(x.dir)
	must(t, err)
	t.Cleanup(func() { root.Close() })
	return place{root, name}
}

// recipe names runs of the chunk's pages: first and count.
func (x *trial) recipe(runs ...[2]uint32) []snapshot.Extent {
	var all []snapshot.Extent
	for _, r := range runs {
		all = append(all, snapshot.Extent{ID: x.id, Form: 13, First: r[0], Count: r[1]})
	}
	return all
}

func TestWhatIsBelievedOnWhatEvidence(t *testing.T) {
	whole := [][2]uint32{{0, 10}}
	parts := [][2]uint32{{4, 6}, {0, 2}, {2, 2}} // all of it, at other places
	some := [][2]uint32{{2, 3}}
	for name, c := range map[string]struct {
		runs   [][2]uint32
		own    []int
		donor  []int
		strict bool
		lie    bool // the prefixes are those of the file's pages, though the chunk's name is not
		right  bool
		asked  bool
		copied int64
	}{
		"all of a chunk":                        {runs: whole, own: []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, right: true},
		"all but a page":                        {runs: whole, own: []int{0, 1, 2, 3, 4, -1, 6, 7, 8, 9}},
		"all of it in parts":                    {runs: parts, own: []int{4, 5, 6, 7, 8, 9, 0, 1, 2, 3}, right: true, strict: true},
		"parts in another order":                {runs: parts, own: []int{4, 5, 6, 7, 8, 9, 1, 0, 2, 3}},
		"all of it, and a page again":           {runs: [][2]uint32{{0, 4}, {4, 6}, {3, 1}}, own: []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 3}, right: true},
		"all of it, and a wrong page":           {runs: [][2]uint32{{0, 4}, {4, 6}, {3, 1}}, own: []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, -1}, asked: true},
		"a part":                                {runs: some, own: []int{2, 3, 4}, right: true, asked: true},
		"a part that must be proved":            {runs: some, own: []int{2, 3, 4}, strict: true},
		"a part with a wrong page":              {runs: some, own: []int{2, -1, 4}, asked: true},
		"the same part twice":                   {runs: [][2]uint32{{2, 1}, {2, 1}}, own: []int{2, 2}, right: true, asked: true},
		"the same part once right":              {runs: [][2]uint32{{2, 1}, {2, 1}}, own: []int{2, -1}, asked: true},
		"a short file":                          {runs: some, own: []int{2, 3}},
		"from a donor":                          {runs: whole, own: []int{0, 1, 2, 3, -1, 5, 6, 7, 8, 9}, donor: []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, right: true, copied: 10},
		"in parts from a donor":                 {runs: parts, own: []int{4, 5, 6, 7, 8, 9, 0, 1, 2, -1}, donor: []int{4, 5, 6, 7, 8, 9, 0, 1, 2, 3}, right: true, copied: 10},
		"a part from a donor":                   {runs: some, own: []int{2, -1, 4}, donor: []int{2, 3, 4}, right: true, asked: true, copied: 1},
		"from both":                             {runs: whole, own: []int{0, 1, 2, 3, -1, 5, 6, 7, 8, 9}, donor: []int{-1, 1, 2, 3, 4, 5, 6, 7, 8, -1}, right: true, asked: true, copied: 1},
		"from neither":                          {runs: whole, own: []int{0, 1, 2, 3, -1, 5, 6, 7, 8, 9}, donor: []int{0, 1, 2, 3, -1, 5, 6, 7, 8, 9}, asked: true},
		"equal beginnings, another name":        {runs: whole, own: []int{0, 1, 2, 3, -1, 5, 6, 7, 8, 9}, donor: []int{-1, 1, 2, 3, 4, 5, 6, 7, 8, 9}, asked: true, lie: true},
		"only a donor":                          {runs: whole, donor: []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, right: true, copied: 10},
		"only a part, from a donor":             {runs: some, donor: []int{2, 3, 4}, right: true, asked: true, copied: 3},
		"only a part, from a donor, not enough": {runs: some, donor: []int{2, 3, 4}, strict: true},
	} {
		x := newTrial(t)
		f := &local{extents: x.recipe(c.runs...), fresh: c.own == nil}
		for i := range f.extents {
			f.size += f.extents[i].Bytes()
		}
		f.own = x.file(t, "own", c.own...)
		if c.donor != nil {
			d := x.file(t, "donor", c.donor...)
			f.donor = &d
		}
		if c.lie {
			h := chunk.NewHasher(testKey())
			b, err := os.ReadFile(f.own.path())
			must(t, err)
			for i, d := range h.PageDigests(nil, 13, b) {
				x.repo.digests[x.id][i] = d.Prefix()
			}
		}
		x.judge.strict = c.strict
		must(t, x.judge.all(t.Context(), []*local{f}))
		if got := !slices.Contains(f.right, false); got != c.right {
			t.Errorf("%s: right %v, want %v", name, f.right, c.right)
		}
		if asked := len(x.repo.askedOf) > 0; asked != c.asked {
			t.Errorf("%s: asked for page digests: %v, want %v", name, asked, c.asked)
		}
		if x.judge.found.copied != c.copied*8192 {
			t.Errorf("%s: copied %d bytes, want %d pages", name, x.judge.found.copied, c.copied)
		}
		if !c.right {
			continue
		}
		var want []byte
		for _, r := range c.runs {
			for k := r[0]; k < r[0]+r[1]; k++ {
				want = append(want, x.pages[k]...)
			}
		}
		if got, err := os.ReadFile(f.own.path()); err != nil || string(got) != string(want) {
			t.Errorf("%s: taken for right, and is not: %v", name, err)
		}
	}
}

func TestTwoPlacesOfOnePageAreTheSamePage(t *testing.T) {
	prefix := chunk.Prefix{1}
	a, b := chunk.Digest{1}, chunk.Digest{1, 31: 1} // which begin alike
	for name, second := range map[string]chunk.Digest{"the same": a, "another": b} {
		f := &local{
			extents: []snapshot.Extent{{Form: 13, First: 2, Count: 1}, {Form: 13, First: 2, Count: 1}},
			looks:   []look{{own: []chunk.Digest{a}}, {own: []chunk.Digest{second}}},
		}
		d := &doubt{file: f, uses: []int{0, 1}, at: []int64{0, 8192}}
		if fits := d.choose(chunk.NewHasher(testKey()), chunk.ID{}, []chunk.Prefix{{9}, {9}, prefix, {9}}); fits != (second == a) {
			t.Errorf("%s: %v", name, fits)
		}
	}
}

func TestADonorThatChangesMeanwhileIsNotCopied(t *testing.T) {
	x := newTrial(t)
	f := &local{extents: x.recipe([2]uint32{2, 3}), size: 3 * 8192, fresh: true, own: x.file(t, "own"), right: make([]bool, 1)}
	d := x.file(t, "donor", 2, 3, 4)
	f.donor = &d
	digests := chunk.NewHasher(testKey()).PageDigests(nil, 13, slices.Concat(x.pages[2], x.pages[3], x.pages[4]))
	f.looks = []look{{donor: digests}}
	judged := &doubt{file: f, uses: []int{0}, at: []int64{0}}
	judged.decide(func(int, int) bool { return true })
	x.file(t, "donor", 2, -1, 4) // a server wrote to it
	s := <-x.judge.scanners()
	must(t, s.copyPages(judged))
	if f.right[0] {
		t.Error("a page that is another now was taken for right")
	}
	must(t, os.Remove(d.path()))
	must(t, s.copyPages(judged))
	if f.right[0] {
		t.Error("a file that is gone was taken for right")
	}
}
