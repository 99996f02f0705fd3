package storagetest

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/pgtrove/pgtrove/storage"
)

const racers = 16

func testRace(t *testing.T, s *suite) {
	for round := range 20 {
		key := fmt.Sprintf("race/%d/k", round)
		errs := make([]error, racers)
		start := make(chan struct{})
		var wg sync.WaitGroup
		for i := range racers {
			wg.Go(func() {
				<-start
				errs[i] = s.Put(t.Context(), key, bytes.Repeat([]byte{byte('a' + i)}, 10_000))
			})
		}
		close(start)
		wg.Wait()
		winner := -1
		for i, err := range errs {
			switch {
			case err == nil && winner >= 0:
				t.Fatalf("round %d: both %d and %d were told that they created the object", round, winner, i)
			case err == nil:
				winner = i
			case !errors.Is(err, storage.ErrExist):
				t.Fatalf("round %d: racer %d: %v", round, i, err)
			}
		}
		if winner < 0 {
			t.Fatalf("round %d: nobody created the object", round)
		}
		s.want(key, string(bytes.Repeat([]byte{byte('a' + winner)}, 10_000)))
		s.wantList(key, key)
	}
}

func testPutIsAtomic(t *testing.T, s *suite) {
	data := pattern(3 << 20)
	done := make(chan error, 1)
	for round := range 5 {
		key := fmt.Sprintf("atomic/%d", round)
		go func() { done <- s.Put(t.Context(), key, data) }()
		for putting := true; putting; {
			select {
			case err := <-done:
				if err != nil {
					t.Fatal(err)
				}
				putting = false
			default:
			}
			got, err := s.Get(t.Context(), key, storage.Range{}, nil)
			if err == nil && !bytes.Equal(got, data) {
				t.Fatalf("saw %d of %d bytes", len(got), len(data))
			}
			if err != nil && !errors.Is(err, storage.ErrNotExist) {
				t.Fatal(err)
			}
			err = s.List(t.Context(), "atomic/", func(i storage.Info) error {
				if i.Size != int64(len(data)) {
					return fmt.Errorf("listed %s with %d bytes", i.Key, i.Size)
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
}

// testListBesideChanges keeps some objects and lets others come and go, directories with them: a listing must show all that
// stay, in order, and never fail.
func testListBesideChanges(t *testing.T, s *suite) {
	var stay []string
	for i := range 40 {
		key := fmt.Sprintf("d/%02d/stay", i)
		s.put(key, "x")
		stay = append(stay, key)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				// Two workers share a directory, so that one removes it as empty while the other puts into it.
				key := fmt.Sprintf("d/%02d-%d/go/%d", i%40, w/2, w)
				if err := s.Put(t.Context(), key, []byte("y")); err != nil {
					t.Errorf("Put: %v", err)
					return
				}
				if err := s.Delete(t.Context(), key); err != nil {
					t.Errorf("Delete: %v", err)
					return
				}
			}
		})
	}
	defer wg.Wait()
	defer close(stop)
	for range 30 {
		kept, last := 0, ""
		for _, key := range s.list("d/") {
			if key <= last {
				t.Fatalf("%s is listed after %s", key, last)
			}
			last = key
			if kept < len(stay) && key == stay[kept] {
				kept++
			}
		}
		if kept != len(stay) {
			t.Fatalf("%s is missing from a listing", stay[kept])
		}
	}
}
