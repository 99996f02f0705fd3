package main

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/restore"
	"github.com/pgtrove/pgtrove/snapshot"
	"github.com/pgtrove/pgtrove/walarchive"
)

// branched is a cluster of which the snapshot of day 0 was restored after day 2, so that the others stand on a timeline that nobody goes on with. It
// returns the key of the new timeline's history.
func branched(t *testing.T) (w *retainer, ids map[int]string, history string) {
	w = newRetainer(t)
	ids = w.days("main", 0, 2)
	history = w.history(0)
	for n := uint64(1); n <= 2; n++ {
		w.walOn(2, n, morning(2).Add(time.Duration(18+n)*time.Hour))
	}
	return w, ids, history
}

// walOn archives a segment of a timeline, with one commit, which is archived at once.
func (w *retainer) walOn(tli pg.Timeline, number uint64, at time.Time) {
	w.t.Helper()
	w.now = at
	s := pg.Segment{Timeline: tli, Number: number}
	_, err := archiveKey{"main", testSystem}.in(w.open(w.store)).Push(w.t.Context(), s.Name(testSegment), make([]byte, testSegment),
		walarchive.Facts{SegmentSize: testSegment, FirstCommit: at, LastCommit: at, End: s.End(testSegment)})
	w.must(err)
}

// promoted archives the history of a timeline that left timeline 1 in the segment of a day.
func (w *retainer) promoted(tli pg.Timeline, day int, at time.Time) {
	w.t.Helper()
	w.now = at
	lsn := pg.LSN(day+1)*pg.LSN(testSegment) + 8192
	_, err := archiveKey{"main", testSystem}.in(w.open(w.store)).Push(w.t.Context(), tli.HistoryName(), []byte("1\t"+lsn.String()+"\tx\n"), walarchive.Facts{})
	w.must(err)
}

// forgotten are the IDs of what is asked to be forgotten.
func (w *retainer) forgotten() (ids []string) {
	for _, key := range w.list("forget/") {
		ids = append(ids, strings.TrimPrefix(key, "forget/"))
	}
	return ids
}

func TestAPolicyKeepsWhatLeadsToTheLiveTimeline(t *testing.T) {
	w, ids, _ := branched(t)
	o := forgetOptions{policy: snapshot.Policy{Last: 1, PITR: snapshot.Period{Hours: 1}}}
	if out := w.forgets(morning(3), o); !strings.Contains(out, "leads to the live timeline") {
		t.Error(out)
	}
	w.prunes(3, 4)
	if got := w.sound(); !slices.Equal(got, sorted(ids[0], ids[2])) {
		t.Errorf("%v", got)
	}
	if got := len(w.list("wal/main/7/00000002/")); got != 2 {
		t.Errorf("%d segments of the live timeline are left", got)
	}
}

func TestWhatIsDamagedInTheArchiveHidesOnlyWhatItConcerns(t *testing.T) {
	w, ids, history := branched(t)
	o := forgetOptions{policy: snapshot.Policy{Last: 1}, dryRun: true}
	w.alter(history, -10)
	out := w.forgets(morning(3), o)
	if told := w.stderr.String(); !strings.Contains(told, "remove "+history) || strings.Contains(out, "no rule keeps it") {
		t.Errorf("which of the snapshots leads to timeline 2 is not known: %s\n%s", told, out)
	}
	if got := w.windows(); !slices.Equal(got, [][2]int{{0, 2}}) {
		t.Errorf("%v", got)
	}
	choice, err := w.choose(t.Context(), w.open(w.store), &restoreOptions{target: restore.Target{Timeline: restore.TimelineGoal{Number: 1}}})
	if err != nil || choice.Snapshot.ID != ids[2] {
		t.Errorf("on timeline 1: %+v %v", choice, err)
	}
	_, err = w.choose(t.Context(), w.open(w.store), &restoreOptions{})
	if err == nil || !strings.Contains(err.Error(), "remove "+history) || !strings.Contains(err.Error(), "wal push") {
		t.Errorf("on the newest: %v", err)
	}

	w = newRetainer(t)
	w.days("main", 0, 3)
	last := w.list("wal/main/7/00000001/")[3]
	w.alter(last, -10)
	out = w.forgets(morning(4), o)
	if told := w.stderr.String(); !strings.Contains(told, last[strings.LastIndexByte(last, '/')+1:]) || !strings.Contains(out, "no rule keeps it") {
		t.Errorf("%s\n%s", told, out)
	}
	if got := w.windows(); !slices.Equal(got, [][2]int{{0, 2}}) {
		t.Errorf("%v", got)
	}
}

