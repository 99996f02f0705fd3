package restore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/snapshot"
	"github.com/pgtrove/pgtrove/walarchive"
)

const (
	segSize = pg.MinSegmentSize
	system  = pg.SystemID(7300000000000000001)
)

// walHeaders is an archive of headers without contents.
type walHeaders struct {
	headers map[string][]byte
	sizes   map[string]int // of contents
	read    int
}

func (w *walHeaders) PutArchive(_ context.Context, key string, header, content []byte) (bool, error) {
	w.headers[key], w.sizes[key] = header, len(content)
	return false, nil
}

func (w *walHeaders) ArchiveHeader(_ context.Context, key string) ([]byte, int64, error) {
	h, ok := w.headers[key]
	if !ok {
		return nil, 0, fmt.Errorf("%s: %w", key, walarchive.ErrNotExist)
	}
	return h, int64(w.sizes[key]), nil
}

func (w *walHeaders) GetArchive(context.Context, string) ([]byte, []byte, error) {
	panic("a choice reads no contents")
}

func (w *walHeaders) List(_ context.Context, prefix string, fn func(string, int64) error) error {
	for _, k := range slices.Sorted(maps.Keys(w.headers)) {
		if strings.HasPrefix(k, prefix) {
			if err := fn(k, 1); err != nil {
				return err
			}
		}
	}
	return nil
}

// world is an archive and snapshots. Segment n has commits from minute n to just before n+1, of transactions 100n to
// 100n+99, unless a test says otherwise.
type world struct {
	t         *testing.T
	objects   *walHeaders
	archive   walarchive.Archive
	snapshots []*snapshot.Manifest
	empty     []byte
}

func newWorld(t *testing.T) *world {
	w := &walHeaders{headers: map[string][]byte{}, sizes: map[string]int{}}
	return &world{
		t: t, objects: w, archive: walarchive.Archive{Objects: w, Cluster: "main", System: system}, empty: make([]byte, segSize),
	}
}

func minute(n float64) time.Time {
	return time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(n * float64(time.Minute)))
}

func lsn(n uint64, bytes uint64) pg.LSN { return pg.LSN(n*uint64(segSize) + bytes) }

func (w *world) segment(tli pg.Timeline, n uint64, change func(*walarchive.Facts)) {
	w.t.Helper()
	s := pg.Segment{Timeline: tli, Number: n}
	f := walarchive.Facts{
		SegmentSize: segSize, Major: 15, FirstCommit: minute(float64(n)), LastCommit: minute(float64(n) + 0.9),
		MinXID: uint32(100 * n), MaxXID: uint32(100*n + 99), End: s.End(segSize),
	}
	if change != nil {
		change(&f)
	}
	if _, err := w.archive.Push(w.t.Context(), s.Name(segSize), w.empty, f); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) segments(tli pg.Timeline, first, last uint64) {
	w.t.Helper()
	for n := first; n <= last; n++ {
		w.segment(tli, n, nil)
	}
}

func (w *world) history(tli pg.Timeline, text string) {
	w.t.Helper()
	if _, err := w.archive.Push(w.t.Context(), tli.HistoryName(), []byte(text), walarchive.Facts{}); err != nil {
		w.t.Fatal(err)
	}
}

// snapshot begins and ends in segment n, in the middle of its minute.
func (w *world) snapshot(tli pg.Timeline, n uint64) *snapshot.Manifest {
	m := &snapshot.Manifest{
		ID: fmt.Sprintf("s%d", n), Server: snapshot.Server{SystemID: system},
		Window: snapshot.Window{
			Timeline: tli, StopTimeline: tli, StartLSN: lsn(n, 40), StopLSN: lsn(n, 500_000),
			StopTime: minute(float64(n) + 0.5), NextXID: 100*n + 50,
		},
	}
	w.snapshots = append(w.snapshots, m)
	return m
}

