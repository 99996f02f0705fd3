package chunk

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
)

func TestPageChunksAreWithinBoundsAndOfTheMeanSize(t *testing.T) {
	c := newPageCutter(t, Key{1})
	d := randomDigests(1, 200_000)
	cuts := cutPages(c, d)
	sum := 0
	for i, n := range cuts {
		sum += n
		if (n < 32 && i < len(cuts)-1) || n > 128 {
			t.Fatalf("chunk %d has %d pages", i, n)
		}
	}
	if sum != len(d) {
		t.Fatalf("%d pages in chunks, want %d", sum, len(d))
	}
	if mean := float64(sum) / float64(len(cuts)); mean < 62 || mean > 66 {
		t.Errorf("mean of %.2f pages, want about 64", mean)
	}
}

func TestPageCutsDoNotDependOnHowInputIsSliced(t *testing.T) {
	c := newPageCutter(t, Key{1})
	r := rand.New(rand.NewPCG(1, 2))
	for round := range 50 {
		d := randomDigests(uint64(round), r.IntN(500))
		want := cutPages(c, d)
		var got []int
		start, end := 0, 0 // the open run is d[start:end]
		for end < len(d) {
			end = min(len(d), end+r.IntN(1+r.IntN(40)))
			for {
				n := c.Next(d[start:end])
				if n == 0 {
					break
				}
				got = append(got, n)
				start += n
			}
		}
		if n := c.Flush(); n > 0 {
			got = append(got, n)
		}
		if !slices.Equal(got, want) {
			t.Fatalf("round %d: cuts %v in slices, %v at once", round, got, want)
		}
	}
}

// runs is the set of chunks of a sequence, by their digests.
func runs(h *Hasher, c *PageCutter, d []Digest) map[ID]bool {
	out := map[ID]bool{}
	for _, n := range cutPages(c, d) {
		out[h.RunID(d[:n])] = true
		d = d[n:]
	}
	return out
}

func TestChangedPagesChangeOnlyChunksNearby(t *testing.T) {
	c, h := newPageCutter(t, Key{1}), NewHasher(Key{1})
	base := randomDigests(1, 20_000)
	before := runs(h, c, base)
	fresh := randomDigests(2, 100)
	worst := 0
	for at := 500; at < len(base); at += 977 {
		changes := map[string][]Digest{
			"altered":       slices.Concat(base[:at], fresh[:1], base[at+1:]),
			"five altered":  slices.Concat(base[:at], fresh[:5], base[at+5:]),
			"inserted":      slices.Concat(base[:at], fresh[:1], base[at:]),
			"100 inserted":  slices.Concat(base[:at], fresh, base[at:]),
			"removed":       slices.Concat(base[:at], base[at+1:]),
			"fifty removed": slices.Concat(base[:at], base[at+50:]),
		}
		for name, d := range changes {
			added := 0
			for id := range runs(h, c, d) {
				if !before[id] {
					added++
				}
			}
			if name == "100 inserted" {
				added -= 100 / 32 // the new pages' own chunks, at most
			}
			worst = max(worst, added)
			if added > 10 {
				t.Errorf("page %d %s: %d new chunks of %d", at, name, added, len(before))
			}
		}
	}
	t.Logf("at most %d new chunks", worst)
	if worst < 1 {
		t.Error("no change was seen at all")
	}
}

func TestFlushEndsARunBeforePagesThatBelongToNoChunk(t *testing.T) {
	c := newPageCutter(t, Key{1})
	if n := c.Flush(); n != 0 {
		t.Fatalf("Flush of nothing is %d pages", n)
	}
	d := randomDigests(1, 1000)
	want := cutPages(newPageCutter(t, Key{1}), d)
	// A few pages of another run first: they must leave no trace.
	for _, n := range []int{1, 5, 7} {
		if got := c.Next(randomDigests(2, n)); got != 0 {
			t.Fatalf("cut after %d of %d pages", got, n)
		}
		if got := c.Flush(); got != n {
			t.Fatalf("Flush says %d pages, want %d", got, n)
		}
		if got := cutPages(c, d); !slices.Equal(got, want) {
			t.Fatalf("after a flush of %d pages: cuts %v, want %v", n, got, want)
		}
	}
	c.Next(randomDigests(2, 5))
	c.Reset()
	if got := cutPages(c, d); !slices.Equal(got, want) {
		t.Errorf("after Reset: cuts %v, want %v", got, want)
	}
}

func TestPageCutsAreSecret(t *testing.T) {
	d := randomDigests(1, 2000)
	one, two := cutPages(newPageCutter(t, Key{1}), d), cutPages(newPageCutter(t, Key{2}), d)
	if slices.Equal(one, two) {
		t.Error("two repositories cut alike")
	}
}

func TestEqualPagesAreCutIntoEqualChunks(t *testing.T) {
	c := newPageCutter(t, Key{1})
	d := make([]Digest, 1000)
	for i := range d {
		d[i] = randomDigests(1, 1)[0]
	}
	cuts := cutPages(c, d)
	for i, n := range cuts[:len(cuts)-1] {
		if n < 32 || n > 128 || n != cuts[0] {
			t.Errorf("chunk %d has %d pages, the first %d", i, n, cuts[0])
		}
	}
}

func TestPageCutterPanicsWhenARunWasLost(t *testing.T) {
	c := newPageCutter(t, Key{1})
	c.Next(randomDigests(1, 5))
	defer func() {
		if recover() == nil {
			t.Error("fewer digests than before were taken for a run")
		}
	}()
	c.Next(randomDigests(1, 4))
}

func TestCuttingPagesDoesNotAllocate(t *testing.T) {
	c := newPageCutter(t, Key{1})
	d := randomDigests(1, 1000)
	if n := testing.AllocsPerRun(10, func() {
		for rest := d; ; {
			n := c.Next(rest)
			if n == 0 {
				c.Flush()
				return
			}
			rest = rest[n:]
		}
	}); n != 0 {
		t.Errorf("%v allocations for 1000 pages", n)
	}
}

func TestParametersThatNeverCutAreRefused(t *testing.T) {
	for _, p := range []PageParams{
		{},
		{Min: 32, AverageBits: 8, Max: 1024}, // under restic's window: it would never cut
		{Min: 100, AverageBits: 8, Max: 1024},
		{Min: 256, AverageBits: 8, Max: 1000},
		{Min: 256, AverageBits: 8, Max: 128},
		{Min: 256, AverageBits: 0, Max: 1024},
		{Min: 256, AverageBits: 64, Max: 1024},
		{Min: 256, AverageBits: 8, Max: 1 << 30},
		{Min: -256, AverageBits: 8, Max: 1024},
	} {
		if _, err := NewPageCutter(Key{1}, p); !errors.Is(err, ErrParams) {
			t.Errorf("%+v: %v", p, err)
		}
	}
	for _, p := range []StreamParams{
		{},
		{Min: 63, AverageBits: 8, Max: 1024},
		{Min: 1024, AverageBits: 8, Max: 512},
		{Min: 1024, AverageBits: 8, Max: 65 << 20},
	} {
		if _, err := NewStreamCutter(Key{1}, p, nil); !errors.Is(err, ErrParams) {
			t.Errorf("%+v: %v", p, err)
		}
	}
	smallest := PageParams{Min: 64, AverageBits: 5, Max: 128}
	c, err := NewPageCutter(Key{1}, smallest)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range cutPages(c, randomDigests(1, 1000))[:100] {
		if n < 2 || n > smallest.MaxPages() {
			t.Fatalf("smallest parameters: chunk of %d pages", n)
		}
	}
}
