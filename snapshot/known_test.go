package snapshot

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/pgtrove/pgtrove/chunk"
)

var errKilled = errors.New("killed")

// abandon begins a snapshot that ends after it has stored so many bytes, and returns what is known of it.
func (w *world) abandon(t *testing.T, sources []Source, parent *Parent, after int64) *Known {
	t.Helper()
	before := map[chunk.ID]bool{}
	for id := range w.digests {
		before[id] = true
	}
	limit := w.written + after
	_, err := Take(t.Context(), sources, Options{
		Jobs: 2, Key: chunk.Key{1}, Parent: parent, Notes: w,
		NewWriter: func() (Writer, error) { return &dying{w, limit}, nil },
	})
	if !errors.Is(err, errKilled) {
		t.Fatal(err)
	}
	k := &Known{}
	for id, d := range w.digests {
		if !before[id] {
			k.Add(id, d)
		}
	}
	return k
}

type dying struct {
	*world
	limit int64
}

func (d *dying) Pages(ctx context.Context, form chunk.Form, digests []chunk.Digest, pages []byte) (chunk.ID, error) {
	d.mu.Lock()
	over := d.written >= d.limit
	d.mu.Unlock()
	if over {
		return chunk.ID{}, errKilled
	}
	return d.world.Pages(ctx, form, digests, pages)
}

// TestARerunSendsNothingTwice kills a first backup and an increment half-way; between that and the rerun the cluster stands still.
func TestARerunSendsNothingTwice(t *testing.T) {
	r := rand.New(rand.NewPCG(21, 22))
	h := &heap{}
	h.grow(30000)
	for i := 100; i < 30000; i += 997 { // single pages and short runs between zero pages
		h.pages[i], h.pages[i+2], h.pages[i+40] = 0, 0, 0
	}
	files := map[string][]byte{aFile: h.bytes()}
	src := []Source{fileOf(aFile, testForm, files[aFile])}
	w := newWorld()
	known := w.abandon(t, src, nil, 12000<<testForm)
	first := w.shoot(t, files, src, nil, known)
	nonzero := h.differ(make([]uint64, len(h.pages)))
	if w.written > nonzero<<testForm {
		t.Errorf("first backup: %d bytes sent for %d", w.written, nonzero<<testForm)
	}

	for range 4000 {
		h.pages[r.IntN(len(h.pages))] = h.fresh()
	}
	files[aFile] = h.bytes()
	src = []Source{fileOf(aFile, testForm, files[aFile])}
	p := w.parent(t, first)
	alone := w.written
	w.shoot(t, files, src, p, nil)
	alone = w.written - alone // what the increment costs without being killed
	// Again in a world where it is killed.
	w2 := newWorld()
	first = w2.shoot(t, first.files, []Source{fileOf(aFile, testForm, first.files[aFile])}, nil, nil)
	w2.written = 0
	known = w2.abandon(t, src, w2.parent(t, first), 1500<<testForm)
	w2.shoot(t, files, src, w2.parent(t, first), known)
	if w2.written > alone+alone/100 {
		t.Errorf("increment: %d bytes sent in two runs, %d in one", w2.written, alone)
	}
}

// TestARerunUnderLoadSendsLittleTwice: between the kill and the rerun every eleventh page changes, so that hardly a chunk is whole.
func TestARerunUnderLoadSendsLittleTwice(t *testing.T) {
	r := rand.New(rand.NewPCG(31, 32))
	h := &heap{}
	h.grow(30000)
	w := newWorld()
	known := w.abandon(t, []Source{fileOf(aFile, testForm, h.bytes())}, nil, 20000<<testForm)
	sent := w.written
	for range len(h.pages) / 11 {
		h.pages[r.IntN(len(h.pages))] = h.fresh()
	}
	files := map[string][]byte{aFile: h.bytes()}
	w.shoot(t, files, []Source{fileOf(aFile, testForm, files[aFile])}, nil, known)
	var must int64 // bytes of pages that were not sent yet, as they are now
	for _, d := range chunk.NewHasher(chunk.Key{1}).PageDigests(nil, testForm, files[aFile]) {
		if _, ok := known.find(d.Prefix()); !ok {
			must += 1 << testForm
		}
	}
	if again := w.written - sent - must; again < 0 || again > sent/10 {
		t.Errorf("%d bytes of %d were sent again", again, sent)
	} else {
		t.Logf("%.1f %% were sent again", float64(again)/float64(sent)*100)
	}
}

// TestAChanceMatchIsNotBelieved: one page whose digest begins like that of a known page, of another content, is stored.
func TestAChanceMatchIsNotBelieved(t *testing.T) {
	h := &heap{}
	h.grow(40)
	b := h.bytes()
	d := chunk.NewHasher(chunk.Key{1}).PageDigests(nil, testForm, b)
	for _, pages := range []int{1, 16} {
		k := &Known{}
		digests := make([]chunk.Prefix, pages)
		for i := range digests {
			digests[i] = chunk.Prefix{byte(i + 1), 9, 9}
		}
		digests[pages/2] = d[20].Prefix()
		k.Add(chunk.ID{7}, digests)
		w := newWorld()
		s := w.shoot(t, map[string][]byte{aFile: b}, []Source{fileOf(aFile, testForm, b)}, nil, k)
		if data, _ := w.reach(t, s); data[chunk.ID{7}] != 0 {
			t.Error("the file names a chunk by a single match")
		}
	}
}

func TestKnownIsBounded(t *testing.T) {
	k := &Known{}
	rnd := rand.NewChaCha8([32]byte{3})
	digests := make([]chunk.Prefix, 32)
	for n := range maxKnown / 32 {
		for i := range digests {
			_, _ = rnd.Read(digests[i][:])
		}
		k.Add(chunk.ID{byte(n), byte(n >> 8), byte(n >> 16)}, digests)
	}
	if len(k.keys) > maxKnown || k.Pages() < maxKnown/2 {
		t.Errorf("%d places hold %d pages", len(k.keys), k.Pages())
	}
	if _, ok := k.find(chunk.Prefix{1}); ok {
		t.Error("found what was never added")
	}
}
