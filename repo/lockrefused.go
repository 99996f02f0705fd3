package repo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/pgtrove/pgtrove/keys"
	"github.com/pgtrove/pgtrove/storage"
)

// isRefusal says whether err is why a run must not go on, while the storage is well. It may be so for as long as nobody sees to it.
func isRefusal(err error) bool {
	var blocked *BlockedError
	var vanished *VanishedError
	var much *TooMuchError
	var times *TimesError
	var broken *IndexError
	if errors.Is(err, keys.ErrRole) { // another trust group has come since this host began to prune
		return true
	}
	return errors.As(err, &blocked) || errors.As(err, &vanished) || errors.As(err, &much) || errors.As(err, &times) || errors.As(err, &broken)
}

// afterRefusal keeps what may be needed locked where a run is refused, for locks must not run out only because each night some host states a run
// of long ago. It gives what Prune returns: report, or where there is none one that has the locks, and err. That something could not be locked stands in the report.
//
// The run is not published, so nothing records until when it has locked: the next one that is refused asks for each object again.
func (p *pruner) afterRefusal(ctx context.Context, report *PruneReport, err error) (*PruneReport, error) {
	if !isRefusal(err) || p.lockPeriod() == 0 {
		return report, err
	}
	locks := &p.report.Locks
	until, due := p.lockedUntil()
	*locks = LockReport{Until: until}
	if due {
		keys, lockErr := p.mayBeNeeded(ctx)
		if lockErr == nil {
			_, lockErr = p.lockAll(ctx, keys, p.start.Add(p.lockPeriod()).UTC().Truncate(time.Second))
		}
		if lockErr == nil && len(locks.Missing) > 0 {
			lockErr = p.unlessOvertaken(ctx)
		}
		if lockErr != nil {
			locks.Err, locks.Refused = lockErr, max(1, len(keys)-locks.Extended-len(locks.Missing))
		}
	}
	if report == nil {
		report = &PruneReport{Locks: *locks}
	}
	return report, err
}

// unlessOvertaken forgets what is missing if another run has gone on meanwhile, and deleted it.
func (p *pruner) unlessOvertaken(ctx context.Context) error {
	newest, err := p.newestNumber(ctx)
	if err == nil && newest != p.last.Number {
		p.report.Locks.Missing = nil
	}
	return err
}

// mayBeNeeded lists all that may be needed of what was there when the run began, without an index to tell: every pack but those that the last
// run deletes, what finds them as of that run, and all that counts.
func (p *pruner) mayBeNeeded(ctx context.Context) (keys []string, err error) {
	keys = []string{configKey}
	for _, prefix := range []string{keysPrefix, pinsPrefix} {
		if err := p.store.List(ctx, prefix, func(i storage.Info) error { keys = append(keys, i.Key); return nil }); err != nil {
			return nil, fmt.Errorf("list %s: %w", prefix, err)
		}
	}
	going := map[string]bool{}
	for _, key := range p.last.Sweep {
		going[key] = true
	}
	for key := range p.packs {
		if !going[key] {
			keys = append(keys, key)
		}
	}
	for _, b := range p.last.Bases {
		keys = append(keys, b.Key)
	}
	if p.last.Number > 0 {
		keys = append(keys, gcKey(p.last.Number))
	}
	for sid := range p.began {
		if !p.last.resolved[sid] {
			keys = append(append(keys, sessionsPrefix+sid), p.segments[sid]...)
		}
	}
	outcomes, archived, err := p.mayCount(ctx)
	if err != nil {
		return nil, err
	}
	keys = slices.Concat(keys, outcomes, archived)
	slices.Sort(keys[1:])
	return slices.Compact(keys), nil
}

// mayCount lists the outcomes that count or may count again, and the archive objects that those of them need which are snapshots.
func (p *pruner) mayCount(ctx context.Context) (outcomes, archived []string, err error) {
	sessions := map[string]bool{}
	for sid := range p.began {
		sessions[sid] = true
	}
	if err := p.store.List(ctx, snapshotsPrefix, func(i storage.Info) error {
		if p.last.counts(i.Key, sessions) || p.last.expired[i.Key] {
			outcomes = append(outcomes, i.Key)
		}
		return nil
	}); err != nil {
		return nil, nil, fmt.Errorf("list snapshots: %w", err)
	}
	if p.o.Archived == nil {
		return outcomes, nil, nil
	}
	fetch := func(ctx context.Context, i int) (*outcome, error) {
		o, err := p.outcome(ctx, outcomes[i])
		if isLoss(err) || isForeign(err) || errors.Is(err, storage.ErrNotExist) {
			return nil, nil // a run that is not refused tells
		}
		return o, err
	}
	err = inOrder(ctx, len(outcomes), fetch, func(i int, o *outcome) error {
		if o != nil && o.Outcome == outcomeSnapshot {
			key := outcomes[i]
			archived = append(archived, p.o.Archived(Commit{Cluster: outcomeCluster(key), ID: outcomeSession(key), Manifest: o.Manifest})...)
		}
		return nil
	})
	return outcomes, archived, err
}
