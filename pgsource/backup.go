package pgsource

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pgtrove/pgtrove/internal/pg"
)

// Backup is a backup that the server has started and not stopped. It ends with Stop, or with the connection. Its methods may be
// called from several goroutines; nobody writes to its fields.
type Backup struct {
	Label     string
	StartLSN  pg.LSN      // where replay begins: no page needs WAL from before
	Timeline  pg.Timeline // of StartLSN
	StartTime time.Time   // the server's clock right before, UTC
	Standby   bool        // of a standby

	c       *Cluster
	stopped *StopInfo // guarded by c.mu; nil: it was not stopped, or that failed
}

// StopInfo is what the end of a backup brought.
type StopInfo struct {
	StartLSN      pg.LSN      // as the label has it, the same as Backup.StartLSN
	Timeline      pg.Timeline // of StartLSN
	CheckpointLSN pg.LSN      // of the checkpoint record that recovery begins with

	// StopLSN is where recovery is consistent at the earliest: all WAL before it is needed. StopTimeline is the timeline of the
	// byte before it; it differs from Timeline only on a standby that followed its primary to a new one meanwhile.
	StopLSN      pg.LSN
	StopTimeline pg.Timeline

	BackupLabel   []byte // byte for byte
	TablespaceMap []byte // byte for byte; empty without tablespaces

	// StopTime is not before the time of any commit up to StopLSN: the server's clock after the stop, UTC. On a standby, whose clock
	// may be behind the primary's, the time of the last commit replayed if that is later.
	StopTime time.Time

	// NextXID is a full transaction ID, epoch in the upper half: no transaction from it on had ended at StopLSN, so a recovery to
	// the end of one of them gets past StopLSN first. It is the xmax of a snapshot taken after the stop. 0: unknown, on a
	// standby that did not get to StopLSN in time.
	NextXID uint64
}

// codeNotInState is ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, by which the server refuses to start or stop a backup. Its texts
// are in the server's language, so what is wrong is found out by asking.
const codeNotInState = "55000"

// Start makes the server begin a backup: on a primary it waits for a checkpoint, which the server does at once when fast is true and
// otherwise spreads over minutes (checkpoint_completion_target); on a standby for a restart point, if there is a checkpoint
// to make it at. One Cluster has one backup at a time; others may run on the server at once.
//
// The backup ends with ctx only if ctx is cancelled in a call that waits for the server.
//
// Errors: ErrWALLevel, ErrFullPageWrites, ErrConnectionLost, ErrBackupState.
func (c *Cluster) Start(ctx context.Context, label string, fast bool) (*Backup, error) {
	if strings.ContainsAny(label, "\r\n\x00") {
		return nil, fmt.Errorf("backup label %q: control characters", label)
	}
	b := &Backup{Label: label, c: c}
	if err := c.claim(true); err != nil {
		return nil, err
	}
	err := c.row(ctx, "SELECT pg_is_in_recovery(), clock_timestamp()", nil, &b.Standby, &b.StartTime)
	if err != nil {
		return nil, c.unclaim(fmt.Errorf("start backup: %w", err))
	}
	b.StartTime = b.StartTime.UTC()
	if c.info.WAL.Level == "minimal" {
		return nil, c.unclaim(fmt.Errorf("start backup: %w", ErrWALLevel))
	}
	sql := "SELECT pg_backup_start($1, $2)::text"
	if c.info.Major() < 15 {
		sql = "SELECT pg_start_backup($1, $2, false)::text"
	}
	var start string
	if err := c.row(ctx, sql, []any{label, fast}, &start); err != nil {
		if b.Standby && isCode(err, codeNotInState) { // on a standby there is no other reason
			err = fmt.Errorf("%w since its last restart point: %w", ErrFullPageWrites, err)
		}
		return nil, c.unclaim(fmt.Errorf("start backup: %w", err))
	}
	if err := b.started(start); err != nil {
		_ = c.Close(ctx) // ends the backup; the first error says why
		return nil, fmt.Errorf("start backup: %w", err)
	}
	return b, nil
}

