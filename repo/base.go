package repo

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/pgtrove/pgtrove/index"
	"github.com/pgtrove/pgtrove/storage"
)

// shardChunks is about how many chunks a shard of the base holds: some megabytes.
const shardChunks = 100_000

// writeBase makes the index of everything that is resolved, less the sweep (P6). It is kept in shards: one that loses nothing is
// named again as it is, so that a run costs what changed, here and in every host's cache. New ones stand under a nonce, since another
// run may be writing the same number's base. Each is of one trust group, and made of what that group's segments say.
func (p *pruner) writeBase(ctx context.Context) error {
	b := p.newBaseWriter()
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
	return b.rest(ctx)
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
	sweep  map[string]bool
	groups map[string]*groupBase
	shards int
}

// groupBase is what one trust group's shards are made of.
type groupBase struct {
	named map[string]bool // packs that a shard has
	packs *index.Splitter
}

func (p *pruner) newBaseWriter() *baseWriter {
	return &baseWriter{pruner: p, prefix: fmt.Sprintf("%s%0*d/%s-", basePrefix, gcDigits, p.run.Number, newNonce()),
		sweep: map[string]bool{}, groups: map[string]*groupBase{}}
}

func (b *baseWriter) of(group string) *groupBase {
	g := b.groups[group]
	if g == nil {
		g = &groupBase{named: map[string]bool{}, packs: index.NewSplitter(shardChunks)}
		b.groups[group] = g
	}
	return g
}

// shard is what the index says of one that exists.
type shard struct {
	group   string
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
	cached := b.view.cached()
	shards := make(map[uint32]*shard, len(b.last.Bases))
	for _, ref := range b.last.Bases {
		c, ok := cached[ref.Key]
		if !ok || c.foreign {
			return nil, fmt.Errorf("%w: %s is not in the index", ErrMissing, ref.Key)
		}
		shards[c.number] = &shard{group: c.group}
	}
	if err := b.view.cache.Packs(func(n uint32) bool { return shards[n] != nil }, func(h index.Held) error {
		for _, number := range h.Segments {
			if s := shards[number]; s != nil {
				s.keys = append(s.keys, h.Key)
				s.indexed += h.Indexed
				s.loses = s.loses || b.goes(s.group, h.Key)
			}
		}
		return nil
	}); err != nil {
		return nil, err
	}
	for _, ref := range b.last.Bases {
		s := shards[cached[ref.Key].number]
		if s.loses || s.small(ref.Chunks) {
			rewrite = append(rewrite, ref.Key)
			continue
		}
		for _, key := range s.keys {
			b.of(s.group).named[key] = true
		}
		b.run.Bases = append(b.run.Bases, ref)
	}
	return rewrite, nil
}

// goes says whether a group's index has no use for a pack any more: it is deleted, or was lost and nobody needs it.
func (b *baseWriter) goes(group, key string) bool {
	_, there := b.fresh[key]
	k := b.surveyed(group, key)
	return b.sweep[key] || !there && k != nil && k.alive == 0 && len(b.report.Damage) == 0
}

// take adds the packs of a segment.
func (b *baseWriter) take(ctx context.Context, name string) error {
	s, group, err := b.segment(ctx, name)
	if err != nil {
		return err
	}
	g := b.of(group)
	for i := range s.Packs {
		k := &s.Packs[i]
		if g.named[k.Key] || b.goes(group, k.Key) {
			continue
		}
		g.named[k.Key] = true
		if err := b.put(ctx, group, g.packs.Add(*k)); err != nil {
			return err
		}
	}
	return nil
}

// rest writes what is left over.
func (b *baseWriter) rest(ctx context.Context) error {
	for _, group := range slices.Sorted(maps.Keys(b.groups)) {
		if err := b.put(ctx, group, b.groups[group].packs.Rest()); err != nil {
			return err
		}
	}
	return nil
}

// put writes a shard, unless it is nil.
func (b *baseWriter) put(ctx context.Context, group string, s *index.Segment) error {
	if s == nil || b.o.DryRun {
		return nil
	}
	as, err := b.as(group)
	if err != nil {
		return err
	}
	ref := baseRef{Key: fmt.Sprintf("%s%d", b.prefix, b.shards), Group: as.baseTag()}
	for i := range s.Packs {
		ref.Chunks += len(s.Packs[i].Entries)
	}
	if err := as.putSegment(ctx, ref.Key, s); err != nil {
		return err
	}
	b.run.Bases = append(b.run.Bases, ref)
	b.shards++
	return nil
}