func (w *world) chooser() *Chooser {
	w.t.Helper()
	c, err := w.archive.Scan(w.t.Context(), segSize)
	if err != nil {
		w.t.Fatal(err)
	}
	return &Chooser{Snapshots: w.snapshots, Coverage: c, Headers: w.archive}
}

// chooses expects a snapshot, or for "" that the target is unreachable, for a reason with these words.
func (w *world) chooses(t Target, given *snapshot.Manifest, want string, words ...string) *Choice {
	w.t.Helper()
	c := w.chooser()
	c.Given = given
	got, err := c.Choose(w.t.Context(), t)
	if want == "" {
		var u *UnreachableError
		if !errors.As(err, &u) || !errors.Is(err, ErrUnreachable) {
			w.t.Errorf("%s: got %+v, %v", t, got, err)
			return nil
		}
		for _, word := range words {
			if all := err.Error() + "; " + u.Nearest(); !strings.Contains(all, word) {
				w.t.Errorf("%s: %q is not in: %s", t, word, all)
			}
		}
		return nil
	}
	if err != nil {
		w.t.Errorf("%s: %v", t, err)
		return nil
	}
	if got.Snapshot.ID != want {
		w.t.Errorf("%s: chose %s, want %s", t, got.Snapshot.ID, want)
	}
	for _, word := range words {
		if all := got.Reason + "; " + strings.Join(got.Warnings, "; "); !strings.Contains(all, word) {
			w.t.Errorf("%s: %q is not in: %s", t, word, all)
		}
	}
	return got
}

func atTime(n float64) Target { return Target{Kind: AtTime, Time: minute(n)} }
func atLSN(l pg.LSN) Target   { return Target{Kind: AtLSN, LSN: l} }
func atXID(x uint64) Target   { return Target{Kind: AtXID, XID: x} }
func atName(s string) Target  { return Target{Kind: AtName, Name: s} }

func exclusive(t Target) Target { t.Exclusive = true; return t }

func on(t Target, tli pg.Timeline) Target { t.Timeline = TimelineGoal{Number: tli}; return t }

func TestTheNewestSnapshotBeforeTheTargetIsChosen(t *testing.T) {
	w := newWorld(t)
	w.segments(1, 1, 9)
	s2, s5 := w.snapshot(1, 2), w.snapshot(1, 5)

	w.chooses(Target{}, nil, "s5", "newest")
	w.chooses(Target{}, s2, "s2", "asked for")
	w.chooses(Target{Kind: Immediate}, nil, "s5")

	w.chooses(atTime(5.4), nil, "s2")
	w.chooses(atTime(5.5), nil, "s5", "ends before the target")
	w.chooses(atTime(9.8), nil, "s5")
	w.chooses(atTime(9.8), s2, "s2")
	w.chooses(atTime(2.4), nil, "", "s2", "ends behind it", "begins at 2026-05-01 00:02:30Z")
	w.chooses(atTime(5.4), s5, "", "s5", "00:05:30Z")
	w.chooses(atTime(9.9), nil, "", "last commit at 2026-05-01 00:09:54Z", "end of the archive")
	w.chooses(exclusive(atTime(9.9)), nil, "s5")
	w.chooses(atTime(20), nil, "", "last commit at 2026-05-01 00:09:54Z")

	w.chooses(atLSN(lsn(5, 499_999)), nil, "s2")
	w.chooses(atLSN(lsn(5, 500_000)), nil, "s5")
	w.chooses(atLSN(lsn(9, 1_000_000)), nil, "s5")
	w.chooses(atLSN(lsn(10, 0)), nil, "", "ending at "+lsn(10, 0).String())
	w.chooses(atLSN(lsn(2, 0)), nil, "", "ends behind it")

	w.chooses(atXID(549), nil, "s2")
	w.chooses(atXID(550), nil, "s5")
	w.chooses(atXID(249), nil, "", "next transaction 250")
	w.chooses(atXID(1000), nil, "", "no sign that the transaction ended")
}

