// Package limit bounds how much a storage is asked for: bytes a second, up and down, and calls at the same time.
//
// Store is a decorator of any driver. It knows only whole objects: it lets one go when its bytes are due, and the driver then sends it as
// fast as the line is, so that the mean holds and not every second. Transport bounds what an HTTP client sends and receives step by step,
// which is what drivers over a network are given. It never fails a call but for its context. cmd puts one of both around the driver.
package limit

import (
	"context"
	"io"
	"net/http"
	"time"

	"golang.org/x/sync/semaphore"
	"golang.org/x/time/rate"

	"github.com/pgtrove/pgtrove/storage"
)

// Options are the limits. The zero value sets none.
type Options struct {
	Upload   int64 // bytes a second of what is put; 0: no limit
	Download int64 // bytes a second of what is got; 0: no limit
	Calls    int   // at the same time; 0: no limit
}

// bucket lets bytes pass at a rate; nil lets all pass at once.
type bucket struct {
	limiter *rate.Limiter
	step    int // bytes that are waited for at once
}

// stepsPerSecond is into how many parts a second's bytes are divided: fine enough for a shared line, and coarse enough for timers.
const stepsPerSecond = 20

func newBucket(perSecond int64) *bucket {
	if perSecond <= 0 {
		return nil
	}
	step := int(min(max(perSecond/stepsPerSecond, 1), 1<<20))
	return &bucket{rate.NewLimiter(rate.Limit(perSecond), step), step}
}

// take waits until n bytes may pass. Its only error is that of ctx.
func (b *bucket) take(ctx context.Context, n int64) error {
	if b == nil {
		return nil
	}
	for n > 0 {
		step := min(n, int64(b.step))
		// Not Wait, which fails at once, and with an error of its own, where the context's deadline comes first.
		r := b.limiter.ReserveN(time.Now(), int(step))
		if err := sleep(ctx, r.Delay()); err != nil {
			r.Cancel()
			return err
		}
		n -= step
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Store is the decorator. It passes storage.Tidier and storage.Locker through.
type Store struct {
	below    storage.Store
	up, down *bucket
	slots    *semaphore.Weighted // nil: no limit
}

// New wraps a store.
func New(below storage.Store, o Options) *Store {
	s := &Store{below: below, up: newBucket(o.Upload), down: newBucket(o.Download)}
	if o.Calls > 0 {
		s.slots = semaphore.NewWeighted(int64(o.Calls))
	}
	return s
}

// enter waits for a free slot and returns what frees it.
func (s *Store) enter(ctx context.Context, op, key string) (leave func(), err error) {
	if s.slots == nil {
		return func() {}, nil
	}
	if err := s.slots.Acquire(ctx, 1); err != nil {
		return nil, &storage.Error{Op: op, Key: key, Err: err}
	}
	return func() { s.slots.Release(1) }, nil
}

// Get implements storage.Store. How much it gets is known when it is there, and so waited for afterwards.
func (s *Store) Get(ctx context.Context, key string, r storage.Range, dst []byte) ([]byte, error) {
	leave, err := s.enter(ctx, "get", key)
	if err != nil {
		return nil, err
	}
	out, err := s.below.Get(ctx, key, r, dst)
	leave()
	if err != nil {
		return nil, err
	}
	if err := s.down.take(ctx, int64(len(out)-len(dst))); err != nil {
		return nil, &storage.Error{Op: "get", Key: key, Err: err}
	}
	return out, nil
}

// Put implements storage.Store.
func (s *Store) Put(ctx context.Context, key string, data []byte) error {
	if err := storage.CheckKey(key); err != nil {
		return &storage.Error{Op: "put", Key: key, Err: err} // rather than after a while
	}
	if err := s.up.take(ctx, int64(len(data))); err != nil {
		return &storage.Error{Op: "put", Key: key, Err: err}
	}
	leave, err := s.enter(ctx, "put", key)
	if err != nil {
		return err
	}
	defer leave()
	return s.below.Put(ctx, key, data)
}

// List implements storage.Store. It takes no slot: fn may call the Store, which could then wait for its own caller.
func (s *Store) List(ctx context.Context, prefix string, fn func(storage.Info) error) error {
	return s.below.List(ctx, prefix, fn)
}

// Delete implements storage.Store.
func (s *Store) Delete(ctx context.Context, key string) error {
	leave, err := s.enter(ctx, "delete", key)
	if err != nil {
		return err
	}
	defer leave()
	return s.below.Delete(ctx, key)
}

// Lock implements storage.Locker.
func (s *Store) Lock(ctx context.Context, key string, until time.Time) error {
	leave, err := s.enter(ctx, "lock", key)
	if err != nil {
		return err
	}
	defer leave()
	return storage.Lock(ctx, s.below, key, until)
}

// Tidy implements storage.Tidier.
func (s *Store) Tidy(ctx context.Context, before time.Time) (files int, bytes int64, err error) {
	if t, ok := s.below.(storage.Tidier); ok {
		return t.Tidy(ctx, before)
	}
	return 0, 0, nil
}

// Transport returns a client's transport whose bodies take their time, by Upload and Download. Headers do not count. Calls is not for it.
func Transport(below http.RoundTripper, o Options) http.RoundTripper {
	if o.Upload <= 0 && o.Download <= 0 {
		return below
	}
	return &transport{below, newBucket(o.Upload), newBucket(o.Download)}
}

type transport struct {
	below    http.RoundTripper
	up, down *bucket
}

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(request *http.Request) (*http.Response, error) {
	ctx := request.Context()
	pace := func(r io.ReadCloser, b *bucket) io.ReadCloser {
		return &body{r, b, func(n int64) error { return b.take(ctx, n) }}
	}
	if t.up != nil && request.Body != nil && request.Body != http.NoBody {
		again := request.GetBody
		copied := *request // a RoundTripper leaves its request alone; not Clone, which would part the trailer from who fills it in
		request = &copied
		request.Body = pace(request.Body, t.up)
		if again != nil {
			request.GetBody = func() (io.ReadCloser, error) {
				r, err := again()
				if err != nil {
					return nil, err
				}
				return pace(r, t.up), nil
			}
		}
	}
	response, err := t.below.RoundTrip(request)
	if err == nil && t.down != nil {
		response.Body = pace(response.Body, t.down)
	}
	return response, err
}

// body gives what it reads step by step.
type body struct {
	io.ReadCloser
	bucket *bucket
	take   func(n int64) error
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p[:min(len(p), b.bucket.step)])
	if late := b.take(int64(n)); late != nil {
		return n, late
	}
	return n, err
}
