package snapshot

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/pgtrove/pgtrove/chunk"
)

// metaMap is a Fetcher and a MetaWriter on a map.
type metaMap map[chunk.ID][]byte

var errAbsent = errors.New("absent")

func (m metaMap) MetaChunk(_ context.Context, id chunk.ID) ([]byte, error) {
	b, ok := m[id]
	if !ok {
		return nil, errAbsent
	}
	return b, nil
}

func (m metaMap) Meta(_ context.Context, plain []byte) (chunk.ID, error) {
	id := chunk.NewHasher(chunk.Key{1}).MetaID(plain)
	m[id] = slices.Clone(plain)
	return id, nil
}

func randomID(r *rand.Rand) (id chunk.ID) {
	for i := range id {
		id[i] = byte(r.Uint32())
	}
	return id
}

func randomExtents(r *rand.Rand, n int, form chunk.Form) []Extent {
	pool := make([]chunk.ID, 1+n/3)
	for i := range pool {
		pool[i] = randomID(r)
	}
	out := make([]Extent, n)
	for i := range out {
		out[i] = Extent{ID: pool[r.IntN(len(pool))], Form: form, Count: 1 + r.Uint32N(40)}
		if form != 0 {
			out[i].First = r.Uint32N(30)
			if r.IntN(8) == 0 {
				out[i] = Extent{Form: form, Count: 1 + r.Uint32N(1000), Zero: true}
			}
		}
	}
	return out
}

func TestRecipesComeBackAsTheyWere(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		for _, form := range []chunk.Form{0, 13} {
			want := randomExtents(r, 1+r.IntN(300), form)
			ref, err := storeRecipe(t.Context(), metaMap{}, nil)
			if err != nil || !ref.Empty() {
				t.Fatalf("the recipe of an empty file is not empty: %v, %v", ref, err)
			}
			m := metaMap{}
			ref, err = storeRecipe(t.Context(), m, MarshalExtents(want))
			if err != nil {
				t.Fatal(err)
			}
			got, err := LoadRecipe(t.Context(), m, ref)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(got, want) {
				t.Fatalf("form %d: got %v, want %v", form, got, want)
			}
		}
	}
}

// pagesOf lists every page of a file as the extent of one page that holds it.
func pagesOf(extents []Extent) []Extent {
	var out []Extent
	for _, e := range extents {
		for i := range e.Count {
			p := Extent{ID: e.ID, Form: e.Form, First: e.First + i, Count: 1, Zero: e.Zero}
			if e.Zero {
				p.First = 0
			}
			out = append(out, p)
		}
	}
	return out
}

func TestPatchesOverlayTheirParents(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 100 {
		m := metaMap{}
		extents := randomExtents(r, 1+r.IntN(50), 13)
		want := pagesOf(extents)
		ref, err := storeRecipe(t.Context(), m, MarshalExtents(extents))
		if err != nil {
			t.Fatal(err)
		}
		for depth := 1; depth <= MaxPatchDepth; depth++ {
			var patch []Change
			at := 0
			for at < len(want) {
				keep := r.IntN(20)
				if at+keep > len(want) {
					break
				}
				own := randomExtents(r, 1+r.IntN(3), 13)
				patch = append(patch, Change{Keep: uint64(keep), Extents: own})
				at += keep
				for _, p := range pagesOf(own) {
					if at < len(want) {
						want[at] = p
					} else {
						want = append(want, p)
					}
					at++
				}
			}
			if r.IntN(4) == 0 {
				want = want[:max(at, len(want)/2)] // truncated
			}
			b := MarshalPatch(Patch{Form: 13, Parent: ref, Depth: depth, Pages: uint64(len(want)), Changes: patch})
			if ref, err = storeRecipe(t.Context(), m, b); err != nil {
				t.Fatal(err)
			}
			got, err := LoadRecipe(t.Context(), m, ref)
			if err != nil {
				t.Fatalf("depth %d: %v", depth, err)
			}
			if !slices.Equal(pagesOf(got), want) {
				t.Fatalf("depth %d: patched file has other pages", depth)
			}
		}
	}
}

func TestAPatchThatKeepsMoreThanItsParentHasIsInvalid(t *testing.T) {
	parent := RecipeRef{Inline: MarshalExtents([]Extent{{Form: 13, Count: 5, Zero: true}})}
	b := MarshalPatch(Patch{Form: 13, Parent: parent, Depth: 1, Pages: 7})
	if _, err := LoadRecipe(t.Context(), metaMap{}, RecipeRef{Inline: b}); !errors.Is(err, ErrInvalid) {
		t.Fatalf("got %v", err)
	}
}

func TestPatchesMustGetShallowerTowardsTheFullRecipe(t *testing.T) {
	ref := RecipeRef{Inline: MarshalExtents([]Extent{{Form: 13, Count: 5, Zero: true}})}
	for range 2 {
		ref = RecipeRef{Inline: MarshalPatch(Patch{Form: 13, Parent: ref, Depth: 1, Pages: 5})}
	}
	if _, err := LoadRecipe(t.Context(), metaMap{}, ref); !errors.Is(err, ErrInvalid) {
		t.Fatalf("got %v", err)
	}
}

func FuzzParseRecipe(f *testing.F) {
	r := rand.New(rand.NewPCG(5, 6))
	f.Add(MarshalExtents(randomExtents(r, 9, 13)))
	f.Add(MarshalExtents(randomExtents(r, 9, 0)))
	f.Add([]byte{recipeBytes, 0}) // once accepted
	f.Add(MarshalPatch(Patch{Form: 13, Parent: RecipeRef{Inline: []byte{1}}, Depth: 1, Pages: 9,
		Changes: []Change{{Keep: 2, Extents: randomExtents(r, 2, 13)}}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		rec, err := ParseRecipe(b)
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Fatalf("error of another kind: %v", err)
			}
			return
		}
		if rec.kind != recipePatch {
			again, err := ParseRecipe(MarshalExtents(rec.extents))
			if err != nil || !slices.Equal(again.extents, rec.extents) {
				t.Fatalf("does not come back: %v", err)
			}
		}
	})
}
