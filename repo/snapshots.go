package repo

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/pgtrove/pgtrove/storage"
)

// Commit is the payload of a committed session.
type Commit struct {
	Cluster   string
	ID        string
	Group     string // trust group that made it; "" is the first
	Manifest  []byte
	Err       error // the object is there but does not open or parse: Manifest is nil; or it is refused (Refused)
	Pinned    bool  // nothing removes it
	Forgotten bool  // a person asked for its removal; the next prune sees to it, unless it is pinned
	Last      bool  // and that even if its cluster has no other
	Narrowed  bool  // of the archived WAL only what leads to its own moment is kept on its behalf; so a person has asked
}

// Commits calls fn for every committed session of a cluster, or of all clusters where cluster is "", in order of
// name: by cluster, and in each by the time of the session. Which count docs/protocol.md says; those that are forgotten and not pinned are
// left out, and so are those of other trust groups than the opened key's. A commit that is damaged or refused is reported, not passed over. fn is called by one goroutine at a time, not the caller's, and its error
// is returned as it is.
func (r *Repo) Commits(ctx context.Context, cluster string, fn func(Commit) error) error {
	return r.AllCommits(ctx, cluster, func(c Commit) error {
		if c.Forgotten && !c.Pinned {
			return nil
		}
		return fn(c)
	})
}

// AllCommits is Commits, with those that are forgotten but not yet removed.
func (r *Repo) AllCommits(ctx context.Context, cluster string, fn func(Commit) error) error {
	all, outcomes, err := r.counting(ctx, cluster, false)
	if err != nil {
		return err
	}
	fetch := func(ctx context.Context, i int) (bool, error) { return r.fill(ctx, outcomes[i], &all[i]) }
	return inOrder(ctx, len(all), fetch, func(i int, there bool) error {
		if !there {
			return nil
		}
		return fn(all[i])
	})
}

// NewestCommits calls fn for the commits of a cluster as Commits does, the newest session first, and reads no more of them when fn says that
// it has seen enough. It is for who wants to build upon one, so only those of the bundle's own trust group are given, also to an owner.
func (r *Repo) NewestCommits(ctx context.Context, cluster string, fn func(Commit) (enough bool, err error)) error {
	all, outcomes, err := r.counting(ctx, cluster, false)
	if err != nil {
		return err
	}
	for i := len(all) - 1; i >= 0; i-- {
		if all[i].Forgotten && !all[i].Pinned {
			continue
		}
		there, err := r.fill(ctx, outcomes[i], &all[i])
		if err != nil {
			return err
		}
		if !there || all[i].Err == nil && all[i].Group != r.bundle.Group {
			continue
		}
		if enough, err := fn(all[i]); enough || err != nil {
			return err
		}
	}
	return nil
}

// counted is an outcome that counts, as far as names tell.
type counted struct {
	key  string
	open bool // no run has looked at it yet: whether its session announced it there only the announcement says
}

// counting gives the snapshots that count, by name, and their outcomes, of which none was read yet: some may be no snapshots, or not where they belong. ended: also
// those that the newest run has ended, and that a pin could bring back.
func (r *Repo) counting(ctx context.Context, cluster string, ended bool) (all []Commit, found []counted, err error) {
	outcomes, err := r.outcomes(ctx)
	if err != nil {
		return nil, nil, err
	}
	sessions, err := r.sessions(ctx)
	if err != nil {
		return nil, nil, err
	}
	// In this order: a prune deletes the session of a snapshot that it lists as valid, after it has said so.
	run, err := r.newestRun(ctx)
	if err != nil {
		return nil, nil, err
	}
	marks, err := r.marks(ctx)
	if err != nil {
		return nil, nil, err
	}
	keys := slices.Concat(slices.Collect(maps.Values(outcomes))...)
	slices.Sort(keys)
	for _, key := range keys {
		where, sid := outcomeCluster(key), outcomeSession(key)
		if where == pruneCluster || cluster != "" && where != cluster {
			continue
		}
		if run.Number == 0 && !sessions[sid] {
			if err := r.showsLostRuns(ctx, key); err != nil {
				return nil, nil, err
			}
		}
		// Expired and pinned: a pin that the run did not see. The next one will.
		if run.counts(key, sessions) || run.expired[key] && (ended || marks.pinned[sid]) {
			all = append(all, Commit{Cluster: where, ID: sid, Pinned: marks.pinned[sid], Forgotten: marks.forgotten[sid], Last: marks.last[sid],
				Narrowed: run.narrow[sid] || marks.narrowed[sid]})
			found = append(found, counted{key: key, open: !run.valid[key] && !run.expired[key]})
		}
	}
	return all, found, nil
}

// showsLostRuns looks at an outcome whose session is not there although no prune has run: errRunsLost, unless it may be that there never was a session. Anybody
// with storage rights can create an object that opens for nobody.
func (r *Repo) showsLostRuns(ctx context.Context, key string) error {
	_, err := r.outcome(ctx, key)
	switch {
	case err == nil:
		return errRunsLost(key)
	case r.signed() && unbelievable(err) || errors.Is(err, storage.ErrNotExist):
		return nil
	case unbelievable(err):
		return errRunsLost(key)
	}
	return err
}

// errRunsLost says that prunes have run, and that what the last one decided is gone: before the first one, no session is deleted.
func errRunsLost(key string) error {
	return fmt.Errorf("%w: the session of %s is gone, so a prune has run, but nothing under %s says what it decided: put its newest object back", ErrDamaged, key, gcPrefix)
}

// fill reads a commit. false: it is none, does not belong there, was removed since, or is another trust group's.
func (r *Repo) fill(ctx context.Context, at counted, c *Commit) (bool, error) {
	if at.open {
		if own, err := r.isAnnounced(ctx, at.key); err != nil || !own {
			return false, err
		}
	}
	kind, err := r.take(ctx, at.key, c)
	if errors.Is(err, storage.ErrNotExist) || isForeign(err) {
		return false, nil
	}
	return c.Err != nil || kind == outcomeSnapshot, err
}
