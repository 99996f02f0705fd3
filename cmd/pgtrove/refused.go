package main

import (
	"fmt"
	"slices"

	"github.com/pgtrove/pgtrove/keys"
	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/snapshot"
)

// refusedSnapshot is one that is not what it claims to be. Nothing restores it, builds upon it or counts it, and no prune removes it: a person shall look
// at it first, and then forgets it.
type refusedSnapshot struct {
	id, cluster string
	err         error // says who claimed what
}

// isRefused says whether a snapshot is not what it claims to be, which is no damage.
func isRefused(c repo.Commit) bool { return c.Refused() }

// unrefused are the commits that are what they claim to be, or damaged.
func unrefused(commits []repo.Commit) []repo.Commit {
	return slices.DeleteFunc(slices.Clone(commits), isRefused)
}

type refusedJSON struct {
	Type    string `json:"type"` // "refused"
	ID      string `json:"id"`
	Cluster string `json:"cluster"`
	Error   string `json:"error"`
}

// warnRefused tells of refused snapshots where a command goes on without them.
func (a *app) warnRefused(c *catalog) {
	for _, s := range c.refused {
		a.out.warn("refused: %v", s.err)
	}
}

// showRefused tells of refused snapshots where snapshots are the result. Its error is that of writing it.
func (a *app) showRefused(c *catalog) error {
	if !a.settings.JSON {
		a.warnRefused(c)
		return nil
	}
	for _, s := range c.refused {
		if err := a.out.object(refusedJSON{"refused", s.id, s.cluster, s.err.Error()}); err != nil {
			return err
		}
	}
	return nil
}

// findRefused returns the refused snapshot that a person means, by its ID, or the beginning or end of one; nil if none.
func (c *catalog) findRefused(name string) *refusedSnapshot {
	var all []*snapshot.Manifest
	for _, s := range c.refused {
		all = append(all, &snapshot.Manifest{ID: s.id, Cluster: s.cluster})
	}
	m, err := snapshot.Find(all, name)
	if err != nil || name == snapshot.Latest {
		return nil
	}
	i := slices.IndexFunc(c.refused, func(s refusedSnapshot) bool { return s.id == m.ID })
	return &c.refused[i]
}

// refusal is the error of a command that has shown the refused snapshots; nil if there are none.
func (c *catalog) refusal() error {
	if len(c.refused) == 0 {
		return nil
	}
	err := fmt.Errorf("%s refused, such as %s of cluster %s", showCount(int64(len(c.refused)), "snapshot is", "snapshots are"), c.refused[0].id, c.refused[0].cluster)
	return withHint(classified{err, keys.ErrOrigin}, "find out who wrote it: that host may be in wrong hands (`pgtrove key remove`). Then `pgtrove forget %s`", c.refused[0].id)
}
