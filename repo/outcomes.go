package repo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/pgtrove/pgtrove/storage"
)

// outcomeSession is the session whose outcome stands under key.
func outcomeSession(key string) string { return key[strings.LastIndexByte(key, '/')+1:] }

// outcomeCluster is the cluster in the name of an outcome.
func outcomeCluster(key string) string {
	cluster, _, _ := strings.Cut(strings.TrimPrefix(key, snapshotsPrefix), "/")
	return cluster
}

// outcomes lists what sessions ended as: keys by the session's ID. There is one for each session, unless a host has created objects for
// sessions that are not its own, which its credentials let it do under its own cluster.
func (r *Repo) outcomes(ctx context.Context) (map[string][]string, error) {
	all := map[string][]string{}
	if err := r.store.List(ctx, snapshotsPrefix, func(i storage.Info) error {
		sid := outcomeSession(i.Key)
		all[sid] = append(all[sid], i.Key)
		return nil
	}); err != nil {
		return nil, fmt.Errorf("list snapshots: %w", err)
	}
	return all, nil
}

// ownOutcome gives the one of several keys that is the session's own: in the cluster that it announced. "" where there is none, or
// where the session is gone.
func (r *Repo) ownOutcome(ctx context.Context, sid string, keys []string) (string, error) {
	if len(keys) == 0 {
		return "", nil
	}
	a, err := r.announcement(ctx, sid)
	switch {
	case errors.Is(err, storage.ErrNotExist), errors.Is(err, errNowhere):
		return "", nil
	case isLoss(err):
		return keys[0], nil // who cannot read the announcement takes what there is
	case err != nil:
		return "", err
	}
	key := snapshotsPrefix + a.Cluster + "/" + sid
	if slices.Contains(keys, key) {
		return key, nil
	}
	return "", nil
}

// isAnnounced says whether an outcome that no run has looked at yet stands where its session announced that it would. A host may create others under its own cluster.
func (r *Repo) isAnnounced(ctx context.Context, key string) (bool, error) {
	a, err := r.announcement(ctx, outcomeSession(key))
	switch {
	case errors.Is(err, storage.ErrNotExist): // a run has looked since
		run, err := r.newestRun(ctx)
		return err == nil && run.valid[key], err
	case errors.Is(err, errNowhere):
		return false, nil
	case isLoss(err):
		return true, nil
	case err != nil:
		return false, err
	}
	return a.Cluster == outcomeCluster(key), nil
}

// outcome reads the one under key. Whether a snapshot is refused for who signed it refusal says. Errors are those of get.
func (r *Repo) outcome(ctx context.Context, key string) (*outcome, error) {
	b, err := r.getOpened(ctx, kindOutcome, key)
	if err != nil {
		return nil, err
	}
	o := outcome{by: b.by, group: b.group, common: b.common, sum: b.sum}
	if err := json.Unmarshal(b.plain, &o); err != nil {
		return nil, fmt.Errorf("%w: %s is not an outcome", ErrDamaged, key)
	}
	if o.Version != 1 {
		return nil, fmt.Errorf("%w: %s has version %d", ErrVersion, key, o.Version)
	}
	return &o, nil
}