func TestTransactionsAreComparedAcrossEpochs(t *testing.T) {
	w := newWorld(t)
	w.segment(1, 1, nil)
	w.segment(1, 2, func(f *walarchive.Facts) { f.MinXID, f.MaxXID = 1<<32-50, 20 })
	w.segment(1, 3, nil)
	w.snapshot(1, 1).Window.NextXID = 4<<32 - 100
	w.chooses(atXID(1<<32-10), nil, "s1") // as PostgreSQL's log shows it
	w.chooses(atXID(10), nil, "s1")       // after the wrap
	w.chooses(atXID(4<<32+10), nil, "s1") // the full ID
	w.chooses(atXID(1<<32-200), nil, "")  // before the snapshot
	w.chooses(atXID(4<<32-200), nil, "")  //
	w.chooses(atXID(4<<32+1000), nil, "") // never seen
}

func TestATargetInAGapIsRefusedWithWhatIsNearby(t *testing.T) {
	w := newWorld(t)
	w.segments(1, 1, 4)
	w.segments(1, 7, 9)
	w.snapshot(1, 2)
	w.chooses(atTime(6.5), nil, "", "gap", "00:04:54Z", segmentFile(1, 5), segmentFile(1, 7))
	w.snapshot(1, 8)
	w.chooses(atTime(6.5), nil, "", "gap", "up to 2026-05-01 00:04:54Z", "from 2026-05-01 00:08:30Z")
	w.chooses(atLSN(lsn(6, 0)), nil, "", "gap", "up to", "from 2026-05-01 00:08:30Z")
	w.chooses(atTime(4.8), nil, "s2")
	w.chooses(atTime(8.8), nil, "s8")
	w.chooses(Target{}, w.snapshots[0], "s2", "gap", segmentFile(1, 5))
	w.chooses(Target{}, nil, "s8")
}

func segmentFile(tli pg.Timeline, n uint64) string {
	return pg.Segment{Timeline: tli, Number: n}.Name(segSize)
}

func TestASnapshotWithoutItsWALIsPassedOver(t *testing.T) {
	w := newWorld(t)
	w.segments(1, 1, 5)
	w.snapshot(1, 3)
	w.snapshot(1, 7)
	w.chooses(Target{}, nil, "s3", "s7 was passed over", segmentFile(1, 7))
	w.chooses(Target{}, w.snapshots[1], "", "s7", segmentFile(1, 7))
	w.chooses(atTime(4.1), nil, "s3")
	w.chooses(atTime(8), nil, "", "s7", segmentFile(1, 7), "ends at 2026-05-01 00:05:54Z")
}

func TestTheTimelineDecidesWhichSnapshotsCount(t *testing.T) {
	w := newWorld(t)
	w.segments(1, 1, 8) // the old server went on after the switch in segment 5
	w.history(2, fmt.Sprintf("1\t%s\tno recovery target specified\n", lsn(5, 600_000)))
	w.segments(2, 5, 9)
	s2, s5, s7 := w.snapshot(1, 2), w.snapshot(1, 5), w.snapshot(1, 7)

	c := w.chooses(Target{}, nil, "s5", "s7 was passed over", "timeline 2 cannot be followed")
	if c != nil && c.Timeline != 2 {
		t.Errorf("follows timeline %d", c.Timeline)
	}
	w.chooses(Target{}, s7, "", "timeline 2 cannot be followed")
	w.chooses(on(Target{}, 1), nil, "s7")
	w.chooses(Target{Timeline: TimelineGoal{Current: true}}, nil, "s7")
	w.chooses(on(Target{}, 2), s2, "s2")
	w.chooses(on(Target{}, 3), nil, "", "timeline 3", "does not know")
	w.chooses(atTime(9.5), nil, "s5")
	w.chooses(on(atTime(8.5), 1), nil, "s7")
	w.chooses(on(atTime(9.5), 1), nil, "", "last commit at 2026-05-01 00:08:54Z")
	w.chooses(atLSN(lsn(7, 600_000)), nil, "s5")
	w.chooses(on(atLSN(lsn(7, 600_000)), 1), nil, "s7")

	// A fork before the end of s5 leaves only s2.
	s5.Window.StopLSN = lsn(5, 700_000)
	w.chooses(Target{}, nil, "s2", "s5 was passed over")

	across := w.chooses(on(Target{}, 2), s2, "s2")
	across.Snapshot.Server.WALSegmentSize = segSize
	across.Snapshot.Window.StopLSN = lsn(6, 1)
	want := []string{"00000002.history", segmentFile(1, 2), segmentFile(1, 3), segmentFile(1, 4), segmentFile(2, 5), segmentFile(2, 6)}
	if got := across.WALFiles(); !slices.Equal(got, want) {
		t.Errorf("files to start with: %v", got)
	}
	across.Snapshot.Window.StopLSN = lsn(2, 500_000)

	set := w.chooses(on(atTime(9.5), 2), nil, "s2").Recovery("c", "")
	if set.Timeline != 2 || set.OwnTimeline {
		t.Errorf("settings %+v", set)
	}
	set = w.chooses(on(atTime(8.5), 1), nil, "s7").Recovery("c", "")
	if set.Timeline != 1 || !set.OwnTimeline {
		t.Errorf("settings %+v", set)
	}
	if set = w.chooses(Target{}, nil, "s2").Recovery("c", ""); set.Timeline != 0 {
		t.Errorf("settings %+v", set)
	}
}

