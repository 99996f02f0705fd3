package walarchive

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/internal/pg"
)

func windows(t *testing.T, a Archive, snapshots ...Snapshot) []Window {
	t.Helper()
	w, err := scan(t, a).Windows(t.Context(), a, snapshots)
	if err != nil {
		t.Fatal(err)
	}
	for i := range w {
		w[i].Run = Run{}
	}
	return w
}

// snapshotAt begins in segment n and ends in the middle of it.
func snapshotAt(tli pg.Timeline, n uint64) Snapshot {
	return Snapshot{
		ID: fmt.Sprint(n), Timeline: tli, StopTimeline: tli,
		StartLSN: at(n, 40), StopLSN: at(n, 5000), StopTime: minute(n).Add(-time.Second),
	}
}

func checkWindows(t *testing.T, got []Window, want ...Window) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d windows: %+v\nwant %d: %+v", len(got), got, len(want), want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("window %d is\n%+v, want\n%+v", i, got[i], want[i])
		}
	}
}

func TestAWindowRunsFromASnapshotsEndToTheGap(t *testing.T) {
	a, _ := newArchive()
	pushSegments(t, a, 1, 1, 10)
	pushSegments(t, a, 1, 12, 15)
	s3, s5, s11, s13 := snapshotAt(1, 3), snapshotAt(1, 5), snapshotAt(1, 11), snapshotAt(1, 13)
	checkWindows(t, windows(t, a, s13, s5, s11, s3),
		Window{Timeline: 1, FromLSN: s3.StopLSN, FromTime: s3.StopTime, ToLSN: at(11, 0), ToTime: minute(10)},
		Window{Timeline: 1, FromLSN: s13.StopLSN, FromTime: s13.StopTime, ToLSN: at(16, 0), ToTime: minute(15)},
	)
}

func TestWithoutItsOwnWALASnapshotOpensNoWindow(t *testing.T) {
	a, _ := newArchive()
	pushSegments(t, a, 1, 1, 4)
	s := snapshotAt(1, 4)
	s.StopLSN = at(5, 1)
	checkWindows(t, windows(t, a, s, snapshotAt(1, 9)))
}

func TestTheWindowOfAnIdleServerEndsWithItsLastCommit(t *testing.T) {
	a, _ := newArchive()
	pushSegments(t, a, 1, 1, 3)
	for n := uint64(4); n < 50; n++ {
		f := segmentFacts(1, n)
		f.End = at(n, 300)
		push(t, a, segmentName(1, n), content(0), f)
	}
	s := snapshotAt(1, 2)
	checkWindows(t, windows(t, a, s), Window{Timeline: 1, FromLSN: s.StopLSN, FromTime: s.StopTime, ToLSN: at(49, 300), ToTime: minute(3)})
	s = snapshotAt(1, 20)
	checkWindows(t, windows(t, a, s), Window{Timeline: 1, FromLSN: s.StopLSN, FromTime: s.StopTime, ToLSN: at(49, 300), ToTime: s.StopTime})
}

func TestARecordThatGoesOnBehindTheEndDoesNotCount(t *testing.T) {
	a, _ := newArchive()
	pushSegments(t, a, 1, 1, 2)
	f := segmentFacts(1, 2)
	f.End = 0
	push(t, a, segmentName(1, 3), content(0), f)
	push(t, a, segmentName(1, 4), content(0), f)
	s := snapshotAt(1, 1)
	checkWindows(t, windows(t, a, s), Window{Timeline: 1, FromLSN: s.StopLSN, FromTime: s.StopTime, ToLSN: at(3, 0), ToTime: minute(2)})
}

func TestAWindowContinuesAcrossASwitchOnTheNewTimeline(t *testing.T) {
	a, _ := newArchive()
	pushSegments(t, a, 1, 1, 8) // goes on after the switch: a server that nobody stopped
	fork := at(6, 1000)
	pushHistory(t, a, 2, fmt.Sprintf("1\t%s\tx\n", fork))
	pushSegments(t, a, 2, 6, 9)
	parent, abandoned, child := snapshotAt(1, 3), snapshotAt(1, 7), snapshotAt(2, 8)
	checkWindows(t, windows(t, a, parent, abandoned, child),
		Window{Timeline: 1, FromLSN: parent.StopLSN, FromTime: parent.StopTime, ToLSN: at(9, 0), ToTime: minute(8)},
		Window{Timeline: 2, FromLSN: fork, FromTime: minute(5), ToLSN: at(10, 0), ToTime: minute(9)},
	)
	// Without the parent's snapshot only the child's own reaches the new timeline: the abandoned one is on a fork.
	checkWindows(t, windows(t, a, abandoned, child),
		Window{Timeline: 1, FromLSN: abandoned.StopLSN, FromTime: abandoned.StopTime, ToLSN: at(9, 0), ToTime: minute(8)},
		Window{Timeline: 2, FromLSN: child.StopLSN, FromTime: child.StopTime, ToLSN: at(10, 0), ToTime: minute(9)},
	)
}