// TestATriedRestoreDoesNotHideTheTimelineInUse: production went over to timeline 2, which leads from day 0. A server that somebody restored from day 2, to
// try it, became timeline 3 before.
func TestATriedRestoreDoesNotHideTheTimelineInUse(t *testing.T) {
	w, ids, _ := branched(t)
	w.promoted(3, 2, morning(2).Add(21*time.Hour))
	w.walOn(3, 3, morning(2).Add(22*time.Hour))
	w.walOn(2, 3, morning(3).Add(20*time.Hour))
	out := w.forgets(morning(4), forgetOptions{policy: snapshot.Policy{Last: 1}})
	if got := w.forgotten(); !slices.Equal(got, []string{ids[1]}) || !strings.Contains(out, "leads to the live timeline") {
		t.Errorf("%v go\n%s", got, out)
	}
}

// TestATimelineWithoutACommitMayBeInUse: a server was restored in place and promoted, and has archived no more than that yet. Its commits would lie before those of
// what was left, if there were any.
func TestATimelineWithoutACommitMayBeInUse(t *testing.T) {
	w := newRetainer(t)
	ids := w.days("main", 0, 2)
	w.promoted(2, 0, morning(2).Add(20*time.Hour))
	w.forgets(morning(3), forgetOptions{policy: snapshot.Policy{Last: 1}})
	if got := w.forgotten(); !slices.Equal(got, []string{ids[1]}) {
		t.Errorf("%v go", got)
	}
}

// TestAStandbyThatIsPromotedNeedsNoOtherSnapshot: the newest leads to both timelines.
func TestAStandbyThatIsPromotedNeedsNoOtherSnapshot(t *testing.T) {
	w := newRetainer(t)
	ids := w.days("main", 0, 2)
	w.promoted(2, 2, morning(2).Add(20*time.Hour))
	w.walOn(2, 3, morning(2).Add(21*time.Hour))
	out := w.forgets(morning(3), forgetOptions{policy: snapshot.Policy{Last: 1}})
	if got := w.forgotten(); !slices.Equal(got, sorted(ids[0], ids[1])) || strings.Contains(out, "live timeline") {
		t.Errorf("%v go\n%s", got, out)
	}
}

// TestWhatIsBackedUpElsewhereLeavesATimelineTimeToShow: a standby that did not follow is backed up, while what is in use, without a snapshot, archives seldom.
func TestWhatIsBackedUpElsewhereLeavesATimelineTimeToShow(t *testing.T) {
	w, ids, _ := branched(t)
	ids[3] = w.take("main", 3)
	w.wal("main", 3)
	o := forgetOptions{policy: snapshot.Policy{Last: 1}}
	w.forgets(morning(3).Add(20*time.Hour), o)
	if got := w.forgotten(); !slices.Equal(got, sorted(ids[1], ids[2])) {
		t.Errorf("%v go", got)
	}
	ids[5] = w.take("main", 5)
	w.wal("main", 5)
	w.forgets(morning(6), o)
	if got := w.forgotten(); !slices.Equal(got, sorted(ids[0], ids[1], ids[2], ids[3])) {
		t.Errorf("days later %v go", got)
	}
}

