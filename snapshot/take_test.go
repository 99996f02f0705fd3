package snapshot

import (
	"bytes"
	"context"
	"io"
	"io/fs"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/pgtrove/pgtrove/chunk"
)

// chunkMap is a Writer that keeps everything, for any number of goroutines.
type chunkMap struct {
	mu   sync.Mutex
	data map[chunk.ID][]byte
	meta metaMap
}

func newChunkMap() *chunkMap { return &chunkMap{data: map[chunk.ID][]byte{}, meta: metaMap{}} }

func (c *chunkMap) keep(id chunk.ID, b []byte) (chunk.ID, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.data[id] = slices.Clone(b)
	return id, nil
}

func (c *chunkMap) Pages(_ context.Context, form chunk.Form, d []chunk.Digest, pages []byte) (chunk.ID, error) {
	h := chunk.NewHasher(chunk.Key{1})
	id := h.RunID(d)
	if !h.Verify(id, form, pages) {
		panic("the digests are not those of the pages")
	}
	return c.keep(id, pages)
}

func (c *chunkMap) Bytes(_ context.Context, b []byte) (chunk.ID, error) {
	return c.keep(chunk.NewHasher(chunk.Key{1}).StreamID(b), b)
}

func (c *chunkMap) Meta(ctx context.Context, b []byte) (chunk.ID, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.meta.Meta(ctx, b)
}

// read rebuilds a file of the snapshot.
func (c *chunkMap) read(t *testing.T, e *Entry) []byte {
	t.Helper()
	extents, err := LoadRecipe(t.Context(), c.meta, e.Recipe)
	if err != nil {
		t.Fatal(err)
	}
	var out []byte
	for _, x := range extents {
		if x.Zero {
			out = append(out, make([]byte, x.Bytes())...)
			continue
		}
		b, ok := c.data[x.ID]
		if !ok {
			t.Fatalf("%s: chunk %s is not there", e.Path, x.ID.Short())
		}
		out = append(out, b[x.Offset():x.Offset()+x.Bytes()]...)
	}
	return out
}

type content struct{ *bytes.Reader }

func (content) Close() error           { return nil }
func (c content) Size() (int64, error) { return c.Reader.Size(), nil }

func fileOf(path string, form chunk.Form, b []byte) Source {
	return Source{
		Entry: Entry{Path: path, Type: File, Size: int64(len(b))}, Form: form,
		Open: func() (Content, error) { return content{bytes.NewReader(b)}, nil },
	}
}

