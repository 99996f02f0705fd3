package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/pgtrove/pgtrove/pgsource"
	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/snapshot"
)

// backupOptions are the flags of backup.
type backupOptions struct {
	wal         string
	walTimeout  time.Duration
	tags        map[string]string
	checkpoint  string
	newSystemID bool
	paranoid    bool
}

// What backup does about the WAL that the snapshot needs.
const (
	walAuto    = "auto"
	walArchive = "archive"
	walInclude = "include"
	walNone    = "none"
)

func newBackupCommand(a *app) *cobra.Command {
	o := &backupOptions{}
	var tags []string
	c := &cobra.Command{
		Use:   "backup",
		Short: "Take a snapshot of a running cluster",
		Long: `Take a snapshot of a running cluster. It runs on the host of the server, primary or standby, as an account that can
read the data directory, and connects as any PostgreSQL client does. The role needs pg_read_all_settings and EXECUTE on
the functions that start and stop a backup; what is missing is said.

A snapshot is complete once all WAL from its start to its stop is in the repository:
  --wal auto     wait for the server's archive_command to bring it; where the server archives elsewhere, or not at all,
                 read it from the server (default)
  --wal archive  wait for archive_command
  --wal include  read it from the server
  --wal none     wait for nothing: the snapshot is unproven`,
		Args: exactly(),
	}
	f := c.Flags()
	f.StringVar(&o.wal, "wal", walAuto, "`mode`: auto, archive, include or none")
	f.DurationVar(&o.walTimeout, "wal-timeout", 10*time.Minute, "how much `time` to give WAL that is waited for")
	f.StringArrayVar(&tags, "tag", nil, "note `key=value` on the snapshot; may be given several times")
	f.StringVar(&o.checkpoint, "checkpoint", "fast", "`mode`: fast (at once) or spread (over minutes, with less load)")
	f.BoolVar(&o.paranoid, "paranoid", false, "read every file, also those that did not change since the last snapshot")
	f.BoolVar(&o.newSystemID, "new-system-id", false, "the cluster was replaced or upgraded: accept another system identifier under its name")
	c.RunE = a.run(func(ctx context.Context, _ []string) error {
		var err error
		if o.tags, err = parseTags(tags); err != nil {
			return err
		}
		if err := o.validate(); err != nil {
			return err
		}
		return a.backup(ctx, o)
	})
	return c
}

func (o *backupOptions) validate() error {
	switch o.wal {
	case walAuto, walArchive, walInclude, walNone:
	default:
		return usageError{err: fmt.Errorf("--wal %q: give auto, archive, include or none", o.wal), command: "pgtrove backup"}
	}
	switch {
	case o.checkpoint != "fast" && o.checkpoint != "spread":
		return usageError{err: fmt.Errorf("--checkpoint %q: give fast or spread", o.checkpoint), command: "pgtrove backup"}
	case o.walTimeout < 0:
		return usageError{err: fmt.Errorf("--wal-timeout %s is negative", o.walTimeout), command: "pgtrove backup"}
	}
	return nil
}

// parseTags reads key=value words. A snapshot's manifest keeps them.
func parseTags(words []string) (map[string]string, error) {
	tags := map[string]string{}
	for _, w := range words {
		k, v, ok := strings.Cut(w, "=")
		if !ok || k == "" || strings.ContainsFunc(w, func(r rune) bool { return r < ' ' || r == 0x7f }) || len(w) > 512 {
			return nil, usageError{err: fmt.Errorf("--tag %q: give key=value", w), command: "pgtrove backup"}
		}
		tags[k] = v
	}
	return tags, nil
}

