package snapshot

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/pgtrove/pgtrove/chunk"
)

// histories are what happens to a file between two snapshots.
func histories() map[string]func(r *rand.Rand, h *heap) {
	update := func(r *rand.Rand, h *heap, share float64, at func() int) {
		for range int(float64(len(h.pages)) * share) {
			h.pages[at()%len(h.pages)] = h.fresh()
		}
	}
	uniform := func(share float64) func(*rand.Rand, *heap) {
		return func(r *rand.Rand, h *heap) { update(r, h, share, func() int { return r.IntN(len(h.pages)) }) }
	}
	return map[string]func(r *rand.Rand, h *heap){
		"uniform 0.1 %": uniform(0.001),
		"uniform 1 %":   uniform(0.01),
		"uniform 5 %":   uniform(0.05),
		"uniform 20 %":  uniform(0.2),
		"skewed 1 %":    func(r *rand.Rand, h *heap) { update(r, h, 0.01, zipf(r, len(h.pages))) },
		"skewed 10 %":   func(r *rand.Rand, h *heap) { update(r, h, 0.1, zipf(r, len(h.pages))) },
		"appends":       func(r *rand.Rand, h *heap) { h.grow(1 + r.IntN(90)) },
		"everything": func(r *rand.Rand, h *heap) {
			switch r.IntN(12) {
			case 0: // VACUUM gives the end back
				h.pages = h.pages[:len(h.pages)-r.IntN(len(h.pages)/3)]
			case 1: // VACUUM FULL, or the same relfilenode again: nothing is as it was
				n := len(h.pages)/2 + r.IntN(len(h.pages))
				h.pages = nil
				h.grow(n)
			case 2: // extended, and not written to yet
				h.pages = append(h.pages, make([]uint64, r.IntN(300))...)
			case 3, 4:
				h.grow(r.IntN(900))
			case 5: // nothing
			case 6:
				update(r, h, 0.1, zipf(r, len(h.pages)))
			default:
				update(r, h, 0.03, func() int { return r.IntN(len(h.pages)) })
			}
			if len(h.pages) < 2000 {
				h.grow(2000)
			}
		},
	}
}

// TestLongHistoriesStaySmallAndReadBack is the property of gathering: whatever happens to a file over many snapshots, each reads
// back, no more than 1.25 times the changed pages are written, and the newest alone needs no more than three times its size.
func TestLongHistoriesStaySmallAndReadBack(t *testing.T) {
	const path = "data/base/5/16384"
	for name, change := range histories() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(1, uint64(len(name))))
			h := &heap{}
			h.grow(6000)
			w := newWorld()
			files := map[string][]byte{path: h.bytes()}
			last := w.shoot(t, files, []Source{fileOf(path, testForm, files[path])}, nil, nil)
			w.written = 0
			var changed int64
			var space float64
			all := []shot{last}
			for n := range 40 {
				then := slices.Clone(h.pages)
				change(r, h)
				changed += h.differ(then)
				files[path] = h.bytes()
				src := fileOf(path, testForm, files[path])
				p := w.parent(t, last)
				if r.IntN(2) == 0 { // what WAL summaries say: never less than what changed
					set := pageSet{}
					for i := range h.pages {
						if i < len(then) && then[i] != h.pages[i] || r.IntN(500) == 0 {
							set[int64(i)] = true
						}
					}
					src.Changed, p.Trusted = set, true
				}
				w.forget = r.IntN(4) == 0
				last = w.shoot(t, files, []Source{src}, p, nil)
				all = append(all, last)
				live, _ := w.reach(t, last)
				if space = max(space, float64(sum(live))/float64(len(files[path]))); space > 3 {
					t.Fatalf("snapshot %d needs %d bytes for a file of %d", n, sum(live), len(files[path]))
				}
			}
			if limit := changed << testForm * 5 / 4; w.written > limit {
				t.Errorf("%d bytes written for %d changed", w.written, changed<<testForm)
			}
			t.Logf("written %.3f of what changed; space at most %.2f of the file", float64(w.written)/float64(changed<<testForm), space)
			// Any of them alone is whole: forget all others.
			for range 5 {
				keep := all[r.IntN(len(all))]
				data, meta := w.reach(t, keep)
				alone := newWorld()
				for id := range data {
					alone.data[id] = w.data[id]
				}
				for id := range meta {
					alone.meta[id] = w.meta[id]
				}
				alone.readBack(t, keep)
			}
		})
	}
}

func sum(sizes map[chunk.ID]int64) (n int64) {
	for _, s := range sizes {
		n += s
	}
	return n
}

// TestMetadataIsInProportionToWhatChanged holds recipes to a few bytes per changed page, full ones in between included.
func TestMetadataIsInProportionToWhatChanged(t *testing.T) {
	const path = "data/base/5/16384"
	for _, pages := range []int{10, 100, 500} {
		t.Run(fmt.Sprint(pages, " of 32768"), func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(3, 4))
			h := &heap{}
			h.grow(32768)
			w := newWorld()
			files := map[string][]byte{path: h.bytes()}
			last := w.shoot(t, files, []Source{fileOf(path, testForm, files[path])}, nil, nil)
			before := w.metaBytes()
			var changed int64
			const rounds = 50
			for range rounds {
				then := slices.Clone(h.pages)
				for range pages {
					h.pages[r.IntN(len(h.pages))] = h.fresh()
				}
				changed += h.differ(then)
				files[path] = h.bytes()
				last = w.shoot(t, files, []Source{fileOf(path, testForm, files[path])}, w.parent(t, last), nil)
			}
			added := w.metaBytes() - before
			t.Logf("%.1f bytes of metadata per changed page", float64(added)/float64(changed))
			// The listing of one file and a recipe's fixed part come on top: about 400 bytes a snapshot.
			if limit := 45*changed + 600*rounds; added > limit {
				t.Errorf("%d bytes of metadata for %d changed pages, want at most %d", added, changed, limit)
			}
		})
	}
}

func (w *world) metaBytes() (n int64) {
	for _, b := range w.meta {
		n += int64(len(b))
	}
	return n
}
