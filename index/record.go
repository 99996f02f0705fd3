package index

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"sync"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/pack"
)

// What the cache's database holds. It is no format: cacheVersion changes with it, and then the cache begins anew.
//
//	"n"                        the next numbers of a segment and of a pack, 4 bytes each
//	"s" number                 name of a completely loaded segment
//	"f" fingerprint            number of the pack with that key and directory
//	"p" number                 record of a pack, without its entries
//	"c" chunk ID               locations, one after the other
//	"m" key                    a note, or where it stands in the file of large notes
//	"q" key                    a proof: numbers of the packs that hold every chunk of what the key names
//
// Numbers in keys are 4 bytes, most significant first. Chunks name packs, and packs name the segments they stand in, so that a
// pack in several segments (a compacted index repeats them) costs its entries once.

var counterKey = []byte("n")

const (
	segmentPrefix     = 's'
	fingerprintPrefix = 'f'
	packPrefix        = 'p'
	chunkPrefix       = 'c'
	notePrefix        = 'm'
	proofPrefix       = 'q'
)

func segmentKey(number uint32) []byte {
	return binary.BigEndian.AppendUint32([]byte{segmentPrefix}, number)
}

func packKey(n uint32) []byte { return binary.BigEndian.AppendUint32([]byte{packPrefix}, n) }

// packNumber is the inverse of packKey.
func packNumber(key []byte) (uint32, error) {
	if len(key) != 5 {
		return 0, errRecord
	}
	return binary.BigEndian.Uint32(key[1:]), nil
}

func appendChunkKey(dst []byte, id chunk.ID) []byte { return appendIDKey(dst, chunkPrefix, id) }

func appendIDKey(dst []byte, prefix byte, id chunk.ID) []byte {
	return append(append(dst, prefix), id[:]...)
}

// fingerprint is the key under which p is known. It covers the whole directory: two segments that disagree about a pack
// make two packs of it, and the view decides.
func fingerprint(p *Pack) ([]byte, error) {
	b, err := p.Directory.Marshal(binary.AppendVarint(append([]byte(p.Key), 0), p.Size))
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(b)
	return append([]byte{fingerprintPrefix}, sum[:16]...), nil
}

func (c counters) marshal() []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, c.segment), c.pack)
}

func parseCounters(b []byte) (counters, error) {
	if len(b) != 8 {
		return counters{}, errRecord
	}
	return counters{binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:])}, nil
}

var errRecord = errors.New("malformed record")

// record is a pack without its entries. It is never changed once it is made.
type record struct {
	key      string
	kind     pack.Kind
	chunks   int
	size     int64 // bytes of the object
	tail     int64 // those of them behind its last chunk
	sessions []pack.Session
	members  []uint32 // segments that hold it
}

// location completes an entry of the pack.
func (r *record) location(e pack.Entry) (pack.Location, error) {
	l := pack.Location{Pack: r.key, Entry: e, Kind: r.kind}
	if r.kind == pack.Meta {
		return l, nil
	}
	if int(e.Session) >= len(r.sessions) {
		return l, errRecord
	}
	l.SID, l.Encapsulation = r.sessions[e.Session].SID, r.sessions[e.Session].Encapsulation
	return l, nil
}

func (r *record) marshal() []byte {
	b := binary.AppendUvarint(nil, uint64(len(r.key)))
	b = append(b, r.key...)
	b = append(b, byte(r.kind))
	b = binary.AppendUvarint(b, uint64(r.chunks))
	b = binary.AppendUvarint(b, uint64(r.size))
	b = binary.AppendUvarint(b, uint64(r.tail))
	b = binary.AppendUvarint(b, uint64(len(r.sessions)))
	for _, s := range r.sessions {
		b = binary.AppendUvarint(b, uint64(len(s.SID)))
		b = append(b, s.SID...)
		b = binary.AppendUvarint(b, uint64(len(s.Encapsulation)))
		b = append(b, s.Encapsulation...)
	}
	b = binary.AppendUvarint(b, uint64(len(r.members)))
	for _, m := range r.members {
		b = binary.AppendUvarint(b, uint64(m))
	}
	return b
}

