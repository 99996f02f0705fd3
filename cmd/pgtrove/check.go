package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgtrove/pgtrove/keys"
	"github.com/pgtrove/pgtrove/pgsource"
	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/snapshot"
	"github.com/pgtrove/pgtrove/walarchive"
)

func newCheckCommand(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "check",
		Short: "Say whether this cluster is protected",
		Long: `Say whether this cluster is protected: that the server and the repository can be reached, that there are snapshots and WAL
to recover from, that no slot holds WAL for nobody, and what would make backups cheaper. It exits 3 when something is wrong;
advice alone is no reason.

Whether archiving works it tries out: on a primary it writes a record that means nothing, ends the WAL segment (pg_switch_wal,
which a role that is no superuser needs EXECUTE on), and waits until the repository has that segment, by archive_command or
` + "`pgtrove wal receive`" + `. On a standby, where no segment can be ended, it looks for the newest that is there in full.
Nothing else is changed.`,
		Args: exactly(),
	}
	o := checkOptions{}
	c.Flags().DurationVar(&o.walTimeout, "wal-timeout", time.Minute, "how much `time` to give the segment")
	c.Flags().StringVar(&o.slot, "slot", pgsource.ReceiverSlot, "`name` of the slot of `pgtrove wal receive`, if not that")
	c.RunE = a.run(func(ctx context.Context, _ []string) error {
		if o.walTimeout < 0 {
			return usageError{err: fmt.Errorf("--wal-timeout %s is negative", o.walTimeout), command: "pgtrove check"}
		}
		return a.check(ctx, o)
	})
	return c
}

// checkOptions are the flags of check.
type checkOptions struct {
	walTimeout time.Duration
	slot       string
}

// finding is one line of check.
type finding struct {
	Type   string `json:"type"` // "check"
	Name   string `json:"name"`
	Status string `json:"status"` // ok, advice, problem
	Text   string `json:"text"`
	Hint   string `json:"hint,omitempty"`
}

const (
	statusOK      = "ok"
	statusAdvice  = "advice"
	statusProblem = "problem"
)

// checkup collects findings.
type checkup struct {
	*app
	checkOptions
	repo     *repo.Repo
	cluster  *pgsource.Cluster
	name     string
	newest   *snapshot.Manifest
	findings []finding
}

func (c *checkup) ok(name, format string, args ...any) { c.add(name, statusOK, "", format, args...) }

func (c *checkup) add(name, status, hint, format string, args ...any) {
	c.findings = append(c.findings, finding{"check", name, status, c.redact(fmt.Sprintf(format, args...)), c.redact(hint)})
}

func (a *app) check(ctx context.Context, o checkOptions) error {
	r, err := a.openRepository(ctx)
	if err != nil {
		return err
	}
	cluster, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = cluster.Close(ctx) }()
	c := &checkup{app: a, checkOptions: o, repo: r, cluster: cluster, name: a.settings.clusterName()}
	if err := checkSystem(ctx, r, c.name, cluster, false); err != nil {
		return err
	}
	i := cluster.Info()
	c.ok("server", "PostgreSQL %d.%d, system %s, data directory %s", i.Version/10000, i.Version%10000, i.SystemID, cluster.DataDir())
	c.ok("repository", "%s opens%s", r.Config().ID[:16], whatOpens(r))
	if err := c.recovery(ctx); err != nil {
		return err
	}
	if err := c.archiving(ctx); err != nil {
		return err
	}
	if !i.Layout.Checksums {
		c.add("checksums", statusAdvice, "switch them on with pg_checksums --enable while the server is stopped",
			"data pages have no checksums, so a damaged one is backed up unnoticed")
	} else {
		c.ok("checksums", "data pages have checksums, and every backup verifies those that it reads")
	}
	c.marker()
	c.summaries()
	return c.show()
}

// whatOpens says whose key is on this host, and what it is worth to whoever steals it.
func whatOpens(r *repo.Repo) string {
	c := r.Certificate()
	if c == nil {
		return ""
	}
	opens := map[keys.Role]string{keys.Owner: "all backups", keys.Standby: "WAL, but no backup", keys.Writer: "no backup and no WAL"}[c.Role]
	return fmt.Sprintf(" with the key %s, a %s's, which opens %s", c.Name, c.Role, opens)
}

