package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/index"
	"github.com/pgtrove/pgtrove/pack"
	"github.com/pgtrove/pgtrove/storage"
)

// digestCacheSize bounds the page digests of packs that a view keeps, in bytes: neighbouring files share packs.
const digestCacheSize = 16 << 20

// packDigests is the page digests of a pack, by chunk.
type packDigests struct {
	dir   *pack.Directory
	pages [][]chunk.Prefix // an item for each entry of dir
	at    map[chunk.ID]int // the entry
}

func (d *packDigests) size() int64 {
	return int64(d.dir.Pages())*chunk.PrefixSize + int64(len(d.dir.Entries))*160
}

// PageDigests calls each, once per distinct chunk and in no particular order, with the digest prefixes of the chunk's pages (none
// for a chunk that is no pages), read from the packs that hold them: a ranged read or two for each. The slice is not to be
// changed. each is called by one goroutine at a time, not the caller's.
//
// A chunk that stands in several packs is given as long as one of these has it. ErrMissing, ErrDamaged: none has.
func (v *View) PageDigests(ctx context.Context, ids []chunk.ID, each func(id chunk.ID, digests []chunk.Prefix) error) error {
	todo := slices.Clone(ids)
	slices.SortFunc(todo, func(a, b chunk.ID) int { return bytes.Compare(a[:], b[:]) })
	todo = slices.Compact(todo)
	bad := map[string]error{} // packs that do not have what the index says
	for len(todo) > 0 {
		groups, missing, err := v.cache.ByPack(todo, v.counts, func(key string) bool { return bad[key] != nil || v.isExcepted(key) })
		if err != nil {
			return err
		}
		if len(missing) > 0 {
			return v.noDigests(missing[0], bad)
		}
		todo = todo[:0]
		if err := v.groupDigests(ctx, groups, each, func(g *index.Group, left []chunk.ID, err error) {
			bad[g.Key] = err
			v.Lose(g.Key)
			todo = append(todo, left...)
		}); err != nil {
			return err
		}
	}
	return nil
}

// groupDigests reads the page digests of each group; failed takes what a pack does not have, and why.
func (v *View) groupDigests(ctx context.Context, groups []index.Group, each func(chunk.ID, []chunk.Prefix) error, failed func(*index.Group, []chunk.ID, error)) error {
	type answer struct {
		digests *packDigests
		err     error
	}
	fetch := func(ctx context.Context, i int) (a answer, err error) {
		a.digests, a.err = v.digests.get(ctx, groups[i].Key, func() (*packDigests, error) {
			return v.repo.packDigests(ctx, groups[i].Key, groups[i].Tail)
		})
		if a.err != nil && !isLoss(a.err) {
			return a, a.err
		}
		return a, nil
	}
	return inOrder(ctx, len(groups), fetch, func(i int, a answer) error {
		g := &groups[i]
		if a.err != nil {
			failed(g, g.IDs, a.err)
			return nil
		}
		var left []chunk.ID
		for _, id := range g.IDs {
			entry, ok := a.digests.at[id]
			if !ok {
				left = append(left, id)
				continue
			}
			if err := each(id, a.digests.pages[entry]); err != nil {
				return err
			}
		}
		if left != nil {
			failed(g, left, fmt.Errorf("%w: %s does not have all the chunks that the index says", ErrDamaged, g.Key))
		}
		return nil
	})
}

// noDigests says why no pack gives the page digests of a chunk.
func (v *View) noDigests(id chunk.ID, bad map[string]error) error {
	all, err := v.cache.Locations(id, v.counts, nil)
	if err != nil {
		return err
	}
	for _, loc := range all {
		if err := bad[loc.Pack]; err != nil {
			return fmt.Errorf("read page digests of chunk %s: %w", id.Short(), err)
		}
	}
	return fmt.Errorf("%w: chunk %s is in no pack", ErrMissing, id.Short())
}

// isLoss says of an error that it is the object's, which is gone, damaged or of a version to come, and not the storage's.
func isLoss(err error) bool {
	return errors.Is(err, ErrMissing) || errors.Is(err, ErrDamaged) || errors.Is(err, ErrVersion)
}

// packDigests reads the directory and the page digests of the pack under key. tail is about how many bytes they take
// at its end. ErrMissing, ErrDamaged.
func (r *Repo) packDigests(ctx context.Context, key string, tail int64) (*packDigests, error) {
	aad, err := r.packKeyAAD(key)
	if err != nil {
		return nil, err
	}
	b, t, err := r.readTail(ctx, key, unknownSize, tail, true)
	if errors.Is(err, storage.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", ErrMissing, err)
	}
	if err != nil {
		return nil, err
	}
	d := &packDigests{}
	var o *packOpener
	if d.dir, o, err = r.openDirectory(b, unknownSize, aad); err != nil {
		return nil, asDamage(key, err)
	}
	end := int64(len(b)) - t.TailLen()
	if end < int64(t.Digests) {
		return nil, fmt.Errorf("%w: %s ends early", ErrDamaged, key)
	}
	if d.pages, err = pack.OpenDigests(b[end-int64(t.Digests):end], d.dir, o, aad); err != nil {
		return nil, asDamage(key, err)
	}
	d.at = make(map[chunk.ID]int, len(d.dir.Entries))
	for i := range d.dir.Entries {
		d.at[d.dir.Entries[i].ID] = i
	}
	return d, nil
}

// packKeyAAD is packAAD for an object under packs/, whose name ends in a hash. ErrMissing: no pack is called so.
func (r *Repo) packKeyAAD(key string) ([]byte, error) {
	at := strings.LastIndexByte(key, '-')
	if !strings.HasPrefix(key, packsPrefix) || at < 0 {
		return nil, fmt.Errorf("%w: %s is not a pack's name", ErrMissing, key)
	}
	return r.packAAD(key[:at]), nil
}

// digestCache keeps the page digests of the packs that were asked for last. Several goroutines may ask for the same one, and one of
// them reads it.
type digestCache struct {
	mu    sync.Mutex
	packs map[string]*cachedDigests
	size  int64
	clock uint64
}

type cachedDigests struct {
	ready   chan struct{} // closed when the fields below are final
	digests *packDigests
	used    uint64 // by the cache's clock; guarded by its mu
}

// get gives the digests of the pack under key, which load reads if need be. Errors are load's, and are not kept.
func (c *digestCache) get(ctx context.Context, key string, load func() (*packDigests, error)) (*packDigests, error) {
	for {
		c.mu.Lock()
		p, ok := c.packs[key]
		if !ok {
			p = &cachedDigests{ready: make(chan struct{})}
			if c.packs == nil {
				c.packs = map[string]*cachedDigests{}
			}
			c.packs[key] = p
		}
		c.clock++
		p.used = c.clock
		c.mu.Unlock()
		if !ok {
			d, err := load()
			c.settle(key, p, d)
			return d, err
		}
		select {
		case <-p.ready:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		if p.digests != nil {
			return p.digests, nil
		}
	}
}

// settle ends a load: d is nil if it failed.
func (c *digestCache) settle(key string, p *cachedDigests, d *packDigests) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p.digests = d
	close(p.ready)
	if d == nil || d.size() > digestCacheSize {
		delete(c.packs, key)
		return
	}
	c.size += d.size()
	for c.size > digestCacheSize {
		oldest := ""
		for k, q := range c.packs {
			if q.digests != nil && q != p && (oldest == "" || q.used < c.packs[oldest].used) {
				oldest = k
			}
		}
		c.size -= c.packs[oldest].digests.size()
		delete(c.packs, oldest)
	}
}
