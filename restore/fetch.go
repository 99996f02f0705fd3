package restore

import (
	"context"

	"golang.org/x/sync/errgroup"
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
			var sealed, plain []byte
			for piece := range pieces {
				var err error
				sealed, err = c.ReadPack(ctx, piece.pack, piece.off, piece.n, sealed[:0])
				if err != nil {
					return describe(err, piece.chunks[0])
				}
				if fetched != nil {
					fetched(int64(len(sealed)))
				}
				for _, g := range piece.chunks {
					loc := &p.chunks[g.chunk]
					// Where the pack is shorter than it should be, OpenChunk gets what there is, and says so.
					from := min(int64(loc.Offset)-piece.off, int64(len(sealed)))
					to := min(from+int64(loc.Sealed), int64(len(sealed)))
					plain, err = c.OpenChunk(plain[:0], *loc, sealed[from:to])
					if err != nil {
						return describe(err, g)
					}
					if err := s(g.uses, plain); err != nil {
						return err
					}
				}
			}
			return nil
		})
	}
	return g.Wait()
}
