package repo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pgtrove/pgtrove/storage"
)

// lockers is how many objects are locked at once.
const lockers = 16

// LockReport says what a run did about object locks.
type LockReport struct {
	Until    time.Time // what the snapshots that stay need is locked at least until then; zero: the repository asks for no locks, or it is not known
	Extended int       // objects that the run has locked for longer, or has found so; of a dry run, that it would
	Refused  int       // objects of which the storage refused that
	Err      error     // why, of one of them
	Missing  []string  // objects that are needed, and were gone when they were to be locked
}

// lockPeriod is for how long the repository asks the storage to keep objects; 0: it does not ask.
func (r *Repo) lockPeriod() time.Duration {
	return time.Duration(r.config.Params.ObjectLockDays) * 24 * time.Hour
}

// lockedUntil is until when everything that the last run's snapshots need is locked at least, and whether it is due to be locked for longer: when two
// thirds of the period or less are left. Where no run has extended anything, all of it has been locked since it was put, and nothing was put
// before the repository was made.
//
// No run, and no creation before this one, can have locked anything for longer than a period from now on. Who says so has a wrong clock, or wants
// locks to run out: then nothing is known, which is the zero time.
func (p *pruner) lockedUntil() (until time.Time, due bool) {
	period := p.lockPeriod()
	until = p.last.LockedUntil
	if until.IsZero() {
		until = p.config.Created.Add(period)
	}
	if until.After(p.start.Add(period)) {
		return time.Time{}, true
	}
	return until, !p.start.Add(period / 3 * 2).Before(until)
}

// extendLocks sees to it that nothing that snapshots need can be deleted, before the run is published. Where two thirds of the period or less are left, it
// locks everything that stays for a whole period from the run's begin on. Else what no run has known to be needed is locked as long as the rest
// (comeBack).
//
// What is not listed was put after the run began, and so is locked by itself for at least as long (docs/design.md, "Object lock").
func (p *pruner) extendLocks(ctx context.Context) error {
	period := p.lockPeriod()
	if period == 0 {
		return nil
	}
	report := &p.report.Locks
	until, due := p.lockedUntil()
	report.Until = until
	p.run.LockedUntil = p.last.LockedUntil
	keys := p.comeBack()
	if due {
		var err error
		if keys, err = p.needLock(ctx); err != nil {
			return err
		}
		until = p.start.Add(period).UTC().Truncate(time.Second)
		p.run.LockedUntil = until
	}
	all, err := p.lockAll(ctx, keys, until)
	if !all {
		p.run.LockedUntil = time.Time{} // which claims nothing, and the next run tries again
	}
	return err
}

// lockAll locks objects, and says whether now everything is that is needed. What the storage refuses is reported.
func (p *pruner) lockAll(ctx context.Context, keys []string, until time.Time) (all bool, err error) {
	report := &p.report.Locks
	if p.o.DryRun {
		report.Extended, report.Until = len(keys), until
		return true, nil
	}
	// One alone first: where the account may not do it, or the storage cannot, one request says so.
	for _, part := range [][]string{keys[:min(1, len(keys))], keys[min(1, len(keys)):]} {
		if err := p.lock(ctx, part, until); err != nil {
			return false, err
		}
		switch {
		case errors.Is(report.Err, storage.ErrNoLock): // the repository was copied from a bucket
			*report = LockReport{}
			return false, nil
		case report.Err != nil:
			report.Refused = len(keys) - report.Extended - len(report.Missing)
			return false, nil
		}
	}
	if len(report.Missing) > 0 {
		slices.Sort(report.Missing)
		return false, nil
	}
	report.Until = until
	return true, nil
}

