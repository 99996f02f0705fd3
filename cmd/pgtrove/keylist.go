package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pgtrove/pgtrove/keys"
)

func newKeyListCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the keys of the repository",
		Long: `List the keys of the repository: who has one, what its role lets it do, the group of hosts with which it shares what it stores, and
the clusters that it may write to. A star marks the one that is in use. Every key may list them all.`,
		Args: exactly(),
		RunE: a.run(func(ctx context.Context, _ []string) error { return a.keyList(ctx) }),
	}
}

func (a *app) keyList(ctx context.Context) error {
	r, err := a.openRepository(ctx)
	if err != nil {
		return err
	}
	all, err := r.Keys(ctx)
	if err != nil {
		return err
	}
	t := newTable("", "ID", "NAME", "ROLE", "GROUP", "CLUSTERS", "OPENED BY", "CREATED")
	var broken []error
	for _, k := range all {
		if k.Err != nil {
			broken = append(broken, k.Err)
		}
		if a.settings.JSON {
			if err := a.out.object(keyResult(k)); err != nil {
				return err
			}
			continue
		}
		mark := ""
		if k.Current {
			mark = "*"
		}
		role := string(k.Role)
		switch {
		case k.Err != nil:
			role = "?"
		case k.Removing:
			role += ", being removed"
		}
		t.add(mark, k.ID, k.Name, role, keys.ShowGroup(k.Group), strings.Join(k.Clusters, ","), k.Kind, showTime(k.Created))
	}
	if !a.settings.JSON {
		if err := a.out.print("%s", t); err != nil {
			return err
		}
	}
	if r.Root() == nil {
		a.out.info("this repository is of an older kind, which has one key for all: nothing more is known of others, and none can be added")
	}
	for i, err := range broken {
		if i > 0 {
			a.out.warn("%v", err)
		}
	}
	if len(broken) > 0 {
		return withHint(broken[0], "`pgtrove key remove ID` takes it away; who could put it there?")
	}
	return nil
}
