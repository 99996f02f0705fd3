package walarchive

import (
	"fmt"
	"slices"
	"testing"
)

// whole is a snapshot whose WAL was archived when it was committed.
func whole(s Snapshot) Snapshot {
	s.Complete = true
	return s
}

// TestABranchThatBeganBehindANarrowSnapshotIsNeededUntilItIsGivenOver: a narrow snapshot of segments 5 and 6 was restored, and promoted.
func TestABranchThatBeganBehindANarrowSnapshotIsNeededUntilItIsGivenOver(t *testing.T) {
	forkAt := func(n, bytes uint64) string { return fmt.Sprintf("1\t%s\tx\n", at(n, bytes)) }
	inside := forkAt(6, 6000)
	second := inside + fmt.Sprintf("2\t%s\tx\n", at(8, 100))
	base := narrowAt(1, 5, 6)
	branch, two := rows{1: {1, 8}, 2: {6, 9}}, rows{1: {1, 8}, 2: {6, 9}, 3: {8, 12}}
	const beside = "1:1-4 1:7-8" // of timeline 1 only the base is needed
	for name, c := range map[string]struct {
		needCase
		windows int // on the newest timeline
	}{
		"nothing else leads there":                      {needCase{rows: branch, histories: texts{2: inside}, stay: []Snapshot{base}, unneeded: beside}, 1},
		"promoted at the end of the base itself":        {needCase{rows: branch, histories: texts{2: forkAt(6, 5000)}, stay: []Snapshot{base}, unneeded: beside}, 1},
		"promoted at the end of the base's segment":     {needCase{rows: rows{1: {1, 8}, 2: {7, 9}}, histories: texts{2: forkAt(7, 0)}, stay: []Snapshot{base}, unneeded: beside}, 1},
		"promoted behind what is kept":                  {needCase{rows: rows{1: {1, 8}, 2: {7, 9}}, histories: texts{2: forkAt(7, 1)}, stay: []Snapshot{base}, unneeded: beside + " 2:7-9"}, 0},
		"a branch of the branch":                        {needCase{rows: two, histories: texts{2: inside, 3: second}, stay: []Snapshot{base}, unneeded: beside}, 1},
		"a snapshot on the branch":                      {needCase{rows: branch, histories: texts{2: inside}, stay: []Snapshot{base, whole(snapshotAt(2, 8))}, unneeded: beside + " 2:7-7"}, 2},
		"one whose WAL did not come":                    {needCase{rows: branch, histories: texts{2: inside}, stay: []Snapshot{base, snapshotAt(2, 8)}, unneeded: beside}, 1},
		"a wide one is older":                           {needCase{rows: branch, histories: texts{2: inside}, stay: []Snapshot{base, snapshotAt(1, 7), whole(snapshotAt(2, 8))}, unneeded: "1:1-4"}, 1},
		"a snapshot on the branch that is narrow":       {needCase{rows: branch, histories: texts{2: inside}, stay: []Snapshot{base, snapshotAt(1, 7), whole(narrowAt(2, 8, 8))}, unneeded: "1:1-4 2:7-7 2:9-9"}, 2},
		"a snapshot on the branch of the branch":        {needCase{rows: two, histories: texts{2: inside, 3: second}, stay: []Snapshot{base, whole(snapshotAt(3, 10))}, unneeded: beside + " 3:8-9"}, 1},
		"one that does not lead to the newest timeline": {needCase{rows: two, histories: texts{2: inside, 3: second}, stay: []Snapshot{base, whole(snapshotAt(2, 9))}, unneeded: beside}, 1},
		"the branch's beginning is gone":                {needCase{rows: rows{1: {1, 8}, 2: {7, 9}}, histories: texts{2: inside}, stay: []Snapshot{base}, unneeded: beside + " 2:7-9"}, 0},
		"a timeline left before the base's end":         {needCase{rows: branch, histories: texts{2: forkAt(6, 4999)}, stay: []Snapshot{base}, unneeded: beside + " 2:7-9"}, 0},
		"the base leaves":                               {needCase{rows: branch, histories: texts{2: inside}, leave: []Snapshot{base}, unneeded: beside, parting: "1:5-6 2:6-9"}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			a, _ := newArchive()
			c.push(t, a)
			got := uses(t, a, c.judge(a))
			if u, p := spelt(got[Unneeded]), spelt(got[Parting]); u != c.unneeded || p != c.parting {
				t.Errorf("unneeded %q and not %q; parting %q and not %q", u, c.unneeded, p, c.parting)
			}
			c.agrees(t, a, got[Needed])
			there := scan(t, a)
			timelines := there.Timelines()
			newest := timelines[len(timelines)-1]
			var found []Window
			for _, w := range windows(t, a, c.stay...) {
				if w.Timeline == newest {
					found = append(found, w)
				}
			}
			if len(found) != c.windows || c.windows > 0 && found[c.windows-1].ToTime.Before(minute(8)) {
				t.Errorf("windows on timeline %d: %+v", newest, found)
			}
			for _, tli := range timelines {
				if gaps := there.NeededGaps(tli, c.stay); len(gaps) > 0 && c.windows > 0 {
					t.Errorf("gaps: %+v", gaps)
				}
			}
		})
	}
}