// started takes in where the backup starts. The server has just written its control file, so a data directory that Connect
// mistook for the server's shows now: it is behind.
func (b *Backup) started(start string) error {
	var err error
	if b.StartLSN, err = pg.ParseLSN(start); err != nil {
		return err
	}
	control, err := pg.ReadControl(b.c.root)
	if err != nil {
		return err
	}
	if err := b.checkControl(control); err != nil {
		return err
	}
	b.Timeline = control.Timeline
	return nil
}

// claim notes that a backup starts (or ends), which only one may at a time.
func (c *Cluster) claim(start bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.inUse == start {
		return ErrBackupState
	}
	c.inUse = start
	return nil
}

// unclaim takes claim(true) back after an error.
func (c *Cluster) unclaim(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.inUse = false
	return err
}

// pingEvery is short enough for proxies that drop idle connections, and to learn early that copying on is useless.
const pingEvery = 5 * time.Second

// Guard runs fn and meanwhile makes sure, every 5 seconds, that the connection is there and that a standby still is one. When
// either fails, the context of fn is cancelled and Guard returns that error: what fn copies would be void.
//
// Errors: ErrConnectionLost, ErrPromoted, fn's own.
func (b *Backup) Guard(ctx context.Context, fn func(context.Context) error) error {
	done := make(chan struct{})
	g, inner := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(done)
		return fn(inner)
	})
	g.Go(func() error {
		tick := time.NewTicker(pingEvery)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return nil
			case <-inner.Done():
				return nil // fn tells why, or the caller knows
			case <-tick.C:
				// With the caller's ctx: when fn ends, a ping on its way must not be cancelled, it would take the connection along.
				if err := b.Ping(ctx); err != nil {
					return err
				}
			}
		}
	})
	return g.Wait()
}

// Ping makes sure that the backup can still succeed. Errors: ErrConnectionLost, ErrPromoted.
func (b *Backup) Ping(ctx context.Context) error {
	var standby bool
	if err := b.c.row(ctx, "SELECT pg_is_in_recovery()", nil, &standby); err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	if b.Standby && !standby {
		return fmt.Errorf("backup: %w", ErrPromoted)
	}
	return nil
}

// Stop ends the backup and returns what a restore needs of it. It does not wait for the archive. On a primary, the server
// switches to a new WAL segment (do_pg_backup_stop), so that all of the backup's WAL is complete. After an error the backup is
// void, and over on the server. The connection stays open for WAL; Close it.
//
// Errors: ErrConnectionLost, ErrPromoted, ErrFullPageWrites, ErrBackupState.
func (b *Backup) Stop(ctx context.Context) (*StopInfo, error) {
	if err := b.c.claim(false); err != nil {
		return nil, err
	}
	s, err := b.stop(ctx)
	if err != nil {
		_ = b.c.Close(ctx) // whatever state the server's backup is in, this ends it; the first error says why
		return nil, fmt.Errorf("stop backup: %w", err)
	}
	b.c.mu.Lock()
	defer b.c.mu.Unlock()
	b.stopped = s
	return s, nil
}

func (b *Backup) stop(ctx context.Context) (*StopInfo, error) {
	if err := b.Ping(ctx); err != nil { // a promotion has a clear answer here
		return nil, err
	}
	call := "pg_backup_stop(false)"
	if b.c.info.Major() < 15 {
		call = "pg_stop_backup(false, false)"
	}
	// Paths in the tablespace map are bytes, but the server takes them for text in the database's encoding. Converted to that
	// they stay as they are, while a text would come in the client's encoding.
	sql := "SELECT lsn::text, convert_to(labelfile, getdatabaseencoding()), convert_to(spcmapfile, getdatabaseencoding()) FROM " + call
	s := &StopInfo{}
	var stop string
	if err := b.c.row(ctx, sql, nil, &stop, &s.BackupLabel, &s.TablespaceMap); err != nil {
		return nil, b.stopError(ctx, err)
	}
	var err error
	if s.StopLSN, err = pg.ParseLSN(stop); err != nil {
		return nil, err
	}
	label, err := parseLabel(s.BackupLabel)
	if err != nil {
		return nil, err
	}
	if label.start != b.StartLSN || label.standby != b.Standby {
		return nil, fmt.Errorf("the label is of another backup, which started at %s", label.start)
	}
	s.StartLSN, s.Timeline, s.CheckpointLSN = label.start, label.timeline, label.checkpoint
	if s.StopTimeline, err = b.timelineAt(s.Timeline, s.StopLSN); err != nil {
		return nil, err
	}
	return s, b.now(ctx, s)
}

