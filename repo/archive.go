package repo

import (
	"bytes"
	"context"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/index"
	"github.com/pgtrove/pgtrove/keys"
	"github.com/pgtrove/pgtrove/pack"
	"github.com/pgtrove/pgtrove/storage"
)

// An archive file (a WAL segment, a history file) is one object in the format of a pack of its own: its content cut
// into blocks of at most archiveBlock bytes, sealed to the WAL key, and a header in the directory that says what the
// content is without opening it.
const (
	archiveBlock = 4 << 20
	archivePart  = "archive"
)

// Stored says what a put found.
type Stored int

// What PutArchive did.
const (
	StoredNew  Stored = iota // written, and durable
	StoredSame               // there already, with the same content
)

// archiveHeader is what stands in the directory's header of an archive file.
type archiveHeader struct {
	version byte
	mac     chunk.ID // keyed digest of the blocks' IDs, which are keyed digests themselves; in version 1 of the whole content
	size    uint64   // bytes of the content
	user    []byte   // the caller's header
}

const (
	archiveOfContent = 1 // every byte is hashed twice, for the block's ID and for the header
	archiveOfBlocks  = 2
)

func (h archiveHeader) marshal() []byte {
	b := append([]byte{h.version}, h.mac[:]...)
	b = binary.AppendUvarint(b, h.size)
	return append(b, h.user...)
}

func parseArchiveHeader(b []byte) (h archiveHeader, err error) {
	if len(b) < 1+len(h.mac) {
		return h, fmt.Errorf("%w: archive header", ErrDamaged)
	}
	if h.version = b[0]; h.version != archiveOfContent && h.version != archiveOfBlocks {
		return h, fmt.Errorf("%w: archive header %d", ErrVersion, b[0])
	}
	copy(h.mac[:], b[1:])
	b = b[1+len(h.mac):]
	size, n := binary.Uvarint(b)
	if n <= 0 || n > 1 && b[n-1] == 0 { // cut short, or not the shortest form
		return h, fmt.Errorf("%w: archive header", ErrDamaged)
	}
	h.size, h.user = size, b[n:]
	return h, nil
}

// PutArchive stores content under key with a header that readers without the WAL key can read. When it returns
// without error the object is durable. A second put of the same content succeeds; of other content it returns
// ErrConflict and changes nothing.
func (r *Repo) PutArchive(ctx context.Context, key string, header, content []byte) (Stored, error) {
	w, ok := r.archivers.Get().(*archiver)
	if !ok {
		var err error
		if w, err = r.newArchiver(); err != nil {
			return 0, err
		}
	}
	defer r.archivers.Put(w)
	h := archiveHeader{version: archiveOfBlocks, size: uint64(len(content)), user: header}
	object, err := r.buildArchive(ctx, key, &h, w, content)
	if err != nil {
		return 0, err
	}
	err = r.store.Put(ctx, key, object)
	switch {
	case err == nil:
		return StoredNew, nil
	case errors.Is(err, storage.ErrNotDurable):
		return 0, fmt.Errorf("write %s: %w", key, err)
	}
	// Whether the name was taken or the answer to our own write was lost: what counts is what stands there now.
	there, o, readErr := r.archiveHeader(ctx, key)
	switch {
	case errors.Is(readErr, storage.ErrNotExist):
		return 0, fmt.Errorf("write %s: %w", key, err)
	case readErr != nil:
		return 0, fmt.Errorf("write %s: %w", key, inDispute(err, readErr))
	case o.at > 0:
		h = there.of(o.hasher(), content)
	case there.version == archiveOfContent:
		h.mac = w.hasher.StreamID(content)
	}
	if there.same(h) {
		return StoredSame, nil
	}
	return 0, fmt.Errorf("%s: %w", key, ErrConflict)
}

// same says whether two headers of one version are of the same content.
func (h archiveHeader) same(other archiveHeader) bool {
	return subtle.ConstantTimeCompare(h.mac[:], other.mac[:]) == 1 && h.size == other.size
}

// SameArchive says whether the archive file under key has that content, without opening any of it. Errors: storage.ErrNotExist, ErrDamaged.
func (r *Repo) SameArchive(ctx context.Context, key string, content []byte) (bool, error) {
	there, o, err := r.archiveHeader(ctx, key)
	if err != nil {
		return false, err
	}
	return there.same(there.of(o.hasher(), content)), nil
}

// of is the header, of the same version, that names content as hasher does.
func (h archiveHeader) of(hasher *chunk.Hasher, content []byte) archiveHeader {
	other := archiveHeader{version: h.version, size: uint64(len(content))}
	if h.version == archiveOfContent {
		other.mac = hasher.StreamID(content)
		return other
	}
	var ids []byte
	for block := range slices.Chunk(content, archiveBlock) {
		id := hasher.StreamID(block)
		ids = append(ids, id[:]...)
	}
	other.mac = hasher.StreamID(ids)
	return other
}

// archiver is what it takes to make an archive file, for one goroutine at a time. It is kept for the next one, with the memory of the object.
type archiver struct {
	hasher      *chunk.Hasher
	compressor  *pack.Compressor
	out, sealed []byte
	builder     *pack.Builder
}

func (r *Repo) newArchiver() (*archiver, error) {
	c, err := pack.NewCompressor(pack.Fastest)
	if err != nil {
		return nil, err
	}
	return &archiver{hasher: chunk.NewHasher(r.IDKey()), compressor: c, builder: pack.NewBuilder(pack.Archive, r.meta, nil)}, nil
}