// TestATimelineThatWasLeftKeepsNoWAL: production went on on timeline 1, for weeks.
func TestATimelineThatWasLeftKeepsNoWAL(t *testing.T) {
	w := newRetainer(t)
	w.days("main", 0, 0)
	w.promoted(2, 0, morning(0).Add(19*time.Hour))
	w.walOn(2, 1, morning(0).Add(20*time.Hour))
	w.days("main", 1, 14)
	out := w.forgets(morning(15), forgetOptions{policy: snapshot.Policy{Daily: 3, PITR: snapshot.Period{Hours: 48}}})
	w.prunes(15, 4)
	w.sound()
	if n := len(w.list("wal/main/7/00000001/")); n > 4 {
		t.Errorf("%d segments of timeline 1 stay for one commit on timeline 2\n%s", n, out)
	}
}

// TestASnapshotOnATimelineThatWasLeftGoesAsOthersDo.
func TestASnapshotOnATimelineThatWasLeftGoesAsOthersDo(t *testing.T) {
	w := newRetainer(t)
	w.days("main", 0, 0)
	w.promoted(2, 0, morning(0).Add(19*time.Hour))
	w.walOn(2, 1, morning(0).Add(20*time.Hour))
	w.timeline = 2
	tried := w.take("main", 1)
	w.timeline = 1
	w.walOn(2, 2, morning(1).Add(20*time.Hour))
	o := forgetOptions{policy: snapshot.Policy{Last: 1}}
	ids := w.days("main", 2, 2)
	w.forgets(morning(3), o)
	if got := w.forgotten(); slices.Contains(got, tried) || slices.Contains(got, ids[2]) {
		t.Errorf("%v go, of two timelines that may be in use", got)
	}
	w.days("main", 3, 5)
	out := w.forgets(morning(6), o)
	if got := w.forgotten(); !slices.Contains(got, tried) || len(got) != 5 {
		t.Errorf("%v go\n%s", got, out)
	}
}

// TestALastSnapshotThatLacksPacksStopsNoPolicy: it is the only one of timeline 2, which is in use, and cannot be restored anyway.
func TestALastSnapshotThatLacksPacksStopsNoPolicy(t *testing.T) {
	w, ids, _ := branched(t)
	w.breaks(ids[0])
	out, damage, err := w.forgetting(w.store, morning(3), forgetOptions{policy: snapshot.Policy{Last: 1}})
	w.must(err)
	if got := w.forgotten(); !slices.Equal(got, sorted(ids[0], ids[1])) {
		t.Errorf("%v go: %v\n%s", got, damage, out)
	}
}

// TestASegmentThatOnePathShowsDamagedIsSoOnAll: the way to timeline 1 does not look at the snapshot's segment, that to timeline 2 does.
func TestASegmentThatOnePathShowsDamagedIsSoOnAll(t *testing.T) {
	w := newRetainer(t)
	w.take("main", 0)
	w.wal("main", 0)
	w.wal("main", 1)
	w.promoted(2, 1, morning(1).Add(19*time.Hour))
	w.walOn(2, 2, morning(1).Add(20*time.Hour))
	w.alter(w.list("wal/main/7/00000001/")[0], -10)
	out, _, err := w.forgetting(w.store, morning(2), forgetOptions{policy: snapshot.Policy{Last: 1}})
	if err != nil || !strings.Contains(out, "recoverable before and after: nothing") {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestWhatLeadsOnIsWhatKeepsItsWAL: the newest is narrow, and recovery goes on from it only through what others keep.
func TestWhatLeadsOnIsWhatKeepsItsWAL(t *testing.T) {
	w := newRetainer(t)
	ids := w.days("main", 0, 2)
	w.wal("main", 3)
	w.must(w.open(w.store).Narrow(t.Context(), ids[2]))
	w.forgets(morning(4), forgetOptions{policy: snapshot.Policy{Last: 1}})
	w.prunes(4, 4)
	if got := w.sound(); !slices.Equal(got, sorted(ids[1], ids[2])) {
		t.Errorf("%v", got)
	}
	if got := w.windows(); !slices.Equal(got, [][2]int{{1, 3}}) {
		t.Errorf("%v", got)
	}
}
