package main

import (
	"context"
	"fmt"

	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/snapshot"
)

// catalog is what a repository holds of snapshots.
type catalog struct {
	snapshots []*snapshot.Manifest // by stop time
	damaged   []error              // of commits that do not open, each naming its object
}

// loadCatalog reads the manifests of one cluster, or of all where cluster is "".
func loadCatalog(ctx context.Context, r *repo.Repo, cluster string) (*catalog, error) {
	c := &catalog{}
	err := r.Commits(ctx, cluster, func(commit repo.Commit) error {
		m, err := parseCommit(commit)
		if err != nil {
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
