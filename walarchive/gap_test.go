package walarchive

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/pgtrove/pgtrove/internal/pg"
)

func sameGap(a, b Gap) bool { return a.Span == b.Span && a.From == b.From && a.To == b.To }

func pushGap(t *testing.T, a Archive, first, last uint64) GapNote {
	t.Helper()
	g := GapNote{First: segmentName(1, first), Last: segmentName(1, last), Reason: ReasonBacklog, Limit: 5, Waiting: 6,
		From: minute(1), To: minute(2), Host: "here", Error: "gone", Files: []string{"00000002.history"}}
	if err := a.PushGap(t.Context(), g, testSize); err != nil {
		t.Fatal(err)
	}
	return g
}

func TestAGapThatIsNotedSaysWhy(t *testing.T) {
	a, m := newArchive()
	pushSegments(t, a, 1, 1, 3)
	pushSegments(t, a, 1, 6, 6)
	g := pushGap(t, a, 4, 5)
	c := scan(t, a)
	gaps := c.Gaps(1)
	if len(gaps) != 1 || !sameGap(gaps[0], Gap{Span: Span{1, 4, 5}, From: at(4, 0), To: at(6, 0)}) || len(gaps[0].Notes) != 1 {
		t.Fatalf("gaps %+v", gaps)
	}
	if n := gaps[0].Notes[0]; n.Error != "gone" || n.Reason != ReasonBacklog || n.Limit != 5 || !n.To.Equal(g.To) || len(n.Files) != 1 || n.Version != 1 {
		t.Errorf("note %+v", n)
	}
	// The same again, with other words, and by somebody who knows of more.
	g.Error = "still gone"
	if err := a.PushGap(t.Context(), g, testSize); err != nil {
		t.Error(err)
	}
	// A note does no harm to what is there all the same.
	pushGap(t, a, 1, 2)
	if c := scan(t, a); len(c.Gaps(1)) != 1 || !slices.Equal(c.Spans(1), []Span{{1, 1, 3}, {1, 6, 6}}) {
		t.Errorf("gaps %+v, spans %v", c.Gaps(1), c.Spans(1))
	}
	var damaged []string
	if err := a.Verify(t.Context(), Check{Damaged: func(key string, err error) { damaged = append(damaged, err.Error()) }}); err != nil || len(damaged) > 0 {
		t.Errorf("%v, %v", damaged, err)
	}
	// One that does not open takes nothing from the listing.
	m.damaged = a.Key(Name{Dropped, 1, g.First + "-" + g.Last + ".gap"})
	if gaps := scan(t, a).Gaps(1); len(gaps) != 1 || len(gaps[0].Notes) != 1 || gaps[0].Notes[0].Reason != "" {
		t.Errorf("gaps %+v", gaps)
	}
}

func TestWhatIsGivenUpOutsideOfTheSegmentsIsAGap(t *testing.T) {
	a, _ := newArchive()
	pushSegments(t, a, 1, 10, 12)
	pushSegments(t, a, 1, 15, 15)
	pushGap(t, a, 20, 21)
	pushGap(t, a, 14, 18) // 14 is in a gap that shows, 15 is there
	pushGap(t, a, 18, 18)
	pushGap(t, a, 7, 10)
	pushGap(t, a, 3, 4)
	var got []Span
	for _, g := range scan(t, a).Gaps(1) {
		got = append(got, g.Span)
	}
	if !slices.Equal(got, []Span{{1, 3, 4}, {1, 7, 9}, {1, 13, 14}, {1, 16, 18}, {1, 20, 21}}) {
		t.Errorf("gaps %v", got)
	}
}

func TestANoteOfAGapIsNoFileOfPostgreSQL(t *testing.T) {
	a, _ := newArchive()
	g := pushGap(t, a, 4, 5)
	file := g.First + "-" + g.Last + ".gap"
	if _, _, err := a.Fetch(t.Context(), file); !errors.Is(err, ErrInvalid) {
		t.Errorf("fetch: %v", err)
	}
	if _, err := a.Push(t.Context(), file, []byte("{}"), Facts{SegmentSize: testSize}); !errors.Is(err, ErrInvalid) {
		t.Errorf("push: %v", err)
	}
	for _, bad := range []GapNote{
		{First: segmentName(1, 5), Last: segmentName(1, 4)}, {First: segmentName(1, 4), Last: segmentName(2, 5)},
		{First: segmentName(1, 4)}, {First: segmentName(1, 4), Last: "00000001.history"},
	} {
		if err := a.PushGap(t.Context(), bad, testSize); !errors.Is(err, ErrInvalid) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	if err := a.PushGap(t.Context(), g, pg.MaxSegmentSize); !errors.Is(err, ErrInvalid) {
		t.Errorf("a size that no such segment has: %v", err)
	}
}

func TestANoteThatCannotNameAllFilesSaysHowManyMore(t *testing.T) {
	for _, n := range []int{maxGapFiles, maxGapFiles + 7} {
		a, _ := newArchive()
		g := GapNote{First: segmentName(1, 4), Last: segmentName(1, 5), Reason: ReasonBacklog}
		for i := range n {
			g.Files = append(g.Files, fmt.Sprintf("%s.%08X.backup", g.First, i+40))
		}
		if err := a.PushGap(t.Context(), g, testSize); err != nil {
			t.Fatal(err)
		}
		h, err := a.Header(t.Context(), g.First+"-"+g.Last+".gap")
		if err != nil {
			t.Fatal(err)
		}
		if note, err := h.Gap(); err != nil || !slices.Equal(note.Files, g.Files[:maxGapFiles]) || note.MoreFiles != n-maxGapFiles {
			t.Errorf("of %d files: %+v, %v", n, note, err)
		}
	}
}
