package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/gc"
	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/snapshot"
	"github.com/pgtrove/pgtrove/walarchive"
)

// pruneOptions are the flags of prune.
type pruneOptions struct {
	dryRun     bool
	fenceAfter time.Duration
	maxRepack  int64   // bytes
	maxDelete  float64 // 0 to 1

	acceptTimes bool
}

const (
	defaultMaxRepack = "16GiB"
	defaultMaxDelete = "50%"
)

// defaultPruneOptions are what forget --prune uses too.
func defaultPruneOptions() pruneOptions {
	return pruneOptions{fenceAfter: 24 * time.Hour, maxRepack: 16 << 30, maxDelete: 0.5}
}

func newPruneCommand(a *app) *cobra.Command {
	o := defaultPruneOptions()
	maxRepack, maxDelete := defaultMaxRepack, defaultMaxDelete
	c := &cobra.Command{
		Use:   "prune",
		Short: "Remove forgotten snapshots, and what no snapshot needs",
		Long: `Remove the snapshots that are forgotten, and free the space of what no snapshot needs any more, that of backups that were
killed included. The archived WAL that no snapshot needs goes too: what lies before the oldest snapshot, and behind those that
keep only their own moment. It locks nobody out: backups of any hosts may go on. What a run finds to be unneeded the next one
deletes, once no backup can be using it; so run it regularly, such as every night.

A backup that began before the run before this one, and goes on, holds a run up: nothing is changed then, and the exit
code is 3. One that has written nothing for --fence-after is taken for dead and ended; if it was not, it notices
and goes on by itself, at little cost.

In a repository with object lock it also extends the locks of what is needed, as soon as a third of their time is over.

The first run that lists a snapshot fixes its age for pgtrove forget. Where the storage's times are not those of most new snapshots, as
after a bucket was copied before it was ever pruned, the run refuses (exit code 5); with --accept-times it takes the times at which the
snapshots say that they ended, as far as the storage's times and that of the run before allow.

The identity of any writer is enough to prune with, and it opens no data. The storage must let this host delete.`,
		Args: exactly(),
	}
	f := c.Flags()
	f.BoolVar(&o.dryRun, "dry-run", false, "only say what would be done")
	f.DurationVar(&o.fenceAfter, "fence-after", o.fenceAfter, "for how much `time` an unfinished backup must have written nothing to count as dead")
	f.StringVar(&maxRepack, "max-repack", maxRepack, "rewrite mostly unneeded packs up to this `size` together in one run; 0 for none, unlimited to rewrite whatever holds more than a little that is not needed")
	f.StringVar(&maxDelete, "max-delete", maxDelete, "refuse to delete more than this `share` of all packs, or of packs and WAL together, at once")
	f.BoolVar(&o.acceptTimes, "accept-times", false, "go on where the storage's times are not those of most new snapshots, and fix the ages of these by the rule")
	c.RunE = a.run(func(ctx context.Context, _ []string) error {
		var err error
		if o.maxRepack, err = parseMaxRepack(maxRepack); err != nil {
			return usageError{err: fmt.Errorf("--max-repack %w", err), command: "pgtrove prune"}
		}
		if o.maxDelete, err = parsePercent(maxDelete); err != nil {
			return usageError{err: fmt.Errorf("--max-delete %w", err), command: "pgtrove prune"}
		}
		if o.fenceAfter <= 0 {
			return usageError{err: fmt.Errorf("--fence-after %s: give a time of more than nothing", o.fenceAfter), command: "pgtrove prune"}
		}
		r, err := a.openRepository(ctx)
		if err != nil {
			return err
		}
		return a.prune(ctx, r, o)
	})
	return c
}

// parseMaxRepack reads a size, or the word for none at all.
func parseMaxRepack(text string) (int64, error) {
	if text == "unlimited" {
		return repo.NoLimit, nil
	}
	return parseSize(text)
}

