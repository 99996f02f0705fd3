package restore

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/pgtrove/pgtrove/pack"
)

// sink takes the plain bytes of a chunk and brings them to all its uses. plain is only valid during the call. It is
// called from several goroutines.
type sink func(uses []use, plain []byte) error

// run reads the plan's pieces, jobs at once, opens each chunk once and hands it to the sink. describe names a use in
// errors.
func (p *plan) run(ctx context.Context, c *source, jobs int, fetched func(int64), s sink, describe func(error, group) error) error {
	pieces := make(chan *piece)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(pieces)
		all := p.pieces()
		for i := range all {
			select {
			case pieces <- &all[i]:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		return nil
	})
	for range max(jobs, 1) {
		g.Go(func() error {
			r := reader{p: p, c: c, fetched: fetched, sink: s, describe: describe}
			for piece := range pieces {
				if err := r.deliver(ctx, piece); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// reader is a worker of run, with the buffers that it uses again and again.
type reader struct {
	p             *plan
	c             *source
	fetched       func(int64)
	sink          sink
	describe      func(error, group) error
	sealed, plain []byte
}

// missed is a chunk that could not be read where it was looked for.
type missed struct {
	group
	reason error
}

// deliver brings all chunks of a piece to their uses. Those that are not where the plan has them, or not what they should be,
// are planned anew wherever else they stand; what was delivered stays.
func (r *reader) deliver(ctx context.Context, p *piece) error {
	left, err := r.piece(ctx, p)
	var tried map[uint32][]pack.Location
	for err == nil && len(left) > 0 {
		if tried == nil {
			tried = map[uint32][]pack.Location{}
		}
		var pieces []piece
		if pieces, err = r.replan(ctx, left, tried); err != nil {
			return err
		}
		left = nil
		for i := range pieces {
			var some []missed
			if some, err = r.piece(ctx, &pieces[i]); err != nil {
				return err
			}
			left = append(left, some...)
		}
	}
	return err
}

// replan finds other places for chunks, and joins neighbours. tried are the places where each was looked for already.
func (r *reader) replan(ctx context.Context, left []missed, tried map[uint32][]pack.Location) ([]piece, error) {
	for _, m := range left {
		loc := &r.p.chunks[m.chunk]
		tried[m.chunk] = append(tried[m.chunk], *loc)
		other, err := r.c.elsewhere(ctx, tried[m.chunk], m.reason)
		if err != nil {
			return nil, r.describe(err, m.group)
		}
		*loc = other // no other worker has the chunk
	}
	slices.SortFunc(left, func(a, b missed) int {
		x, y := &r.p.chunks[a.chunk], &r.p.chunks[b.chunk]
		return cmp.Or(cmp.Compare(x.Pack, y.Pack), cmp.Compare(x.Offset, y.Offset))
	})
	var all []piece
	for _, m := range left {
		all = r.p.join(all, m.group)
	}
	return all, nil
}

// piece reads a stretch of a pack and delivers its chunks, but for those that it returns.
func (r *reader) piece(ctx context.Context, piece *piece) (left []missed, err error) {
	if piece.first {
		err = r.whole(ctx, piece.pack)
	}
	if err == nil {
		r.sealed, err = r.c.ReadPack(ctx, piece.pack, piece.off, piece.n, r.sealed[:0])
	}
	if err != nil {
		if !r.c.lost(err) {
			return nil, r.describe(err, piece.chunks[0])
		}
		for _, g := range piece.chunks {
			left = append(left, missed{g, err})
		}
		return left, nil
	}
	if r.fetched != nil {
		r.fetched(int64(len(r.sealed)))
	}
	for _, g := range piece.chunks {
		loc := &r.p.chunks[g.chunk]
		// Where the pack is shorter than it should be, OpenChunk gets what there is, and says so.
		from := min(int64(loc.Offset)-piece.off, int64(len(r.sealed)))
		to := min(from+int64(loc.Sealed), int64(len(r.sealed)))
		plain, err := r.c.OpenChunk(r.plain[:0], *loc, r.sealed[from:to])
		switch {
		case err == nil:
			r.plain = plain
		case r.c.lost(err):
			left = append(left, missed{g, err})
			continue
		default:
			return nil, r.describe(err, g)
		}
		if err := r.sink(g.uses, r.plain); err != nil {
			return nil, err
		}
	}
	return left, nil
}

// whole makes sure that a pack ends as packs do. One that was cut short is found even if the chunks that are needed are
// still there: nothing that is stored beside them can be trusted to be.
func (r *reader) whole(ctx context.Context, key string) error {
	tail, err := r.c.ReadPack(ctx, key, -int64(pack.TrailerSize), int64(pack.TrailerSize), nil)
	if err != nil {
		return err
	}
	if _, err := pack.ParseTrailer(tail, pack.MaxObject); err != nil {
		return fmt.Errorf("%w: %s does not end as a pack does: %w", ErrMismatch, key, err)
	}
	return nil
}
