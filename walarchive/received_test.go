package walarchive

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"
)

// receive stores segment n of timeline 1 in two parts, up to so many bytes; its last commit is a second after minute(n).
func receive(t testing.TB, a Archive, n uint64, to int64) {
	t.Helper()
	for _, p := range [][2]int64{{0, 1000}, {1000, to}} {
		part := partOf(n, 1, p[0], p[1], 7)
		part.Facts.LastCommit = minute(n).Add(time.Duration(p[1]/to) * time.Second)
		pushPart(t, a, part)
	}
}

func TestARunEndsInTheSegmentThatIsBeingReceived(t *testing.T) {
	a, _ := newArchive()
	pushSegments(t, a, 1, 1, 4)
	receive(t, a, 5, 6000)
	s := snapshotAt(1, 3)
	window := Window{Timeline: 1, FromLSN: s.StopLSN, FromTime: s.StopTime, ToLSN: at(5, 6000), ToTime: minute(5).Add(time.Second)}
	checkWindows(t, windows(t, a, s), window)
	c := scan(t, a)
	p := c.PathTo(1)
	if r, ok := p.RunFrom(s); !ok || r != (Run{1, 3, 6}) {
		t.Errorf("%+v, %v", r, ok)
	} else if to, ok := p.ReceivedTo(r); !ok || to != at(5, 6000) {
		t.Errorf("received to %s, %v", to, ok)
	}
	if to, ok := p.ReceivedTo(Run{1, 3, 5}); ok {
		t.Errorf("a segment in full was received to %s", to)
	}
	if got := c.Received(1); !slices.Equal(got, []Received{{p.Segment(5), at(5, 6000), 2}}) {
		t.Errorf("%+v", got)
	}
	if len(c.Gaps(1)) > 0 || c.Has(p.Segment(5)) || !slices.Equal(c.Spans(1), []Span{{1, 1, 4}}) {
		t.Errorf("gaps %+v, spans %v", c.Gaps(1), c.Spans(1))
	}

	// A snapshot that ends inside of what was received is complete, one that ends behind it is not.
	inside, behind := snapshotAt(1, 5), snapshotAt(1, 5)
	behind.StopLSN = at(5, 6001)
	if m := c.MissingOf(inside); len(m) > 0 {
		t.Errorf("inside: %v", m)
	}
	if m := c.MissingOf(behind); !slices.Equal(m, []Span{{1, 5, 5}}) {
		t.Errorf("behind: %v", m)
	}
	if _, ok := p.RunFrom(behind); ok {
		t.Error("recovery from a snapshot that ends behind what was received")
	}
	checkWindows(t, windows(t, a, behind))
	// A backup waits for its segments all the same.
	var missing *IncompleteError
	if err := a.WaitComplete(t.Context(), testSize, inside.StartLSN, inside.StopLSN, 1, Wait{}); !errors.As(err, &missing) || missing.Names(1)[0] != segmentName(1, 5) {
		t.Error(err)
	}

	// The segment takes the parts' place.
	pushSegments(t, a, 1, 5, 5)
	if c := scan(t, a); len(c.Received(1)) > 0 || !slices.Equal(c.Spans(1), []Span{{1, 1, 5}}) {
		t.Errorf("received %v, spans %v", c.Received(1), c.Spans(1))
	}
	window.ToLSN, window.ToTime = at(6, 0), minute(5)
	checkWindows(t, windows(t, a, s), window)
}

