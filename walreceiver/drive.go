package walreceiver

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/walarchive"
)

// drive is one stream, from its first byte until all that came of it is stored.
type drive struct {
	*receiver
	link    *link     // nil once it is closed
	reader  *reader   // nil once nothing more is received
	reading bool      // it was asked for a message
	first   pg.LSN    // where the stream began
	mode    chan bool // what the watcher finds
	unwatch context.CancelFunc
	hold    func()    // begins to keep a slot at the server that is there now; nil: it does so already
	held    chan bool // a slot was made; true: the one that was there had lost its WAL
	rest    message   // what there is no room for
	ended   error     // why the stream has ended

	heard, told time.Time // the server's last message, our last status
	asked       bool      // the last status asked for an answer
	sent        pg.LSN    // flushed, as the server was told
	owed        time.Time // when an answer is to be sent, whatever is stored; zero: none is owed
	answered    time.Time // when the server got an answer that did not say all
	stalled     time.Time // since when there is no room
	stop        time.Time // when the end must have come; zero: nobody wants it
	running     map[*job]context.CancelFunc
	failing     map[string]bool // what the storage did not take when it was tried last
}

// result is how a job ended.
type result struct {
	job *job
	err error
}

// errHungUp says that we left the stream: the server would have waited for our storage.
var errHungUp = errors.New("disconnected: the storage takes no more, and the server must not wait for it")

func (r *receiver) drive(ctx context.Context, l *link) error {
	now := time.Now()
	watching, unwatch := context.WithCancel(ctx)
	holding, release := context.WithCancel(ctx)
	d := &drive{
		receiver: r, link: l, reader: startReader(l.stream.PgConn()), first: r.flow.received(), mode: make(chan bool), unwatch: unwatch, held: make(chan bool),
		heard: now, running: map[*job]context.CancelFunc{}, failing: map[string]bool{},
	}
	var jobs, watch sync.WaitGroup
	beside, pid := l.beside, l.stream.PgConn().PID()
	watch.Go(func() { watchMode(watching, beside, pid, d.mode) })
	d.hold = func() { watch.Go(func() { holdSlot(holding, r.Options, r.server, d.held) }) }
	defer func() {
		d.leave()
		release()
		watch.Wait()
		for _, stop := range d.running {
			stop()
		}
		d.await(&jobs)
	}()
	return d.loop(ctx, &jobs)
}

// await waits for what is being stored, which was cancelled. A storage that does not even answer to that is left behind after some seconds.
func (d *drive) await(jobs *sync.WaitGroup) {
	done := make(chan struct{})
	go func() {
		jobs.Wait()
		close(done)
	}()
	timeout := time.After(stallPatience)
	for {
		select {
		case <-d.results:
		case <-done:
			return
		case <-timeout:
			return
		}
	}
}

func (d *drive) loop(ctx context.Context, jobs *sync.WaitGroup) error {
	end := ctx.Done()
	for {
		now := time.Now()
		if err := d.step(ctx, now, jobs); err != nil || d.over(now) {
			return d.verdict(err)
		}
		var in chan message
		if d.reader != nil && d.rest.data == nil {
			in = d.reader.in
		}
		timer := time.NewTimer(d.wake(now).Sub(now))
		var err error
		select {
		case m := <-in:
			err = d.message(time.Now(), m)
		case res := <-d.results:
			err = d.result(time.Now(), res)
		case synchronous := <-d.mode:
			d.setMode(synchronous)
		case lost := <-d.held:
			d.Events.SlotMade(d.Slot, lost)
		case <-end:
			end = nil
			d.finish(time.Now())
		case <-timer.C:
		}
		timer.Stop()
		if err != nil {
			return err
		}
	}
}

// step does what is due.
func (d *drive) step(ctx context.Context, now time.Time, jobs *sync.WaitGroup) error {
	f := d.flow
	if err := d.makeRoom(now); err != nil {
		return err
	}
	f.urgent = d.waitedFor()
	if f.urgent {
		f.hurry()
	}
	for _, j := range f.jobs(now) {
		d.begin(ctx, j, jobs)
	}
	for j := range d.running {
		if now.Sub(j.begun) > slow {
			d.unstored.failed(now, errSlow, d.Events.Unstored)
		}
	}
	if f.failures > 0 {
		d.unstored.failed(now, f.lastErr, d.Events.Unstored)
	}
	d.report(now, d.reader != nil)
	return d.answer(now)
}

