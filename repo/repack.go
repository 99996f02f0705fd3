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
	m := &mover{pruner: p, s: s, moved: map[chunk.ID]bool{}, builders: map[pack.Kind]*pack.Builder{}, names: map[pack.Kind]string{}}
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
	if err := m.finish(ctx); err != nil {
		return fmt.Errorf("repack: %w", err)
	}
	err = p.end(ctx, s.outcomeKey(), &outcome{Version: 1, Outcome: outcomeRepacked, Nonce: newNonce()})
	if errors.Is(err, ErrFenced) {
		return fmt.Errorf("repack: %w", ErrOvertaken)
	}
	return err
}

// mover fills the new packs.
type mover struct {
	*pruner
	s        *Session
	moved    map[chunk.ID]bool
	builders map[pack.Kind]*pack.Builder
	names    map[pack.Kind]string
	written  []index.Pack
	begun    int // packs
	segments int
	chunks   int // in written
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
		if m.moved[e.ID] || !m.live.Has(e.ID) {
			continue
		}
		stays, err := m.standsElsewhere(e.ID)
		if err != nil {
			return err
		}
		if stays {
			continue
		}
		if err := m.add(ctx, dir, *e, object[e.Offset:e.End()], digests[i]); err != nil {
			return err
		}
		m.moved[e.ID] = true
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
		return k != nil && k.usable() && !k.lost && !m.survey.repacked[l.Pack]
	}), nil
}

func (m *mover) add(ctx context.Context, dir *pack.Directory, e pack.Entry, sealed []byte, digests []chunk.Prefix) error {
	b := m.builders[dir.Kind]
	if b == nil {
		m.names[dir.Kind] = fmt.Sprintf("%s%s/%d", packsPrefix, m.s.sid, m.begun)
		m.begun++
		b = pack.NewBuilder(dir.Kind, m.meta, m.packAAD(m.names[dir.Kind]))
		m.builders[dir.Kind] = b
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
	if b.Size() < m.config.Params.PackSize {
		return nil
	}
	return m.upload(ctx, dir.Kind)
}

func (m *mover) upload(ctx context.Context, kind pack.Kind) error {
	b := m.builders[kind]
	delete(m.builders, kind)
	object, sum, dir, err := b.Finish()
	if err != nil {
		return err
	}
	key := m.names[kind] + "-" + hex.EncodeToString(sum[:])
	if err := m.store.Put(ctx, key, object); err != nil {
		return fmt.Errorf("write pack: %w", err)
	}
	m.written = append(m.written, index.Pack{Key: key, Size: int64(len(object)), Directory: *dir})
	m.chunks += len(dir.Entries)
	if m.chunks < publishChunks {
		return nil
	}
	return m.name(ctx)
}

// name publishes what the session has written.
func (m *mover) name(ctx context.Context) error {
	segment := index.Segment{Packs: m.written}
	m.written, m.chunks = nil, 0
	m.segments++
	return m.putSegment(ctx, m.s.segmentKey(m.segments-1), &segment)
}

func (m *mover) finish(ctx context.Context) error {
	for _, kind := range []pack.Kind{pack.Data, pack.Meta} {
		if m.builders[kind] != nil {
			if err := m.upload(ctx, kind); err != nil {
				return err
			}
		}
	}
	return m.name(ctx)
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
