package index

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/pgtrove/pgtrove/chunk"
)

func randomChunk(r *rand.Rand) (id chunk.ID) {
	for i := 0; i < len(id); i += 8 {
		binary.BigEndian.PutUint64(id[i:], r.Uint64())
	}
	return id
}

func (s *Set) slotBytes() (n int) {
	for i := range s.parts {
		n += 8 * len(s.parts[i].slots)
	}
	return n
}

func TestASetHoldsWhatWasAdded(t *testing.T) {
	for _, hint := range []int{0, 10, 300, 5000, 100_000} {
		r := rand.New(rand.NewPCG(1, 2))
		s := NewSet(hint)
		ids := []chunk.ID{{}, {7: 1}, {0: 0xff}, {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, {1}, {7: 2}}
		for range 30_000 {
			ids = append(ids, randomChunk(r))
		}
		for i, id := range ids {
			if s.Has(id) {
				t.Fatalf("hint %d: chunk %d is there before it was added", hint, i)
			}
			if !s.Add(id) || s.Add(id) || s.Len() != i+1 {
				t.Fatalf("hint %d: chunk %d is not added once: %d chunks", hint, i, s.Len())
			}
		}
		for i, id := range ids {
			if !s.Has(id) {
				t.Fatalf("hint %d: chunk %d was lost", hint, i)
			}
		}
		for range 30_000 {
			if s.Has(randomChunk(r)) {
				t.Fatalf("hint %d: a chunk is there that nobody added", hint)
			}
		}
	}
}

func TestASetTakesFewBytesForEachChunk(t *testing.T) {
	const chunks = 1_000_000
	for _, hint := range []int{0, chunks} {
		r := rand.New(rand.NewPCG(3, 4))
		s := NewSet(hint)
		first := s.slotBytes()
		for i := range chunks {
			s.Add(randomChunk(r))
			if n := i + 1; n >= 100_000 && n%1000 == 0 && hint == 0 && s.slotBytes() > 16*n {
				t.Fatalf("%d bytes for %d chunks", s.slotBytes(), n)
			}
		}
		if hint > 0 && (s.slotBytes() != first || first > 11*chunks) {
			t.Errorf("%d bytes, and %d in the end, with a hint of %d chunks", first, s.slotBytes(), hint)
		}
	}
}

// One operation is one chunk of eight million.
func BenchmarkSetAdd(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 2))
	var s *Set
	const most = 8_000_000
	for b.Loop() {
		if s == nil || s.Len() == most {
			s = NewSet(most)
		}
		s.Add(randomChunk(r))
	}
}
