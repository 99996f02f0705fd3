package index

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/pack"
)

func testID(n int) (id chunk.ID) {
	binary.BigEndian.PutUint64(id[:], uint64(n+1)*0x9e3779b97f4a7c15)
	return id
}

// testPack makes a pack with the given chunks.
func testPack(n int, chunks ...int) Pack {
	p := Pack{Key: fmt.Sprintf("packs/s/%d", n)}
	p.Kind = pack.Data
	p.Sessions = []pack.Session{{SID: "s", Encapsulation: bytes.Repeat([]byte{1}, 1120)}}
	for _, c := range chunks {
		p.Entries = append(p.Entries, pack.Entry{ID: testID(c), Form: 13, Offset: uint32(p.End()), Sealed: 100, Plain: 8192})
	}
	p.Size = p.End() + 100
	return p
}

// eachDatabase runs a test with a database on disk and one in memory. reopen opens what a process left that was killed.
func eachDatabase(t *testing.T, test func(t *testing.T, c *Cache, reopen func(*Cache) *Cache)) {
	t.Helper()
	load := func(t *testing.T, db database) *Cache {
		t.Helper()
		c := newCache(db)
		if err := c.load(); err != nil {
			t.Fatal(err)
		}
		return c
	}
	t.Run("disk", func(t *testing.T) {
		dir := t.TempDir()
		var db *onDisk
		open := func() *Cache {
			var err error
			if db, err = openOnDisk(dir); err != nil {
				t.Fatal(err)
			}
			return load(t, db)
		}
		c := open()
		defer func() { _ = db.close() }()
		test(t, c, func(*Cache) *Cache {
			if err := db.close(); err != nil {
				t.Fatal(err)
			}
			return open()
		})
	})
	t.Run("memory", func(t *testing.T) {
		db := &inMemory{}
		test(t, load(t, db), func(*Cache) *Cache { return load(t, db) })
	})
}

// known is what a test put into a cache: packs by the name of their segment.
type known map[string][]Pack

func (k known) add(t *testing.T, c *Cache, name string, packs ...Pack) {
	t.Helper()
	if _, err := c.Add(name, &Segment{Packs: packs}); err != nil {
		t.Fatal(err)
	}
	k[name] = packs
}

// check looks for every chunk of every segment that is loaded, in that segment alone, and for that of others nowhere.
func (k known) check(t *testing.T, c *Cache, others ...int) {
	t.Helper()
	loaded := c.Loaded()
	for name, number := range loaded {
		in := func(n uint32) bool { return n == number }
		for i := range k[name] {
			p := &k[name][i]
			for j := range p.Entries {
				all, err := c.Locations(p.Entries[j].ID, in, nil)
				if err != nil || !slices.ContainsFunc(all, func(l pack.Location) bool { return l.Pack == p.Key && l.Offset == p.Entries[j].Offset }) {
					t.Fatalf("chunk %d of %s in %s: found in %v, %v", j, p.Key, name, all, err)
				}
			}
		}
		packs := 0
		if err := c.Packs(in, func(h Held) error {
			if !slices.Contains(h.Segments, number) {
				t.Errorf("%s names %v, not %d", h.Key, h.Segments, number)
			}
			packs++
			return nil
		}); err != nil || packs != len(k[name]) {
			t.Errorf("%s has %d packs, want %d: %v", name, packs, len(k[name]), err)
		}
	}
	for _, n := range others {
		if l, ok, err := c.Lookup(testID(n), anywhere, nil); ok || err != nil {
			t.Errorf("chunk %d is found in %s, %v", n, l.Pack, err)
		}
	}
}

func anywhere(uint32) bool { return true }

// retain keeps the named segments.
func retain(c *Cache, names ...string) error {
	loaded := c.Loaded()
	return c.Retain(func(n uint32) bool {
		return slices.ContainsFunc(names, func(name string) bool { number, ok := loaded[name]; return ok && number == n })
	})
}

