package storage_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/pgtrove/pgtrove/storage"
	"github.com/pgtrove/pgtrove/storage/fault"
	"github.com/pgtrove/pgtrove/storage/fs"
	"github.com/pgtrove/pgtrove/storage/mem"
)

// liar is a storage that breaks one promise.
type liar struct {
	storage.Store
	put  func(ctx context.Context, s storage.Store, key string, data []byte) error
	get  func(data []byte) []byte
	list func(i storage.Info) bool
	del  error
}

func (l liar) Put(ctx context.Context, key string, data []byte) error {
	if l.put == nil {
		return l.Store.Put(ctx, key, data)
	}
	return l.put(ctx, l.Store, key, data)
}

func (l liar) Get(ctx context.Context, key string, r storage.Range, dst []byte) ([]byte, error) {
	out, err := l.Store.Get(ctx, key, r, dst)
	if err == nil && l.get != nil {
		out = l.get(out)
	}
	return out, err
}

func (l liar) List(ctx context.Context, prefix string, fn func(storage.Info) error) error {
	return l.Store.List(ctx, prefix, func(i storage.Info) error {
		if l.list != nil && !l.list(i) {
			return nil
		}
		return fn(i)
	})
}

func (l liar) Delete(ctx context.Context, key string) error {
	if l.del != nil {
		return l.del
	}
	return l.Store.Delete(ctx, key)
}

// overwrite is what a server does that does not know the condition.
func overwrite(ctx context.Context, s storage.Store, key string, data []byte) error {
	return errors.Join(s.Delete(ctx, key), ignoreExist(s.Put(ctx, key, data)))
}

// sayNo overwrites and says that it did not, one call at a time.
func sayNo() func(context.Context, storage.Store, string, []byte) error {
	var mu sync.Mutex
	return func(ctx context.Context, s storage.Store, key string, data []byte) error {
		mu.Lock()
		defer mu.Unlock()
		err := s.Put(ctx, key, data)
		if errors.Is(err, storage.ErrExist) {
			return errors.Join(err, overwrite(ctx, s, key, data))
		}
		return err
	}
}

func ignoreExist(err error) error {
	if errors.Is(err, storage.ErrExist) {
		return nil
	}
	return err
}

func TestASelfTestFindsAStorageThatLies(t *testing.T) {
	denied := &storage.Error{Op: "delete", Class: storage.ErrDenied}
	for name, c := range map[string]struct {
		store      storage.Store
		want       []storage.Problem
		createOnly bool
		keeps      bool
	}{
		"an honest one":            {liar{Store: mem.New(nil)}, nil, true, false},
		"one that deletes nothing": {liar{Store: mem.New(nil), del: denied}, nil, true, true},
		"one that overwrites": {liar{Store: mem.New(nil), put: overwrite},
			[]storage.Problem{storage.ProblemOverwrite, storage.ProblemWinners}, false, false},
		"one that says yes and keeps the first": {liar{Store: mem.New(nil), put: func(ctx context.Context, s storage.Store, key string, data []byte) error {
			return ignoreExist(s.Put(ctx, key, data))
		}}, []storage.Problem{storage.ProblemOverwrite, storage.ProblemWinners}, false, false},
		"one that says no and overwrites": {liar{Store: mem.New(nil), put: sayNo()},
			[]storage.Problem{storage.ProblemReplaced, storage.ProblemWrongOne}, false, false},
		"one that looks before it writes": {liar{Store: mem.New(nil), put: lookFirst(selfTestRacers)},
			[]storage.Problem{storage.ProblemWinners}, false, false},
		"one that never says yes twice over": {liar{Store: mem.New(nil), put: func(ctx context.Context, s storage.Store, key string, data []byte) error {
			err := s.Put(ctx, key, data)
			if err == nil && strings.Contains(key, "race") {
				return &storage.Error{Op: "put", Key: key, Class: storage.ErrExist}
			}
			return err
		}}, []storage.Problem{storage.ProblemNoWinner}, false, false},
		"one that spoils what it reads": {liar{Store: mem.New(nil), get: func(b []byte) []byte { return append(b, 'x') }},
			[]storage.Problem{storage.ProblemReplaced, storage.ProblemWrongOne, storage.ProblemStale, storage.ProblemParts}, false, false},
		"one that lists late": {liar{Store: mem.New(nil), list: func(i storage.Info) bool { return !strings.Contains(i.Key, "race-2") }},
			[]storage.Problem{storage.ProblemUnlisted}, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			v, err := storage.SelfTest(t.Context(), c.store)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(v.Problems, c.want) {
				t.Errorf("problems %q, want %q", v.Problems, c.want)
			}
			if v.CreateOnly() != c.createOnly || v.Keeps != c.keeps || c.keeps != (len(v.Left) > 0) {
				t.Errorf("create-only %t, keeps %t, left %q", v.CreateOnly(), v.Keeps, v.Left)
			}
		})
	}
}