func point(name string, at pg.LSN) func(*walarchive.Facts) {
	return func(f *walarchive.Facts) {
		f.RestorePoints = append(f.RestorePoints, walarchive.RestorePoint{Name: name, LSN: at, Time: f.FirstCommit})
	}
}

func TestARestorePointIsFoundInTheHeaders(t *testing.T) {
	w := newWorld(t)
	for n := uint64(1); n <= 200; n++ {
		var change func(*walarchive.Facts)
		switch n {
		case 2:
			change = point("early", lsn(n, 100))
		case 50:
			change = point("middle", lsn(n, 600_000))
		case 190:
			change = point("late", lsn(n, 100))
		}
		w.segment(1, n, change)
	}
	w.snapshot(1, 3)
	w.snapshot(1, 50)
	w.snapshot(1, 180)
	w.chooses(atName("late"), nil, "s180", lsn(190, 100).String())
	w.chooses(atName("middle"), nil, "s50")
	w.chooses(atName("early"), nil, "", "no archived WAL that a snapshot leads to")
	w.chooses(atName("never"), nil, "", "no archived WAL", "begins at 2026-05-01 00:03:30Z")
	w.chooses(atName("late"), w.snapshots[0], "s3")
	w.chooses(atName("middle"), w.snapshots[2], "", "no archived WAL")
}

func TestOfRestorePointsWithOneNameTheNewestThatReplayCanStopAtIsChosen(t *testing.T) {
	for name, c := range map[string]struct {
		points, snapshots []uint64
		want              string // snapshot
		at                uint64
	}{
		"a snapshot between them":             {[]uint64{4, 8}, []uint64{2, 6}, "s6", 8},
		"replay meets the first one":          {[]uint64{4, 8}, []uint64{2}, "s2", 4},
		"replay from the newest snapshot too": {[]uint64{5, 6, 8}, []uint64{1, 3}, "s3", 5},
		"the newest has no snapshot before":   {[]uint64{4, 8}, []uint64{2, 9}, "s2", 4},
		"three, two snapshots":                {[]uint64{2, 4, 8}, []uint64{3, 1}, "s3", 4},
	} {
		w := newWorld(t)
		for n := uint64(1); n <= 10; n++ {
			if slices.Contains(c.points, n) {
				w.segment(1, n, point("x", lsn(n, 900_000)))
			} else {
				w.segment(1, n, nil)
			}
		}
		for _, n := range c.snapshots {
			w.snapshot(1, n)
		}
		t.Run(name, func(t *testing.T) {
			w.t = t
			w.chooses(atName("x"), nil, c.want, lsn(c.at, 900_000).String())
		})
	}
}