// buildArchive makes the object, which is w's until the next one, and completes h.
func (r *Repo) buildArchive(ctx context.Context, key string, h *archiveHeader, w *archiver, content []byte) ([]byte, error) {
	sealer, err := r.bundle.WALSealer(r.config.ID, archivePart)
	if err != nil {
		return nil, err
	}
	b := w.builder
	b.Reset(pack.Archive, r.packAAD(key))
	session, err := b.AddSession(pack.Session{SID: archivePart, Encapsulation: sealer.Encapsulation()})
	if err != nil {
		return nil, err
	}
	var ids []byte
	for at := 0; at < len(content); at += archiveBlock {
		if ctx.Err() != nil { // a segment of 1 GB takes seconds
			return nil, context.Cause(ctx)
		}
		block := content[at:min(at+archiveBlock, len(content))]
		var enc pack.Encoding
		w.out, enc, err = w.compressor.Compress(w.out[:0], block)
		if err != nil {
			return nil, err
		}
		e := pack.Entry{ID: w.hasher.StreamID(block), Encoding: enc, Plain: uint32(len(block)), Session: session}
		ids = append(ids, e.ID[:]...)
		w.sealed, e.Nonce = sealer.Seal(w.sealed[:0], w.out, e.ID)
		if err := b.Add(e, w.sealed, nil); err != nil {
			return nil, err
		}
	}
	if h.version == archiveOfBlocks {
		h.mac = w.hasher.StreamID(ids)
	}
	if err := b.SetHeader(h.marshal()); err != nil {
		return nil, err
	}
	object, _, _, err := b.Finish()
	return object, err
}

// packAAD binds the sealed sections of a pack to the repository and the object's name. A pack's SHA-256 is not known
// when it is sealed, so its part of the name is left out.
func (r *Repo) packAAD(key string) []byte {
	return fmt.Appendf(nil, "pgtrove pack\x00%s\x00%s", r.config.ID, key)
}

// ArchiveHeader returns the caller's header of the archive file under key and the size of its content.
func (r *Repo) ArchiveHeader(ctx context.Context, key string) ([]byte, int64, error) {
	h, _, err := r.archiveHeader(ctx, key)
	return h.user, int64(h.size), err
}

func (r *Repo) archiveHeader(ctx context.Context, key string) (archiveHeader, *packOpener, error) {
	dir, _, o, err := r.readEnd(ctx, key, r.packAAD(key))
	if err != nil {
		return archiveHeader{}, nil, err
	}
	h, err := parseArchiveHeader(dir.Header)
	if err != nil {
		return h, nil, fmt.Errorf("%s: %w", key, err)
	}
	return h, o, nil
}

// Recycle lets a later GetArchive use the memory of a content that it returned, and that nobody needs any more.
func (r *Repo) Recycle(content []byte) { r.contents.Put(&content) }

// recycled returns memory from the pool, with nothing in it.
func recycled(p *sync.Pool) []byte {
	if b, ok := p.Get().(*[]byte); ok {
		return (*b)[:0]
	}
	return nil
}

// GetArchive returns the caller's header and the content of the archive file under key, every byte verified.
func (r *Repo) GetArchive(ctx context.Context, key string) (header, content []byte, err error) {
	object, err := r.store.Get(ctx, key, storage.Range{}, recycled(&r.objects))
	if err != nil {
		return nil, nil, fmt.Errorf("read %s: %w", key, err)
	}
	defer r.objects.Put(&object)
	dir, o, err := r.openDirectory(object, int64(len(object)), r.packAAD(key))
	if err != nil {
		return nil, nil, asDamage(key, err)
	}
	h, err := parseArchiveHeader(dir.Header)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", key, err)
	}
	if h.size > 2<<30 {
		return nil, nil, fmt.Errorf("%w: %s claims %d bytes", ErrDamaged, key, h.size)
	}
	if content = recycled(&r.contents); uint64(cap(content)) < h.size+64 { // and the room that decompression likes to have
		content = make([]byte, 0, h.size+64)
	}
	var ids []byte
	for i := range dir.Entries {
		loc := dir.Location(key, i)
		content, err = r.OpenChunk(content, loc, object[loc.Offset:loc.End()]) // which compares it with its ID
		if err != nil {
			return nil, nil, err
		}
		ids = append(ids, loc.ID[:]...)
	}
	digested := ids
	if h.version == archiveOfContent {
		digested = content
	}
	if uint64(len(content)) != h.size || o.hasher().StreamID(digested) != h.mac {
		return nil, nil, fmt.Errorf("%w: %s does not match its header", ErrDamaged, key)
	}
	return bytes.Clone(h.user), content, nil
}

// List calls fn for every object whose name begins with prefix, in order of name.
func (r *Repo) List(ctx context.Context, prefix string, fn func(key string, size int64) error) error {
	err := r.store.List(ctx, prefix, func(i storage.Info) error { return fn(i.Key, i.Size) })
	if err != nil {
		return fmt.Errorf("list %s: %w", prefix, err)
	}
	return nil
}

// asDamage turns what a codec says of bytes that do not parse or open into ErrDamaged with the object's name. That a
// key is missing, or that a newer program wrote them, is no damage.
func asDamage(key string, err error) error {
	switch {
	case errors.Is(err, keys.ErrRole):
		return fmt.Errorf("open %s: %w", key, err)
	case errors.Is(err, pack.ErrVersion), errors.Is(err, index.ErrVersion), errors.Is(err, keys.ErrVersion):
		return fmt.Errorf("%w: %s: %w", ErrVersion, key, err)
	}
	return fmt.Errorf("%w: %s: %w", ErrDamaged, key, err)
}
