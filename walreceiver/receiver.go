package walreceiver

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/walarchive"
)

// receiver is one call of Run.
type receiver struct {
	Options
	opened  *Opened
	server  Server    // of the newest connection
	fresh   time.Time // until then nobody may rely on parts
	flow    *flow     // nil before the first stream
	results chan result

	next      pg.Segment  // the first that is not stored as a whole; zero: not known yet
	removed   *pg.Segment // the server has no WAL from there on
	pushed    pg.Timeline // whose history is in the archive
	checked   bool        // whether the segment before the first is a whole one
	sync      bool        // the server waits for us
	serverEnd pg.LSN      // the server's newest position
	unstored  outage      // the storage
	lost      outage      // the server
	reported  time.Time   // the last progress
}

// outage is something that does not answer.
type outage struct{ since, told time.Time }

// failed tells it once, and every ten minutes.
func (o *outage) failed(now time.Time, err error, tell func(error, time.Time)) {
	if o.since.IsZero() {
		o.since = now
	}
	if o.told.IsZero() || now.Sub(o.told) >= tellEvery {
		o.told = now
		tell(err, o.since)
	}
}

// over ends it and returns when it began; false if there was none.
func (o *outage) over() (time.Time, bool) {
	since := o.since
	*o = outage{}
	return since, !since.IsZero()
}

// Run receives WAL until ctx ends, and then returns nil once what was received is stored and the server knows. It goes on through restarts of the
// server, lost connections and outages of the storage.
//
// Errors: ErrUnstored; ErrSystem, ErrSlot; those of Open; and errors of which Lasting says that they do not pass by themselves, as of a server that does not let us in, or an
// archive that holds other content under the name of a segment.
func Run(ctx context.Context, o Options) error {
	o.Events.fill()
	r := &receiver{Options: o, results: make(chan result, maxPushes+1), reported: time.Now()}
	pause := firstPause
	for ctx.Err() == nil {
		before := r.position()
		err := r.session(ctx)
		switch {
		case ctx.Err() != nil && !errors.Is(err, ErrUnstored) && !r.lasting(err):
			return nil
		case r.lasting(err):
			return err
		case r.position() != before:
			pause = firstPause
		}
		if errors.Is(err, errTimelineEnd) && r.position() != before {
			continue // the server goes on
		}
		if err != nil {
			r.lost.failed(time.Now(), err, r.Events.Disconnected)
		}
		r.sleep(ctx, pause)
		pause = min(2*pause, longestPause)
	}
	return nil
}

func (r *receiver) position() pg.LSN {
	if r.flow == nil || len(r.flow.segments) == 0 {
		return 0
	}
	return r.flow.received()
}

