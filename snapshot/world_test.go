package snapshot

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/chunk"
)

// world is a repository in memory: what a session gives Take, and counts of what was asked.
type world struct {
	*chunkMap
	mu      sync.Mutex
	digests map[chunk.ID][]chunk.Prefix
	notes   map[chunk.ID][]byte
	gone    map[chunk.ID]bool // chunks that the view does not have any more
	written int64             // plain bytes of page chunks that were new
	asked   int               // calls of PageDigests
	kept    map[chunk.ID]bool
	forget  bool // notes are lost
}

func newWorld() *world {
	return &world{chunkMap: newChunkMap(), digests: map[chunk.ID][]chunk.Prefix{}, notes: map[chunk.ID][]byte{}, gone: map[chunk.ID]bool{}, kept: map[chunk.ID]bool{}}
}

func (w *world) Pages(ctx context.Context, form chunk.Form, d []chunk.Digest, pages []byte) (chunk.ID, error) {
	id, err := w.chunkMap.Pages(ctx, form, d, pages)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.digests[id] == nil || w.gone[id] {
		delete(w.gone, id)
		w.written += int64(len(pages))
		for i := range d {
			w.digests[id] = append(w.digests[id][:i:i], d[i].Prefix())
		}
	}
	return id, err
}

func (w *world) MetaChunk(ctx context.Context, id chunk.ID) ([]byte, error) {
	w.chunkMap.mu.Lock()
	defer w.chunkMap.mu.Unlock()
	return w.meta.MetaChunk(ctx, id)
}

func (w *world) Missing(ctx context.Context, _ chunk.ID, list func(context.Context) ([]chunk.ID, error)) ([]chunk.ID, error) {
	ids, err := list(ctx)
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.DeleteFunc(ids, func(id chunk.ID) bool { return !w.gone[id] }), err
}

func (w *world) PageDigests(_ context.Context, ids []chunk.ID, each func(chunk.ID, []chunk.Prefix) error) error {
	w.mu.Lock()
	w.asked++
	w.mu.Unlock()
	for _, id := range ids {
		w.mu.Lock()
		d, ok := w.digests[id]
		ok = ok && !w.gone[id]
		w.mu.Unlock()
		if !ok {
			return errAbsent
		}
		if err := each(id, d); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) ChunkSize(id chunk.ID) (int64, error) {
	w.chunkMap.mu.Lock()
	defer w.chunkMap.mu.Unlock()
	b, ok := w.data[id]
	if !ok {
		return 0, errAbsent
	}
	return int64(len(b)), nil
}

func (w *world) Recall(key chunk.ID, dst []byte) []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	if b, ok := w.notes[key]; ok && !w.forget {
		return append(dst, b...)
	}
	return nil
}

func (w *world) Remember(key chunk.ID, value []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.notes[key] = slices.Clone(value)
}

func (w *world) Keep(keys ...chunk.ID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, k := range keys {
		w.kept[k] = true
	}
}

// shot is a snapshot of the world with what it was taken from.
type shot struct {
	result   *Result
	manifest *Manifest
	files    map[string][]byte
}

// shoot takes a snapshot of sources upon a parent, nil for none, and makes sure that all of it reads back.
func (w *world) shoot(t *testing.T, files map[string][]byte, sources []Source, parent *Parent, known *Known) shot {
	t.Helper()
	r, err := Take(t.Context(), sources, Options{
		Jobs: 2, Key: chunk.Key{1}, NewWriter: func() (Writer, error) { return w, nil }, Parent: parent, Known: known, Notes: w,
		Lost: func(path string, err error) { t.Errorf("what the parent has of %s cannot be used: %v", path, err) },
	})
	if err != nil {
		t.Fatal(err)
	}
	s := shot{result: r, files: maps.Clone(files), manifest: &Manifest{Root: r.Root, Server: Server{Checksums: true}, Damaged: r.Damaged}}
	w.readBack(t, s)
	return s
}

func (w *world) readBack(t *testing.T, s shot) {
	t.Helper()
	seen := 0
	err := s.result.Root.Walk(t.Context(), w, func(e *Entry) error {
		if e.Type != File {
			return nil
		}
		seen++
		want, ok := s.files[e.Path]
		if !ok {
			return errors.New("a file that is not there: " + e.Path)
		}
		if got := w.read(t, e); !slices.Equal(got, want) || e.Size != int64(len(want)) {
			t.Fatalf("%s: %d bytes are not the %d that it had", e.Path, len(got), len(want))
		}
		return nil
	})
	if err != nil || seen != len(s.files) {
		t.Fatalf("%d files of %d: %v", seen, len(s.files), err)
	}
}

func (w *world) parent(t *testing.T, s shot) *Parent {
	t.Helper()
	p, err := LoadParent(t.Context(), s.manifest, w)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// reach lists the chunks that a snapshot needs, with their sizes, and those of the listing and recipes.
func (w *world) reach(t *testing.T, s shot) (data map[chunk.ID]int64, meta map[chunk.ID]bool) {
	t.Helper()
	data = map[chunk.ID]int64{}
	marks := &marking{world: w, seen: map[chunk.ID]bool{}}
	err := s.result.Root.Walk(t.Context(), marks, func(e *Entry) error {
		extents, err := LoadRecipe(t.Context(), marks, e.Recipe)
		for _, x := range extents {
			if !x.Zero {
				data[x.ID] = int64(len(w.data[x.ID]))
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return data, marks.seen
}

// marking notes which metadata chunks are read, as those do who mark what is live.
type marking struct {
	*world
	seen map[chunk.ID]bool
}

func (m *marking) MetaChunk(ctx context.Context, id chunk.ID) ([]byte, error) {
	m.seen[id] = true
	return m.world.MetaChunk(ctx, id)
}

// testForm is the page size of the tests' relations: 1 KiB, the smallest, so that long histories take little time.
const testForm = chunk.Form(10)

// heap is a relation file whose pages are known by number only.
type heap struct {
	pages []uint64 // 0: a zero page
	next  uint64
}

func (h *heap) fresh() uint64 { h.next++; return h.next }

func (h *heap) grow(n int) {
	for range n {
		h.pages = append(h.pages, h.fresh())
	}
}

func (h *heap) bytes() []byte {
	b := make([]byte, len(h.pages)<<testForm)
	for i, v := range h.pages {
		if v != 0 {
			p := b[i<<testForm:]
			p[0], p[7] = 1, 2
			for k := range 8 {
				p[8+k] = byte(v >> (8 * k))
			}
		}
	}
	return b
}

// differ counts the pages that are not as they were.
func (h *heap) differ(then []uint64) (n int64) {
	for i, v := range h.pages {
		if i >= len(then) || then[i] != v {
			n++
		}
	}
	return n
}

// pageSet is a PageSet.
type pageSet map[int64]bool

func (s pageSet) Has(page int64) bool { return s[page] }

// zipf makes page numbers below n, few of them often.
func zipf(r *rand.Rand, n int) func() int {
	z := rand.NewZipf(r, 1.3, 8, uint64(n-1))
	return func() int { return int(z.Uint64()*2654435761) % n }
}

// stamp gives sources the times of files that were last written at a time.
func stamp(s *Source, at time.Time, inode uint64) {
	s.Stat = Stat{ModTime: at.UnixNano(), ChangeTime: at.UnixNano(), Device: 1, Inode: inode}
}