func take(t *testing.T, c *chunkMap, sources []Source) *Result {
	t.Helper()
	r, err := Take(t.Context(), sources, Options{Jobs: 3, Key: chunk.Key{1}, NewWriter: func() (Writer, error) { return c, nil }})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// relation makes pages of random bytes with runs of zero pages between them.
func relation(r *rand.Rand, pages int) []byte {
	b := make([]byte, pages*8192)
	rnd := rand.NewChaCha8([32]byte{byte(r.Uint32())})
	for at := 0; at < len(b); {
		n := min((1+r.IntN(200))*8192, len(b)-at)
		if r.IntN(3) > 0 {
			_, _ = rnd.Read(b[at : at+n])
		}
		at += n
	}
	return b
}

func TestEveryFileReadsBackAsItWas(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	want := map[string][]byte{
		"data/base/1/1":     relation(r, 1),
		"data/base/1/2":     relation(r, unitPages+77),
		"data/base/1/3":     relation(r, 2*unitPages),
		"data/base/1/4":     make([]byte, 100*8192),
		"data/base/1/5":     nil,
		"data/base/1/torn":  relation(r, 3)[:3*8192-5], // a relation file caught while it grows
		"data/PG_VERSION":   []byte("15\n"),
		"data/pg_xact/0000": relation(r, 400),
	}
	var sources []Source
	for path, b := range want {
		form := chunk.Form(13)
		if strings.HasPrefix(path, "data/P") || strings.HasPrefix(path, "data/pg_xact") {
			form = 0
		}
		sources = append(sources, fileOf(path, form, b))
	}
	sources = append(sources, Source{Entry: Entry{Path: "data", Type: Dir}},
		Source{Entry: Entry{Path: "data/gone", Type: File}, Open: func() (Content, error) { return nil, fs.ErrNotExist }})
	c := newChunkMap()
	res := take(t, c, sources)
	var size int64
	seen := 0
	err := res.Root.Walk(t.Context(), c.meta, func(e *Entry) error {
		if e.Type != File {
			return nil
		}
		seen++
		size += e.Size
		if got := c.read(t, e); !bytes.Equal(got, want[e.Path]) || e.Size != int64(len(got)) {
			t.Errorf("%s: %d bytes differ from the %d that were stored", e.Path, len(got), len(want[e.Path]))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen != len(want) || res.Files != int64(seen) || res.Size != size || res.Read != size {
		t.Errorf("%d files of %d bytes, result says %+v", seen, size, *res)
	}
}

// shrinking is a file that loses its end while it is read.
type shrinking struct {
	content
	left int64
}

func (s *shrinking) ReadAt(p []byte, off int64) (int, error) {
	if off >= s.left {
		return 0, io.EOF
	}
	if off+int64(len(p)) > s.left {
		n, _ := s.content.ReadAt(p[:s.left-off], off)
		return n, io.EOF
	}
	return s.content.ReadAt(p, off)
}

func TestAFileThatShrinksIsStoredInWholePages(t *testing.T) {
	b := relation(rand.New(rand.NewPCG(9, 10)), 2*unitPages+9)
	left := int64(unitPages+100)*8192 + 4000
	src := fileOf("data/base/1/1", 13, b)
	src.Open = func() (Content, error) { return &shrinking{content{bytes.NewReader(b)}, left}, nil }
	c := newChunkMap()
	res := take(t, c, []Source{src})
	err := res.Root.Walk(t.Context(), c.meta, func(e *Entry) error {
		if got := c.read(t, e); !bytes.Equal(got, b[:left-4000]) {
			t.Errorf("%d bytes stored, want the %d of the whole pages that were left", len(got), left-4000)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestTheLastFileIsOpenedWhenAllOthersAreRead(t *testing.T) {
	var mu sync.Mutex
	var open int
	b := relation(rand.New(rand.NewPCG(11, 12)), 100)
	var sources []Source
	for _, name := range []string{"a", "b", "c", "d", "e", "f"} {
		s := fileOf("data/"+name, 13, b)
		s.Open = func() (Content, error) {
			mu.Lock()
			defer mu.Unlock()
			open++
			return &closing{content{bytes.NewReader(b)}, func() { mu.Lock(); open--; mu.Unlock() }}, nil
		}
		sources = append(sources, s)
	}
	last := fileOf("data/global/pg_control", 0, []byte("control"))
	last.Last = true
	last.Open = func() (Content, error) {
		mu.Lock()
		defer mu.Unlock()
		if open != 0 {
			t.Errorf("%d files are still open", open)
		}
		return content{bytes.NewReader([]byte("control"))}, nil
	}
	take(t, newChunkMap(), append([]Source{last}, sources...))
}

type closing struct {
	content
	closed func()
}

func (c *closing) Close() error { c.closed(); return nil }

func TestAnEqualRelationIsCutEquallyInAnotherFile(t *testing.T) {
	b := relation(rand.New(rand.NewPCG(13, 14)), 3000)
	c := newChunkMap()
	take(t, c, []Source{fileOf("data/base/1/1", 13, b)})
	before := len(c.data)
	take(t, c, []Source{fileOf("data/base/2/99", 13, b)})
	if len(c.data) != before {
		t.Errorf("%d chunks became %d", before, len(c.data))
	}
}

func BenchmarkTake(b *testing.B) {
	data := make([]byte, 64<<20)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(data)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		_, err := Take(b.Context(), []Source{fileOf("data/base/1/1", 13, data)},
			Options{Jobs: 1, Key: chunk.Key{1}, NewWriter: func() (Writer, error) { return discard{}, nil }})
		if err != nil {
			b.Fatal(err)
		}
	}
}

// discard is a Writer that keeps nothing: the benchmark measures reading, cutting and hashing.
type discard struct{}

func (discard) Pages(context.Context, chunk.Form, []chunk.Digest, []byte) (chunk.ID, error) {
	return chunk.ID{1}, nil
}
func (discard) Bytes(context.Context, []byte) (chunk.ID, error) { return chunk.ID{1}, nil }
func (discard) Meta(context.Context, []byte) (chunk.ID, error)  { return chunk.ID{1}, nil }
