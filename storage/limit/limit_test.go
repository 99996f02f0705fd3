package limit_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgtrove/pgtrove/storage"
	"github.com/pgtrove/pgtrove/storage/fs"
	"github.com/pgtrove/pgtrove/storage/limit"
	"github.com/pgtrove/pgtrove/storage/mem"
	"github.com/pgtrove/pgtrove/storage/storagetest"
)

func TestConformance(t *testing.T) {
	o := limit.Options{Upload: 1 << 30, Download: 1 << 30, Calls: 2}
	t.Run("mem", func(t *testing.T) {
		storagetest.Run(t, func(*testing.T) storage.Store { return limit.New(mem.New(nil), o) })
	})
	t.Run("one call at a time", func(t *testing.T) {
		storagetest.Run(t, func(*testing.T) storage.Store { return limit.New(mem.New(nil), limit.Options{Calls: 1}) })
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
			return limit.New(s, o)
		})
	})
}

func TestBytesTakeTheirTimeWhoeverMovesThem(t *testing.T) {
	const size, calls = 1 << 20, 6
	for name, do := range map[string]func(context.Context, storage.Store, string) error{
		"up": func(ctx context.Context, s storage.Store, key string) error {
			return s.Put(ctx, key, make([]byte, size))
		},
		"down": func(ctx context.Context, s storage.Store, _ string) error {
			_, err := s.Get(ctx, "there", storage.Range{}, []byte("these bytes were there before"))
			return err
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			below := mem.New(nil)
			if err := below.Put(t.Context(), "there", make([]byte, size)); err != nil {
				t.Fatal(err)
			}
			s := limit.New(below, limit.Options{Upload: size, Download: size})
			begun := time.Now()
			var wg sync.WaitGroup
			for i := range calls {
				wg.Go(func() {
					if err := do(t.Context(), s, string(rune('a'+i))); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			if took := time.Since(begun).Seconds(); took < calls-0.1 || took > calls+0.1 {
				t.Errorf("%s: %d MiB at 1 MiB/s took %.2f s", name, calls, took)
			}
		})
	}
}

func TestTheEndOfTheContextEndsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		below := mem.New(nil)
		s := limit.New(below, limit.Options{Upload: 1000, Download: 1000})
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		begun := time.Now()
		if err := s.Put(ctx, "k", make([]byte, 1<<20)); !errors.Is(err, context.DeadlineExceeded) || time.Since(begun) != 5*time.Second {
			t.Errorf("%v after %s", err, time.Since(begun))
		}
		if _, err := below.Get(t.Context(), "k", storage.Range{}, nil); !errors.Is(err, storage.ErrNotExist) {
			t.Errorf("the object is there: %v", err)
		}
		// What was not sent is not owed.
		begun = time.Now()
		if err := s.Put(t.Context(), "k", make([]byte, 1000)); err != nil || time.Since(begun) > 1100*time.Millisecond {
			t.Errorf("%v after %s", err, time.Since(begun))
		}
	})
}

// crowd counts how many calls are in it at once.
type crowd struct {
	*mem.Store
	now, most atomic.Int64
}

func (c *crowd) Get(ctx context.Context, key string, r storage.Range, dst []byte) ([]byte, error) {
	n := c.now.Add(1)
	defer c.now.Add(-1)
	for most := c.most.Load(); n > most && !c.most.CompareAndSwap(most, n); most = c.most.Load() {
	}
	time.Sleep(time.Second)
	return c.Store.Get(ctx, key, r, dst)
}

func TestNoMoreCallsAtOnceThanAllowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		below := &crowd{Store: mem.New(nil)}
		if err := below.Put(t.Context(), "k", nil); err != nil {
			t.Fatal(err)
		}
		s := limit.New(below, limit.Options{Calls: 3})
		begun := time.Now()
		var wg sync.WaitGroup
		for range 12 {
			wg.Go(func() {
				if _, err := s.Get(t.Context(), "k", storage.Range{}, nil); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if most, took := below.most.Load(), time.Since(begun); most != 3 || took != 4*time.Second {
			t.Errorf("%d at once, %s", most, took)
		}
	})
}

// TestATransportPacesBothDirections measures real time: an HTTP connection has no other.
func TestATransportPacesBothDirections(t *testing.T) {
	const size, perSecond = 300_000, 1_000_000
	var first, last time.Time
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var one [1]byte
		_, err := io.ReadFull(r.Body, one[:])
		first = time.Now()
		rest, err2 := io.ReadAll(r.Body)
		last = time.Now()
		if err != nil || err2 != nil || r.ContentLength != size {
			t.Errorf("%v, %v, %d bytes announced", err, err2, r.ContentLength)
		}
		_, _ = w.Write(append(one[:], rest...))
	}))
	defer server.Close()
	client := &http.Client{Transport: limit.Transport(http.DefaultTransport, limit.Options{Upload: perSecond, Download: perSecond})}
	data := bytes.Repeat([]byte("pgtrove"), size/7+1)[:size]
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPut, server.URL, bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	begun := time.Now()
	got, err := io.ReadAll(response.Body)
	down := time.Since(begun)
	if err != nil || !bytes.Equal(got, data) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	if up := last.Sub(first); up < 150*time.Millisecond {
		t.Errorf("the request's body came within %s", up)
	}
	if down < 200*time.Millisecond {
		t.Errorf("the answer was read within %s", down)
	}
}

func TestWithoutLimitsATransportIsLeftAlone(t *testing.T) {
	if limit.Transport(http.DefaultTransport, limit.Options{Calls: 3}) != http.DefaultTransport {
		t.Error("wrapped for nothing")
	}
}

func TestLocksArePassedOn(t *testing.T) {
	storagetest.RunLockPassedOn(t, func(below storage.Store) storage.Store { return limit.New(below, limit.Options{Calls: 1}) })
}
