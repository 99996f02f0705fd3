package index_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"testing"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/index"
	"github.com/pgtrove/pgtrove/pack"
)

const repositoryID = "0123456789abcdef"

func open(t *testing.T, dir string) *index.Cache {
	t.Helper()
	c, err := index.OpenCache(dir, repositoryID)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func closeCache(t *testing.T, c *index.Cache) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}

func add(t *testing.T, c *index.Cache, name string, packs ...index.Pack) uint32 {
	t.Helper()
	number, err := c.Add(name, segmentOf(packs...))
	if err != nil {
		t.Fatal(err)
	}
	return number
}

// all is the view of everything.
func all(uint32) bool { return true }

func only(numbers ...uint32) func(uint32) bool {
	return func(n uint32) bool { return slices.Contains(numbers, n) }
}

// keys gives the packs in which the cache finds a chunk.
func keys(t *testing.T, c *index.Cache, id chunk.ID, inView func(uint32) bool) []string {
	t.Helper()
	locations, err := c.Locations(id, inView, nil)
	if err != nil {
		t.Fatal(err)
	}
	var keys []string
	for _, l := range locations {
		keys = append(keys, l.Pack)
	}
	one, ok, err := c.Lookup(id, inView, nil)
	if err != nil || ok != (len(keys) > 0) || ok && !reflect.DeepEqual(one, locations[len(locations)-1]) {
		t.Errorf("Lookup gives %+v, %v, %v, and Locations %+v", one, ok, err, locations)
	}
	return keys
}

func wantKeys(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: found in %q, want %q", what, got, want)
	}
}

func TestEveryChunkOfASegmentIsFoundWhereItIs(t *testing.T) {
	eachCache(t, func(t *testing.T, c *index.Cache, reopen reopener) {
		s := example()
		number := add(t, c, "index/s1/1", s.Packs...)
		check := func() {
			t.Helper()
			for i := range s.Packs {
				p := &s.Packs[i]
				for j, e := range p.Entries {
					l, ok, err := c.Lookup(e.ID, only(number), nil)
					if want := p.Location(p.Key, j); err != nil || !ok || !reflect.DeepEqual(l, want) {
						t.Errorf("chunk %d of %s: %+v, %v, %v, want %+v", j, p.Key, l, ok, err, want)
					}
				}
			}
			wantKeys(t, "a chunk that is nowhere", keys(t, c, id(99), all))
		}
		check()
		c = reopen(t, c)
		if got := c.Loaded(); !maps.Equal(got, map[string]uint32{"index/s1/1": number}) {
			t.Errorf("loaded after reopening: %v", got)
		}
		check()
	})
}

func TestOnlySegmentsInViewCount(t *testing.T) {
	eachCache(t, func(t *testing.T, c *index.Cache, _ reopener) {
		a := add(t, c, "index/a/1", packOf("packs/a/1", 1, 2))
		b := add(t, c, "index/b/1", packOf("packs/b/1", 2, 3))
		wantKeys(t, "chunk 1 in a", keys(t, c, id(1), only(a)), "packs/a/1")
		wantKeys(t, "chunk 1 in b", keys(t, c, id(1), only(b)))
		wantKeys(t, "chunk 2 in a", keys(t, c, id(2), only(a)), "packs/a/1")
		wantKeys(t, "chunk 2 in b", keys(t, c, id(2), only(b)), "packs/b/1")
		wantKeys(t, "chunk 2 in both", keys(t, c, id(2), all), "packs/a/1", "packs/b/1")
		wantKeys(t, "chunk 2 in none", keys(t, c, id(2), only()))
	})
}

func TestAChunkTwiceInOnePackOrSegmentIsFound(t *testing.T) {
	eachCache(t, func(t *testing.T, c *index.Cache, _ reopener) {
		add(t, c, "index/a/1", packOf("packs/a/1", 1, 1), packOf("packs/a/2", 1))
		got := keys(t, c, id(1), all)
		if !slices.Contains(got, "packs/a/1") || !slices.Contains(got, "packs/a/2") {
			t.Errorf("found in %q", got)
		}
	})
}

