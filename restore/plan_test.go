package restore

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/pack"
	"github.com/pgtrove/pgtrove/snapshot"
)

// fill puts n chunks of pages into a repository and returns them.
func fill(t testing.TB, m *memRepo, r *rand.Rand, n int) (ids []chunk.ID, plain [][]byte) {
	t.Helper()
	h := chunk.NewHasher(testKey())
	rnd := rand.NewChaCha8([32]byte{byte(r.Uint32())})
	for range n {
		b := make([]byte, (1+r.IntN(32))*1024)
		_, _ = rnd.Read(b)
		id, err := m.Pages(t.Context(), 10, h.PageDigests(nil, 10, b), b)
		if err != nil {
			t.Fatal(err)
		}
		ids, plain = append(ids, id), append(plain, b)
	}
	m.finish(pack.Data)
	return ids, plain
}

func TestAPlanReadsNoByteTwiceAndOpensNoChunkTwice(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		m := newMemRepo()
		m.limit = 200_000
		ids, plain := fill(t, m, r, 100)
		p := newPlan()
		var want [][]byte
		for file := range 20 {
			var extents []snapshot.Extent
			var b []byte
			for range r.IntN(40) {
				k := r.IntN(len(ids))
				pages := len(plain[k]) / 1024
				first := r.IntN(pages)
				count := 1 + r.IntN(pages-first)
				if r.IntN(5) == 0 {
					extents = append(extents, snapshot.Extent{Form: 10, Count: uint32(count), Zero: true})
					b = append(b, make([]byte, count*1024)...)
					continue
				}
				extents = append(extents, snapshot.Extent{ID: ids[k], Form: 10, First: uint32(first), Count: uint32(count)})
				b = append(b, plain[k][first*1024:(first+count)*1024]...)
			}
			if _, err := p.add(t.Context(), newSource(m, nil), uint32(file), int64(len(b)), extents, nil); err != nil {
				t.Fatal(err)
			}
			want = append(want, b)
		}
		got := make([][]byte, len(want))
		for i := range got {
			got[i] = make([]byte, len(want[i]))
		}
		var mu sync.Mutex
		var fetched int64
		err := p.run(t.Context(), newSource(m, nil), 4, func(n int64) { mu.Lock(); fetched += n; mu.Unlock() }, func(uses []use, plain []byte) error {
			mu.Lock()
			defer mu.Unlock()
			for _, u := range uses {
				copy(got[u.file][u.at:], plain[u.from:u.from+u.n])
			}
			return nil
		}, func(err error, _ group) error { return err })
		if err != nil {
			t.Fatal(err)
		}
		var read int64
		for key, n := range m.reads {
			read += n
			if n > int64(len(m.packs[key])) {
				t.Fatalf("%d bytes were read of %d", n, len(m.packs[key]))
			}
		}
		if read != fetched {
			t.Errorf("%d bytes were read, %d reported", read, fetched)
		}
		for id, n := range m.opened {
			if n != 1 {
				t.Fatalf("chunk %s was opened %d times", id.Short(), n)
			}
		}
		for i := range want {
			if !bytes.Equal(got[i], want[i]) {
				t.Fatalf("file %d differs", i)
			}
		}
	}
}

func TestNeighboursAreReadTogetherUpToABound(t *testing.T) {
	p := newPlan()
	at := func(name string, offset, sealed int) {
		p.uses = append(p.uses, use{chunk: uint32(len(p.chunks))})
		p.chunks = append(p.chunks, pack.Location{Pack: name, Entry: pack.Entry{Offset: uint32(offset), Sealed: uint32(sealed)}})
	}
	at("b", 8, 100)
	at("a", 8+maxGap+100, 100)            // near enough
	at("a", 8, 100)                       //
	at("a", 8+2*maxGap+300, 100)          // too far
	at("c", 8, maxPiece+1)                // larger than a piece
	at("c", 8+maxPiece+1, maxPiece/2)     //
	at("c", 9+maxPiece+maxPiece/2, 1<<20) // still fits
	at("c", 9+maxPiece+maxPiece/2+1<<20, maxPiece/2)
	var got []string
	for _, q := range p.pieces() {
		got = append(got, fmt.Sprintf("%s %d+%d %d", q.pack, q.off, q.n, len(q.chunks)))
	}
	want := []string{
		fmt.Sprintf("a 8+%d 2", maxGap+200), fmt.Sprintf("a %d+100 1", 8+2*maxGap+300), "b 8+100 1",
		fmt.Sprintf("c 8+%d 1", maxPiece+1), fmt.Sprintf("c %d+%d 2", 9+maxPiece, maxPiece/2+1<<20),
		fmt.Sprintf("c %d+%d 1", 9+maxPiece+maxPiece/2+1<<20, maxPiece/2),
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("pieces\n%q, want\n%q", got, want)
	}
}

func TestRecipesThatDoNotFitTheirChunksAreRefused(t *testing.T) {
	m := newMemRepo()
	ids, plain := fill(t, m, rand.New(rand.NewPCG(3, 4)), 3)
	pages := uint32(len(plain[0]) / 1024)
	size := int64(len(plain[0]))
	for name, c := range map[string]struct {
		size    int64
		extents []snapshot.Extent
	}{
		"beyond the chunk": {size, []snapshot.Extent{{ID: ids[0], Form: 10, First: 1, Count: pages}}},
		"other pages":      {int64(pages) << 11, []snapshot.Extent{{ID: ids[0], Form: 11, Count: pages}}},
		"bytes":            {size, []snapshot.Extent{{ID: ids[0], Count: uint32(size)}}},
		"shorter":          {size + 1, []snapshot.Extent{{ID: ids[0], Form: 10, Count: pages}}},
		"longer":           {size - 1, []snapshot.Extent{{ID: ids[0], Form: 10, Count: pages}}},
	} {
		if _, err := newPlan().add(t.Context(), newSource(m, nil), 0, c.size, c.extents, nil); !errors.Is(err, ErrMismatch) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := newPlan().add(t.Context(), newSource(m, nil), 0, 1024, []snapshot.Extent{{ID: chunk.ID{9}, Form: 10, Count: 1}}, nil); !errors.Is(err, errBroken) {
		t.Errorf("unknown chunk: %v", err)
	}
}
