package format

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// The kinds of packs (section 4.2).
const (
	kindData    = 1
	kindMeta    = 2
	kindArchive = 3
)

const (
	packMagic = "PGTPACK\x01"
	mostPlain = 64 << 20
)

// Directory says what a pack holds (section 4.4).
type Directory struct {
	Kind     byte
	Header   []byte
	Chunks   []Chunk
	sessions []packSession
}

type packSession struct {
	sid           string
	encapsulation []byte
}

// Chunk is one entry of a directory.
type Chunk struct {
	ID       ID
	Form     byte
	Encoding byte
	Offset   uint64 // in the pack
	Sealed   uint64 // bytes
	Plain    uint64 // bytes
	session  int
	counter  uint64
}

// end is where the last chunk ends.
func (d *Directory) end() uint64 {
	if len(d.Chunks) == 0 {
		return uint64(len(packMagic))
	}
	last := d.Chunks[len(d.Chunks)-1]
	return last.Offset + last.Sealed
}

func parseDirectory(plain []byte) (*Directory, error) {
	c := cursor{b: plain}
	c.version("directory")
	d := &Directory{Kind: c.u8()}
	if c.err == nil && (d.Kind < kindData || d.Kind > kindArchive) {
		c.fail("kind %d", d.Kind)
	}
	d.Header = c.bytes("header", 0, 1<<20)
	if len(d.Header) > 0 && d.Kind != kindArchive {
		c.fail("a header of kind %d", d.Kind)
	}
	n := c.count("sessions", 0, 4096, 2)
	if n > 0 && d.Kind == kindMeta {
		c.fail("sessions in a pack of metadata")
	}
	for range n {
		s := packSession{sid: c.text("sid", 1, 128), encapsulation: c.bytes("encapsulation", 1, 4096)}
		if c.err == nil && !isSID(s.sid) {
			c.fail("sid %q", s.sid)
		}
		d.sessions = append(d.sessions, s)
	}
	var least uint64
	if d.Kind != kindArchive {
		least = 1
	}
	offset := uint64(len(packMagic))
	for range c.count("chunks", least, 1<<20, 37) {
		offset = d.chunk(&c, offset)
	}
	return d, c.end("directory")
}

// chunk reads the entry of a chunk behind offset and returns where it ends.
func (d *Directory) chunk(c *cursor, offset uint64) uint64 {
	e := Chunk{ID: c.id(), Form: c.u8(), Encoding: c.u8()}
	switch {
	case e.Form != 0 && (e.Form < 10 || e.Form > 16), e.Form != 0 && d.Kind == kindMeta:
		c.fail("form %d", e.Form)
	case e.Encoding > 1:
		c.fail("encoding %d", e.Encoding)
	}
	e.Offset = offset + c.limited("gap", 0, math.MaxUint32)
	e.Sealed = c.limited("sealed length", 1, mostPlain+1<<10)
	e.Plain = c.limited("plain length", 1, mostPlain)
	if e.Form != 0 && e.Plain%(1<<e.Form) != 0 {
		c.fail("%d bytes in pages of 2^%d", e.Plain, e.Form)
	}
	if d.Kind != kindMeta {
		s := c.uvarint()
		if c.err == nil && s >= uint64(len(d.sessions)) {
			c.fail("session %d of %d", s, len(d.sessions))
		}
		e.session, e.counter = int(s), c.uvarint()
	}
	d.Chunks = append(d.Chunks, e)
	return e.Offset + e.Sealed
}

func isSID(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' || s[i] == '/' {
			return false
		}
	}
	return len(s) >= 1 && len(s) <= 128
}

// Pack is an object of section 4.1 whose directory is open.
type Pack struct {
	*Directory
	Key     string
	Raw     []byte // the plain directory
	object  []byte
	digests []byte  // the plain page digests
	bundle  *Bundle // with the keys of the pack's trust group
}

// OpenPack reads all of a pack but its chunks.
func (b *Bundle) OpenPack(key string, object []byte) (*Pack, error) {
	var first error
	for _, g := range b.groups() {
		p, err := b.of(g).openPack(key, object)
		if err == nil {
			return p, nil
		}
		if first == nil {
			first = err
		}
	}
	return nil, fmt.Errorf("%s: %w", key, first)
}

