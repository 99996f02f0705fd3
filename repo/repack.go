package repo

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/index"
	"github.com/pgtrove/pgtrove/pack"
	"github.com/pgtrove/pgtrove/storage"
)

// repack copies what is alive out of packs that are mostly dead, into packs of a session of its own (P5). Chunks stay sealed as
// they are: what binds them to their name and their session says nothing of the pack. The session ends with an outcome, and the next run
// takes its packs into the base.
func (p *pruner) repack(ctx context.Context) error {
	if len(p.survey.repacked) == 0 {
		return nil
	}
	s, err := p.announce(ctx, SessionOptions{Cluster: pruneCluster, Host: p.o.Host, Now: p.o.Now}, true)
	if err != nil {
		return err
	}
	m := &mover{pruner: p, to: p.newCopier(s), going: p.going()}
	for _, key := range slices.Sorted(maps.Keys(p.survey.repacked)) {
		err := m.pack(ctx, key)
		if isLoss(err) {
			p.report.Damage = append(p.report.Damage, err)
			p.spare() // what is lost here may stand in any of them
			continue
		}
		if err != nil {
			return fmt.Errorf("repack %s: %w", key, err)
		}
	}
	err = m.to.finish(ctx)
	if errors.Is(err, ErrFenced) {
		err = ErrOvertaken
	}
	if err != nil {
		return fmt.Errorf("repack: %w", err)
	}
	return nil
}

// mover decides what is copied.
type mover struct {
	*pruner
	to    *copier
	going map[string]bool // packs, as planned
}

// pack copies what is alive in one pack. Its bytes are believed because they have the hash that is its name.
func (m *mover) pack(ctx context.Context, key string) error {
	object, err := m.store.Get(ctx, key, storage.Range{}, nil)
	if errors.Is(err, storage.ErrNotExist) {
		return fmt.Errorf("%w: %w", ErrMissing, err)
	}
	if err != nil {
		return err
	}
	sum := sha256.Sum256(object)
	if !bytes.HasSuffix([]byte(key), []byte("-"+hex.EncodeToString(sum[:]))) {
		return fmt.Errorf("%w: %s has other bytes than its name says", ErrDamaged, key)
	}
	aad, err := m.packKeyAAD(key)
	if err != nil {
		return err
	}
	size := int64(len(object))
	dir, err := pack.OpenDirectory(object, size, m.meta, aad)
	if err != nil {
		return asDamage(key, err)
	}
	digests, err := m.digests(object, dir, aad)
	if err != nil {
		return asDamage(key, err)
	}
	for i := range dir.Entries {
		e := &dir.Entries[i]
		if m.to.has[e.ID] || !m.live.Has(e.ID) {
			continue
		}
		stays, err := m.standsElsewhere(e.ID)
		if err != nil {
			return err
		}
		if stays {
			continue
		}
		if err := m.to.add(ctx, dir, *e, object[e.Offset:e.End()], digests[i]); err != nil {
			return err
		}
	}
	return nil
}

func (m *mover) digests(object []byte, dir *pack.Directory, aad []byte) ([][]chunk.Prefix, error) {
	t, err := pack.ParseTrailer(object, int64(len(object)))
	if err != nil {
		return nil, err
	}
	off, n := t.DigestsAt()
	return pack.OpenDigests(object[off:off+n], dir, m.meta, aad)
}

// standsElsewhere says whether a chunk has a place in a pack that neither this run nor the next deletes.
func (m *mover) standsElsewhere(id chunk.ID) (bool, error) {
	all, err := m.view.cache.Locations(id, m.view.counts, nil)
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(all, func(l pack.Location) bool {
		k := m.survey.byKey[l.Pack]
		return k != nil && k.usable() && !k.lost && !m.going[l.Pack]
	}), nil
}

// copier writes chunks that stay sealed as they are into packs of a session of its own, which refers to nothing else.
type copier struct {
	*Repo
	s        *Session
	has      map[chunk.ID]bool // what it has copied
	builders map[pack.Kind]*pack.Builder
	names    map[pack.Kind]string
	written  []index.Pack
	begun    int // packs
	segments int
	chunks   int   // in written
	bytes    int64 // sealed, of all chunks
}

func (r *Repo) newCopier(s *Session) *copier {
	return &copier{Repo: r, s: s, has: map[chunk.ID]bool{}, builders: map[pack.Kind]*pack.Builder{}, names: map[pack.Kind]string{}}
}

// add copies a chunk of the pack with the directory dir. digests are those of its pages.
func (c *copier) add(ctx context.Context, dir *pack.Directory, e pack.Entry, sealed []byte, digests []chunk.Prefix) error {
	b := c.builders[dir.Kind]
	if b == nil {
		c.names[dir.Kind] = fmt.Sprintf("%s%s/%d", packsPrefix, c.s.sid, c.begun)
		c.begun++
		b = pack.NewBuilder(dir.Kind, c.meta, c.packAAD(c.names[dir.Kind]))
		c.builders[dir.Kind] = b
	}
	if dir.Kind == pack.Data {
		var err error
		if e.Session, err = b.AddSession(dir.Sessions[e.Session]); err != nil {
			return err
		}
	}
	if err := b.AddSealed(e, sealed, digests); err != nil {
		return err
	}
	c.has[e.ID] = true
	c.bytes += int64(len(sealed))
	if b.Size() < c.config.Params.PackSize {
		return nil
	}
	return c.upload(ctx, dir.Kind)
}

func (c *copier) upload(ctx context.Context, kind pack.Kind) error {
	b := c.builders[kind]
	delete(c.builders, kind)
	object, sum, dir, err := b.Finish()
	if err != nil {
		return err
	}
	key := c.names[kind] + "-" + hex.EncodeToString(sum[:])
	if err := c.store.Put(ctx, key, object); err != nil {
		return fmt.Errorf("write pack: %w", err)
	}
	c.written = append(c.written, index.Pack{Key: key, Size: int64(len(object)), Directory: *dir})
	c.chunks += len(dir.Entries)
	if c.chunks < publishChunks {
		return nil
	}
	return c.name(ctx)
}

// name publishes what the session has written.
func (c *copier) name(ctx context.Context) error {
	segment := index.Segment{Packs: c.written}
	c.written, c.chunks = nil, 0
	c.segments++
	return c.putSegment(ctx, c.s.segmentKey(c.segments-1), &segment)
}

// finish ends the session. ErrFenced: a prune has ended it before, and what it copied may be gone.
func (c *copier) finish(ctx context.Context) error {
	for _, kind := range []pack.Kind{pack.Data, pack.Meta} {
		if c.builders[kind] != nil {
			if err := c.upload(ctx, kind); err != nil {
				return err
			}
		}
	}
	if err := c.name(ctx); err != nil {
		return err
	}
	return c.end(ctx, c.s.outcomeKey(), &outcome{Version: 1, Outcome: outcomeRepacked, Nonce: newNonce()})
}

// putSegment writes an index segment under key.
func (r *Repo) putSegment(ctx context.Context, key string, s *index.Segment) error {
	text, err := s.Marshal()
	if err != nil {
		return err
	}
	if err := r.store.Put(ctx, key, r.seal(kindIndex, key, text)); err != nil {
		return fmt.Errorf("publish index: %w", err)
	}
	return nil
}
