package pack

import (
	"encoding/binary"
	"fmt"

	"github.com/pgtrove/pgtrove/chunk"
)

// magic opens and closes every pack; its last byte is the version.
const magic = "PGTPACK\x01"

const (
	headSize = len(magic)
	// TrailerSize is the length of the trailer in bytes.
	TrailerSize = 4 + 4 + len(magic)
)

// Labels that stand before the caller's additional data when a section is
// sealed, so that one section can never be taken for the other.
const (
	labelDirectory = "pgtrove v1 pack directory\x00"
	labelDigests   = "pgtrove v1 pack page digests\x00"
)

// Sealer seals the sections of a pack that are not chunks. It appends to dst
// and binds aad.
type Sealer interface {
	Seal(dst, plain, aad []byte) []byte
}

// Opener opens what a Sealer sealed. It appends to dst and fails if sealed or
// aad are not what was sealed.
type Opener interface {
	Open(dst, sealed, aad []byte) ([]byte, error)
}

// Trailer is what stands in the last TrailerSize bytes of a pack, with the
// size of the object.
type Trailer struct {
	Size      int64  // of the whole object
	Digests   uint32 // sealed bytes of the page digests, 0 if there are none
	Directory uint32 // sealed bytes of the directory
}

// ParseTrailer reads the trailer of an object of size bytes from its last
// bytes. It wraps ErrShortTail if tail has not all of it, ErrVersion, or
// ErrFormat if this is no pack or its sections do not fit into size.
func ParseTrailer(tail []byte, size int64) (Trailer, error) {
	if size < int64(headSize+TrailerSize) || size > MaxObject || int64(len(tail)) > size {
		return Trailer{}, fmt.Errorf("read trailer of pack: %w", malformed("%d bytes", size))
	}
	if len(tail) < TrailerSize {
		return Trailer{}, fmt.Errorf("read trailer of pack: %w: %d bytes, want %d", ErrShortTail, len(tail), TrailerSize)
	}
	b := tail[len(tail)-TrailerSize:]
	if err := checkMagic(b[8:]); err != nil {
		return Trailer{}, fmt.Errorf("read trailer of pack: %w", err)
	}
	t := Trailer{
		Size:      size,
		Digests:   binary.BigEndian.Uint32(b),
		Directory: binary.BigEndian.Uint32(b[4:]),
	}
	if t.chunksEnd() < int64(headSize) {
		return Trailer{}, fmt.Errorf("read trailer of pack: %w",
			malformed("sections of %d and %d bytes in %d", t.Digests, t.Directory, size))
	}
	return t, nil
}

func checkMagic(b []byte) error {
	const name = len(magic) - 1
	if string(b[:name]) != magic[:name] {
		return malformed("no magic number")
	}
	if b[name] != magic[name] {
		return fmt.Errorf("%w: %d, this program knows %d", ErrVersion, b[name], magic[name])
	}
	return nil
}

// CheckHead says whether b, the first bytes of an object, begin a pack. It
// wraps ErrFormat or ErrVersion.
func CheckHead(b []byte) error {
	if len(b) < headSize {
		return fmt.Errorf("read head of pack: %w", malformed("%d bytes", len(b)))
	}
	if err := checkMagic(b[:headSize]); err != nil {
		return fmt.Errorf("read head of pack: %w", err)
	}
	return nil
}

// TailLen is how many bytes from the end of the object OpenDirectory takes.
func (t Trailer) TailLen() int64 { return int64(t.Directory) + int64(TrailerSize) }

// DigestsAt is where the sealed page digests are. n is 0 if there are none.
func (t Trailer) DigestsAt() (offset, n int64) { return t.chunksEnd(), int64(t.Digests) }

// chunksEnd is where the chunks end and the page digests begin.
func (t Trailer) chunksEnd() int64 {
	return t.Size - int64(TrailerSize) - int64(t.Directory) - int64(t.Digests)
}

// OpenDirectory reads the directory of an object of size bytes from its last
// bytes. aad must be what the pack was built with. It wraps ErrShortTail if
// tail is too short (ask for Trailer.TailLen bytes), ErrFormat, ErrVersion,
// or o's error.
func OpenDirectory(tail []byte, size int64, o Opener, aad []byte) (*Directory, error) {
	t, err := ParseTrailer(tail, size)
	if err != nil {
		return nil, err
	}
	if int64(len(tail)) < t.TailLen() {
		return nil, fmt.Errorf("read directory: %w: %d bytes, want %d", ErrShortTail, len(tail), t.TailLen())
	}
	end := len(tail) - TrailerSize
	plain, err := o.Open(nil, tail[end-int(t.Directory):end], sectionAAD(labelDirectory, aad))
	if err != nil {
		return nil, fmt.Errorf("open directory: %w", err)
	}
	d, err := ParseDirectory(plain)
	if err != nil {
		return nil, err
	}
	if d.End() > t.chunksEnd() {
		return nil, fmt.Errorf("read directory: %w",
			malformed("chunks end at %d, behind their section at %d", d.End(), t.chunksEnd()))
	}
	if (t.Digests > 0) != (d.Pages() > 0) {
		return nil, fmt.Errorf("read directory: %w",
			malformed("%d pages with %d bytes of page digests", d.Pages(), t.Digests))
	}
	return d, nil
}

// OpenDigests reads the page digests of a pack: sealed is the whole section
// at Trailer.DigestsAt. The result has an item for each entry of d, nil for
// streams. It wraps ErrFormat, or o's error.
func OpenDigests(sealed []byte, d *Directory, o Opener, aad []byte) ([][]chunk.Prefix, error) {
	out := make([][]chunk.Prefix, len(d.Entries))
	pages := d.Pages()
	if pages == 0 && len(sealed) == 0 {
		return out, nil
	}
	plain, err := o.Open(nil, sealed, sectionAAD(labelDigests, aad))
	if err != nil {
		return nil, fmt.Errorf("open page digests: %w", err)
	}
	if len(plain) != pages*chunk.PrefixSize {
		return nil, fmt.Errorf("read page digests: %w",
			malformed("%d bytes for %d pages", len(plain), pages))
	}
	all := make([]chunk.Prefix, pages)
	for i := range all {
		all[i] = chunk.Prefix(plain[i*chunk.PrefixSize:])
	}
	for i := range d.Entries {
		if n := d.Entries[i].Pages(); n > 0 {
			out[i], all = all[:n:n], all[n:]
		}
	}
	return out, nil
}

func sectionAAD(label string, aad []byte) []byte {
	return append([]byte(label), aad...)
}
