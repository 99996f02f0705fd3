package repo

import (
	"context"
	"encoding/hex"
	"fmt"
	"sync"
	"time"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/index"
	"github.com/pgtrove/pgtrove/pack"
)

// Writer stores chunks for one goroutine: it holds the compressor and the buffers.
type Writer struct {
	s      *Session
	hasher *chunk.Hasher
	comp   *pack.Compressor
	packed []byte
	sealed []byte
}

// NewWriter returns a writer for one goroutine.
func (s *Session) NewWriter() (*Writer, error) {
	comp, err := pack.NewCompressor(pack.Fastest)
	if err != nil {
		return nil, err
	}
	return &Writer{s: s, hasher: chunk.NewHasher(s.repo.IDKey()), comp: comp}, nil
}

// Pages stores a run of pages of 1<<form bytes, named by their digests, unless the repository has it. The buffers
// stay the caller's.
func (w *Writer) Pages(ctx context.Context, form chunk.Form, digests []chunk.Digest, pages []byte) (chunk.ID, error) {
	id := w.hasher.RunID(digests)
	return id, w.put(ctx, &w.s.data, pack.Entry{ID: id, Form: form}, digests, pages)
}

// Bytes stores a piece of a byte stream, unless the repository has it.
func (w *Writer) Bytes(ctx context.Context, plain []byte) (chunk.ID, error) {
	id := w.hasher.StreamID(plain)
	return id, w.put(ctx, &w.s.data, pack.Entry{ID: id}, nil, plain)
}

// Meta stores a piece of metadata, which every role can read, unless the repository has it. Its name is that of the
// same bytes as data would have, made distinct.
func (w *Writer) Meta(ctx context.Context, plain []byte) (chunk.ID, error) {
	id := w.hasher.MetaID(plain)
	return id, w.put(ctx, &w.s.meta, pack.Entry{ID: id}, nil, plain)
}

func (w *Writer) put(ctx context.Context, p *packer, e pack.Entry, digests []chunk.Digest, plain []byte) (err error) {
	known, err := w.s.known(e.ID)
	if err != nil || known {
		return err
	}
	w.packed, e.Encoding, err = w.comp.Compress(w.packed[:0], plain)
	if err != nil {
		return err
	}
	e.Plain = uint32(len(plain))
	if p.kind == pack.Meta {
		w.sealed = w.s.repo.meta.Seal(w.sealed[:0], w.packed, w.s.repo.chunkAAD(e.ID))
	} else {
		w.sealed, e.Nonce = w.s.sealer.Seal(w.sealed[:0], w.packed, e.ID)
	}
	return p.add(ctx, e, w.sealed, digests)
}

// known says whether a chunk is stored already or on its way; if neither, it is on its way from now on.
func (s *Session) known(id chunk.ID) (bool, error) {
	if s.book.has(id) {
		return true, nil
	}
	stored, err := s.view.has(id)
	if err != nil || stored {
		return stored, err
	}
	return !s.book.claim(id), nil
}

// packer fills packs of one kind.
type packer struct {
	kind    pack.Kind
	session *Session
	mu      sync.Mutex
	b       *pack.Builder
	name    string // of the pack being filled, without its hash
}

// filled is a pack ready to go.
type filled struct {
	b    *pack.Builder
	name string
}

func (p *packer) add(ctx context.Context, e pack.Entry, sealed []byte, digests []chunk.Digest) error {
	full, err := p.put(e, sealed, digests)
	if err != nil {
		return err
	}
	return p.session.hand(ctx, full)
}

func (p *packer) put(e pack.Entry, sealed []byte, digests []chunk.Digest) (*filled, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.b == nil {
		if err := p.begin(); err != nil {
			return nil, err
		}
	}
	if err := p.b.Add(e, sealed, digests); err != nil {
		return nil, err
	}
	if p.b.Size() < p.session.repo.config.Params.PackSize {
		return nil, nil
	}
	return p.detach(), nil
}

func (p *packer) begin() error {
	s := p.session
	p.name = fmt.Sprintf("%s%s/%d", packsPrefix, s.sid, s.book.nextPack())
	aad := s.repo.packAAD(p.name)
	select {
	case p.b = <-s.spare:
		p.b.Reset(p.kind, aad)
	default:
		p.b = pack.NewBuilder(p.kind, s.repo.meta, aad)
	}
	if p.kind == pack.Data {
		// The chunk that fills a pack may go a whole one beyond its size: growing then would move 32 MiB, and leave as much for the collector.
		p.b.Grow(s.repo.config.Params.PackSize + pack.MaxSealed)
	}
	if p.kind != pack.Data {
		return nil
	}
	_, err := p.b.AddSession(pack.Session{SID: s.sid, Encapsulation: s.sealer.Encapsulation()})
	return err
}

