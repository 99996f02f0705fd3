package restore

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/pgtrove/pgtrove/pack"
)

// sink takes the plain bytes of a chunk and brings them to all its uses. plain is only valid during the call. It is
// called from several goroutines.
type sink func(uses []use, plain []byte) error

// ahead is how many pieces are read at once, whatever the number of workers, or wait to be opened: where the storage is far away,
// most of the time goes by until an answer begins. Each takes maxPiece of memory.
const ahead = 8

// arrived is a piece that was read, or why it could not be.
type arrived struct {
	piece  *piece
	sealed []byte
	err    error
}

// run reads the plan's pieces, several ahead, opens each chunk once, jobs at once, and hands it to the sink. describe names a
// use in errors.
func (p *plan) run(ctx context.Context, c *source, jobs int, fetched func(int64), s sink, describe func(error, group) error) error {
	all := p.pieces()
	jobs = max(jobs, 1)
	reading := min(ahead, len(all))
	buffers := make(chan []byte, reading+jobs) // all that there are, to be used again
	for range cap(buffers) {
		buffers <- nil
	}
	pieces, ready := make(chan *piece), make(chan arrived)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(pieces)
		for i := range all {
			select {
			case pieces <- &all[i]:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		return nil
	})
	var readers sync.WaitGroup
	for range reading {
		readers.Add(1)
		g.Go(func() error {
			defer readers.Done()
			for piece := range pieces {
				a := arrived{piece: piece}
				a.sealed, a.err = c.fetch(ctx, piece, <-buffers, fetched)
				select {
				case ready <- a:
				case <-ctx.Done():
					return context.Cause(ctx)
				}
			}
			return nil
		})
	}
	g.Go(func() error {
		readers.Wait()
		close(ready)
		return nil
	})
	for range jobs {
		g.Go(func() error {
			r := reader{p: p, c: c, fetched: fetched, sink: s, describe: describe}
			for a := range ready {
				if err := r.deliver(ctx, a); err != nil {
					return err
				}
				buffers <- a.sealed
			}
			return nil
		})
	}
	return g.Wait()
}

// fetch reads a piece into dst, which may be too small or nil.
func (s *source) fetch(ctx context.Context, p *piece, dst []byte, fetched func(int64)) ([]byte, error) {
	if p.first {
		if err := s.whole(ctx, p.pack); err != nil {
			return dst, err
		}
	}
	if int64(cap(dst)) < p.n {
		dst = make([]byte, 0, max(p.n, maxPiece)) // so that it need not grow again and again
	}
	sealed, err := s.ReadPack(ctx, p.pack, p.off, p.n, dst[:0])
	if err != nil {
		return dst, err
	}
	if fetched != nil {
		fetched(int64(len(sealed)))
	}
	return sealed, nil
}

// reader is a worker of run, with the buffers that it uses again and again.
type reader struct {
	p        *plan
	c        *source
	fetched  func(int64)
	sink     sink
	describe func(error, group) error
	plain    []byte
}

// missed is a chunk that could not be read where it was looked for.
type missed struct {
	group
	reason error
}

// deliver brings all chunks of a piece to their uses. Those that are not where the plan has them, or not what they should be,
// are planned anew wherever else they stand; what was delivered stays.
func (r *reader) deliver(ctx context.Context, a arrived) error {
	left, err := r.open(a)
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
			again := arrived{piece: &pieces[i]}
			again.sealed, again.err = r.c.fetch(ctx, &pieces[i], nil, r.fetched)
			var some []missed
			if some, err = r.open(again); err != nil {
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

// open delivers the chunks of a piece, but for those that it returns.
func (r *reader) open(a arrived) (left []missed, err error) {
	piece := a.piece
	if a.err != nil {
		if !r.c.lost(a.err) {
			return nil, r.describe(a.err, piece.chunks[0])
		}
		for _, g := range piece.chunks {
			left = append(left, missed{g, a.err})
		}
		return left, nil
	}
	for _, g := range piece.chunks {
		loc := &r.p.chunks[g.chunk]
		// Where the pack is shorter than it should be, OpenChunk gets what there is, and says so.
		from := min(int64(loc.Offset)-piece.off, int64(len(a.sealed)))
		to := min(from+int64(loc.Sealed), int64(len(a.sealed)))
		plain, err := r.c.OpenChunk(r.plain[:0], *loc, a.sealed[from:to])
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
func (s *source) whole(ctx context.Context, key string) error {
	tail, err := s.ReadPack(ctx, key, -int64(pack.TrailerSize), int64(pack.TrailerSize), nil)
	if err != nil {
		return err
	}
	if _, err := pack.ParseTrailer(tail, pack.MaxObject); err != nil {
		return fmt.Errorf("%w: %s does not end as a pack does: %w", ErrMismatch, key, err)
	}
	return nil
}