func (a *app) prune(ctx context.Context, r *repo.Repo, o pruneOptions) error {
	// Taking recipes apart makes garbage many times the size of what lives: it is collected at half of it instead of at as much again,
	// which takes a third off the peak of memory and no time that could be measured.
	defer debug.SetGCPercent(debug.SetGCPercent(50))
	p := &pruneRun{app: a, repo: r, o: o, begun: time.Now()}
	report, err := r.Prune(ctx, p.options())
	if report == nil {
		report = &repo.PruneReport{}
	}
	if vanished := (*repo.VanishedError)(nil); errors.As(err, &vanished) {
		notePins(ctx, r, vanished)
	}
	if showErr := p.show(report, err); showErr != nil {
		return errors.Join(err, showErr)
	}
	if err != nil {
		if refused, _ := refusals(report); refused != "" {
			p.out.line("", "%s", refused)
		}
		return p.explain(err)
	}
	p.tellDoubts()
	return p.shortcomings(report)
}

// pruneRun is one run.
type pruneRun struct {
	*app
	repo  *repo.Repo
	o     pruneOptions
	begun time.Time
	judge *walarchive.Judge // of archived WAL; nil: the run did not come so far
}

func (p *pruneRun) options() repo.PruneOptions {
	host, _ := os.Hostname() // for people
	return repo.PruneOptions{
		Host: host, CacheDir: p.cacheDir(), Now: time.Now, FenceAfter: p.o.fenceAfter, MaxRepack: p.o.maxRepack, MaxDelete: p.o.maxDelete,
		DryRun: p.o.dryRun, AcceptTimes: p.o.acceptTimes, Mark: p.mark, WAL: p.walNeed, Ended: endedAt, Archived: walOfCommit,
	}
}

// endedAt is when a snapshot ended, by its manifest.
func endedAt(c repo.Commit) time.Time {
	m, err := parseCommit(c)
	if err != nil {
		return time.Time{}
	}
	return m.Window.StopTime
}

// mark finds out what the snapshots need.
func (p *pruneRun) mark(ctx context.Context, v *repo.View, commits []repo.Commit, live func(chunk.ID)) error {
	p.out.detail("finding out what is needed by %s", showCount(int64(len(commits)), "snapshot", "snapshots"))
	var lost repo.LossError
	var snapshots []*snapshot.Manifest
	for _, c := range unrefused(commits) { // which need nothing: nobody restores them
		m, err := parseCommit(c)
		if err != nil {
			lost.Losses = append(lost.Losses, err)
			continue
		}
		snapshots = append(snapshots, m)
	}
	err := gc.Mark(ctx, judgingView{v}, snapshots, live)
	if damage := (*gc.LossError)(nil); errors.As(err, &damage) {
		lost.Losses = append(lost.Losses, losses(damage)...)
	} else if err != nil {
		return err
	}
	if len(lost.Losses) > 0 {
		return &lost
	}
	return nil
}

// losses are the damage that Mark lists, and what it only counts.
func losses(e *gc.LossError) []error {
	all := e.Unwrap()
	if e.More > 0 {
		all = append(all, unlistedError{e.More})
	}
	return all
}

// judgingView tells gc which errors are damage.
type judgingView struct{ *repo.View }

// IsDamage implements gc.Judge.
func (judgingView) IsDamage(err error) bool { return isDamage(err) }

// explain words the errors of a run for a person.
func (p *pruneRun) explain(err error) error {
	var blocked *repo.BlockedError
	var vanished *repo.VanishedError
	var much *repo.TooMuchError
	switch {
	case errors.As(err, &blocked):
		var who []string
		for i := range blocked.Sessions {
			who = append(who, describeSession(&blocked.Sessions[i]))
		}
		return worded{fmt.Sprintf("prune: nothing was changed, because what it would delete may be in use by %s", strings.Join(who, "; and by ")), err}
	case errors.As(err, &vanished):
		var gone []string
		for _, c := range vanished.Snapshots {
			gone = append(gone, fmt.Sprintf("%s of cluster %s", c.ID, c.Cluster))
		}
		return worded{fmt.Sprintf("prune: nothing was deleted, because nobody forgot %s, but the storage shows it no more: %s",
			showCount(int64(len(gone)), "snapshot", "snapshots"), strings.Join(gone, ", ")), err}
	case errors.As(err, &much):
		wal := ""
		if much.WAL {
			wal = " of packs and WAL"
		}
		return worded{fmt.Sprintf("prune: nothing was deleted: it would be %s of %s%s, which is %s, and --max-delete allows %.0f %%",
			showBytes(much.Swept.Bytes), showBytes(much.Stored.Bytes), wal, showShare(much.Swept.Bytes, much.Stored.Bytes), much.Limit*100), err}
	}
	return err
}

