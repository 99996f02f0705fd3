// Package pack is the codec of a pack: sealed chunks, the first bytes of
// their pages' digests, a directory, and a trailer that says where those are.
// It also holds the compression of a chunk.
//
// A pack comes into being in memory (Builder) and is read from its end
// (ParseTrailer, OpenDirectory), by ranges. The layout of the object and of
// each section is in docs/format.md, section 4.
//
// The package does no I/O and holds no keys: chunks come to it sealed, and
// its own sections are sealed and opened by what the caller passes. repo
// writes and reads packs with it; index and gc carry its directories.
package pack

import (
	"errors"
	"fmt"

	"github.com/pgtrove/pgtrove/chunk"
)

// Bounds of the format. What exceeds them is malformed; a decoder allocates
// nothing before it has checked them.
const (
	// MaxPlain is the largest chunk in plain bytes.
	MaxPlain = 64 << 20
	// MaxSealed is the largest sealed chunk: MaxPlain, since compression
	// never makes a chunk larger, and what sealing adds.
	MaxSealed = MaxPlain + 1<<10
	// MaxEntries is the largest number of chunks in a pack.
	MaxEntries = 1 << 20
	// MaxSessions is the largest number of writing sessions in a pack.
	MaxSessions = 1 << 12
	// MaxSID and MaxEncapsulation bound the strings of a Session, in bytes.
	MaxSID           = 128
	MaxEncapsulation = 4 << 10
	// MaxHeader bounds the header of an archive object, in bytes.
	MaxHeader = 1 << 20
	// MaxObject is the largest pack, in bytes: offsets have 32 bits.
	MaxObject = 1<<32 - 1

	// TargetSize is the size, in bytes, at which a data pack is complete.
	TargetSize = 32 << 20
	// TailSize is how many bytes from the end of a pack to ask for first:
	// enough for the directory of an ordinary one.
	TailSize = 64 << 10
)

var (
	// ErrFormat says that bytes are no pack, or that a directory breaks a
	// rule of the format.
	ErrFormat = errors.New("malformed pack")
	// ErrVersion says that a newer program wrote this.
	ErrVersion = errors.New("unknown pack format version")
	// ErrShortTail says that more bytes from the end are needed;
	// Trailer.TailLen says how many.
	ErrShortTail = errors.New("tail of pack too short")
	// ErrTooLarge says that a bound of the format is exceeded.
	ErrTooLarge = errors.New("exceeds the bounds of a pack")
)

// Kind says what a pack holds and how its chunks are sealed.
type Kind byte

const (
	Data    Kind = 1 // chunks of files, sealed per session to the data key
	Meta    Kind = 2 // chunks of trees and recipes, sealed by the metadata key
	Archive Kind = 3 // one WAL file, sealed per session to the WAL key
)

// Valid says whether the format knows the kind.
func (k Kind) Valid() bool { return k >= Data && k <= Archive }

// String is the name that messages and `inspect` show.
func (k Kind) String() string {
	switch k {
	case Data:
		return "data"
	case Meta:
		return "meta"
	case Archive:
		return "archive"
	}
	return fmt.Sprintf("kind(%d)", byte(k))
}

// Encoding says how a chunk's plain bytes became those that were sealed.
type Encoding byte

const (
	Raw  Encoding = 0 // as they are
	Zstd Encoding = 1 // one zstd frame
	// 2 is reserved: page-wise XOR against another chunk, then zstd.
)

// Valid says whether this program can decode the encoding.
func (e Encoding) Valid() bool { return e == Raw || e == Zstd }

// String is the name that messages and `inspect` show.
func (e Encoding) String() string {
	switch e {
	case Raw:
		return "raw"
	case Zstd:
		return "zstd"
	}
	return fmt.Sprintf("encoding(%d)", byte(e))
}

// Entry is one chunk of a pack.
type Entry struct {
	ID       chunk.ID
	Form     chunk.Form
	Encoding Encoding
	Offset   uint32 // of the sealed bytes, from the start of the object
	Sealed   uint32 // bytes, as they stand in the object
	Plain    uint32 // bytes, decoded
	Session  uint16 // index into Directory.Sessions; 0 in a Meta pack
	Nonce    uint64 // the sealing session's counter; 0 in a Meta pack
}

// Pages is the number of pages in the chunk, 0 for a stream.
func (e *Entry) Pages() int { return e.Form.Pages(int(e.Plain)) }

// End is the offset behind the sealed bytes.
func (e *Entry) End() int64 { return int64(e.Offset) + int64(e.Sealed) }

// Session is a writing session whose chunks stand in the pack: its ID, and
// what opens its key for the holder of the secret key.
type Session struct {
	SID           string
	Encapsulation []byte
}

// Directory says what a pack holds.
type Directory struct {
	Kind     Kind
	Sessions []Session // none in a Meta pack
	Entries  []Entry   // ascending by offset
	Header   []byte    // Archive packs: not this package's business
}

