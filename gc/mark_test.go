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
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		t.Fatalf("not damage: %v", err)
	}
	for _, e := range joined.Unwrap() {
		var d *DamageError
		if !errors.As(e, &d) || d.Cluster != "main" || !errors.Is(d, errAbsent) && !errors.Is(d, snapshot.ErrInvalid) {
			t.Fatalf("not damage: %v", e)
		}
		all = append(all, strings.TrimSpace(d.Snapshot+" "+d.Path))
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func TestEveryDamagedRecipeIsReportedForEverySnapshotThatNeedsIt(t *testing.T) {
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
		want = append(want, "s000 "+path, "s001 "+path)
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
