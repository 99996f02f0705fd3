package restore

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/pack"
	"github.com/pgtrove/pgtrove/snapshot"
)

const (
	// maxPiece is how many bytes of a pack are read at once, if not a single chunk is longer, and maxGap how many that
	// nobody needs are read along with them: reading them costs less than asking again.
	maxPiece = 4 << 20
	maxGap   = 128 << 10
)

// use is where a part of a chunk goes.
type use struct {
	chunk uint32 // index in plan.chunks
	file  uint32 // whatever the caller numbers
	at    int64  // offset in the file
	from  uint32 // the part's first byte in the plain chunk
	n     uint32
}

// plan collects which parts of which chunks go where, and then reads each chunk once, whoever uses it.
type plan struct {
	chunks []pack.Location
	uses   []use
	index  map[chunk.ID]uint32
	packs  map[string]string // one copy of each pack's name
}

func newPlan() *plan { return &plan{index: map[chunk.ID]uint32{}, packs: map[string]string{}} }

// add plans the parts of one file, but for the extents that are right as they are (nil: none is), and returns how many of
// its bytes are not to be fetched: these, and zero pages, which no chunk holds.
func (p *plan) add(ctx context.Context, c *source, file uint32, size int64, extents []snapshot.Extent, right []bool) (done int64, err error) {
	at := int64(0)
	for i := range extents {
		e := &extents[i]
		n := e.Bytes()
		if e.Zero || right != nil && right[i] {
			done += n
			at += n
			continue
		}
		k, err := p.locate(ctx, c, e.ID)
		if err != nil {
			return 0, err
		}
		loc := &p.chunks[k]
		if loc.Kind != pack.Data || loc.Form != e.Form || e.Offset()+n > int64(loc.Plain) {
			return 0, fmt.Errorf("%w: chunk %s is no %s with bytes %d to %d", ErrMismatch, e.ID.Short(), e.Form, e.Offset(), e.Offset()+n)
		}
		p.uses = append(p.uses, use{chunk: k, file: file, at: at, from: uint32(e.Offset()), n: uint32(n)})
		at += n
	}
	if at != size {
		return 0, fmt.Errorf("%w: recipe of %d bytes for a file of %d", ErrMismatch, at, size)
	}
	return done, nil
}

func (p *plan) locate(ctx context.Context, c *source, id chunk.ID) (uint32, error) {
	if k, ok := p.index[id]; ok {
		return k, nil
	}
	loc, err := c.locate(ctx, id)
	if err != nil {
		return 0, err
	}
	if name, ok := p.packs[loc.Pack]; ok {
		loc.Pack = name
	} else {
		p.packs[loc.Pack] = loc.Pack
	}
	k := uint32(len(p.chunks))
	p.chunks = append(p.chunks, loc)
	p.index[id] = k
	return k, nil
}

// piece is a stretch of a pack that is read at once.
type piece struct {
	pack   string
	off, n int64
	first  bool // of its pack
	chunks []group
}

// group is a chunk and all its uses.
type group struct {
	chunk uint32
	uses  []use
}

// pieces puts the plan in order: by pack and place in it, neighbours joined.
func (p *plan) pieces() []piece {
	slices.SortFunc(p.uses, func(a, b use) int {
		if a.chunk != b.chunk {
			x, y := &p.chunks[a.chunk], &p.chunks[b.chunk]
			return cmp.Or(cmp.Compare(x.Pack, y.Pack), cmp.Compare(x.Offset, y.Offset), cmp.Compare(a.chunk, b.chunk))
		}
		return cmp.Or(cmp.Compare(a.file, b.file), cmp.Compare(a.at, b.at))
	})
	var all []piece
	for rest := p.uses; len(rest) > 0; {
		k := rest[0].chunk
		n := 1
		for n < len(rest) && rest[n].chunk == k {
			n++
		}
		all = p.join(all, group{chunk: k, uses: rest[:n]})
		rest = rest[n:]
	}
	return all
}

// join adds a chunk to the last piece if it is near enough, or begins a new one.
func (p *plan) join(all []piece, g group) []piece {
	loc := &p.chunks[g.chunk]
	off, end := int64(loc.Offset), loc.End()
	first := true
	if len(all) > 0 {
		last := &all[len(all)-1]
		first = last.pack != loc.Pack
		if !first && off <= last.off+last.n+maxGap && end-last.off <= maxPiece {
			last.n = max(last.n, end-last.off)
			last.chunks = append(last.chunks, g)
			return all
		}
	}
	return append(all, piece{pack: loc.Pack, off: off, n: end - off, first: first, chunks: []group{g}})
}
