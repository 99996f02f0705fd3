package repo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/pgtrove/pgtrove/storage"
)

// publish creates gc/<n+1>: with it, and not before, all that the run decided is true (P7). ErrOvertaken: another run took the number.
func (p *pruner) publish(ctx context.Context) error {
	if err := p.knowsAllGroups(ctx); err != nil {
		return err
	}
	text, err := p.run.marshal()
	if err != nil {
		return err
	}
	key := gcKey(p.run.Number)
	err = p.store.Put(ctx, key, p.seal(kindGC, key, text))
	if err == nil {
		return nil
	}
	if errors.Is(err, storage.ErrNotDurable) {
		return fmt.Errorf("write %s: %w", key, err)
	}
	// Taken, or our own answer was lost: the nonce tells. It may be gone already, if a later run deleted it.
	there, readErr := p.get(ctx, kindGC, key)
	var g gcRun
	switch {
	case errors.Is(readErr, storage.ErrNotExist) && errors.Is(err, storage.ErrExist):
		return ErrOvertaken
	case readErr != nil:
		return fmt.Errorf("write %s: %w", key, inDispute(err, readErr))
	}
	if err := json.Unmarshal(there, &g); err != nil {
		return fmt.Errorf("%w: %s", ErrDamaged, key)
	}
	if g.Nonce != p.run.Nonce {
		return ErrOvertaken
	}
	return nil
}

// sweep deletes what gc/<n+1> says (P8). A run that died here leaves it to the next.
//
// The order matters twice: a session goes before its outcome, or it would look unfinished; and the run itself stays, or nothing would say what
// counts.
func (p *pruner) sweep(ctx context.Context) error {
	newest, err := p.newestNumber(ctx)
	if err != nil {
		return err
	}
	if newest != p.run.Number {
		p.report.Stopped = true
		return nil
	}
	bases, err := p.oldBases(ctx)
	if err != nil {
		return err
	}
	ended := slices.Clone(p.nowhere)
	for sid := range p.sessions {
		if p.run.resolved[sid] {
			ended = append(ended, sessionsPrefix+sid)
		}
	}
	slices.Sort(ended)
	for _, keys := range [][]string{p.run.Sweep, p.coveredSegments(), bases, ended} {
		if err := p.delete(ctx, keys); err != nil {
			return err
		}
	}
	void := slices.DeleteFunc(slices.Clone(p.void), func(key string) bool {
		session := sessionsPrefix + outcomeSession(key)
		return slices.Contains(p.report.Locked, session) || slices.Contains(p.report.Waiting, session)
	})
	if err := p.delete(ctx, void); err != nil {
		return err
	}
	old, err := p.oldRuns(ctx)
	if err != nil {
		return err
	}
	if err := p.delete(ctx, slices.Concat(p.spentMarks(), old)); err != nil {
		return err
	}
	if err := p.sweepWAL(ctx); err != nil || p.report.Stopped {
		return err
	}
	if t, ok := p.store.(storage.Tidier); ok {
		p.report.Tidied.Packs, p.report.Tidied.Bytes, err = t.Tidy(ctx, p.o.Now().Add(-p.o.FenceAfter))
	}
	return err
}

// oldBases are shards of earlier runs that this one does not name, and so no later one.
func (p *pruner) oldBases(ctx context.Context) (keys []string, err error) {
	named := map[string]bool{}
	for _, b := range p.run.Bases {
		named[b.Key] = true
	}
	err = p.store.List(ctx, basePrefix, func(i storage.Info) error {
		number, _, _ := strings.Cut(strings.TrimPrefix(i.Key, basePrefix), "/")
		if n, ok := parseNumber(number); ok && n < p.run.Number && !named[i.Key] {
			keys = append(keys, i.Key)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list bases: %w", err)
	}
	return keys, nil
}

func (p *pruner) oldRuns(ctx context.Context) (keys []string, err error) {
	err = p.store.List(ctx, gcPrefix, func(i storage.Info) error {
		if n, ok := parseNumber(strings.TrimPrefix(i.Key, gcPrefix)); ok && n < p.run.Number {
			keys = append(keys, i.Key)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list prune runs: %w", err)
	}
	return keys, nil
}

// spentMarks are requests for snapshots that are gone: their outcomes were deleted now, or before the requests were listed. A snapshot
// that has just expired keeps its marks, for a pin may still bring it back.
func (p *pruner) spentMarks() (keys []string) {
	alive := map[string]bool{}
	for key := range p.outcomes {
		if !slices.Contains(p.void, key) {
			alive[outcomeSession(key)] = true
		}
	}
	gone := func(sid string) bool { return !alive[sid] }
	for _, sid := range slices.Sorted(maps.Keys(p.marks.forgotten)) {
		if gone(sid) {
			keys = append(keys, forgetPrefix+sid)
		}
	}
	for _, sid := range slices.Sorted(maps.Keys(p.marks.last)) {
		if gone(sid) {
			keys = append(keys, forgetPrefix+sid+lastSuffix)
		}
	}
	for _, sid := range slices.Sorted(maps.Keys(p.marks.pinned)) {
		if gone(sid) {
			keys = append(keys, pinsPrefix+sid)
		}
	}
	for _, sid := range slices.Sorted(maps.Keys(p.marks.narrowed)) {
		if gone(sid) || p.run.narrow[sid] {
			keys = append(keys, forgetPrefix+sid+narrowSuffix)
		}
	}
	return append(keys, p.spentDamage()...)
}

// deleters is how many objects are deleted at once.
const deleters = 8

// delete removes objects, in any order. One that the storage refuses to delete is reported and left.
func (p *pruner) delete(ctx context.Context, keys []string) error {
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(deleters)
	for _, key := range keys {
		g.Go(func() error {
			err := p.store.Delete(ctx, key)
			if errors.Is(err, storage.ErrDenied) {
				mu.Lock()
				defer mu.Unlock()
				if errors.Is(err, storage.ErrLocked) {
					p.report.Waiting = append(p.report.Waiting, key)
					return nil
				}
				p.report.Locked, p.report.LockedErr = append(p.report.Locked, key), err
				return nil
			}
			return err
		})
	}
	err := g.Wait()
	slices.Sort(p.report.Locked)
	slices.Sort(p.report.Waiting)
	return err
}