func TestABranchIsNotGivenOverWhileAHistoryCannotBeRead(t *testing.T) {
	inside := fmt.Sprintf("1\t%s\tx\n", at(6, 6000))
	c := needCase{rows: rows{2: {6, 9}}, histories: texts{2: inside, 3: inside + fmt.Sprintf("2\t%s\tx\n", at(8, 100))},
		stay: []Snapshot{narrowAt(1, 5, 6), whole(snapshotAt(2, 9))}}
	a, m := newArchive()
	c.push(t, a)
	m.damaged = a.Key(Name{History, 3, "00000003.history"})
	if got := uses(t, a, c.judge(a)); len(got[Needed]) != 6 {
		t.Errorf("%v", got)
	}
}

// TestABranchBehindAGapInTheNumbersKeepsWhatLeadsToIt: 4 leaves 2 in front of the snapshot that takes 2 over, and 3 is not there: its history was damaged, and removed.
func TestABranchBehindAGapInTheNumbersKeepsWhatLeadsToIt(t *testing.T) {
	inside := fmt.Sprintf("1\t%s\tx\n", at(6, 6000))
	third := inside + fmt.Sprintf("2\t%s\tx\n", at(11, 100))
	fourth := inside + fmt.Sprintf("2\t%s\tx\n", at(8, 100))
	stay := []Snapshot{narrowAt(1, 5, 6), whole(snapshotAt(2, 10))}
	for name, c := range map[string]struct {
		needCase
		damaged string // a history
		lists   int    // besides the listing that is judged
	}{
		"every number is there":             {needCase{rows: rows{1: {1, 8}, 2: {6, 12}, 4: {8, 12}}, histories: texts{2: inside, 3: third, 4: fourth}, unneeded: "1:1-4 1:7-8"}, "", 1},
		"a gap":                             {needCase{rows: rows{1: {1, 8}, 2: {6, 12}, 4: {8, 12}}, histories: texts{2: inside, 4: fourth}, unneeded: "1:1-4 1:7-8"}, "", 1},
		"a gap, and a branch that ended":    {needCase{rows: rows{1: {1, 8}, 2: {6, 12}}, histories: texts{2: inside, 4: third}, unneeded: "1:1-4 1:7-8 2:7-9"}, "", 1},
		"a gap, and a damaged history":      {needCase{rows: rows{1: {1, 8}, 2: {6, 12}}, histories: texts{2: inside, 4: fourth}, unneeded: "1:1-4 1:7-8"}, "00000004.history", 1},
		"WAL of a timeline without one":     {needCase{rows: rows{1: {1, 8}, 2: {6, 12}, 4: {8, 12}}, histories: texts{2: inside}, unneeded: "1:1-4 1:7-8"}, "", 1},
		"no snapshot takes the branch over": {needCase{rows: rows{1: {1, 8}, 2: {6, 12}, 4: {8, 12}}, histories: texts{2: inside, 4: fourth}, stay: stay[:1], unneeded: "1:1-4 1:7-8"}, "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			a, m := newArchive()
			c.push(t, a)
			if c.damaged != "" {
				m.damaged = a.prefix() + c.damaged
			}
			if c.stay == nil {
				c.stay = stay
			}
			got := uses(t, a, c.judge(a))
			if u := spelt(got[Unneeded]); u != c.unneeded {
				t.Errorf("unneeded %q and not %q", u, c.unneeded)
			}
			if m.lists != 1+c.lists {
				t.Errorf("listed %d times", m.lists)
			}
			there := scan(t, a)
			h, _ := there.History(2)
			for _, w := range there.needed(h, c.stay) {
				for n := max(w.First, 6); n <= min(w.Last, 12); n++ {
					if name := segmentName(2, n); !slices.Contains(got[Needed], name) {
						t.Errorf("readers hold %s for needed", name)
					}
				}
			}
		})
	}
}
