package snapshot

import (
	"context"
	"fmt"
	"math"

	"github.com/pgtrove/pgtrove/chunk"
)

// Outline is what a patch has to know of the recipe that it lies on, if only the patch itself matters.
type Outline struct {
	Form  chunk.Form
	Depth int    // patches from here down to the full recipe; 0: it is the full one
	Units uint64 // length of the file: pages, or in a byte stream bytes
}

// Needs are the chunks without which a file cannot be rebuilt.
type Needs struct {
	Data    []chunk.ID // distinct, in order of first use
	Meta    []chunk.ID // of the recipe
	Outline Outline    // of the recipe
}

// LoadNeeds reads which chunks a file needs, less those of a recipe that is known: known says of a recipe on the way down to
// the full one what its outline is, or that it is not known. Nothing of a known one is read, and all that it needs is taken
// to be noted already. What the patches above it replaced is not needed on their behalf.
func LoadNeeds(ctx context.Context, f Fetcher, ref RecipeRef, known func(RecipeRef) (Outline, bool)) (*Needs, error) {
	n := &Needs{}
	if ref.Empty() {
		return n, nil
	}
	extents, err := n.load(ctx, f, ref, MaxPatchDepth+1, known)
	if err != nil {
		return nil, err
	}
	n.Data = dataChunks(extents)
	for i := range extents {
		n.Outline.Form = extents[i].Form // all have the same
		n.Outline.Units += uint64(extents[i].Count)
	}
	return n, nil
}

// load returns the extents of the recipe at ref, which as a patch must be of less than depth. Those of a known one are zero
// pages, as many as it has: they name no chunk.
func (n *Needs) load(ctx context.Context, f Fetcher, ref RecipeRef, depth int, known func(RecipeRef) (Outline, bool)) ([]Extent, error) {
	if o, ok := known(ref); ok {
		if o.Depth >= depth {
			return nil, tooDeep(o.Depth, depth)
		}
		return o.blank(), nil
	}
	b, err := readRef(ctx, f, ref)
	if err != nil {
		return nil, err
	}
	n.Meta = append(n.Meta, ref.Chunks...)
	r, err := ParseRecipe(b)
	if err != nil {
		return nil, err
	}
	if r.kind != recipePatch {
		return r.extents, nil
	}
	if r.depth >= depth {
		return nil, tooDeep(r.depth, depth)
	}
	n.Outline.Depth = max(n.Outline.Depth, r.depth)
	parent, err := n.load(ctx, f, r.parent, r.depth, known)
	if err != nil {
		return nil, err
	}
	return patchExtents(r.form, parent, r.changes, r.pages)
}

// blank returns extents of as many pages as the recipe has, all zero.
func (o Outline) blank() []Extent {
	var extents []Extent
	for left := o.Units; left > 0; {
		count := min(left, math.MaxUint32)
		extents = append(extents, Extent{Form: o.Form, Count: uint32(count), Zero: true})
		left -= count
	}
	return extents
}

func tooDeep(depth, limit int) error {
	return fmt.Errorf("%w: patch of depth %d under one of depth %d", ErrInvalid, depth, limit)
}

// Key returns bytes that tell the recipe from every other: the same in whichever snapshot it stands.
func (r RecipeRef) Key() []byte { return appendRef(nil, r) }
