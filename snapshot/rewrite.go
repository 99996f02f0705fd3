package snapshot

import (
	"cmp"
	"context"
	"slices"

	"github.com/pgtrove/pgtrove/chunk"
)

// A file that keeps changing leaves chunks behind of which it uses few pages. Once older snapshots are gone, that is waste: so when
// the chunks that the file uses have more than maxSpace times its pages, the pages that it still uses of the emptiest of them are
// stored afresh, until they have not.
//
// A fixed share was tried first, a chunk being rewritten when less than a quarter of it was used. For uniform updates that writes
// up to 1.25 times the changed pages from the first chunk that gets there, although then hardly any space is wasted; a sixth
// writes less and takes over 3 times the space after truncations. Under a budget nothing is rewritten before space is wasted, and
// then what frees most for what it costs.
const (
	maxSpaceOver  = 5 // maxSpace = 5/2
	maxSpaceUnder = 2
)

// knownShare is the least share of a known chunk that a file must use, as a divisor.
const knownShare = 4

// rewrite stores pages afresh of known chunks that are not worth naming, and of the parent's when they take too much space.
func (f *increment) rewrite(ctx context.Context) error {
	if err := f.readAgain(ctx, f.unwanted()); err != nil {
		return err
	}
	worn, err := f.worn()
	if err != nil {
		return err
	}
	return f.readAgain(ctx, worn)
}

// readAgain stores ranges of pages afresh, and leaves the pieces in order of their pages.
func (f *increment) readAgain(ctx context.Context, ranges []pageRange) error {
	changed := f.w.tally.ChangedPages
	for _, r := range ranges {
		for r.count > 0 && r.first < f.pages {
			if err := ctx.Err(); err != nil {
				return err
			}
			n := min(r.count, readSize>>f.form, f.pages-r.first)
			got, err := f.stretch(ctx, r.first, n, f.afresh)
			if err != nil {
				return err
			}
			if got < n {
				f.sorted() // truncate wants the last piece last
				f.truncate(r.first + got)
				break
			}
			r.first, r.count = r.first+n, r.count-n
		}
	}
	f.w.tally.ChangedPages = changed // they did not change, or are counted
	f.sorted()
	return nil
}

// afresh stores pages whatever is known of them.
func (f *increment) afresh(ctx context.Context, pages []byte, first int64) error {
	if _, err := f.check(ctx, pages, first); err != nil {
		return err
	}
	for i := range len(pages) >> f.form {
		page := f.page(pages, i)
		if err := f.take(ctx, page, first+int64(i), f.digest(page), false); err != nil {
			return err
		}
	}
	return nil
}

// unwanted takes back the pieces from known chunks that are not worth keeping, or not believed: digests are compared by 64 bits, and
// among millions of them one may be the same by chance, but hardly two of the same chunk in one file.
func (f *increment) unwanted() []pageRange {
	if len(f.hits) == 0 {
		return nil
	}
	var ranges []pageRange
	given := map[uint32]bool{}
	f.pieces = slices.DeleteFunc(f.pieces, func(p piece) bool {
		if p.from != fromKnown {
			return false
		}
		n := uint32(p.at >> 8)
		used, all := f.hits[n], f.w.known.chunks[n].pages
		if all == 1 || used >= 2 && used*knownShare >= all {
			return false
		}
		ranges = append(ranges, pageRange{p.page, p.count})
		given[n] = true
		return true
	})
	for n := range given {
		delete(f.hits, n)
	}
	return ranges
}

// use is what a file has of one chunk of its parent.
type use struct {
	id          chunk.ID
	kept, pages int64
}

// worn chooses the chunks that are to be given up and returns the pages that the file still uses of them.
func (f *increment) worn() ([]pageRange, error) {
	if f.same() || len(f.base.extents) == 0 {
		return nil, nil
	}
	pages, err := f.chunkPages()
	if err != nil {
		return nil, err
	}
	left := make(map[chunk.ID]int64, len(pages))
	f.kept(func(e *Extent, kept []pageRange) {
		for _, r := range kept {
			left[e.ID] += r.count
		}
	})
	space := f.gather.total
	for n := range f.hits {
		space += int64(f.w.known.chunks[n].pages)
	}
	var uses []use
	for id, kept := range left {
		u := use{id, kept, pages[id]}
		space += u.pages
		if u.kept*2 <= u.pages {
			uses = append(uses, u)
		}
	}
	limit := f.pages * maxSpaceOver / maxSpaceUnder
	if space <= limit {
		return nil, nil
	}
	slices.SortFunc(uses, func(a, b use) int {
		return cmp.Or(cmp.Compare(a.kept*b.pages, b.kept*a.pages), slices.Compare(a.id[:], b.id[:]))
	})
	given := map[chunk.ID]bool{}
	for _, u := range uses {
		if space <= limit {
			break
		}
		given[u.id] = true
		space -= u.pages - u.kept
	}
	var ranges []pageRange
	f.kept(func(e *Extent, kept []pageRange) {
		if given[e.ID] {
			ranges = append(ranges, kept...)
		}
	})
	return ranges, nil
}

// chunkPages returns how many pages each chunk of the parent has, whether the file uses them or not.
func (f *increment) chunkPages() (map[chunk.ID]int64, error) {
	if f.chunks != nil {
		return f.chunks, nil
	}
	ids := dataChunks(f.base.extents)
	pages := make(map[chunk.ID]int64, len(ids))
	for i, n := range f.w.recallSizes(f.base.ref, len(ids)) {
		pages[ids[i]] = int64(n)
	}
	for _, id := range ids[len(pages):] {
		if f.base.gone[id] {
			continue // the file keeps nothing of it
		}
		size, err := f.w.parent.chunks.ChunkSize(id)
		if err != nil {
			return nil, err
		}
		pages[id] = size >> f.form
	}
	f.chunks = pages
	return pages, nil
}

// sizesOf lists how many pages the chunks of extents have, in order of first use.
func (f *increment) sizesOf(extents []Extent) ([]uint16, error) {
	pages, err := f.chunkPages()
	if err != nil {
		return nil, err
	}
	for _, g := range f.gather.chunks {
		pages[g.id] = g.count
	}
	for n := range f.hits {
		c := &f.w.known.chunks[n]
		pages[c.id] = int64(c.pages)
	}
	ids := dataChunks(extents)
	sizes := make([]uint16, len(ids))
	for i, id := range ids {
		sizes[i] = uint16(pages[id])
	}
	return sizes, nil
}

// kept calls each for every extent of the parent that has a chunk, with the ranges of the file's pages that still come from it.
// The pieces are in order. kept is valid during the call.
func (f *increment) kept(each func(e *Extent, kept []pageRange)) {
	pieces := f.pieces
	page := int64(0)
	var ranges []pageRange
	for i := range f.base.extents {
		e := &f.base.extents[i]
		end := min(page+int64(e.Count), f.pages)
		ranges = ranges[:0]
		for at := page; at < end; {
			for len(pieces) > 0 && pieces[0].page+pieces[0].count <= at {
				pieces = pieces[1:]
			}
			if len(pieces) == 0 || pieces[0].page >= end {
				ranges = append(ranges, pageRange{at, end - at})
				break
			}
			if p := pieces[0]; p.page > at {
				ranges = append(ranges, pageRange{at, p.page - at})
			}
			at = pieces[0].page + pieces[0].count
		}
		if !e.Zero {
			each(e, ranges)
		}
		page += int64(e.Count)
	}
}
