package storagetest

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/pgtrove/pgtrove/storage"
)

// Switch takes away what is below a store, and gives it back as it was.
type Switch struct{ Away, Back func() }

// RunOutage tests what a store says while the storage below it is gone: that nothing is known, never that something is absent or a listing
// empty. (storage.ConfigKey is left out: a driver may need it to tell an empty storage from an absent one.) open gives a new store as Run's does, and its switch.
func RunOutage(t *testing.T, open func(t *testing.T) (storage.Store, Switch)) {
	below, sw := open(t)
	s := &suite{below, t}
	s.put(storage.ConfigKey, "a repository")
	s.put("wal/there", "x")
	for round := range 2 {
		sw.Away()
		for _, key := range []string{"wal/there", "wal/absent", "none/absent"} {
			for _, r := range []storage.Range{{}, {Off: 1000}, {Off: -5}, {Off: 0, Len: 1}} {
				dst := []byte("mine")
				got, err := s.Get(t.Context(), key, r, dst)
				s.wantGone(fmt.Sprintf("Get %s %+v", key, r), err)
				if got != nil || string(dst) != "mine" {
					t.Fatalf("Get %s %+v left %q and gave %q", key, r, dst, got)
				}
			}
		}
		for _, prefix := range []string{"", "wal/", "none/"} {
			err := s.List(t.Context(), prefix, func(i storage.Info) error {
				return fmt.Errorf("%s is listed", i.Key)
			})
			s.wantGone("List "+prefix, err)
		}
		s.wantGone("Put", s.Put(t.Context(), fmt.Sprintf("wal/new-%d", round), []byte("y")))
		s.wantGone("Put of what is there", s.Put(t.Context(), "wal/there", []byte("y")))
		s.wantGone("Delete", s.Delete(t.Context(), "wal/there"))
		s.wantGone("Delete of what is absent", s.Delete(t.Context(), "wal/absent"))
		sw.Back()
		s.want("wal/there", "x")
		s.wantList("", "wal/there")
	}
}

func (s *suite) wantGone(what string, err error) {
	s.t.Helper()
	for _, wrong := range []error{storage.ErrNotExist, storage.ErrExist, storage.ErrDenied} {
		if errors.Is(err, wrong) {
			s.t.Fatalf("%s while the storage is away: %v", what, err)
		}
	}
	s.wantErr(what+" while the storage is away", err, storage.ErrUnreachable)
}

// RunCut tests that an answer which breaks off is an error and not a shorter answer, and a Put that breaks off leaves all or nothing. open gives
// a new store as Run's does, and a function that lets so many bytes pass, of the requests or of the answers, before whatever carries them
// breaks; 0 for no limit, and -1 for an answer that is lost
// when its work is done.
func RunCut(t *testing.T, open func(t *testing.T) (storage.Store, func(requests, answers int64))) {
	below, cut := open(t)
	s := &suite{below, t}
	const size, objects = 300_000, 1200
	data := pattern(size)
	s.put("big", string(data))
	want := make([]string, objects)
	for i := range want {
		want[i] = fmt.Sprintf("list/%04d", i)
		s.put(want[i], "")
	}
	for _, limit := range []int64{1, 100, 1000, size / 2, size - 1, size + 100} {
		s.getCut(cut, limit, data)
		s.listCut(cut, limit, want)
		s.putCut(cut, limit, data)
	}
	cut(0, 0)
	s.want("big", string(data))
	s.wantList("list/", want...)
}

func (s *suite) getCut(cut func(requests, answers int64), limit int64, data []byte) {
	s.t.Helper()
	for _, r := range []storage.Range{{}, {Off: 7}, {Off: -int64(len(data)) + 1}, {Off: 1, Len: int64(len(data)) - 2}} {
		off, n := r.Resolve(int64(len(data)))
		cut(0, limit)
		dst := []byte("mine")
		got, err := s.Get(s.t.Context(), "big", r, dst)
		switch {
		case err == nil && !bytes.Equal(got, append([]byte("mine"), data[off:off+n]...)):
			s.t.Fatalf("Get %+v cut after %d bytes: %d bytes and no error", r, limit, len(got))
		case err != nil:
			s.wantGone(fmt.Sprintf("Get %+v cut after %d bytes", r, limit), err)
		case limit < n:
			s.t.Fatalf("Get %+v: %d bytes passed through a cut after %d", r, n, limit)
		}
		if string(dst) != "mine" {
			s.t.Fatalf("Get %+v made the caller's bytes %q", r, dst)
		}
	}
}

func (s *suite) listCut(cut func(requests, answers int64), limit int64, want []string) {
	s.t.Helper()
	cut(0, limit)
	n := 0
	err := s.List(s.t.Context(), "list/", func(i storage.Info) error {
		if n >= len(want) || i.Key != want[n] {
			s.t.Errorf("entry %d is %s", n, i.Key)
		}
		n++
		return nil
	})
	if err == nil && n != len(want) {
		s.t.Fatalf("List cut after %d bytes: %d of %d objects and no error", limit, n, len(want))
	}
	if err != nil {
		s.wantGone(fmt.Sprintf("List cut after %d bytes", limit), err)
	}
}

func (s *suite) putCut(cut func(requests, answers int64), limit int64, data []byte) {
	s.t.Helper()
	arrived := false
	for try := 0; try < 10 && !arrived; try++ {
		// One that the driver sends on a connection of before, which has just been broken, does not arrive.
		arrived = s.putCutIn(cut, "answer", [2]int64{0, -1}, fmt.Sprintf("put/answer/%d/%d", limit, try), data)
	}
	if !arrived {
		s.t.Fatal("of ten Puts whose answers are cut none has arrived")
	}
	s.putCutIn(cut, "request", [2]int64{limit, 0}, fmt.Sprintf("put/request/%d", limit), data)
}

// putCutIn says whether the object is there.
func (s *suite) putCutIn(cut func(requests, answers int64), name string, limits [2]int64, key string, data []byte) bool {
	s.t.Helper()
	cut(limits[0], limits[1])
	err := s.Put(s.t.Context(), key, data)
	if err != nil {
		s.wantGone("Put cut in its "+name, err)
	} else if limits[1] != 0 || limits[0] < int64(len(data)) {
		s.t.Fatalf("Put cut in its %s succeeded", name)
	}
	cut(0, 0)
	got, gerr := s.Get(s.t.Context(), key, storage.Range{}, nil)
	switch {
	case gerr == nil && !bytes.Equal(got, data):
		s.t.Fatalf("Put cut in its %s left %d of %d bytes", name, len(got), len(data))
	case gerr != nil && (err == nil || !errors.Is(gerr, storage.ErrNotExist)):
		s.t.Fatalf("after a Put cut in its %s (%v): %v", name, err, gerr)
	}
	return gerr == nil
}
