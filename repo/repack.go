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
	if len(p.repacked) == 0 {
		return nil
	}
	s, err := p.announce(ctx, SessionOptions{Cluster: pruneCluster, Host: p.o.Host, Now: p.o.Now}, true)
	if err != nil {
		return err
	}
	m := &mover{pruner: p, to: p.newCopier(s), going: p.going()}
	for _, key := range slices.Sorted(maps.Keys(p.repacked)) {
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
	dir, o, err := m.openDirectory(object, size, aad)
	if err != nil {
		return asDamage(key, err)
	}
	digests, err := sealedDigests(object, dir, o, aad)
	if err != nil {
		return asDamage(key, err)
	}
	theirs := m.parts[slices.IndexFunc(m.parts, func(p *part) bool { return p.group == o.group() })]
	to, err := m.to.of(theirs.group)
	if err != nil {
		return err
	}
	for i := range dir.Entries {
		e := &dir.Entries[i]
		if to.has[e.ID] || !theirs.live.Has(e.ID) {
			continue
		}
		stays, err := m.standsElsewhere(theirs, e.ID)
		if err != nil {
			return err
		}
		if stays {
			continue
		}
		if err := to.add(ctx, dir, *e, object[e.Offset:e.End()], digests[i]); err != nil {
			return err
		}
	}
	return nil
}

func sealedDigests(object []byte, dir *pack.Directory, o pack.Opener, aad []byte) ([][]chunk.Prefix, error) {
	t, err := pack.ParseTrailer(object, int64(len(object)))
	if err != nil {
		return nil, err
	}
	off, n := t.DigestsAt()
	return pack.OpenDigests(object[off:off+n], dir, o, aad)
}

// standsElsewhere says whether a chunk of a group has a place in a pack that neither this run nor the next deletes.
func (m *mover) standsElsewhere(theirs *part, id chunk.ID) (bool, error) {
	all, err := theirs.view.cache.Locations(id, theirs.view.counts, nil)
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(all, func(l pack.Location) bool {
		k := theirs.byKey[l.Pack]
		return k != nil && k.usable() && !k.lost && !m.going[l.Pack]
	}), nil
}

// copier writes chunks that stay sealed as they are into packs of a session of its own, which refers to nothing else. What is of several trust groups
// goes into packs of each.
type copier struct {
	*Repo
	s        *Session
	groups   map[string]*groupCopier
	begun    int // packs
	segments int
}

// groupCopier is what a copier writes for one group.
type groupCopier struct {
	*copier
	as       *Repo
	has      map[chunk.ID]bool // what it has copied
	builders map[pack.Kind]*pack.Builder
	names    map[pack.Kind]string
	written  []index.Pack
	chunks   int   // in written
	bytes    int64 // sealed, of all chunks
}

func (r *Repo) newCopier(s *Session) *copier {
	return &copier{Repo: r, s: s, groups: map[string]*groupCopier{}}
}

// of gives the part of the copier that writes for a group. keys.ErrRole: the bundle does not have its keys.
func (c *copier) of(group string) (*groupCopier, error) {
	if g := c.groups[group]; g != nil {
		return g, nil
	}
	as, err := c.as(group)
	if err != nil {
		return nil, err
	}
	g := &groupCopier{copier: c, as: as, has: map[chunk.ID]bool{}, builders: map[pack.Kind]*pack.Builder{}, names: map[pack.Kind]string{}}
	c.groups[group] = g
	return g, nil
}

// add copies a chunk of the pack with the directory dir. digests are those of its pages.
func (c *groupCopier) add(ctx context.Context, dir *pack.Directory, e pack.Entry, sealed []byte, digests []chunk.Prefix) error {
	b := c.builders[dir.Kind]
	if b == nil {
		c.names[dir.Kind] = fmt.Sprintf("%s%s/%d", packsPrefix, c.s.sid, c.begun)
		c.begun++
		b = pack.NewBuilder(dir.Kind, c.as.meta, c.packAAD(c.names[dir.Kind]))
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

func (c *groupCopier) upload(ctx context.Context, kind pack.Kind) error {
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

// name publishes what was written.
func (c *groupCopier) name(ctx context.Context) error {
	segment := index.Segment{Packs: c.written}
	c.written, c.chunks = nil, 0
	c.segments++
	return c.as.putSegment(ctx, c.s.segmentKey(c.segments-1), &segment)
}

// finish ends the session. ErrFenced: a prune has ended it before, and what it copied may be gone.
func (c *copier) finish(ctx context.Context) error {
	for _, group := range slices.Sorted(maps.Keys(c.groups)) {
		g := c.groups[group]
		for _, kind := range []pack.Kind{pack.Data, pack.Meta} {
			if g.builders[kind] != nil {
				if err := g.upload(ctx, kind); err != nil {
					return err
				}
			}
		}
		if err := g.name(ctx); err != nil {
			return err
		}
	}
	return c.end(ctx, c.s.outcomeKey(), &outcome{Version: 1, Outcome: outcomeRepacked, Nonce: newNonce()})
}

// copied says how much was copied.
func (c *copier) copied() (sum Copied) {
	for _, g := range c.groups {
		sum.Chunks += len(g.has)
		sum.Bytes += g.bytes
	}
	return sum
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
