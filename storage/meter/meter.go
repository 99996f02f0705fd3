// Package meter is a Store that counts what passes: calls, failures, bytes and the longest call, for each verb.
//
// It changes nothing and decides nothing. cmd puts it next to the driver, so that what it counts is what the storage was asked for,
// attempt by attempt; tests count requests with it.
package meter

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/pgtrove/pgtrove/storage"
)

// listPage is how many objects an object storage lists in one answer.
const listPage = 1000

// lockRequests is how many requests a Lock is counted as: object storage is asked how long the object is kept, and told.
const lockRequests = 2

// Store is the decorator. It passes storage.Tidier through, and does not count it.
type Store struct {
	below                        storage.Store
	get, put, list, delete, lock counter
}

// New wraps a store.
func New(below storage.Store) *Store { return &Store{below: below} }

// Verb is what one verb came to.
type Verb struct {
	Calls    int64         // that have ended
	Requests int64         // as object storage counts them: a call; in a listing one for each thousand objects begun; for a Lock two at most
	Failures int64         // calls that ended in an error, of any class
	Bytes    int64         // of contents: got, or put with success; of a listing, none
	Objects  int64         // that a listing gave
	Longest  time.Duration // of one call; of a listing, without what its caller did with the objects
}

// Counts is a moment's state of a Store. Calls that have not ended are not in it.
type Counts struct{ Get, Put, List, Delete, Lock Verb }

// Requests is the sum over the verbs.
func (c Counts) Requests() int64 {
	return c.Get.Requests + c.Put.Requests + c.List.Requests + c.Delete.Requests + c.Lock.Requests
}

// Failures is the sum over the verbs.
func (c Counts) Failures() int64 {
	return c.Get.Failures + c.Put.Failures + c.List.Failures + c.Delete.Failures + c.Lock.Failures
}

// Longest is that of the verb with the longest call.
func (c Counts) Longest() time.Duration {
	return max(c.Get.Longest, c.Put.Longest, c.List.Longest, c.Delete.Longest, c.Lock.Longest)
}

// Counts returns what passed so far. The numbers of calls that end at this moment may be in it in part.
func (s *Store) Counts() Counts {
	return Counts{s.get.verb(), s.put.verb(), s.list.verb(), s.delete.verb(), s.lock.verb()}
}

// Get implements storage.Store.
func (s *Store) Get(ctx context.Context, key string, r storage.Range, dst []byte) ([]byte, error) {
	begun := time.Now()
	out, err := s.below.Get(ctx, key, r, dst)
	s.get.add(time.Since(begun), int64(max(len(out)-len(dst), 0)), 1, err)
	return out, err
}

// Put implements storage.Store.
func (s *Store) Put(ctx context.Context, key string, data []byte) error {
	begun := time.Now()
	err := s.below.Put(ctx, key, data)
	n := int64(len(data))
	if err != nil {
		n = 0
	}
	s.put.add(time.Since(begun), n, 1, err)
	return err
}

// List implements storage.Store.
func (s *Store) List(ctx context.Context, prefix string, fn func(storage.Info) error) error {
	begun := time.Now()
	var objects int64
	var elsewhere time.Duration
	err := s.below.List(ctx, prefix, func(i storage.Info) error {
		objects++
		left := time.Now()
		defer func() { elsewhere += time.Since(left) }()
		return fn(i)
	})
	s.list.objects.Add(objects)
	s.list.add(time.Since(begun)-elsewhere, 0, max(1, (objects+listPage-1)/listPage), err)
	return err
}

// Delete implements storage.Store.
func (s *Store) Delete(ctx context.Context, key string) error {
	begun := time.Now()
	err := s.below.Delete(ctx, key)
	s.delete.add(time.Since(begun), 0, 1, err)
	return err
}

// Lock implements storage.Locker.
func (s *Store) Lock(ctx context.Context, key string, until time.Time) error {
	begun := time.Now()
	err := storage.Lock(ctx, s.below, key, until)
	s.lock.add(time.Since(begun), 0, lockRequests, err)
	return err
}

// Tidy implements storage.Tidier.
func (s *Store) Tidy(ctx context.Context, before time.Time) (files int, bytes int64, err error) {
	if t, ok := s.below.(storage.Tidier); ok {
		return t.Tidy(ctx, before)
	}
	return 0, 0, nil
}

// counter adds up one verb.
type counter struct {
	calls, requests, failures, bytes, objects, longest atomic.Int64
}

func (c *counter) add(took time.Duration, bytes, requests int64, err error) {
	c.calls.Add(1)
	c.requests.Add(requests)
	c.bytes.Add(bytes)
	if err != nil {
		c.failures.Add(1)
	}
	for {
		longest := c.longest.Load()
		if int64(took) <= longest || c.longest.CompareAndSwap(longest, int64(took)) {
			return
		}
	}
}

func (c *counter) verb() Verb {
	return Verb{
		Calls: c.calls.Load(), Requests: c.requests.Load(), Failures: c.failures.Load(), Bytes: c.bytes.Load(), Objects: c.objects.Load(),
		Longest: time.Duration(c.longest.Load()),
	}
}
