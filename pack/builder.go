package pack

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"github.com/pgtrove/pgtrove/chunk"
)

// directoryEntryEstimate is about what an entry takes in a directory.
const directoryEntryEstimate = chunk.IDSize + 2 + 1 + 3 + 3 + 1 + 4

// Builder makes a pack in memory. Each sealed chunk is copied once, into the
// object. Not safe for concurrent use.
type Builder struct {
	sealer   Sealer
	aad      []byte
	dir      Directory
	sessions map[string][]uint16 // by session ID, indexes into dir.Sessions
	buf      []byte              // head and chunks; Finish adds the rest
	prefixes []byte              // the page digests section, plain
	finished bool
}

// NewBuilder begins a pack. s seals the directory and the page digests; both
// bind aad, which is copied, and a label of their own. The object's memory
// grows as chunks come; Grow reserves it.
func NewBuilder(kind Kind, s Sealer, aad []byte) *Builder {
	b := &Builder{sealer: s, sessions: map[string][]uint16{}}
	b.Reset(kind, aad)
	return b
}

// Reset begins another pack in the same memory: the object that Finish
// returned is overwritten.
func (b *Builder) Reset(kind Kind, aad []byte) {
	b.aad = append(b.aad[:0], aad...)
	b.dir = Directory{Kind: kind}
	clear(b.sessions)
	b.buf = append(b.buf[:0], magic...)
	b.prefixes = b.prefixes[:0]
	b.finished = false
}

// Grow makes room for n bytes of sealed chunks and for the sections behind
// them, so that adding them moves nothing.
func (b *Builder) Grow(n int) {
	if need := len(b.buf) + n + n/64 + 64<<10; need > cap(b.buf) {
		b.buf = append(make([]byte, 0, need), b.buf...)
	}
}

// reserve makes room for a chunk where nobody has said how large the pack
// will be: in few and large steps up to the usual size, so that filling the
// first pack copies little.
func (b *Builder) reserve(n int) {
	const least, factor, whole = 64 << 10, 4, TargetSize + TargetSize/32
	if len(b.buf)+n <= cap(b.buf) {
		return
	}
	if room := max(min(factor*cap(b.buf), whole), least); room >= len(b.buf)+n {
		b.buf = append(make([]byte, 0, room), b.buf...)
	}
}

// SetHeader sets the header of an Archive pack. It is copied.
func (b *Builder) SetHeader(h []byte) error {
	if len(h) > MaxHeader {
		return fmt.Errorf("set header of pack: %w: %d bytes, at most %d", ErrTooLarge, len(h), MaxHeader)
	}
	b.dir.Header = append([]byte(nil), h...)
	return nil
}

// AddSession gives the index that entries of this session carry. A session
// that is there already keeps its index. The encapsulation is copied.
func (b *Builder) AddSession(s Session) (uint16, error) {
	for _, i := range b.sessions[s.SID] {
		if bytes.Equal(b.dir.Sessions[i].Encapsulation, s.Encapsulation) {
			return i, nil
		}
	}
	if len(b.dir.Sessions) == MaxSessions {
		return 0, fmt.Errorf("add session to pack: %w: %d sessions", ErrTooLarge, MaxSessions)
	}
	s.Encapsulation = append([]byte(nil), s.Encapsulation...)
	i := uint16(len(b.dir.Sessions))
	b.dir.Sessions = append(b.dir.Sessions, s)
	b.sessions[s.SID] = append(b.sessions[s.SID], i)
	return i, nil
}

// Add appends a sealed chunk. ID, Form, Encoding, Plain, Session and Nonce
// of e are the caller's; Offset and Sealed are set here. digests are those of
// the chunk's pages, none for a stream. sealed and digests are copied. It
// fails with ErrTooLarge if the pack is full, and with ErrFormat if the entry
// breaks a rule of the format; then nothing was added.
func (b *Builder) Add(e Entry, sealed []byte, digests []chunk.Digest) error {
	if err := b.add(e, sealed, len(digests)); err != nil {
		return err
	}
	for i := range digests {
		b.prefixes = append(b.prefixes, digests[i][:chunk.PrefixSize]...)
	}
	return nil
}

