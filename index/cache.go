package index

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/pack"
)

var (
	// ErrBusy says that another process, or another Cache of this one, has the cache open.
	ErrBusy = errors.New("index cache is in use")
	// ErrNoSpace says that the cache's file system has too little room: the cache stops before it runs full, since a
	// memory-mapped file on a full file system kills the process.
	ErrNoSpace = errors.New("no room for the index cache")
	// ErrCache says that the cache is damaged or does not work. Its next OpenCache begins anew.
	ErrCache = errors.New("index cache failed")
)

// Cache holds index segments, on the local disk (OpenCache) or in memory (OpenMemory), and answers where a chunk is. It holds
// nothing that the repository does not: losing it costs time.
//
// All methods may be called from several goroutines at once; lookups run beside an Add. One Cache is open per directory.
// On disk it is a Badger database, whose own goroutines live until Close.
//
// A number stands for a segment, loaded or to come, of which Lookup's caller says whether it counts. Numbers are never given
// twice in the life of a cache directory.
type Cache struct {
	db    database
	disk  *disk  // nil in memory
	shelf *shelf // large notes; nil in memory, where the database holds them

	writing sync.Mutex // held by every writer
	next    counters   // guarded by writing

	mu     sync.RWMutex
	loaded map[string]uint32   // complete segments
	open   map[uint32]struct{} // numbers of Begin
	known  map[uint32]struct{} // the numbers of both

	packs packCache
}

// counters are the next numbers to give out.
type counters struct{ segment, pack uint32 }

// Loaded gives the number of every segment that the cache holds completely, by name.
func (c *Cache) Loaded() map[string]uint32 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return maps.Clone(c.loaded)
}

// Add loads a segment under its object's name and returns its number. A name that is loaded already keeps its number,
// and seg is not looked at. An Add that fails or is killed leaves nothing that Loaded or Lookup show.
// Errors: ErrFormat for an invalid segment, ErrNoSpace, ErrCache.
func (c *Cache) Add(name string, seg *Segment) (uint32, error) {
	if name == "" {
		return 0, errors.New("add to index cache: segment without a name")
	}
	if err := seg.Validate(); err != nil {
		return 0, fmt.Errorf("add %s to index cache: %w", name, err)
	}
	c.writing.Lock()
	defer c.writing.Unlock()
	if number, ok := c.number(name); ok {
		return number, nil
	}
	number, err := c.begin()
	if err != nil {
		return 0, fmt.Errorf("add %s to index cache: %w", name, err)
	}
	for i := range seg.Packs {
		if err := c.addPack(number, &seg.Packs[i]); err != nil {
			return 0, fmt.Errorf("add %s to index cache: pack %s: %w", name, seg.Packs[i].Key, err)
		}
	}
	// The last write: without it, everything above belongs to a number that nobody asks for.
	if err := c.finish(number, name); err != nil {
		return 0, fmt.Errorf("add %s to index cache: %w", name, err)
	}
	return number, nil
}

// Begin gives a number for packs of the running session, whose segment is not published yet. What AddPack puts under it
// is found at once, and forgotten with the process unless Finish is called.
func (c *Cache) Begin() (uint32, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	number, err := c.begin()
	if err != nil {
		return 0, fmt.Errorf("begin a segment in index cache: %w", err)
	}
	c.mu.Lock()
	c.open[number] = struct{}{}
	c.known[number] = struct{}{}
	c.mu.Unlock()
	return number, nil
}

// AddPack puts a pack under a number of Begin. When it returns nil, Lookup finds the pack's chunks.
// Errors: ErrFormat, ErrNoSpace, ErrCache.
func (c *Cache) AddPack(number uint32, p Pack) error {
	if err := p.Validate(); err != nil {
		return fmt.Errorf("add to index cache: %w", err)
	}
	c.writing.Lock()
	defer c.writing.Unlock()
	if err := c.own(number); err != nil {
		return err
	}
	if err := c.addPack(number, &p); err != nil {
		return fmt.Errorf("add pack %s to index cache: %w", p.Key, err)
	}
	return nil
}

// Finish says that the packs under a number of Begin are exactly those of the segment that now is published under
// name: the next session need not read it.
func (c *Cache) Finish(number uint32, name string) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	if err := c.own(number); err != nil {
		return err
	}
	if _, ok := c.number(name); ok || name == "" {
		return fmt.Errorf("finish %q in index cache: not a new name", name)
	}
	if err := c.finish(number, name); err != nil {
		return fmt.Errorf("finish %s in index cache: %w", name, err)
	}
	return nil
}

// own makes sure that number comes from Begin and is not finished.
func (c *Cache) own(number uint32) error {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if _, ok := c.open[number]; !ok {
		return fmt.Errorf("index cache: %d is no open segment", number)
	}
	return nil
}

func (c *Cache) number(name string) (uint32, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	number, ok := c.loaded[name]
	return number, ok
}

// begin writes the counter before anything bears the number, so that a killed Add's leftovers never get a second life.
func (c *Cache) begin() (uint32, error) {
	number := c.next.segment
	next := c.next
	next.segment++
	if err := c.update(func(b batch) error { return b.Set(counterKey, next.marshal()) }); err != nil {
		return 0, err
	}
	c.next = next
	return number, nil
}

func (c *Cache) finish(number uint32, name string) error {
	if err := c.update(func(b batch) error { return b.Set(segmentKey(number), []byte(name)) }); err != nil {
		return err
	}
	c.mu.Lock()
	delete(c.open, number)
	c.known[number] = struct{}{}
	c.loaded[name] = number
	c.mu.Unlock()
	return nil
}

