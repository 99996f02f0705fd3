package meter_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgtrove/pgtrove/storage"
	"github.com/pgtrove/pgtrove/storage/fault"
	"github.com/pgtrove/pgtrove/storage/fs"
	"github.com/pgtrove/pgtrove/storage/mem"
	"github.com/pgtrove/pgtrove/storage/meter"
	"github.com/pgtrove/pgtrove/storage/storagetest"
)

func TestConformance(t *testing.T) {
	t.Run("mem", func(t *testing.T) {
		storagetest.Run(t, func(*testing.T) storage.Store { return meter.New(mem.New(nil)) })
	})
	t.Run("fs", func(t *testing.T) {
		storagetest.Run(t, func(t *testing.T) storage.Store {
			s, err := fs.Create(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Put(t.Context(), storage.ConfigKey, nil); err != nil {
				t.Fatal(err)
			}
			return meter.New(s)
		})
	})
}

func TestCountsWhatPasses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		slow := fault.New(mem.New(nil), func(op fault.Op) fault.Action { return fault.Action{Delay: time.Duration(op.N) * time.Second} })
		s := meter.New(slow)
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		must(s.Put(ctx, "a", make([]byte, 1000)))                                       // 1 s
		must(s.Put(ctx, "b", make([]byte, 500)))                                        // 2 s
		if err := s.Put(ctx, "b", make([]byte, 7)); !errors.Is(err, storage.ErrExist) { // 3 s
			t.Fatal(err)
		}
		if _, err := s.Get(ctx, "a", storage.Range{Off: 900}, make([]byte, 50)); err != nil { // 4 s
			t.Fatal(err)
		}
		if _, err := s.Get(ctx, "c", storage.Range{}, make([]byte, 50)); !errors.Is(err, storage.ErrNotExist) { // 5 s
			t.Fatal(err)
		}
		must(s.List(ctx, "", func(storage.Info) error { time.Sleep(time.Hour); return nil })) // 6 s, and what the caller does
		must(s.Delete(ctx, "a"))                                                              // 7 s
		want := meter.Counts{
			Get:    meter.Verb{Calls: 2, Requests: 2, Failures: 1, Bytes: 100, Longest: 5 * time.Second},
			Put:    meter.Verb{Calls: 3, Requests: 3, Failures: 1, Bytes: 1500, Longest: 3 * time.Second},
			List:   meter.Verb{Calls: 1, Requests: 1, Objects: 2, Longest: 6 * time.Second},
			Delete: meter.Verb{Calls: 1, Requests: 1, Longest: 7 * time.Second},
		}
		got := s.Counts()
		if got != want {
			t.Errorf("got  %+v\nwant %+v", got, want)
		}
		if got.Requests() != 7 || got.Failures() != 2 || got.Longest() != 7*time.Second {
			t.Errorf("%d requests, %d failures, the longest %s", got.Requests(), got.Failures(), got.Longest())
		}
	})
}

func TestAListingCountsItsPages(t *testing.T) {
	below := mem.New(nil)
	for i := range 2001 {
		if err := below.Put(t.Context(), fmt.Sprintf("k/%04d", i), nil); err != nil {
			t.Fatal(err)
		}
	}
	for prefix, want := range map[string]int64{"k/": 3, "k/0": 1, "absent": 1} {
		s := meter.New(below)
		if err := s.List(t.Context(), prefix, func(storage.Info) error { return nil }); err != nil {
			t.Fatal(err)
		}
		if got := s.Counts().List.Requests; got != want {
			t.Errorf("%s: %d requests, want %d", prefix, got, want)
		}
	}
}

func TestCallsAtTheSameTimeAreAllCounted(t *testing.T) {
	s := meter.New(mem.New(nil))
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range 100 {
				if err := s.Put(t.Context(), fmt.Sprintf("%d/%d", w, i), []byte("x")); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if got := s.Counts().Put; got.Calls != 800 || got.Bytes != 800 {
		t.Errorf("%+v", got)
	}
}

func TestLocksArePassedOn(t *testing.T) {
	storagetest.RunLockPassedOn(t, func(below storage.Store) storage.Store { return meter.New(below) })
}
