package walreceiver

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/internal/pg"
)

// newTestReceiver is one that streams segment 5 and prints nothing.
func newTestReceiver(now time.Time) *receiver {
	o := Options{Lasting: func(error) bool { return false }, Report: time.Minute}
	o.Events.fill()
	r := &receiver{Options: o, results: make(chan result, maxPushes+1), reported: now}
	r.flow = &flow{size: mib, interval: time.Second, follow: func(string, []byte, []byte) Follower { return &readsAnything{} }}
	r.flow.begin(pg.Segment{Timeline: 1, Number: 5})
	return r
}

// TestAnAnswerOwedIsForgottenWithTheConnection: the server asked, and died. Nothing is to be done while the storage hangs, and so the loop has to wait.
func TestAnAnswerOwedIsForgottenWithTheConnection(t *testing.T) {
	now := time.Now()
	r := newTestReceiver(now)
	if _, err := r.flow.take(now, r.flow.received(), make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	r.flow.parting, r.flow.last().parting = true, true // a part is on its way
	d := &drive{receiver: r, unwatch: func() {}, running: map[*job]context.CancelFunc{}, heard: now}
	if err := d.message(now, message{reply: true}); err != nil {
		t.Fatal(err)
	}
	d.end(errors.New("unexpected EOF"))
	later := now.Add(5 * time.Second)
	if err := d.step(t.Context(), later, nil); err != nil {
		t.Fatal(err)
	}
	if d.over(later) {
		t.Fatal("it is over, with something unstored")
	}
	if at := d.wake(later); !at.After(later) {
		t.Errorf("it wakes at once, for ever: %v before now", later.Sub(at))
	}
}

// TestWhatIsToldIsNeverBehindTheSlot: it would be moved to WAL that the server may have removed.
func TestWhatIsToldIsNeverBehindTheSlot(t *testing.T) {
	now := time.Now()
	r := newTestReceiver(now)
	start := r.flow.received()
	d := &drive{receiver: r, first: start}
	told := func(want pg.LSN, when string) {
		t.Helper()
		if got := d.flushed(now); got != want {
			t.Errorf("%s: %s, want %s", when, got, want)
		}
	}
	r.serverEnd = start
	told(start, "the server has nothing more")
	r.serverEnd = start + 3000
	told(0, "nothing has come, and the server may have removed it")
	if _, err := r.flow.take(now, start, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	told(start, "it has come, and nothing is stored")
	d.reader = &reader{}
	if d.waitedFor() {
		t.Error("nobody waits, and all is to be stored at once")
	}
	r.kept = start + 500
	told(0, "the slot stands further on")
	if !d.waitedFor() {
		t.Error("the server is to be told soon again what it knew, and nothing is stored")
	}
	r.flow.hurry()
	for _, j := range r.flow.jobs(now) {
		r.flow.done(now, j, nil)
	}
	told(start+1000, "it is stored beyond where the slot stood")
}

// TestAResultOfADriveBeforeIsPassedOver: a storage that did not even answer to being cancelled was left behind, and answers now.
func TestAResultOfADriveBeforeIsPassedOver(t *testing.T) {
	now := time.Now()
	r := newTestReceiver(now)
	d := &drive{receiver: r, running: map[*job]context.CancelFunc{}, failing: map[string]bool{}}
	if err := d.result(now, result{&job{segment: r.flow.last(), part: true, to: 1000}, nil}); err != nil {
		t.Fatal(err)
	}
	if got, want := r.flow.durable(), r.flow.received(); got != want {
		t.Errorf("durable up to %s, and nothing of this stream was stored before %s", got, want)
	}
}

// TestAnOutageIsNotOverWhileSomethingFailsSteadily: it would be told again with each other thing that is stored.
func TestAnOutageIsNotOverWhileSomethingFailsSteadily(t *testing.T) {
	now := time.Now()
	r := newTestReceiver(now)
	backs := 0
	r.Events.Back = func(time.Time) { backs++ }
	d := &drive{receiver: r, running: map[*job]context.CancelFunc{}, failing: map[string]bool{}}
	if _, err := r.flow.take(now, r.flow.received(), make([]byte, mib+1000)); err != nil {
		t.Fatal(err)
	}
	ends := func(part bool, err error) {
		t.Helper()
		for _, j := range r.flow.jobs(now) {
			d.running[&j] = func() {}
			failed := err
			if j.part != part {
				failed = errSlow
			}
			if err := d.result(now, result{&j, failed}); err != nil {
				t.Fatal(err)
			}
			r.unstored.failed(now, errSlow, r.Events.Unstored)
		}
	}
	for range 3 { // parts are stored, and the whole segment is not
		now = now.Add(time.Minute)
		r.flow.hurry()
		ends(true, nil)
	}
	if backs != 0 {
		t.Errorf("told %d times that the storage takes WAL again", backs)
	}
	now = now.Add(time.Minute)
	ends(false, nil)
	if backs != 1 {
		t.Errorf("told %d times that the storage takes WAL again, want once", backs)
	}
}

// TestASegmentBehindAWholeOneIsCompleted: segments are stored in any order, so the last but one may be there in parts only when a receiver died.
func TestASegmentBehindAWholeOneIsCompleted(t *testing.T) {
	l := &link{server: Server{Timeline: 1, SegmentSize: mib}, history: pg.NewHistory(1)}
	parts := pg.Segment{Timeline: 1, Number: 8}.Name(mib)
	var asked []string
	failure := errors.New("no answer")
	r := newTestReceiver(time.Now())
	r.server = l.server
	r.opened = &Opened{Complete: func(_ context.Context, s string) (bool, error) {
		asked = append(asked, s)
		return s == parts, failure
	}}
	r.completeBefore(t.Context(), l, pg.Segment{Timeline: 1, Number: 10})
	asked, failure = nil, nil
	r.completeBefore(t.Context(), l, pg.Segment{Timeline: 1, Number: 10}) // 9 is whole
	if !slices.Contains(asked, parts) {
		t.Errorf("%s stays in parts; asked for %v only", parts, asked)
	}
}
