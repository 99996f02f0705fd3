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

func newPinCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "pin SNAPSHOT",
		Short: "Keep a snapshot, whatever else is asked for",
		Long: `Pin a snapshot, given by its ID or the beginning or end of it, or as latest: nothing removes it until pgtrove unpin. One
that was forgotten comes back, as long as no prune has removed it. One that a prune has ended, but not yet removed, as it does with the
next run and not while anything is damaged, comes back when given by its full ID.`,
		Args: exactly("SNAPSHOT"),
		RunE: a.run(func(ctx context.Context, args []string) error { return a.pin(ctx, args[0]) }),
	}
}

func newUnpinCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "unpin SNAPSHOT",
		Short: "Take a pin back",
		Long: `Take back what pgtrove pin did. Nothing else happens to the snapshot, unless it was forgotten before it was pinned: then
it is hidden again, and the next prune removes it.`,
		Args: exactly("SNAPSHOT"),
		RunE: a.run(func(ctx context.Context, args []string) error { return a.unpin(ctx, args[0]) }),
	}
}

type pinJSON struct {
	Type      string `json:"type"`
	ID        string `json:"id"`
	Cluster   string `json:"cluster"`
	Pinned    bool   `json:"pinned"`
	Forgotten bool   `json:"forgotten"` // so that only the pin keeps it, or kept it
}

// findPinnable loads the catalog and finds the snapshot's name where name is latest.
func (a *app) findPinnable(ctx context.Context, r *repo.Repo, name string) (*catalog, string, error) {
	c, err := loadCatalog(ctx, r, a.settings.Cluster)
	if err != nil || name != snapshot.Latest {
		return c, name, err
	}
	m, err := c.latest(a.settings.clusterName())
	if err != nil {
		return nil, "", err
	}
	return c, m.ID, nil
}

func (a *app) pin(ctx context.Context, name string) error {
	r, err := a.openRepository(ctx)
	if err != nil {
		return err
	}
	all, name, err := a.findPinnable(ctx, r, name)
	if err != nil {
		return err
	}
	c, err := all.find(name)
	if errors.Is(err, snapshot.ErrNotFound) {
		return a.pinExpired(ctx, r, name, err)
	}
	if err != nil {
		return err
	}
	if err := r.Pin(ctx, c.ID); err != nil {
		return err
	}
	if err := a.showPin(c, true); err != nil {
		return err
	}
	if c.Forgotten && !c.Pinned {
		a.out.info("it was forgotten, and is back")
	}
	return nil
}

// pinExpired pins a snapshot that the last prune has ended, given by its full ID. notFound is the error if there is none.
func (a *app) pinExpired(ctx context.Context, r *repo.Repo, id string, notFound error) error {
	ended, err := r.LastExpired(ctx)
	if err != nil {
		return err
	}
	at := slices.IndexFunc(ended, func(c repo.Commit) bool {
		return c.ID == id && (a.settings.Cluster == "" || a.settings.Cluster == c.Cluster)
	})
	if at < 0 {
		return notFound
	}
	if err := r.PinExpired(ctx, id); err != nil {
		return err
	}
	c := ended[at]
	c.Forgotten = true
	if err := a.showPin(c, true); err != nil {
		return err
	}
	a.out.warn("a prune has ended snapshot %s: the next prune that begins now brings it back; one that goes on already may still remove it", id)
	return nil
}

func (a *app) unpin(ctx context.Context, name string) error {
	r, err := a.openRepository(ctx)
	if err != nil {
		return err
	}
	all, name, err := a.findPinnable(ctx, r, name)
	if err != nil {
		return err
	}
	c, err := findListed(ctx, r, all, name)
	if err != nil {
		return err
	}
	switch err := r.Unpin(ctx, c.ID); {
	case errors.Is(err, repo.ErrNotCounted):
		a.out.info("snapshot %s is not pinned", c.ID)
	case err != nil:
		return err
	}
	if err := a.showPin(c, false); err != nil {
		return err
	}
	if c.Forgotten {
		a.out.warn("snapshot %s was forgotten before it was pinned, so it is hidden again and the next prune removes it", c.ID)
	}
	return nil
}

func (a *app) showPin(c repo.Commit, pinned bool) error {
	done := "unpinned"
	if pinned {
		done = "pinned"
	}
	switch {
	case a.settings.JSON:
		kind := "unpin"
		if pinned {
			kind = "pin"
		}
		return a.out.object(pinJSON{kind, c.ID, c.Cluster, pinned, c.Forgotten})
	case a.settings.Quiet:
		return nil
	}
	return a.out.print("%s\n", fmt.Sprintf("%s snapshot %s of cluster %s", done, c.ID, c.Cluster))
}