func TestAPointBetweenASnapshotsStartAndEndHidesLaterOnes(t *testing.T) {
	w := newWorld(t)
	w.segment(1, 1, nil)
	w.segment(1, 2, point("x", lsn(2, 300_000))) // replay from s2 meets it before it is consistent
	w.segment(1, 3, point("x", lsn(3, 300_000)))
	w.snapshot(1, 2)
	w.chooses(atName("x"), nil, "", "lies before the end of every snapshot")
	w.chooses(atName("x"), w.snapshots[0], "", "lies before the snapshot's end")
}

func TestSnapshotsOfAnotherSystemDoNotCount(t *testing.T) {
	w := newWorld(t)
	w.segments(1, 1, 5)
	w.snapshot(1, 3)
	w.snapshot(1, 4).Server.SystemID++
	w.chooses(Target{}, nil, "s3")
	w.chooses(Target{}, w.snapshots[1], "", "no snapshot")
}

// received stores segment n as far as a receiver had it: up to so many bytes, and minute n+minutes.
func (w *world) received(tli pg.Timeline, n uint64, to int, minutes float64, change func(*walarchive.Facts)) {
	w.t.Helper()
	f := walarchive.Facts{
		SegmentSize: segSize, Major: 15, FirstCommit: minute(float64(n)), LastCommit: minute(float64(n) + minutes),
		MinXID: uint32(100 * n), MaxXID: uint32(100*n + 50), End: lsn(n, uint64(to)),
	}
	if change != nil {
		change(&f)
	}
	if err := w.archive.PushPart(w.t.Context(), walarchive.Part{
		Segment: segmentFile(tli, n), Receiver: "20260501T120000Z-0123456789abcdef", To: int64(to), Content: w.empty[:to], Facts: f,
	}); err != nil {
		w.t.Fatal(err)
	}
}

func TestTargetsInWhatWasReceivedAreReached(t *testing.T) {
	w := newWorld(t)
	w.segments(1, 1, 4)
	w.received(1, 5, 600_000, 0.6, point("x", lsn(5, 500_000)))
	w.snapshot(1, 2)
	w.chooses(Target{}, nil, "s2")
	w.chooses(atTime(5.5), nil, "s2")
	w.chooses(atTime(5.6), nil, "", "end of the archive", "last commit at 2026-05-01 00:05:36Z")
	w.chooses(exclusive(atTime(5.6)), nil, "s2")
	w.chooses(atLSN(lsn(5, 599_999)), nil, "s2")
	w.chooses(atLSN(lsn(5, 600_000)), nil, "", "ending at "+lsn(5, 600_000).String())
	w.chooses(atXID(550), nil, "s2")
	w.chooses(atXID(551), nil, "", "no sign")
	w.chooses(atName("x"), nil, "s2", lsn(5, 500_000).String())

	// A snapshot that ends in it has all that it needs.
	s5 := w.snapshot(1, 5)
	s5.Server.WALSegmentSize = segSize
	if c := w.chooses(Target{}, nil, "s5"); c != nil && !slices.Equal(c.WALFiles(), []string{segmentFile(1, 5)}) {
		t.Errorf("files to start with: %v", c.WALFiles())
	}
	s5.Window.StopLSN = lsn(5, 600_001)
	w.chooses(Target{}, nil, "s2", "s5 was passed over", segmentFile(1, 5))
	w.chooses(Target{}, s5, "", segmentFile(1, 5))

	// With more behind it, recovery ends in it all the same.
	w.segments(1, 7, 9)
	w.chooses(Target{}, nil, "s2", "gap", "recovery ends at "+lsn(5, 600_000).String(), segmentFile(1, 5), segmentFile(1, 7))
	s5.Window.StopLSN = lsn(5, 500_000)
	w.chooses(atTime(7.5), nil, "", "gap", "in segment "+segmentFile(1, 5)+", received up to "+lsn(5, 600_000).String(), segmentFile(1, 7))
}