func parseRecord(b []byte) (*record, error) {
	r := reader{b: b}
	rec := &record{key: string(r.take(r.uvarint(1 << 10)))}
	if kind := r.take(1); kind != nil {
		rec.kind = pack.Kind(kind[0])
	}
	rec.chunks = int(r.uvarint(pack.MaxEntries))
	rec.size = int64(r.uvarint(pack.MaxObject))
	rec.tail = int64(r.uvarint(pack.MaxObject))
	if n := r.uvarint(min(pack.MaxSessions, uint64(len(r.b)))); n > 0 {
		rec.sessions = make([]pack.Session, n)
	}
	for i := range rec.sessions {
		rec.sessions[i].SID = string(r.take(r.uvarint(pack.MaxSID)))
		rec.sessions[i].Encapsulation = append([]byte(nil), r.take(r.uvarint(pack.MaxEncapsulation))...)
	}
	rec.members = make([]uint32, r.uvarint(uint64(len(r.b))))
	for i := range rec.members {
		rec.members[i] = uint32(r.uvarint(1<<32 - 1))
	}
	if r.err != nil || len(r.b) > 0 || !rec.kind.Valid() {
		return nil, errRecord
	}
	return rec, nil
}

// appendLocation adds entry e of pack n to a chunk's locations.
func appendLocation(b []byte, n uint32, e *pack.Entry) []byte {
	b = binary.AppendUvarint(b, uint64(n))
	b = append(b, byte(e.Form), byte(e.Encoding))
	b = binary.AppendUvarint(b, uint64(e.Offset))
	b = binary.AppendUvarint(b, uint64(e.Sealed))
	b = binary.AppendUvarint(b, uint64(e.Plain))
	b = binary.AppendUvarint(b, uint64(e.Session))
	return binary.AppendUvarint(b, e.Nonce)
}

// parseLocation takes one location off b and fills e, but for its ID.
func parseLocation(b []byte, e *pack.Entry) (n uint32, rest []byte, err error) {
	r := reader{b: b}
	n = uint32(r.uvarint(1<<32 - 1))
	if two := r.take(2); two != nil {
		e.Form, e.Encoding = chunk.Form(two[0]), pack.Encoding(two[1])
	}
	e.Offset = uint32(r.uvarint(pack.MaxObject))
	e.Sealed = uint32(r.uvarint(pack.MaxSealed))
	e.Plain = uint32(r.uvarint(pack.MaxPlain))
	e.Session = uint16(r.uvarint(pack.MaxSessions))
	e.Nonce = r.uvarint(1<<64 - 1)
	if r.err != nil {
		return 0, nil, errRecord
	}
	return n, r.b, nil
}

// packCache keeps some records in memory. Which of them goes when it is full is left to the map's order.
type packCache struct {
	mu         sync.Mutex
	records    map[uint32]*record
	generation uint64 // of the last put
}

// cachedPacks bounds the packs in memory; one takes about 1.5 KB, most of it the encapsulation of a session's key.
const cachedPacks = 4096

// get gives the record, or nil and what fill wants.
func (p *packCache) get(n uint32) (*record, uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.records[n], p.generation
}

// put stores a record that has just been written.
func (p *packCache) put(n uint32, rec *record) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.generation++
	p.store(n, rec)
}

// fill stores a record that has been read since the given generation, unless one was written meanwhile: then it
// may be stale.
func (p *packCache) fill(n uint32, rec *record, generation uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.generation == generation {
		p.store(n, rec)
	}
}

func (p *packCache) store(n uint32, rec *record) {
	if p.records == nil {
		p.records = make(map[uint32]*record)
	}
	if _, ok := p.records[n]; !ok && len(p.records) >= cachedPacks {
		for old := range p.records {
			delete(p.records, old)
			break
		}
	}
	p.records[n] = rec
}
