package repo

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/pgtrove/pgtrove/index"
	"github.com/pgtrove/pgtrove/storage"
)

// shardChunks is about how many chunks a shard of the base holds: some megabytes.
const shardChunks = 100_000

// writeBase makes the index of everything that is resolved, less the sweep (P6). It is kept in shards: one that loses nothing is
// named again as it is, so that a run costs what changed, here and in every host's cache. New ones stand under a nonce, since another
// run may be writing the same number's base.
func (p *pruner) writeBase(ctx context.Context) error {
	b := &baseWriter{pruner: p, prefix: fmt.Sprintf("%s%0*d/%s-", basePrefix, gcDigits, p.run.Number, newNonce()),
		named: map[string]bool{}, sweep: map[string]bool{}, packs: index.NewSplitter(shardChunks)}
	for _, key := range p.run.Sweep {
		b.sweep[key] = true
	}
	old, err := b.keep()
	if err != nil {
		return err
	}
	for _, name := range slices.Concat(old, p.resolvedSegments()) {
		if err := b.take(ctx, name); err != nil {
			return fmt.Errorf("write base: %w", p.orOvertaken(ctx, err))
		}
	}
	return b.put(ctx, b.packs.Rest())
}

// orOvertaken is err, unless something is missing because a newer run has moved it: then ErrOvertaken.
func (p *pruner) orOvertaken(ctx context.Context, err error) error {
	if !errors.Is(err, storage.ErrNotExist) {
		return err
	}
	if newest, listErr := p.newestNumber(ctx); listErr == nil && newest != p.last.Number {
		return ErrOvertaken
	}
	return err
}

// resolvedSegments are the index segments that the base takes in: of sessions resolved now, not of those that were resolved before, whose
// segments it has.
func (p *pruner) resolvedSegments() (names []string) {
	for _, name := range p.index.names {
		sid := segmentSession(name)
		if p.run.resolved[sid] && p.index.sessions[sid] && !p.last.resolved[sid] {
			names = append(names, name)
		}
	}
	return names
}

// coveredSegments are those that do not count from this run on.
func (p *pruner) coveredSegments() (names []string) {
	for _, name := range p.index.names {
		if sid := segmentSession(name); p.run.resolved[sid] || !p.index.sessions[sid] {
			names = append(names, name)
		}
	}
	return names
}

// baseWriter collects packs into shards.
type baseWriter struct {
	*pruner
	prefix string
	named  map[string]bool // packs that a shard has
	sweep  map[string]bool
	packs  *index.Splitter
	shards int
}

// shard is what the index says of one that exists.
type shard struct {
	keys    []string // of its packs
	indexed int      // bytes, about
	loses   bool     // a pack
}

// small says whether a shard has room for about as much again.
func (s *shard) small(chunks int) bool {
	return chunks < shardChunks/2 && len(s.keys) < index.MaxPacks/2 && s.indexed < index.SplitSize/2
}

// keep names the shards again that stay as they are, and returns those to be written anew: they lose a pack, or are small.
func (b *baseWriter) keep() (rewrite []string, err error) {
	loaded := b.view.cache.Loaded()
	shards := make(map[uint32]*shard, len(b.last.Bases))
	for _, ref := range b.last.Bases {
		number, ok := loaded[ref.Key]
		if !ok {
			return nil, fmt.Errorf("%w: %s is not in the index", ErrMissing, ref.Key)
		}
		shards[number] = &shard{}
	}
	if err := b.view.cache.Packs(func(n uint32) bool { return shards[n] != nil }, func(h index.Held) error {
		goes := b.goes(h.Key)
		for _, number := range h.Segments {
			if s := shards[number]; s != nil {
				s.keys = append(s.keys, h.Key)
				s.indexed += h.Indexed
				s.loses = s.loses || goes
			}
		}
		return nil
	}); err != nil {
		return nil, err
	}
	for _, ref := range b.last.Bases {
		s := shards[loaded[ref.Key]]
		if s.loses || s.small(ref.Chunks) {
			rewrite = append(rewrite, ref.Key)
			continue
		}
		for _, key := range s.keys {
			b.named[key] = true
		}
		b.run.Bases = append(b.run.Bases, ref)
	}
	return rewrite, nil
}

// goes says whether the index has no use for a pack any more: it is deleted, or was lost and nobody needs it.
func (b *baseWriter) goes(key string) bool {
	_, there := b.fresh[key]
	k := b.survey.byKey[key]
	return b.sweep[key] || !there && k != nil && k.alive == 0 && len(b.report.Damage) == 0
}

// take adds the packs of a segment.
func (b *baseWriter) take(ctx context.Context, name string) error {
	s, err := b.segment(ctx, name)
	if err != nil {
		return err
	}
	for i := range s.Packs {
		k := &s.Packs[i]
		if b.named[k.Key] || b.goes(k.Key) {
			continue
		}
		b.named[k.Key] = true
		if full := b.packs.Add(*k); full != nil {
			if err := b.put(ctx, full); err != nil {
				return err
			}
		}
	}
	return nil
}

// put writes a shard, unless it is nil.
func (b *baseWriter) put(ctx context.Context, s *index.Segment) error {
	if s == nil {
		return nil
	}
	ref := baseRef{Key: fmt.Sprintf("%s%d", b.prefix, b.shards)}
	for i := range s.Packs {
		ref.Chunks += len(s.Packs[i].Entries)
	}
	if err := b.putSegment(ctx, ref.Key, s); err != nil {
		return err
	}
	b.run.Bases = append(b.run.Bases, ref)
	b.shards++
	return nil
}
