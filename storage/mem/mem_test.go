package mem_test

import (
	"errors"
	"testing"

	"github.com/pgtrove/pgtrove/storage"
	"github.com/pgtrove/pgtrove/storage/mem"
	"github.com/pgtrove/pgtrove/storage/storagetest"
)

func TestConformance(t *testing.T) {
	storagetest.Run(t, func(*testing.T) storage.Store { return mem.New(nil) })
}

func TestSameCallsGiveSameTimes(t *testing.T) {
	run := func() (infos []storage.Info) {
		s := mem.New(nil)
		for _, key := range []string{"b", "a", "c"} {
			if err := s.Put(t.Context(), key, nil); err != nil {
				t.Fatal(err)
			}
		}
		err := s.List(t.Context(), "", func(i storage.Info) error {
			infos = append(infos, i)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return infos
	}
	one, two := run(), run()
	if len(one) != 3 || one[0] != two[0] || one[1] != two[1] || one[2] != two[2] {
		t.Fatalf("%v and %v", one, two)
	}
	if !one[1].ModTime.Before(one[0].ModTime) {
		t.Errorf("b was put first, and has the time %v, a %v", one[1].ModTime, one[0].ModTime)
	}
}

func TestAKeyBelowAnotherIsRefused(t *testing.T) {
	s := mem.New(nil)
	for _, key := range []string{"a/b", "c"} {
		if err := s.Put(t.Context(), key, nil); err != nil {
			t.Fatal(err)
		}
	}
	for _, key := range []string{"a", "a/b/c", "c/d"} {
		if err := s.Put(t.Context(), key, nil); !errors.Is(err, storage.ErrKey) {
			t.Errorf("Put %s: %v, want ErrKey", key, err)
		}
	}
}
