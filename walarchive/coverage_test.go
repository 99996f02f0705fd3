package walarchive

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"runtime"
	"slices"
	"testing"

	"github.com/pgtrove/pgtrove/internal/pg"
)

// coverageOf makes a coverage out of segments and history files without an archive.
func coverageOf(t testing.TB, segments []pg.Segment, histories map[pg.Timeline]string) *Coverage {
	t.Helper()
	a, _ := newArchive()
	c := newCoverage(a, testSize)
	for _, s := range segments {
		c.addWhole(a.Key(Name{Segment, s.Timeline, s.Name(testSize)}))
	}
	for tli, text := range histories {
		h, err := pg.ParseHistory(tli, []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		c.histories[tli] = h
	}
	return c
}

func TestScanFindsSegmentsGapsAndHistories(t *testing.T) {
	a, _ := newArchive()
	pushSegments(t, a, 1, 1, 3)
	pushSegments(t, a, 1, 6, 7)
	pushHistory(t, a, 2, fmt.Sprintf("1\t%s\tx\n", at(7, 100)))
	pushSegments(t, a, 2, 8, 9) // 7, in which the timeline begins, is missing
	push(t, a, segmentName(1, 8)+".partial", content(0), segmentFacts(1, 8))
	push(t, a, segmentName(1, 2)+".00000028.backup", []byte("x"), Facts{})
	other := a
	other.System = testSystem + 1
	pushSegments(t, other, 1, 4, 5)

	c := scan(t, a)
	if got, want := c.Timelines(), []pg.Timeline{1, 2}; !slices.Equal(got, want) {
		t.Errorf("timelines %v", got)
	}
	if got, want := c.Spans(1), []Span{{1, 1, 3}, {1, 6, 7}}; !slices.Equal(got, want) {
		t.Errorf("timeline 1 holds %v", got)
	}
	if got := c.Gaps(1); len(got) != 1 || !sameGap(got[0], Gap{Span: Span{1, 4, 5}, From: at(4, 0), To: at(6, 0)}) {
		t.Errorf("gaps of timeline 1: %v", got)
	}
	if got := c.Gaps(2); len(got) != 1 || !sameGap(got[0], Gap{Span: Span{2, 7, 7}, From: at(7, 0), To: at(8, 0)}) {
		t.Errorf("gaps of timeline 2: %v", got)
	}
	if got := c.Partials(1); len(got) != 1 || got[0] != segmentName(1, 8)+".partial" {
		t.Errorf("partial files: %v", got)
	}
	if c.Files != 10 || c.Bytes != 1000 {
		t.Errorf("%d files, %d bytes", c.Files, c.Bytes)
	}
	if !c.Has(pg.Segment{Timeline: 1, Number: 3}) || c.Has(pg.Segment{Timeline: 1, Number: 4}) || c.Has(pg.Segment{Timeline: 1, Number: 8}) {
		t.Error("segments 3, 4 and 8 are not told apart")
	}
	for name, want := range map[string]bool{
		segmentName(1, 3): true, segmentName(1, 4): false, segmentName(3, 3): false, segmentName(1, 8) + ".partial": true, segmentName(1, 9) + ".partial": false,
		"00000002.history": true, "00000003.history": false, segmentName(1, 2) + ".00000028.backup": false, "RECOVERYXLOG": false,
	} {
		if c.HasFile(name) != want {
			t.Errorf("has %s: %v", name, !want)
		}
	}
}

func TestNewestTimelineIsTheLastOfAnUnbrokenRow(t *testing.T) {
	c := coverageOf(t, nil, map[pg.Timeline]string{2: "1\t0/100000\n", 3: "1\t0/100000\n2\t0/200000\n", 5: "1\t0/100000\n"})
	for start, want := range map[pg.Timeline]pg.Timeline{1: 3, 2: 3, 3: 3, 4: 5, 5: 5} {
		if got := c.Newest(start); got != want {
			t.Errorf("from %d: %d, want %d", start, got, want)
		}
	}
}

func TestSpansDoNotDependOnTheOrderOfTheListing(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		n := 1 + r.IntN(40)
		have := map[uint64]bool{}
		var segments []pg.Segment
		for range n {
			s := uint64(r.IntN(50))
			have[s] = true
			segments = append(segments, pg.Segment{Timeline: 1, Number: s})
		}
		c := coverageOf(t, segments, nil)
		var want []Span
		for s := uint64(0); s < 50; s++ {
			if !have[s] {
				continue
			}
			if k := len(want); k > 0 && want[k-1].Last+1 == s {
				want[k-1].Last = s
				continue
			}
			want = append(want, Span{1, s, s})
		}
		if got := c.Spans(1); !slices.Equal(got, want) {
			t.Fatalf("%v gave %v, want %v", segments, got, want)
		}
	}
}