// records counts what the database holds, by prefix.
func records(t *testing.T, c *Cache) map[byte]int {
	t.Helper()
	r := c.db.read()
	defer r.end()
	n := map[byte]int{}
	for _, prefix := range []byte{segmentPrefix, fingerprintPrefix, packPrefix, chunkPrefix, notePrefix, proofPrefix} {
		if err := r.scan(prefix, func(_, value []byte) error {
			n[prefix]++
			if prefix == packPrefix {
				rec, err := parseRecord(value)
				if err != nil {
					return err
				}
				n['#'] += len(rec.members)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

// Each round is a prune: sessions' segments go into a shard, one shard is rewritten without the packs that were swept, one stays.
func TestACacheThatOutlivesPrunesStaysSmall(t *testing.T) {
	eachDatabase(t, func(t *testing.T, c *Cache, reopen func(*Cache) *Cache) {
		const rounds, perRound, chunks, life = 40, 4, 10, 3
		k := known{}
		stays := testPack(100_000, 1_000_000, 1_000_001)
		k.add(t, c, "base/0/a", stays)
		if err := c.PutNote(testID(1), []byte("note")); err != nil {
			t.Fatal(err)
		}
		var live []Pack
		for round := range rounds {
			own, err := c.Begin()
			if err != nil {
				t.Fatal(err)
			}
			mine := testPack(200_000+round, 2_000_000+round)
			if err := c.AddPack(own, mine); err != nil {
				t.Fatal(err)
			}
			var fresh []Pack
			for i := range perRound {
				n := round*perRound + i
				ids := []int{5_000_000 + n%7} // a chunk that stands in several packs
				for j := range chunks {
					ids = append(ids, n*chunks+j)
				}
				fresh = append(fresh, testPack(n, ids...))
			}
			k.add(t, c, fmt.Sprintf("index/%d/1", round), fresh...)
			live = append(live, fresh...)
			live = live[max(0, len(live)-life*perRound):]
			shard := fmt.Sprintf("base/%d/b", round)
			k.add(t, c, shard, live...)
			if missing, err := c.Prove(testID(round), []chunk.ID{testID(round * perRound * chunks)}, anywhere, nil); missing != nil || err != nil {
				t.Fatal(missing, err)
			}
			if err := retain(c, "base/0/a", shard); err != nil {
				t.Fatal(err)
			}
			if got := slices.Sorted(maps.Keys(c.Loaded())); !slices.Equal(got, []string{"base/0/a", shard}) {
				t.Fatalf("loaded: %v", got)
			}
			if l, ok, err := c.Lookup(mine.Entries[0].ID, anywhere, nil); !ok || err != nil || l.Pack != mine.Key {
				t.Fatalf("a pack of a session that goes on: %v, %v", ok, err)
			}
			if round%5 == 4 {
				c = reopen(c) // the sessions end unpublished
			}
			var swept []int
			if round >= life {
				swept = append(swept, (round-life)*perRound*chunks)
			}
			k.check(t, c, swept...)
			// Packs that count are those of the shard, the one that stays, and those of up to five sessions that go on.
			const packs = 2 * (life*perRound + 1 + 5)
			n := records(t, c)
			for prefix, most := range map[byte]int{segmentPrefix: 2, fingerprintPrefix: packs, packPrefix: packs, '#': 3 * packs,
				chunkPrefix: packs * (chunks + 1), proofPrefix: packs} {
				if n[prefix] > most {
					t.Fatalf("round %d: %d records %c, at most %d", round, n[prefix], prefix, most)
				}
			}
		}
		if b, err := c.Note(testID(1), nil); string(b) != "note" || err != nil {
			t.Errorf("the note is %q, %v", b, err)
		}
	})
}

// stopping is a database that writes only so much more, as that of a process that is killed.
type stopping struct {
	database
	left int
}

var errStopped = errors.New("stopped")

func (s *stopping) write(fn func(batch) error) error {
	var w writes
	if err := fn(&w); err != nil {
		return err
	}
	n := min(len(w), s.left)
	s.left -= n
	if err := s.database.write(func(b batch) error {
		for _, w := range w[:n] {
			if w.value == nil {
				if err := b.Delete(w.key); err != nil {
					return err
				}
			} else if err := b.Set(w.key, w.value); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return err
	}
	if n < len(w) {
		return errStopped
	}
	return nil
}

// stopped builds a cache, stops its Retain after n writes, and says whether that was before its end.
func stopped(t *testing.T, c *Cache, n int) (k known, before bool) {
	t.Helper()
	k = known{}
	shared := testPack(0, 1, 2, 3)
	moved := testPack(1, 4, 5)
	k.add(t, c, "index/a/1", shared, testPack(2, 6, 7), testPack(3, 8, 1))
	k.add(t, c, "index/b/1", moved, testPack(4, 9, 10), testPack(5, 6, 11, 2))
	k.add(t, c, "index/c/1", testPack(6, 12))
	for i, ids := range proofs() {
		if missing, err := c.Prove(testID(i), ids, anywhere, nil); missing != nil || err != nil {
			t.Fatal(missing, err)
		}
	}
	k.add(t, c, "base/1/x", shared, moved)
	db := c.db
	c.db = &stopping{db, n}
	err := retain(c, "base/1/x")
	c.db = db
	if err != nil && !errors.Is(err, errStopped) {
		t.Fatal(err)
	}
	return k, err != nil
}

func proofs() [][]chunk.ID {
	return [][]chunk.ID{
		{testID(1), testID(4)}, {testID(6), testID(8)}, {testID(9), testID(12)}, {testID(1), testID(11)}, {testID(12)},
	}
}

// provenIsThere makes sure that what is proven is there.
func provenIsThere(t *testing.T, c *Cache) (n int) {
	t.Helper()
	for i, ids := range proofs() {
		ok, err := c.Proven(testID(i), anywhere, nil)
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			continue
		}
		n++
		for _, id := range ids {
			if _, ok, err := c.Lookup(id, anywhere, nil); !ok || err != nil {
				t.Errorf("proof %d says that a chunk is there that is not: %v", i, err)
			}
		}
	}
	return n
}

func TestARetainThatIsKilledLeavesACacheThatAnswersRightly(t *testing.T) {
	eachDatabase(t, func(t *testing.T, empty *Cache, reopen func(*Cache) *Cache) {
		gone := []int{6, 7, 8, 9, 10, 11, 12}
		step := 1
		if _, ok := empty.db.(*onDisk); ok {
			step = 7
		}
		clear := func(t *testing.T, c *Cache) {
			t.Helper()
			for _, prefix := range []byte("sfpcmq") {
				r := c.db.read()
				if err := c.db.write(func(b batch) error {
					return r.scan(prefix, func(key, _ []byte) error { return b.Delete(slices.Clone(key)) })
				}); err != nil {
					t.Fatal(err)
				}
				r.end()
			}
		}
		n, more := 0, true
		for ; more; n += step {
			clear(t, empty)
			c := reopen(empty)
			var k known
			k, more = stopped(t, c, n)
			c = reopen(c)
			if _, ok := c.Loaded()["base/1/x"]; !ok {
				t.Fatalf("after %d writes the view has lost its segment", n)
			}
			k.check(t, c)
			provenIsThere(t, c)
			for _, name := range []string{"index/c/1", "index/b/1", "index/a/1"} { // what was forgotten may be asked for again
				k.add(t, c, name, k[name]...)
				provenIsThere(t, c)
				k.check(t, c)
			}
			if err := retain(c, "base/1/x"); err != nil {
				t.Fatal(err)
			}
			k.check(t, c, gone...)
			if got := provenIsThere(t, c); got > 1 {
				t.Errorf("%d proofs hold", got)
			}
			if r := records(t, c); r[chunkPrefix] != 5 || r[packPrefix] != 2 || r[fingerprintPrefix] != 2 || r['#'] != 2 || r[segmentPrefix] != 1 || r[proofPrefix] > 1 {
				t.Errorf("after %d writes and another Retain: %v", n, r)
			}
			empty = c
			if t.Failed() {
				t.Fatalf("stopped after %d writes", n)
			}
		}
		if n < 20 {
			t.Errorf("a whole Retain takes %d writes", n)
		}
	})
}

func TestFewDeadPacksAreLetBe(t *testing.T) {
	eachDatabase(t, func(t *testing.T, c *Cache, _ func(*Cache) *Cache) {
		k := known{}
		k.add(t, c, "index/a/1", testPack(1, 1), testPack(2, 2))
		k.add(t, c, "base/1/x", testPack(2, 2), testPack(3, 3))
		if err := retain(c, "base/1/x"); err != nil {
			t.Fatal(err)
		}
		k.check(t, c, 1)
		if n := records(t, c); n[packPrefix] != 3 || n[chunkPrefix] != 3 || n[segmentPrefix] != 1 || n['#'] != 3 {
			t.Errorf("%v", n)
		}
		// It comes back at little cost.
		k.add(t, c, "index/a/1", k["index/a/1"]...)
		k.check(t, c)
		if n := records(t, c); n[packPrefix] != 3 {
			t.Errorf("%v", n)
		}
	})
}

// A restore loads its index anew while its workers use it.
func TestAPackThatGoesWhileChunksAreGroupedIsLookedForElsewhere(t *testing.T) {
	eachDatabase(t, func(t *testing.T, c *Cache, _ func(*Cache) *Cache) {
		k := known{}
		k.add(t, c, "index/a/1", testPack(1, 1), testPack(2, 2), testPack(3, 3))
		k.add(t, c, "base/1/x", testPack(4, 1))
		done := false
		groups, missing, err := c.ByPack([]chunk.ID{testID(1)}, anywhere, func(string) bool {
			if !done {
				done = true
				if err := retain(c, "base/1/x"); err != nil {
					t.Error(err)
				}
				c.packs.records = nil
			}
			return false
		})
		if err != nil || len(missing) > 0 || len(groups) != 1 || groups[0].Key != "packs/s/4" {
			t.Errorf("%+v, %v, %v", groups, missing, err)
		}
	})
}

func TestLookupsRunBesideARetain(t *testing.T) {
	eachDatabase(t, func(t *testing.T, c *Cache, _ func(*Cache) *Cache) {
		k := known{}
		base := []Pack{testPack(0, 0), testPack(1, 1)}
		k.add(t, c, "base/0/x", base...)
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					if _, ok, err := c.Lookup(testID(1), anywhere, nil); !ok || err != nil {
						t.Errorf("Lookup: %v, %v", ok, err)
					}
					if groups, missing, err := c.ByPack([]chunk.ID{testID(0), testID(1), testID(2), testID(3)}, anywhere, nil); len(groups) < 2 || len(missing) > 2 || err != nil {
						t.Errorf("ByPack: %v, %v, %v", groups, missing, err)
					}
				}
			})
		}
		for round := range 30 {
			n := 2 + 10*round
			k.add(t, c, fmt.Sprintf("index/%d/1", round), testPack(n, 0, 1, 2, n), testPack(n+1, 3, n+1), testPack(n+2, 1, n+2))
			if err := retain(c, "base/0/x"); err != nil {
				t.Error(err)
			}
		}
		close(stop)
		wg.Wait()
		k.check(t, c, 2, 3, 32)
	})
}
