package index_test

import (
	"bytes"
	"maps"
	"testing"
	"testing/synctest"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/index"
)

// reopener closes a cache and opens it again, where that is a thing to do.
type reopener func(t *testing.T, c *index.Cache) *index.Cache

// eachCache runs a test with an empty cache on disk, and with one in memory.
func eachCache(t *testing.T, test func(t *testing.T, c *index.Cache, reopen reopener)) {
	t.Helper()
	t.Run("disk", func(t *testing.T) {
		dir := t.TempDir()
		test(t, open(t, dir), func(t *testing.T, c *index.Cache) *index.Cache {
			t.Helper()
			closeCache(t, c)
			return open(t, dir)
		})
	})
	t.Run("memory", func(t *testing.T) {
		test(t, openMemory(t), func(_ *testing.T, c *index.Cache) *index.Cache { return c })
	})
}

func openMemory(t testing.TB) *index.Cache {
	t.Helper()
	c, err := index.OpenMemory(repositoryID)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestNotesAreAppendedAndReplaced(t *testing.T) {
	eachCache(t, func(t *testing.T, c *index.Cache, reopen reopener) {
		sizes := []int{1, 5, 1000, 1 << 10, 1<<10 + 1, 70_000, index.MaxNote, 3}
		for i, size := range sizes {
			value := bytes.Repeat([]byte{byte(i + 1)}, size)
			putNote(t, c, id(1), value)
			c = reopen(t, c)
			for _, room := range []int{0, 1, 7, size, size + 1, 2 * size} { // behind what dst holds
				dst := append(make([]byte, 0, 3+room), "dst"...)
				got, err := c.Note(id(1), dst)
				if err != nil || !bytes.Equal(got, append([]byte("dst"), value...)) {
					t.Errorf("note of %d bytes into room for %d: %d bytes, %v", size, room, len(got), err)
				}
			}
			if got, err := c.Note(id(2), []byte("dst")); got != nil || err != nil {
				t.Errorf("a note that is not there: %q, %v", got, err)
			}
		}
		if err := c.PutNote(id(1), make([]byte, index.MaxNote+1)); err == nil {
			t.Error("a note above the limit is kept")
		}
	})
}

// The model of the protocol opens many thousands, in bubbles that end when their goroutines do.
func TestACacheInMemoryIsOpenedInABubbleForNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := openMemory(t)
		number, err := c.Begin()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.AddPack(number, packOf("packs/a/1", 1)); err != nil {
			t.Fatal(err)
		}
		if err := c.Finish(number, "index/a/1"); err != nil {
			t.Fatal(err)
		}
		if got := c.Loaded(); !maps.Equal(got, map[string]uint32{"index/a/1": number}) {
			t.Errorf("loaded: %v", got)
		}
		wantKeys(t, "a chunk", keys(t, c, id(1), only(number)), "packs/a/1")
		putNote(t, c, id(1), make([]byte, 20_000))
		if err := c.Sweep(map[chunk.ID]struct{}{}); err != nil {
			t.Fatal(err)
		}
		if note(t, c, id(1)) != nil {
			t.Error("a swept note is there")
		}
		closeCache(t, c)
	})
	if n := testing.AllocsPerRun(100, func() {
		if c, err := index.OpenMemory(repositoryID); err != nil || c.Close() != nil {
			t.Error(err)
		}
	}); n > 10 {
		t.Errorf("%v allocations to open a cache in memory", n)
	}
}

// One operation is what a small session does with its index.
func BenchmarkMemory(b *testing.B) {
	s := segmentOf(packOf("packs/a/1", 1, 2, 3, 4), packOf("packs/a/2", 5, 6, 7, 8))
	b.ReportAllocs()
	for b.Loop() {
		c := openMemory(b)
		if _, err := c.Add("index/a/1", s); err != nil {
			b.Fatal(err)
		}
		for i := range uint64(8) {
			if _, ok, err := c.Lookup(id(i+1), all, nil); err != nil || !ok {
				b.Fatal(ok, err)
			}
		}
	}
}
