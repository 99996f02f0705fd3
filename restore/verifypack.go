package restore

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"strings"

	"github.com/pgtrove/pgtrove/pack"
)

// pack checks one pack: that its own directory lists the chunks where the index says, and with ReadData that every one
// of them opens and that the whole is what its name says.
func (v *verifier) pack(ctx context.Context, key string, p *checked) error {
	dir, tail, err := v.p.PackEnd(ctx, key)
	if err != nil {
		return err
	}
	if int64(len(tail)) > p.size {
		return fmt.Errorf("%w: the pack has more than the %d bytes that the listing says", ErrMismatch, p.size)
	}
	if dir.End() > p.size {
		return fmt.Errorf("%w: the pack has %d bytes, its chunks end at %d", ErrMismatch, p.size, dir.End())
	}
	used := make([]int, 0, len(p.chunks))
	for i := range dir.Entries {
		prefix, ok := p.chunks[dir.Entries[i].Offset]
		if ok && prefix == prefixOf(dir.Entries[i].ID) {
			used = append(used, i)
		}
	}
	if len(used) != len(p.chunks) {
		return fmt.Errorf("%w: the pack lacks %d of %d chunks that the index has in it", ErrMismatch, len(p.chunks)-len(used), len(p.chunks))
	}
	if !v.o.ReadData || v.o.Chosen != nil && !v.o.Chosen(key) {
		v.read(p.size)
		return nil
	}
	r := packReader{v: v, key: key, size: p.size, tail: tail, sum: sha256.New()}
	for _, i := range used {
		loc := dir.Location(key, i)
		err := r.open(ctx, &loc)
		if err == nil {
			continue
		}
		if !v.o.IsDamage(err) {
			return err
		}
		p.bad[loc.Offset] = true
		if err := v.damaged(key, err); err != nil {
			return err
		}
	}
	if err := r.finish(ctx); err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.report.ReadPacks++
	v.report.ReadBytes += p.size
	return nil
}

func (v *verifier) read(n int64) {
	if v.o.Events.Read != nil && !v.later {
		v.o.Events.Read(n)
	}
}

// packReader reads a pack from its beginning to its end, each byte once, and keeps no more than it needs for the chunk
// that is opened next.
type packReader struct {
	v    *verifier
	key  string
	size int64
	tail []byte // its end, which was read before
	sum  hash.Hash

	buf   []byte // bytes of the pack from off on
	off   int64
	plain []byte
}

// fill reads the next bytes of the pack on the way to start and end, and drops those before start. Both only ever grow.
func (r *packReader) fill(ctx context.Context, start, end int64) error {
	have := r.off + int64(len(r.buf))
	want := int64(maxPiece)
	if start <= have {
		want = max(want, end-have) // a chunk that is longer
	}
	known := r.size - int64(len(r.tail))
	start = min(start, have)
	r.buf = append(r.buf[:0], r.buf[start-r.off:]...)
	r.off = start
	b := r.buf
	if have >= known {
		want = r.size - have
		b = append(b, r.tail[have-known:]...)
	} else {
		want = min(want, known-have)
		var err error
		if b, err = r.v.c.ReadPack(ctx, r.key, have, want, b); err != nil {
			return err
		}
	}
	fresh := b[len(r.buf):]
	r.buf = b
	_, _ = r.sum.Write(fresh)
	r.v.read(int64(len(fresh)))
	if int64(len(fresh)) < want {
		return fmt.Errorf("%w: %s ends at %d, the listing says %d", ErrMismatch, r.key, have+int64(len(fresh)), r.size)
	}
	return nil
}

// open reads on to a chunk, opens it and so compares it with its name.
func (r *packReader) open(ctx context.Context, loc *pack.Location) error {
	start, end := int64(loc.Offset), loc.End()
	for r.off+int64(len(r.buf)) < end {
		if err := r.fill(ctx, start, end); err != nil {
			return err
		}
	}
	var err error
	r.plain, err = r.v.c.OpenChunk(r.plain[:0], *loc, r.buf[start-r.off:end-r.off])
	return err
}

var errName = errors.New("its bytes are not those that its name says")

// finish reads the rest and compares the pack with its name.
func (r *packReader) finish(ctx context.Context) error {
	for r.off+int64(len(r.buf)) < r.size {
		if err := r.fill(ctx, r.size, r.size); err != nil {
			return err
		}
	}
	_, want, _ := strings.Cut(r.key[strings.LastIndexByte(r.key, '/')+1:], "-")
	if got := hex.EncodeToString(r.sum.Sum(nil)); got != want {
		return fmt.Errorf("%w: %w", ErrMismatch, errName)
	}
	return nil
}
