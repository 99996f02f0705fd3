package gc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/snapshot"
)

// history is files whose pages change from one snapshot to the next.
type history struct {
	r     *rand.Rand
	next  uint64
	files map[string][]byte
}

const pageSize = 1 << 10

func newHistory(seed uint64, files, pages int) *history {
	h := &history{r: rand.New(rand.NewPCG(7, seed)), files: map[string][]byte{"data/PG_VERSION": []byte("15\n")}}
	for n := range files {
		path := fmt.Sprintf("data/base/5/%d", 16384+n)
		h.files[path] = make([]byte, pages*pageSize)
		for p := range pages {
			h.write(path, p)
		}
	}
	return h
}

// write gives a page content that no other has.
func (h *history) write(path string, page int) {
	h.next++
	b := h.files[path][page*pageSize:]
	b[0], b[7] = 1, 2
	binary.LittleEndian.PutUint64(b[8:], h.next)
}

// change does to each file what may happen to it between two snapshots.
func (h *history) change() {
	for _, path := range slices.Sorted(maps.Keys(h.files)) {
		b := slices.Clone(h.files[path])
		h.files[path] = b
		pages := len(b) / pageSize
		switch h.r.IntN(8) {
		case 0, 1: // nothing
		case 2:
			if pages > 200 {
				h.files[path] = b[:(pages-h.r.IntN(pages/4))*pageSize]
			}
		case 3:
			h.files[path] = append(b, make([]byte, h.r.IntN(200)*pageSize)...)
		default:
			for range pages / 60 {
				h.write(path, h.r.IntN(pages))
			}
		}
	}
}

// rows takes n snapshots, each upon the one before.
func (h *history) rows(t testing.TB, w *world, n int) []*snapshot.Manifest {
	var all []*snapshot.Manifest
	var parent *snapshot.Manifest
	for i := range n {
		parent = w.take(t, i, h.files, parent)
		all = append(all, parent)
		h.change()
	}
	return all
}

func TestMarkNamesExactlyWhatRestoringWouldRead(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			w := newWorld()
			h := newHistory(seed, 3, 2500)
			all := h.rows(t, w, 40)
			for range 25 {
				var some []*snapshot.Manifest
				share := 1 + h.r.IntN(6)
				for _, m := range all {
					if h.r.IntN(share) == 0 {
						some = append(some, m)
					}
				}
				h.r.Shuffle(len(some), func(i, j int) { some[i], some[j] = some[j], some[i] })
				got, err := w.mark(t, some...)
				if err != nil {
					t.Fatal(err)
				}
				want := w.needed(t, some...)
				for id := range want {
					if !got[id] {
						t.Fatalf("of %d snapshots: chunk %s is needed and was not marked", len(some), id.Short())
					}
				}
				for id := range got {
					if !want[id] {
						t.Fatalf("of %d snapshots: chunk %s was marked and is not needed", len(some), id.Short())
					}
				}
			}
		})
	}
}

func TestMarkReadsEachChunkOfMetadataOnce(t *testing.T) {
	w := newWorld()
	all := newHistory(9, 4, 2500).rows(t, w, 30)
	again := *all[29]
	again.ID = "s100" // the same listing under another name
	clear(w.fetched)
	if _, err := w.mark(t, append(all, &again)...); err != nil {
		t.Fatal(err)
	}
	for id, n := range w.fetched {
		if n > 1 {
			t.Errorf("chunk %s was read %d times", id.Short(), n)
		}
	}
}

