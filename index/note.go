package index

import (
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/pgtrove/pgtrove/chunk"
)

// MaxNote is the largest note, in bytes.
const MaxNote = 128 << 10

// errNote says that a note is too large to keep.
var errNote = errors.New("note is too large")

// A note in the database is a byte, inline and then the note, or shelved and then where it stands.
const (
	noteInline  = 0
	noteShelved = 1

	// inlineNote is the largest note that the database holds itself where there is a shelf, in bytes.
	inlineNote = 1 << 10
)

// Note appends the note under key to dst; nil if there is none. The cache says nothing of whether it is true: who keeps
// notes writes them so that he can tell. Errors: ErrCache.
func (c *Cache) Note(key chunk.ID, dst []byte) ([]byte, error) {
	r := c.db.read()
	defer r.end()
	b, err := r.get(appendIDKey(nil, notePrefix, key), dst[len(dst):])
	if err != nil {
		return nil, fmt.Errorf("read note %s: %w", key.Short(), c.failed(err))
	}
	if len(b) > 0 && b[0] == noteInline {
		return append(dst, b[1:]...), nil // b may stand where this goes, a byte behind
	}
	if len(b) == 0 || b[0] != noteShelved {
		return nil, nil
	}
	at, size, ok := parsePlace(b[1:])
	if !ok {
		return nil, nil
	}
	if dst, err = c.shelf.get(dst, at, size); err != nil {
		return nil, nil // cut short by a crash: it was not kept
	}
	return dst, nil
}

func parsePlace(b []byte) (at int64, size int, ok bool) {
	r := reader{b: b}
	at, size = int64(r.uvarint(1<<40)), int(r.uvarint(MaxNote))
	return at, size, r.err == nil && len(r.b) == 0 && size > 0
}

// PutNote keeps a copy of value under key, in place of what is there. Errors: ErrNoSpace, ErrCache; a value of more than MaxNote bytes.
func (c *Cache) PutNote(key chunk.ID, value []byte) error {
	if len(value) > MaxNote {
		return fmt.Errorf("keep note %s: %w: %d bytes", key.Short(), errNote, len(value))
	}
	if len(value) <= inlineNote || c.shelf == nil {
		return c.putSmall(notePrefix, key, append([]byte{noteInline}, value...))
	}
	if err := c.room(minFreeNotes); err != nil {
		return fmt.Errorf("keep note %s: %w", key.Short(), err)
	}
	old := c.placeOf(key)
	at, err := c.shelf.put(value)
	if err != nil {
		return fmt.Errorf("keep note %s: %w", key.Short(), c.noteFailed(err))
	}
	place := binary.AppendUvarint([]byte{noteShelved}, uint64(at))
	err = c.putSmall(notePrefix, key, binary.AppendUvarint(place, uint64(len(value))))
	if err == nil && old.n > 0 {
		c.shelf.release([]span{old})
	}
	return err
}

// noteFailed tells a full disk from other errors. Neither spoils the index.
func (c *Cache) noteFailed(err error) error {
	if errors.Is(err, syscall.ENOSPC) {
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	return fmt.Errorf("%w: %w", ErrCache, err)
}

// placeOf is where the note under key is shelved; the zero span where none is.
func (c *Cache) placeOf(key chunk.ID) span {
	b, err := c.get(appendIDKey(nil, notePrefix, key))
	if err != nil || len(b) == 0 {
		return span{}
	}
	return spanOf(b)
}

// spanOf reads the place out of a note's record.
func spanOf(b []byte) span {
	if len(b) == 0 || b[0] != noteShelved {
		return span{}
	}
	at, size, ok := parsePlace(b[1:])
	if !ok {
		return span{}
	}
	return span{at, blocks(size)}
}

// openShelf opens the file of large notes by what the database says of it.
func (c *Cache) openShelf() error {
	var used []span
	r := c.db.read()
	defer r.end()
	err := r.scan(notePrefix, func(_, b []byte) error {
		if s := spanOf(b); s.n > 0 {
			used = append(used, s)
		}
		return nil
	})
	if err == nil {
		c.shelf, err = openShelf(filepath.Join(c.disk.dir, shelfName), used)
	}
	return err
}

func (c *Cache) putSmall(prefix byte, key chunk.ID, value []byte) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	err := c.room(minFreeNotes)
	if err == nil {
		err = c.update(func(b batch) error { return b.Set(appendIDKey(nil, prefix, key), value) })
	}
	if err != nil {
		return fmt.Errorf("keep note %s: %w", key.Short(), err)
	}
	return nil
}

// Sweep forgets every note and every proof whose key is not in keep. Errors: ErrCache.
func (c *Cache) Sweep(keep map[chunk.ID]struct{}) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	r := c.db.read()
	defer r.end()
	var freed []span
	err := c.update(func(b batch) error {
		for _, prefix := range []byte{notePrefix, proofPrefix} {
			if err := r.scan(prefix, func(key, value []byte) error {
				if len(key) == 1+chunk.IDSize {
					if _, ok := keep[chunk.ID(key[1:])]; ok {
						return nil
					}
				}
				if s := spanOf(value); prefix == notePrefix && s.n > 0 {
					freed = append(freed, s)
				}
				return b.Delete(slices.Clone(key))
			}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("sweep notes: %w", err)
	}
	if c.shelf != nil {
		c.shelf.release(freed)
	}
	return nil
}

// Proven says whether Prove found every chunk of what key names, and every pack in which it found them is still in a segment for
// which inView says yes, and except says no to its key; nil excepts none. Errors: ErrCache.
func (c *Cache) Proven(key chunk.ID, inView func(segment uint32) bool, except func(packKey string) bool) (bool, error) {
	b, err := c.get(appendIDKey(nil, proofPrefix, key))
	if err != nil || b == nil {
		return false, err
	}
	r := reader{b: b}
	for len(r.b) > 0 {
		n := uint32(r.uvarint(1<<32 - 1))
		rec, err := c.pack(n)
		if err != nil || !c.counts(rec, inView, except) {
			return false, err
		}
	}
	return r.err == nil, nil
}

// Prove looks for many chunks as Lookup does and gives those that it did not find, in the order of ids. When it found all
// of them, it keeps the proof under key: a list of packs. ids must be what key names, all of it, now and ever.
//
// Errors: ErrCache. That the proof could not be kept is none.
func (c *Cache) Prove(key chunk.ID, ids []chunk.ID, inView func(segment uint32) bool, except func(packKey string) bool) ([]chunk.ID, error) {
	f := c.finder(inView, except)
	defer f.close()
	var missing []chunk.ID
	for _, id := range ids {
		_, ok, err := f.find(id)
		if err != nil {
			return nil, err
		}
		if !ok {
			missing = append(missing, id)
		}
	}
	if missing != nil {
		return missing, nil
	}
	var proof []byte
	for _, n := range f.chosen {
		proof = binary.AppendUvarint(proof, uint64(n))
	}
	if len(proof) > 0 && len(proof) <= MaxNote {
		_ = c.putSmall(proofPrefix, key, proof) // without it, the next one looks for them all again
	}
	return nil, nil
}
