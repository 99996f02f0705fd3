// Package retry is a Store that tries again what a storage failed to do because it was not to be reached, or had too much to do.
//
// It tries again only what waiting can mend: storage.ErrUnreachable, and errors of the network that a driver gave no class. That an object
// is absent or there, that access is denied, that there is no room, is an answer. It never gives a caller anything twice: not the bytes
// of a Get, not the objects of a listing. cmd puts it above every driver that speaks over a network.
package retry

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"syscall"
	"time"

	"github.com/pgtrove/pgtrove/storage"
)

// Defaults of Options.
const (
	DefaultTotal   = 2 * time.Minute
	DefaultFirst   = 250 * time.Millisecond
	DefaultLongest = 20 * time.Second
	// throttledFirst is about the shortest pause after the storage said that it has too much to do.
	throttledFirst = time.Second
)

// Options say how long to go on. The zero value works.
type Options struct {
	// Total is how long a call that fails is tried again, from its first failure on; what has begun by then may end.
	// A listing that gives an object begins anew to count. 0: DefaultTotal. Negative: nothing is tried again.
	Total time.Duration
	// First and Longest bound the pauses, which double. Each is drawn at random between half of its length and all of it. 0: the defaults.
	// A storage that asks for a longer pause gets it, as far as Total goes.
	First, Longest time.Duration
	// Once says of which keys a Put must not be sent a second time. nil: of none.
	Once func(key string) bool
	// Lasting says which errors of class ErrUnreachable waiting does not mend. nil: none.
	Lasting func(error) bool
	// Throttled says whether an error means that the storage has too much to do, and how long it asked to be left alone, 0 if it
	// did not say. nil: none does.
	Throttled func(error) (after time.Duration, ok bool)
	// Retrying is told of every failure after which there is another attempt. It may be called from several goroutines. nil: nobody is.
	Retrying func(Failure)
}

// Failure is an attempt after which there is another one.
type Failure struct {
	Op, Key string
	Attempt int           // from 1
	Pause   time.Duration // until the next one
	Err     error
}

// Store is the decorator. It passes storage.Tidier through, and tries storage.Locker again too.
type Store struct {
	below storage.Store
	o     Options
}

// New wraps a store.
func New(below storage.Store, o Options) *Store {
	if o.Total == 0 {
		o.Total = DefaultTotal
	}
	if o.First <= 0 {
		o.First = DefaultFirst
	}
	if o.Longest <= 0 {
		o.Longest = DefaultLongest
	}
	return &Store{below: below, o: o}
}

// Get implements storage.Store. Every attempt has the same dst, whose bytes a failed one leaves alone.
func (s *Store) Get(ctx context.Context, key string, r storage.Range, dst []byte) (out []byte, err error) {
	c := s.call("get", key)
	for {
		if out, err = s.below.Get(ctx, key, r, dst); err == nil {
			return out, nil
		}
		if err = c.wait(ctx, err); err != nil {
			return nil, err
		}
	}
}

// Put implements storage.Store. An attempt that failed may have created the object all the same, and then the next one finds the key
// taken, in whatever words: a server that lets nobody replace what is locked says "denied". So when that one is answered with anything but success, the
// object is read, and the same bytes are success. The caller cannot tell whether it was another
// one who put the same bytes there; to all of them it is stored.
//
// A request may also arrive after its caller gave it up, and even after the object of the next one was deleted. Where that does harm, see
// Options.Once.
func (s *Store) Put(ctx context.Context, key string, data []byte) error {
	c := s.call("put", key)
	c.once = s.o.Once != nil && s.o.Once(key)
	for {
		err := s.below.Put(ctx, key, data)
		if err != nil && c.failures > 0 && ctx.Err() == nil && !c.passing(ctx, err) {
			err = s.compare(ctx, c, data, err)
		}
		if err == nil {
			return nil
		}
		if err = c.wait(ctx, err); err != nil {
			return err
		}
	}
}

// compare gives nil if the object is the one that the caller wants to be there, and else the answer that its last attempt had.
func (s *Store) compare(ctx context.Context, c *call, data []byte, answer error) error {
	there, err := s.below.Get(ctx, c.key, storage.Range{}, nil)
	switch {
	case err == nil && bytes.Equal(there, data):
		return nil
	case errors.Is(err, storage.ErrNotExist) && errors.Is(answer, storage.ErrExist):
		// Taken a moment ago, and gone: whoever deleted it knows why. The caller cannot believe that it is stored.
		return &storage.Error{Op: "put", Key: c.key, Class: storage.ErrExist, Err: errGone}
	case err != nil && c.passing(ctx, err):
		return err // nothing is known yet
	case err != nil && ctx.Err() != nil:
		return err
	}
	return answer
}

var errGone = errors.New("created, as it seems, and deleted by someone else before that was certain")

