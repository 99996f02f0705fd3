package restore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/pack"
)

// Renewable is what Chunks may be besides: an index that knows every place of a chunk, and that can be read anew. While a
// restore runs, prunes may move chunks to other packs and delete those in which they stood.
type Renewable interface {
	// Locations lists the places of a chunk, the one to be preferred last.
	Locations(id chunk.ID) ([]pack.Location, error)
	// Reload looks at the repository again. Other methods may be called meanwhile.
	Reload(ctx context.Context) error
}

// maxReloads is how often a chunk that cannot be read makes the index be loaded anew before it is given up. Once is enough
// unless another prune deletes the very pack in between, for which it takes two runs.
const maxReloads = 3

// source is Chunks that looks elsewhere for what is not where it should be. It is safe for concurrent use.
type source struct {
	Chunks
	isDamage func(error) bool
	renew    Renewable // nil: there is nowhere else

	mu    sync.Mutex
	loads int // how often the index was loaded anew
}

// newSource makes a source of c. isDamage tells errors that say something of what is stored from those that do not; nil: what
// cannot be read is given up at once.
func newSource(c Chunks, isDamage func(error) bool) *source {
	s := &source{Chunks: c, isDamage: isDamage}
	if isDamage != nil {
		s.renew, _ = c.(Renewable)
	}
	return s
}

// lost says whether an error means that a chunk cannot be read where it was looked for, though it may stand elsewhere.
func (s *source) lost(err error) bool {
	return s.renew != nil && (s.isDamage(err) || errors.Is(err, ErrMismatch))
}

func (s *source) version() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.loads
}

// reload loads the index anew, unless somebody has done so since it had the version seen.
func (s *source) reload(ctx context.Context, seen int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.loads != seen {
		return nil
	}
	if err := s.renew.Reload(ctx); err != nil {
		return err
	}
	s.loads++
	return nil
}

// again does something until it succeeds, the index loaded anew before each further attempt.
func again[T any](ctx context.Context, s *source, do func() (T, error)) (T, error) {
	for n := 0; ; n++ {
		seen := s.version()
		v, err := do()
		if err == nil || !s.lost(err) || n == maxReloads {
			return v, err
		}
		if failed := s.reload(ctx, seen); failed != nil {
			return v, notReloaded(err, failed)
		}
	}
}

func notReloaded(reason, err error) error {
	return fmt.Errorf("look for what could not be read (%v): %w", reason, err)
}

// MetaChunk implements Chunks.
func (s *source) MetaChunk(ctx context.Context, id chunk.ID) ([]byte, error) {
	return again(ctx, s, func() ([]byte, error) { return s.Chunks.MetaChunk(ctx, id) })
}

// locate is Locate, with another look at the repository.
func (s *source) locate(ctx context.Context, id chunk.ID) (pack.Location, error) {
	return again(ctx, s, func() (pack.Location, error) { return s.Locate(id) })
}

// elsewhere finds a place of a chunk that is not among those tried, which has at least one. reason is returned if there is none.
func (s *source) elsewhere(ctx context.Context, tried []pack.Location, reason error) (pack.Location, error) {
	if !s.lost(reason) {
		return pack.Location{}, reason
	}
	want := &tried[0]
	for n := 0; ; n++ {
		seen := s.version()
		all, err := s.renew.Locations(want.ID)
		if err != nil && !s.lost(err) {
			return pack.Location{}, err
		}
		for _, loc := range slices.Backward(all) {
			fits := loc.Kind == want.Kind && loc.Form == want.Form && loc.Plain == want.Plain
			if fits && !slices.ContainsFunc(tried, func(t pack.Location) bool { return t.Pack == loc.Pack && t.Offset == loc.Offset }) {
				return loc, nil
			}
		}
		if n == maxReloads {
			return pack.Location{}, reason
		}
		if err := s.reload(ctx, seen); err != nil {
			return pack.Location{}, notReloaded(reason, err)
		}
	}
}