func (b *Bundle) openPack(key string, object []byte) (*Pack, error) {
	head := uint64(len(packMagic))
	size := uint64(len(object))
	if size < head+16 || size > math.MaxUint32 {
		return nil, damaged("%d bytes", size)
	}
	trailer := object[size-16:]
	for _, magic := range [][]byte{object[:head], trailer[8:]} {
		if string(magic[:7]) != packMagic[:7] {
			return nil, damaged("no pack")
		}
		if magic[7] != packMagic[7] {
			return nil, fmt.Errorf("%w: pack of version %d", ErrVersion, magic[7])
		}
	}
	name := key
	if strings.HasPrefix(key, "packs/") {
		cut := strings.LastIndexByte(key, '-')
		if sum := sha256.Sum256(object); cut < 0 || key[cut+1:] != hex.EncodeToString(sum[:]) {
			return nil, damaged("the object's SHA-256 is %x", sum)
		}
		name = key[:cut]
	}
	d, n := uint64(binary.BigEndian.Uint32(trailer)), uint64(binary.BigEndian.Uint32(trailer[4:]))
	if d+n > size-16-head {
		return nil, damaged("parts of %d and %d bytes in an object of %d", d, n, size)
	}
	data := "pgtrove pack\x00" + b.Repository + "\x00" + name
	directoryAt := size - 16 - n
	plain, err := b.openMeta(object[directoryAt:size-16], "pgtrove v1 pack directory\x00"+data)
	if err != nil {
		return nil, fmt.Errorf("directory: %w", err)
	}
	p := &Pack{Key: key, Raw: plain, object: object, bundle: b}
	if p.Directory, err = parseDirectory(plain); err != nil {
		return nil, err
	}
	if p.end() > directoryAt-d {
		return nil, damaged("the last chunk ends at %d of %d", p.end(), directoryAt-d)
	}
	if d > 0 {
		if p.digests, err = b.openMeta(object[directoryAt-d:directoryAt], "pgtrove v1 pack page digests\x00"+data); err != nil {
			return nil, fmt.Errorf("page digests: %w", err)
		}
	}
	if pages := p.pages(); uint64(len(p.digests)) != 8*pages {
		return nil, damaged("%d bytes of digests of %d pages", len(p.digests), pages)
	}
	return p, nil
}

func (d *Directory) pages() uint64 {
	var n uint64
	for _, e := range d.Chunks {
		if e.Form != 0 {
			n += e.Plain >> e.Form
		}
	}
	return n
}

// Chunk opens the chunk that stands at i, and compares it with its ID and the
// digests of its pages.
func (p *Pack) Chunk(i int) ([]byte, error) {
	e := p.Chunks[i]
	plain, pages, err := p.bundle.openChunk(p.Directory, i, p.object[e.Offset:e.Offset+e.Sealed])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.Key, err)
	}
	at := 8 * (&Directory{Chunks: p.Chunks[:i]}).pages()
	for j, digest := range pages {
		if string(p.digests[at:at+8]) != string(digest[:8]) {
			return nil, damaged("%s: chunk %d: digest of page %d", p.Key, i, j)
		}
		at += 8
	}
	return plain, nil
}

// openChunk opens, decodes and checks the chunk at i of a directory; with it
// come the digests of its pages.
func (b *Bundle) openChunk(d *Directory, i int, sealed []byte) ([]byte, []ID, error) {
	e := d.Chunks[i]
	var encoded []byte
	var err error
	switch d.Kind {
	case kindMeta:
		encoded, err = b.openMeta(sealed, "pgtrove meta chunk\x00"+b.Repository+"\x00"+string(e.ID[:]))
	case kindData:
		encoded, err = b.openContent(b.DataKeys, d.sessions[e.session], e.ID, e.counter, sealed)
	case kindArchive:
		encoded, err = b.openContent(b.WALKeys, d.sessions[e.session], e.ID, e.counter, sealed)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("chunk %d: %w", i, err)
	}
	plain, err := decode(e.Encoding, encoded, e.Plain)
	if err != nil {
		return nil, nil, fmt.Errorf("chunk %d: %w", i, err)
	}
	id, pages := b.name(d.Kind, e.Form, plain)
	if id != e.ID {
		return nil, nil, damaged("chunk %d: ID %s, of its bytes %s", i, e.ID, id)
	}
	return plain, pages, nil
}

// decode undoes an encoding (section 4.5).
func decode(encoding byte, encoded []byte, length uint64) ([]byte, error) {
	plain := encoded
	if encoding == 1 {
		dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(mostPlain), zstd.WithDecodeAllCapLimit(true))
		if err != nil {
			return nil, err
		}
		defer dec.Close()
		if plain, err = dec.DecodeAll(encoded, make([]byte, 0, length)); err != nil {
			return nil, damaged("zstd: %v", err)
		}
	}
	if uint64(len(plain)) != length {
		return nil, damaged("%d bytes plain, not %d", len(plain), length)
	}
	return plain, nil
}