// worded is an error in words for a person.
type worded struct {
	text string
	err  error
}

func (w worded) Error() string { return w.text }
func (w worded) Unwrap() error { return w.err }

func describeSession(u *repo.Unfinished) string {
	what := "the backup of cluster " + u.Cluster
	if u.Repack {
		what = "a prune"
	}
	return fmt.Sprintf("%s on host %s (session %s, process %d), which began at %s and last wrote at %s", what, u.Host, u.ID, u.PID,
		showTime(u.Started), showTime(u.LastSeen))
}

// shortcomings is the error of a run that did its work, but not all.
func (p *pruneRun) shortcomings(r *repo.PruneReport) error {
	refused, hint := refusals(r)
	if listed, n := listDamage(r.Damage, shownDamage); n > 0 {
		for _, err := range listed {
			p.out.line("", "damaged: %v", err)
		}
		if more := n - len(listed); more > 0 {
			p.out.line("", "and %d more; `pgtrove verify` lists them", more)
		}
		if refused != "" {
			p.out.line("", "%s", refused)
		}
		err := fmt.Errorf("prune: %s damaged or missing, so no pack is deleted, and no sound snapshot removed", showCount(int64(n), "thing is", "things are"))
		return withHint(classified{err, repo.ErrDamaged},
			"`pgtrove verify` says which snapshots are concerned; `pgtrove verify --repair` keeps what is sound, a backup after it stores again what the cluster still has, and what is then lost `pgtrove forget` gives up")
	}
	if last := r.Last; len(last) > 0 {
		if refused != "" {
			p.out.line("", "%s", refused)
		}
		return withHint(incomplete("prune: snapshot %s of cluster %s is forgotten, but stays: the cluster would have none left", last[0].ID, last[0].Cluster),
			"`pgtrove pin %s` shows it again; `pgtrove forget --allow-last %s`, if nobody needs the cluster any more", last[0].ID, last[0].ID)
	}
	if refused == "" {
		return nil
	}
	return withHint(incomplete("prune: %s", refused), "%s", hint)
}

// refusals says what the storage refused, and what to do; "" if nothing.
func refusals(r *repo.PruneReport) (text, hint string) {
	var said []string
	if n := len(r.Locked); n > 0 {
		said = append(said, fmt.Sprintf("the storage refused to delete %s, such as %s (%v)", showCount(int64(n), "object", "objects"),
			strings.Join(r.Locked[:min(n, 3)], ", "), r.LockedErr))
		hint = "may this account delete there, and does no policy of the storage forbid it? A later run deletes them"
	}
	if l := r.Locks; l.Refused > 0 {
		known := "it is not known until when what is needed is locked"
		if !l.Until.IsZero() {
			known = fmt.Sprintf("what is needed is locked until %s at least, and not beyond", showTime(l.Until))
		}
		said = append(said, fmt.Sprintf("the storage refused to lock %s for longer; %s (%v)", showCount(int64(l.Refused), "object", "objects"), known, l.Err))
		hint = "the account that prunes needs s3:PutObjectRetention and s3:GetObjectRetention there. The next run tries again"
	}
	if gone := r.Locks.Missing; len(gone) > 0 {
		said = append(said, fmt.Sprintf("%s gone when their locks were to be extended, though they are needed, such as %s",
			showCount(int64(len(gone)), "object was", "objects were"), strings.Join(gone[:min(len(gone), 3)], ", ")))
		hint = "find out who removes objects there. `pgtrove verify` says which snapshots are concerned"
	}
	return strings.Join(said, "; and "), hint
}