// waitedFor says whether all that has come is to be stored at once. So it is until the server can be told again what it knew already: before, it does not take us for
// a synchronous standby, and does not say that commits wait for us.
func (d *drive) waitedFor() bool {
	again := d.flow.durable() < d.kept && d.kept <= d.flow.received()
	return again || d.sync || d.Synchronous || !d.owed.IsZero() || d.reader == nil || !d.stop.IsZero()
}

// slow is for how long one thing may be on its way to the storage before that is told.
const slow = 2 * time.Minute

var errSlow = errors.New("it does not answer, or is too slow")

// begin starts to store something.
func (d *drive) begin(ctx context.Context, j job, jobs *sync.WaitGroup) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	d.running[&j] = cancel
	jobs.Go(func() { d.results <- result{&j, d.store(ctx, &j)} })
}

func (d *drive) store(ctx context.Context, j *job) error {
	s := j.segment
	if j.part {
		return d.opened.PushPart(ctx, walarchive.Part{
			Segment: s.name, Receiver: s.receiver, From: int64(j.from), To: int64(j.to), Content: s.data[j.from:j.to], Facts: j.facts,
		})
	}
	_, err := d.opened.Push(ctx, s.name, s.data, j.facts)
	return err
}

// result takes in how a job ended. An error is one that does not pass.
func (d *drive) result(now time.Time, res result) error {
	cancel, ours := d.running[res.job]
	if !ours {
		return nil // of a drive before, which did not wait for it
	}
	cancel()
	delete(d.running, res.job)
	d.flow.done(now, *res.job, res.err)
	if res.err != nil {
		if d.lasting(res.err) {
			return res.err
		}
		d.failing[res.job.what()] = true
		return nil
	}
	delete(d.failing, res.job.what())
	if !res.job.part {
		delete(d.failing, partsOf(res.job.segment)) // nobody needs them any more
	}
	if len(d.failing) == 0 {
		if since, was := d.unstored.over(); was {
			d.Events.Back(since)
		}
	}
	d.next = d.flow.next()
	d.Events.Stored(res.job.segment.name, int64(res.job.from), int64(res.job.to), now.Sub(res.job.begun))
	return nil
}

// what names what is stored, so that one thing that fails again and again is not forgotten when another one succeeds.
func (j *job) what() string {
	if j.part {
		return partsOf(j.segment)
	}
	return j.segment.name
}

func partsOf(s *segment) string { return s.name + ".part" }

// message takes in what the server sent.
func (d *drive) message(now time.Time, m message) error {
	d.heard, d.asked = now, false
	d.reading = false
	if m.err != nil {
		d.end(m.err)
		return nil
	}
	d.serverEnd = max(d.serverEnd, m.end)
	if m.reply {
		if now.Sub(d.answered) < askPatience && d.behind(now) {
			d.end(errHungUp) // it asks again and again: it is shutting down
			return nil
		}
		if d.owed.IsZero() {
			d.owed = now.Add(askPatience)
		}
		if d.flow.failures > 0 {
			d.owed = now // it would wait in vain
		}
	}
	d.rest = m
	return d.makeRoom(now)
}

// behind says whether there is something that the server cannot be told yet.
func (d *drive) behind(now time.Time) bool { return d.confirmed(now) < d.flow.received() }

// makeRoom takes in the last message as far as there is room, and then asks for the next one. Where there is no room for some time, or the storage has
// failed, the server is left alone.
func (d *drive) makeRoom(now time.Time) error {
	if d.reader == nil {
		return nil
	}
	if d.rest.data != nil {
		rest, err := d.flow.take(now, d.rest.lsn, d.rest.data)
		if errors.Is(err, errStream) {
			d.end(err)
			return nil
		}
		if err != nil {
			return err
		}
		if len(rest) > 0 {
			if len(rest) < len(d.rest.data) || d.stalled.IsZero() {
				d.stalled = now
			}
			d.rest.lsn += pg.LSN(len(d.rest.data) - len(rest))
			d.rest.data = rest
			if d.flow.failures > 0 || now.Sub(d.stalled) > stallPatience {
				d.end(errHungUp)
			}
			return nil
		}
		d.rest.data = nil
		d.stalled, d.heard = time.Time{}, now
	}
	if !d.reading {
		d.reading = true
		d.reader.next <- struct{}{}
	}
	return nil
}

