package restore

import (
	"context"
	"encoding/binary"
	"fmt"
	"runtime"
	"sync"
	"testing"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/pack"
	"github.com/pgtrove/pgtrove/snapshot"
)

// scattered is a repository in which each page of each file is in a chunk of its own, the worst that a recipe can be. Nothing of it is
// in memory: names tell file and page.
type scattered struct {
	mu   sync.Mutex
	peak uint64 // of the heap, when a plan is complete
}

const scatteredPages = 1 << 17 // of a file of 1 GiB

func scatteredID(file, page uint64) (id chunk.ID) {
	binary.BigEndian.PutUint64(id[:], file)
	binary.BigEndian.PutUint64(id[8:], page*0x9e3779b97f4a7c15) // neither in order
	binary.BigEndian.PutUint64(id[16:], page)
	return id
}

func (s *scattered) Locate(id chunk.ID) (pack.Location, error) {
	file, page := binary.BigEndian.Uint64(id[:]), binary.BigEndian.Uint64(id[16:])
	return pack.Location{
		Pack:  fmt.Sprintf("packs/%d/%d", file, page>>12),
		Entry: pack.Entry{ID: id, Form: 13, Offset: uint32(page%4096) * 4096, Plain: 8192, Sealed: 4000}, Kind: pack.Data,
	}, nil
}

func (s *scattered) ReadPack(_ context.Context, _ string, off, n int64, dst []byte) ([]byte, error) {
	if off < 0 {
		return append(dst, trailer...), nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.peak == 0 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		s.peak = m.HeapAlloc
	}
	return append(dst, make([]byte, n)...), nil
}

func (s *scattered) OpenChunk(dst []byte, loc pack.Location, _ []byte) ([]byte, error) {
	return append(dst, make([]byte, loc.Plain)...), nil
}

func (s *scattered) MetaChunk(_ context.Context, id chunk.ID) ([]byte, error) {
	extents := make([]snapshot.Extent, scatteredPages)
	for i := range extents {
		extents[i] = snapshot.Extent{ID: scatteredID(binary.BigEndian.Uint64(id[:]), uint64(i)), Form: 13, Count: 1}
	}
	return snapshot.MarshalExtents(extents), nil
}

func TestAPlanFitsIntoMemoryWhateverTheClustersSize(t *testing.T) {
	const files = 4 // of 131,072 extents each: two plans; ten million extents take as much
	s := &scattered{}
	o := Options{Snapshot: &snapshot.Manifest{}, To: t.TempDir()}
	d := &destination{dir: o.To}
	l, err := d.look()
	must(t, err)
	defer l.close()
	r := newRunner(s, &o, l)
	r.dry = &survey{packs: map[string]bool{}}
	r.batch = newBatch()
	for i := range uint64(files) {
		must(t, r.entry(t.Context(), &snapshot.Entry{
			Path: fmt.Sprintf("data/base/5/%d", i), Type: snapshot.File, Size: scatteredPages * 8192,
			Recipe: snapshot.RecipeRef{Chunks: []chunk.ID{scatteredID(i, 0)}},
		}))
	}
	must(t, r.flush(t.Context()))
	if want := int64(files * scatteredPages); r.report.Fetched < want*4000 || s.peak == 0 {
		t.Errorf("planned %d bytes of %d", r.report.Fetched, want*4000)
	}
	if s.peak > 300<<20 {
		t.Errorf("a plan takes %d MB", s.peak>>20)
	}
	t.Logf("a plan takes %d MB", s.peak>>20)
}