func TestAGapBeforeTheSwitchKeepsTheParentsSnapshotsOut(t *testing.T) {
	a, _ := newArchive()
	pushSegments(t, a, 1, 1, 4)
	pushHistory(t, a, 2, fmt.Sprintf("1\t%s\tx\n", at(6, 1000)))
	pushSegments(t, a, 2, 6, 9)
	parent := snapshotAt(1, 3)
	checkWindows(t, windows(t, a, parent),
		Window{Timeline: 1, FromLSN: parent.StopLSN, FromTime: parent.StopTime, ToLSN: at(5, 0), ToTime: minute(4)})
}

func TestWindowsOfAGrowingArchiveReadFewHeaders(t *testing.T) {
	a, m := newArchive()
	pushSegments(t, a, 1, 1, 40)
	var all []Snapshot
	for n := uint64(1); n <= 40; n++ {
		all = append(all, snapshotAt(1, n))
	}
	m.gets = 0
	if w := windows(t, a, all...); len(w) != 1 {
		t.Fatalf("%+v", w)
	}
	if m.gets > 2 {
		t.Errorf("%d objects were read", m.gets)
	}
}

func TestWaitCompleteReturnsWhenTheLastSegmentComes(t *testing.T) {
	a, m := newArchive()
	pushSegments(t, a, 1, 1, 3)
	looks := 0
	w := Wait{Timeout: time.Minute, Poll: time.Millisecond, Missing: func(count uint64, first string) {
		looks++
		if looks == 1 && (count != 2 || first != segmentName(1, 4)) {
			t.Errorf("%d missing, the first is %s", count, first)
		}
		if looks < 3 {
			pushSegments(t, a, 1, uint64(3+looks), uint64(3+looks))
		}
	}}
	if err := a.WaitComplete(t.Context(), testSize, at(2, 40), at(6, 0), 1, w); err != nil {
		t.Fatal(err)
	}
	if looks != 2 || m.lists != 3 {
		t.Errorf("%d looks missed something, %d listings", looks, m.lists)
	}
}

func TestWaitCompleteNamesWhatDidNotCome(t *testing.T) {
	a, _ := newArchive()
	pushSegments(t, a, 1, 1, 3)
	err := a.WaitComplete(t.Context(), testSize, at(2, 40), at(6, 1), 1, Wait{Timeout: 5 * time.Millisecond, Poll: time.Millisecond})
	var incomplete *IncompleteError
	if !errors.As(err, &incomplete) || incomplete.Count() != 3 {
		t.Fatal(err)
	}
	if n := incomplete.Names(2); len(n) != 2 || n[0] != segmentName(1, 4) || n[1] != segmentName(1, 5) {
		t.Errorf("names %v", n)
	}
}

func TestWaitCompleteGoesAcrossASwitch(t *testing.T) {
	a, _ := newArchive()
	pushSegments(t, a, 1, 1, 2)
	pushSegments(t, a, 2, 3, 4)
	if err := a.WaitComplete(t.Context(), testSize, at(1, 40), at(4, 1), 2, Wait{}); err == nil {
		t.Error("complete without the history that joins the two")
	}
	pushHistory(t, a, 2, fmt.Sprintf("1\t%s\tx\n", at(3, 1000)))
	if err := a.WaitComplete(t.Context(), testSize, at(1, 40), at(4, 1), 2, Wait{}); err != nil {
		t.Error(err)
	}
}

func TestWaitCompleteEndsWithItsContext(t *testing.T) {
	a, _ := newArchive()
	ctx, cancel := context.WithCancel(t.Context())
	w := Wait{Timeout: time.Hour, Poll: time.Hour, Missing: func(uint64, string) { cancel() }}
	if err := a.WaitComplete(ctx, testSize, at(1, 40), at(1, 50), 1, w); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
