package walreceiver

import (
	"context"
	"errors"
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
