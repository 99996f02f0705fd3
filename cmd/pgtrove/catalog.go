package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/snapshot"
	"github.com/pgtrove/pgtrove/walarchive"
)

// catalog is what a repository holds of snapshots.
type catalog struct {
	snapshots []*snapshot.Manifest // by stop time; without those that are forgotten
	damaged   []error              // of commits that do not open, each naming its object; forgotten ones are no loss
	refused   []refusedSnapshot    // that claim to be somebody's who did not make them, or whose key was removed; not those that are forgotten
	commits   []repo.Commit        // all of them, those that are forgotten or damaged too, by cluster and ID
}

// loadCatalog reads the manifests of one cluster, or of all where cluster is "".
func loadCatalog(ctx context.Context, r *repo.Repo, cluster string) (*catalog, error) {
	c := &catalog{}
	err := r.AllCommits(ctx, cluster, func(commit repo.Commit) error {
		c.commits = append(c.commits, commit)
		if hidden(commit) {
			return nil
		}
		m, err := parseCommit(commit)
		switch {
		case isRefused(commit):
			c.refused = append(c.refused, refusedSnapshot{commit.ID, commit.Cluster, err})
			return nil
		case err != nil:
			c.damaged = append(c.damaged, err)
			return nil
		}
		c.snapshots = append(c.snapshots, m)
		return nil
	})
	if err != nil {
		return nil, err
	}
	snapshot.SortByStop(c.snapshots)
	return c, nil
}

// hidden says whether a snapshot is forgotten: only a pin brings it back, and the next prune removes it.
func hidden(c repo.Commit) bool { return c.Forgotten && !c.Pinned }

// lookedAt is how many of the newest snapshots newestSnapshot reads at least: one that began earlier may have ended later.
const lookedAt = 3

// newestSnapshot returns, of the snapshots of a cluster that wants says yes to, the one that ended last; nil if there is none. It reads only the
// sessions that began last, all those of one second together, since their names do not tell which came first.
func newestSnapshot(ctx context.Context, r *repo.Repo, cluster string, wants func(*snapshot.Manifest) bool) (*snapshot.Manifest, error) {
	var found []*snapshot.Manifest
	second, read := "", 0
	err := r.NewestCommits(ctx, cluster, func(c repo.Commit) (bool, error) {
		began, _, _ := strings.Cut(c.ID, "-")
		if len(found) > 0 && read >= lookedAt && began != second {
			return true, nil
		}
		second = began
		read++
		if m, err := parseCommit(c); err == nil && wants(m) {
			found = append(found, m)
		}
		return false, nil
	})
	if err != nil || len(found) == 0 {
		return nil, err
	}
	snapshot.SortByStop(found)
	return found[len(found)-1], nil
}

// parseCommit makes sure that the manifest stands where it says.
func parseCommit(c repo.Commit) (*snapshot.Manifest, error) {
	if c.Err != nil {
		return nil, fmt.Errorf("snapshot %s of cluster %s: %w", c.ID, c.Cluster, c.Err)
	}
	m, err := snapshot.ParseManifest(c.Manifest)
	if err != nil {
		return nil, fmt.Errorf("snapshot %s of cluster %s: %w", c.ID, c.Cluster, err)
	}
	if m.ID != c.ID || m.Cluster != c.Cluster {
		return nil, fmt.Errorf("%w: in the place of snapshot %s of cluster %s stands %s of %s", repo.ErrDamaged, c.ID, c.Cluster, m.ID, m.Cluster)
	}
	return m, nil
}

// findShown returns the snapshot that a person means, of those that are not forgotten.
func (c *catalog) findShown(name string) (*snapshot.Manifest, error) {
	m, err := snapshot.Find(c.snapshots, name)
	if err == nil {
		return m, nil
	}
	err = fmt.Errorf("find snapshot: %w", err)
	if s := c.findRefused(name); s != nil {
		return nil, withHint(s.err, "find out who wrote it; `pgtrove forget %s` removes it", s.id)
	}
	if gone, lookErr := snapshot.Find(c.stubs(true), name); lookErr == nil && errors.Is(err, snapshot.ErrNotFound) && name != snapshot.Latest {
		return nil, withHint(err, "it is forgotten: until the next prune `pgtrove pin %s` brings it back", gone.ID)
	}
	return nil, err
}

// find returns the commit that a person means: by its ID, or the beginning or end of one. Unlike findShown it knows damaged
// snapshots, and those that are forgotten, unless the name fits one that is not.
func (c *catalog) find(name string) (repo.Commit, error) {
	m, err := snapshot.Find(c.stubs(false), name)
	if errors.Is(err, snapshot.ErrNotFound) {
		m, err = snapshot.Find(c.stubs(true), name)
	}
	if err != nil {
		return repo.Commit{}, fmt.Errorf("find snapshot: %w", err)
	}
	i := slices.IndexFunc(c.commits, func(commit repo.Commit) bool { return commit.ID == m.ID })
	return c.commits[i], nil
}

// stubs stand for all snapshots that are forgotten, or for all that are not: damaged ones have no manifest.
func (c *catalog) stubs(forgotten bool) (all []*snapshot.Manifest) {
	for _, commit := range c.commits {
		if hidden(commit) == forgotten {
			all = append(all, &snapshot.Manifest{ID: commit.ID, Cluster: commit.Cluster})
		}
	}
	return all
}

// stillCounts says whether a snapshot, given by its ID, is still there as of now: forgotten or not, no prune has removed it.
func stillCounts(ctx context.Context, r *repo.Repo, id string) (bool, error) {
	found := false
	err := r.AllCommits(ctx, "", func(c repo.Commit) error {
		found = found || c.ID == id
		return nil
	})
	return found, err
}

// latest returns the newest snapshot of a cluster.
func (c *catalog) latest(cluster string) (*snapshot.Manifest, error) {
	var own []*snapshot.Manifest
	for _, m := range c.snapshots {
		if m.Cluster == cluster {
			own = append(own, m)
		}
	}
	m, err := snapshot.Find(own, snapshot.Latest)
	if err != nil {
		return nil, fmt.Errorf("find the latest snapshot of cluster %s: %w", cluster, err)
	}
	return m, nil
}

// pinned says which snapshots are pinned, by ID.
func (c *catalog) pinned() map[string]bool {
	pins := map[string]bool{}
	for _, commit := range c.commits {
		if commit.Pinned {
			pins[commit.ID] = true
		}
	}
	return pins
}

// narrowed says which snapshots keep only the WAL that leads to their own moment, by ID.
func (c *catalog) narrowed() map[string]bool {
	narrow := map[string]bool{}
	for _, commit := range c.commits {
		if commit.Narrowed {
			narrow[commit.ID] = true
		}
	}
	return narrow
}

// walSnapshots are the snapshots of an archive, as it knows them.
func (c *catalog) walSnapshots(k archiveKey) (own []walarchive.Snapshot) {
	narrowed := c.narrowed()
	for _, m := range c.snapshots {
		if archiveOf(m) == k {
			s := walSnapshot(m)
			s.Narrow = narrowed[m.ID]
			own = append(own, s)
		}
	}
	return own
}

// forgotten counts the snapshots that are hidden until a prune removes them.
func (c *catalog) forgotten() (n int64) {
	for _, commit := range c.commits {
		if hidden(commit) {
			n++
		}
	}
	return n
}
