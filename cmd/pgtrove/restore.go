package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/keys"
	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/restore"
	"github.com/pgtrove/pgtrove/snapshot"
	"github.com/pgtrove/pgtrove/walarchive"
)

// restoreOptions are the flags of restore.
type restoreOptions struct {
	snapshot    string // as given; "" lets the target choose
	to          string
	targetFlags targetFlags
	standby     bool
	primary     standbyFlags
	noRecovery  bool
	tablespaces []string
	local       localFlags

	target restore.Target
	action restore.Action
	moves  map[string]string
}

func newRestoreCommand(a *app) *cobra.Command {
	o := &restoreOptions{}
	c := &cobra.Command{
		Use:   "restore [SNAPSHOT|latest] --to DIR",
		Short: "Restore a cluster, to the end of its archive or to a moment",
		Long: `Restore a cluster into an empty or new directory, or with --delta into one that has content, and write the settings with
which PostgreSQL, when it is started there, fetches its WAL from the repository and recovers: to the end of the archive, or
to the target, and then promotes.

Without SNAPSHOT the right one is chosen: with a target the newest that ends before it. A target that cannot be reached
is refused before anything is written.

It takes an owner's key; those of writers and standbys open no backup. Where the server runs on, as a standby does, it need not keep that: make it
a key of its own (` + "`pgtrove key add --role standby`" + `) and name that with --recovery-key-file.`,
		Args: between(0, "SNAPSHOT"),
	}
	f := c.Flags()
	f.StringVar(&o.to, "to", "", "data `directory` to restore into, empty or new unless --delta is given")
	o.targetFlags.add(f)
	f.BoolVar(&o.standby, "standby", false, "make a standby: it goes on following the archive, and with --primary-conninfo streams from a server")
	o.primary.add(f)
	f.BoolVar(&o.noRecovery, "no-recovery", false, "no recovery from the archive: put the WAL of the snapshot itself into pg_wal")
	f.StringArrayVar(&o.tablespaces, "tablespace", nil, "put the tablespace at `OLD=NEW` (a path or an OID, and a path); may be given several times")
	f.StringVar(&a.recoveryKey, "recovery-key-file", "", "identity `file` that restore_command shall use, such as a standby's (default: what this command uses)")
	o.local.add(f)
	c.RunE = a.run(func(ctx context.Context, args []string) error {
		if len(args) == 1 {
			o.snapshot = args[0]
		}
		if err := o.parse(); err != nil {
			return err
		}
		return a.restore(ctx, o)
	})
	return c
}

func (o *restoreOptions) parse() (err error) {
	if o.to == "" && !o.local.list {
		return restoreUsage(errors.New("--to is missing: say where to restore to"))
	}
	if o.to != "" {
		if o.to, err = absolute(o.to); err != nil {
			return err
		}
	}
	if err := o.local.parse(); err != nil {
		return err
	}
	if o.target, o.action, err = o.targetFlags.parse(); err != nil {
		return err
	}
	targeted := o.target.Kind != restore.EndOfArchive
	switch {
	case o.noRecovery && o.standby:
		return restoreUsage(errors.New("--no-recovery and --standby: give one"))
	case o.noRecovery && (targeted || o.target.Timeline != (restore.TimelineGoal{})):
		return restoreUsage(errors.New("--no-recovery ends where the snapshot does: it takes no target"))
	case !o.standby && o.primary.given():
		return restoreUsage(errors.New("--primary-conninfo and --primary-slot are a standby's: give --standby as well"))
	case o.standby && targeted:
		return restoreUsage(errors.New("--standby goes on for ever: it takes no target"))
	}
	if err := o.primary.check(); err != nil {
		return err
	}
	o.moves = map[string]string{}
	for _, t := range o.tablespaces {
		from, to, ok := cutTablespace(t)
		if !ok {
			return restoreUsage(fmt.Errorf("--tablespace %q: give OLD=NEW", t))
		}
		if o.moves[from], err = absolute(to); err != nil {
			return err
		}
	}
	return nil
}

// cutTablespace takes OLD=NEW apart. An equals sign in a path is written \=, as for pg_basebackup.
func cutTablespace(s string) (from, to string, ok bool) {
	var parts [2]strings.Builder
	n := 0
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && i+1 < len(s) && s[i+1] == '=':
			i++
			parts[n].WriteByte('=')
		case s[i] == '=' && n == 0:
			n++
		case s[i] == '=':
			return "", "", false
		default:
			parts[n].WriteByte(s[i])
		}
	}
	from, to = parts[0].String(), parts[1].String()
	return from, to, n == 1 && from != "" && to != ""
}