// AddSealed is Add for a chunk of another pack, moved without being opened: e
// is its entry there, but for Session, which is the index that AddSession of
// this Builder gave for the session that sealed it. digests are those that
// OpenDigests gave. A chunk is bound to its ID, session and nonce, and to no
// pack. It fails with ErrFormat too if sealed is not of the entry's length:
// nobody opens what is moved, so a chunk cut short would not be found.
func (b *Builder) AddSealed(e Entry, sealed []byte, digests []chunk.Prefix) error {
	if len(sealed) != int(e.Sealed) {
		return fmt.Errorf("add chunk %s: %w", e.ID.Short(),
			malformed("%d sealed bytes, and %d in its entry", len(sealed), e.Sealed))
	}
	if err := b.add(e, sealed, len(digests)); err != nil {
		return err
	}
	for i := range digests {
		b.prefixes = append(b.prefixes, digests[i][:]...)
	}
	return nil
}

// add appends all of a chunk but its digests, which the caller appends if it
// succeeds.
func (b *Builder) add(e Entry, sealed []byte, digests int) error {
	if b.finished {
		return fmt.Errorf("add chunk %s: the pack is finished", e.ID.Short())
	}
	if len(b.dir.Entries) == MaxEntries || int64(b.Size())+int64(len(sealed)) > MaxObject-1<<20 {
		return fmt.Errorf("add chunk %s: %w: the pack is full", e.ID.Short(), ErrTooLarge)
	}
	if len(sealed) > MaxSealed {
		return fmt.Errorf("add chunk %s: %w: %d sealed bytes", e.ID.Short(), ErrTooLarge, len(sealed))
	}
	e.Offset, e.Sealed = uint32(len(b.buf)), uint32(len(sealed))
	if err := b.dir.validateEntry(&e, int64(len(b.buf))); err != nil {
		return fmt.Errorf("add chunk %s: %w", e.ID.Short(), err)
	}
	if digests != e.Pages() {
		return fmt.Errorf("add chunk %s: %w", e.ID.Short(),
			malformed("%d digests for %d pages", digests, e.Pages()))
	}
	b.reserve(len(sealed))
	b.buf = append(b.buf, sealed...)
	b.dir.Entries = append(b.dir.Entries, e)
	return nil
}

// Len is the number of chunks added.
func (b *Builder) Len() int { return len(b.dir.Entries) }

// Size is about how many bytes the object would have if it were finished
// now.
func (b *Builder) Size() int {
	n := len(b.buf) + len(b.prefixes) + TrailerSize + len(b.dir.Header) + 64
	n += len(b.dir.Entries) * directoryEntryEstimate
	for i := range b.dir.Sessions {
		n += len(b.dir.Sessions[i].SID) + len(b.dir.Sessions[i].Encapsulation) + 4
	}
	return n
}

// Finish completes the pack. object is the Builder's memory, until Reset;
// sum is its SHA-256, from which it gets its name (zero for an Archive, whose
// name is that of its content); dir is the caller's. It
// fails with ErrFormat if the directory breaks a rule (a data pack without
// chunks), and with ErrTooLarge. A Builder is finished once.
func (b *Builder) Finish() (object []byte, sum [sha256.Size]byte, dir *Directory, err error) {
	if b.finished {
		return nil, sum, nil, fmt.Errorf("finish pack: it is finished")
	}
	plain, err := b.dir.Marshal(nil)
	if err != nil {
		return nil, sum, nil, fmt.Errorf("finish pack: %w", err)
	}
	b.finished = true

	chunksEnd := len(b.buf)
	if len(b.prefixes) > 0 {
		b.buf = b.sealer.Seal(b.buf, b.prefixes, sectionAAD(labelDigests, b.aad))
	}
	digestsEnd := len(b.buf)
	b.buf = b.sealer.Seal(b.buf, plain, sectionAAD(labelDirectory, b.aad))
	directoryEnd := len(b.buf)
	if int64(directoryEnd)+int64(TrailerSize) > MaxObject {
		return nil, sum, nil, fmt.Errorf("finish pack: %w: %d bytes", ErrTooLarge, directoryEnd+TrailerSize)
	}
	b.buf = binary.BigEndian.AppendUint32(b.buf, uint32(digestsEnd-chunksEnd))
	b.buf = binary.BigEndian.AppendUint32(b.buf, uint32(directoryEnd-digestsEnd))
	b.buf = append(b.buf, magic...)

	d := b.dir
	if d.Kind != Archive {
		sum = sha256.Sum256(b.buf)
	}
	return b.buf, sum, &d, nil
}
