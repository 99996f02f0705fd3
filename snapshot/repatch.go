package snapshot

import (
	"cmp"
	"context"
	"slices"
)

// recipe stores what rebuilds the file: the parent's recipe where nothing changed, else a patch, or a full one.
func (f *increment) recipe(ctx context.Context) (RecipeRef, error) {
	if f.same() {
		return f.base.ref, nil
	}
	changes := f.changes()
	extents, err := patchExtents(f.form, f.base.extents, changes, uint64(f.pages))
	if err != nil {
		return RecipeRef{}, err
	}
	if f.sizes, err = f.sizesOf(extents); err != nil {
		return RecipeRef{}, err
	}
	full := MarshalExtents(joinExtents(slices.Clone(extents)))
	if len(full) > inlineRecipe && !f.base.ref.Empty() {
		if patch := f.patch(changes, extents, len(full)/rebaseAbove); patch != nil {
			full = patch
		}
	}
	return storeRecipe(ctx, f.w.store, full)
}

// rebaseAbove says when a full recipe takes the place of one more patch: when the patches together would exceed this share of it,
// as a divisor.
const rebaseAbove = 4

// patch returns the changes as a patch upon the parent's recipe, or, where that has as many patches as there may be, as one that
// stands in for the newest of them too. nil: with it there would be more than limit bytes of patches.
//
// At the greatest depth, patches are merged: as many of the newest as keep the merged one smaller than the one that it then lies on. So
// a file with few changes gets a full recipe only when its patches have grown in proportion to it, and until then each change is
// written a few times: with n snapshots between two full recipes about log(n)/log(16)+1 times. A patch that stands inside its
// listing is always merged: it would be repeated inside the new one.
func (f *increment) patch(changes []Change, extents []Extent, limit int) []byte {
	p := Patch{Form: f.form, Parent: f.base.ref, Depth: f.base.depth() + 1, Pages: uint64(f.pages), Changes: changes}
	b := MarshalPatch(p)
	links := f.base.patches
	size, deep := len(b), p.Depth > MaxPatchDepth
	ranges := replaced(changes)
	for n := len(links); n > 0 && (len(p.Parent.Chunks) == 0 || deep && (n == len(f.base.patches) || links[n-1].size <= size)); n-- {
		l := links[n-1]
		size += l.size
		ranges = append(ranges, l.ranges...)
		p.Parent, p.Depth = l.parent, l.depth
		links = links[:n-1]
	}
	if len(links) < len(f.base.patches) {
		p.Changes = cutOut(extents, union(ranges, f.pages))
		b = MarshalPatch(p)
	}
	size = len(b)
	for i := range links {
		size += links[i].size
	}
	if size > limit {
		return nil
	}
	return b
}

// union joins ranges that meet or overlap, in order, up to a number of pages.
func union(ranges []pageRange, pages int64) []pageRange {
	slices.SortFunc(ranges, func(a, b pageRange) int { return cmp.Compare(a.first, b.first) })
	out := ranges[:0]
	for _, r := range ranges {
		r.count = min(r.count, pages-r.first)
		if r.count <= 0 {
			continue
		}
		if n := len(out); n > 0 && r.first <= out[n-1].first+out[n-1].count {
			out[n-1].count = max(out[n-1].count, r.first+r.count-out[n-1].first)
			continue
		}
		out = append(out, r)
	}
	return out
}

// cutOut makes changes of the extents of some ranges of a file.
func cutOut(extents []Extent, ranges []pageRange) []Change {
	c := cursor{extents: extents}
	out := make([]Change, 0, len(ranges))
	page := int64(0)
	for _, r := range ranges {
		keep := uint64(r.first - page)
		c.skip(keep)
		out = append(out, Change{Keep: keep, Extents: joinExtents(c.copy(nil, uint64(r.count)))})
		page = r.first + r.count
	}
	return out
}

// changes turns the pieces into what a patch says.
func (f *increment) changes() []Change {
	var out []Change
	end := int64(0)
	for _, p := range f.pieces {
		if p.page > end || len(out) == 0 {
			out = append(out, Change{Keep: uint64(p.page - end)})
		}
		c := &out[len(out)-1]
		c.Extents = f.extents(c.Extents, p)
		end = p.page + p.count
	}
	return out
}

// extents appends those of one piece.
func (f *increment) extents(dst []Extent, p piece) []Extent {
	switch p.from {
	case fromZero:
		return append(dst, Extent{Form: f.form, Count: uint32(p.count), Zero: true})
	case fromKnown:
		return append(dst, Extent{ID: f.w.known.chunks[p.at>>8].id, Form: f.form, First: uint32(p.at & 0xff), Count: uint32(p.count)})
	}
	chunks := f.gather.chunks
	i, _ := slices.BinarySearchFunc(chunks, p.at, func(g gathered, at int64) int {
		switch {
		case g.first+g.count <= at:
			return -1
		case g.first > at:
			return 1
		}
		return 0
	})
	for at, left := p.at, p.count; left > 0; i++ {
		first := at - chunks[i].first
		n := min(chunks[i].count-first, left)
		dst = append(dst, Extent{ID: chunks[i].id, Form: f.form, First: uint32(first), Count: uint32(n)})
		at, left = at+n, left-n
	}
	return dst
}