func TestWhatWasReceivedOfASegmentBeforeOthersIsAGap(t *testing.T) {
	a, _ := newArchive()
	pushSegments(t, a, 1, 1, 4)
	receive(t, a, 5, 6000)
	pushSegments(t, a, 1, 7, 8)
	s, s7 := snapshotAt(1, 3), snapshotAt(1, 7)
	c := scan(t, a)
	for what, gaps := range map[string][]Gap{"all": c.Gaps(1), "needed": c.NeededGaps(1, []Snapshot{s})} {
		if len(gaps) != 1 || gaps[0].Span != (Span{1, 5, 6}) || gaps[0].Received != at(5, 6000) || gaps[0].From != at(5, 0) {
			t.Errorf("%s: %+v", what, gaps)
		}
	}
	checkWindows(t, windows(t, a, s, s7),
		Window{Timeline: 1, FromLSN: s.StopLSN, FromTime: s.StopTime, ToLSN: at(5, 6000), ToTime: minute(5).Add(time.Second)},
		Window{Timeline: 1, FromLSN: s7.StopLSN, FromTime: s7.StopTime, ToLSN: at(9, 0), ToTime: minute(8)})
	if n, ok := c.PathTo(1).Resumes(6); !ok || n != 7 {
		t.Errorf("resumes at %d, %v", n, ok)
	}

	// What is there in parts behind a gap is its end.
	a, _ = newArchive()
	pushSegments(t, a, 1, 1, 2)
	receive(t, a, 5, 6000)
	if gaps := scan(t, a).Gaps(1); len(gaps) != 1 || gaps[0].Span != (Span{1, 3, 4}) || gaps[0].Received != 0 {
		t.Errorf("%+v", gaps)
	}
	// Of two that are there in parts, the first is a gap.
	receive(t, a, 3, 2000)
	if gaps := scan(t, a).Gaps(1); len(gaps) != 1 || gaps[0].Span != (Span{1, 3, 4}) || gaps[0].Received != at(3, 2000) {
		t.Errorf("%+v", gaps)
	}
	// Nothing but parts.
	a, _ = newArchive()
	receive(t, a, 5, 6000)
	if c := scan(t, a); len(c.Gaps(1)) > 0 || len(c.Received(1)) != 1 {
		t.Errorf("%+v", c.Gaps(1))
	}
	checkWindows(t, windows(t, a, snapshotAt(1, 5)),
		Window{Timeline: 1, FromLSN: at(5, 5000), FromTime: snapshotAt(1, 5).StopTime, ToLSN: at(5, 6000), ToTime: minute(5).Add(time.Second)})
}

func TestPartsThatAreAllOfASegmentAreTheSegment(t *testing.T) {
	a, _ := newArchive()
	pushSegments(t, a, 1, 1, 4)
	receive(t, a, 5, int64(testSize))
	pushSegments(t, a, 1, 6, 6)
	c := scan(t, a)
	if len(c.Gaps(1)) > 0 || len(c.Received(1)) > 0 || !slices.Equal(c.Spans(1), []Span{{1, 1, 6}}) {
		t.Errorf("gaps %v, received %v, spans %v", c.Gaps(1), c.Received(1), c.Spans(1))
	}
	if h, err := c.PathTo(1).Header(t.Context(), a, 5); err != nil || !h.LastCommit.Equal(minute(5).Add(time.Second)) {
		t.Errorf("%+v, %v", h, err)
	}
}

func TestPartsThatDoNotBeginWithTheSegmentLeadNowhere(t *testing.T) {
	a, _ := newArchive()
	pushSegments(t, a, 1, 1, 4)
	pushPart(t, a, partOf(5, 1, 1000, 6000, 7))
	c := scan(t, a)
	if r, ok := c.PathTo(1).RunFrom(snapshotAt(1, 3)); !ok || r.End != 5 || len(c.Received(1)) > 0 || len(c.Gaps(1)) > 0 {
		t.Errorf("%+v, %v", r, c.Received(1))
	}
}

func TestATimelineThatBeginsInWhatWasReceivedIsReached(t *testing.T) {
	world := func(to int64) Archive {
		a, _ := newArchive()
		pushSegments(t, a, 1, 1, 5)
		pushHistory(t, a, 2, fmt.Sprintf("1\t%s\tx\n", at(5, 3000)))
		p := partOf(5, 1, 0, to, 7)
		p.Segment = segmentName(2, 5)
		pushPart(t, a, p)
		return a
	}
	s := snapshotAt(1, 3)
	one := Window{Timeline: 1, FromLSN: s.StopLSN, FromTime: s.StopTime, ToLSN: at(6, 0), ToTime: minute(5)}
	a := world(6000)
	checkWindows(t, windows(t, a, s), one, Window{Timeline: 2, FromLSN: at(5, 3000), FromTime: minute(4), ToLSN: at(5, 6000), ToTime: minute(5).Add(6 * time.Millisecond)})
	if _, leads := scan(t, a).KeptRun(s, 2, []Snapshot{s}); !leads {
		t.Error("it does not lead to timeline 2")
	}
	checkWindows(t, windows(t, world(3000), s), one)

	// What was received of a segment before the switch does not lead across it.
	a, _ = newArchive()
	pushSegments(t, a, 1, 1, 3)
	receive(t, a, 4, 6000)
	pushHistory(t, a, 2, fmt.Sprintf("1\t%s\tx\n", at(5, 3000)))
	pushSegments(t, a, 2, 5, 6)
	if r, leads := scan(t, a).KeptRun(s, 2, []Snapshot{s}); leads || r.End != 5 {
		t.Errorf("it leads to timeline 2: %+v", r)
	}
	checkWindows(t, windows(t, a, s), Window{Timeline: 1, FromLSN: s.StopLSN, FromTime: s.StopTime, ToLSN: at(4, 6000), ToTime: minute(4).Add(time.Second)})
}

