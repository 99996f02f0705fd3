package index

import (
	"encoding/binary"
	"math/bits"

	"github.com/pgtrove/pgtrove/chunk"
)

// Set is a set of chunks, for marking very many of them. It keeps 8 bytes of each ID. IDs are keyed hashes, so two chunks have these
// in common by a chance of one to 2^64 for every pair, and then Has says yes for one that was not added: who marks what is live
// keeps a chunk that is dead, which does no harm. An ID that is no hash (a test's) must differ from others in its first 8 bytes.
//
// It takes 10 to 15 bytes for each chunk while it grows, and 10 if NewSet was told how many would come. It grows in 256 parts, each by
// itself, so that copying adds 1/256 of that; the garbage collector lets go of the old parts when it will.
//
// Has may be called by several goroutines at once, Add by one and nobody beside it.
type Set struct {
	parts [256]part // by the first byte of the ID
	size  int
	zero  bool // the ID that begins with zeros is in it: an empty slot looks like that
}

// part is a hash table with linear probing. Its place for an ID is in proportion to what the ID says, so that its size is free.
type part struct {
	slots []uint64
	used  int
}

// A part grows by half when four fifths of it are in use.
const (
	fillNumber, fillOf   = 4, 5
	growNumber, growPart = 3, 2

	leastSlots = 8
)

// NewSet makes an empty set with room for about hint chunks; 0 if nobody knows how many will come.
func NewSet(hint int) *Set {
	s := &Set{}
	if hint < len(s.parts) {
		return s
	}
	each := hint / len(s.parts)
	each += 4 << (bits.Len(uint(each)) / 2) // about four standard deviations: chance does not fill all parts alike
	for i := range s.parts {
		s.parts[i].slots = make([]uint64, each*fillOf/fillNumber+leastSlots)
	}
	return s
}

// Len is the number of chunks in the set.
func (s *Set) Len() int { return s.size }

// Add puts a chunk into the set, and says whether it was not there before.
func (s *Set) Add(id chunk.ID) (added bool) {
	v := binary.BigEndian.Uint64(id[:])
	if v == 0 {
		added, s.zero = !s.zero, true
	} else {
		added = s.parts[id[0]].add(v)
	}
	if added {
		s.size++
	}
	return added
}

// Has says whether the chunk was added.
func (s *Set) Has(id chunk.ID) bool {
	v := binary.BigEndian.Uint64(id[:])
	if v == 0 {
		return s.zero
	}
	p := &s.parts[id[0]]
	if len(p.slots) == 0 {
		return false
	}
	return p.slots[p.find(v)] == v
}

func (p *part) add(v uint64) bool {
	if p.used*fillOf >= len(p.slots)*fillNumber {
		p.grow()
	}
	at := p.find(v)
	if p.slots[at] == v {
		return false
	}
	p.slots[at] = v
	p.used++
	return true
}

// find gives the slot that holds v, or the one where it belongs. There is always an empty one.
func (p *part) find(v uint64) uint64 {
	n := uint64(len(p.slots))
	at, _ := bits.Mul64(v<<8, n) // the first byte is the same in all of them
	for p.slots[at] != 0 && p.slots[at] != v {
		if at++; at == n {
			at = 0
		}
	}
	return at
}

func (p *part) grow() {
	old := p.slots
	p.slots = make([]uint64, max(leastSlots, len(old)*growNumber/growPart))
	for _, v := range old {
		if v != 0 {
			p.slots[p.find(v)] = v
		}
	}
}
