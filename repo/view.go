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
	repo     *Repo
	cache    *index.Cache
	temp     string // directory to remove on Close
	mu       sync.RWMutex
	segments map[uint32]bool // those that count, by number in the cache
	lost     map[string]bool // packs that turned out to be gone or damaged, by key: what they held is not there
	digests  digestCache
}

// OpenView loads the index. What the cluster's cache in cacheDir already knows of it is not fetched again; a cache that is
// missing, locked by another process, damaged or not writable costs time and nothing else. It holds the index of all clusters:
// it is one per cluster because it holds their notes too, and so that the backups of two clusters do not wait for each other.
func (r *Repo) OpenView(ctx context.Context, cacheDir, cluster string) (*View, error) {
	v, _, err := r.openView(ctx, cacheDir, cluster)
	return v, err
}

func (r *Repo) openView(ctx context.Context, cacheDir, cluster string) (*View, *listing, error) {
	l, err := r.currentSegments(ctx)
	if err != nil {
		return nil, nil, err
	}
	path := ""
	if cacheDir != "" && storage.CheckPart(cluster) == nil {
		path = filepath.Join(cacheDir, r.config.ID, cluster)
	}
	v, err := r.loadView(ctx, path, l.segments)
	if path != "" && (errors.Is(err, index.ErrCache) || errors.Is(err, index.ErrNoSpace)) {
		v, err = r.loadView(ctx, "", l.segments) // beside it, in a place that is removed afterwards
	}
	return v, l, err
}

func (r *Repo) loadView(ctx context.Context, path string, names []string) (*View, error) {
	v := &View{repo: r, segments: map[uint32]bool{}}
	if err := v.openCache(path); err != nil {
		return nil, err
	}
	if err := v.load(ctx, names); err != nil {
		return nil, errors.Join(err, v.Close())
	}
	return v, nil
}

// listing is what the storage showed when a view was opened.
type listing struct {
	segments []string          // names of the index segments that count
	sessions map[string]bool   // IDs
	outcomes map[string]string // session ID to key
}

// currentSegments says which index segments count (W1): their session exists, and did not end fenced or aborted.
// Outcomes are looked up after the segments were listed.
func (r *Repo) currentSegments(ctx context.Context) (*listing, error) {
	l := &listing{outcomes: map[string]string{}}
	var names []string
	if err := r.store.List(ctx, indexPrefix, func(i storage.Info) error {
		names = append(names, i.Key)
		return nil
	}); err != nil {
		return nil, fmt.Errorf("list index: %w", err)
	}
	var err error
	if l.sessions, err = r.sessions(ctx); err != nil {
		return nil, err
	}
	if err := r.store.List(ctx, snapshotsPrefix, func(i storage.Info) error {
		l.outcomes[i.Key[strings.LastIndexByte(i.Key, '/')+1:]] = i.Key
		return nil
	}); err != nil {
		return nil, fmt.Errorf("list snapshots: %w", err)
	}
	void := map[string]bool{}
	for _, name := range names {
		sid, _, _ := strings.Cut(strings.TrimPrefix(name, indexPrefix), "/")
		if !l.sessions[sid] {
			continue
		}
		if key, ended := l.outcomes[sid]; ended {
			if _, known := void[sid]; !known {
				o, err := r.outcome(ctx, key)
				if err != nil && !errors.Is(err, ErrDamaged) {
					return nil, err
				}
				// A damaged outcome says nothing of the chunks, which are verified one by one.
				void[sid] = err == nil && (o.Outcome == outcomeFenced || o.Outcome == outcomeAborted)
			}
		}
		if !void[sid] {
			l.segments = append(l.segments, name)
		}
	}
	return l, nil
}

func (r *Repo) sessions(ctx context.Context) (map[string]bool, error) {
	sessions := map[string]bool{}
	err := r.store.List(ctx, sessionsPrefix, func(i storage.Info) error {
		sessions[strings.TrimPrefix(i.Key, sessionsPrefix)] = true
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list sessions: %w", err)
	}
	return sessions, nil
}

// openCache opens the cache in the directory path, or where that does not work, in one that is removed afterwards.
func (v *View) openCache(path string) error {
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

func (v *View) load(ctx context.Context, names []string) error {
	loaded := v.cache.Loaded()
	for _, name := range names {
		n, ok := loaded[name]
		if !ok {
			text, err := v.repo.get(ctx, kindIndex, name)
			if err != nil {
				return fmt.Errorf("load index: %w", err)
			}
			segment, err := index.Parse(text)
			if err != nil {
				return asDamage(name, err)
			}
			if n, err = v.cache.Add(name, segment); err != nil {
				return fmt.Errorf("cache index segment %s: %w", name, err)
			}
		}
		v.segments[n] = true
	}
	return nil
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

func (v *View) has(id chunk.ID) (bool, error) {
	if !v.anyLost() {
		_, ok, err := v.cache.Lookup(id, v.counts, nil)
		return ok, err
	}
	all, err := v.cache.Locations(id, v.counts, nil)
	return slices.ContainsFunc(all, func(l pack.Location) bool { return !v.isLost(l.Pack) }), err
}

// lose notes that a pack is gone or damaged. Its chunks count as not stored from now on, so that a session stores them again instead
// of referring to what nobody can read.
func (v *View) lose(key string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.lost == nil {
		v.lost = map[string]bool{}
	}
	v.lost[key] = true
}

func (v *View) isLost(key string) bool {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.lost[key]
}

func (v *View) anyLost() bool {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return len(v.lost) > 0
}

// Locate says where a chunk is. ErrMissing: no current segment names it.
func (v *View) Locate(id chunk.ID) (pack.Location, error) {
	loc, ok, err := v.cache.Lookup(id, v.counts, nil)
	if err != nil {
		return pack.Location{}, fmt.Errorf("look up chunk %s: %w", id.Short(), err)
	}
	if !ok {
		return pack.Location{}, fmt.Errorf("%w: chunk %s is in no pack", ErrMissing, id.Short())
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
	all, err := v.cache.Locations(id, v.counts, nil)
	if err != nil {
		return nil, fmt.Errorf("look up chunk %s: %w", id.Short(), err)
	}
	failed := fmt.Errorf("%w: chunk %s is in no pack", ErrMissing, id.Short())
	for _, loc := range slices.Backward(all) {
		var b []byte
		if b, err = v.metaChunk(ctx, loc); err == nil {
			return b, nil
		}
		if !isLoss(err) {
			return nil, err
		}
		v.lose(loc.Pack)
		failed = err
	}
	return nil, failed
}

func (v *View) metaChunk(ctx context.Context, loc pack.Location) ([]byte, error) {
	if loc.Kind != pack.Meta {
		return nil, fmt.Errorf("%w: metadata chunk %s is in a pack of data", ErrDamaged, loc.ID.Short())
	}
	sealed, err := v.ReadPack(ctx, loc.Pack, int64(loc.Offset), int64(loc.Sealed), nil)
	if err != nil {
		return nil, err
	}
	return v.OpenChunk(nil, loc, sealed)
}
