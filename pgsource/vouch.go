package pgsource

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/snapshot"
)

// Vouch makes sure that this data directory is the one that parent was taken from, later: that all what happened to its files since
// was done by PostgreSQL and is told by its WAL and by the files' times. nil: what these say is unchanged need not be read.
//
// Errors: ErrNotVouched, with the reason in words for a person; ctx's; those of pg.ReadControl.
func (b *Backup) Vouch(ctx context.Context, parent *snapshot.Manifest, repositoryID string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := b.sameCluster(parent); err != nil {
		return err
	}
	if err := b.descends(parent); err != nil {
		return err
	}
	return b.sameDirectory(parent, repositoryID)
}

// VouchNext is Vouch for a parent that was never committed, so that no file names it: the manifest of earlier, a backup that was
// started and stopped on this very connection. The connection takes the place of LastBackupFile: it was there all the time, so it is
// the same server still, which does not leave its directory. All else must be as Vouch wants it.
//
// Errors: as of Vouch.
func (b *Backup) VouchNext(ctx context.Context, parent *snapshot.Manifest, earlier *Backup) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := b.sameCluster(parent); err != nil {
		return err
	}
	if err := b.descends(parent); err != nil {
		return err
	}
	return b.sameConnection(parent, earlier)
}

func notVouched(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrNotVouched}, args...)...)
}

// sameCluster compares what initdb fixed, and whether pages have checksums: pg_checksums writes them into all pages of a stopped
// cluster, without WAL. The server takes both from pg_control when it starts.
func (b *Backup) sameCluster(parent *snapshot.Manifest) error {
	control, err := pg.ReadControl(b.c.root)
	if err != nil {
		return err
	}
	if control.SystemID != parent.Server.SystemID {
		return notVouched("its system identifier is %s, the server's is %s", parent.Server.SystemID, control.SystemID)
	}
	checksums := control.ChecksumVersion != 0
	if checksums != parent.Server.Checksums {
		return notVouched("page checksums were switched %s since", map[bool]string{true: "on", false: "off"}[checksums])
	}
	if int(control.BlockSize) != parent.Server.BlockSize {
		return notVouched("its blocks have %d bytes, the server's %d", parent.Server.BlockSize, control.BlockSize)
	}
	return nil
}

// descends makes sure that all WAL that parent's files may reflect lies behind us: it is of our history, and ends where we start or
// before. PrepareForIncrementalBackup in basebackup_incremental.c demands the same of a manifest's WAL ranges.
func (b *Backup) descends(parent *snapshot.Manifest) error {
	history, err := b.history()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotVouched, err)
	}
	w := parent.Window
	if !history.Contains(w.Timeline, w.StartLSN) {
		return notVouched("it started at %s of timeline %d, which is not in the history of the server's timeline %d",
			w.StartLSN, uint32(w.Timeline), uint32(b.Timeline))
	}
	if !history.ContainsEnd(w.StopTimeline, w.StopLSN) {
		return notVouched("it stopped at %s of timeline %d, which is not in the history of the server's timeline %d",
			w.StopLSN, uint32(w.StopTimeline), uint32(b.Timeline))
	}
	// A standby starts a backup at its last restart point, which may lie before the stop of the last one. Parent's pages may be as new as
	// its stop, so they may hold changes that replay from our start makes once more. That is no harm to a page as such. But what
	// we list as unchanged was unchanged up to our start only, while parent's pages then went on to its stop: a snapshot of the
	// two would need WAL up to parent's stop to be consistent, and nothing would say so.
	if w.StopLSN > b.StartLSN {
		return notVouched("it stopped at %s, after this backup's start at %s; a standby with little to do needs a checkpoint of its primary first",
			w.StopLSN, b.StartLSN)
	}
	return nil
}

// sameDirectory looks for parent's ID in the data directory. Positions in the WAL cannot tell this directory from a copy of it, nor
// from its own older state on the same timeline: a virtual machine that was rolled back, a directory that was put back.
func (b *Backup) sameDirectory(parent *snapshot.Manifest, repositoryID string) error {
	last, err := b.c.LastSnapshot(repositoryID, parent.Cluster)
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", ErrNotVouched, err)
	case last == "":
		return notVouched("%s in the data directory does not name a snapshot in this repository", LastBackupFile)
	case last != parent.ID:
		return notVouched("%s in the data directory names another snapshot, %s", LastBackupFile, last)
	}
	return nil
}

// sameConnection makes sure that parent is what earlier made, and that earlier ran on our connection, which nothing ever opens anew.
func (b *Backup) sameConnection(parent *snapshot.Manifest, earlier *Backup) error {
	if earlier.c != b.c {
		return notVouched("it was taken over another connection")
	}
	b.c.mu.Lock()
	defer b.c.mu.Unlock()
	if err := b.c.alive(); err != nil {
		return err
	}
	s, w := earlier.stopped, parent.Window
	if s == nil || w.Timeline != s.Timeline || w.StartLSN != s.StartLSN || w.StopTimeline != s.StopTimeline || w.StopLSN != s.StopLSN ||
		!w.StartTime.Equal(earlier.StartTime) || !w.StopTime.Equal(s.StopTime) {
		return notVouched("it is not what the backup before this one made")
	}
	return nil
}

// history is that of the timeline that the backup starts on, from pg_wal.
func (b *Backup) history() (pg.History, error) {
	if b.Timeline == 1 {
		return pg.NewHistory(1), nil
	}
	text, err := b.c.HistoryFile(b.Timeline)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("pg_wal has no history of timeline %d: %w", uint32(b.Timeline), err)
	}
	if err != nil {
		return nil, err
	}
	return pg.ParseHistory(b.Timeline, text)
}
