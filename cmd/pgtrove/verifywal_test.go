package main

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/snapshot"
	"github.com/pgtrove/pgtrove/walarchive"
)

// verifyShown is what the tests look at of the sum.
type verifyShown struct {
	Damaged  int
	Slice    uint64
	AllSince *string   `json:"all_since"`
	WALFiles int64     `json:"wal_files"`
	WALLost  []string  `json:"wal_lost"`
	WALNever []string  `json:"wal_missing"`
	Gaps     []gapJSON `json:"gaps"`
}

// verifies runs verify and returns its sum, its lines of damage, and its exit code.
func (w *retainer) verifies(o verifyOptions, names ...string) (sum verifyShown, damage []damageJSON, code int) {
	w.t.Helper()
	w.stdout.Reset()
	w.stderr.Reset()
	w.settings.JSON = true
	defer func() { w.settings.JSON = false }()
	if err := w.verifyIn(w.t.Context(), w.open(w.store), w.place, names, o); err != nil {
		w.stderr.WriteString(err.Error() + "\nhint: " + w.hint(err))
		code = classify(err).code
	}
	for line := range strings.Lines(w.stdout.String()) {
		switch {
		case strings.HasPrefix(line, `{"type":"damage"`):
			var d damageJSON
			w.must(json.Unmarshal([]byte(line), &d))
			damage = append(damage, d)
		case strings.HasPrefix(line, `{"type":"verify"`):
			w.must(json.Unmarshal([]byte(line), &sum))
		}
	}
	return sum, damage, code
}

// walKey is the key of a day's segment.
func (w *retainer) walKey(day int) string {
	w.t.Helper()
	keys := w.list("wal/main/")
	if day >= len(keys) {
		w.t.Fatalf("%v", keys)
	}
	return keys[day]
}

func TestWALThatASnapshotHadAndLacksIsDamage(t *testing.T) {
	w := newRetainer(t)
	ids := w.days("main", 0, 2)
	for _, slices := range []uint64{0, 1} {
		if sum, damage, code := w.verifies(verifyOptions{share: readShare{slices}}); code != 0 || len(damage)+len(sum.WALLost)+len(sum.WALNever)+len(sum.Gaps) > 0 {
			t.Errorf("sound: exit %d, %+v, %+v", code, sum, damage)
		}
	}
	key := w.walKey(1)
	w.must(w.store.Delete(t.Context(), key))
	for _, share := range []uint64{0, 1} {
		for _, names := range [][]string{nil, {ids[1]}} {
			sum, damage, code := w.verifies(verifyOptions{share: readShare{share}}, names...)
			if code != codeDamaged || sum.Damaged != 1 || !slices.Equal(sum.WALLost, []string{ids[1]}) || len(sum.Gaps) > 0 {
				t.Errorf("%v: exit %d, %+v", names, code, sum)
			}
			if len(damage) != 1 || damage[0].Object != key || !slices.Equal(damage[0].Snapshots, []string{ids[1]}) {
				t.Errorf("%v: %+v", names, damage)
			}
			if !strings.Contains(w.stderr.String(), "`pgtrove wal push`") {
				t.Errorf("%s", w.stderr.String())
			}
		}
	}
	if _, damage, code := w.verifies(verifyOptions{share: readShare{1}}, ids[0], ids[2]); code != 0 {
		t.Errorf("the others: exit %d, %+v", code, damage)
	}
}

func TestAGapBehindASnapshotIsTold(t *testing.T) {
	w := newRetainer(t)
	w.take("main", 0)
	for day := range 4 {
		w.wal("main", day)
	}
	w.must(w.store.Delete(t.Context(), w.walKey(2)))
	sum, damage, code := w.verifies(verifyOptions{})
	if code != 0 || len(damage) > 0 || len(sum.Gaps) != 1 || sum.Gaps[0].Segments != 1 || !strings.Contains(w.stderr.String(), "has a gap on timeline 1") {
		t.Errorf("exit %d, %+v, %+v\n%s", code, sum, damage, w.stderr.String())
	}
}

func TestWALThatNeverCameIsIncomplete(t *testing.T) {
	w := newRetainer(t)
	w.days("main", 0, 1)
	w.walState = snapshot.WALMissing
	id := w.take("main", 2)
	for _, share := range []uint64{0, 1} {
		sum, damage, code := w.verifies(verifyOptions{share: readShare{share}})
		if code != codeIncomplete || len(damage) > 0 || !slices.Equal(sum.WALNever, []string{id}) {
			t.Errorf("exit %d, %+v, %+v\n%s", code, sum, damage, w.stderr.String())
		}
	}
	w.wal("main", 2)
	if _, _, code := w.verifies(verifyOptions{}); code != 0 {
		t.Errorf("it came: exit %d\n%s", code, w.stderr.String())
	}
}

// history archives the history of timeline 2, which begins in a day's segment.
func (w *retainer) history(day int) string {
	w.t.Helper()
	at := pg.LSN(day+1)*pg.LSN(testSegment) + 8192
	name := pg.Timeline(2).HistoryName()
	text := []byte("1\t" + at.String() + "\tno recovery target specified\n")
	_, err := archiveKey{"main", testSystem}.in(w.open(w.store)).Push(w.t.Context(), name, text, walarchive.Facts{})
	w.must(err)
	for _, key := range w.list("wal/main/") {
		if strings.HasSuffix(key, name) {
			return key
		}
	}
	w.t.Fatal("it is not there")
	return ""
}

func TestADamagedHistoryHidesNoOtherDamage(t *testing.T) {
	w := newRetainer(t)
	ids := w.days("main", 0, 2)
	segment := w.walKey(1)
	history := w.history(2)
	if _, damage, code := w.verifies(verifyOptions{share: readShare{1}}); code != 0 {
		t.Fatalf("sound: exit %d, %+v\n%s", code, damage, w.stderr.String())
	}
	w.alter(history, -10)
	w.alter(segment, 300)
	for _, share := range []uint64{0, 1} {
		sum, damage, code := w.verifies(verifyOptions{share: readShare{share}})
		var found []string
		for _, d := range damage {
			found = append(found, d.Object)
		}
		want := []string{history}
		if share == 1 {
			want = append(want, segment)
		}
		slices.Sort(found)
		slices.Sort(want)
		if code != codeDamaged || !slices.Equal(found, want) || share == 1 && sum.WALFiles != 4 || !strings.Contains(w.stderr.String(), "hint: remove "+history) {
			t.Errorf("exit %d, %+v: %+v\n%s", code, sum, damage, w.stderr.String())
		}
	}
	if _, damage, code := w.verifies(verifyOptions{}, ids[0]); code != 0 {
		t.Errorf("a snapshot of another timeline: exit %d, %+v", code, damage)
	}
}