// recipeChunks lists the chunks of recipes that stand in the snapshot.
func recipeChunks(t *testing.T, w *world, m *snapshot.Manifest) map[chunk.ID]string {
	t.Helper()
	found := map[chunk.ID]string{}
	if err := m.Root.Walk(t.Context(), w, func(e *snapshot.Entry) error {
		for _, id := range e.Recipe.Chunks {
			found[id] = e.Path
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return found
}

// reports lists what an error of Mark names, as "snapshot path".
func reports(t *testing.T, err error) []string {
	t.Helper()
	var all []string
	var loss *LossError
	if !errors.As(err, &loss) || !errors.Is(err, loss.Damage[0]) {
		t.Fatalf("not damage: %v", err)
	}
	for _, d := range loss.Damage {
		if d.Cluster != "main" || !errors.Is(d, errAbsent) && !errors.Is(d, snapshot.ErrInvalid) {
			t.Fatalf("not damage: %v", d)
		}
		all = append(all, strings.TrimSpace(d.Snapshot+" "+d.Path))
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func TestEveryDamagedRecipeIsReportedForTheOldestSnapshotThatNeedsIt(t *testing.T) {
	w := newWorld()
	h := newHistory(3, 3, 2500)
	first := w.take(t, 0, h.files, nil)
	second := w.take(t, 1, h.files, first)
	other := w.take(t, 2, map[string][]byte{"data/PG_VERSION": []byte("15\n")}, nil)
	var want []string
	for id, path := range recipeChunks(t, w, first) {
		if strings.HasSuffix(path, "/16384") {
			continue
		}
		if strings.HasSuffix(path, "/16385") {
			delete(w.meta, id)
		} else {
			w.meta[id] = []byte{9} // of no kind
		}
		want = append(want, "s000 "+path)
	}
	live, err := w.mark(t, first, second, other)
	slices.Sort(want)
	if got := reports(t, err); len(want) == 0 || !slices.Equal(got, slices.Compact(want)) {
		t.Errorf("reported %q, damaged are %q", got, want)
	}
	for id := range w.needed(t, other) {
		if !live[id] {
			t.Errorf("chunk %s of a sound snapshot was not marked", id.Short())
		}
	}
}

func TestADamagedListingIsReportedAndTheOthersAreMarked(t *testing.T) {
	w := newWorld()
	h := newHistory(4, 3, 500)
	first := w.take(t, 0, h.files, nil)
	h.change()
	second := w.take(t, 1, h.files, first)
	want := w.needed(t, second)
	for _, id := range first.Root.Chunks {
		if !slices.Contains(second.Root.Chunks, id) {
			delete(w.meta, id)
		}
	}
	same := *first
	same.ID = "s900"
	live, err := w.mark(t, first, second, &same)
	if got := reports(t, err); !slices.Equal(got, []string{"s000", "s900"}) {
		t.Errorf("reported %q", got)
	}
	for id := range want {
		if !live[id] {
			t.Errorf("chunk %s of a sound snapshot was not marked", id.Short())
		}
	}
}

func TestAnOutageIsNoDamageAndEndsMark(t *testing.T) {
	w := newWorld()
	m := w.take(t, 0, newHistory(5, 1, 500).files, nil)
	w.down = errors.New("storage does not answer")
	_, err := w.mark(t, m)
	var d *DamageError
	if !errors.Is(err, w.down) || errors.As(err, &d) {
		t.Errorf("got %v", err)
	}
}

// manyFiles are files whose recipes are too long to stand in the listing.
func manyFiles(count int) map[string][]byte {
	files := map[string][]byte{"data/PG_VERSION": []byte("15\n")}
	next := uint64(1) // 0 would be a page of zeros
	for n := range count {
		b := make([]byte, 300<<10)
		for page := 0; page < len(b); page += 8 * pageSize { // each run between zeros is an extent of its own
			binary.LittleEndian.PutUint64(b[page:], next)
			next++
		}
		files[fmt.Sprintf("data/base/5/%06d", n)] = b
	}
	return files
}

func TestARecipeThatIsLostIsTriedAndReportedOnce(t *testing.T) {
	w := newWorld()
	h := newHistory(11, 3, 2500)
	h.files["data/base/5/99999"] = slices.Clone(h.files["data/base/5/16384"]) // of the same recipe
	first := w.take(t, 0, h.files, nil)
	h.files["data/note"] = []byte("x")
	rows := []*snapshot.Manifest{first, w.take(t, 1, h.files, first)}
	var all []*snapshot.Manifest
	for n := range 200 {
		s := *rows[n%2] // the same listing under another name
		s.ID, s.Window.StopTime = fmt.Sprintf("s%03d", n), first.Window.StopTime.Add(time.Duration(n)*time.Hour)
		all = append(all, &s)
	}
	lost := recipeChunks(t, w, first)
	for id := range lost {
		delete(w.meta, id)
	}
	clear(w.fetched)
	_, err := w.mark(t, all...)
	var loss *LossError
	if !errors.As(err, &loss) || len(loss.Damage) != 3 || loss.More != 0 {
		t.Fatalf("%v", err)
	}
	for _, d := range loss.Damage {
		want := 199
		if strings.HasSuffix(d.Path, "/16384") {
			want = 399
		}
		if d.Snapshot != "s000" || d.Others != want || !strings.Contains(d.Error(), fmt.Sprintf("and %d more files", want)) {
			t.Errorf("%v: want %d others", d, want)
		}
	}
	for id := range lost {
		if w.fetched[id] > 1 {
			t.Errorf("lost chunk %s was tried %d times", id.Short(), w.fetched[id])
		}
	}
}

func TestOfVeryMuchDamageTheFirstIsReportedAndTheRestCounted(t *testing.T) {
	w := newWorld()
	const count = reported + 300
	first := w.take(t, 0, manyFiles(count), nil)
	second := *first
	second.ID = "s001"
	lost := recipeChunks(t, w, first)
	if len(lost) < count {
		t.Fatalf("%d recipes of %d files", len(lost), count)
	}
	for id := range lost {
		delete(w.meta, id)
	}
	_, err := w.mark(t, first, &second)
	var loss *LossError
	if !errors.As(err, &loss) || len(loss.Damage) != reported || loss.More != count-reported || !strings.HasSuffix(err.Error(), "\nand 300 more") {
		t.Fatalf("%d reported, %d more", len(loss.Damage), loss.More)
	}
	for i, d := range loss.Damage {
		if d.Path != fmt.Sprintf("data/base/5/%06d", i) || d.Others != 1 {
			t.Fatalf("error %d is %v", i, d)
		}
	}
}
