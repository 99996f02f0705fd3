package repo

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
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
	one     bool // only segments of group count: see in
	group   string
	cache   *index.Cache
	shared  bool   // with another view, which closes it
	temp    string // directory to remove on Close
	digests digestCache
	ahead   readAhead

	loading sync.Mutex // one after the other: what one view needs another must not make the cache forget

	mu       sync.RWMutex
	segments map[uint32]bool   // those that count, by number in the cache
	whose    map[uint32]string // by the same numbers, of these and others that are not to be forgotten: their groups
	foreign  []string          // names of segments of groups whose keys are not there
	barred   map[string]bool   // packs that are about to be deleted, by key; a writer's view only
	lost     map[string]bool   // packs that turned out to be gone or damaged, by key: see hasLastResort
	damaged  map[string]bool   // packs that somebody said to be damaged, likewise
	broken   []BadObject       // what of the index cannot be read
	distrust *distrust         // whose packs do not count; a writer's view only
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
	path, err := r.cachePath(cacheDir, cluster)
	if err != nil {
		return nil, nil, err
	}
	open := func(path string) (*View, *listing, error) {
		// What a session refers to must be there for whoever has its own group's keys, and no more.
		v := &View{repo: r, who: who, one: who == forWriting || r.open.only, group: r.bundle.Group}
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

// cachePath is where a cluster's cache is, "" for none. Who has the keys of other groups has one of his own: a cache says of a segment that it is
// foreign, too, and holds what not everybody may read.
func (r *Repo) cachePath(cacheDir, cluster string) (string, error) {
	if cacheDir == "" || storage.CheckPart(cluster) != nil {
		return "", nil
	}
	all, err := r.groups()
	if err != nil {
		return "", err
	}
	name := cluster
	if len(all) > 1 || all[0].name != "" {
		var tags []string
		for _, g := range all {
			tags = append(tags, g.tag())
		}
		slices.Sort(tags)
		sum := sha256.Sum256([]byte(strings.Join(tags, " ")))
		name += "@" + hex.EncodeToString(sum[:8]) // which is in no cluster's name
	}
	return filepath.Join(cacheDir, r.config.ID, name), nil
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
		found, err := v.loadSegments(ctx, l)
		pruned = pruned || found.bases
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
		v.segments, v.whose, v.foreign, v.broken = found.segments, found.whose, found.foreign, found.broken
		v.lost, v.barred, v.damaged, v.distrust = nil, nil, l.damaged, l.distrusted
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
	if err := v.cache.Retain(v.keeps); errors.Is(err, index.ErrCache) {
		return err
	}
	return nil // what stays takes room, no more
}

// keeps says whether a segment is one of those that were listed last.
func (v *View) keeps(n uint32) bool {
	v.mu.RLock()
	defer v.mu.RUnlock()
	_, ok := v.whose[n]
	return ok
}

// loaded is what loadSegments found.
type loaded struct {
	segments map[uint32]bool // as View has them
	whose    map[uint32]string
	foreign  []string
	broken   []BadObject
	bases    bool // it had to fetch one
}

// loadSegments brings segments into the cache. Those that are gone or damaged it passes over and lists, and those of groups whose keys are not
// there likewise.
func (v *View) loadSegments(ctx context.Context, l *listing) (*loaded, error) {
	names, known := l.segments, v.cached()
	found := &loaded{segments: make(map[uint32]bool, len(names)), whose: make(map[uint32]string, len(names))}
	tags := l.run.tags()
	for _, name := range names {
		c, ok := known[name]
		if !ok && !v.repo.hasAll() && v.repo.lacks(tags[name]) {
			found.foreign = append(found.foreign, name) // nobody need ask the storage for it
			continue
		}
		if !ok {
			segment, group, by, err := v.repo.signedSegment(ctx, name)
			if bad := asUnreadable(name, err); bad != nil {
				found.broken = append(found.broken, *bad)
				continue
			}
			if err != nil && !isForeign(err) {
				return found, fmt.Errorf("load index: %w", err)
			}
			c = cachedSegment{group: group, by: by, foreign: err != nil}
			if !strings.HasPrefix(name, indexPrefix) { // a shard is what a run has made of what counted, whoever ran it
				c.by = ""
			}
			if c.foreign {
				segment = &index.Segment{} // for the next time
			}
			if c.number, err = v.cache.Add(c.name(name), segment); err != nil {
				return found, fmt.Errorf("cache index segment %s: %w", name, err)
			}
			found.bases = found.bases || strings.HasPrefix(name, basePrefix)
		}
		found.whose[c.number] = c.group
		if c.foreign {
			found.foreign = append(found.foreign, name)
		} else if (!v.one || c.group == v.group) && !l.distrusted.signer(c.by) {
			found.segments[c.number] = true
		}
	}
	return found, nil
}

// cachedSegment is one that the cache holds. It knows it by a name in which the group and the signer are, so that it need not be asked twice whose it is.
type cachedSegment struct {
	number  uint32
	group   string
	by      string // entry of the key that has signed it; "" of what nobody signs, and of a shard of the base
	foreign bool   // then the cache holds its name only
}

// No object's name has this in it.
const groupMark = "\x00"

func (c cachedSegment) name(key string) string {
	switch {
	case c.by != "":
		return c.group + groupMark + key + groupMark + c.by
	case c.group == "" && !c.foreign:
		return key
	}
	return c.group + groupMark + key // of what is foreign no group is known
}

// cached gives what the cache holds by the objects' names.
func (v *View) cached() map[string]cachedSegment {
	all := v.cache.Loaded()
	out := make(map[string]cachedSegment, len(all))
	for name, number := range all {
		c, key := cachedSegment{number: number}, name
		if group, rest, marked := strings.Cut(name, groupMark); marked {
			c.group, key = group, rest
			key, c.by, _ = strings.Cut(rest, groupMark)
			c.foreign = group == "" && c.by == ""
		}
		if c.by == "" && !c.foreign && v.repo.signed() && strings.HasPrefix(key, indexPrefix) {
			continue // as an earlier program has named it: by whom it is must be asked
		}
		out[key] = c
	}
	return out
}

// in is a view of what segments of one group say, of what v says now; v itself if there is no other group. It ends with v.
func (v *View) in(group string) *View {
	if len(v.repo.bundle.Groups()) == 1 || v.one {
		return v
	}
	v.mu.RLock()
	defer v.mu.RUnlock()
	g := &View{repo: v.repo, who: v.who, one: true, group: group, cache: v.cache, shared: true,
		segments: map[uint32]bool{}, whose: v.whose, foreign: v.foreign, barred: v.barred, damaged: v.damaged, broken: v.broken}
	for n := range v.segments {
		if v.whose[n] == group {
			g.segments[n] = true
		}
	}
	return g
}

// Close releases the cache.
func (v *View) Close() error {
	var err error
	if v.cache != nil && !v.shared {
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
	v.segments[n], v.whose[n] = true, v.group
	return n, nil
}

// finish says that the packs under a number of begin are now those of the segment under key.
func (v *View) finish(n uint32, key string) error {
	c := cachedSegment{group: v.group}
	if by := v.repo.bundle.Certificate(); by != nil {
		c.by = by.Entry
	}
	return v.cache.Finish(n, c.name(key))
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
	if len(v.barred)+len(v.lost)+len(v.damaged) == 0 && v.distrust == nil {
		return nil
	}
	return v.isExcepted
}

func (v *View) isExcepted(key string) bool {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.barred[key] || v.lost[key] || v.damaged[key] || v.distrust.pack(key)
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
