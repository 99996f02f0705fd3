package repo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/index"
	"github.com/pgtrove/pgtrove/pack"
	"github.com/pgtrove/pgtrove/storage"
)

// View is the chunk index as it was when it was opened: which chunks there are, and where. Close it after use. It is
// safe for concurrent use.
type View struct {
	repo    *Repo
	who     reader
	cache   *index.Cache
	temp    string // directory to remove on Close
	digests digestCache
	ahead   readAhead

	loading sync.Mutex // one after the other: what one view needs another must not make the cache forget

	mu       sync.RWMutex
	segments map[uint32]bool // those that count, by number in the cache
	barred   map[string]bool // packs that are about to be deleted, by key; a writer's view only
	lost     map[string]bool // packs that turned out to be gone or damaged, by key: see hasLastResort
	damaged  map[string]bool // packs that somebody said to be damaged, likewise
	broken   []BadObject     // what of the index cannot be read
}

// OpenView loads the index. What the cluster's cache in cacheDir already knows of it is not fetched again; a cache that is
// missing, locked by another process, damaged or not writable costs time and nothing else. It holds the index of all clusters:
// it is one per cluster because it holds their notes too, and so that the backups of two clusters do not wait for each other. Without
// a cacheDir the index is held in memory, which is for small repositories.
func (r *Repo) OpenView(ctx context.Context, cacheDir, cluster string) (*View, error) {
	v, _, err := r.openView(ctx, cacheDir, cluster, forReading)
	return v, err
}

func (r *Repo) openView(ctx context.Context, cacheDir, cluster string, who reader) (*View, *listing, error) {
	path := ""
	if cacheDir != "" && storage.CheckPart(cluster) == nil {
		path = filepath.Join(cacheDir, r.config.ID, cluster)
	}
	open := func(path string) (*View, *listing, error) {
		v := &View{repo: r, who: who}
		if err := v.openCache(path, cacheDir == ""); err != nil {
			return nil, nil, err
		}
		l, err := v.load(ctx)
		if err != nil {
			return nil, nil, errors.Join(err, v.Close())
		}
		return v, l, nil
	}
	v, l, err := open(path)
	if path != "" && (errors.Is(err, index.ErrCache) || errors.Is(err, index.ErrNoSpace)) {
		v, l, err = open("") // beside it, in a place that is removed afterwards
	}
	return v, l, err
}

// openCache opens the cache in the directory path, or where that does not work, in one that is removed afterwards.
func (v *View) openCache(path string, inMemory bool) (err error) {
	if inMemory {
		v.cache, err = index.OpenMemory(v.repo.config.ID)
		return err
	}
	if path != "" {
		if err := os.MkdirAll(path, 0o700); err == nil {
			if v.cache, err = index.OpenCache(path, v.repo.config.ID); err == nil {
				return nil
			}
		}
	}
	temp, err := os.MkdirTemp("", "pgtrove-index-")
	if err != nil {
		return fmt.Errorf("make a directory for the chunk index: %w", err)
	}
	v.temp = temp
	if v.cache, err = index.OpenCache(temp, v.repo.config.ID); err != nil {
		return errors.Join(fmt.Errorf("open the chunk index: %w", err), os.RemoveAll(temp))
	}
	return nil
}

// Reload looks at the repository again: what prunes have moved is found where it stands now, and packs that were lost are
// looked for once more. The listing of who reads is complete: a prune that ends meanwhile makes it look again.
func (v *View) Reload(ctx context.Context) error {
	_, err := v.load(ctx)
	return err
}

// load makes the view what the repository shows now, or leaves it as it was.
func (v *View) load(ctx context.Context) (*listing, error) {
	v.loading.Lock()
	defer v.loading.Unlock()
	pruned := false
	for {
		l, err := v.repo.list(ctx, v.who)
		if err != nil {
			return nil, err
		}
		segments, broken, bases, err := v.loadSegments(ctx, l.segments)
		pruned = pruned || bases
		if err != nil {
			return nil, err
		}
		newest, err := v.repo.newestNumber(ctx)
		if err != nil {
			return nil, err
		}
		// What is gone may be in a new base.
		if newest != l.run.Number {
			continue
		}
		v.mu.Lock()
		v.segments, v.lost, v.barred, v.damaged, v.broken = segments, nil, nil, l.damaged, broken
		if v.who == forWriting {
			v.barred = l.run.barred()
		}
		v.mu.Unlock()
		if pruned {
			err = v.forgetOld()
		}
		return l, err
	}
}

// forgetOld makes the cache forget the segments that the newest bases stand for, and the packs that were deleted. Names of segments are
// never used again. One that only this view passes over is fetched once more by the next that wants it.
func (v *View) forgetOld() error {
	if err := v.cache.Retain(v.counts); errors.Is(err, index.ErrCache) {
		return err
	}
	return nil // what stays takes room, no more
}