// End is the offset behind the last chunk.
func (d *Directory) End() int64 {
	if len(d.Entries) == 0 {
		return int64(headSize)
	}
	return d.Entries[len(d.Entries)-1].End()
}

// Pages is the number of pages in all chunks: the page digests that stand in
// the pack.
func (d *Directory) Pages() int {
	n := 0
	for i := range d.Entries {
		n += d.Entries[i].Pages()
	}
	return n
}

// Location is everything that reading entry i takes, for a pack stored under
// the key packKey. It shares the encapsulation with d. i must be an index of
// Entries, and d valid.
func (d *Directory) Location(packKey string, i int) Location {
	l := Location{Pack: packKey, Entry: d.Entries[i], Kind: d.Kind}
	if d.Kind != Meta {
		s := &d.Sessions[l.Session]
		l.SID, l.Encapsulation = s.SID, s.Encapsulation
	}
	return l
}

// Location says where a chunk lives and how to open it.
type Location struct {
	Pack string // key of the object
	Entry
	SID           string // empty in a Meta pack
	Encapsulation []byte // shared between locations: not to be changed
	Kind          Kind
}

// Validate checks every rule of the format that can be checked without the
// object, and wraps ErrFormat. OpenDirectory also checks that the chunks end
// where the object's next section begins; whoever keeps directories without
// their packs compares End with the size.
func (d *Directory) Validate() error {
	switch {
	case !d.Kind.Valid():
		return malformed("unknown kind %d", byte(d.Kind))
	case len(d.Entries) > MaxEntries:
		return malformed("%d entries, at most %d", len(d.Entries), MaxEntries)
	case len(d.Sessions) > MaxSessions:
		return malformed("%d sessions, at most %d", len(d.Sessions), MaxSessions)
	case len(d.Header) > MaxHeader:
		return malformed("header of %d bytes, at most %d", len(d.Header), MaxHeader)
	case d.Kind != Archive && len(d.Header) > 0:
		return malformed("%s pack with a header", d.Kind)
	case d.Kind != Archive && len(d.Entries) == 0:
		return malformed("%s pack without chunks", d.Kind)
	case d.Kind == Meta && len(d.Sessions) > 0:
		return malformed("meta pack with sessions")
	}
	for i := range d.Sessions {
		if err := d.Sessions[i].validate(); err != nil {
			return fmt.Errorf("session %d: %w", i, err)
		}
	}
	end := int64(headSize)
	for i := range d.Entries {
		e := &d.Entries[i]
		if err := d.validateEntry(e, end); err != nil {
			return fmt.Errorf("entry %d: %w", i, err)
		}
		end = e.End()
	}
	return nil
}

func (s *Session) validate() error {
	if len(s.SID) == 0 || len(s.SID) > MaxSID {
		return malformed("session ID of %d bytes, want 1 to %d", len(s.SID), MaxSID)
	}
	for i := range len(s.SID) {
		if c := s.SID[i]; c <= ' ' || c > '~' || c == '/' {
			return malformed("session ID with byte %#02x", c)
		}
	}
	if len(s.Encapsulation) == 0 || len(s.Encapsulation) > MaxEncapsulation {
		return malformed("encapsulation of %d bytes, want 1 to %d", len(s.Encapsulation), MaxEncapsulation)
	}
	return nil
}

func (d *Directory) validateEntry(e *Entry, end int64) error {
	switch {
	case !e.Form.Valid():
		return malformed("unknown form %d", byte(e.Form))
	case !e.Encoding.Valid():
		return malformed("unknown encoding %d", byte(e.Encoding))
	case e.Plain == 0 || e.Plain > MaxPlain:
		return malformed("%d plain bytes, want 1 to %d", e.Plain, MaxPlain)
	case e.Sealed == 0 || e.Sealed > MaxSealed:
		return malformed("%d sealed bytes, want 1 to %d", e.Sealed, MaxSealed)
	case e.Form != chunk.FormBytes && e.Pages() == 0:
		return malformed("%d plain bytes are no whole pages of %d", e.Plain, e.Form.PageSize())
	case int64(e.Offset) < end:
		return malformed("begins at %d, before %d", e.Offset, end)
	case e.End() > MaxObject:
		return malformed("ends at %d, beyond any pack", e.End())
	case d.Kind == Meta && (e.Session != 0 || e.Nonce != 0):
		return malformed("chunk of a meta pack with a session")
	case d.Kind == Meta && e.Form != chunk.FormBytes:
		return malformed("chunk of a meta pack with pages")
	case d.Kind != Meta && int(e.Session) >= len(d.Sessions):
		return malformed("session %d of %d", e.Session, len(d.Sessions))
	}
	return nil
}

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrFormat}, args...)...)
}
