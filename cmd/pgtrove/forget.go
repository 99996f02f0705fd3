package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/snapshot"
)

// forgetOptions are the flags of forget.
type forgetOptions struct {
	policy      snapshot.Policy
	allClusters bool
	allowLast   bool
	acceptTimes bool
	dryRun      bool
	prune       bool
}

func newForgetCommand(a *app) *cobra.Command {
	var o forgetOptions
	var rules ruleFlags
	c := &cobra.Command{
		Use:   "forget [SNAPSHOT...]",
		Short: "Hide snapshots, by name or by age, for the next prune to remove",
		Long: `Forget snapshots: those that are named, by their IDs or the beginnings or ends of these; or, where rules are given instead, all
that no rule keeps. From now on no command shows or uses them; the next prune removes them, and the one after it frees the
space of what nothing else needs. Until that next prune, pgtrove pin brings a snapshot back. Everything is looked up, and
the plan of the rules is shown, before anything is changed. Run again, a command that was interrupted goes on.

A snapshot stays if one rule keeps it. --keep-daily 7 keeps the newest of each of the last seven days, in UTC, of which there is
one; likewise the others. --keep-within counts back from the newest snapshot. Units of time are h, d, w, m (months) and y. A
snapshot that lacks WAL, or anything else, stays wherever it would if it did not, but takes the place of none that can be
restored. If one needs what is gone or damaged, the exit code is 9, and the rest is done all the same.

--pitr-window 7d keeps every moment of the last seven days recoverable, as far as it is so now: all snapshots in them, the last one
before, and all WAL from there on. Older snapshots that other rules keep are narrowed: of the WAL they keep only what leads to
their own moment, and nothing takes that back. Without --pitr-window no WAL is given up that a snapshot which stays leads to.

Whatever the rules say, pinned snapshots stay, those that cannot be read, of each cluster the newest that can be restored, and what leads
to a timeline that may be in use: something came to it later than a day before that newest one. Rules apply to one cluster (--cluster,
default main), or to each of them with --all-clusters. How old a snapshot is the first prune that lists it has fixed; until then its age
lies between that prune's forerunner and the time that the storage has for it.`,
		Args: func(cmd *cobra.Command, args []string) error { return checkForgetArgs(cmd, args, &o, &rules) },
	}
	f := c.Flags()
	rules.add(f)
	f.BoolVar(&o.allClusters, "all-clusters", false, "apply the rules to each cluster of the repository")
	f.BoolVar(&o.dryRun, "dry-run", false, "only say what would be forgotten, and what that would free")
	f.BoolVar(&o.prune, "prune", false, "prune afterwards, as pgtrove prune does without flags")
	f.BoolVar(&o.allowLast, "allow-last", false, "forget also the last snapshot of a cluster that can be restored, if it is named")
	f.BoolVar(&o.acceptTimes, "accept-times", false, "as for pgtrove prune, where the storage's times are not those of most new snapshots")
	c.RunE = a.run(func(ctx context.Context, args []string) error {
		r, err := a.openRepository(ctx)
		if err != nil {
			return err
		}
		var damage error // keeps nothing from being done
		if len(args) > 0 {
			err = a.forget(ctx, r, args, o)
		} else {
			damage, err = a.forgetByPolicy(ctx, r, time.Now(), o)
		}
		if err == nil {
			err = a.afterForget(ctx, r, o)
		}
		if err != nil {
			return err
		}
		return damage
	})
	return c
}

// checkForgetArgs makes sure that it is said what to forget, in one way.
func checkForgetArgs(cmd *cobra.Command, args []string, o *forgetOptions, rules *ruleFlags) (err error) {
	fail := func(err error, hint string) error {
		return usageError{err: err, command: cmd.CommandPath(), hint: hint}
	}
	if o.policy, err = rules.policy(); err != nil {
		return fail(err, "")
	}
	given := rules.given(cmd.Flags())
	switch {
	case len(args) == 0 && given == "":
		return fail(errors.New("SNAPSHOT is missing"), "name snapshots, or give rules, such as `pgtrove forget --keep-daily 7 --dry-run`")
	case len(args) > 0 && given != "":
		return fail(fmt.Errorf("both snapshots and a rule (%s) are given: give one", given), "")
	case len(args) > 0 && (o.allClusters || o.acceptTimes):
		return fail(errors.New("--all-clusters and --accept-times are for rules, not for snapshots by name"), "")
	case len(args) == 0 && o.policy.IsZero():
		return fail(fmt.Errorf("%s 0 keeps nothing", given), "give a rule that keeps something")
	case len(args) == 0 && o.allowLast:
		return fail(errors.New("--allow-last is for snapshots by name: rules always keep the last that can be restored"), "")
	case o.allClusters && cmd.Flags().Changed("cluster"):
		return fail(errors.New("both --cluster and --all-clusters are given: give one"), "")
	case slices.Contains(args, snapshot.Latest):
		return fail(fmt.Errorf("forget %s: run twice it would forget two snapshots", snapshot.Latest), "give the snapshot's ID; `pgtrove snapshots` shows it")
	}
	return nil
}

