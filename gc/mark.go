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
	// reported is how many errors are kept: one lost pack may hold the recipes of every file there is.
	reported = 1000
)

// Mark calls live with every chunk, of data and metadata, that restoring any of the snapshots would read; with some of them
// more than once. live is called by one goroutine at a time, not the caller's.
//
// Each recipe is read once, or tried once if it is damaged, in however many snapshots it stands, and of a patch upon a recipe that was read
// only the patch. What is remembered takes about 100 bytes a recipe, whatever is in it.
//
// Where metadata is damaged it goes on, so that all of it is found: the error is then a *LossError, and live was called with what
// could be found out. Any other error ended it.
func Mark(ctx context.Context, f snapshot.Fetcher, snapshots []*snapshot.Manifest, live func(chunk.ID)) error {
	m := &marker{f: f, live: live, read: map[name]snapshot.Outline{}, failed: map[name]*DamageError{}, roots: map[name]struct{}{}}
	// The oldest first: patches lie on what the snapshots before them have.
	snapshots = slices.Clone(snapshots)
	snapshot.SortByStop(snapshots)
	for _, s := range snapshots {
		if err := m.snapshot(ctx, s); err != nil {
			return err
		}
	}
	if len(m.lost.Damage) > 0 {
		return &m.lost
	}
	return nil
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
	roots    map[name]struct{}     // of listings that were read, with all that they name
	failed   map[name]*DamageError // recipes that cannot be read; nil: there was no room to keep the error
	lost     LossError

	mu   sync.Mutex
	live func(chunk.ID)
	read map[name]snapshot.Outline // recipes of which everything was marked
}

// snapshot marks what one snapshot needs.
func (m *marker) snapshot(ctx context.Context, s *snapshot.Manifest) error {
	root := nameOf(rootKey(s.Root))
	if _, ok := m.roots[root]; ok {
		return nil
	}
	w := walk{m: m, s: s, pending: map[name]*wanted{}}
	if err := w.run(ctx); err != nil {
		return err
	}
	if !w.damaged { // else a snapshot with the same listing is damaged as well, and to be reported
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

// lose notes damage as far as there is room. nil: there was none.
func (m *marker) lose(e *DamageError) *DamageError {
	if len(m.lost.Damage) == reported {
		m.lost.More++
		return nil
	}
	m.lost.Damage = append(m.lost.Damage, e)
	return e
}

// walk is one snapshot's listing on its way.
type walk struct {
	m       *marker
	s       *snapshot.Manifest
	pending map[name]*wanted // recipes that are to be read
	order   []name           // of pending
	inside  error            // of a recipe, as opposed to one of the listing
	damaged bool             // something that the snapshot needs cannot be read
}

// wanted is a recipe on its way.
type wanted struct {
	entry  *snapshot.Entry // the first that has it
	others int             // entries that have it too
	damage error
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
	if err == nil {
		return nil
	}
	if other := w.other(ctx, "", err); other != nil {
		return other
	}
	w.damaged = true
	w.m.lose(w.damage("", err))
	return nil
}

func (w *walk) entry(ctx context.Context, e *snapshot.Entry) error {
	if e.Recipe.Empty() {
		return nil
	}
	n := nameOf(e.Recipe.Key())
	if _, ok := w.m.read[n]; ok { // nobody writes now: flush waits for all
		return nil
	}
	if failed, ok := w.m.failed[n]; ok {
		w.damaged = true
		if failed != nil {
			failed.Others++
		}
		return nil
	}
	if p, ok := w.pending[n]; ok {
		p.others++
		return nil
	}
	w.pending[n] = &wanted{entry: e}
	w.order = append(w.order, n)
	if len(w.order) < batch {
		return nil
	}
	return w.flush(ctx)
}

// flush reads the pending recipes.
func (w *walk) flush(ctx context.Context) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(fetchers)
	for n, p := range w.pending {
		g.Go(func() error {
			needs, err := snapshot.LoadNeeds(gctx, w.m.f, p.entry.Recipe, w.m.known)
			if err != nil {
				p.damage = err
				return w.other(gctx, p.entry.Path, err)
			}
			w.m.mark(needs.Meta)
			w.m.mark(needs.Data)
			w.m.mu.Lock()
			defer w.m.mu.Unlock()
			w.m.read[n] = needs.Outline
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, n := range w.order {
		if p := w.pending[n]; p.damage != nil {
			w.damaged = true
			e := w.damage(p.entry.Path, p.damage)
			e.Others = p.others
			w.m.failed[n] = w.m.lose(e)
		}
	}
	clear(w.pending)
	w.order = w.order[:0]
	return nil
}

func (w *walk) damage(path string, err error) *DamageError {
	return &DamageError{Cluster: w.s.Cluster, Snapshot: w.s.ID, Path: path, Err: err}
}

// other returns an error that says nothing of what is stored; nil if err does.
func (w *walk) other(ctx context.Context, path string, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if j, ok := w.m.f.(Judge); ok && !j.IsDamage(err) && !errors.Is(err, snapshot.ErrInvalid) {
		return fmt.Errorf("%s: %w", w.damage(path, err).subject(), err)
	}
	return nil
}