func TestAPackInSeveralSegmentsIsOnePack(t *testing.T) {
	eachCache(t, func(t *testing.T, c *index.Cache, reopen reopener) {
		p := packOf("packs/a/1", 1, 2)
		a := add(t, c, "index/a/1", p)
		c = reopen(t, c)
		base := add(t, c, "base/1/x", p, packOf("packs/b/1", 3))
		wantKeys(t, "in both", keys(t, c, id(1), all), "packs/a/1")
		wantKeys(t, "in the first", keys(t, c, id(1), only(a)), "packs/a/1")
		wantKeys(t, "in the second", keys(t, c, id(1), only(base)), "packs/a/1")
	})
}

// Two segments that name the same object, and say different things about it.
func TestSegmentsThatDisagreeAreKeptApart(t *testing.T) {
	eachCache(t, func(t *testing.T, c *index.Cache, _ reopener) {
		good, bad := packOf("packs/a/1", 1), packOf("packs/a/1", 1)
		bad.Entries[0].Sealed++
		bad.Size++
		g := add(t, c, "index/good/1", good)
		b := add(t, c, "index/bad/1", bad)
		for number, want := range map[uint32]uint32{g: good.Entries[0].Sealed, b: bad.Entries[0].Sealed} {
			l, ok, err := c.Lookup(id(1), only(number), nil)
			if err != nil || !ok || l.Sealed != want {
				t.Errorf("segment %d: %d sealed bytes, %v, %v, want %d", number, l.Sealed, ok, err, want)
			}
		}
	})
}

func TestALoadedNameKeepsItsNumber(t *testing.T) {
	eachCache(t, func(t *testing.T, c *index.Cache, _ reopener) {
		a := add(t, c, "index/a/1", packOf("packs/a/1", 1))
		if again := add(t, c, "index/a/1", packOf("packs/other/1", 2)); again != a {
			t.Errorf("number %d, and then %d", a, again)
		}
		wantKeys(t, "what a second Add of the name says", keys(t, c, id(2), all))
	})
}

func TestOwnPacksAreFoundBeforeTheirSegmentIsPublished(t *testing.T) {
	dir := t.TempDir()
	c := open(t, dir)
	first, err := c.Begin()
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range []index.Pack{packOf("packs/me/1", 1), packOf("packs/me/2", 2)} {
		if err := c.AddPack(first, p); err != nil {
			t.Fatal(err)
		}
		wantKeys(t, "an own chunk", keys(t, c, id(uint64(i+1)), only(first)), p.Key)
	}
	if got := c.Loaded(); len(got) != 0 {
		t.Errorf("loaded before it is published: %v", got)
	}
	if err := c.Finish(first, "index/me/1"); err != nil {
		t.Fatal(err)
	}
	second, err := c.Begin()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.AddPack(second, packOf("packs/me/3", 3)); err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{
		"AddPack to a published segment": c.AddPack(first, packOf("packs/me/4", 4)),
		"AddPack to an unknown segment":  c.AddPack(99, packOf("packs/me/4", 4)),
		"Finish twice":                   c.Finish(first, "index/me/2"),
		"Finish under a taken name":      c.Finish(second, "index/me/1"),
	} {
		if err == nil {
			t.Errorf("%s: no error", what)
		}
	}
	closeCache(t, c)

	c = open(t, dir)
	if got := c.Loaded(); !maps.Equal(got, map[string]uint32{"index/me/1": first}) {
		t.Errorf("loaded after reopening: %v", got)
	}
	wantKeys(t, "published", keys(t, c, id(2), all), "packs/me/2")
	wantKeys(t, "never published", keys(t, c, id(3), all))
	third, err := c.Begin()
	if err != nil {
		t.Fatal(err)
	}
	if third == first || third == second {
		t.Errorf("number %d is given again", third)
	}
	wantKeys(t, "never published, after the next Begin", keys(t, c, id(3), all))
	// It was published after all: the pack is known, and counts again.
	number := add(t, c, "index/me/2", packOf("packs/me/3", 3))
	wantKeys(t, "published in the end", keys(t, c, id(3), only(number)), "packs/me/3")
}