const selfTestRacers = 16

// lookFirst writes when it saw nothing there: all racers have looked before the first one writes.
func lookFirst(racers int) func(context.Context, storage.Store, string, []byte) error {
	var mu sync.Mutex
	looked := map[string]*sync.WaitGroup{}
	return func(ctx context.Context, s storage.Store, key string, data []byte) error {
		if !strings.Contains(key, "race") {
			return s.Put(ctx, key, data)
		}
		mu.Lock()
		wg, ok := looked[key]
		if !ok {
			wg = new(sync.WaitGroup)
			wg.Add(racers)
			looked[key] = wg
		}
		mu.Unlock()
		wg.Done()
		wg.Wait()
		mu.Lock()
		defer mu.Unlock()
		return overwrite(ctx, s, key, data)
	}
}

func TestAStorageThatOverwritesAndThenFailsIsFoundOut(t *testing.T) {
	lies := liar{Store: mem.New(nil), put: func(ctx context.Context, s storage.Store, key string, data []byte) error {
		if strings.Contains(key, "race") {
			return storage.ErrUnreachable
		}
		return overwrite(ctx, s, key, data)
	}}
	if v, err := storage.SelfTest(t.Context(), lies); err != nil || !slices.Equal(v.Problems, []storage.Problem{storage.ProblemOverwrite}) {
		t.Errorf("%+v, %v", v, err)
	}
}

func TestASelfTestLeavesNothing(t *testing.T) {
	s, err := fs.Create(t.TempDir() + "/repo")
	if err != nil {
		t.Fatal(err)
	}
	if v, err := storage.SelfTest(t.Context(), s); err != nil || len(v.Problems) > 0 || v.Keeps {
		t.Fatalf("%+v, %v", v, err)
	}
	if err := s.List(t.Context(), "", func(i storage.Info) error { return errors.New(i.Key) }); err != nil {
		t.Error(err)
	}
}

// Each call fails once: there is no verdict then, and above all no good one.
func TestASelfTestThatFailsHasNoVerdict(t *testing.T) {
	whole := fault.New(mem.New(nil), nil)
	if _, err := storage.SelfTest(t.Context(), whole); err != nil {
		t.Fatal(err)
	}
	for n := 1; n <= whole.Calls(); n++ {
		v, err := storage.SelfTest(t.Context(), fault.New(mem.New(nil), func(op fault.Op) fault.Action {
			if op.N == n {
				return fault.Action{Before: storage.ErrUnreachable}
			}
			return fault.Action{}
		}))
		if !errors.Is(err, storage.ErrUnreachable) || v.Problems != nil {
			t.Errorf("call %d of %d failed: %+v, %v", n, whole.Calls(), v, err)
		}
	}
}

func TestAFailedSelfTestLeavesNothingOrSaysWhat(t *testing.T) {
	for n := 1; ; n++ {
		below := mem.New(nil)
		ctx, cancel := context.WithCancel(t.Context())
		puts := atomic.Int32{}
		s := fault.New(below, func(op fault.Op) fault.Action {
			switch {
			case op.Verb != fault.Put || int(puts.Add(1)) != n:
				return fault.Action{}
			case n%2 == 0:
				cancel() // a person who is tired of waiting
				return fault.Action{Before: context.Canceled}
			}
			return fault.Action{After: storage.ErrUnreachable} // one that lost the race has lost nothing
		})
		_, err := storage.SelfTest(ctx, s)
		cancel()
		if int(puts.Load()) < n {
			break
		}
		left := 0
		if lerr := below.List(t.Context(), "", func(storage.Info) error { left++; return nil }); err == nil && n%2 == 0 || lerr != nil || left > 0 {
			t.Errorf("put %d failed: %v; it left %d objects, %v", n, err, left, lerr)
		}
	}

	// The storage goes away for good: what may be there is told.
	below := mem.New(nil)
	gone := atomic.Bool{}
	s := fault.New(below, func(op fault.Op) fault.Action {
		if op.Verb == fault.Put && strings.Contains(op.Key, "race-1") {
			gone.Store(true)
		}
		if gone.Load() {
			return fault.Action{Before: storage.ErrUnreachable}
		}
		return fault.Action{}
	})
	v, err := storage.SelfTest(t.Context(), s)
	if !errors.Is(err, storage.ErrUnreachable) || len(v.Left) != 3 || v.Keeps {
		t.Errorf("%v, left %q", err, v.Left)
	}
	// An account that may not even put has left nothing.
	v, err = storage.SelfTest(t.Context(), liar{Store: fault.New(below, func(op fault.Op) fault.Action {
		if op.Verb == fault.Put {
			return fault.Action{Before: storage.ErrDenied}
		}
		return fault.Action{}
	}), del: storage.ErrDenied})
	if !errors.Is(err, storage.ErrDenied) || len(v.Left) != 0 {
		t.Errorf("%v, left %q", err, v.Left)
	}
}
