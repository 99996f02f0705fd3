package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/snapshot"
)

func newForgetCommand(a *app) *cobra.Command {
	dryRun, prune := false, false
	c := &cobra.Command{
		Use:   "forget SNAPSHOT...",
		Short: "Hide snapshots, for the next prune to remove",
		Long: `Forget snapshots, by their IDs or the beginnings or ends of these. From now on no command shows or uses them; the next
prune removes them, and the one after it frees the space of what no other snapshot needs. Until that next prune,
pgtrove pin brings a snapshot back. All names are looked up before anything is changed.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError{err: errors.New("SNAPSHOT is missing"), command: cmd.CommandPath()}
			}
			return nil
		},
	}
	c.Flags().BoolVar(&dryRun, "dry-run", false, "only say what would be forgotten")
	c.Flags().BoolVar(&prune, "prune", false, "prune afterwards, as pgtrove prune does without flags")
	c.RunE = a.run(func(ctx context.Context, args []string) error {
		if slices.Contains(args, snapshot.Latest) {
			return usageError{err: fmt.Errorf("forget %s: run twice it would forget two snapshots", snapshot.Latest),
				hint: "give the snapshot's ID; `pgtrove snapshots` shows it"}
		}
		r, err := a.openRepository(ctx)
		if err != nil {
			return err
		}
		if err := a.forget(ctx, r, args, dryRun); err != nil {
			return err
		}
		switch {
		case dryRun && prune:
			a.out.info("nothing was changed; `pgtrove prune --dry-run` shows what a prune would do now")
		case dryRun:
			a.out.info("nothing was changed")
		case prune:
			a.out.info("pruning; the space is freed by the next prune")
			return a.prune(ctx, r, defaultPruneOptions())
		default:
			a.out.info("gone with the next `pgtrove prune`, and the space is freed by the one after; until then `pgtrove pin` brings a snapshot back")
		}
		return nil
	})
	return c
}

type forgetJSON struct {
	Type    string `json:"type"`
	ID      string `json:"id"`
	Cluster string `json:"cluster"`
	Already bool   `json:"already"` // it was forgotten before
	DryRun  bool   `json:"dry_run"`
}

// forget marks the snapshots that names stand for.
func (a *app) forget(ctx context.Context, r *repo.Repo, names []string, dryRun bool) error {
	c, err := loadCatalog(ctx, r, a.settings.Cluster)
	if err != nil {
		return err
	}
	var chosen []repo.Commit
	for _, name := range names {
		commit, err := findListed(ctx, r, c, name)
		if err != nil {
			return err
		}
		if commit.Pinned {
			return pinnedError(commit.ID)
		}
		if !slices.ContainsFunc(chosen, func(other repo.Commit) bool { return other.ID == commit.ID }) {
			chosen = append(chosen, commit)
		}
	}
	for _, commit := range chosen {
		if !dryRun && !commit.Forgotten {
			if err := r.Forget(ctx, commit.ID); errors.Is(err, repo.ErrPinned) { // since we looked
				return pinnedError(commit.ID)
			} else if err != nil {
				return err
			}
		}
		if err := a.showForgotten(commit, dryRun); err != nil {
			return err
		}
	}
	a.tellLast(c, chosen)
	return nil
}

// findListed finds a snapshot also if it is only known from what the last prune listed, then by its full ID only: by forgetting it, after
// unpinning it if it is pinned, a person says that its loss is no surprise.
func findListed(ctx context.Context, r *repo.Repo, c *catalog, name string) (repo.Commit, error) {
	commit, err := c.find(name)
	if !errors.Is(err, snapshot.ErrNotFound) {
		return commit, err
	}
	listed, listErr := r.LastValid(ctx)
	if listErr != nil {
		return commit, listErr
	}
	for _, vanished := range listed {
		if vanished.ID == name {
			return vanished, nil
		}
	}
	return commit, err
}

func pinnedError(id string) error {
	return withHint(classified{fmt.Errorf("forget %s: it is pinned; nothing was changed", id), repo.ErrPinned}, "`pgtrove unpin %s`, if nobody needs it any more", id)
}

func (a *app) showForgotten(c repo.Commit, dryRun bool) error {
	if a.settings.JSON {
		return a.out.object(forgetJSON{"forget", c.ID, c.Cluster, c.Forgotten, dryRun})
	}
	if a.settings.Quiet {
		return nil
	}
	verb := "forgot"
	switch {
	case c.Forgotten:
		verb = "was forgotten before:"
	case dryRun:
		verb = "would forget"
	}
	taken := ""
	if m, err := parseCommit(c); err == nil {
		taken = ", taken " + showTime(m.Window.StopTime)
	}
	return a.out.print("%s snapshot %s of cluster %s%s\n", verb, c.ID, c.Cluster, taken)
}

// tellLast warns where nothing is left of a cluster.
func (a *app) tellLast(c *catalog, chosen []repo.Commit) {
	left := map[string]int{}
	for _, m := range c.snapshots {
		left[m.Cluster]++
	}
	for _, commit := range chosen {
		if !slices.ContainsFunc(c.snapshots, func(m *snapshot.Manifest) bool { return m.ID == commit.ID }) {
			continue
		}
		if left[commit.Cluster]--; left[commit.Cluster] == 0 {
			a.out.warn("this leaves no snapshot of cluster %s; its archived WAL alone restores nothing", commit.Cluster)
		}
	}
}
