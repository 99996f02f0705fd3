package index_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/index"
	"github.com/pgtrove/pgtrove/storage/storagetest"
)

func note(t *testing.T, c *index.Cache, key chunk.ID) []byte {
	t.Helper()
	b, err := c.Note(key, nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func putNote(t *testing.T, c *index.Cache, key chunk.ID, value []byte) {
	t.Helper()
	if err := c.PutNote(key, value); err != nil {
		t.Fatal(err)
	}
}

func proven(t *testing.T, c *index.Cache, key chunk.ID, inView func(uint32) bool) bool {
	t.Helper()
	ok, err := c.Proven(key, inView, nil)
	if err != nil {
		t.Fatal(err)
	}
	return ok
}

func prove(t *testing.T, c *index.Cache, key chunk.ID, inView func(uint32) bool, ids ...chunk.ID) []chunk.ID {
	t.Helper()
	missing, err := c.Prove(key, ids, inView, nil)
	if err != nil {
		t.Fatal(err)
	}
	return missing
}

func TestNotesOutlastTheProcess(t *testing.T) {
	dir := t.TempDir()
	c := open(t, dir)
	large := bytes.Repeat([]byte{7}, index.MaxNote)
	putNote(t, c, id(1), []byte("old"))
	putNote(t, c, id(1), []byte("one"))
	putNote(t, c, id(2), large)
	if err := c.PutNote(id(3), append(large, 0)); err == nil {
		t.Error("a note above the limit is kept")
	}
	closeCache(t, c)
	c = open(t, dir)
	if got, err := c.Note(id(1), []byte("is ")); string(got) != "is one" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if !bytes.Equal(note(t, c, id(2)), large) {
		t.Error("the large note differs")
	}
	if got, err := c.Note(id(3), []byte("dst")); got != nil || err != nil {
		t.Errorf("a note that is not there: %q, %v", got, err)
	}
	// The database keeps values above a threshold in files that nobody here cleans up.
	closeCache(t, c)
	logs, err := filepath.Glob(filepath.Join(dir, "db", "*.vlog"))
	if err != nil || len(logs) == 0 {
		t.Fatalf("%q, %v", logs, err)
	}
	for _, name := range logs {
		if info, err := os.Stat(name); err != nil || info.Size() >= index.MaxNote {
			t.Errorf("%s holds notes: %v", name, err)
		}
	}
}

func TestASweepLeavesWhatIsKeptAndTheIndex(t *testing.T) {
	eachCache(t, func(t *testing.T, c *index.Cache, reopen reopener) {
		a := add(t, c, "index/a/1", packOf("packs/a/1", 1, 2))
		for i := range uint64(300) {
			putNote(t, c, id(i), []byte{byte(i)})
			if missing := prove(t, c, id(i), all, id(1)); missing != nil {
				t.Fatal(missing)
			}
		}
		keep := map[chunk.ID]struct{}{id(7): {}, id(8): {}, id(999): {}}
		if err := c.Sweep(keep); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			for i := range uint64(300) {
				_, want := keep[id(i)]
				if got := note(t, c, id(i)); (got != nil) != want || want && got[0] != byte(i) {
					t.Errorf("note %d: %v", i, got)
				}
				if got := proven(t, c, id(i), all); got != want {
					t.Errorf("proof %d: %v", i, got)
				}
			}
			wantKeys(t, "a chunk", keys(t, c, id(2), only(a)), "packs/a/1")
			c = reopen(t, c)
		}
		if err := c.Sweep(nil); err != nil {
			t.Fatal(err)
		}
		if note(t, c, id(7)) != nil || proven(t, c, id(7), all) {
			t.Error("something outlasted a sweep of everything")
		}
	})
}

func TestAProofHoldsWhileAllItsPacksAreInView(t *testing.T) {
	eachCache(t, func(t *testing.T, c *index.Cache, reopen reopener) {
		shared := packOf("packs/b/1", 3)
		a := add(t, c, "index/a/1", packOf("packs/a/1", 1, 2))
		b := add(t, c, "index/b/1", shared)
		ids := []chunk.ID{id(1), id(3), id(2), id(1)}
		if proven(t, c, id(50), all) {
			t.Error("proven before anybody looked")
		}
		if missing := prove(t, c, id(50), only(a), ids...); !slices.Equal(missing, []chunk.ID{id(3)}) {
			t.Errorf("missing in a: %v", missing)
		}
		if proven(t, c, id(50), all) {
			t.Error("proven though a chunk was missing")
		}
		if missing := prove(t, c, id(50), all, ids...); missing != nil {
			t.Errorf("missing in both: %v", missing)
		}
		if note(t, c, id(50)) != nil {
			t.Error("a proof is read as a note")
		}
		c = reopen(t, c)
		for what, view := range map[string]struct {
			in   func(uint32) bool
			want bool
		}{"both": {all, true}, "a": {only(a), false}, "b": {only(b), false}, "none": {only(), false}} {
			if got := proven(t, c, id(50), view.in); got != view.want {
				t.Errorf("in view %s: %v", what, got)
			}
		}
		// The same pack in another segment, as a compacted index repeats it.
		base := add(t, c, "base/1", shared)
		if !proven(t, c, id(50), only(a, base)) {
			t.Error("not proven by another segment with the same pack")
		}
		if proven(t, c, id(51), all) {
			t.Error("another key is proven")
		}
	})
}

func TestAProofByPacksThatWereNeverPublishedEndsWithTheProcess(t *testing.T) {
	dir := t.TempDir()
	c := open(t, dir)
	number, err := c.Begin()
	if err != nil {
		t.Fatal(err)
	}
	p := packOf("packs/me/1", 1)
	if err := c.AddPack(number, p); err != nil {
		t.Fatal(err)
	}
	if missing := prove(t, c, id(50), only(number), id(1)); missing != nil || !proven(t, c, id(50), only(number)) {
		t.Errorf("own packs do not count: %v", missing)
	}
	closeCache(t, c)
	c = open(t, dir)
	if proven(t, c, id(50), all) {
		t.Error("believed")
	}
	if number, err = c.Begin(); err != nil {
		t.Fatal(err)
	}
	if proven(t, c, id(50), all) {
		t.Error("believed once there is a new segment")
	}
	if err := c.AddPack(number, p); err != nil {
		t.Fatal(err)
	}
	if !proven(t, c, id(50), only(number)) {
		t.Error("the pack is back, and not believed")
	}
}

// A chunk in several packs is taken from one that is read anyway.
func TestChunksAreGroupedIntoFewPacks(t *testing.T) {
	eachCache(t, func(t *testing.T, c *index.Cache, _ reopener) {
		add(t, c, "index/a/1", packOf("packs/a/1", 1, 2), packOf("packs/a/2", 3))
		b := add(t, c, "index/b/1", packOf("packs/b/1", 2, 4, 5))
		group := func(except func(string) bool, in func(uint32) bool, ids ...uint64) (map[string][]chunk.ID, []chunk.ID) {
			t.Helper()
			var all []chunk.ID
			for _, n := range ids {
				all = append(all, id(n))
			}
			groups, missing, err := c.ByPack(all, in, except)
			if err != nil {
				t.Fatal(err)
			}
			m := map[string][]chunk.ID{}
			for _, g := range groups {
				m[g.Key] = g.IDs
				if p := packOf(g.Key, 0); g.Kind != p.Kind || g.Tail != p.Size-p.End() {
					t.Errorf("%s: %+v", g.Key, g.Held)
				}
			}
			return m, missing
		}
		got, missing := group(nil, all, 4, 2, 9, 5, 3)
		if len(got) != 2 || !slices.Equal(got["packs/b/1"], []chunk.ID{id(4), id(2), id(5)}) || !slices.Equal(got["packs/a/2"], []chunk.ID{id(3)}) {
			t.Errorf("%v", got)
		}
		if !slices.Equal(missing, []chunk.ID{id(9)}) {
			t.Errorf("missing: %v", missing)
		}
		notB := func(key string) bool { return key == "packs/b/1" }
		if got, missing = group(notB, all, 2, 4); len(got["packs/a/1"]) != 1 || !slices.Equal(missing, []chunk.ID{id(4)}) {
			t.Errorf("without b: %v, missing %v", got, missing)
		}
		if got, missing = group(nil, only(b), 1, 2); len(got["packs/b/1"]) != 1 || !slices.Equal(missing, []chunk.ID{id(1)}) {
			t.Errorf("in b: %v, missing %v", got, missing)
		}
		for _, view := range []struct {
			in   func(uint32) bool
			want []string
		}{{all, []string{"packs/a/1", "packs/a/2", "packs/b/1"}}, {only(b), []string{"packs/b/1"}}, {only(), nil}} {
			var keys []string
			if err := c.Packs(view.in, func(h index.Held) error { keys = append(keys, h.Key); return nil }); err != nil || !slices.Equal(keys, view.want) {
				t.Errorf("packs: %v, %v, want %v", keys, err, view.want)
			}
		}
		stop := errors.New("stop")
		if err := c.Packs(all, func(index.Held) error { return stop }); err != stop {
			t.Errorf("the caller's error: %v", err)
		}
	})
}

func TestPacksThatAreExceptedDoNotCount(t *testing.T) {
	eachCache(t, func(t *testing.T, c *index.Cache, _ reopener) {
		add(t, c, "index/a/1", packOf("packs/a/1", 1, 2))
		add(t, c, "index/b/1", packOf("packs/b/1", 2, 3))
		never := func(string) bool { return false }
		a := func(key string) bool { return key == "packs/a/1" }
		b := func(key string) bool { return key == "packs/b/1" }
		for _, ask := range []struct {
			chunk  uint64
			except func(string) bool
			want   []string
		}{
			{1, nil, []string{"packs/a/1"}}, {1, never, []string{"packs/a/1"}}, {1, a, nil}, {1, b, []string{"packs/a/1"}},
			{2, a, []string{"packs/b/1"}}, {2, b, []string{"packs/a/1"}}, {3, a, []string{"packs/b/1"}}, {3, b, nil},
		} {
			locations, err := c.Locations(id(ask.chunk), all, ask.except)
			var got []string
			for _, l := range locations {
				got = append(got, l.Pack)
			}
			if err != nil || !slices.Equal(got, ask.want) {
				t.Errorf("chunk %d is in %q, %v, want %q", ask.chunk, got, err, ask.want)
			}
			l, ok, err := c.Lookup(id(ask.chunk), all, ask.except)
			if err != nil || ok != (len(ask.want) > 0) || ok && l.Pack != ask.want[0] {
				t.Errorf("chunk %d is in %q, %v, %v, want %q", ask.chunk, l.Pack, ok, err, ask.want)
			}
		}

		ids := []chunk.ID{id(1), id(2)}
		if missing, err := c.Prove(id(50), ids, all, a); err != nil || !slices.Equal(missing, ids[:1]) || proven(t, c, id(50), all) {
			t.Errorf("without a: missing %v, %v, proven %v", missing, err, proven(t, c, id(50), all))
		}
		if missing, err := c.Prove(id(50), ids, all, b); err != nil || missing != nil {
			t.Errorf("without b: missing %v, %v", missing, err)
		}
		for what, view := range map[string]struct {
			except func(string) bool
			want   bool
		}{"none": {nil, true}, "never": {never, true}, "a": {a, false}, "b": {b, true}} {
			if got, err := c.Proven(id(50), all, view.except); got != view.want || err != nil {
				t.Errorf("proven by a, except %s: %v, %v", what, got, err)
			}
		}
	})
}

func TestNotesDoNotTakeTheRoomOfTheIndex(t *testing.T) {
	if !storagetest.CanMount(t) {
		return
	}
	c := open(t, filepath.Join(storagetest.Tmpfs(t, "size=220m"), "cache"))
	add(t, c, "index/a/1", packOf("packs/a/1", 1))
	if err := c.PutNote(id(1), []byte("x")); !errors.Is(err, index.ErrNoSpace) {
		t.Errorf("a note in the last room: %v, want ErrNoSpace", err)
	}
	if missing := prove(t, c, id(1), all, id(1)); missing != nil {
		t.Errorf("missing: %v", missing)
	}
	wantKeys(t, "a chunk", keys(t, c, id(1), all), "packs/a/1")
}

func TestNotesAndProofsRunBesideAdds(t *testing.T) {
	eachCache(t, func(t *testing.T, c *index.Cache, _ reopener) {
		var wg sync.WaitGroup
		for worker := range uint64(4) {
			wg.Go(func() {
				for i := range uint64(40) {
					n := worker*1000 + i
					number, addErr := c.Add("index/"+id(n).String(), segmentOf(packOf("packs/"+id(n).String(), n)))
					value := bytes.Repeat([]byte{byte(n)}, 1000)
					putErr := c.PutNote(id(n), value)
					missing, proveErr := c.Prove(id(n), []chunk.ID{id(n)}, only(number), nil)
					got, noteErr := c.Note(id(n), nil)
					ok, provenErr := c.Proven(id(n), all, nil)
					if err := errors.Join(addErr, putErr, proveErr, noteErr, provenErr); err != nil || missing != nil || !ok || !bytes.Equal(got, value) {
						t.Errorf("%d: %v, missing %v, proven %v", n, err, missing, ok)
					}
				}
			})
		}
		wg.Wait()
	})
}
