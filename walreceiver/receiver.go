package walreceiver

import (
	"context"
	"errors"
	"time"

	"github.com/pgtrove/pgtrove/internal/pg"
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
	kept      pg.LSN      // from where on the slot kept WAL before the newest stream; 0: nothing
	checked   bool        // whether the segments before the first are whole ones
	sync      bool        // the server waits for us
	serverEnd pg.LSN      // the server's newest position
	unstored  outage      // the storage
	lost      outage      // the server
	reported  time.Time   // the last progress

	pushed map[pg.Timeline]bool // whose history is in the archive, or cannot come there
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
	r := &receiver{Options: o, results: make(chan result, maxPushes+1), reported: time.Now(), pushed: map[pg.Timeline]bool{}}
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

// session connects, makes sure that the server keeps WAL for us, which needs no storage once the cluster is known, streams until the stream ends, and stores what was received. Nil: it was ended by us.
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
	r.kept = s.restart
	if err := r.storeHistories(ctx, l); err != nil {
		return err
	}
	first, err := r.first(ctx, l, s)
	if err != nil {
		return err
	}
	if err := l.start(ctx, r.Slot, first); err != nil {
		return r.noteRemoved(err, first)
	}
	r.flow.begin(first)
	r.serverEnd = l.server.Position
	r.lost.over()
	r.Events.Started(l.server, first)
	return r.noteRemoved(r.drive(ctx, l), first)
}

// noteRemoved remembers that the server lacks the WAL that it was asked for.
func (r *receiver) noteRemoved(err error, first pg.Segment) error {
	if isCode(err, codeRemoved) {
		r.removed = &first
	}
	return err
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
