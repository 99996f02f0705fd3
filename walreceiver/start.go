package walreceiver

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/walarchive"
)

// greet makes sure that the server is the one that is wanted.
func (r *receiver) greet(ctx context.Context, l *link) error {
	if r.opened == nil {
		l.quiet()
		o, err := r.Open(ctx, l.server)
		if err != nil {
			return err
		}
		r.opened, r.server = o, l.server
		if o.Fresh {
			r.fresh = time.Now().Add(freshFor)
		}
	}
	if !l.server.isOf(r.server) {
		return fmt.Errorf("%w: its system identifier is %s, and its segments have %d bytes; before it was %s, and %d", ErrSystem,
			l.server.System, uint32(l.server.SegmentSize), r.server.System, uint32(r.server.SegmentSize))
	}
	if r.next.Timeline > l.server.Timeline {
		r.Events.Warned(fmt.Sprintf("the server is on timeline %d, and WAL of timeline %d was received before: is it the right server?",
			uint32(l.server.Timeline), uint32(r.next.Timeline)))
	}
	r.server = l.server
	if r.flow == nil {
		r.flow = &flow{size: r.server.SegmentSize, interval: r.Interval, follow: func(name string, data, before []byte) Follower {
			return r.Follow(r.server, name, data, before)
		}}
	}
	return nil
}

// storeHistories brings the histories of all timelines on the server's way into the archive, the oldest first: recovery looks for the newest timeline by asking for one
// after the other until one is absent. An ancestor's that does not come is told; the server's WAL counts for more.
func (r *receiver) storeHistories(ctx context.Context, l *link) error {
	for _, s := range l.history {
		tli := s.Timeline
		if tli == 1 || r.pushed[tli] {
			continue
		}
		text, own := l.text, tli == l.server.Timeline
		if !own {
			var err error
			text, err = l.historyText(ctx, tli)
			var refused *pgconn.PgError
			if errors.As(err, &refused) {
				r.Events.Warned(fmt.Sprintf("the history of timeline %d cannot be had from the server (%s): as long as the repository lacks it too, "+
					"a recovery to the newest timeline may end before timeline %d", uint32(tli), refused.Message, uint32(tli)))
				r.pushed[tli] = true
				continue
			}
			if err != nil {
				return err
			}
		}
		_, err := r.opened.Push(ctx, tli.HistoryName(), text, walarchive.Facts{})
		if err != nil && !own && r.lasting(err) {
			r.Events.Warned(fmt.Sprintf("the history of timeline %d, from which the server came: %v", uint32(tli), err))
			err = nil
		}
		if err != nil {
			return err
		}
		r.pushed[tli] = true
	}
	return nil
}

// first is the segment to begin with: where the last stream ended; for a new process where the slot stands, or the archive ends if that is before; and for a new slot the last
// segment that the archive holds, so that it is compared with the server's. Where the server has removed that, it is the next, and then the oldest that it still has.
func (r *receiver) first(ctx context.Context, l *link, s slot) (pg.Segment, error) {
	oldest := l.number(s.restart)
	if s.restart == 0 {
		oldest = l.number(l.server.Position)
	}
	wanted, from := oldest, oldest
	if r.next.Timeline != 0 && l.leads(r.next) {
		wanted, from = r.next.Number, r.next.Number
		r.completeBefore(ctx, l, r.next)
	} else {
		n, ok, err := r.archiveEnd(ctx, l, oldest)
		if err != nil {
			return pg.Segment{}, err
		}
		if ok && n <= l.number(l.server.Position) && (n < oldest || s.fresh) {
			wanted, from = n, n-1
		}
	}
	if r.removed != nil && from <= r.removed.Number {
		from = wanted
		if wanted <= r.removed.Number {
			held, err := l.held(ctx, wanted)
			if err != nil {
				return pg.Segment{}, err
			}
			if held > wanted {
				r.Events.Missing(l.segment(wanted), l.segment(held-1), r.server.SegmentSize)
			}
			wanted, from = held, held
		}
	}
	r.next = l.segment(wanted)
	return l.segment(from), nil
}

// held is the number of the oldest segment that the server has, not below first. It removes the oldest first; a slot only says what it keeps at least.
func (l *link) held(ctx context.Context, first uint64) (uint64, error) {
	last := l.number(l.server.Position)
	for first < last {
		middle := first + (last-first)/2
		has, err := l.has(ctx, l.segment(middle))
		switch {
		case err != nil:
			return 0, err
		case has:
			last = middle
		default:
			first = middle + 1
		}
	}
	return first, nil
}

// leads says whether the server's history goes through the first byte of the segment.
func (l *link) leads(s pg.Segment) bool {
	_, end, ok := l.history.Bounds(s.Timeline)
	return ok && s.Start(l.server.SegmentSize) <= end
}

// archiveEnd is the segment behind the last whole one that the archive holds on the way to the server's timeline; false if it holds none. What is there in parts only is made
// whole before, if all of it is there.
func (r *receiver) archiveEnd(ctx context.Context, l *link, oldest uint64) (n uint64, ok bool, err error) {
	r.completeBefore(ctx, l, l.segment(oldest))
	c, err := r.opened.Scan(ctx, r.server.SegmentSize)
	if err != nil {
		return 0, false, err
	}
	n, ok = l.archived(c)
	for ok && n < l.number(l.server.Position) {
		made, err := r.opened.Complete(ctx, l.segment(n).Name(r.server.SegmentSize))
		if err != nil {
			r.tellIncomplete(n, l, err)
		}
		if !made {
			break
		}
		n++
	}
	return n, ok, nil
}

func (r *receiver) tellIncomplete(n uint64, l *link, err error) {
	r.Events.Warned(fmt.Sprintf("segment %s cannot be made of its parts: %v", l.segment(n).Name(r.server.SegmentSize), err))
}

// archived is the segment behind the last one that the archive holds on the way to the server's timeline; false if it holds none.
func (l *link) archived(c *walarchive.Coverage) (uint64, bool) {
	for i := len(l.history) - 1; i >= 0; i-- {
		tli := l.history[i].Timeline
		begin, end, _ := l.history.Bounds(tli)
		spans := c.Spans(tli)
		for j := len(spans) - 1; j >= 0; j-- {
			last := spans[j].Last
			if end != pg.MaxLSN {
				if l.number(end) == 0 || spans[j].First >= l.number(end) {
					continue
				}
				last = min(last, l.number(end)-1)
			}
			if last >= l.number(begin) {
				return last + 1, true
			}
		}
	}
	return 0, false
}

// completeBefore makes whole segments of those before the first one that are there in parts only: another receiver may have stored them so, and died. It had no more in
// memory than these; behind one in parts there may be a whole one, since they are stored in any order.
func (r *receiver) completeBefore(ctx context.Context, l *link, first pg.Segment) {
	if r.checked {
		return
	}
	for n := first.Number; n > 0 && n+maxSegments > first.Number; n-- {
		name := l.segment(n - 1).Name(r.server.SegmentSize)
		if _, err := r.opened.Complete(ctx, name); err != nil {
			r.tellIncomplete(n-1, l, err)
			if !r.lasting(err) {
				return // the next session tries again
			}
		}
	}
	r.checked = true
}