// needLock lists what is needed, and was there when the run began: all packs but those that go, for who has not committed yet needs his
// too, what finds them, and what opens them.
func (p *pruner) needLock(ctx context.Context) (keys []string, err error) {
	keys = []string{configKey}
	if err := p.store.List(ctx, keysPrefix, func(i storage.Info) error { keys = append(keys, i.Key); return nil }); err != nil {
		return nil, fmt.Errorf("list keys: %w", err)
	}
	going := p.unlocked()
	for key := range p.fresh {
		if !going[key] {
			keys = append(keys, key)
		}
	}
	bases := p.run.Bases
	if p.o.DryRun { // which writes none
		bases = p.last.Bases
	}
	for _, b := range bases {
		keys = append(keys, b.Key)
	}
	for _, v := range p.run.Valid {
		keys = append(keys, v.key())
		if p.marks.pinned[v.ID] {
			keys = append(keys, pinsPrefix+v.ID)
		}
	}
	for sid := range p.sessions {
		if !p.run.resolved[sid] && !slices.Contains(p.nowhere, sessionsPrefix+sid) {
			keys = append(append(keys, sessionsPrefix+sid), p.segments[sid]...)
		}
	}
	keys = append(keys, p.archived(func(Commit) bool { return true })...)
	slices.Sort(keys[1:])
	return keys, nil
}

// archived lists the archive objects that snapshots need which stay, each once.
func (p *pruner) archived(of func(Commit) bool) (keys []string) {
	for _, c := range p.staying {
		if p.o.Archived != nil && c.Err == nil && of(c) {
			keys = append(keys, p.o.Archived(c)...)
		}
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

// comeBack lists what the last run did not know to be needed, and this one does: packs that it condemned, snapshots that it expired, and what
// was archived for a snapshot before that was committed.
func (p *pruner) comeBack() (keys []string) {
	going := p.unlocked()
	for _, key := range p.last.Condemned {
		if _, there := p.fresh[key]; there && !going[key] {
			keys = append(keys, key)
		}
	}
	for _, c := range p.report.Returned {
		keys = append(keys, snapshotsPrefix+c.Cluster+"/"+c.ID)
	}
	return append(keys, p.archived(func(c Commit) bool { return !p.last.valid[snapshotsPrefix+c.Cluster+"/"+c.ID] })...)
}

// unlocked are the packs that no snapshot needs which stays. Where there is damage, what is condemned stays so whether it is needed or not, so only of what the last
// run deletes that is known.
func (p *pruner) unlocked() map[string]bool {
	if len(p.report.Damage) == 0 {
		return p.going()
	}
	swept := map[string]bool{}
	for _, key := range p.last.Sweep {
		swept[key] = true
	}
	return swept
}

// going are the packs that this run or the next one deletes.
func (p *pruner) going() map[string]bool {
	going := map[string]bool{}
	for _, key := range slices.Concat(p.run.Sweep, p.run.Condemned) {
		going[key] = true
	}
	return going
}

// lock locks objects, in any order. Refusals are counted, and the others done all the same.
func (p *pruner) lock(ctx context.Context, keys []string, until time.Time) error {
	report := &p.report.Locks
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(lockers)
	for _, key := range keys {
		g.Go(func() error {
			err := storage.Lock(ctx, p.store, key, until)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				report.Extended++
			case errors.Is(err, storage.ErrNotExist) && mayBeAbsent(key):
			case errors.Is(err, storage.ErrNotExist): // or another run is ahead, which publish finds out
				report.Missing = append(report.Missing, key)
			case errors.Is(err, storage.ErrDenied), errors.Is(err, storage.ErrNoLock):
				report.Refused++
				report.Err = err
			default:
				return fmt.Errorf("extend the lock of %s: %w", key, err)
			}
			return nil
		})
	}
	return g.Wait()
}

// mayBeAbsent says whether it is nothing that an object is gone that was to be locked, or never was there: a pin, which can be taken back, and what is
// archived.
func mayBeAbsent(key string) bool {
	for _, prefix := range []string{configKey, keysPrefix, packsPrefix, basePrefix, snapshotsPrefix, sessionsPrefix, indexPrefix, gcPrefix} {
		if strings.HasPrefix(key, prefix) {
			return false
		}
	}
	return true
}
