package storagetest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/storage"
	"github.com/pgtrove/pgtrove/storage/mem"
)

// RunLockPassedOn tests that a decorator passes storage.Locker on, and says so where nothing below it is one.
func RunLockPassedOn(t *testing.T, decorate func(below storage.Store) storage.Store) {
	t.Helper()
	until := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	below := &locker{Store: mem.New(nil)}
	if err := storage.Lock(t.Context(), decorate(below), "k", until); err != nil || below.key != "k" || !below.until.Equal(until) {
		t.Errorf("%+v, %v", below, err)
	}
	below.err = storage.ErrDenied
	if err := storage.Lock(t.Context(), decorate(below), "k", until); !errors.Is(err, storage.ErrDenied) {
		t.Errorf("a refusal is %v", err)
	}
	if err := storage.Lock(t.Context(), decorate(mem.New(nil)), "k", until); !errors.Is(err, storage.ErrNoLock) {
		t.Errorf("without locks: %v", err)
	}
}

type locker struct {
	storage.Store
	key   string
	until time.Time
	err   error
}

// Lock implements storage.Locker.
func (l *locker) Lock(_ context.Context, key string, until time.Time) error {
	l.key, l.until = key, until
	return l.err
}
