package gc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/snapshot"
)

var errAbsent = errors.New("chunk is not there")

// world is a repository in memory that snapshots are taken into and marked in.
type world struct {
	mu      sync.Mutex
	meta    map[chunk.ID][]byte
	data    map[chunk.ID]int64 // plain bytes
	digests map[chunk.ID][]chunk.Prefix
	fetched map[chunk.ID]int // by MetaChunk
	down    error            // returned by MetaChunk
}

func newWorld() *world {
	return &world{meta: map[chunk.ID][]byte{}, data: map[chunk.ID]int64{}, digests: map[chunk.ID][]chunk.Prefix{}, fetched: map[chunk.ID]int{}}
}

func testKey() chunk.Key { return chunk.Key{1} }

func (w *world) Pages(_ context.Context, _ chunk.Form, d []chunk.Digest, pages []byte) (chunk.ID, error) {
	id := chunk.NewHasher(testKey()).RunID(d)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.data[id] = int64(len(pages))
	digests := make([]chunk.Prefix, len(d))
	for i := range d {
		digests[i] = d[i].Prefix()
	}
	w.digests[id] = digests
	return id, nil
}

func (w *world) Bytes(_ context.Context, b []byte) (chunk.ID, error) {
	id := chunk.NewHasher(testKey()).StreamID(b)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.data[id] = int64(len(b))
	return id, nil
}

func (w *world) Meta(_ context.Context, b []byte) (chunk.ID, error) {
	id := chunk.NewHasher(testKey()).MetaID(b)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.meta[id] = slices.Clone(b)
	return id, nil
}

func (w *world) MetaChunk(_ context.Context, id chunk.ID) ([]byte, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.down != nil {
		return nil, w.down
	}
	w.fetched[id]++
	b, ok := w.meta[id]
	if !ok {
		return nil, fmt.Errorf("%w: %s", errAbsent, id.Short())
	}
	return b, nil
}

// IsDamage implements Judge.
func (w *world) IsDamage(err error) bool { return errors.Is(err, errAbsent) }

func (w *world) Missing(context.Context, chunk.ID, func(context.Context) ([]chunk.ID, error)) ([]chunk.ID, error) {
	return nil, nil
}

func (w *world) PageDigests(_ context.Context, ids []chunk.ID, each func(chunk.ID, []chunk.Prefix) error) error {
	for _, id := range ids {
		w.mu.Lock()
		d := w.digests[id]
		w.mu.Unlock()
		if err := each(id, d); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) ChunkSize(id chunk.ID) (int64, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.data[id], nil
}

type content struct{ *bytes.Reader }

func (content) Close() error           { return nil }
func (c content) Size() (int64, error) { return c.Reader.Size(), nil }

// take makes a snapshot of files upon a parent, nil for none; n is its place in time.
func (w *world) take(t testing.TB, n int, files map[string][]byte, parent *snapshot.Manifest) *snapshot.Manifest {
	t.Helper()
	var sources []snapshot.Source
	for path, b := range files {
		form := chunk.Form(10)
		if path == "data/PG_VERSION" {
			form = 0
		}
		sources = append(sources, snapshot.Source{
			Entry: snapshot.Entry{Path: path, Type: snapshot.File, Size: int64(len(b))}, Form: form,
			Open: func() (snapshot.Content, error) { return content{bytes.NewReader(b)}, nil },
		})
	}
	o := snapshot.Options{Jobs: 2, Key: testKey(), NewWriter: func() (snapshot.Writer, error) { return w, nil }}
	if parent != nil {
		var err error
		if o.Parent, err = snapshot.LoadParent(t.Context(), parent, w); err != nil {
			t.Fatal(err)
		}
	}
	r, err := snapshot.Take(t.Context(), sources, o)
	if err != nil {
		t.Fatal(err)
	}
	return &snapshot.Manifest{
		ID: fmt.Sprintf("s%03d", n), Cluster: "main", Root: r.Root,
		Window: snapshot.Window{StopTime: time.Date(2026, 1, 1, 0, n, 0, 0, time.UTC)},
	}
}

// needed is what Mark is to find, by the longest way: everything that is read when every file of every snapshot is restored.
func (w *world) needed(t testing.TB, snapshots ...*snapshot.Manifest) map[chunk.ID]bool {
	t.Helper()
	r := &recorder{world: w, live: map[chunk.ID]bool{}}
	for _, m := range snapshots {
		if err := m.Root.Walk(t.Context(), r, func(e *snapshot.Entry) error {
			extents, err := snapshot.LoadRecipe(t.Context(), r, e.Recipe)
			for _, x := range extents {
				if !x.Zero {
					r.live[x.ID] = true
				}
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	return r.live
}

type recorder struct {
	*world
	live map[chunk.ID]bool
}

func (r *recorder) MetaChunk(ctx context.Context, id chunk.ID) ([]byte, error) {
	r.live[id] = true
	return r.world.MetaChunk(ctx, id)
}

// mark runs Mark and returns what it named.
func (w *world) mark(t testing.TB, snapshots ...*snapshot.Manifest) (map[chunk.ID]bool, error) {
	t.Helper()
	live := map[chunk.ID]bool{}
	err := Mark(t.Context(), w, snapshots, func(id chunk.ID) { live[id] = true })
	return live, err
}