func (a *app) backup(ctx context.Context, o *backupOptions) error {
	begun := time.Now()
	r, err := a.openRepository(ctx)
	if err != nil {
		return err
	}
	cluster, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = cluster.Close(ctx) }() // ends the server's backup, if one is left
	name := a.settings.clusterName()
	if err := checkSystem(ctx, r, name, cluster, o.newSystemID); err != nil {
		return err
	}
	host, _ := os.Hostname() // only a note in the manifest
	b := &backupRun{app: a, o: o, repo: r, cluster: cluster, name: name, host: host, begun: begun}
	session := repo.SessionOptions{Cluster: name, Host: host, CacheDir: a.cacheDir(), Now: time.Now}
	for tries := 0; ; tries++ {
		err := r.Write(ctx, session, b.run)
		if err == nil {
			break
		}
		if !errors.Is(err, repo.ErrFenced) || b.fenced == nil || tries == maxReruns {
			return err
		}
		a.out.warn("session %s was fenced by a prune (silent for too long?); continuing in a new one", b.fenced.manifest.ID)
		session.Former = b.fenced.manifest.ID
	}
	b.leaveMark(b.manifest.ID)
	return b.show()
}

// maxReruns is how often a backup that was fenced begins anew. Each time it has less to do.
const maxReruns = 3

func (a *app) connect(ctx context.Context) (*pgsource.Cluster, error) {
	c, err := pgsource.Connect(ctx, pgsource.Options{
		DSN:     a.settings.DSN,
		DataDir: a.settings.PGData,
		Events: pgsource.Events{Skipped: func(path, why string) {
			a.out.warn("%s is a %s and is not backed up", path, why)
		}},
	})
	if err != nil {
		return nil, fmt.Errorf("connect to the server: %w", err)
	}
	return c, nil
}

// backupRun is one backup on its way.
type backupRun struct {
	*app
	o       *backupOptions
	repo    *repo.Repo
	cluster *pgsource.Cluster
	name    string
	host    string

	begun    time.Time
	took     time.Duration // from the first file to the last
	held     bool          // the server keeps its WAL for us
	fenced   *fenced       // the session before this one, which ended without effect; nil: there was none
	base     *baseline
	manifest *snapshot.Manifest
	walNote  string // what the summary says of the WAL
}

// fenced is a backup that a prune ended before it could commit. It was complete otherwise, so the next one is an increment to it.
type fenced struct {
	manifest *snapshot.Manifest
	backup   *pgsource.Backup
}

// run takes the snapshot within a session and commits it.
func (b *backupRun) run(ctx context.Context, s *repo.Session) error {
	b.warnIndex(s.IndexDamage())
	if (b.o.wal == walAuto || b.o.wal == walInclude) && !b.held {
		var err error
		if b.held, err = b.cluster.HoldWAL(ctx); err != nil {
			return err
		}
	}
	b.out.info("waiting for the server to start the backup (%s checkpoint)", b.o.checkpoint)
	backup, err := b.cluster.Start(ctx, "pgtrove "+s.ID(), b.o.checkpoint == "fast")
	if err != nil {
		return err
	}
	b.out.detail("backup %s starts at %s on timeline %d", s.ID(), backup.StartLSN, uint32(backup.Timeline))
	keeper := newWALKeeper(b, s, backup)
	if err := mustKeepWAL(s, keeper.archive, backup, keeper.size); err != nil {
		return err
	}
	keeper.held = b.held
	var result *snapshot.Result
	err = backup.Guard(ctx, func(ctx context.Context) error {
		g, ctx := errgroup.WithContext(ctx)
		taken := make(chan struct{})
		g.Go(func() (err error) {
			defer close(taken)
			result, err = b.take(ctx, s, backup)
			return err
		})
		g.Go(func() error { return keeper.during(ctx, taken) })
		return g.Wait()
	})
	if err != nil {
		return err
	}
	stop, err := backup.Stop(ctx)
	if err != nil {
		return err
	}
	b.out.detail("backup stopped at %s on timeline %d", stop.StopLSN, uint32(stop.StopTimeline))
	// The server keeps its WAL only so long: it is not left alone while the last packs are uploaded.
	var state snapshot.WALState
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.Flush(gctx) })
	g.Go(func() (err error) {
		state, err = keeper.after(gctx, stop)
		return err
	})
	if err := g.Wait(); err != nil {
		return err
	}
	return b.commit(ctx, s, backup, stop, result, state)
}