// sleep waits, and reports meanwhile.
func (r *receiver) sleep(ctx context.Context, d time.Duration) {
	r.report(time.Now(), false)
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// lasting says whether an error ends it all.
func (r *receiver) lasting(err error) bool {
	return err != nil && (errors.Is(err, ErrSystem) || errors.Is(err, ErrSlot) || errors.Is(err, ErrUnstored) || r.Lasting(err))
}

// session connects, streams until the stream ends, and stores what was received. Nil: it was ended by us.
func (r *receiver) session(ctx context.Context) error {
	l, err := connect(ctx, r.Dial)
	if err != nil {
		return err
	}
	defer l.close()
	if err := r.greet(ctx, l); err != nil {
		return err
	}
	s, err := l.slot(ctx, r.Slot, r.Events.SlotMade)
	if err != nil {
		return err
	}
	first, err := r.first(ctx, l, s)
	if err != nil {
		return err
	}
	r.completeBefore(ctx, l, first)
	if err := l.start(ctx, r.Slot, first); err != nil {
		return r.noteRemoved(err, first)
	}
	r.flow.begin(first)
	r.serverEnd = l.server.Position
	r.lost.over()
	r.Events.Started(l.server, first)
	return r.noteRemoved(r.drive(ctx, l), first)
}

// greet makes sure that the server is the one that is wanted, and that the archive knows the way to its timeline.
func (r *receiver) greet(ctx context.Context, l *link) error {
	if r.opened == nil {
		o, err := r.Open(ctx, l.server)
		if err != nil {
			return err
		}
		r.opened, r.server = o, l.server
		if o.Fresh {
			r.fresh = time.Now().Add(freshFor)
		}
	}
	if l.server.System != r.server.System || l.server.SegmentSize != r.server.SegmentSize {
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
	if l.text == nil || r.pushed == l.server.Timeline {
		return nil
	}
	if _, err := r.opened.Push(ctx, l.server.Timeline.HistoryName(), l.text, walarchive.Facts{}); err != nil {
		return err
	}
	r.pushed = l.server.Timeline
	return nil
}

// noteRemoved remembers that the server lacks the WAL that it was asked for.
func (r *receiver) noteRemoved(err error, first pg.Segment) error {
	if isCode(err, codeRemoved) {
		r.removed = &first
	}
	return err
}

// first is the segment to begin with: where the last stream ended; else where the slot stands; and for a new slot the last one that the archive holds, so that
// it is compared with the server's. Where the server has removed that, it is the next, and then the oldest that the slot keeps.
func (r *receiver) first(ctx context.Context, l *link, s slot) (pg.Segment, error) {
	oldest := l.number(s.restart)
	if s.restart == 0 {
		oldest = l.number(l.server.Position)
	}
	wanted, from := oldest, oldest
	known := r.next.Timeline != 0
	if known && l.leads(r.next) {
		wanted, from = r.next.Number, r.next.Number
	} else if known || s.fresh {
		c, err := r.opened.Scan(ctx, r.server.SegmentSize)
		if err != nil {
			return pg.Segment{}, err
		}
		if n, ok := l.archived(c); ok && n <= l.number(l.server.Position) {
			wanted, from = n, n-1
		}
	}
	if r.removed != nil && from <= r.removed.Number {
		from = wanted
		if wanted <= r.removed.Number && wanted < oldest {
			r.Events.Missing(l.segment(wanted), l.segment(oldest-1), r.server.SegmentSize)
			wanted, from = oldest, oldest
		}
	}
	r.next = l.segment(wanted)
	return l.segment(from), nil
}

// leads says whether the server's history goes through the first byte of the segment.
func (l *link) leads(s pg.Segment) bool {
	_, end, ok := l.history.Bounds(s.Timeline)
	return ok && s.Start(l.server.SegmentSize) <= end
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

// completeBefore sees to the segments before the first one: another receiver may have stored them in parts only, and died.
func (r *receiver) completeBefore(ctx context.Context, l *link, first pg.Segment) {
	if r.checked {
		return
	}
	r.checked = true
	for n := first.Number; n > 0; n-- {
		name := l.segment(n - 1).Name(r.server.SegmentSize)
		made, err := r.opened.Complete(ctx, name)
		if err != nil {
			r.Events.Warned(fmt.Sprintf("segment %s cannot be made of its parts: %v", name, err))
		}
		if !made {
			return
		}
	}
}

// report says how far it is, if it is time, or at once.
func (r *receiver) report(now time.Time, connected bool) {
	if now.Sub(r.reported) < r.Report || r.flow == nil || len(r.flow.segments) == 0 {
		return
	}
	r.reported = now
	r.Events.Progress(Progress{
		Connected: connected, Synchronous: r.sync || r.Synchronous, Timeline: r.flow.last().Timeline,
		Received: r.flow.received(), Durable: r.flow.durable(), End: r.serverEnd,
	})
}

// confirmed is up to where readers of the archive find all WAL.
func (r *receiver) confirmed(now time.Time) pg.LSN {
	if now.Before(r.fresh) {
		return r.flow.whole()
	}
	return r.flow.durable()
}