func (a *app) restore(ctx context.Context, o *restoreOptions) error {
	r, err := a.openRepository(ctx)
	if err != nil {
		return err
	}
	if r.Role() != keys.Owner && !o.local.list {
		return a.lacksRole(r, "restore", "opens no backup", "restore with an owner's identity, which need not be on this host: --key-file FILE. With this key --list works")
	}
	if err := a.checkRecoveryKey(ctx); err != nil {
		return fmt.Errorf("restore: --recovery-key-file %s: %w", a.recoveryKey, err)
	}
	choice, err := a.choose(ctx, r, o)
	if err != nil {
		return err
	}
	m := choice.Snapshot
	if r, err = r.Of(ctx, m.Cluster, m.ID); err != nil { // its trust group names pages, and no other says where they are
		return err
	}
	run, err := a.prepareRestore(ctx, r, o, choice)
	if err != nil {
		return err
	}
	if o.to != "" {
		if err := restore.Check(run.Options); err != nil {
			return fmt.Errorf("restore to %s: %w", o.to, err)
		}
	}
	a.tellChoice(o, choice)
	view, err := r.OpenView(ctx, a.cacheDir(), m.Cluster)
	if err != nil {
		return err
	}
	defer func() { _ = view.Close() }() // only read
	a.warnIndex(view.IndexDamage())
	switch {
	case o.local.list:
		return a.listRestore(ctx, view, run.Options)
	case o.local.dryRun:
		return a.dryRestore(ctx, view, run.Options)
	}
	begun := time.Now()
	report, err := a.runRestore(ctx, view, run.Options)
	if err != nil {
		return fmt.Errorf("restore snapshot %s to %s: %w", m.ID, o.to, a.whyLost(ctx, r, m, err))
	}
	return a.showRestore(run, choice, report, time.Since(begun))
}

// restoreRun is a restore that is about to run.
type restoreRun struct {
	restore.Options
	command string // restore_command; "" with --no-recovery
}

// prepareRestore makes the settings with which the server will recover.
func (a *app) prepareRestore(ctx context.Context, r *repo.Repo, o *restoreOptions, c *restore.Choice) (*restoreRun, error) {
	m := c.Snapshot
	run := &restoreRun{Options: restore.Options{
		Snapshot: m, To: o.to, Tablespaces: o.moves, Jobs: a.jobs(allJobs()), IsDamage: isDamage,
		Delta: o.local.delta, Reuse: o.local.reuse, Strict: o.local.strict, Key: r.IDKey(), ArchiveOff: o.local.archiveMode == archiveOff,
		LinkAll: o.local.linkAll, AllTablespaces: o.local.tablespaces, Spare: a.ownPlaces(), Archived: c.Coverage.HasFile,
	}}
	if o.noRecovery {
		archive := archiveOf(m).in(r)
		run.WAL = c.WALFiles()
		run.FetchWAL = func(ctx context.Context, name string) ([]byte, error) {
			_, content, err := archive.Fetch(ctx, name)
			if kind, _ := pg.ClassifyWALFile(name); errors.Is(err, walarchive.ErrNotExist) && kind == pg.KindSegment {
				_, content, err = archive.FetchParts(ctx, name, a.tellDamagedPart)
			}
			return content, err
		}
		return run, nil
	}
	var err error
	if run.command, err = a.restoreCommand(m.Cluster); err != nil {
		return nil, err
	}
	recovery := c.Recovery(run.command, o.action)
	recovery.Standby, recovery.PrimaryConninfo, recovery.PrimarySlot = o.standby, o.primary.conninfo, o.primary.slot
	run.Recovery = &recovery
	return run, nil
}

// choose finds the snapshot, and the way from it to the target. A cluster that was replaced or upgraded has several
// system identifiers; the newest that reaches the target is taken.
func (a *app) choose(ctx context.Context, r *repo.Repo, o *restoreOptions) (*restore.Choice, error) {
	catalog, err := loadCatalog(ctx, r, a.settings.Cluster)
	if err != nil {
		return nil, err
	}
	for _, err := range catalog.damaged {
		a.out.warn("%v", err)
	}
	a.warnRefused(catalog)
	given, cluster, err := a.givenSnapshot(catalog, o.snapshot)
	if err != nil {
		return nil, err
	}
	target := o.target
	if o.noRecovery {
		target = restore.Target{Kind: restore.Immediate, Timeline: restore.TimelineGoal{Current: true}}
	}
	var first error
	seen := map[archiveKey]bool{}
	for i := len(catalog.snapshots) - 1; i >= 0; i-- {
		m := catalog.snapshots[i]
		k := archiveOf(m)
		if k.cluster != cluster || seen[k] || given != nil && archiveOf(given) != k {
			continue
		}
		seen[k] = true
		archive := k.in(r)
		coverage, err := archive.Scan(ctx, m.Server.WALSegmentSize)
		if err != nil {
			return nil, err
		}
		chooser := restore.Chooser{Snapshots: ofArchive(catalog.snapshots, k), Coverage: coverage, Headers: archive, Given: given}
		choice, err := chooser.Choose(ctx, target)
		if err == nil {
			if catalog.narrowed()[choice.Snapshot.ID] && !o.standby {
				choice.Warnings = append(choice.Warnings, narrowWarning(choice.Snapshot))
			}
			return choice, nil
		}
		if !errors.Is(err, restore.ErrUnreachable) {
			return nil, err
		}
		if first == nil {
			first = err
		}
	}
	if first == nil {
		return nil, fmt.Errorf("restore cluster %s: %w: there are none", cluster, snapshot.ErrNotFound)
	}
	return nil, fmt.Errorf("restore cluster %s: %w", cluster, first)
}