func TestTheHeaderOfTheFarthestPartThatCanBeReadCounts(t *testing.T) {
	a, m := newArchive()
	pushSegments(t, a, 1, 1, 4)
	receive(t, a, 5, 6000)
	c, s := scan(t, a), snapshotAt(1, 3)
	m.damaged = partKey(a, partOf(5, 1, 1000, 6000, 7))
	checkWindows(t, windows(t, a, s), Window{Timeline: 1, FromLSN: s.StopLSN, FromTime: s.StopTime, ToLSN: at(5, 1000), ToTime: minute(5)})
	delete(m.files, partKey(a, partOf(5, 1, 0, 1000, 7)))
	checkWindows(t, windows(t, a, s), Window{Timeline: 1, FromLSN: s.StopLSN, FromTime: s.StopTime, ToLSN: at(5, 0), ToTime: minute(4)})
	// What is gone since the listing gave way to the segment.
	m.damaged = ""
	delete(m.files, partKey(a, partOf(5, 1, 1000, 6000, 7)))
	pushSegments(t, a, 1, 5, 5)
	if h, err := c.PathTo(1).Header(t.Context(), a, 5); err != nil || h.Kind != Segment {
		t.Errorf("%+v, %v", h, err)
	}
}

func TestABranchBeginsInWhatWasReceived(t *testing.T) {
	a, _ := newArchive()
	pushSegments(t, a, 1, 1, 3)
	pushHistory(t, a, 2, fmt.Sprintf("1\t%s\tx\n", at(3, 6000)))
	p := partOf(3, 1, 0, 8000, 7)
	p.Segment = segmentName(2, 3)
	pushPart(t, a, p)
	pushSegments(t, a, 2, 5, 5)
	s := narrowAt(1, 2, 3)
	if gaps := scan(t, a).NeededGaps(2, []Snapshot{s}); len(gaps) != 1 || gaps[0].Span != (Span{2, 3, 4}) || gaps[0].Received != at(3, 8000) {
		t.Errorf("%+v", gaps)
	}
	if got := uses(t, a, needCase{stay: []Snapshot{s}}.judge(a)); len(got[Needed]) != 5 {
		t.Errorf("needed: %v", got[Needed])
	}
}

// removing is a storage from which everything goes that it lists.
type removing struct{ *memObjects }

func (r removing) List(ctx context.Context, prefix string, fn func(string, int64) error) error {
	return r.memObjects.List(ctx, prefix, func(key string, size int64) error {
		r.mu.Lock()
		delete(r.files, key)
		r.mu.Unlock()
		return fn(key, size)
	})
}

func TestVerifyReadsPartsAndMissesNoneThatWent(t *testing.T) {
	a, m := newArchive()
	verify := func() (damaged []string) {
		t.Helper()
		if err := a.Verify(t.Context(), Check{Damaged: func(key string, _ error) { damaged = append(damaged, key) }}); err != nil {
			t.Fatal(err)
		}
		return damaged
	}
	receive(t, a, 5, 6000)
	if got := verify(); len(got) > 0 {
		t.Errorf("sound: %v", got)
	}
	// A part that is not as long as its name says is damaged, whatever else is right.
	key := partKey(a, partOf(5, 1, 1000, 6000, 7))
	short := m.files[key]
	short.content = short.content[1:]
	m.files[key] = short
	if got := verify(); !slices.Equal(got, []string{key}) {
		t.Errorf("%v", got)
	}
	a.Objects = removing{m}
	if got := verify(); len(got) > 0 {
		t.Errorf("gone: %v", got)
	}
}
