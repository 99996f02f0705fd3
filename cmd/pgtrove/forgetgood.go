package main

import (
	"context"
	"maps"
	"slices"

	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/snapshot"
)

// whole says of each snapshot whether all that it needs is there.
func (a *app) whole(ctx context.Context, r *repo.Repo, commits []repo.Commit) ([]bool, error) {
	return r.Whole(ctx, a.cacheDir(), commits, (&pruneRun{app: a, repo: r}).mark)
}

// anyGood says whether one of the snapshots can be restored: it has its WAL, and lacks nothing. It begins with the last, which is good as a rule.
func (a *app) anyGood(ctx context.Context, r *repo.Repo, c *catalog, snapshots []*snapshot.Manifest) (bool, error) {
	found, err := walStates(ctx, r, snapshots)
	if err != nil {
		return false, err
	}
	for i, m := range slices.Backward(snapshots) {
		if found[i] != snapshot.WALComplete {
			continue
		}
		at := slices.IndexFunc(c.commits, func(commit repo.Commit) bool { return commit.ID == m.ID && commit.Cluster == m.Cluster })
		whole, err := a.whole(ctx, r, c.commits[at:at+1])
		if err != nil || whole[0] {
			return whole != nil && whole[0], err
		}
	}
	return false, nil
}

// lastGood says what is left if some snapshots of a cluster go: "" if it is one that can be restored, or was none before.
func (a *app) lastGood(ctx context.Context, r *repo.Repo, c *catalog, going, left []*snapshot.Manifest) (string, error) {
	if len(left) == 0 {
		return "no snapshot", nil
	}
	good, err := a.anyGood(ctx, r, c, left)
	if err != nil || good {
		return "", err
	}
	if good, err = a.anyGood(ctx, r, c, going); err != nil || !good {
		return "", err
	}
	return "no snapshot that can be restored", nil
}

// stillGood looks again after requests were made: somebody else may have forgotten at the same time what these counted on. Then they are taken back, as far as
// no prune has come first, unless the other has said that nothing need be left.
func (a *app) stillGood(ctx context.Context, r *repo.Repo, made []repo.Commit) error {
	clusters := map[string][]repo.Commit{}
	for _, commit := range made {
		clusters[commit.Cluster] = append(clusters[commit.Cluster], commit)
	}
	for _, cluster := range slices.Sorted(maps.Keys(clusters)) {
		c, err := loadCatalog(ctx, r, cluster)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(c.commits, func(commit repo.Commit) bool { return hidden(commit) && commit.Last }) {
			continue
		}
		var going []*snapshot.Manifest
		for _, commit := range clusters[cluster] {
			if m, err := parseCommit(commit); err == nil {
				going = append(going, m)
			}
		}
		gone := &catalog{commits: clusters[cluster], snapshots: c.snapshots}
		gone.commits = append(slices.Clone(gone.commits), c.commits...)
		last, err := a.lastGood(ctx, r, gone, going, c.snapshots)
		if err != nil {
			return err
		}
		if last == "" {
			continue
		}
		for _, commit := range clusters[cluster] {
			if err := r.Unforget(ctx, commit.ID); err != nil {
				return withHint(refused("forget: somebody else has forgotten snapshots of cluster %s at the same time, which leaves %s of it; and this could not be taken back: %w", cluster, last, err),
					"`pgtrove pin %s` brings it back", commit.ID)
			}
		}
		return withHint(refused("forget: somebody else has forgotten snapshots of cluster %s at the same time, and together that would leave %s of it; what was asked for here is taken back", cluster, last),
			"`pgtrove snapshots` shows what is left; let one host forget")
	}
	return nil
}