// narrowWarning says what a server has to fear that goes on from a snapshot that keeps only its own WAL.
func narrowWarning(m *snapshot.Manifest) string {
	return fmt.Sprintf("of the WAL behind snapshot %s nothing is kept on its behalf. If this server takes the old one's place, back it up as soon as it has been promoted: "+
		"until then no snapshot of its own leads to what it writes", m.ID)
}

// givenSnapshot finds the snapshot that was asked for by name, nil where the target is to choose, and the cluster.
// Where no cluster was named, an ID may be of any.
func (a *app) givenSnapshot(c *catalog, name string) (*snapshot.Manifest, string, error) {
	cluster := a.settings.clusterName()
	switch name {
	case "":
		return nil, cluster, nil
	case snapshot.Latest:
		m, err := c.latest(cluster)
		return m, cluster, err
	}
	m, err := c.findShown(name)
	if err != nil {
		return nil, "", err
	}
	return m, m.Cluster, nil
}

func ofArchive(all []*snapshot.Manifest, k archiveKey) []*snapshot.Manifest {
	var own []*snapshot.Manifest
	for _, m := range all {
		if archiveOf(m) == k {
			own = append(own, m)
		}
	}
	return own
}

func (a *app) runRestore(ctx context.Context, view *repo.View, o restore.Options) (*restore.Report, error) {
	p := a.out.startProgress("restore", o.Snapshot.Totals.Size, nil)
	defer p.close()
	o.Events = restore.Events{
		Written: p.add,
		Syncing: func(string) { a.out.detail("everything is written; making it durable") },
	}
	return restore.Run(ctx, view, o)
}

// whyLost explains an error of a restore: where what the snapshot consists of is gone because the snapshot was forgotten
// meanwhile, nothing is damaged.
func (a *app) whyLost(ctx context.Context, r *repo.Repo, m *snapshot.Manifest, err error) error {
	if !isDamage(err) {
		return err
	}
	if there, listErr := stillCounts(ctx, r, m.ID); there || listErr != nil {
		return err
	}
	a.out.detail("%v", err)
	return withHint(fmt.Errorf("%w: it was forgotten, and a prune has removed it meanwhile", snapshot.ErrNotFound),
		"the directory holds a part only: restore another snapshot into it with --delta (`pgtrove snapshots` shows them); `pgtrove pin` keeps one")
}

// tellChoice says what will be restored before it is.
func (a *app) tellChoice(o *restoreOptions, c *restore.Choice) {
	for _, w := range c.Warnings {
		a.out.warn("%s", w)
	}
	m := c.Snapshot
	a.out.info("restoring snapshot %s of cluster %s, which ended at %s: %s", m.ID, m.Cluster, showTime(m.Window.StopTime), c.Reason)
	a.out.info("%s", plannedRecovery(o, c))
}

func plannedRecovery(o *restoreOptions, c *restore.Choice) string {
	switch {
	case o.noRecovery:
		return "the server will start at the end of the snapshot, by itself"
	case o.standby:
		return fmt.Sprintf("the server will be a standby on timeline %d", uint32(c.Timeline))
	}
	action := "promote"
	if o.action != "" {
		action = string(o.action)
	}
	side := ""
	if c.Target.Exclusive {
		side = "right before "
	}
	return fmt.Sprintf("when it is started, the server will recover to %s%s on timeline %d and then %s", side, c.Target, uint32(c.Timeline), action)
}

// warnAboutKey notes what the server will lack when it runs restore_command.
func (a *app) warnAboutKey(dir string) {
	s := &a.settings
	keyFile, file := a.recoveryKeys()
	if file == "" && keyFile == "" && s.Password != "" {
		a.out.warn("the passphrase was not in a file: set PGTROVE_PASSWORD in the server's environment before starting it, restore_command needs it")
	}
	if file == "" {
		file = keyFile
	}
	if file == "" {
		return
	}
	if owner, ok := ownerOf(dir); ok && os.Geteuid() == 0 && owner != 0 && !readableBy(file, owner) {
		a.out.warn("restore_command will run as the owner of %s and needs to read %s, which may not be readable to it", dir, file)
	}
}
