package restore

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/pgtrove/pgtrove/pack"
)

// sink takes the plain bytes of a chunk and brings them to all its uses. plain is only valid during the call. It is
// called from several goroutines.
type sink func(uses []use, plain []byte) error

// run reads the plan's pieces, jobs at once, opens each chunk once and hands it to the sink. describe names a use in
// errors.
func (p *plan) run(ctx context.Context, c Chunks, jobs int, fetched func(int64), s sink, describe func(error, group) error) error {
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
				if err := r.piece(ctx, piece); err != nil {
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
	c             Chunks
	fetched       func(int64)
	sink          sink
	describe      func(error, group) error
	sealed, plain []byte
}

func (r *reader) piece(ctx context.Context, piece *piece) (err error) {
	if piece.first {
		if err := r.whole(ctx, piece.pack); err != nil {
			return r.describe(err, piece.chunks[0])
		}
	}
	r.sealed, err = r.c.ReadPack(ctx, piece.pack, piece.off, piece.n, r.sealed[:0])
	if err != nil {
		return r.describe(err, piece.chunks[0])
	}
	if r.fetched != nil {
		r.fetched(int64(len(r.sealed)))
	}
	for _, g := range piece.chunks {
		loc := &r.p.chunks[g.chunk]
		// Where the pack is shorter than it should be, OpenChunk gets what there is, and says so.
		from := min(int64(loc.Offset)-piece.off, int64(len(r.sealed)))
		to := min(from+int64(loc.Sealed), int64(len(r.sealed)))
		r.plain, err = r.c.OpenChunk(r.plain[:0], *loc, r.sealed[from:to])
		if err != nil {
			return r.describe(err, g)
		}
		if err := r.sink(g.uses, r.plain); err != nil {
			return err
		}
	}
	return nil
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