// recovery looks at what there is to recover from.
func (c *checkup) recovery(ctx context.Context) error {
	catalog, err := loadCatalog(ctx, c.repo, c.name)
	if err != nil {
		return err
	}
	for _, err := range catalog.damaged {
		c.add("snapshots", statusProblem, "run `pgtrove verify`", "%v", err)
	}
	for _, s := range catalog.refused {
		c.add("snapshots", statusProblem, "find out who wrote it: that host may be in wrong hands (`pgtrove key remove`). Then `pgtrove forget "+s.id+"`", "refused: %v", s.err)
	}
	k := archiveKey{c.name, c.cluster.Info().SystemID}
	for _, m := range catalog.snapshots {
		if archiveOf(m) == k {
			c.newest = m
		}
	}
	if c.newest == nil {
		c.add("snapshots", statusProblem, "run `pgtrove backup`", "there is no snapshot of this cluster yet")
		return nil
	}
	var coverage *walarchive.Coverage
	if coverage, err = k.in(c.repo).Scan(ctx, c.cluster.Info().Layout.WALSegmentSize); err != nil {
		return err
	}
	info, _, err := clusterInfo(ctx, archiveKey{coverage.Cluster, coverage.System}.in(c.repo), coverage, catalog)
	if err != nil {
		return err
	}
	c.ok("snapshots", "%s, the newest taken %s ago", showCount(int64(info.Snapshots), "snapshot", "snapshots"),
		showDuration(time.Since(c.newest.Window.StopTime)))
	if n := len(info.Unusable); n > 0 {
		c.add("wal", statusProblem, "`pgtrove info` lists them; take a new one with `pgtrove backup`", "%s WAL and cannot be recovered, the newest is %s",
			showCount(int64(n), "snapshot lacks", "snapshots lack"), info.Unusable[n-1])
	}
	for _, g := range info.Gaps {
		c.add("wal", statusProblem, "moments behind a gap are recovered from a snapshot behind it: take one with `pgtrove backup`",
			"the archive has a gap: %s", g)
	}
	if n := len(info.Windows); n > 0 {
		w := info.Windows[n-1]
		c.ok("wal", "every moment from %s to %s can be recovered", showJSONTime(info.Windows[0].FromTime), showJSONTime(w.ToTime))
	}
	return nil
}

// marker looks whether the next backup may skip files.
func (c *checkup) marker() {
	const name = pgsource.LastBackupFile
	if c.newest == nil {
		return
	}
	id, err := c.cluster.LastSnapshot(c.repo.Config().ID, c.name)
	switch {
	case err != nil:
		c.add("skipping", statusAdvice, "let the account that makes backups write there", "%s in the data directory cannot be read, so every backup reads every file: %v", name, err)
	case id == "":
		c.add("skipping", statusAdvice, "the next `pgtrove backup` writes it, if its account may write to the data directory",
			"the data directory has no %s for this repository, so the next backup reads every file", name)
	case id != c.newest.ID:
		c.add("skipping", statusAdvice, "", "%s names %s and not the newest snapshot, so the next backup reads every file", name, id)
	default:
		c.ok("skipping", "the next backup can skip files that did not change since snapshot %s", id)
	}
}

// summaries tells what WAL summaries would gain where they are off.
func (c *checkup) summaries() {
	i := c.cluster.Info()
	switch {
	case i.Major() < 17:
		return
	case i.WAL.SummarizeWAL:
		c.ok("summaries", "summarize_wal is on: of files that changed, backups read the blocks that changed, and the maps of free space and visibility")
		return
	}
	gain := "backups read changed files in full; with it they read only the blocks that changed"
	if c.newest != nil && c.newest.Totals.Skipped.FileBytes > 0 {
		t := c.newest.Totals
		changed := t.ChangedPages * int64(c.newest.Server.BlockSize)
		gain = fmt.Sprintf("the last backup read %s to find %s of changed blocks; with it, it would have read little more than these",
			showBytes(t.Read), showBytes(changed))
	}
	c.add("summaries", statusAdvice, "ALTER SYSTEM SET summarize_wal = on; SELECT pg_reload_conf();", "summarize_wal is off: %s", gain)
}

// show prints the findings. Problems make the command fail.
func (c *checkup) show() error {
	problems := 0
	for _, f := range c.findings {
		if f.Status == statusProblem {
			problems++
		}
		if c.settings.JSON {
			if err := c.out.object(f); err != nil {
				return err
			}
			continue
		}
		if c.settings.Quiet && f.Status == statusOK {
			continue
		}
		text := fmt.Sprintf("%-8s %s: %s\n", f.Status, f.Name, f.Text)
		if f.Hint != "" {
			text += fmt.Sprintf("%-8s hint: %s\n", "", f.Hint)
		}
		if err := c.out.print("%s", text); err != nil {
			return err
		}
	}
	if problems == 0 {
		return nil
	}
	return classified{errors.New("this cluster is not fully protected: " + showCount(int64(problems), "problem", "problems")), errIncomplete}
}
