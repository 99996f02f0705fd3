package pack

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/pgtrove/pgtrove/chunk"
)

const directoryVersion = 1

// minEntrySize is the least an entry takes in a directory: its ID, form and
// encoding, and one byte for each of gap, sealed and plain length.
const minEntrySize = chunk.IDSize + 2 + 3

// Marshal appends the binary form of the directory to dst. It fails, with
// ErrFormat, if d is not valid: what it wrote, ParseDirectory reads.
func (d *Directory) Marshal(dst []byte) ([]byte, error) {
	if err := d.Validate(); err != nil {
		return nil, fmt.Errorf("write directory: %w", err)
	}
	dst = append(dst, directoryVersion, byte(d.Kind))
	dst = appendBytes(dst, d.Header)
	dst = binary.AppendUvarint(dst, uint64(len(d.Sessions)))
	for i := range d.Sessions {
		dst = appendBytes(dst, d.Sessions[i].SID)
		dst = appendBytes(dst, d.Sessions[i].Encapsulation)
	}
	dst = binary.AppendUvarint(dst, uint64(len(d.Entries)))
	end := int64(headSize)
	for i := range d.Entries {
		e := &d.Entries[i]
		dst = append(dst, e.ID[:]...)
		dst = append(dst, byte(e.Form), byte(e.Encoding))
		dst = binary.AppendUvarint(dst, uint64(int64(e.Offset)-end))
		dst = binary.AppendUvarint(dst, uint64(e.Sealed))
		dst = binary.AppendUvarint(dst, uint64(e.Plain))
		if d.Kind != Meta {
			dst = binary.AppendUvarint(dst, uint64(e.Session))
			dst = binary.AppendUvarint(dst, e.Nonce)
		}
		end = e.End()
	}
	return dst, nil
}

func appendBytes[T []byte | string](dst []byte, b T) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(b)))
	return append(dst, b...)
}

// ParseDirectory reads what Marshal wrote, all of b, and validates it. The
// result shares no memory with b. Errors wrap ErrFormat or ErrVersion.
func ParseDirectory(b []byte) (*Directory, error) {
	r := reader{b: b}
	d, err := r.directory()
	if err != nil {
		return nil, fmt.Errorf("read directory: %w", err)
	}
	return d, nil
}

// reader takes a directory apart. The first failure sticks: every later read
// gives zeros, so that the code above stays readable.
type reader struct {
	b   []byte
	err error
}

func (r *reader) directory() (*Directory, error) {
	if v := r.byte(); r.err == nil && v != directoryVersion {
		return nil, fmt.Errorf("%w: directory version %d, this program knows %d", ErrVersion, v, directoryVersion)
	}
	d := &Directory{Kind: Kind(r.byte())}
	if r.err == nil && !d.Kind.Valid() {
		return nil, malformed("unknown kind %d", byte(d.Kind))
	}
	d.Header = r.bytes(MaxHeader)

	n := r.count(MaxSessions, 1+1+1+1)
	if n > 0 {
		d.Sessions = make([]Session, n)
	}
	for i := range d.Sessions {
		d.Sessions[i] = Session{SID: string(r.bytes(MaxSID)), Encapsulation: r.bytes(MaxEncapsulation)}
	}
	n = r.count(MaxEntries, minEntrySize)
	if n > 0 {
		d.Entries = make([]Entry, n)
	}
	end := int64(headSize)
	for i := range d.Entries {
		r.entry(&d.Entries[i], d.Kind, end)
		end = d.Entries[i].End()
	}
	if r.err != nil {
		return nil, r.err
	}
	if len(r.b) > 0 {
		return nil, malformed("%d bytes behind the directory", len(r.b))
	}
	if err := d.Validate(); err != nil {
		return nil, err
	}
	return d, nil
}

func (r *reader) entry(e *Entry, kind Kind, end int64) {
	copy(e.ID[:], r.take(chunk.IDSize))
	e.Form = chunk.Form(r.byte())
	e.Encoding = Encoding(r.byte())
	offset := end + int64(r.uvarint(MaxObject))
	if offset > MaxObject {
		r.fail("entry begins at %d, beyond any pack", offset)
		return
	}
	e.Offset = uint32(offset)
	e.Sealed = uint32(r.uvarint(MaxSealed))
	e.Plain = uint32(r.uvarint(MaxPlain))
	if kind != Meta {
		e.Session = uint16(r.uvarint(MaxSessions - 1))
		e.Nonce = r.uvarint(math.MaxUint64)
	}
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = malformed(format, args...)
	}
	r.b = nil
}

func (r *reader) take(n int) []byte {
	if n > len(r.b) {
		r.fail("ends early")
		return nil
	}
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}

func (r *reader) byte() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

// uvarint reads a number in the one shortest form: a directory has exactly
// one encoding.
func (r *reader) uvarint(limit uint64) uint64 {
	v, n := binary.Uvarint(r.b)
	switch {
	case r.err != nil:
		return 0
	case n <= 0 || n > 1 && r.b[n-1] == 0:
		r.fail("bad number")
		return 0
	case v > limit:
		r.fail("number %d, at most %d", v, limit)
		return 0
	}
	r.b = r.b[n:]
	return v
}

// count reads the length of a list whose items take at least size bytes, and
// refuses what the rest cannot hold before anybody allocates it.
func (r *reader) count(limit uint64, size int) int {
	n := r.uvarint(limit)
	if n > uint64(len(r.b)/size) {
		r.fail("%d items in %d bytes", n, len(r.b))
		return 0
	}
	return int(n)
}

// bytes reads a string behind its length into memory of its own.
func (r *reader) bytes(limit uint64) []byte {
	n := r.uvarint(limit)
	b := r.take(int(n))
	if len(b) == 0 {
		return nil
	}
	return append([]byte(nil), b...)
}
