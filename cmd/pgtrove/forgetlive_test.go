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
		s := pg.Segment{Timeline: 2, Number: n}
		at := morning(2).Add(time.Duration(n) * time.Hour)
		_, err := archiveKey{"main", testSystem}.in(w.open(w.store)).Push(t.Context(), s.Name(testSegment), make([]byte, testSegment),
			walarchive.Facts{SegmentSize: testSegment, FirstCommit: at, LastCommit: at, End: s.End(testSegment)})
		w.must(err)
	}
	return w, ids, history
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
