package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgtrove/pgtrove/repo"
)

func newRebuildIndexCommand(a *app) *cobra.Command {
	o := repo.RebuildOptions{Now: time.Now, FenceAfter: defaultPruneOptions().fenceAfter, Ended: endedAt}
	c := &cobra.Command{
		Use:   "rebuild-index",
		Short: "Make the index anew from the packs themselves",
		Long: `Make the index of the repository anew. The index says in which pack a chunk is; every pack says at its end what it holds,
so that an index which is damaged or gone can be made again. It reads the end of every pack that the storage shows.

Backups, restores and prunes may go on meanwhile. No pack and no snapshot is deleted. Packs that do not say what they
hold are listed and left as they are, and the exit code is then 9. The identity of any writer is enough.`,
		Args: exactly(),
	}
	c.Flags().BoolVar(&o.DryRun, "dry-run", false, "only read, and say what would be done")
	c.Flags().BoolVar(&o.AcceptTimes, "accept-times", false, "as for pgtrove prune, where the storage's times are not those of most new snapshots")
	c.Flags().DurationVar(&o.FenceAfter, "fence-after", o.FenceAfter, "for how much `time` an unfinished backup must have written nothing to count as dead")
	c.RunE = a.run(func(ctx context.Context, _ []string) error {
		if o.FenceAfter <= 0 {
			return usageError{err: fmt.Errorf("--fence-after %s: give a time of more than nothing", o.FenceAfter), command: "pgtrove rebuild-index"}
		}
		return a.rebuildIndex(ctx, o)
	})
	return c
}

type rebuildJSON struct {
	Type       string        `json:"type"`
	Run        uint64        `json:"run"`
	DryRun     bool          `json:"dry_run"`
	Snapshots  int           `json:"snapshots"`
	Packs      amountJSON    `json:"packs"` // that the index names
	Chunks     int64         `json:"chunks"`
	Left       amountJSON    `json:"left"`       // out of it, since a prune has begun to delete them
	Unreadable []badJSON     `json:"unreadable"` // packs that do not say what they hold
	Known      int           `json:"known"`      // those of them that the index names all the same, as the old one did
	Waiting    []badJSON     `json:"waiting"`    // parts of the index that stay damaged until a backup has ended
	Fenced     []sessionJSON `json:"fenced"`
	Locked     []string      `json:"locked"`
	Seconds    float64       `json:"seconds"`
}

type badJSON struct {
	Object string `json:"object"`
	Error  string `json:"error"`
}

func badResult(objects []repo.BadObject) []badJSON {
	out := []badJSON{}
	for _, b := range objects {
		out = append(out, badJSON{b.Key, oneLine(b.Err.Error())})
	}
	return out
}

func (a *app) rebuildIndex(ctx context.Context, o repo.RebuildOptions) error {
	r, err := a.openRepository(ctx)
	if err != nil {
		return err
	}
	begun := time.Now()
	o.Host, _ = os.Hostname() // for people
	p := a.out.startProgress("rebuild-index, packs", 0, nil)
	defer p.close()
	o.Progress = func(done, total int64) {
		p.total.Store(total)
		p.done.Store(done)
	}
	report, err := r.Rebuild(ctx, o)
	if err != nil {
		return err
	}
	p.close()
	if err := a.showRebuild(report, o.DryRun, time.Since(begun)); err != nil {
		return err
	}
	given, err := givenUp(ctx, r, report.Unreadable)
	if err != nil {
		return err
	}
	return a.rebuildShortcomings(report, given)
}

// givenUp says whether all of these packs have been given up.
func givenUp(ctx context.Context, r *repo.Repo, packs []repo.BadObject) (bool, error) {
	if len(packs) == 0 {
		return false, nil
	}
	requests := map[string]bool{}
	err := r.List(ctx, "forget/packs/", func(key string, _ int64) error {
		requests[key] = true
		return nil
	})
	return !slices.ContainsFunc(packs, func(b repo.BadObject) bool { return !requests["forget/"+b.Key] }), err
}

func (a *app) showRebuild(r *repo.RebuildReport, dryRun bool, took time.Duration) error {
	if a.settings.JSON {
		return a.out.object(rebuildJSON{
			Type: "rebuild-index", Run: r.Run, DryRun: dryRun, Snapshots: r.Valid, Packs: amountJSON(r.Packs), Chunks: r.Chunks, Left: amountJSON(r.Left),
			Unreadable: badResult(r.Unreadable), Known: r.Known, Waiting: badResult(r.Waiting), Fenced: sessionsResult(r.Fenced),
			Locked: append([]string{}, r.Locked...), Seconds: took.Seconds(),
		})
	}
	if a.settings.Quiet {
		return nil
	}
	head, ended := "the index is new", "ended"
	if dryRun {
		head, ended = "nothing was changed; the index would be new", "would be ended"
	}
	text := fmt.Sprintf("%s: it names %s with %s, for %s, in %s\n", head, showAmount(r.Packs), showCount(r.Chunks, "chunk", "chunks"),
		showCount(int64(r.Valid), "snapshot", "snapshots"), showDuration(took))
	for i := range r.Fenced {
		text += fmt.Sprintf("  %s, because it is silent: %s\n", ended, describeSession(&r.Fenced[i]))
	}
	if r.Left.Packs > 0 {
		text += fmt.Sprintf("  not in it, because a prune has begun to delete them: %s\n", showAmount(r.Left))
	}
	return a.out.print("%s", text)
}

// rebuildShortcomings is the error of a run that did what it could; given: all unreadable packs were given up before.
func (a *app) rebuildShortcomings(r *repo.RebuildReport, given bool) error {
	for _, b := range r.Unreadable {
		a.out.line("", "damaged: %v", b.Err)
	}
	for _, b := range r.Waiting {
		a.out.line("", "still damaged: %v", b.Err)
	}
	for _, err := range r.Sessions {
		a.out.line("", "damaged: %v", err)
	}
	switch {
	case len(r.Unreadable) > 0:
		err := fmt.Errorf("rebuild-index: %s what they hold; the index has %d of them as before", showCount(int64(len(r.Unreadable)), "pack does not say", "packs do not say"), r.Known)
		if given {
			return withHint(classified{err, repo.ErrDamaged}, "they were given up: take a backup, which stores again what the cluster still has, and see with `pgtrove verify` what is lost")
		}
		return withHint(classified{err, repo.ErrDamaged}, "`pgtrove verify --repair` says which snapshots that concerns, and keeps what is sound in them")
	case len(r.Waiting) > 0:
		err := incomplete("rebuild-index: %s of backups that have not ended cannot be read", showCount(int64(len(r.Waiting)), "part of the index", "parts of the index"))
		return withHint(err, "what they name is in the new index; run `pgtrove rebuild-index` again when these backups have ended, before the next prune")
	case len(r.Locked) > 0:
		err := incomplete("rebuild-index: the storage refused to delete %s of the old index, such as %s", showCount(int64(len(r.Locked)), "object", "objects"), r.Locked[0])
		return withHint(err, "may this account delete there, and is nothing locked? A later run deletes them, and they count no more")
	case len(r.Sessions) > 0:
		return classified{fmt.Errorf("rebuild-index: %s cannot be read, which is no part of the index", showCount(int64(len(r.Sessions)), "announcement", "announcements")), repo.ErrDamaged}
	}
	return nil
}

// warnIndex says that a command goes on without a part of the index. err is what IndexDamage gave.
func (a *app) warnIndex(err error) {
	if err != nil {
		a.out.warn("%v; going on with the rest; `pgtrove rebuild-index` makes it anew", err)
	}
}
