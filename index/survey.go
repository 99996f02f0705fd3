package index

import (
	"fmt"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/pack"
)

// Place is where a chunk is, as Survey tells it.
type Place struct {
	Pack   uint32 // its number in this cache: Held.Number
	Sealed uint32 // bytes of the chunk in the pack
}

// Survey calls fn for every chunk that stands in a pack of the segments for which inView says yes, in the order of IDs, with its place in
// each of these packs, in the order in which the cache came to know them. places is fn's during the call. fn must not call the Cache, and its
// error is returned as it is.
//
// It reads the whole index, in memory that does not grow with the number of chunks, and allocates nothing per chunk. Packs gives the
// packs that the numbers stand for: two segments that disagree about a pack make two numbers of one key.
// Errors: ErrCache.
func (c *Cache) Survey(inView func(segment uint32) bool, fn func(id chunk.ID, places []Place) error) error {
	r := c.db.read()
	defer r.end()
	var visible []bool // by number
	if err := c.packsOf(r, inView, func(h Held) error {
		for int(h.Number) >= len(visible) {
			visible = append(visible, false)
		}
		visible[h.Number] = true
		return nil
	}); err != nil {
		return err
	}
	var places []Place
	return c.scan(r, chunkPrefix, "survey chunks", func(key, b []byte) (theirs, err error) {
		places = places[:0]
		for len(b) > 0 {
			var n uint32
			var e pack.Entry
			if n, b, err = parseLocation(b, &e); err != nil {
				return nil, err
			}
			if int(n) < len(visible) && visible[n] {
				places = append(places, Place{Pack: n, Sealed: e.Sealed})
			}
		}
		if len(key) != 1+chunk.IDSize {
			return nil, errRecord
		}
		if len(places) == 0 {
			return nil, nil
		}
		return fn(chunk.ID(key[1:]), places), nil
	})
}

// Packs calls fn for every pack in the segments for which inView says yes, in the order in which the cache came to know them. It reads
// the record of every pack: for what is done once. fn must not call the Cache, and its error is returned as it is.
// Errors: ErrCache.
func (c *Cache) Packs(inView func(segment uint32) bool, fn func(Held) error) error {
	r := c.db.read()
	defer r.end()
	return c.packsOf(r, inView, fn)
}

func (c *Cache) packsOf(r reading, inView func(uint32) bool, fn func(Held) error) error {
	return c.scan(r, packPrefix, "read packs", func(key, b []byte) (theirs, err error) {
		rec, err := parseRecord(b)
		if err != nil {
			return nil, err
		}
		n, err := packNumber(key)
		if err != nil || !c.visible(rec, inView) {
			return nil, err
		}
		return fn(rec.held(n)), nil
	})
}

// scan reads all keys with a prefix. What fn calls theirs is the error of the Cache's user, and given back as it is; any other says
// that the cache is damaged.
func (c *Cache) scan(r reading, prefix byte, what string, fn func(key, value []byte) (theirs, err error)) error {
	var theirs error
	err := r.scan(prefix, func(key, value []byte) (err error) {
		if theirs, err = fn(key, value); theirs != nil {
			return theirs
		}
		return err
	})
	if theirs != nil || err == nil {
		return theirs
	}
	return fmt.Errorf("%s: %w", what, c.failed(err))
}

// Splitter cuts packs that come one after the other into segments: the compacted index of a large repository is more than one
// segment may hold, and more than should be in memory at once.
type Splitter struct {
	maxChunks int
	packs     []Pack
	chunks    int
	size      int
}

// SplitSize is how large, in bytes, a Splitter lets a segment become, unless one pack alone is larger.
const SplitSize = MaxSegment / 4

// NewSplitter makes a splitter of segments with at most maxChunks chunks each, but for packs that have more.
func NewSplitter(maxChunks int) *Splitter { return &Splitter{maxChunks: maxChunks} }

// Add takes a pack. If it does not fit to those before, these are given back as a segment; else nil.
func (s *Splitter) Add(p Pack) (full *Segment) {
	size := maxMarshaled(p.Key, p.Sessions, len(p.Entries))
	if len(s.packs) == MaxPacks || s.chunks+len(p.Entries) > s.maxChunks || s.size+size > SplitSize {
		full = s.Rest()
	}
	s.packs = append(s.packs, p)
	s.chunks += len(p.Entries)
	s.size += size
	return full
}

// Rest gives what is left after the last pack as a segment, nil if nothing is. The Splitter is empty then.
func (s *Splitter) Rest() *Segment {
	if len(s.packs) == 0 {
		return nil
	}
	seg := &Segment{Packs: s.packs}
	*s = Splitter{maxChunks: s.maxChunks}
	return seg
}

// maxMarshaled is at least what a pack takes in a segment, in bytes.
func maxMarshaled(key string, sessions []pack.Session, entries int) int {
	const number = 10 // the longest there are
	const entry = chunk.IDSize + 2 + 4*5 + number
	n := len(key) + 6*number + entries*entry
	for i := range sessions {
		n += len(sessions[i].SID) + len(sessions[i].Encapsulation) + 2*number
	}
	return n
}
