package restore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/walarchive"
)

// search asks, one snapshot after another, whether a target can be reached from it. It reads no header twice for
// snapshots whose WAL ends in the same place.
type search struct {
	c        *Chooser
	tails    map[walarchive.Run]tail
	ended    map[walarchive.Run]obstacle // of the search for a transaction
	warnings []string
}

// tail is where a run of WAL ends.
type tail struct {
	end  pg.LSN    // of the last record
	last time.Time // commit or abort
}

// sameEnd stands for all runs that end where r does.
func sameEnd(r walarchive.Run) walarchive.Run {
	return walarchive.Run{Timeline: r.Timeline, End: r.End}
}

func (s *search) tail(ctx context.Context, k candidate) (tail, error) {
	if t, ok := s.tails[sameEnd(k.run)]; ok {
		return t, nil
	}
	end, last, err := k.path.Tail(ctx, s.c.Headers, k.run)
	if err != nil {
		return tail{}, fmt.Errorf("find the end of the archive: %w", err)
	}
	t := tail{end: end, last: last}
	s.tails[sameEnd(k.run)] = t
	return t, nil
}

func (s *search) obstacle(ctx context.Context, t Target, k candidate) (obstacle, error) {
	if young(t, k) {
		return obstacle{young: true, text: "it ends behind the target: " + ends(k.m)}, nil
	}
	if k.flaw != "" {
		return obstacle{text: k.flaw}, nil
	}
	switch t.Kind {
	case AtTime:
		return s.time(ctx, t, k)
	case AtLSN:
		return s.lsn(ctx, t, k)
	case AtXID:
		return s.xid(ctx, t, k)
	}
	return obstacle{}, nil
}

// young says whether the snapshot ends behind the target.
func young(t Target, k candidate) bool {
	w := k.m.Window
	switch t.Kind {
	case AtTime:
		return t.Time.Before(w.StopTime)
	case AtLSN:
		return t.LSN < w.StopLSN
	case AtXID:
		// A transaction that had its number before the snapshot's end may have ended before it as well.
		return w.NextXID != 0 && xidBefore(t.XID, w.NextXID)
	}
	return false
}

// xidBefore compares full transaction IDs, or where a has no epoch as TransactionIdPrecedes does (transam.c).
func xidBefore(a, next uint64) bool {
	if a>>32 == 0 && next>>32 != 0 {
		return int32(uint32(a)-uint32(next)) < 0
	}
	return a < next
}

// time: recovery ends in front of the first commit or abort that is later than the target, or with Exclusive not
// earlier (recoveryStopsBefore in xlogrecovery.c), and fails if none comes.
func (s *search) time(ctx context.Context, t Target, k candidate) (obstacle, error) {
	end, err := s.tail(ctx, k)
	if err != nil || end.last.After(t.Time) || t.Exclusive && end.last.Equal(t.Time) {
		return obstacle{}, err
	}
	if end.last.Before(k.m.Window.StopTime) {
		return s.short(k, "no commit after the snapshot's end"), nil
	}
	return s.short(k, fmt.Sprintf("the last commit at %s, and PostgreSQL needs a later one to end at a time", showTime(end.last))), nil
}

// lsn: recovery ends at the first record that begins at the target or behind it.
func (s *search) lsn(ctx context.Context, t Target, k candidate) (obstacle, error) {
	end, err := s.tail(ctx, k)
	if err != nil || t.LSN < end.end {
		return obstacle{}, err
	}
	return s.short(k, fmt.Sprintf("its last record ending at %s", end.end)), nil
}

// short describes WAL that ends before the target.
func (s *search) short(k candidate, what string) obstacle {
	size := s.c.Coverage.SegmentSize
	if behind, ok := k.path.Resumes(k.run.End); ok {
		where := "from segment " + k.path.Segment(k.run.End).Name(size)
		if to, ok := k.path.ReceivedTo(k.run); ok {
			where = fmt.Sprintf("in segment %s, received up to %s only,", k.path.Segment(k.run.End-1).Name(size), to)
		}
		return obstacle{text: fmt.Sprintf("recovery comes to a gap in the archive, %s up to %s, with %s", where, k.path.Segment(behind).Name(size), what)}
	}
	return obstacle{text: fmt.Sprintf("recovery comes to the end of the archive with %s", what)}
}

// xid: recovery ends at the commit or abort of the transaction. Whether the WAL holds it cannot be said without
// reading all records, but the headers say which transactions may have ended in which segment.
func (s *search) xid(ctx context.Context, t Target, k candidate) (obstacle, error) {
	if o, ok := s.ended[sameEnd(k.run)]; ok {
		return o, nil
	}
	found := false
	err := s.headers(ctx, k.path, k.run.First, k.run.End, func(h *walarchive.Header) bool {
		x := uint32(t.XID)
		found = h.MaxXID != 0 && int32(x-h.MinXID) >= 0 && int32(h.MaxXID-x) >= 0
		return found
	})
	if err != nil {
		return obstacle{}, err
	}
	o := obstacle{}
	if !found {
		o = s.short(k, "no sign that the transaction ended")
	}
	s.ended[sameEnd(k.run)] = o
	return o, nil
}

const (
	headerBatch = 64
	headerJobs  = 16
)

// headers calls fn with the header of each segment from from up to, not including, to; backwards if to lies before
// from, and then without from but with to. It ends early when fn returns true. Segments whose object is damaged are
// left out, with a warning.
func (s *search) headers(ctx context.Context, p *walarchive.Path, from, to uint64, fn func(*walarchive.Header) (stop bool)) error {
	for from != to {
		numbers := make([]uint64, 0, headerBatch)
		for len(numbers) < headerBatch && from != to {
			if from < to {
				numbers = append(numbers, from)
				from++
			} else {
				from--
				numbers = append(numbers, from)
			}
		}
		batch := make([]*walarchive.Header, len(numbers))
		damaged := make([]error, len(numbers))
		g, ctx := errgroup.WithContext(ctx)
		g.SetLimit(headerJobs)
		for i, n := range numbers {
			g.Go(func() (err error) {
				batch[i], err = p.Header(ctx, s.c.Headers, n)
				if errors.Is(err, walarchive.ErrDamaged) {
					damaged[i], err = err, nil
				}
				return err
			})
		}
		if err := g.Wait(); err != nil {
			return err
		}
		for i, h := range batch {
			if h == nil {
				s.warnings = append(s.warnings, fmt.Sprintf("a segment was left out of the search: %v", damaged[i]))
			} else if fn(h) {
				return nil
			}
		}
	}
	return nil
}
