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
// no prune has come first, unless the other has said that nothing need be left. It looks at every cluster, and goes on where something cannot be taken back.
func (a *app) stillGood(ctx context.Context, r *repo.Repo, made []repo.Commit) error {
	var u undone
	clusters := map[string][]repo.Commit{}
	for _, commit := range made {
		clusters[commit.Cluster] = append(clusters[commit.Cluster], commit)
	}
	for _, cluster := range slices.Sorted(maps.Keys(clusters)) {
		last, err := a.lastNow(ctx, r, cluster, clusters[cluster])
		if err != nil {
			if told := u.err(); told != nil { // of the clusters before
				a.out.warn("%v", told)
			}
			return err
		}
		if last != "" {
			u.takeBack(ctx, r, "this would leave "+last+" of cluster "+cluster, clusters[cluster], nil)
		}
	}
	return u.err()
}

// lastNow is lastGood of what is there now, without what was forgotten here.
func (a *app) lastNow(ctx context.Context, r *repo.Repo, cluster string, made []repo.Commit) (last string, err error) {
	c, err := loadCatalog(ctx, r, cluster)
	if err != nil {
		return "", err
	}
	if slices.ContainsFunc(c.commits, func(commit repo.Commit) bool { return hidden(commit) && commit.Last }) {
		return "", nil
	}
	var going []*snapshot.Manifest
	for _, commit := range made {
		if m, err := parseCommit(commit); err == nil {
			going = append(going, m)
		}
	}
	gone := &catalog{commits: append(slices.Clone(made), c.commits...), snapshots: c.snapshots}
	return a.lastGood(ctx, r, gone, going, c.snapshots)
}