func TestInvalidSegmentsAreNotAdded(t *testing.T) {
	eachCache(t, func(t *testing.T, c *index.Cache, _ reopener) {
		bad := packOf("packs/a/1", 1)
		bad.Size = 0
		if _, err := c.Add("index/a/1", segmentOf(packOf("packs/a/0", 2), bad)); !errors.Is(err, index.ErrFormat) {
			t.Errorf("Add: %v, want ErrFormat", err)
		}
		number, err := c.Begin()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.AddPack(number, bad); !errors.Is(err, index.ErrFormat) {
			t.Errorf("AddPack: %v, want ErrFormat", err)
		}
		wantKeys(t, "a chunk of a refused segment", keys(t, c, id(2), all))
	})
}

func TestAPackWithEverySizeFits(t *testing.T) {
	eachCache(t, func(t *testing.T, c *index.Cache, reopen reopener) {
		// The record of this pack is larger than a transaction of the database, and its entries are more than one takes.
		p := index.Pack{Key: "packs/a/1"}
		p.Kind = pack.Data
		for i := range 2000 {
			p.Sessions = append(p.Sessions, pack.Session{SID: fmt.Sprintf("s%d", i), Encapsulation: bytes.Repeat([]byte{byte(i)}, 1120)})
		}
		const chunks = 20_000
		for i := range uint64(chunks) {
			p.Entries = append(p.Entries, pack.Entry{ID: id(i), Offset: uint32(p.End()), Sealed: 100, Plain: 200, Session: uint16(i % 2000), Nonce: i})
		}
		p.Size = p.End()
		add(t, c, "index/a/1", p)
		check := func() {
			t.Helper()
			for i := 0; i < chunks; i += 997 {
				l, ok, err := c.Lookup(id(uint64(i)), all, nil)
				if err != nil || !ok || !reflect.DeepEqual(l, p.Location(p.Key, i)) {
					t.Fatalf("chunk %d: %v, %v", i, ok, err)
				}
			}
		}
		check()
		c = reopen(t, c)
		check()
	})
}

func TestLookupsRunBesideAdds(t *testing.T) {
	eachCache(t, func(t *testing.T, c *index.Cache, _ reopener) {
		const segments, chunks = 30, 40
		first := func(segment int) uint64 { return uint64(segment * 1000) }
		var added sync.Map // segment to number
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					for segment := range segments {
						number, ok := added.Load(segment)
						n := first(segment) + uint64(segment%chunks)
						l, found, err := c.Lookup(id(n), all, nil)
						if err != nil || ok && !found || found && l.ID != id(n) {
							t.Errorf("segment %d, %v: %v, %v", segment, number, found, err)
							return
						}
					}
					c.Loaded()
				}
			})
		}
		var adders sync.WaitGroup
		for worker := range 3 {
			adders.Go(func() {
				for segment := worker; segment < segments; segment += 3 {
					var numbers []uint64
					for i := range uint64(chunks) {
						numbers = append(numbers, first(segment)+i)
					}
					number, err := c.Add(fmt.Sprintf("index/x/%d", segment), segmentOf(packOf(fmt.Sprintf("packs/x/%d", segment), numbers...)))
					if err != nil {
						t.Errorf("Add: %v", err)
						return
					}
					added.Store(segment, number)
				}
			})
		}
		adders.Wait()
		close(stop)
		wg.Wait()
		if got := c.Loaded(); len(got) != segments {
			t.Errorf("%d segments loaded", len(got))
		}
	})
}

func TestTheCacheIsForItsUserOnly(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "cache")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	c := open(t, dir)
	add(t, c, "index/a/1", packOf("packs/a/1", 1))
	closeCache(t, c)
	for _, path := range []string{dir, filepath.Join(dir, "db")} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o700 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
	}
}
