// Package chunk cuts page files and byte streams into chunks and names them.
//
// A chunk is either a run of whole database pages or a piece of a byte
// stream. Its name, the [ID], is a keyed BLAKE3-256: for a run of pages, of
// the pages' own keyed digests, so that every byte is hashed once; for a
// stream, of its bytes. All keys come from one repository secret, so neither
// names nor lengths of chunks tell an observer anything about content, but
// that equal content is named and cut alike.
//
// The package never reads or writes a repository, never compresses and never
// encrypts. snapshot cuts and names with it, repo checks what it has opened
// against the names, pack and index carry the vocabulary.
package chunk

import (
	"encoding/hex"
	"errors"
	"fmt"
)

// KeySize, IDSize and DigestSize are lengths in bytes.
const (
	KeySize    = 32
	IDSize     = 32
	DigestSize = 32
	// PrefixSize is how much of a page digest is kept beside the chunks.
	PrefixSize = 8
)

// ErrSyntax is wrapped by the errors of the Parse functions.
var ErrSyntax = errors.New("invalid chunk syntax")

// Key is the repository secret K_id. Everything in this package derives its
// own key from it; it is never used directly.
type Key [KeySize]byte

// String hides the secret, so that a stray %v prints none.
func (Key) String() string { return "chunk.Key(secret)" }

// GoString hides the secret from %#v.
func (Key) GoString() string { return "chunk.Key(secret)" }

// Format hides the secret from every other verb (%x would walk the array).
func (k Key) Format(s fmt.State, _ rune) { _, _ = s.Write([]byte(k.String())) }

// MarshalText fails: package keys writes this secret, nothing else.
func (Key) MarshalText() ([]byte, error) {
	return nil, errors.New("chunk: the key of the repository is not for writing")
}

// ID names a chunk.
type ID [IDSize]byte

// String is the ID as 64 lowercase hexadecimal digits.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// Short is the first 16 digits of String, for messages.
func (id ID) Short() string { return hex.EncodeToString(id[:8]) }

// IsZero says whether id is the zero value, which names nothing.
func (id ID) IsZero() bool { return id == ID{} }

// MarshalText makes JSON carry the ID as its String.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText is the inverse of MarshalText.
func (id *ID) UnmarshalText(b []byte) error {
	v, err := ParseID(string(b))
	if err != nil {
		return err
	}
	*id = v
	return nil
}

// ParseID reads what String wrote: 64 lowercase hexadecimal digits.
func ParseID(s string) (ID, error) {
	var id ID
	if len(s) != 2*IDSize {
		return ID{}, fmt.Errorf("parse chunk ID: %w: %d characters, want %d", ErrSyntax, len(s), 2*IDSize)
	}
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return ID{}, fmt.Errorf("parse chunk ID: %w: byte %d is no lowercase hexadecimal digit", ErrSyntax, i)
		}
	}
	if _, err := hex.Decode(id[:], []byte(s)); err != nil {
		return ID{}, fmt.Errorf("parse chunk ID: %w", err)
	}
	return id, nil
}

// Digest is the keyed hash of one page. Two pages have the same digest only
// if their bytes are the same.
type Digest [DigestSize]byte

// String is the digest as 64 lowercase hexadecimal digits.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// Prefix is the part of the digest that packs and caches keep per page.
func (d Digest) Prefix() Prefix { return Prefix(d[:PrefixSize]) }

// Prefix is the first PrefixSize bytes of a page digest. Different prefixes
// prove different pages. Equal prefixes of pages that nobody chose say "the
// same page" but for a chance of 2^-64.
type Prefix [PrefixSize]byte

// String is the prefix as 16 lowercase hexadecimal digits.
func (p Prefix) String() string { return hex.EncodeToString(p[:]) }

// Form says what a chunk's bytes are: FormBytes, or a run of whole pages of
// 1<<Form bytes each.
type Form uint8

const (
	// FormBytes is a piece of a byte stream.
	FormBytes Form = 0
	// FormPagesMin and FormPagesMax bound page sizes: 1 KiB to 64 KiB.
	// PostgreSQL's BLCKSZ is 1 to 32 KiB, XLOG_BLCKSZ 1 to 64 KiB.
	FormPagesMin Form = 10
	FormPagesMax Form = 16
)

// PageForm is the form of a run of pages of pageSize bytes. It fails unless
// pageSize is a power of two within the bounds of the format.
func PageForm(pageSize int) (Form, error) {
	for f := FormPagesMin; f <= FormPagesMax; f++ {
		if pageSize == 1<<f {
			return f, nil
		}
	}
	return 0, fmt.Errorf("page size %d: %w: want a power of two from 1024 to 65536", pageSize, ErrSyntax)
}

// Valid says whether the format knows the form.
func (f Form) Valid() bool {
	return f == FormBytes || f >= FormPagesMin && f <= FormPagesMax
}

// PageSize is the size of a page in bytes, 0 for a stream.
func (f Form) PageSize() int {
	if f < FormPagesMin || f > FormPagesMax {
		return 0
	}
	return 1 << f
}

// Pages is the number of pages in a chunk of n plain bytes: 0 for a stream
// and where n is not a multiple of the page size.
func (f Form) Pages(n int) int {
	size := f.PageSize()
	if size == 0 || n < 0 || n%size != 0 {
		return 0
	}
	return n / size
}

// String is "bytes", or "pages" with the page size.
func (f Form) String() string {
	if f == FormBytes {
		return "bytes"
	}
	if size := f.PageSize(); size > 0 {
		return fmt.Sprintf("pages(%d)", size)
	}
	return fmt.Sprintf("form(%d)", uint8(f))
}
