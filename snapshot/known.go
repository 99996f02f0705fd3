package snapshot

import (
	"encoding/binary"

	"github.com/pgtrove/pgtrove/chunk"
)

// Known are pages that stand in chunks which no snapshot names yet: what a backup that was killed has uploaded. Its
// recipes are lost, so their places are not known, only their digests. Fill it before Take, which then only reads it.
type Known struct {
	keys   []uint64 // digest prefixes, open addressing; 0: free
	at     []uint32 // chunk number << 8 | page in the chunk
	used   int
	chunks []knownChunk
}

type knownChunk struct {
	id    chunk.ID
	pages uint32
}

// maxKnown bounds the memory of Known: 2^22 places of 12 bytes each. Pages beyond (26 GB of 8 KiB pages) are found again
// only as whole chunks of the same pages.
const maxKnown = 1 << 22

// Add takes in a chunk of pages with their digests.
func (k *Known) Add(id chunk.ID, digests []chunk.Prefix) {
	if len(digests) > 1<<8 || len(k.chunks) == 1<<24 {
		return
	}
	if !k.room(len(digests)) {
		return
	}
	n := uint32(len(k.chunks))
	k.chunks = append(k.chunks, knownChunk{id, uint32(len(digests))})
	for i, d := range digests {
		k.put(d, n<<8|uint32(i))
	}
}

// Pages returns how many pages are known.
func (k *Known) Pages() int { return k.used }

// room makes the table large enough for n more, at most four fifths full.
func (k *Known) room(n int) bool {
	size := max(len(k.keys), 1<<12)
	for (k.used+n)*5 > size*4 {
		size *= 2
	}
	if size > maxKnown {
		return false
	}
	if size == len(k.keys) {
		return true
	}
	keys, at := k.keys, k.at
	k.keys, k.at, k.used = make([]uint64, size), make([]uint32, size), 0
	for i, key := range keys {
		if key != 0 {
			k.insert(key, at[i])
		}
	}
	return true
}

func (k *Known) put(d chunk.Prefix, at uint32) {
	if key := binary.LittleEndian.Uint64(d[:]); key != 0 {
		k.insert(key, at)
	}
}

// insert keeps the place that was known first: of equal pages any will do. Digests are random, so they are their own hash.
func (k *Known) insert(key uint64, at uint32) {
	mask := uint64(len(k.keys) - 1)
	for i := key & mask; ; i = (i + 1) & mask {
		switch k.keys[i] {
		case key:
			return
		case 0:
			k.keys[i], k.at[i] = key, at
			k.used++
			return
		}
	}
}

// find returns the place of a page with that digest.
func (k *Known) find(d chunk.Prefix) (at uint32, ok bool) {
	if k == nil || k.used == 0 {
		return 0, false
	}
	key := binary.LittleEndian.Uint64(d[:])
	mask := uint64(len(k.keys) - 1)
	for i := key & mask; k.keys[i] != 0; i = (i + 1) & mask {
		if k.keys[i] == key {
			return k.at[i], true
		}
	}
	return 0, false
}
