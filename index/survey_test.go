package index_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/index"
	"github.com/pgtrove/pgtrove/pack"
)

// surveyed is what a survey tells: by chunk, the keys of its packs.
func surveyed(t *testing.T, c *index.Cache, inView func(uint32) bool) map[chunk.ID][]string {
	t.Helper()
	held := map[uint32]index.Held{}
	if err := c.Packs(inView, func(h index.Held) error { held[h.Number] = h; return nil }); err != nil {
		t.Fatal(err)
	}
	got := map[chunk.ID][]string{}
	var last chunk.ID
	err := c.Survey(inView, func(id chunk.ID, places []index.Place) error {
		if bytes.Compare(last[:], id[:]) >= 0 {
			t.Errorf("%s comes after %s", id.Short(), last.Short())
		}
		last = id
		for _, p := range places {
			h, ok := held[p.Pack]
			if !ok {
				t.Errorf("%s is in pack %d, which is none of the view", id.Short(), p.Pack)
			}
			got[id] = append(got[id], fmt.Sprintf("%s:%d", h.Key, p.Sealed))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestASurveyFindsWhatLookupsFind(t *testing.T) {
	eachCache(t, func(t *testing.T, c *index.Cache, reopen reopener) {
		r := rand.New(rand.NewPCG(1, 2))
		const chunks = 300
		var numbers []uint32
		var packs []index.Pack
		for segment := range 8 {
			var s index.Segment
			for i := range 1 + r.IntN(4) {
				if len(packs) > 0 && r.IntN(4) == 0 {
					p := packs[r.IntN(len(packs))] // as a compacted index repeats it
					if !slices.ContainsFunc(s.Packs, func(q index.Pack) bool { return q.Key == p.Key }) {
						s.Packs = append(s.Packs, p)
					}
					continue
				}
				var ids []uint64
				for range 1 + r.IntN(60) {
					ids = append(ids, r.Uint64N(chunks))
				}
				slices.Sort(ids)
				p := packOf(fmt.Sprintf("packs/s/%d-%d", segment, i), slices.Compact(ids)...)
				s.Packs, packs = append(s.Packs, p), append(packs, p)
			}
			numbers = append(numbers, add(t, c, fmt.Sprintf("index/s/%d", segment), s.Packs...))
		}
		lost, err := c.Begin()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.AddPack(lost, packOf("packs/lost/1", 1, 2, 1000)); err != nil {
			t.Fatal(err)
		}
		c = reopen(t, c)
		for name, view := range map[string]func(uint32) bool{
			"all": all, "none": only(), "some": only(numbers[1:4]...), "one": only(numbers[0]), "published": only(numbers...),
		} {
			want := map[chunk.ID][]string{}
			for n := range uint64(1001) {
				locations, err := c.Locations(id(n), view, nil)
				if err != nil {
					t.Fatal(err)
				}
				for _, l := range locations {
					want[id(n)] = append(want[id(n)], fmt.Sprintf("%s:%d", l.Pack, l.Sealed))
				}
			}
			if got := surveyed(t, c, view); !reflect.DeepEqual(got, want) {
				t.Errorf("view %s: the survey has %d chunks %v, and lookups find %d %v", name, len(got), got, len(want), want)
			}
		}
		stop := errors.New("stop")
		calls := 0
		if err := c.Survey(all, func(chunk.ID, []index.Place) error { calls++; return stop }); err != stop || calls != 1 {
			t.Errorf("the caller's error: %v after %d calls", err, calls)
		}
	})
}

func TestPacksTellTheirNumberAndSize(t *testing.T) {
	eachCache(t, func(t *testing.T, c *index.Cache, reopen reopener) {
		s := example()
		number := add(t, c, "index/a/1", s.Packs...)
		c = reopen(t, c)
		i := 0
		if err := c.Packs(all, func(h index.Held) error {
			p := &s.Packs[i]
			want := index.Held{Number: uint32(i), Key: p.Key, Kind: p.Kind, Chunks: len(p.Entries), Size: p.Size, Tail: p.Size - p.End(),
				Segments: []uint32{number}, Indexed: h.Indexed}
			if !reflect.DeepEqual(h, want) {
				t.Errorf("%+v, want %+v", h, want)
			}
			if b, err := segmentOf(*p).Marshal(); err != nil || h.Indexed < len(b)-2 || h.Indexed > 2*len(b)+100 { // a version, a number of packs
				t.Errorf("%s takes %d bytes in a segment, and tells %d: %v", p.Key, len(b)-2, h.Indexed, err)
			}
			i++
			return nil
		}); err != nil || i != len(s.Packs) {
			t.Errorf("%d packs, %v", i, err)
		}
	})
}

func TestASurveyAllocatesNothingForAChunk(t *testing.T) {
	eachCache(t, func(t *testing.T, c *index.Cache, _ reopener) {
		const chunks = benchPacks * benchChunks
		name, s := benchSegment(0)
		add(t, c, name, s.Packs...)
		seen := 0
		n := testing.AllocsPerRun(3, func() {
			seen = 0
			if err := c.Survey(all, func(chunk.ID, []index.Place) error { seen++; return nil }); err != nil {
				t.Error(err)
			}
		})
		if most := 2000.0; seen != chunks || n > most {
			t.Errorf("%v allocations for %d chunks, at most %v", n, seen, most)
		}
	})
}

// split cuts packs into segments.
func split(packs []index.Pack, maxChunks int) (all []index.Segment) {
	s := index.NewSplitter(maxChunks)
	for _, p := range packs {
		if full := s.Add(p); full != nil {
			all = append(all, *full)
		}
	}
	if rest := s.Rest(); rest != nil {
		all = append(all, *rest)
	}
	return all
}

func TestSegmentsAreSplitWithinTheirBounds(t *testing.T) {
	many := make([]pack.Entry, 100_000)
	pages := func(i, chunks int) index.Pack {
		p := index.Pack{Key: fmt.Sprintf("packs/s/%d", i), Size: 1000}
		p.Kind = pack.Data
		p.Entries = many[:chunks]
		return p
	}
	for name, c := range map[string]struct {
		packs, chunks, most int
		want                []int // packs in each segment
	}{
		"nothing":            {0, 1, 10, nil},
		"one":                {1, 10, 10, []int{1}},
		"all in one":         {3, 3, 9, []int{3}},
		"three and a rest":   {10, 3, 11, []int{3, 3, 3, 1}},
		"more than allowed":  {3, 12, 11, []int{1, 1, 1}},
		"no chunks allowed":  {2, 1, 0, []int{1, 1}},
		"as many as fit":     {25, 100_000, 1 << 30, []int{10, 10, 5}}, // of 64 MiB
		"too many in number": {index.MaxPacks + 1, 1, 1 << 30, []int{index.MaxPacks, 1}},
	} {
		var packs []index.Pack
		for i := range c.packs {
			packs = append(packs, pages(i, c.chunks))
		}
		var got []int
		i := 0
		for _, s := range split(packs, c.most) {
			got = append(got, len(s.Packs))
			for _, p := range s.Packs {
				if p.Key != packs[i].Key || len(p.Entries) != c.chunks {
					t.Fatalf("%s: pack %d is %s with %d chunks", name, i, p.Key, len(p.Entries))
				}
				i++
			}
		}
		if !slices.Equal(got, c.want) || i != c.packs {
			t.Errorf("%s: segments of %v packs, want %v", name, got, c.want)
		}
	}
}

// What a splitter takes for the size of a pack must never be too little.
func TestASplitSegmentIsOfAboutTheSizeItIsTakenFor(t *testing.T) {
	p := index.Pack{Key: "packs/20250102T030405Z-0123456789abcdef/1", Size: pack.MaxObject}
	p.Kind = pack.Data
	for i := range 4 {
		p.Sessions = append(p.Sessions, pack.Session{SID: fmt.Sprint(i), Encapsulation: make([]byte, pack.MaxEncapsulation)})
	}
	for i := range uint64(100_000) { // every number as long as it gets
		p.Entries = append(p.Entries, pack.Entry{ID: id(i), Offset: uint32(p.End()) + 20_000, Sealed: 20_000, Plain: pack.MaxPlain, Session: 3, Nonce: 1<<64 - 1})
	}
	var packs []index.Pack
	for i := range 20 {
		p.Key = fmt.Sprintf("packs/20250102T030405Z-0123456789abcdef/%d-%064x", i, i)
		packs = append(packs, p)
	}
	segments := split(packs, 1<<30)
	if len(segments) < 2 {
		t.Fatalf("%d segments", len(segments))
	}
	b, err := segments[0].Marshal()
	if err != nil || len(b) > index.MaxSegment/4 || len(b) < index.MaxSegment/8 {
		t.Errorf("%d bytes, %v", len(b), err)
	}
}

// One operation is one survey of 200,000 chunks.
func BenchmarkSurvey(b *testing.B) {
	c := benchCache(b, b.TempDir(), 200_000)
	b.ReportAllocs()
	for b.Loop() {
		if err := c.Survey(all, func(chunk.ID, []index.Place) error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed())/float64(time.Nanosecond)/float64(b.N)/200_000, "ns/chunk")
}