// addPack makes p a pack of segment number. A pack that another segment brought already is only noted.
func (c *Cache) addPack(number uint32, p *Pack) error {
	if err := c.room(minFree); err != nil {
		return err
	}
	print, err := fingerprint(p)
	if err != nil {
		return err
	}
	known, err := c.get(print)
	if err != nil {
		return err
	}
	if known != nil {
		return c.addMember(number, binary.BigEndian.Uint32(known))
	}
	n := c.next.pack
	next := c.next
	next.pack++
	rec := &record{
		key: p.Key, kind: p.Kind, chunks: len(p.Entries), size: p.Size, tail: p.Size - p.End(),
		sessions: p.Sessions, members: []uint32{number},
	}
	err = c.update(func(b batch) error {
		if err := b.Set(counterKey, next.marshal()); err != nil {
			return err
		}
		c.next = next
		if err := c.addEntries(b, n, p.Entries); err != nil {
			return err
		}
		// Only with its record does a pack exist.
		if err := b.Set(packKey(n), rec.marshal()); err != nil {
			return err
		}
		return b.Set(print, binary.BigEndian.AppendUint32(nil, n))
	})
	if err != nil {
		return err
	}
	c.packs.put(n, rec)
	return nil
}

// addMember notes that segment number holds pack n too.
func (c *Cache) addMember(number, n uint32) error {
	rec, err := c.pack(n)
	if err != nil {
		return err
	}
	if rec == nil {
		return c.failed(fmt.Errorf("pack %d has a fingerprint but no record", n))
	}
	if slices.Contains(rec.members, number) {
		return nil
	}
	more := *rec
	more.members = append(slices.Clone(rec.members), number)
	if err := c.update(func(b batch) error { return b.Set(packKey(n), more.marshal()) }); err != nil {
		return err
	}
	c.packs.put(n, &more)
	return nil
}

// addEntries adds a location to each chunk's.
func (c *Cache) addEntries(b batch, n uint32, entries []pack.Entry) error {
	r := c.db.read()
	defer r.end()
	key := make([]byte, 0, 1+chunk.IDSize)
	for i := range entries {
		key = appendChunkKey(key[:0], entries[i].ID)
		old, err := r.get(key, nil)
		if err != nil {
			return c.failed(err)
		}
		if err := b.Set(slices.Clone(key), appendLocation(old, n, &entries[i])); err != nil {
			return err
		}
	}
	return nil
}

// Lookup finds a chunk in the segments for which inView says yes; false if none of them has it. inView is called with
// numbers of complete segments and of Begin, and must not call the Cache, nor must except: packs for whose key it says yes do not
// count; nil excepts none. Of several locations it gives the one that the cache has known shortest: what was stored again was
// missed where it stood before. The location shares memory with the Cache: it is not to be changed.
// Errors: ErrCache.
func (c *Cache) Lookup(id chunk.ID, inView func(segment uint32) bool, except func(packKey string) bool) (pack.Location, bool, error) {
	var found pack.Location
	ok := false
	err := c.locations(id, inView, except, func(l pack.Location) bool {
		found, ok = l, true
		return true
	})
	return found, ok, err
}

// Locations gives every place of a chunk, as Lookup gives one: several hosts may have uploaded it, or a prune moved it.
func (c *Cache) Locations(id chunk.ID, inView func(segment uint32) bool, except func(packKey string) bool) ([]pack.Location, error) {
	var all []pack.Location
	err := c.locations(id, inView, except, func(l pack.Location) bool {
		all = append(all, l)
		return true
	})
	return all, err
}

func (c *Cache) locations(id chunk.ID, inView func(uint32) bool, except func(string) bool, yield func(pack.Location) bool) error {
	b, err := c.get(appendChunkKey(make([]byte, 0, 1+chunk.IDSize), id))
	if err != nil {
		return fmt.Errorf("look up chunk %s: %w", id.Short(), err)
	}
	for len(b) > 0 {
		var n uint32
		e := pack.Entry{ID: id}
		if n, b, err = parseLocation(b, &e); err != nil {
			return fmt.Errorf("look up chunk %s: %w", id.Short(), c.failed(err))
		}
		rec, err := c.pack(n)
		if err != nil {
			return fmt.Errorf("look up chunk %s: %w", id.Short(), err)
		}
		if !c.counts(rec, inView, except) {
			continue
		}
		l, err := rec.location(e)
		if err != nil {
			return fmt.Errorf("look up chunk %s: %w", id.Short(), c.failed(err))
		}
		if !yield(l) {
			return nil
		}
	}
	return nil
}

// counts says whether a pack does: not one of an Add that was killed (it has no record), outside the view, or excepted.
func (c *Cache) counts(rec *record, inView func(uint32) bool, except func(string) bool) bool {
	return rec != nil && c.visible(rec, inView) && (except == nil || !except(rec.key))
}

func (c *Cache) visible(rec *record, inView func(uint32) bool) bool {
	for _, number := range rec.members {
		c.mu.RLock()
		_, ok := c.known[number]
		c.mu.RUnlock()
		if ok && inView(number) {
			return true
		}
	}
	return false
}

// pack gives the record of a pack, nil if there is none.
func (c *Cache) pack(n uint32) (*record, error) {
	rec, generation := c.packs.get(n)
	if rec != nil {
		return rec, nil
	}
	b, err := c.get(packKey(n))
	if err != nil || b == nil {
		return nil, err
	}
	if rec, err = parseRecord(b); err != nil {
		return nil, c.failed(err)
	}
	c.packs.fill(n, rec, generation)
	return rec, nil
}
