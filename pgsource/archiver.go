package pgsource

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pgtrove/pgtrove/internal/pg"
)

// ArchiverStatus is what the server's archiver did so far (pg_stat_archiver). Names are "" and times zero where there was nothing.
type ArchiverStatus struct {
	Archived     int64
	LastArchived string // name of a WAL file
	LastTime     time.Time
	Failed       int64
	LastFailed   string
	FailedTime   time.Time
}

// Failing reports whether the last that the archiver did was to fail.
func (a ArchiverStatus) Failing() bool { return a.FailedTime.After(a.LastTime) }

// ArchiverStatus asks for the state of the archiver, for messages. Errors: ErrConnectionLost.
func (c *Cluster) ArchiverStatus(ctx context.Context) (ArchiverStatus, error) {
	var a ArchiverStatus
	var last, failed *time.Time
	err := c.row(ctx, "SELECT archived_count, coalesce(last_archived_wal, ''), last_archived_time, "+
		"failed_count, coalesce(last_failed_wal, ''), last_failed_time FROM pg_stat_archiver", nil,
		&a.Archived, &a.LastArchived, &last, &a.Failed, &a.LastFailed, &failed)
	if err != nil {
		return ArchiverStatus{}, fmt.Errorf("read state of the archiver: %w", err)
	}
	if last != nil {
		a.LastTime = last.UTC()
	}
	if failed != nil {
		a.FailedTime = failed.UTC()
	}
	return a, nil
}

// ArchiverAbsent reports whether it is certain that no archiver process runs: from 14 on, where pg_stat_activity lists it, and for
// a role that may see other sessions. One that ends with an error is started again every ten seconds at most.
// Errors: ErrConnectionLost.
func (c *Cluster) ArchiverAbsent(ctx context.Context) (bool, error) {
	if c.info.Major() < 14 {
		return false, nil
	}
	var absent bool
	err := c.row(ctx, "SELECT pg_has_role(current_user, 'pg_read_all_stats', 'USAGE') "+
		"AND NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'archiver')", nil, &absent)
	if err != nil {
		return false, fmt.Errorf("look for the archiver: %w", err)
	}
	return absent, nil
}

// Waiting is the WAL that the server has marked for its archiver.
type Waiting struct {
	Files int
	First string    // the file that has waited longest
	Since time.Time // when it was marked
}

// WaitingWAL reads from the data directory what waits for the archiver, whatever it is that archives. Errors: fs.ErrPermission, and
// others of reading a directory.
func (c *Cluster) WaitingWAL() (Waiting, error) {
	var w Waiting
	entries, err := os.ReadDir(filepath.Join(c.root, "pg_wal", "archive_status"))
	if err != nil {
		return w, fmt.Errorf("read what waits for the archiver: %w", err)
	}
	for _, e := range entries {
		name, ready := strings.CutSuffix(e.Name(), ".ready")
		if !ready {
			continue
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) { // archived meanwhile
			continue
		}
		if err != nil {
			return w, fmt.Errorf("read what waits for the archiver: %w", err)
		}
		w.Files++
		if w.Since.IsZero() || info.ModTime().Before(w.Since) {
			w.First, w.Since = name, info.ModTime()
		}
	}
	return w, nil
}

// ArchiveMark reports how the server has marked a WAL file: ready, it waits for the archiver; done, it is archived. Neither, where the
// file is not finished, the server has forgotten it, or that cannot be read.
func (c *Cluster) ArchiveMark(name string) (ready, done bool) {
	mark := func(suffix string) bool {
		_, err := os.Stat(filepath.Join(c.root, "pg_wal", "archive_status", name+suffix))
		return err == nil
	}
	done = mark(".done")
	return !done && mark(".ready"), done
}

// ForceSegment makes a primary write a record and end the segment that it is in, and returns that segment: the archiver, or whoever
// receives WAL, gets it next. It leaves nothing but the record, which means nothing to anybody. Where a role lacks what that
// takes, nothing is written.
//
// Errors: ErrInRecovery, *PrivilegeError (nothing else here needs these grants), ErrConnectionLost.
func (c *Cluster) ForceSegment(ctx context.Context) (pg.Segment, error) {
	var standby bool
	if err := c.row(ctx, "SELECT pg_is_in_recovery()", nil, &standby); err != nil {
		return pg.Segment{}, fmt.Errorf("switch WAL segment: %w", err)
	}
	if standby {
		return pg.Segment{}, fmt.Errorf("switch WAL segment: %w", ErrInRecovery)
	}
	message := "pg_logical_emit_message(boolean, text, text)"
	if c.info.Major() >= 17 {
		message = "pg_logical_emit_message(boolean, text, text, boolean)"
	}
	_, missing, err := c.missing(ctx, []string{"pg_switch_wal()", message, "pg_walfile_name(pg_lsn)"})
	if err == nil {
		err = c.privilegeError(ctx, missing)
	}
	if err != nil {
		return pg.Segment{}, fmt.Errorf("switch WAL segment: %w", err)
	}
	// A segment to which nothing was written would not be ended.
	end, err := c.position(ctx, "SELECT pg_logical_emit_message(false, 'pgtrove', 'check')::text")
	if err != nil {
		return pg.Segment{}, err
	}
	var name string
	// The timeline that WAL is written to; that of the last checkpoint is older for a while after a promotion.
	if err := c.row(ctx, "SELECT pg_walfile_name(pg_switch_wal())", nil, &name); err != nil {
		return pg.Segment{}, fmt.Errorf("switch WAL segment: %w", err)
	}
	tli, err := pg.WALFileTimeline(name)
	if err != nil {
		return pg.Segment{}, fmt.Errorf("switch WAL segment: %w", err)
	}
	return pg.SegmentBefore(tli, end, c.info.Layout.WALSegmentSize), nil
}

// LastSegment is the newest segment of which a standby has every byte, by streaming or from an archive. Its timeline is the one that
// the standby's WAL has there, as far as the history files in pg_wal tell. Errors: ErrConnectionLost.
func (c *Cluster) LastSegment(ctx context.Context) (pg.Segment, error) {
	end, err := c.position(ctx, "SELECT greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())::text")
	if err != nil {
		return pg.Segment{}, err
	}
	tli, err := c.newestHistory()
	if err != nil {
		return pg.Segment{}, err
	}
	size := c.info.Layout.WALSegmentSize
	begun := pg.SegmentOf(tli, end, size).Start(size) // nothing of this one, or not all
	last := pg.SegmentBefore(tli, begun, size)
	if text, err := c.HistoryFile(tli); err == nil {
		if h, err := pg.ParseHistory(tli, text); err == nil {
			last.Timeline = h.TimelineAt(begun - 1)
		}
	}
	return last, nil
}

// newestHistory is the newest timeline that the server knows of.
func (c *Cluster) newestHistory() (pg.Timeline, error) {
	newest := c.info.Timeline
	entries, err := os.ReadDir(filepath.Join(c.root, "pg_wal"))
	if err != nil {
		return 0, fmt.Errorf("look for history files: %w", err)
	}
	for _, e := range entries {
		if kind, err := pg.ClassifyWALFile(e.Name()); err == nil && kind == pg.KindHistory {
			if tli, err := pg.WALFileTimeline(e.Name()); err == nil {
				newest = max(newest, tli)
			}
		}
	}
	return newest, nil
}
