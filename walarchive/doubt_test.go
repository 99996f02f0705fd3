package walarchive

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
)

func TestAHistoryThatCannotBeReadIsADoubtAboutItsTimelineOnly(t *testing.T) {
	a, m := newArchive()
	pushSegments(t, a, 1, 1, 8)
	pushSegments(t, a, 2, 6, 9)
	pushHistory(t, a, 2, fmt.Sprintf("1\t%s\tx\n", at(6, 1000)))
	m.damaged = a.Key(Name{History, 2, "00000002.history"})
	c := scan(t, a)
	if err := c.Doubt(2); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "remove "+m.damaged) || !strings.Contains(err.Error(), "wal push") || c.Doubt(1) != nil {
		t.Errorf("%v, %v", err, c.Doubt(1))
	}
	if got := c.Newest(1); got != 2 {
		t.Errorf("recovery to the newest timeline would follow %d, and say nothing", got)
	}
	parent, child := snapshotAt(1, 3), snapshotAt(2, 8)
	checkWindows(t, windows(t, a, parent, child),
		Window{Timeline: 1, FromLSN: parent.StopLSN, FromTime: parent.StopTime, ToLSN: at(9, 0), ToTime: minute(8)},
		Window{Timeline: 2, FromLSN: child.StopLSN, FromTime: child.StopTime, ToLSN: at(10, 0), ToTime: minute(9)},
	)
	if _, err := (Archive{Objects: silent{m}, Cluster: a.Cluster, System: a.System}).Scan(t.Context(), testSize); !errors.Is(err, errDown) {
		t.Errorf("a storage that does not answer: %v", err)
	}
}

func TestAWindowEndsInFrontOfADamagedSegment(t *testing.T) {
	for name, c := range map[string]struct {
		damaged uint64
		want    [][2]uint64 // from the snapshot in the first segment to the end of the second
	}{
		"the last one":                       {9, [][2]uint64{{2, 8}}},
		"one that an idle server left":       {8, [][2]uint64{{2, 7}}},
		"one between snapshots":              {6, [][2]uint64{{2, 5}, {7, 9}}},
		"one that the last snapshot needs":   {7, [][2]uint64{{2, 6}}},
		"one that nobody looks at, far back": {1, [][2]uint64{{2, 9}}},
	} {
		t.Run(name, func(t *testing.T) {
			a, m := newArchive()
			last := uint64(9)
			pushSegments(t, a, 1, 1, 2)
			for n := uint64(3); n <= last; n++ { // without commits, so that all are read
				push(t, a, segmentName(1, n), content(0), segmentFacts(1, n))
			}
			m.damaged = a.Key(Name{Segment, 1, segmentName(1, c.damaged)})
			var got [][2]uint64
			for _, w := range windows(t, a, snapshotAt(1, 2), snapshotAt(1, 7)) {
				got = append(got, [2]uint64{uint64(w.FromLSN) / uint64(testSize), uint64(w.ToLSN)/uint64(testSize) - 1})
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("%v, want %v", got, c.want)
			}
			s := NewSurvey(m)
			for _, key := range slices.Sorted(maps.Keys(m.files)) {
				if err := s.Add(t.Context(), key, 1); err != nil {
					t.Error(err)
				}
			}
		})
	}
}
