package repo

import (
	"context"
	"fmt"
	"slices"

	"github.com/pgtrove/pgtrove/index"
)

// shardChunks is about how many chunks a shard of the base holds: some megabytes.
const shardChunks = 100_000

// writeBase makes the index of everything that is resolved, less the sweep (P6). It is kept in shards: one that loses nothing is
// named again as it is, so that a run costs what changed, here and in every host's cache. New ones stand under a nonce, since another
// run may be writing the same number's base.
func (p *pruner) writeBase(ctx context.Context) error {
	b := &baseWriter{pruner: p, prefix: fmt.Sprintf("%s%0*d/%s-", basePrefix, gcDigits, p.run.Number, newNonce()),
		named: map[string]bool{}, sweep: map[string]bool{}}
	for _, key := range p.run.Sweep {
		b.sweep[key] = true
	}
	old, err := b.keep()
	if err != nil {
		return err
	}
	for _, name := range slices.Concat(old, p.resolvedSegments()) {
		if err := b.take(ctx, name); err != nil {
			return fmt.Errorf("write base: %w", err)
		}
	}
	return b.flush(ctx)
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
	packs  []index.Pack
	chunks int
	shards int
}

// keep names the shards again that stay as they are, and returns those to be written anew: they lose a pack, or are small.
func (b *baseWriter) keep() (rewrite []string, err error) {
	loaded := b.view.cache.Loaded()
	for _, ref := range b.last.Bases {
		number, ok := loaded[ref.Key]
		if !ok {
			return nil, fmt.Errorf("%w: %s is not in the index", ErrMissing, ref.Key)
		}
		var keys []string
		loses := ref.Chunks < shardChunks/2
		if err := b.view.cache.Packs(func(n uint32) bool { return n == number }, func(h index.Held) error {
			keys = append(keys, h.Key)
			loses = loses || b.goes(h.Key)
			return nil
		}); err != nil {
			return nil, err
		}
		if loses {
			rewrite = append(rewrite, ref.Key)
			continue
		}
		for _, key := range keys {
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
		b.packs = append(b.packs, *k)
		b.chunks += len(k.Entries)
		if b.chunks >= shardChunks {
			if err := b.flush(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// flush writes a shard.
func (b *baseWriter) flush(ctx context.Context) error {
	if len(b.packs) == 0 {
		return nil
	}
	ref := baseRef{Key: fmt.Sprintf("%s%d", b.prefix, b.shards), Chunks: b.chunks}
	if err := b.putSegment(ctx, ref.Key, &index.Segment{Packs: b.packs}); err != nil {
		return err
	}
	b.run.Bases = append(b.run.Bases, ref)
	b.packs, b.chunks = nil, 0
	b.shards++
	return nil
}
