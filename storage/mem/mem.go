// Package mem is a Store in memory, for tests and for the model that drives the protocol.
//
// It is deterministic: the same calls in the same order give the same answers, times included. It keeps
// nothing after the process. Production code does not use it.
package mem

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pgtrove/pgtrove/storage"
)

// Store holds objects in a map. Its zero value is not ready: use New.
type Store struct {
	now func() time.Time

	mu      sync.RWMutex
	objects map[string]object
	keys    []string // sorted
}

type object struct {
	data    []byte
	modTime time.Time
}

// New returns an empty store. now gives the time of a new object, once per Put, under a lock; nil means
// a clock of its own that starts in the year 2000 and moves one second per object.
func New(now func() time.Time) *Store {
	if now == nil {
		t := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
		now = func() time.Time {
			t = t.Add(time.Second)
			return t
		}
	}
	return &Store{now: now, objects: make(map[string]object)}
}

// Get implements storage.Store.
func (s *Store) Get(ctx context.Context, key string, r storage.Range, dst []byte) ([]byte, error) {
	if err := begin(ctx, "get", key, storage.CheckKey); err != nil {
		return nil, err
	}
	s.mu.RLock()
	o, ok := s.objects[key]
	s.mu.RUnlock()
	if !ok {
		return nil, &storage.Error{Op: "get", Key: key, Class: storage.ErrNotExist}
	}
	off, n := r.Resolve(int64(len(o.data)))
	return append(dst, o.data[off:off+n]...), nil
}

// Put implements storage.Store. Like a file system, it refuses a key below another object's key, so that a
// test finds the mistake.
func (s *Store) Put(ctx context.Context, key string, data []byte) error {
	if err := begin(ctx, "put", key, storage.CheckKey); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	i, found := slices.BinarySearch(s.keys, key)
	if found {
		return &storage.Error{Op: "put", Key: key, Class: storage.ErrExist}
	}
	if s.nested(key) {
		return &storage.Error{Op: "put", Key: key, Class: storage.ErrKey, Err: errNested}
	}
	s.keys = slices.Insert(s.keys, i, key)
	s.objects[key] = object{bytes.Clone(data), s.now()}
	return nil
}

var errNested = errors.New("one object's key is a directory of another's")

// nested reports whether key lies below an object or above one. s.mu is held.
func (s *Store) nested(key string) bool {
	for i := range len(key) {
		if key[i] == '/' {
			if _, ok := s.objects[key[:i]]; ok {
				return true
			}
		}
	}
	i, _ := slices.BinarySearch(s.keys, key+"/")
	return i < len(s.keys) && strings.HasPrefix(s.keys[i], key+"/")
}

// List implements storage.Store: it sees the objects that are there when it begins, except those that are deleted before it
// gets to them.
func (s *Store) List(ctx context.Context, prefix string, fn func(storage.Info) error) error {
	if err := begin(ctx, "list", prefix, storage.CheckPrefix); err != nil {
		return err
	}
	s.mu.RLock()
	i, _ := slices.BinarySearch(s.keys, prefix)
	n := i
	for n < len(s.keys) && strings.HasPrefix(s.keys[n], prefix) {
		n++
	}
	keys := slices.Clone(s.keys[i:n])
	s.mu.RUnlock()
	for _, key := range keys {
		if err := ctx.Err(); err != nil {
			return &storage.Error{Op: "list", Key: prefix, Err: err}
		}
		s.mu.RLock()
		o, ok := s.objects[key]
		s.mu.RUnlock()
		if !ok {
			continue
		}
		if err := fn(storage.Info{Key: key, Size: int64(len(o.data)), ModTime: o.modTime}); err != nil {
			return err
		}
	}
	return nil
}

// Delete implements storage.Store.
func (s *Store) Delete(ctx context.Context, key string) error {
	if err := begin(ctx, "delete", key, storage.CheckKey); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if i, ok := slices.BinarySearch(s.keys, key); ok {
		s.keys = slices.Delete(s.keys, i, i+1)
		delete(s.objects, key)
	}
	return nil
}

func begin(ctx context.Context, op, key string, check func(string) error) error {
	if err := ctx.Err(); err != nil {
		return &storage.Error{Op: op, Key: key, Err: err}
	}
	if err := check(key); err != nil {
		return &storage.Error{Op: op, Key: key, Err: err}
	}
	return nil
}
