package fault_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/storage"
	"github.com/pgtrove/pgtrove/storage/fault"
	"github.com/pgtrove/pgtrove/storage/mem"
	"github.com/pgtrove/pgtrove/storage/storagetest"
)

func TestConformance(t *testing.T) {
	storagetest.Run(t, func(*testing.T) storage.Store { return fault.New(mem.New(nil), nil) })
}

func TestAnOutageIsToldAsOne(t *testing.T) {
	storagetest.RunOutage(t, func(*testing.T) (storage.Store, storagetest.Switch) {
		var away atomic.Bool
		s := fault.New(mem.New(nil), func(fault.Op) fault.Action {
			if away.Load() {
				return fault.Action{Before: storage.ErrUnreachable}
			}
			return fault.Action{}
		})
		return s, storagetest.Switch{Away: func() { away.Store(true) }, Back: func() { away.Store(false) }}
	})
}

var errBoom = errors.New("boom")

// only makes the n-th call take the action.
func only(n int, a fault.Action) func(fault.Op) fault.Action {
	return func(op fault.Op) fault.Action {
		if op.N == n {
			return a
		}
		return fault.Action{}
	}
}

func filled(t *testing.T) storage.Store {
	s := mem.New(nil)
	for _, key := range []string{"a", "b", "c"} {
		if err := s.Put(t.Context(), key, []byte(key)); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func TestAFailureBeforeLeavesNothing(t *testing.T) {
	below := filled(t)
	s := fault.New(below, func(fault.Op) fault.Action { return fault.Action{Before: errBoom} })
	if err := s.Put(t.Context(), "new", nil); !errors.Is(err, errBoom) {
		t.Errorf("Put: %v", err)
	}
	if err := s.Delete(t.Context(), "a"); !errors.Is(err, errBoom) {
		t.Errorf("Delete: %v", err)
	}
	if _, err := s.Get(t.Context(), "a", storage.Range{}, nil); !errors.Is(err, errBoom) {
		t.Errorf("Get: %v", err)
	}
	err := s.List(t.Context(), "", func(storage.Info) error { t.Error("listed"); return nil })
	if !errors.Is(err, errBoom) {
		t.Errorf("List: %v", err)
	}
	if _, err := below.Get(t.Context(), "new", storage.Range{}, nil); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("new: %v", err)
	}
	if _, err := below.Get(t.Context(), "a", storage.Range{}, nil); err != nil {
		t.Errorf("a: %v", err)
	}
}

func TestALostAnswerLeavesTheWorkDone(t *testing.T) {
	below := filled(t)
	s := fault.New(below, func(fault.Op) fault.Action { return fault.Action{After: errBoom} })
	if err := s.Put(t.Context(), "new", nil); !errors.Is(err, errBoom) {
		t.Errorf("Put: %v", err)
	}
	if err := s.Delete(t.Context(), "a"); !errors.Is(err, errBoom) {
		t.Errorf("Delete: %v", err)
	}
	if got, err := s.Get(t.Context(), "b", storage.Range{}, nil); !errors.Is(err, errBoom) || got != nil {
		t.Errorf("Get: %q, %v", got, err)
	}
	if _, err := below.Get(t.Context(), "new", storage.Range{}, nil); err != nil {
		t.Errorf("new: %v", err)
	}
	if _, err := below.Get(t.Context(), "a", storage.Range{}, nil); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("a: %v", err)
	}
	// What fails below still says so: only a success can be lost.
	if err := s.Put(t.Context(), "b", nil); !errors.Is(err, storage.ErrExist) {
		t.Errorf("Put b: %v", err)
	}
}

func TestAListingBreaksOff(t *testing.T) {
	for _, c := range []struct{ cut, given int }{{1, 1}, {2, 2}, {3, 3}, {0, 3}} {
		s := fault.New(filled(t), only(1, fault.Action{After: errBoom, Cut: c.cut}))
		given := 0
		count := func(storage.Info) error { given++; return nil }
		if err := s.List(t.Context(), "", count); !errors.Is(err, errBoom) || given != c.given {
			t.Errorf("cut %d: %v after %d", c.cut, err, given)
		}
		if err := s.List(t.Context(), "", count); err != nil {
			t.Errorf("the next one: %v", err)
		}
	}
}

func TestADelayEndsWithItsContext(t *testing.T) {
	below := filled(t)
	s := fault.New(below, func(fault.Op) fault.Action { return fault.Action{Delay: time.Hour} })
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := s.Put(ctx, "new", nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Put: %v", err)
	}
	if _, err := below.Get(t.Context(), "new", storage.Range{}, nil); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("new: %v", err)
	}
}

func TestCallsAreCountedAndNamed(t *testing.T) {
	var ops []fault.Op
	s := fault.New(mem.New(nil), func(op fault.Op) fault.Action {
		ops = append(ops, op)
		return fault.Action{}
	})
	_ = s.Put(t.Context(), "k", nil)
	_, _ = s.Get(t.Context(), "k", storage.Range{}, nil)
	_ = s.List(t.Context(), "p", func(storage.Info) error { return nil })
	_ = s.Delete(t.Context(), "k")
	want := []fault.Op{{Verb: fault.Put, Key: "k", N: 1}, {Verb: fault.Get, Key: "k", N: 2},
		{Verb: fault.List, Key: "p", N: 3}, {Verb: fault.Delete, Key: "k", N: 4}}
	if s.Calls() != 4 || len(ops) != 4 || [4]fault.Op(ops) != [4]fault.Op(want) {
		t.Errorf("%d calls, %v", s.Calls(), ops)
	}
}

func TestLocksArePassedOn(t *testing.T) {
	storagetest.RunLockPassedOn(t, func(below storage.Store) storage.Store { return fault.New(below, nil) })
}
