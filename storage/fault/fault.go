// Package fault is a Store that fails when it is told to: before the work, after it (the answer is lost), in the middle of
// a listing, or late.
//
// Tests use it to fail every operation once. It decides nothing itself: a function does.
package fault

import (
	"context"
	"sync"
	"time"

	"github.com/pgtrove/pgtrove/storage"
)

// Verb is one of the four methods of a Store, or that of a storage.Locker.
type Verb string

// The verbs, as storage.Error.Op writes them.
const (
	Get    Verb = "get"
	Put    Verb = "put"
	List   Verb = "list"
	Delete Verb = "delete"
	Lock   Verb = "lock"
)

// Op is a call that is about to happen.
type Op struct {
	Verb Verb
	Key  string // of a listing, the prefix
	N    int    // the how-manieth call of this Store, from 1
}

// Action is what becomes of a call. The zero value lets it pass.
type Action struct {
	Delay  time.Duration // wait first; ends early with the context, whose error is then the answer
	Before error         // answer this and do nothing
	After  error         // do it, then answer this in place of success: the answer was lost
	// Cut, with After, ends a listing with that error once this many objects have been given. 0: at its end.
	Cut int
}

// Store is the decorator.
type Store struct {
	below  storage.Store
	decide func(Op) Action

	mu sync.Mutex
	n  int
}

// New wraps a store. decide is asked once per call, before anything happens, by one goroutine at a time; it
// must not call the Store. nil lets everything pass, and then Calls still counts.
func New(below storage.Store, decide func(Op) Action) *Store {
	return &Store{below: below, decide: decide}
}

// Calls is how many calls have begun: one run without faults tells how many there are to fail.
func (s *Store) Calls() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.n
}

// Get implements storage.Store.
func (s *Store) Get(ctx context.Context, key string, r storage.Range, dst []byte) ([]byte, error) {
	a, err := s.begin(ctx, Get, key)
	if err != nil {
		return nil, err
	}
	out, err := s.below.Get(ctx, key, r, dst)
	if err == nil && a.After != nil {
		return nil, lost(Get, key, a)
	}
	return out, err
}

// Put implements storage.Store.
func (s *Store) Put(ctx context.Context, key string, data []byte) error {
	a, err := s.begin(ctx, Put, key)
	if err != nil {
		return err
	}
	err = s.below.Put(ctx, key, data)
	if err == nil && a.After != nil {
		return lost(Put, key, a)
	}
	return err
}

// List implements storage.Store.
func (s *Store) List(ctx context.Context, prefix string, fn func(storage.Info) error) error {
	a, err := s.begin(ctx, List, prefix)
	if err != nil {
		return err
	}
	given := 0
	err = s.below.List(ctx, prefix, func(info storage.Info) error {
		if a.After != nil && a.Cut > 0 && given == a.Cut {
			return lost(List, prefix, a)
		}
		given++
		return fn(info)
	})
	if err == nil && a.After != nil {
		return lost(List, prefix, a)
	}
	return err
}

// Delete implements storage.Store.
func (s *Store) Delete(ctx context.Context, key string) error {
	a, err := s.begin(ctx, Delete, key)
	if err != nil {
		return err
	}
	err = s.below.Delete(ctx, key)
	if err == nil && a.After != nil {
		return lost(Delete, key, a)
	}
	return err
}

// Lock implements storage.Locker.
func (s *Store) Lock(ctx context.Context, key string, until time.Time) error {
	a, err := s.begin(ctx, Lock, key)
	if err != nil {
		return err
	}
	err = storage.Lock(ctx, s.below, key, until)
	if err == nil && a.After != nil {
		return lost(Lock, key, a)
	}
	return err
}

func (s *Store) begin(ctx context.Context, verb Verb, key string) (Action, error) {
	a := s.ask(verb, key)
	if a.Delay > 0 {
		timer := time.NewTimer(a.Delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return a, &storage.Error{Op: string(verb), Key: key, Err: ctx.Err()}
		}
	}
	if a.Before != nil {
		return a, &storage.Error{Op: string(verb), Key: key, Err: a.Before}
	}
	return a, nil
}

func (s *Store) ask(verb Verb, key string) Action {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n++
	if s.decide == nil {
		return Action{}
	}
	return s.decide(Op{verb, key, s.n})
}

func lost(verb Verb, key string, a Action) error {
	return &storage.Error{Op: string(verb), Key: key, Err: a.After}
}