// stopError finds out why the server refused to stop. In recovery it knows two reasons: the promotion, and WAL without full pages.
func (b *Backup) stopError(ctx context.Context, err error) error {
	if !b.Standby || !isCode(err, codeNotInState) {
		return err
	}
	if ping := b.Ping(ctx); ping != nil {
		return ping
	}
	return fmt.Errorf("%w: %w", ErrFullPageWrites, err)
}

// timelineAt is the timeline of the byte before the stop position. The server does not tell it. A primary cannot change its
// timeline while we are connected. A standby can, by following its primary; then its control file names the last one, and the
// history of that says where each begins.
func (b *Backup) timelineAt(start pg.Timeline, stop pg.LSN) (pg.Timeline, error) {
	if !b.Standby {
		return start, nil
	}
	control, err := pg.ReadControl(b.c.root)
	if err != nil {
		return 0, err
	}
	last := control.MinRecoveryTimeline
	if last <= start {
		return start, nil
	}
	text, err := b.c.HistoryFile(last)
	if err != nil {
		return 0, err
	}
	history, err := pg.ParseHistory(last, text)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", filepath.Join("pg_wal", last.String()+".history"), err)
	}
	return history.TimelineAt(stop - 1), nil
}

const (
	replayPatience = 10 * time.Second
	replayPause    = 50 * time.Millisecond
)

// now reads the clock and the next transaction ID after the stop. A standby may be replaying the very record that ends at the
// stop position; what it sees counts from when it is done with that.
func (b *Backup) now(ctx context.Context, s *StopInfo) error {
	const sql = "SELECT coalesce(pg_last_wal_replay_lsn() >= $1::text::pg_lsn, false), pg_snapshot_xmax(pg_current_snapshot())::text::bigint, " +
		"greatest(clock_timestamp(), pg_last_xact_replay_timestamp())"
	deadline := time.Now().Add(replayPatience)
	for {
		var reached bool
		var xid int64
		if err := b.c.row(ctx, sql, []any{s.StopLSN.String()}, &reached, &xid, &s.StopTime); err != nil {
			return fmt.Errorf("read clock: %w", err)
		}
		s.StopTime = s.StopTime.UTC()
		if reached || !b.Standby {
			s.NextXID = uint64(xid)
			return nil
		}
		if time.Now().After(deadline) {
			return nil
		}
		select {
		case <-time.After(replayPause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// insertLSN is a position that no page on disk is beyond: where the primary inserts WAL next, or what the standby has received
// (or restored from an archive and replayed).
func (c *Cluster) insertLSN(ctx context.Context) (pg.LSN, error) {
	const sql = "SELECT (CASE WHEN pg_is_in_recovery() THEN greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) " +
		"ELSE pg_current_wal_insert_lsn() END)::text"
	return c.position(ctx, sql)
}

func (c *Cluster) position(ctx context.Context, sql string) (pg.LSN, error) {
	var text *string
	if err := c.row(ctx, sql, nil, &text); err != nil {
		return 0, fmt.Errorf("read WAL position: %w", err)
	}
	if text == nil {
		return 0, errors.New("read WAL position: the server has none")
	}
	lsn, err := pg.ParseLSN(*text)
	if err != nil {
		return 0, fmt.Errorf("read WAL position: %w", err)
	}
	return lsn, nil
}
