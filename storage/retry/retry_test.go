package retry_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgtrove/pgtrove/storage"
	"github.com/pgtrove/pgtrove/storage/fault"
	"github.com/pgtrove/pgtrove/storage/fs"
	"github.com/pgtrove/pgtrove/storage/mem"
	"github.com/pgtrove/pgtrove/storage/retry"
	"github.com/pgtrove/pgtrove/storage/storagetest"
)

var errDown = fmt.Errorf("%w: connection reset", storage.ErrUnreachable)

func TestConformance(t *testing.T) {
	t.Run("mem", func(t *testing.T) {
		storagetest.Run(t, func(*testing.T) storage.Store { return retry.New(mem.New(nil), retry.Options{}) })
	})
	t.Run("fs", func(t *testing.T) {
		storagetest.Run(t, func(t *testing.T) storage.Store { return retry.New(directory(t), retry.Options{}) })
	})
}

func directory(t *testing.T) storage.Store {
	s, err := fs.Create(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Put(t.Context(), storage.ConfigKey, nil); err != nil {
		t.Fatal(err)
	}
	return s
}

// TestConformanceWhileTheStorageFails lets every third call fail, listings in their middle. The answers to Puts are lost and not the
// requests, because of a Put that never came the next one cannot tell whose object it finds.
func TestConformanceWhileTheStorageFails(t *testing.T) {
	storagetest.Run(t, func(*testing.T) storage.Store {
		failing := fault.New(mem.New(nil), func(op fault.Op) fault.Action {
			switch {
			case op.N%3 != 0:
				return fault.Action{}
			case op.Verb == fault.Get:
				return fault.Action{Before: errDown}
			}
			return fault.Action{After: errDown, Cut: op.N % 7}
		})
		return retry.New(failing, retry.Options{First: time.Microsecond, Longest: 10 * time.Microsecond})
	})
}

// failing gives a store whose calls fail as the actions say, in turn; what comes after them passes.
func failing(below storage.Store, actions ...fault.Action) *fault.Store {
	return fault.New(below, func(op fault.Op) fault.Action {
		if op.N <= len(actions) {
			return actions[op.N-1]
		}
		return fault.Action{}
	})
}

func down(fault.Op) fault.Action { return fault.Action{Before: errDown} }

func TestGivesUpAfterTheTimeAndSaysHowOftenItTried(t *testing.T) {
	for name, do := range map[string]func(context.Context, storage.Store) error{
		"get": func(ctx context.Context, s storage.Store) error {
			_, err := s.Get(ctx, "k", storage.Range{}, nil)
			return err
		},
		"put":    func(ctx context.Context, s storage.Store) error { return s.Put(ctx, "k", nil) },
		"delete": func(ctx context.Context, s storage.Store) error { return s.Delete(ctx, "k") },
		"list": func(ctx context.Context, s storage.Store) error {
			return s.List(ctx, "", func(storage.Info) error { return nil })
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			below := fault.New(mem.New(nil), down)
			var pauses []time.Duration
			s := retry.New(below, retry.Options{Retrying: func(f retry.Failure) { pauses = append(pauses, f.Pause) }})
			begun := time.Now()
			err := do(t.Context(), s)
			took := time.Since(begun)
			var gaveUp *retry.GaveUpError
			if !errors.Is(err, storage.ErrUnreachable) || !errors.As(err, &gaveUp) {
				t.Fatalf("%s: %v", name, err)
			}
			if took != retry.DefaultTotal || gaveUp.After != took {
				t.Errorf("%s: gave up after %s, and says %s", name, took, gaveUp.After)
			}
			n := below.Calls()
			if n < 8 || n > 25 || gaveUp.Attempts != n || !strings.Contains(err.Error(), fmt.Sprintf("tried %d times in 2m0s", n)) {
				t.Errorf("%s: %d calls; %v", name, n, err)
			}
			if pauses[0] > retry.DefaultFirst || pauses[3] < retry.DefaultFirst*4 || slices.Max(pauses) > retry.DefaultLongest {
				t.Errorf("%s: pauses %v", name, pauses)
			}
		})
	}
}

func TestAnswersAreNotTriedAgain(t *testing.T) {
	for _, answer := range []error{storage.ErrNotExist, storage.ErrExist, storage.ErrDenied, storage.ErrFull, storage.ErrReadOnly, storage.ErrKey,
		errors.New("who knows"), fmt.Errorf("%w, says the network: %w", storage.ErrDenied, io.ErrUnexpectedEOF)} {
		below := failing(mem.New(nil), fault.Action{Before: answer})
		if err := retry.New(below, retry.Options{}).Put(t.Context(), "k", nil); !errors.Is(err, answer) || below.Calls() != 1 {
			t.Errorf("%v after %d calls", err, below.Calls())
		}
	}
}