// end is the end of the stream. What was received of it is still to be stored, so it is told now.
func (d *drive) end(why error) {
	d.ended = why
	if !errors.Is(why, errTimelineEnd) {
		d.lost.failed(time.Now(), why, d.Events.Disconnected)
	}
	d.leave()
	if d.hold != nil {
		d.hold()
		d.hold = nil
	}
}

// stopReading keeps the connection.
func (d *drive) stopReading() {
	if d.reader != nil {
		d.reader.stop()
		d.reader, d.rest = nil, message{}
	}
}

// leave ends the connection, in order where the server still listens.
func (d *drive) leave() {
	d.stopReading()
	d.unwatch()
	d.owed = time.Time{}
	if d.link == nil {
		return
	}
	if d.ended == nil || errors.Is(d.ended, errTimelineEnd) || errors.Is(d.ended, errHungUp) {
		endStream(d.link.stream.PgConn())
	}
	d.link.close()
	d.link = nil
}

// finish begins the end: what was received is stored, and the server is told.
func (d *drive) finish(now time.Time) {
	d.stop = now.Add(stopPatience)
	d.stopReading()
}

// over says whether there is nothing more to do, or no more time.
func (d *drive) over(now time.Time) bool {
	if d.reader != nil {
		return false
	}
	return d.flow.settled() || !d.stop.IsZero() && !now.Before(d.stop)
}

// verdict is how the drive has ended.
func (d *drive) verdict(err error) error {
	switch left := d.flow.received() - d.flow.durable(); {
	case err != nil:
		return err
	case d.stop.IsZero():
		return d.ended
	case left >= headerBytes:
		cause := d.flow.lastErr
		if cause == nil {
			cause = errSlow
		}
		return fmt.Errorf("store the last %d bytes: %w: %w", left, ErrUnstored, cause)
	}
	return nil
}

// flushed is what the server is told; 0: nothing. A slot keeps WAL from there on. So nothing is told before the stream has shown that the server has what it was
// asked for, nor anything before where the slot stands: the slot would be moved backwards, to WAL that may have been removed, and never tell any more where it stood.
func (d *drive) flushed(now time.Time) pg.LSN {
	at := d.confirmed(now)
	if at < d.kept || d.flow.received() == d.first && d.serverEnd > d.first {
		return 0
	}
	return at
}

// answer tells the server how far it is: when more is durable, when it has asked, and now and then.
func (d *drive) answer(now time.Time) error {
	if d.link == nil {
		return nil
	}
	every := statusEvery
	if t := d.server.Timeout / 3; t > 0 {
		every = min(every, t)
	}
	flushed, behind := d.flushed(now), d.behind(now)
	owed := !d.owed.IsZero() && (!behind || !now.Before(d.owed))
	silent := d.reader != nil && d.rest.data == nil && now.Sub(d.heard) > silence
	if silent && now.Sub(d.heard) > 2*silence {
		d.end(errSilent)
		return nil
	}
	ask := silent && !d.asked
	if flushed <= d.sent && now.Sub(d.told) < every && !owed && !ask {
		return nil
	}
	if err := sendStatus(d.link.stream.PgConn(), now, flushed, ask); err != nil {
		d.end(err)
		return nil
	}
	d.sent, d.told, d.asked = flushed, now, d.asked || ask
	if owed {
		d.owed = time.Time{}
		if behind {
			d.answered = now
		}
	}
	return nil
}

var errSilent = errors.New("the server says nothing any more")

// wake is when step is to be called again if nothing happens before.
func (d *drive) wake(now time.Time) time.Time {
	at := now.Add(time.Second)
	for _, t := range []time.Time{d.flow.wake(now), d.owed, d.stop} {
		if !t.IsZero() && t.Before(at) {
			at = t
		}
	}
	return at
}
