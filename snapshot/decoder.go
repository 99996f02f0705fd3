package snapshot

import (
	"encoding/binary"
	"fmt"

	"github.com/pgtrove/pgtrove/chunk"
)

// decoder reads the binary forms of this package. The first failure sticks; finish reports it. Nothing is allocated
// on the word of a length that the remaining bytes cannot hold.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) fail() { d.bad, d.b = true, nil }

func (d *decoder) uvarint(limit uint64) uint64 {
	v, n := binary.Uvarint(d.b)
	if !shortest(d.b, n) || v > limit {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

// shortest says whether a number of n bytes was read and could not be written with fewer: each value has one form.
func shortest(b []byte, n int) bool { return n == 1 || n > 1 && b[n-1] != 0 }

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.b)
	if !shortest(d.b, n) {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) byte() byte {
	if len(d.b) == 0 {
		d.fail()
		return 0
	}
	v := d.b[0]
	d.b = d.b[1:]
	return v
}

// take returns the next n bytes without copying them.
func (d *decoder) take(n uint64) []byte {
	if uint64(len(d.b)) < n {
		d.fail()
		return nil
	}
	v := d.b[:n]
	d.b = d.b[n:]
	return v
}

func (d *decoder) str(limit uint64) string { return string(d.take(d.uvarint(limit))) }

func (d *decoder) id() (id chunk.ID) {
	copy(id[:], d.take(uint64(len(id))))
	return id
}

// ids reads n chunk IDs, after making sure that they are there.
func (d *decoder) ids(n uint64) []chunk.ID {
	if d.bad || n == 0 || n > uint64(len(d.b))/uint64(len(chunk.ID{})) {
		if n != 0 {
			d.fail()
		}
		return nil
	}
	ids := make([]chunk.ID, n)
	for i := range ids {
		ids[i] = d.id()
	}
	return ids
}

func (d *decoder) ref() RecipeRef {
	switch d.byte() {
	case refNone:
		return RecipeRef{}
	case refInline:
		b := d.take(d.uvarint(maxEntry))
		if len(b) == 0 {
			d.fail()
		}
		return RecipeRef{Inline: append([]byte(nil), b...)}
	case refChunks:
		ids := d.ids(d.uvarint(maxRecipeChunks))
		if len(ids) == 0 {
			d.fail()
		}
		return RecipeRef{Chunks: ids}
	}
	d.fail()
	return RecipeRef{}
}

func (d *decoder) finish(what string) error {
	if d.bad {
		return fmt.Errorf("%w: %s is cut short or out of range", ErrInvalid, what)
	}
	if len(d.b) != 0 {
		return fmt.Errorf("%w: %s has %d bytes too many", ErrInvalid, what, len(d.b))
	}
	return nil
}
