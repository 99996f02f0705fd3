package walarchive

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/pgtrove/pgtrove/internal/pg"
)

// headers is memObjects of which headers are read often.
type headers struct{ *memObjects }

func (l headers) ArchiveHeader(_ context.Context, key string) ([]byte, int64, error) {
	f, ok := l.files[key]
	if !ok {
		return nil, 0, fmt.Errorf("get %s: %w", key, ErrNotExist)
	}
	return f.header, int64(len(f.content)), nil
}

// chance makes archives of a few timelines with gaps, and snapshots in them.
type chance struct {
	*rand.Rand
	a     Archive
	m     *memObjects
	ways  map[pg.Timeline]pg.History
	begin map[pg.Timeline]uint64 // first segment
	count int                    // of timelines
}

// lastSegment is where the longest timeline ends.
const lastSegment = 13

// fork lets a timeline begin on one before it.
func (c *chance) fork(t *testing.T, tli pg.Timeline) {
	parent := pg.Timeline(1 + c.IntN(int(tli)-1))
	from, _, _ := c.ways[parent].Bounds(parent)
	lsn := max(at(min(11, c.begin[parent]+uint64(c.IntN(6))), []uint64{0, 6000, 4000, 5000}[c.IntN(4)]), from+100)
	text := ""
	for _, s := range c.ways[parent][:len(c.ways[parent])-1] {
		text += fmt.Sprintf("%d\t%s\tx\n", s.Timeline, s.LSN)
	}
	text += fmt.Sprintf("%d\t%s\tx\n", parent, lsn)
	h, err := pg.ParseHistory(tli, []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	c.ways[tli], c.begin[tli] = h, uint64(lsn)/uint64(testSize)
	if c.IntN(8) > 0 {
		pushHistory(t, c.a, tli, text)
	}
}

// fill takes segments, with gaps, from an archive that has all.
func (c *chance) fill(from *memObjects) {
	for tli := pg.Timeline(1); int(tli) <= c.count; tli++ {
		if c.IntN(8) == 0 {
			continue
		}
		for n := c.begin[tli]; n <= min(lastSegment, c.begin[tli]+uint64(c.IntN(8))); n++ {
			if key := c.a.Key(Name{Segment, tli, segmentName(tli, n)}); c.IntN(15) > 0 {
				c.m.files[key] = from.files[key]
			}
		}
	}
}

func (c *chance) snapshot(there *Coverage, id int) Snapshot {
	tli := pg.Timeline(1 + c.IntN(c.count))
	begin, _, _ := c.ways[tli].Bounds(tli)
	s := Snapshot{ID: fmt.Sprint(id), Timeline: tli, StopTimeline: tli, StartLSN: max(at(c.begin[tli]+uint64(c.IntN(6)), 40), begin+40), Narrow: c.IntN(2) == 0}
	s.StopLSN = max(at(uint64(s.StartLSN)/uint64(testSize)+uint64(c.IntN(2)), 5000), s.StartLSN+100)
	if tli > 1 && c.IntN(4) == 0 { // a standby's, that began before the switch
		parent := c.ways[tli][len(c.ways[tli])-2].Timeline
		begin, end, _ := c.ways[parent].Bounds(parent)
		if from := max(at(c.begin[parent], 40), begin+40); from < end && s.StopLSN > end {
			s.Timeline, s.StartLSN = parent, from
		}
	}
	s.StopTime = minute(uint64(s.StopLSN) / uint64(testSize))
	s.Complete = len(there.MissingOf(s)) == 0
	return s
}

// windowsKept writes out the windows.
func windowsKept(t *testing.T, a Archive, snapshots []Snapshot) (all []string) {
	t.Helper()
	for _, w := range windows(t, a, snapshots...) {
		all = append(all, fmt.Sprintf("%d %s-%s", w.Timeline, w.FromLSN, w.ToLSN))
	}
	return all
}

// TestWithoutWhatNobodyNeedsEveryWindowIsAsItWas also holds the judge against what readers take for needed.
func TestWithoutWhatNobodyNeedsEveryWindowIsAsItWas(t *testing.T) {
	all, from := newArchive()
	for tli := pg.Timeline(1); tli <= 5; tli++ {
		pushSegments(t, all, tli, 1, lastSegment)
	}
	goes := 0
	for seed := range uint64(3000) {
		c := &chance{Rand: rand.New(rand.NewPCG(seed, 7)), ways: map[pg.Timeline]pg.History{1: pg.NewHistory(1)}, begin: map[pg.Timeline]uint64{1: 1}}
		c.a, c.m = newArchive()
		c.a.Objects, c.count = headers{c.m}, 1+c.IntN(5)
		for tli := pg.Timeline(2); int(tli) <= c.count; tli++ {
			c.fork(t, tli)
		}
		c.fill(from)
		before := scan(t, c.a)
		var stay []Snapshot
		for id := range 1 + c.IntN(4) {
			stay = append(stay, c.snapshot(before, id))
		}
		want := windowsKept(t, c.a, stay)
		judge := func() map[Use][]string { return uses(t, c.a, needCase{stay: stay}.judge(c.a)) }
		got := judge()
		for _, tli := range before.Timelines() {
			h, known := before.History(tli)
			for _, w := range before.needed(h, stay) {
				for n := max(w.First, 1); known && n <= min(w.Last, lastSegment); n++ {
					if slices.Contains(got[Unneeded], segmentName(tli, n)) {
						t.Fatalf("seed %d: readers hold %s for needed", seed, segmentName(tli, n))
					}
				}
			}
		}
		for _, file := range got[Unneeded] {
			n, err := ParseName(file)
			if err != nil {
				t.Fatal(err)
			}
			delete(c.m.files, c.a.Key(n))
			goes++
		}
		if left := windowsKept(t, c.a, stay); !slices.Equal(left, want) {
			t.Fatalf("seed %d: windows %v, before %v", seed, left, want)
		}
		after := scan(t, c.a)
		for _, s := range stay {
			if s.Complete && len(after.MissingOf(s)) > 0 {
				t.Fatalf("seed %d: snapshot %s lost its own WAL", seed, s.ID)
			}
		}
		if more := judge()[Unneeded]; len(more) > 0 {
			t.Fatalf("seed %d: without it, nobody needs %v", seed, more)
		}
	}
	if goes < 1000 {
		t.Errorf("only %d files go", goes)
	}
}