// take stores the files.
func (b *backupRun) take(ctx context.Context, s *repo.Session, backup *pgsource.Backup) (*snapshot.Result, error) {
	var err error
	if b.base, err = b.findBaseline(ctx, s, backup); err != nil {
		return nil, err
	}
	files, err := backup.Files(ctx)
	if err != nil {
		return nil, err
	}
	var total, count int64
	for i := range files {
		if files[i].Entry.Type == snapshot.File {
			total += files[i].Entry.Size
			count++
		}
	}
	b.out.info("backing up %s in %s", showBytes(total), showCount(count, "file", "files"))
	var p *progress
	p = b.out.startProgress("backup", total, func() int64 {
		added := s.Added().Plain
		if added == 0 { // chunks count when their pack is stored: the first one is still being filled
			return -1
		}
		return p.done.Load() - added
	})
	defer p.close()
	defer func(begun time.Time) { b.took = time.Since(begun) }(time.Now())
	return snapshot.Take(ctx, backup.Sources(ctx, files, backup.Verifier(), b.base.changes), snapshot.Options{
		Jobs:      b.jobs(backupJobs()),
		Key:       b.repo.IDKey(),
		NewWriter: func() (snapshot.Writer, error) { return s.NewWriter() },
		Progress:  p.add,
		Parent:    b.base.parent,
		Replaying: backup.Standby,
		Known:     b.base.known,
		Notes:     s,
		Lost:      b.lost,
	})
}

// commit writes the manifest, the last thing and the one that makes the snapshot exist.
func (b *backupRun) commit(ctx context.Context, s *repo.Session, backup *pgsource.Backup, stop *pgsource.StopInfo, r *snapshot.Result, wal snapshot.WALState) error {
	m := &snapshot.Manifest{
		Version: snapshot.Version, ID: s.ID(), Cluster: b.name,
		Server: b.cluster.Server(),
		Origin: snapshot.Origin{Host: b.host, Tool: "pgtrove " + version(), Standby: backup.Standby},
		Window: snapshot.Window{
			Timeline: stop.Timeline, StopTimeline: stop.StopTimeline, StartLSN: stop.StartLSN, StopLSN: stop.StopLSN,
			StartTime: backup.StartTime, StopTime: stop.StopTime, NextXID: stop.NextXID,
		},
		Totals: totals(r),
		Tags:   maps.Clone(b.o.tags), WAL: wal, Damaged: r.Damaged, Unsettled: r.Unsettled,
		BackupLabel: stop.BackupLabel, TablespaceMap: stop.TablespaceMap, Root: r.Root,
	}
	added := s.Added()
	m.Totals.Added, m.Totals.Meta, m.Totals.New = added.Stored, added.Meta, added.Plain
	m.Totals.Seconds = time.Since(b.begun).Seconds()
	text, err := m.Marshal()
	if err != nil {
		return err
	}
	if err := s.Commit(ctx, text); err != nil {
		if errors.Is(err, repo.ErrFenced) {
			b.fenced = &fenced{m, backup}
		}
		return err
	}
	b.manifest = m
	return nil
}

func totals(r *snapshot.Result) snapshot.Totals {
	return snapshot.Totals{
		Size: r.Size, Read: r.Read, Files: r.Files, ChangedPages: r.ChangedPages,
		Skipped: snapshot.Skipped{Files: r.SkippedFiles, FileBytes: r.SkippedFileBytes, BlockBytes: r.SkippedBlockBytes},
	}
}

// show prints the summary, and says what is missing.
func (b *backupRun) show() error {
	m := b.manifest
	switch {
	case b.settings.JSON:
		if err := b.out.object(snapshotResult(m, m.WAL)); err != nil {
			return err
		}
	case b.settings.Quiet: // cron mails whatever is printed
	default:
		text := fmt.Sprintf("snapshot %s: cluster %s, PostgreSQL %s, %s in %s\n", m.ID, m.Cluster, m.Server.VersionString(),
			showBytes(m.Totals.Size), showCount(m.Totals.Files, "file", "files"))
		text += b.effort()
		text += fmt.Sprintf("  %s changed, %s; added %s to the repository, %s of it metadata, in %s\n", showCount(m.Totals.ChangedPages, "page", "pages"),
			showBytes(m.Totals.ChangedPages*int64(m.Server.BlockSize)), showBytes(m.Totals.Added), showBytes(m.Totals.Meta), showDuration(time.Since(b.begun)))
		text += fmt.Sprintf("  WAL from %s to %s: %s\n", m.Window.StartLSN, m.Window.StopLSN, b.walNote)
		if !m.Server.Checksums {
			text += "  the cluster has no page checksums, so damaged pages cannot be found\n"
		}
		if err := b.out.print("%s", text); err != nil {
			return err
		}
	}
	return b.shortcomings()
}

