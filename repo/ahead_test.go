package repo

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/pgtrove/pgtrove/pack"
)

// shelfOfPacks answers readings and counts them.
type shelfOfPacks struct {
	packs map[string][]byte
	calls int
	bytes int
}

func (s *shelfOfPacks) get(_ context.Context, key string, off, n int64, dst []byte) ([]byte, error) {
	b, ok := s.packs[key]
	if !ok {
		return nil, errors.New("no such pack")
	}
	s.calls++
	b = b[min(off, int64(len(b))):min(off+n, int64(len(b)))]
	s.bytes += len(b)
	return append(dst, b...), nil
}

func newShelf(n int) *shelfOfPacks {
	s := &shelfOfPacks{packs: map[string][]byte{}}
	for _, key := range []string{"a", "b"} {
		s.packs[key] = make([]byte, n)
		_, _ = rand.NewChaCha8([32]byte([]byte(key + "-234567890123456789012345678901"))).Read(s.packs[key])
	}
	return s
}

func (s *shelfOfPacks) read(t *testing.T, a *readAhead, key string, off, n int) {
	t.Helper()
	got, err := a.read(t.Context(), pack.Location{Pack: key, Entry: pack.Entry{Offset: uint32(off), Sealed: uint32(n)}}, s.get)
	if want := s.packs[key][min(off, len(s.packs[key])):min(off+n, len(s.packs[key]))]; err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%d bytes at %d of %s: %d others, %v", n, off, key, len(got), err)
	}
}

func TestMetadataInARowIsReadAhead(t *testing.T) {
	s, a := newShelf(4<<20), &readAhead{}
	off := 0
	for off < 4<<20 { // two packs side by side, with gaps
		s.read(t, a, "a", off, 3000)
		s.read(t, a, "b", off, 3000)
		off += 3000 + off%5000
	}
	if s.calls > 40 {
		t.Errorf("%d readings", s.calls)
	}
}

func TestMetadataHereAndThereIsNotReadAhead(t *testing.T) {
	s, a := newShelf(4<<20), &readAhead{}
	r := rand.New(rand.NewPCG(1, 2))
	want := 0
	for range 200 {
		key := []string{"a", "b"}[r.IntN(2)]
		n := 1 + r.IntN(5000)
		s.read(t, a, key, r.IntN(4<<20), n)
		want += n
	}
	if s.bytes > want+want/2 {
		t.Errorf("%d bytes were read for %d", s.bytes, want)
	}
}

func TestAPackThatEndsEarlyGivesWhatItHas(t *testing.T) {
	s, a := newShelf(10000), &readAhead{}
	s.read(t, a, "a", 0, 4000)
	s.read(t, a, "a", 4000, 4000)
	s.read(t, a, "a", 8000, 4000)
	s.read(t, a, "a", 12000, 4000)
	if _, err := a.read(t.Context(), pack.Location{Pack: "c", Entry: pack.Entry{Sealed: 1}}, s.get); err == nil {
		t.Error("a pack that is not there was read")
	}
}