// loadSegments brings segments into the cache and returns their numbers, and whether it had to fetch a base. Those that are gone or damaged
// it passes over and lists.
func (v *View) loadSegments(ctx context.Context, names []string) (_ map[uint32]bool, broken []BadObject, bases bool, err error) {
	loaded := v.cache.Loaded()
	numbers := make(map[uint32]bool, len(names))
	for _, name := range names {
		n, ok := loaded[name]
		if !ok {
			segment, err := v.repo.segment(ctx, name)
			if bad := asUnreadable(name, err); bad != nil {
				broken = append(broken, *bad)
				continue
			}
			if err != nil {
				return nil, nil, bases, fmt.Errorf("load index: %w", err)
			}
			if n, err = v.cache.Add(name, segment); err != nil {
				return nil, nil, bases, fmt.Errorf("cache index segment %s: %w", name, err)
			}
			bases = bases || strings.HasPrefix(name, basePrefix)
		}
		numbers[n] = true
	}
	return numbers, broken, bases, nil
}

// segment reads an index segment, or a shard of the base.
func (r *Repo) segment(ctx context.Context, name string) (*index.Segment, error) {
	text, err := r.get(ctx, kindIndex, name)
	if err != nil {
		return nil, err
	}
	s, err := index.Parse(text)
	if err != nil {
		return nil, asDamage(name, err)
	}
	return s, nil
}

// Close releases the cache.
func (v *View) Close() error {
	var err error
	if v.cache != nil {
		err = v.cache.Close()
	}
	if v.temp != "" {
		err = errors.Join(err, os.RemoveAll(v.temp))
	}
	return err
}

// begin returns the number under which packs of the running session are added to the local index. They count from
// now on.
func (v *View) begin() (uint32, error) {
	n, err := v.cache.Begin()
	if err != nil {
		return 0, fmt.Errorf("begin an index segment: %w", err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.segments[n] = true
	return n, nil
}

func (v *View) counts(n uint32) bool {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.segments[n]
}

// excepted gives the test for packs that do not count although the index names them; nil where there are none.
func (v *View) excepted() func(key string) bool {
	v.mu.RLock()
	defer v.mu.RUnlock()
	if len(v.barred)+len(v.lost)+len(v.damaged) == 0 {
		return nil
	}
	return v.isExcepted
}

func (v *View) isExcepted(key string) bool {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.barred[key] || v.lost[key] || v.damaged[key]
}

func (v *View) has(id chunk.ID) (bool, error) {
	_, ok, err := v.cache.Lookup(id, v.counts, v.excepted())
	return ok, err
}

// Lose notes that a pack turned out to be gone or damaged. Locate gives other places of its chunks from now on, if there are any. For a session they count
// as not stored: it stores them again instead of referring to what nobody can read.
func (v *View) Lose(key string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.lost == nil {
		v.lost = map[string]bool{}
	}
	v.lost[key] = true
}

// Locate says where a chunk is. ErrMissing and ErrNotIndexed: no current segment names it; with an *IndexError where the index cannot be read in
// whole.
func (v *View) Locate(id chunk.ID) (pack.Location, error) {
	loc, ok, err := v.cache.Lookup(id, v.counts, v.excepted())
	if err == nil && !ok && v.hasLastResort() {
		loc, ok, err = v.cache.Lookup(id, v.counts, nil)
	}
	if err != nil {
		return pack.Location{}, fmt.Errorf("look up chunk %s: %w", id.Short(), err)
	}
	if !ok {
		return pack.Location{}, v.noPack(id)
	}
	return loc, nil
}

// ReadPack appends n bytes at offset off of the pack to dst; fewer where the pack is shorter. A negative off counts from
// the pack's end.
func (v *View) ReadPack(ctx context.Context, key string, off, n int64, dst []byte) ([]byte, error) {
	b, err := v.repo.store.Get(ctx, key, storage.Range{Off: off, Len: n}, dst)
	if errors.Is(err, storage.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", ErrMissing, err)
	}
	return b, err
}

// OpenChunk decrypts, decompresses and verifies the sealed bytes of a chunk and appends them to dst.
func (v *View) OpenChunk(dst []byte, loc pack.Location, sealed []byte) ([]byte, error) {
	return v.repo.OpenChunk(dst, loc, sealed)
}

// MetaChunk returns the verified bytes of a metadata chunk, from whichever pack has it.
func (v *View) MetaChunk(ctx context.Context, id chunk.ID) ([]byte, error) {
	all, err := v.Locations(id)
	if err != nil {
		return nil, err
	}
	failed := v.noPack(id)
	for _, loc := range slices.Backward(all) {
		var b []byte
		if b, err = v.metaChunk(ctx, loc); err == nil {
			return b, nil
		}
		if !isLoss(err) {
			return nil, err
		}
		v.Lose(loc.Pack)
		failed = err
	}
	return nil, failed
}

func (v *View) metaChunk(ctx context.Context, loc pack.Location) ([]byte, error) {
	if loc.Kind != pack.Meta {
		return nil, fmt.Errorf("%w: metadata chunk %s is in a pack of data", ErrDamaged, loc.ID.Short())
	}
	sealed, err := v.ahead.read(ctx, loc, v.ReadPack)
	if err != nil {
		return nil, err
	}
	return v.OpenChunk(nil, loc, sealed)
}