func (b *backupRun) shortcomings() error {
	m := b.manifest
	for _, d := range m.Damaged {
		why := fmt.Sprintf("checksum is %d, should be %d", d.Stored, d.Computed)
		if d.Stored == d.Computed { // see PageIsVerified in PostgreSQL's bufpage.c: what is new must be empty
			why = "its header says that it was never used, but it is not empty"
		}
		b.out.line("", "damaged page: %s, block %d: %s", strings.TrimPrefix(d.Path, snapshot.DataRoot+"/"), d.Block, why)
	}
	var missing []string
	if n := len(m.Damaged); n > 0 {
		missing = append(missing, showCount(int64(n), "page was damaged in the data directory", "pages were damaged in the data directory")+
			" and stored as they are")
	}
	if m.WAL == snapshot.WALMissing {
		missing = append(missing, b.walNote)
	}
	if len(missing) == 0 {
		return nil
	}
	err := incomplete("snapshot %s is stored but incomplete: %s", m.ID, strings.Join(missing, "; "))
	switch {
	case len(m.Damaged) == 0:
		return withHint(err, "once the missing WAL is archived the snapshot is complete; `pgtrove info` shows it. Does archive_command work? See the server's log")
	case m.WAL == snapshot.WALMissing:
		return err
	}
	return withHint(err, "an older snapshot may hold the pages undamaged; do not forget those before this is repaired")
}

// checkSystem refuses to mix two clusters under one name. The newest snapshot says which cluster the name means; where
// there is none, archived WAL does.
func checkSystem(ctx context.Context, r *repo.Repo, name string, cluster *pgsource.Cluster, accept bool) error {
	ours := archiveKey{name, cluster.Info().SystemID}
	theirs, err := systemOf(ctx, r, ours)
	if err != nil {
		return err
	}
	if theirs == (archiveKey{}) || theirs == ours || accept {
		return nil
	}
	return withHint(refused("back up cluster %s: in the repository this name has system identifier %s, the server has %s",
		name, theirs.system, ours.system),
		"if this is another cluster, give it a name of its own with --cluster NAME; if the cluster was replaced or upgraded, say so once with --new-system-id (its old snapshots stay restorable)")
}

// systemOf returns which cluster the name of ours means; the zero value where nothing of that name is stored.
func systemOf(ctx context.Context, r *repo.Repo, ours archiveKey) (archiveKey, error) {
	newest, err := newestSnapshot(ctx, r, ours.cluster, func(*snapshot.Manifest) bool { return true })
	if err != nil {
		return archiveKey{}, err
	}
	if newest != nil {
		return archiveOf(newest), nil
	}
	return archivedSystem(ctx, r, ours)
}

// archivedSystem returns whose WAL stands under the name of ours: ours, if there is any of it, or another's; the zero
// value where there is none.
func archivedSystem(ctx context.Context, r *repo.Repo, ours archiveKey) (archiveKey, error) {
	for _, prefix := range []string{walPrefix(ours.cluster, ours.system.String()), walPrefix(ours.cluster, "")} {
		var found archiveKey
		err := r.List(ctx, prefix, func(key string, _ int64) error {
			k, err := parseWALKey(key)
			if err != nil {
				return nil // no WAL file; verify reports it
			}
			found = k
			return errFound
		})
		if err != nil && !errors.Is(err, errFound) {
			return archiveKey{}, err
		}
		if found != (archiveKey{}) {
			return found, nil
		}
	}
	return archiveKey{}, nil
}

// errFound ends a listing early.
var errFound = errors.New("found")
