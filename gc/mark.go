package gc

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/snapshot"
)

const (
	// fetchers is how many reads are under way at once: a storage may take long to answer each, and each may hold a whole recipe.
	fetchers = 8
	// batch is how many recipes are put together before they are read, at most fetchers of them at once.
	batch = 256
)

// Mark calls live with every chunk, of data and metadata, that restoring any of the snapshots would read; with some of them
// more than once. live is called by one goroutine at a time, not the caller's.
//
// Each recipe is read once, in however many snapshots it stands, and of a patch upon a recipe that was read only the patch. What
// is remembered takes about 100 bytes a recipe, whatever is in it.
//
// Where metadata is damaged it goes on, so that all of it is found: the error is then one *DamageError, or several joined, and live
// was called with what could be found out. Any other error ended it.
func Mark(ctx context.Context, f snapshot.Fetcher, snapshots []*snapshot.Manifest, live func(chunk.ID)) error {
	m := &marker{f: f, live: live, read: map[name]snapshot.Outline{}, roots: map[name]struct{}{}}
	// The oldest first: patches lie on what the snapshots before them have.
	snapshots = slices.Clone(snapshots)
	snapshot.SortByStop(snapshots)
	for _, s := range snapshots {
		if err := m.snapshot(ctx, s); err != nil {
			return err
		}
	}
	return errors.Join(m.damage...)
}

// name stands for a recipe, or for the root of a listing.
type name [16]byte

func nameOf(b []byte) name {
	sum := sha256.Sum256(b)
	return name(sum[:])
}

// marker is one run of Mark. mu guards what is below it.
type marker struct {
	f        snapshot.Fetcher
	listings listings
	roots    map[name]struct{} // of listings that were read, with all that they name

	mu     sync.Mutex
	live   func(chunk.ID)
	read   map[name]snapshot.Outline // recipes of which everything was marked
	damage []error
}

// snapshot marks what one snapshot needs.
func (m *marker) snapshot(ctx context.Context, s *snapshot.Manifest) error {
	root := nameOf(rootKey(s.Root))
	if _, ok := m.roots[root]; ok {
		return nil
	}
	had := len(m.damage)
	w := walk{m: m, s: s, pending: map[name]*snapshot.Entry{}}
	if err := w.run(ctx); err != nil {
		return err
	}
	if len(m.damage) == had { // else a snapshot with the same listing is damaged as well, and to be reported
		m.roots[root] = struct{}{}
	}
	return nil
}

// rootKey tells a root from every other.
func rootKey(r snapshot.Root) []byte {
	return append([]byte{byte(r.Depth)}, snapshot.RecipeRef{Chunks: r.Chunks}.Key()...)
}

func (m *marker) mark(ids []chunk.ID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, id := range ids {
		m.live(id)
	}
}

func (m *marker) known(ref snapshot.RecipeRef) (snapshot.Outline, bool) {
	n := nameOf(ref.Key())
	m.mu.Lock()
	defer m.mu.Unlock()
	o, ok := m.read[n]
	return o, ok
}

// damaged notes an error that says something of what is stored, and returns any other.
func (m *marker) damaged(ctx context.Context, s *snapshot.Manifest, path string, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	e := &DamageError{Cluster: s.Cluster, Snapshot: s.ID, Path: path, Err: err}
	if j, ok := m.f.(Judge); ok && !j.IsDamage(err) && !errors.Is(err, snapshot.ErrInvalid) {
		return fmt.Errorf("%s: %w", e.subject(), err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.damage = append(m.damage, e)
	return nil
}

// walk is one snapshot's listing on its way.
type walk struct {
	m       *marker
	s       *snapshot.Manifest
	pending map[name]*snapshot.Entry // with recipes that are to be read
	inside  error                    // of a recipe, as opposed to one of the listing
}

func (w *walk) run(ctx context.Context) error {
	l, err := w.m.listings.open(ctx, w.m.f, w.s.Root, w.m.mark)
	if err == nil {
		err = w.s.Root.Walk(ctx, l, func(e *snapshot.Entry) error {
			w.inside = w.entry(ctx, e)
			return w.inside
		})
	}
	if w.inside != nil {
		return w.inside
	}
	if flushed := w.flush(ctx); flushed != nil {
		return flushed
	}
	return w.m.damaged(ctx, w.s, "", err)
}

func (w *walk) entry(ctx context.Context, e *snapshot.Entry) error {
	if e.Recipe.Empty() {
		return nil
	}
	n := nameOf(e.Recipe.Key())
	if _, ok := w.m.read[n]; ok { // nobody writes now: flush waits for all
		return nil
	}
	w.pending[n] = e
	if len(w.pending) < batch {
		return nil
	}
	return w.flush(ctx)
}

// flush reads the pending recipes.
func (w *walk) flush(ctx context.Context) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(fetchers)
	for n, e := range w.pending {
		g.Go(func() error {
			needs, err := snapshot.LoadNeeds(gctx, w.m.f, e.Recipe, w.m.known)
			if err != nil {
				return w.m.damaged(gctx, w.s, e.Path, err)
			}
			w.m.mark(needs.Meta)
			w.m.mark(needs.Data)
			w.m.mu.Lock()
			defer w.m.mu.Unlock()
			w.m.read[n] = needs.Outline
			return nil
		})
	}
	clear(w.pending)
	return g.Wait()
}