func TestNetworkErrorsWithoutAClassAreTriedAgain(t *testing.T) {
	for _, broken := range []error{io.ErrUnexpectedEOF, context.DeadlineExceeded} {
		below := failing(mem.New(nil), fault.Action{Before: broken})
		if err := retry.New(below, retry.Options{First: 1}).Put(t.Context(), "k", nil); err != nil || below.Calls() != 2 {
			t.Errorf("%v after %d calls", err, below.Calls())
		}
	}
}

func TestErrorsThatLastAreNotTriedAgain(t *testing.T) {
	below := failing(mem.New(nil), fault.Action{Before: errDown})
	s := retry.New(below, retry.Options{Lasting: func(err error) bool { return errors.Is(err, errDown) }})
	if err := s.Put(t.Context(), "k", nil); !errors.Is(err, errDown) || below.Calls() != 1 {
		t.Errorf("%v after %d calls", err, below.Calls())
	}
}

func TestTheEndOfTheContextEndsAPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		begun := time.Now()
		err := retry.New(fault.New(mem.New(nil), down), retry.Options{}).Delete(ctx, "k")
		if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, storage.ErrUnreachable) || time.Since(begun) != 10*time.Second {
			t.Errorf("%v after %s", err, time.Since(begun))
		}
	})
}

func TestAStorageThatAsksForLessGetsMoreTime(t *testing.T) {
	for _, c := range []struct{ asked, least, most time.Duration }{
		{0, 500 * time.Millisecond, 1500 * time.Millisecond}, {30 * time.Second, 30 * time.Second, 40 * time.Second},
		{time.Hour, retry.DefaultTotal, retry.DefaultTotal}, // and is asked one last time
	} {
		synctest.Test(t, func(t *testing.T) {
			below := failing(mem.New(nil), fault.Action{Before: errDown})
			throttled := func(err error) (time.Duration, bool) { return c.asked, errors.Is(err, errDown) }
			begun := time.Now()
			if err := retry.New(below, retry.Options{Throttled: throttled}).Put(t.Context(), "k", nil); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(begun); took < c.least || took > c.most {
				t.Errorf("asked for %s, was asked again after %s", c.asked, took)
			}
		})
	}
}

