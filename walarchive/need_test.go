package walarchive

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/pgtrove/pgtrove/internal/pg"
)

// narrowAt is snapshotAt, of which only its own moment is kept; it stops in segment last.
func narrowAt(tli pg.Timeline, n, last uint64) Snapshot {
	s := snapshotAt(tli, n)
	s.StopLSN, s.Narrow = at(last, 5000), true
	return s
}

// uses judges everything in the archive.
func uses(t *testing.T, a Archive, j *Judge) map[Use][]string {
	t.Helper()
	got := map[Use][]string{}
	if err := a.Objects.List(t.Context(), Prefix, func(key string, _ int64) error {
		use, _, err := j.Use(t.Context(), key)
		got[use] = append(got[use], key[strings.LastIndex(key, "/")+1:])
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return got
}

// spelt writes segments of a timeline as ranges: "1:3-5 2:7".
func spelt(files []string) string {
	var out []string
	c := &Coverage{SegmentSize: testSize, timelines: map[pg.Timeline]*timeline{}}
	a, _ := newArchive()
	for _, f := range files {
		n, err := ParseName(f)
		if err != nil || n.Kind != Segment {
			out = append(out, f)
			continue
		}
		c.addWhole(a.Key(n))
	}
	var rows []string
	for _, tli := range c.Timelines() {
		for _, s := range c.Spans(tli) {
			rows = append(rows, fmt.Sprintf("%d:%d-%d", tli, s.First, s.Last))
		}
	}
	return strings.Join(append(rows, out...), " ")
}

func TestWALIsNeededFromEachSnapshotOnAndOnTheTimelinesThatDescend(t *testing.T) {
	forkInside := fmt.Sprintf("1\t%s\tx\n", at(6, 700))
	forkEarly := fmt.Sprintf("1\t%s\tx\n", at(3, 700))
	forkOfFork := forkInside + fmt.Sprintf("2\t%s\tx\n", at(9, 100))
	standby := snapshotAt(1, 5) // begins at a restart point before the switch, ends behind it
	standby.StopTimeline, standby.StopLSN = 2, at(8, 100)
	standbyNarrow := standby
	standbyNarrow.Narrow = true
	boundary := narrowAt(1, 3, 4)
	boundary.StopLSN = at(5, 0)
	long := narrowAt(1, 2, 5)
	for name, c := range map[string]needCase{
		"before the oldest":                      {rows: rows{1: {1, 9}}, stay: []Snapshot{snapshotAt(1, 4), snapshotAt(1, 7)}, unneeded: "1:1-3"},
		"between narrow ones and the oldest":     {rows: rows{1: {1, 9}}, stay: []Snapshot{narrowAt(1, 2, 2), narrowAt(1, 4, 5), snapshotAt(1, 7)}, unneeded: "1:1-1 1:3-3 1:6-6"},
		"narrow ones only":                       {rows: rows{1: {1, 9}}, stay: []Snapshot{narrowAt(1, 4, 5)}, unneeded: "1:1-3 1:6-9"},
		"narrow ones that overlap":               {rows: rows{1: {1, 9}}, stay: []Snapshot{long, narrowAt(1, 4, 6)}, unneeded: "1:1-1 1:7-9"},
		"a narrow one behind the oldest":         {rows: rows{1: {1, 9}}, stay: []Snapshot{snapshotAt(1, 3), narrowAt(1, 5, 5)}, unneeded: "1:1-2"},
		"a stop on a boundary":                   {rows: rows{1: {1, 9}}, stay: []Snapshot{boundary}, unneeded: "1:1-2 1:5-9"},
		"what leaves is told apart":              {rows: rows{1: {1, 9}}, stay: []Snapshot{snapshotAt(1, 7)}, leave: []Snapshot{narrowAt(1, 2, 2), snapshotAt(1, 4)}, unneeded: "1:1-1 1:3-3", parting: "1:2-2 1:4-6"},
		"the last one leaves":                    {rows: rows{1: {1, 9}}, leave: []Snapshot{snapshotAt(1, 4)}, unneeded: "1:1-3", parting: "1:4-9"},
		"a timeline forks inside a segment":      {rows: rows{1: {1, 8}, 2: {6, 9}}, histories: texts{2: forkInside}, stay: []Snapshot{snapshotAt(1, 4)}, unneeded: "1:1-3"},
		"the snapshot begins where it forks":     {rows: rows{1: {1, 8}, 2: {6, 9}}, histories: texts{2: forkInside}, stay: []Snapshot{snapshotAt(1, 6)}, unneeded: "1:1-5"},
		"a snapshot of the new timeline":         {rows: rows{1: {1, 8}, 2: {6, 9}}, histories: texts{2: forkInside}, stay: []Snapshot{snapshotAt(2, 8)}, unneeded: "1:1-8 2:6-7"},
		"a fork before the snapshot":             {rows: rows{1: {1, 8}, 2: {3, 9}}, histories: texts{2: forkEarly}, stay: []Snapshot{snapshotAt(1, 5)}, unneeded: "1:1-4 2:3-9"},
		"a fork of a fork":                       {rows: rows{1: {1, 8}, 2: {6, 9}, 3: {9, 12}}, histories: texts{2: forkInside, 3: forkOfFork}, stay: []Snapshot{snapshotAt(1, 4)}, unneeded: "1:1-3"},
		"two lineages of one timeline":           {rows: rows{1: {1, 8}, 2: {6, 9}, 3: {3, 7}}, histories: texts{2: forkInside, 3: forkEarly}, stay: []Snapshot{snapshotAt(2, 8), snapshotAt(3, 5)}, unneeded: "1:1-8 2:6-7 3:3-4"},
		"a standby that began before the switch": {rows: rows{1: {1, 8}, 2: {6, 9}}, histories: texts{2: forkInside}, stay: []Snapshot{standby}, unneeded: "1:1-4"},
		"likewise, narrow":                       {rows: rows{1: {1, 8}, 2: {6, 9}}, histories: texts{2: forkInside}, stay: []Snapshot{standbyNarrow}, unneeded: "1:1-4 2:9-9"},
		"a narrow one whose end a fork holds":    {rows: rows{1: {1, 8}, 2: {6, 9}}, histories: texts{2: forkInside}, stay: []Snapshot{narrowAt(1, 5, 6)}, unneeded: "1:1-4 1:7-8 2:7-9"},
		"a history that is not there":            {rows: rows{1: {1, 8}, 2: {3, 9}}, stay: []Snapshot{snapshotAt(1, 5)}, unneeded: "1:1-4"},
		"no snapshot ever":                       {rows: rows{1: {1, 8}}},
	} {
		t.Run(name, func(t *testing.T) {
			a, _ := newArchive()
			c.push(t, a)
			j := c.judge(a)
			got := uses(t, a, j)
			if u, p := spelt(got[Unneeded]), spelt(got[Parting]); u != c.unneeded || p != c.parting {
				t.Errorf("unneeded %q and not %q; parting %q and not %q", u, c.unneeded, p, c.parting)
			}
			if none := len(c.stay)+len(c.leave) == 0; none != (len(got[Unclaimed]) > 0) {
				t.Errorf("unclaimed: %v", got[Unclaimed])
			}
			if doubts := len(j.Doubts()); (doubts > 0) != strings.Contains(name, "not there") {
				t.Errorf("%v", j.Doubts())
			}
			c.agrees(t, a, got[Needed])
		})
	}
}

type (
	rows  = map[pg.Timeline][2]uint64
	texts = map[pg.Timeline]string
)

// needCase is an archive with snapshots, and what nobody needs of it.
type needCase struct {
	rows        rows
	histories   texts
	stay, leave []Snapshot
	unneeded    string
	parting     string
}

func (c needCase) push(t *testing.T, a Archive) {
	t.Helper()
	for tli, r := range c.rows {
		pushSegments(t, a, tli, r[0], r[1])
	}
	for tli, text := range c.histories {
		pushHistory(t, a, tli, text)
	}
}

func (c needCase) judge(a Archive) *Judge {
	j := NewJudge(a.Objects)
	for _, s := range c.stay {
		j.Add(a.Cluster, a.System, testSize, s, true)
	}
	for _, s := range c.leave {
		j.Add(a.Cluster, a.System, testSize, s, false)
	}
	return j
}

// agrees makes sure that what recovery asks for is needed: every file on the way from each snapshot that stays to each timeline.
func (c needCase) agrees(t *testing.T, a Archive, needed []string) {
	t.Helper()
	there := scan(t, a)
	for _, s := range c.stay {
		for _, tli := range there.Timelines() {
			p := there.PathTo(tli)
			if !p.Contains(s) {
				continue
			}
			end := at(20, 0)
			if s.Narrow {
				end = s.StopLSN
			}
			for _, seg := range p.Segments(s.StartLSN, end) {
				if name := seg.Name(testSize); there.Has(seg) && !slices.Contains(needed, name) {
					t.Errorf("recovery from snapshot %s to timeline %d asks for %s", s.ID, tli, name)
				}
			}
		}
	}
}

func TestFilesBesideASegmentShareItsFate(t *testing.T) {
	a, m := newArchive()
	pushSegments(t, a, 1, 1, 8)
	for _, n := range []uint64{2, 7} {
		push(t, a, segmentName(1, n)+".partial", content(0), segmentFacts(1, n))
		push(t, a, segmentName(1, n)+".00000028.backup", []byte("x"), Facts{})
	}
	pushHistory(t, a, 2, fmt.Sprintf("1\t%s\tx\n", at(1, 700)))
	odd := a.prefix() + "00000001/" + segmentName(1, 2) + ".what"
	m.files[odd] = memFile{}
	m.files[a.prefix()+"00000001/0000000100000000FFFFFFFF"] = memFile{} // of segments of another size
	other := a
	other.System++
	pushSegments(t, other, 1, 1, 1)
	j := NewJudge(a.Objects)
	j.Add(a.Cluster, a.System, testSize, snapshotAt(1, 3), true)
	got := uses(t, a, j)
	for use, want := range map[Use][]string{
		Unneeded:  {segmentName(1, 1), segmentName(1, 2), segmentName(1, 2) + ".00000028.backup", segmentName(1, 2) + ".partial"},
		Unclaimed: {segmentName(1, 1)},
	} {
		if !slices.Equal(got[use], want) {
			t.Errorf("use %d: %v, want %v", use, got[use], want)
		}
	}
	if len(got[Needed]) != len(m.files)-5 {
		t.Errorf("needed: %v", got[Needed])
	}
}

func TestWhatCannotBeJudgedIsKept(t *testing.T) {
	fork := fmt.Sprintf("1\t%s\tx\n", at(1, 700))
	for name, change := range map[string]func(a Archive, m *memObjects, j *Judge){
		"a history is damaged": func(a Archive, m *memObjects, _ *Judge) {
			m.damaged = a.Key(Name{History, 2, "00000002.history"})
		},
		"a history is no history": func(a Archive, m *memObjects, _ *Judge) {
			key := a.Key(Name{History, 2, "00000002.history"})
			m.files[key] = m.files[a.Key(Name{Segment, 2, segmentName(2, 2)})]
		},
		"a manifest is damaged": func(a Archive, _ *memObjects, j *Judge) { j.Spare(a.Cluster) },
		"a snapshot does not say where it began": func(a Archive, _ *memObjects, j *Judge) {
			j.Add(a.Cluster, a.System, testSize, Snapshot{}, true)
		},
		"segments have two sizes": func(a Archive, _ *memObjects, j *Judge) {
			j.Add(a.Cluster, a.System, 2*testSize, snapshotAt(1, 3), true)
		},
	} {
		a, m := newArchive()
		pushSegments(t, a, 2, 1, 4)
		pushHistory(t, a, 2, fork)
		judge := func() *Judge {
			j := NewJudge(a.Objects)
			j.Add(a.Cluster, a.System, testSize, snapshotAt(1, 3), true)
			return j
		}
		if got := uses(t, a, judge()); len(got[Unneeded]) != 4 {
			t.Fatalf("%v", got)
		}
		j := judge()
		change(a, m, j)
		if got := uses(t, a, j); len(got[Needed]) != 5 {
			t.Errorf("%s: %v", name, got)
		}
	}
	a, _ := newArchive()
	pushSegments(t, a, 2, 1, 4)
	pushHistory(t, a, 2, fork)
	j := NewJudge(silent{a.Objects})
	j.Add(a.Cluster, a.System, testSize, snapshotAt(1, 3), true)
	err := a.Objects.List(t.Context(), Prefix, func(key string, _ int64) error {
		_, _, err := j.Use(t.Context(), key)
		return err
	})
	if !errors.Is(err, errDown) {
		t.Errorf("a storage that does not answer: %v", err)
	}
}

var errDown = errors.New("down")

// silent is a storage that lists, and answers nothing else.
type silent struct{ Objects }

func (silent) ArchiveHeader(context.Context, string) ([]byte, int64, error) { return nil, 0, errDown }

func TestWhatWasRemovedBecauseNothingNeedsItIsNoGap(t *testing.T) {
	a, _ := newArchive()
	pushSegments(t, a, 1, 2, 3)
	pushSegments(t, a, 1, 6, 6)
	pushSegments(t, a, 1, 8, 9)
	c := scan(t, a)
	spans := func(snapshots ...Snapshot) (all []Span) {
		for _, g := range c.NeededGaps(1, snapshots) {
			all = append(all, g.Span)
		}
		return all
	}
	for what, got := range map[string][]Span{
		"narrow ones":                spans(narrowAt(1, 2, 3), narrowAt(1, 6, 6), snapshotAt(1, 8)),
		"a narrow one that lacks 4":  spans(narrowAt(1, 2, 4), snapshotAt(1, 8)),
		"one that is not narrow":     spans(snapshotAt(1, 2), snapshotAt(1, 8)),
		"no snapshots":               spans(),
		"one that begins in the gap": spans(snapshotAt(1, 5)),
	} {
		want := map[string][]Span{
			"a narrow one that lacks 4": {{1, 4, 4}}, "one that is not narrow": {{1, 4, 5}, {1, 7, 7}}, "one that begins in the gap": {{1, 5, 5}, {1, 7, 7}},
		}[what]
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
}

func TestTheWindowOfANarrowSnapshotIsItsOwnMoment(t *testing.T) {
	a, _ := newArchive()
	pushSegments(t, a, 1, 1, 9)
	all := maps.Collect(slices.All(windows(t, a, narrowAt(1, 2, 3), snapshotAt(1, 7), narrowAt(1, 8, 8))))
	if len(all) != 2 || all[0].FromLSN != at(3, 5000) || all[0].ToLSN != at(4, 0) || all[1].FromLSN != at(7, 5000) || all[1].ToLSN != at(10, 0) {
		t.Errorf("%+v", all)
	}
	// In one segment with the next, it is the beginning of its window.
	if got := windows(t, a, narrowAt(1, 6, 7), snapshotAt(1, 7)); len(got) != 1 || got[0].ToLSN != at(10, 0) {
		t.Errorf("%+v", got)
	}
}

func TestAFileFollowsTheOneBeforeUnlessASegmentIsMissingBetween(t *testing.T) {
	a, _ := newArchive()
	pushSegments(t, a, 1, 2, 3)
	push(t, a, segmentName(1, 3)+".partial", content(0), segmentFacts(1, 3))
	pushSegments(t, a, 1, 4, 4)
	pushSegments(t, a, 1, 6, 7)
	pushHistory(t, a, 2, fmt.Sprintf("1\t%s\tx\n", at(1, 700)))
	pushSegments(t, a, 2, 3, 3)
	j := NewJudge(a.Objects)
	j.Add(a.Cluster, a.System, testSize, snapshotAt(1, 7), true)
	var got []bool
	if err := a.Objects.List(t.Context(), Prefix, func(key string, _ int64) error {
		_, follows, err := j.Use(t.Context(), key)
		got = append(got, follows)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if want := []bool{true, true, true, true, false, true, false, true}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
