package index

import (
	"errors"
	"fmt"
	"slices"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/pack"
)

// finder finds many chunks in few packs: of several locations it takes one in a pack that it has taken before. It
// remembers what it learned of each pack, and allocates nothing per chunk. For one goroutine.
type finder struct {
	c      *Cache
	db     reading
	inView func(uint32) bool
	except func(key string) bool // nil: none
	packs  map[uint32]standing
	chosen []uint32 // the packs taken, in the order of their first use
	key    []byte
	value  []byte // of the last chunk
}

// standing is what a finder knows of a pack.
type standing int8

const (
	unknown standing = iota
	usable
	useless // outside the view, excepted, or left by a killed Add
	taken
)

func (c *Cache) finder(inView func(uint32) bool, except func(string) bool) *finder {
	return &finder{
		c: c, db: c.db.read(), inView: inView, except: except,
		packs: map[uint32]standing{}, key: make([]byte, 0, 1+chunk.IDSize),
	}
}

func (f *finder) close() { f.db.end() }

// find gives the number of a pack that holds the chunk; false if there is none.
func (f *finder) find(id chunk.ID) (n uint32, ok bool, err error) {
	f.key = appendChunkKey(f.key[:0], id)
	b, err := f.db.get(f.key, f.value)
	if err == nil && b == nil {
		return 0, false, nil
	}
	if err == nil {
		f.value = b
		n, ok, err = f.choose(b)
	}
	if err != nil {
		if !errors.Is(err, ErrCache) {
			err = f.c.failed(err)
		}
		return 0, false, fmt.Errorf("look up chunk %s: %w", id.Short(), err)
	}
	if ok && f.packs[n] != taken {
		f.packs[n] = taken
		f.chosen = append(f.chosen, n)
	}
	return n, ok, nil
}

// choose takes one of a chunk's locations.
func (f *finder) choose(b []byte) (best uint32, ok bool, err error) {
	for len(b) > 0 {
		var n uint32
		var e pack.Entry
		if n, b, err = parseLocation(b, &e); err != nil {
			return 0, false, err
		}
		s := f.packs[n]
		if s == unknown {
			if s, err = f.judge(n); err != nil {
				return 0, false, err
			}
			f.packs[n] = s
		}
		switch {
		case s == taken:
			return n, true, nil
		case s == usable && !ok:
			best, ok = n, true
		}
	}
	return best, ok, nil
}

func (f *finder) judge(n uint32) (standing, error) {
	rec, err := f.c.pack(n)
	if err != nil {
		return unknown, err
	}
	if !f.c.counts(rec, f.inView, f.except) {
		return useless, nil
	}
	return usable, nil
}

// Held is a pack as the cache knows it.
type Held struct {
	Number uint32 // the cache's own, never given twice in the life of a cache directory
	Key    string
	Kind   pack.Kind
	Chunks int
	Size   int64 // bytes of the object
	Tail   int64 // bytes of the object behind its last chunk: page digests, directory, trailer

	// Segments are numbers of the segments that name it, shared with the Cache: not to be changed. Some may stand for nothing any more.
	Segments []uint32
	// Indexed is at least what the pack takes in a segment, in bytes, as a Splitter counts it.
	Indexed int
}

func (r *record) held(n uint32) Held {
	return Held{Number: n, Key: r.key, Kind: r.kind, Chunks: r.chunks, Size: r.size, Tail: r.tail,
		Segments: r.members, Indexed: maxMarshaled(r.key, r.sessions, r.chunks)}
}

// Group is some chunks that stand in one pack.
type Group struct {
	Held
	IDs []chunk.ID
}

// ByPack says of many chunks where they are, as Lookup does, each in one place: grouped by pack, in the order in which the cache came to know the
// packs, and with no more packs than need be (nearly). Packs for whose key except says yes do not count; nil excepts none. missing are those in no pack, in the order of ids.
// Errors: ErrCache.
func (c *Cache) ByPack(ids []chunk.ID, inView func(segment uint32) bool, except func(packKey string) bool) (groups []Group, missing []chunk.ID, err error) {
	f := c.finder(inView, except)
	defer f.close()
	in := map[uint32][]chunk.ID{}
	for _, id := range ids {
		n, ok, err := f.find(id)
		if err != nil {
			return nil, nil, err
		}
		if !ok {
			missing = append(missing, id)
			continue
		}
		in[n] = append(in[n], id)
	}
	slices.Sort(f.chosen)
	for _, n := range f.chosen {
		rec, err := c.pack(n)
		if err != nil {
			return nil, nil, err
		}
		if rec == nil { // a Retain came between
			return c.ByPack(ids, inView, except)
		}
		groups = append(groups, Group{Held: rec.held(n), IDs: in[n]})
	}
	return groups, missing, nil
}