func TestAPutWhoseAnswerWasLostSucceeds(t *testing.T) {
	below := mem.New(nil)
	s := retry.New(failing(below, fault.Action{After: errDown}, fault.Action{}, fault.Action{Before: errDown}), retry.Options{First: 1})
	if err := s.Put(t.Context(), "k", []byte("ours")); err != nil {
		t.Error(err)
	}
	if got, err := below.Get(t.Context(), "k", storage.Range{}, nil); err != nil || string(got) != "ours" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestAPutThatFindsAnotherObjectIsRefused(t *testing.T) {
	below := mem.New(nil)
	if err := below.Put(t.Context(), "k", []byte("theirs")); err != nil {
		t.Fatal(err)
	}
	s := retry.New(failing(below, fault.Action{Before: errDown}), retry.Options{First: 1})
	if err := s.Put(t.Context(), "k", []byte("ours")); !errors.Is(err, storage.ErrExist) {
		t.Error(err)
	}
}

func TestAnObjectThatIsThereAtTheFirstAttemptIsNotCompared(t *testing.T) {
	below := fault.New(mem.New(nil), nil)
	s := retry.New(below, retry.Options{})
	if err := s.Put(t.Context(), "k", nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Put(t.Context(), "k", nil); !errors.Is(err, storage.ErrExist) || below.Calls() != 2 {
		t.Errorf("%v after %d calls", err, below.Calls())
	}
}

// TestAPutIsNotToldToBeStoredWhenItIsGone: between the attempts somebody deletes what the first one created, and a third party's Put
// stands in the way of the second. The key was taken, which callers know what to make of.
func TestAPutIsNotToldToBeStoredWhenItIsGone(t *testing.T) {
	s := retry.New(failing(mem.New(nil), fault.Action{Before: errDown}, fault.Action{Before: storage.ErrExist}), retry.Options{First: 1})
	err := s.Put(t.Context(), "k", []byte("ours"))
	if !errors.Is(err, storage.ErrExist) || !strings.Contains(err.Error(), "deleted by someone else") {
		t.Errorf("error %v; the object is not there", err)
	}
}

// TestAPutWhoseAnswerWasLostSucceedsWhateverTheNextOneIsTold: not every server says of a key that is taken that it is.
func TestAPutWhoseAnswerWasLostSucceedsWhateverTheNextOneIsTold(t *testing.T) {
	for _, answer := range []error{storage.ErrExist, storage.ErrDenied, storage.ErrLocked, storage.ErrFull, storage.ErrReadOnly, errors.New("who knows")} {
		for name, c := range map[string]struct {
			there   string
			actions []fault.Action
			want    error // nil: success
		}{
			"ours is there":           {"", []fault.Action{{After: errDown}, {Before: answer}}, nil},
			"and read with trouble":   {"", []fault.Action{{After: errDown}, {Before: answer}, {Before: errDown}, {Before: answer}}, nil},
			"another's is there":      {"theirs", []fault.Action{{Before: errDown}, {Before: answer}}, answer},
			"nobody's is there":       {"", []fault.Action{{Before: errDown}, {Before: answer}}, answer},
			"who may not read it":     {"", []fault.Action{{After: errDown}, {Before: answer}, {Before: storage.ErrDenied}}, answer},
			"ours, and no doubt":      {"ours", []fault.Action{{Before: answer}}, answer},
			"ours, of another's call": {"ours", []fault.Action{{Before: errDown}, {Before: answer}}, nil},
		} {
			below := mem.New(nil)
			if c.there != "" {
				if err := below.Put(t.Context(), "k", []byte(c.there)); err != nil {
					t.Fatal(err)
				}
			}
			err := retry.New(failing(below, c.actions...), retry.Options{First: 1, Longest: 1}).Put(t.Context(), "k", []byte("ours"))
			if c.want == nil && err != nil || !errors.Is(err, c.want) {
				t.Errorf("%v, %s: %v, want %v", answer, name, err, c.want)
			}
		}
	}
}

// TestAPutThatEndsInAComparisonEndsWithTheContext, and with its error.
func TestAPutThatEndsInAComparisonEndsWithTheContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	below := fault.New(mem.New(nil), func(op fault.Op) fault.Action {
		switch {
		case op.Verb == fault.Get:
			cancel()
			return fault.Action{Before: context.Canceled}
		case op.N == 1:
			return fault.Action{After: errDown}
		}
		return fault.Action{Before: storage.ErrDenied}
	})
	err := retry.New(below, retry.Options{First: 1}).Put(ctx, "k", nil)
	if !errors.Is(err, context.Canceled) || errors.Is(err, storage.ErrDenied) || below.Calls() != 3 {
		t.Errorf("%v after %d calls", err, below.Calls())
	}
}

func TestSomeKeysArePutOnce(t *testing.T) {
	below := mem.New(nil)
	s := retry.New(failing(below, fault.Action{After: errDown}), retry.Options{Once: func(key string) bool { return key == "sessions/1" }})
	if err := s.Put(t.Context(), "sessions/1", nil); !errors.Is(err, storage.ErrUnreachable) {
		t.Errorf("error %v, want that of the only attempt", err)
	}
	s = retry.New(failing(below, fault.Action{Before: errDown}), retry.Options{First: 1, Once: func(key string) bool { return key == "sessions/1" }})
	if err := s.Put(t.Context(), "packs/1", nil); err != nil {
		t.Error(err)
	}
	s = retry.New(failing(below, fault.Action{Before: errDown}), retry.Options{First: 1, Once: func(string) bool { return true }})
	if _, err := s.Get(t.Context(), "sessions/1", storage.Range{}, nil); err != nil {
		t.Errorf("reading one is safe: %v", err)
	}
}

func TestGetAppendsNothingTwice(t *testing.T) {
	below := mem.New(nil)
	if err := below.Put(t.Context(), "k", []byte("world")); err != nil {
		t.Fatal(err)
	}
	s := retry.New(&halfGet{Store: below}, retry.Options{First: 1})
	dst := append(make([]byte, 0, 100), "hello "...)
	got, err := s.Get(t.Context(), "k", storage.Range{}, dst)
	if err != nil || string(got) != "hello world" {
		t.Errorf("%q, %v", got, err)
	}
}

// halfGet fails the first Get after it has written into the buffer.
type halfGet struct {
	storage.Store
	failed bool
}

func (h *halfGet) Get(ctx context.Context, key string, r storage.Range, dst []byte) ([]byte, error) {
	if !h.failed {
		h.failed = true
		_ = append(dst, "wor"...)
		return nil, io.ErrUnexpectedEOF
	}
	return h.Store.Get(ctx, key, r, dst)
}

func TestAListingThatBreaksGoesOnBehindWhatItHasGiven(t *testing.T) {
	below := mem.New(nil)
	var want []string
	for i := range 20 {
		want = append(want, fmt.Sprintf("k/%02d", i))
		if err := below.Put(t.Context(), want[i], nil); err != nil {
			t.Fatal(err)
		}
	}
	cut := func(n int) fault.Action { return fault.Action{After: errDown, Cut: n} }
	s := retry.New(failing(below, cut(5), fault.Action{Before: errDown}, cut(3), cut(19), cut(0)), retry.Options{First: 1})
	var got []string
	err := s.List(t.Context(), "k/", func(i storage.Info) error {
		got = append(got, i.Key)
		if i.Key == "k/04" { // behind and before what is given, while the listing goes on
			return errors.Join(below.Put(t.Context(), "k/00a", nil), below.Delete(t.Context(), "k/02"))
		}
		return nil
	})
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%v\n got %q\nwant %q", err, got, want)
	}
}

func TestAListingThatGetsOnIsNotGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		below := mem.New(nil)
		for i := range 1000 {
			if err := below.Put(t.Context(), fmt.Sprintf("%04d", i), nil); err != nil {
				t.Fatal(err)
			}
		}
		// Each attempt comes a page further than the last one: far more failures than the time has room for, one after another.
		cutting := fault.New(below, func(op fault.Op) fault.Action {
			if op.N*20 >= 1000 {
				return fault.Action{}
			}
			return fault.Action{After: errDown, Cut: op.N * 20, Delay: 10 * time.Second}
		})
		n := 0
		err := retry.New(cutting, retry.Options{}).List(t.Context(), "", func(storage.Info) error { n++; return nil })
		if err != nil || n != 1000 {
			t.Errorf("%d objects, %v", n, err)
		}
	})
}

func TestAnErrorOfTheCallbackIsNotTriedAgain(t *testing.T) {
	below := fault.New(mem.New(nil), nil)
	if err := below.Put(t.Context(), "k", nil); err != nil {
		t.Fatal(err)
	}
	calls := below.Calls()
	err := retry.New(below, retry.Options{}).List(t.Context(), "", func(storage.Info) error { return errDown })
	if err != errDown || below.Calls() != calls+1 {
		t.Errorf("%v after %d listings", err, below.Calls()-calls)
	}
}

func TestALockIsTriedAgain(t *testing.T) {
	n := 0
	below := fault.New(mem.New(nil), func(op fault.Op) fault.Action {
		if n++; n < 3 {
			return fault.Action{Before: errDown}
		}
		return fault.Action{}
	})
	err := retry.New(below, retry.Options{First: 1, Longest: 1}).Lock(t.Context(), "k", time.Now())
	if !errors.Is(err, storage.ErrNoLock) || n != 3 { // which is an answer
		t.Errorf("%v after %d calls", err, n)
	}
}

func TestTidyingIsPassedThrough(t *testing.T) {
	tidy := &tidying{}
	for _, below := range []storage.Store{mem.New(nil), tidy} {
		var s storage.Store = retry.New(below, retry.Options{})
		if _, _, err := s.(storage.Tidier).Tidy(t.Context(), time.Now()); err != nil {
			t.Error(err)
		}
	}
	if tidy.calls != 1 {
		t.Errorf("%d calls", tidy.calls)
	}
}

type tidying struct {
	mem.Store
	calls int
}

func (s *tidying) Tidy(context.Context, time.Time) (int, int64, error) {
	s.calls++
	return 0, 0, nil
}

func FuzzPutsWithLostAnswersAreStoredOnce(f *testing.F) {
	f.Add([]byte{0, 1, 2})
	f.Fuzz(func(t *testing.T, faults []byte) {
		below := mem.New(nil)
		var actions []fault.Action
		for _, b := range faults[:min(len(faults), 12)] {
			actions = append(actions, []fault.Action{{}, {Before: errDown}, {After: errDown}}[b%3])
		}
		s := retry.New(failing(below, actions...), retry.Options{First: 1, Longest: 1})
		ours, theirs := []byte("ours"), []byte("theirs")
		first, second := s.Put(t.Context(), "k", ours), s.Put(t.Context(), "k", theirs)
		got, err := below.Get(t.Context(), "k", storage.Range{}, nil)
		if first != nil || !errors.Is(second, storage.ErrExist) || err != nil || !bytes.Equal(got, ours) {
			t.Errorf("%v, %v: %q, %v", first, second, got, err)
		}
	})
}

func TestLocksArePassedOn(t *testing.T) {
	storagetest.RunLockPassedOn(t, func(below storage.Store) storage.Store { return retry.New(below, retry.Options{}) })
}