func (p *packer) detach() *filled {
	f := &filled{b: p.b, name: p.name}
	p.b = nil
	p.session.book.sent()
	return f
}

func (p *packer) flush(ctx context.Context) error {
	p.mu.Lock()
	var f *filled
	if p.b != nil {
		f = p.detach()
	}
	p.mu.Unlock()
	return p.session.hand(ctx, f)
}

// hand gives a pack to an uploader, waiting for a free one: so at most one pack per worker waits in memory.
func (s *Session) hand(ctx context.Context, f *filled) error {
	if f == nil {
		return nil
	}
	select {
	case s.full <- f:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// upload writes packs until there are no more (W2).
func (s *Session) upload(ctx context.Context) error {
	for f := range s.full {
		object, sum, dir, err := f.b.Finish()
		if err != nil {
			return fmt.Errorf("finish pack: %w", err)
		}
		key := f.name + "-" + hex.EncodeToString(sum[:])
		if err := s.repo.store.Put(ctx, key, object); err != nil {
			return fmt.Errorf("write pack: %w", err)
		}
		p := index.Pack{Key: key, Size: int64(len(object)), Directory: *dir}
		select {
		case s.spare <- f.b: // its memory is used again
		default:
		}
		if err := s.note(p, s.book.done); err != nil {
			return err
		}
		if err := s.publish(ctx, whenDue); err != nil {
			return err
		}
	}
	return nil
}

// note makes a durable pack findable: in the local index at once, in the repository's with the next segment, to which
// book adds it. Both must say the same of a segment, or a later session would believe a chunk to be in one that does not name it.
func (s *Session) note(p index.Pack, book func(index.Pack)) error {
	s.publishing.Lock()
	defer s.publishing.Unlock()
	if !s.begun {
		n, err := s.view.begin()
		if err != nil {
			return err
		}
		s.segment, s.begun = n, true
	}
	if err := s.view.cache.AddPack(s.segment, p); err != nil {
		return fmt.Errorf("note pack in the index: %w", err)
	}
	book(p)
	return nil
}

// book keeps count of what a session has under way.
type book struct {
	committed bool

	mu       sync.Mutex
	pending  map[chunk.ID]struct{} // written to packs that are not durable yet
	packs    int                   // begun
	segments int                   // published
	flying   int                   // handed to uploaders and not durable yet
	idle     chan struct{}         // closed when flying becomes 0; nil when nobody waits
	fresh    index.Segment         // packs without a published segment
	chunks   int                   // in fresh
	last     time.Time             // of the last publication
	sum      Added
}

func (b *book) has(id chunk.ID) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, ok := b.pending[id]
	return ok
}

// claim says whether the caller is the one to store the chunk.
func (b *book) claim(id chunk.ID) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.pending[id]; ok {
		return false
	}
	b.pending[id] = struct{}{}
	return true
}

func (b *book) nextPack() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.packs++
	return b.packs - 1
}

func (b *book) sent() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.flying++
}

// done records a durable pack.
func (b *book) done(p index.Pack) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range p.Entries {
		delete(b.pending, p.Entries[i].ID)
		b.sum.Plain += int64(p.Entries[i].Plain)
	}
	b.name(p)
	b.sum.Stored += p.Size
	if p.Kind == pack.Meta {
		b.sum.Meta += p.Size
	}
	b.flying--
	if b.flying == 0 && b.idle != nil {
		close(b.idle)
		b.idle = nil
	}
}

// adopt records a pack that was there before the session.
func (b *book) adopt(p index.Pack) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.name(p)
}

// name makes p a part of the next segment. mu is held.
func (b *book) name(p index.Pack) {
	b.fresh.Packs = append(b.fresh.Packs, p)
	b.chunks += len(p.Entries)
}

// wait returns when every pack handed over is durable.
func (b *book) wait(ctx context.Context) error {
	b.mu.Lock()
	if b.flying == 0 {
		b.mu.Unlock()
		return nil
	}
	idle := make(chan struct{})
	b.idle = idle
	b.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// take returns the next segment to publish and its number, or nil if there is no occasion.
func (b *book) take(why occasion, clock time.Time) (*index.Segment, int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	due := b.chunks >= publishChunks || clock.Sub(b.last) >= publishAfter
	if why != always && (len(b.fresh.Packs) == 0 || why == whenDue && !due) {
		return nil, 0
	}
	s := b.fresh
	b.fresh, b.chunks, b.last = index.Segment{}, 0, clock
	b.segments++
	return &s, b.segments - 1
}

func (b *book) count(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sum.Stored += int64(n)
	b.sum.Meta += int64(n)
}

func (b *book) added() Added {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.sum
}
