package gc

import (
	"context"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/snapshot"
)

// kept is how many bytes of the last listings are kept: consecutive snapshots share most of theirs.
const kept = 32 << 20

// ahead is how many chunks of a listing are read at once.
const ahead = 64

// listings reads one listing after another, each chunk once as far as there is room to keep it.
type listings struct {
	last, now map[chunk.ID][]byte // of the listing before, and of this one
	size      int                 // bytes in now
}

// listing reads the chunks of one listing in order, some of them ahead. It is used by one goroutine.
type listing struct {
	*listings
	f     snapshot.Fetcher
	order []chunk.ID          // of the chunks that hold entries
	soon  map[chunk.ID][]byte // read ahead
}

// open begins the listing at root and marks all chunks that it consists of.
func (l *listings) open(ctx context.Context, f snapshot.Fetcher, root snapshot.Root, mark func([]chunk.ID)) (*listing, error) {
	l.last, l.now, l.size = l.now, map[chunk.ID][]byte{}, 0
	one := &listing{listings: l, f: f, soon: map[chunk.ID][]byte{}}
	order, err := root.Expand(ctx, one, func(id chunk.ID) error {
		mark([]chunk.ID{id})
		return nil
	})
	one.order = order
	return one, err
}

// MetaChunk implements snapshot.Fetcher.
func (l *listing) MetaChunk(ctx context.Context, id chunk.ID) ([]byte, error) {
	b, ok := l.have(id)
	if !ok {
		if i := slices.Index(l.order, id); i >= 0 {
			l.order = l.order[i:]
			l.readAhead(ctx)
			b, ok = l.soon[id]
		}
	}
	if !ok { // of an upper level, or it cannot be read: then the error is told now, when all before it was visited
		var err error
		if b, err = l.f.MetaChunk(ctx, id); err != nil {
			return nil, err
		}
	}
	delete(l.soon, id)
	if _, ok := l.now[id]; !ok && l.size+len(b) <= kept {
		l.now[id] = b
		l.size += len(b)
	}
	return b, nil
}

func (l *listing) have(id chunk.ID) ([]byte, bool) {
	for _, m := range []map[chunk.ID][]byte{l.now, l.last, l.soon} {
		if b, ok := m[id]; ok {
			return b, true
		}
	}
	return nil, false
}

// readAhead reads the next chunks that are not there, as far as it can.
func (l *listing) readAhead(ctx context.Context) {
	var mu sync.Mutex
	var g errgroup.Group
	g.SetLimit(fetchers)
	asked := map[chunk.ID]bool{}
	for _, id := range l.order[:min(len(l.order), ahead)] {
		mu.Lock()
		_, ok := l.have(id)
		mu.Unlock()
		if ok || asked[id] {
			continue
		}
		asked[id] = true
		g.Go(func() error {
			b, err := l.f.MetaChunk(ctx, id)
			if err == nil {
				mu.Lock()
				defer mu.Unlock()
				l.soon[id] = b
			}
			return nil
		})
	}
	_ = g.Wait() // none fails
}