// afterForget says what comes next, and prunes if that was asked for.
func (a *app) afterForget(ctx context.Context, r *repo.Repo, o forgetOptions) error {
	switch {
	case o.dryRun && o.prune:
		a.out.info("nothing was changed; `pgtrove prune --dry-run` shows what a prune would do now")
	case o.dryRun:
		a.out.info("nothing was changed")
	case o.prune:
		a.out.info("pruning; the space is freed by the next prune")
		p := defaultPruneOptions()
		p.acceptTimes = o.acceptTimes
		return a.prune(ctx, r, p)
	default:
		a.out.info("gone with the next `pgtrove prune`, and the space is freed by the one after; until then `pgtrove pin` brings a snapshot back")
	}
	return nil
}

type forgetJSON struct {
	Type    string   `json:"type"`
	ID      string   `json:"id"`
	Cluster string   `json:"cluster"`
	Keep    bool     `json:"keep"`
	Reasons []string `json:"reasons"` // why it stays
	Already bool     `json:"already"` // it was forgotten before
	DryRun  bool     `json:"dry_run"`
}

// forget marks the snapshots that names stand for.
func (a *app) forget(ctx context.Context, r *repo.Repo, names []string, o forgetOptions) error {
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
	if err := noneShared(ctx, r, chosen); err != nil {
		return err
	}
	if err := a.leavesGood(ctx, r, c, chosen, o.allowLast); err != nil {
		return err
	}
	request, made := r.Forget, []repo.Commit(nil)
	if o.allowLast {
		request = r.ForgetLast
	}
	for _, commit := range chosen {
		if !o.dryRun && (!commit.Forgotten || o.allowLast) {
			if err := request(ctx, commit.ID); errors.Is(err, repo.ErrPinned) { // since we looked
				return pinnedError(commit.ID)
			} else if err != nil {
				return err
			}
			made = append(made, commit)
		}
		if err := a.showForgotten(commit, o.dryRun); err != nil {
			return err
		}
	}
	if o.allowLast {
		return nil
	}
	return a.stillGood(ctx, r, made)
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

// noneShared refuses what another cluster has an object of the same ID of: a request names no cluster, so both would go. Who takes over a host can make such
// objects.
func noneShared(ctx context.Context, r *repo.Repo, chosen []repo.Commit) error {
	known, err := r.Retention(ctx, chosen, repo.RetentionOptions{Now: time.Now(), AcceptTimes: true}) // the ages do not matter here
	if err != nil {
		return err
	}
	for i, commit := range chosen {
		if known[i].Shared {
			return withHint(refused("forget %s: another cluster has one of the same ID, and a request would be about both; nothing was changed", commit.ID),
				"`pgtrove prune` removes the one that no backup of its cluster began")
		}
	}
	return nil
}

func pinnedError(id string) error {
	return withHint(classified{fmt.Errorf("forget %s: it is pinned; nothing was changed", id), repo.ErrPinned}, "`pgtrove unpin %s`, if nobody needs it any more", id)
}

func (a *app) showForgotten(c repo.Commit, dryRun bool) error {
	if a.settings.JSON {
		return a.out.object(forgetJSON{"forget", c.ID, c.Cluster, false, []string{}, c.Forgotten, dryRun})
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

// leavesGood refuses to forget the last snapshots of a cluster that can be restored; or warns, where that is allowed.
func (a *app) leavesGood(ctx context.Context, r *repo.Repo, c *catalog, chosen []repo.Commit, allowed bool) error {
	goes := func(m *snapshot.Manifest) bool {
		return slices.ContainsFunc(chosen, func(commit repo.Commit) bool { return commit.ID == m.ID && commit.Cluster == m.Cluster })
	}
	clusters := map[string]bool{}
	for _, m := range c.snapshots {
		clusters[m.Cluster] = clusters[m.Cluster] || goes(m)
	}
	for _, cluster := range slices.Sorted(maps.Keys(clusters)) {
		if !clusters[cluster] {
			continue
		}
		var going, left []*snapshot.Manifest
		for _, m := range c.snapshots {
			switch {
			case m.Cluster != cluster:
			case goes(m):
				going = append(going, m)
			default:
				left = append(left, m)
			}
		}
		last, err := a.lastGood(ctx, r, c, going, left)
		switch {
		case err != nil:
			return err
		case last == "":
		case !allowed:
			return withHint(refused("forget: this would leave %s of cluster %s; its archived WAL alone restores nothing. Nothing was changed", last, cluster),
				"take a new one first: `pgtrove backup`; or, if nobody needs the cluster any more, --allow-last")
		default:
			a.out.warn("this leaves %s of cluster %s; its archived WAL alone restores nothing", last, cluster)
		}
	}
	return nil
}