// slowSegment is the rule of PostgreSQL's XLogFileReadAnyTLI, without its second choices, written down as it reads.
func slowSegment(h pg.History, n uint64) pg.Timeline {
	for i := len(h) - 1; i >= 0; i-- {
		begin := pg.LSN(0)
		if i > 0 {
			begin = h[i-1].LSN
		}
		if uint64(begin)/uint64(testSize) <= n {
			return h[i].Timeline
		}
	}
	panic("segment before the first timeline")
}

func TestPathsAgreeWithASegmentBySegmentSearch(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 500 {
		var segments []pg.Segment
		for tli := pg.Timeline(1); tli <= 4; tli++ {
			for n := range uint64(20) {
				if r.IntN(10) > 1 {
					segments = append(segments, pg.Segment{Timeline: tli, Number: n})
				}
			}
		}
		first, second := r.IntN(18), 0
		second = first + r.IntN(19-first)
		text := fmt.Sprintf("1\t%s\tx\n3\t%s\tx\n", at(uint64(first), uint64(r.IntN(2)*500)), at(uint64(second), 500+uint64(r.IntN(2)*500)))
		c := coverageOf(t, segments, map[pg.Timeline]string{4: text})
		h, _ := c.History(4)
		p := c.PathTo(4)

		start := at(uint64(r.IntN(20)), 77)
		stop := start + pg.LSN(r.IntN(10*int(testSize)))
		if r.IntN(3) == 0 {
			stop -= stop % pg.LSN(testSize)
			stop = max(stop, start)
		}
		var missing []pg.Segment
		last := max(uint64(stop-1)/uint64(testSize), uint64(start)/uint64(testSize))
		for n := uint64(start) / uint64(testSize); n <= last; n++ {
			s := pg.Segment{Timeline: slowSegment(h, n), Number: n}
			if p.Segment(n) != s {
				t.Fatalf("%q: segment %d is %v, want %v", text, n, p.Segment(n), s)
			}
			if !c.Has(s) {
				missing = append(missing, s)
			}
		}
		var got []pg.Segment
		for _, s := range c.Missing(start, stop, 4) {
			for n := s.First; n <= s.Last; n++ {
				got = append(got, pg.Segment{Timeline: s.Timeline, Number: n})
			}
		}
		if !slices.Equal(got, missing) {
			t.Fatalf("%q, %s to %s: missing %v, want %v", text, start, stop, got, missing)
		}
		end := uint64(start) / uint64(testSize)
		for c.Has(pg.Segment{Timeline: slowSegment(h, end), Number: end}) {
			end++
		}
		if got := p.RunEnd(uint64(start) / uint64(testSize)); got != end {
			t.Fatalf("%q: run from %s ends at %d, want %d", text, start, got, end)
		}
	}
}

func TestAStopOnABoundaryNeedsTheSegmentBefore(t *testing.T) {
	c := coverageOf(t, []pg.Segment{{Timeline: 1, Number: 4}}, nil)
	if m := c.Missing(at(4, 40), at(5, 0), 1); len(m) != 0 {
		t.Errorf("up to the boundary: %v", m)
	}
	if m := c.Missing(at(4, 40), at(5, 1), 1); !reflect.DeepEqual(m, []Span{{1, 5, 5}}) {
		t.Errorf("a byte further: %v", m)
	}
}

func TestALaterTimelineCompletesASnapshotWhoseServerDied(t *testing.T) {
	s := Snapshot{Timeline: 1, StopTimeline: 1, StartLSN: at(4, 40), StopLSN: at(5, 200)}
	segments := []pg.Segment{{Timeline: 1, Number: 4}, {Timeline: 2, Number: 5}}
	after := coverageOf(t, segments, map[pg.Timeline]string{2: fmt.Sprintf("1\t%s\tx\n", at(5, 300))})
	after.timelines[2].history = true
	if m := after.MissingOf(s); len(m) != 0 {
		t.Errorf("promoted after the snapshot's end: %v", m)
	}
	before := coverageOf(t, segments, map[pg.Timeline]string{2: fmt.Sprintf("1\t%s\tx\n", at(5, 100))})
	if m := before.MissingOf(s); !reflect.DeepEqual(m, []Span{{1, 5, 5}}) {
		t.Errorf("promoted before the snapshot's end: %v", m)
	}
}

func TestMemoryDoesNotGrowWithTheNumberOfSegments(t *testing.T) {
	a, _ := newArchive()
	c := newCoverage(a, testSize)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for n := range uint64(250_000) {
		c.addWhole(a.Key(Name{Segment, 1, segmentName(1, n)}))
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if got := c.Spans(1); len(got) != 1 || got[0].Segments() != 250_000 {
		t.Errorf("%d spans", len(got))
	}
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 256<<10 {
		t.Errorf("%d bytes", grown)
	}
}

func BenchmarkScanKey(b *testing.B) {
	a, _ := newArchive()
	key := a.Key(Name{Segment, 1, segmentName(1, 12345)})
	s := NewSurvey(a.Objects)
	s.Expect(a, testSize)
	b.ReportAllocs()
	for b.Loop() {
		if err := s.Add(b.Context(), key, 1); err != nil {
			b.Fatal(err)
		}
	}
}
