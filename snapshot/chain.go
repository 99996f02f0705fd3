package snapshot

import (
	"context"
	"fmt"

	"github.com/pgtrove/pgtrove/chunk"
)

// Fetcher gives the plain bytes of a meta chunk, verified against its ID.
type Fetcher interface {
	MetaChunk(ctx context.Context, id chunk.ID) ([]byte, error)
}

// chain is a recipe together with what it stands on.
type chain struct {
	extents []Extent
	patches []link     // upon the full recipe, the oldest first
	meta    []chunk.ID // every metadata chunk of it
}

// link is a patch of a chain.
type link struct {
	parent RecipeRef // what it lies on
	depth  int
	size   int         // bytes
	ranges []pageRange // what it replaced
}

// pageRange is a run of a file's pages.
type pageRange struct{ first, count int64 }

// depth is what the newest patch says, 0 for a full recipe.
func (c *chain) depth() int {
	if len(c.patches) == 0 {
		return 0
	}
	return c.patches[len(c.patches)-1].depth
}

// LoadRecipe returns the extents of a file in order, following patches down to the full recipe. An empty reference
// gives none.
func LoadRecipe(ctx context.Context, f Fetcher, ref RecipeRef) ([]Extent, error) {
	c, err := loadChain(ctx, f, ref)
	if err != nil {
		return nil, err
	}
	return c.extents, nil
}

func loadChain(ctx context.Context, f Fetcher, ref RecipeRef) (*chain, error) {
	c := &chain{}
	return c, c.load(ctx, f, ref, MaxPatchDepth+1)
}

// load reads the recipe at ref, which as a patch must be of less than depth.
func (c *chain) load(ctx context.Context, f Fetcher, ref RecipeRef, depth int) error {
	if ref.Empty() {
		return nil
	}
	b, err := readRef(ctx, f, ref)
	if err != nil {
		return err
	}
	c.meta = append(c.meta, ref.Chunks...)
	r, err := ParseRecipe(b)
	if err != nil {
		return err
	}
	if r.kind != recipePatch {
		c.extents = r.extents
		return nil
	}
	if r.depth >= depth {
		return tooDeep(r.depth, depth)
	}
	if err := c.load(ctx, f, r.parent, r.depth); err != nil {
		return err
	}
	c.extents, err = patchExtents(r.form, c.extents, r.changes, r.pages)
	c.patches = append(c.patches, link{parent: r.parent, depth: r.depth, size: len(b), ranges: replaced(r.changes)})
	return err
}

// replaced lists the pages that changes put something in the place of.
func replaced(changes []Change) []pageRange {
	out := make([]pageRange, 0, len(changes))
	page := int64(0)
	for i := range changes {
		page += int64(changes[i].Keep)
		r := pageRange{first: page}
		for _, e := range changes[i].Extents {
			r.count += int64(e.Count)
		}
		page += r.count
		out = append(out, r)
	}
	return out
}

func readRef(ctx context.Context, f Fetcher, ref RecipeRef) ([]byte, error) {
	if len(ref.Chunks) == 0 {
		return ref.Inline, nil
	}
	var b []byte
	for _, id := range ref.Chunks {
		part, err := f.MetaChunk(ctx, id)
		if err != nil {
			return nil, fmt.Errorf("read recipe: %w", err)
		}
		b = append(b, part...)
	}
	return b, nil
}