// List implements storage.Store. A listing that failed begins anew, for it cannot be had from a key on, and gives what comes after the
// last object that fn has had. Whatever was there all the time is in both, so that none is passed over; what came or
// went meanwhile may be given or not, as in any listing.
func (s *Store) List(ctx context.Context, prefix string, fn func(storage.Info) error) error {
	c := s.call("list", prefix)
	var last string // given to fn; no key is empty
	var own error   // fn's
	give := func(i storage.Info) error {
		if i.Key <= last {
			return nil
		}
		last = i.Key
		c.progress()
		own = fn(i)
		return own
	}
	for {
		err := s.below.List(ctx, prefix, give)
		if err == nil || own != nil {
			return err
		}
		if err = c.wait(ctx, err); err != nil {
			return err
		}
	}
}

// Delete implements storage.Store.
func (s *Store) Delete(ctx context.Context, key string) error {
	c := s.call("delete", key)
	for {
		err := s.below.Delete(ctx, key)
		if err == nil {
			return nil
		}
		if err = c.wait(ctx, err); err != nil {
			return err
		}
	}
}

// Lock implements storage.Locker. A second attempt finds the object kept for long enough, if the first one did it.
func (s *Store) Lock(ctx context.Context, key string, until time.Time) error {
	c := s.call("lock", key)
	for {
		err := storage.Lock(ctx, s.below, key, until)
		if err == nil {
			return nil
		}
		if err = c.wait(ctx, err); err != nil {
			return err
		}
	}
}

// Tidy implements storage.Tidier. It is tried once: what one prune does not tidy the next one does.
func (s *Store) Tidy(ctx context.Context, before time.Time) (files int, bytes int64, err error) {
	if t, ok := s.below.(storage.Tidier); ok {
		return t.Tidy(ctx, before)
	}
	return 0, 0, nil
}

// call is one call of a caller, in as many attempts as it takes.
type call struct {
	o        *Options
	op, key  string
	once     bool
	failures int // without progress since
	since    time.Time
}

func (s *Store) call(op, key string) *call { return &call{o: &s.o, op: op, key: key} }

// progress forgets the failures so far.
func (c *call) progress() { c.failures = 0 }

// wait returns nil when it is time for another attempt, and what to tell the caller when there is none.
func (c *call) wait(ctx context.Context, err error) error {
	if c.once || !c.passing(ctx, err) {
		return err
	}
	if c.failures == 0 {
		c.since = time.Now()
	}
	c.failures++
	pause := c.pause(err)
	if left := c.o.Total - time.Since(c.since); left < pause {
		if left <= 0 {
			return c.give(err)
		}
		pause = left // and one last time
	}
	if c.o.Retrying != nil {
		c.o.Retrying(Failure{Op: c.op, Key: c.key, Attempt: c.failures, Pause: pause, Err: err})
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return &storage.Error{Op: c.op, Key: c.key, Err: errors.Join(ctx.Err(), err)}
	}
}

// give says in the error how much was tried. Its class stays.
func (c *call) give(err error) error {
	if c.failures < 2 {
		return err
	}
	return &GaveUpError{Attempts: c.failures, After: time.Since(c.since), Err: err}
}

// GaveUpError is the last failure of a call that was tried more than once.
type GaveUpError struct {
	Attempts int
	After    time.Duration // since the first failure
	Err      error
}

func (e *GaveUpError) Error() string {
	return fmt.Sprintf("%v (tried %d times in %s)", e.Err, e.Attempts, e.After.Round(100*time.Millisecond))
}

func (e *GaveUpError) Unwrap() error { return e.Err }

// pause is how long to wait after the failure.
func (c *call) pause(err error) time.Duration {
	d := c.o.Longest
	if shift := c.failures - 1; shift < 32 && c.o.First<<shift>>shift == c.o.First {
		d = min(d, c.o.First<<shift)
	}
	d = d/2 + rand.N(d/2+1)
	if c.o.Throttled != nil {
		if after, ok := c.o.Throttled(err); ok {
			// All callers were told the same: they do not come back in the same moment.
			d = max(d, throttledFirst/2+rand.N(throttledFirst), after+rand.N(after/8+1))
		}
	}
	return d
}

// passing says whether another attempt may succeed.
func (c *call) passing(ctx context.Context, err error) bool {
	var untrusted *tls.CertificateVerificationError
	if ctx.Err() != nil || errors.As(err, &untrusted) || c.o.Lasting != nil && c.o.Lasting(err) {
		return false
	}
	if errors.Is(err, storage.ErrUnreachable) {
		return true
	}
	for _, answer := range []error{storage.ErrNotExist, storage.ErrExist, storage.ErrDenied, storage.ErrFull, storage.ErrReadOnly,
		storage.ErrNotEmpty, storage.ErrKey, storage.ErrNoLock} {
		if errors.Is(err, answer) {
			return false
		}
	}
	var network net.Error
	if errors.As(err, &network) {
		return true
	}
	for _, broken := range []error{io.ErrUnexpectedEOF, io.EOF, net.ErrClosed, syscall.ECONNRESET, syscall.ECONNREFUSED, syscall.ECONNABORTED, syscall.EPIPE} {
		if errors.Is(err, broken) {
			return true
		}
	}
	return false
}
