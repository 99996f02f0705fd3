package walreceiver

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgtrove/pgtrove/internal/pg"
)

// link is a connection to a server.
type link struct {
	beside  Beside
	query   *pgx.Conn // ordinary; nil once the stream has begun
	stream  *pgx.Conn // replication=yes
	server  Server
	history pg.History
	text    []byte // of the history file; nil on timeline 1
}

// connectPatience is for questions that a server answers at once.
const connectPatience = 30 * time.Second

// connect opens both connections and asks the server what it is.
func connect(ctx context.Context, dial Dial) (*link, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*connectPatience)
	defer cancel()
	l := &link{}
	err := l.connect(ctx, dial)
	if err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

func (l *link) connect(ctx context.Context, dial Dial) (err error) {
	if l.query, l.beside, err = dial(ctx); err != nil {
		return err
	}
	var size, block, timeout int64
	err = l.query.QueryRow(ctx, "SELECT (SELECT setting::bigint FROM pg_catalog.pg_settings WHERE name = 'wal_segment_size'), "+
		"(SELECT setting::bigint FROM pg_catalog.pg_settings WHERE name = 'wal_block_size'), "+
		"(SELECT setting::bigint FROM pg_catalog.pg_settings WHERE name = 'wal_sender_timeout')").Scan(&size, &block, &timeout)
	if err != nil {
		return fmt.Errorf("ask the server for its settings: %w", err)
	}
	l.server.SegmentSize, l.server.BlockSize = pg.SegmentSize(size), uint32(block)
	l.server.Timeout = time.Duration(timeout) * time.Millisecond
	if !l.server.SegmentSize.Valid() {
		return fmt.Errorf("ask the server for its settings: %w: segments of %d bytes", ErrSystem, size)
	}
	if l.stream, err = l.beside(ctx, true); err != nil {
		return fmt.Errorf("for replication: %w", err)
	}
	system, err := pglogrepl.IdentifySystem(ctx, l.stream.PgConn())
	if err != nil {
		return fmt.Errorf("identify the server: %w", err)
	}
	if l.server.System, err = pg.ParseSystemID(system.SystemID); err != nil {
		return fmt.Errorf("identify the server: %w", err)
	}
	l.server.Timeline, l.server.Position = pg.Timeline(system.Timeline), pg.LSN(system.XLogPos)
	return l.readHistory(ctx)
}

func (l *link) readHistory(ctx context.Context) error {
	l.history = pg.NewHistory(l.server.Timeline)
	if l.server.Timeline == 1 {
		return nil
	}
	h, err := pglogrepl.TimelineHistory(ctx, l.stream.PgConn(), int32(l.server.Timeline))
	if err == nil {
		l.text = h.Content
		l.history, err = pg.ParseHistory(l.server.Timeline, l.text)
	}
	if err != nil {
		return fmt.Errorf("read the history of timeline %d: %w", uint32(l.server.Timeline), err)
	}
	return nil
}

// segment is the file that recovery along the server's history reads for a number: where a timeline ends within the segment, the next one's.
func (l *link) segment(number uint64) pg.Segment {
	s := pg.Segment{Number: number}
	s.Timeline = l.history.TimelineAt(s.End(l.server.SegmentSize) - 1)
	return s
}

func (l *link) number(lsn pg.LSN) uint64 { return pg.SegmentOf(1, lsn, l.server.SegmentSize).Number }

// start begins to stream from the segment's first byte on. timelineEnd: there is nothing of that timeline behind it.
func (l *link) start(ctx context.Context, slot string, s pg.Segment) error {
	_ = l.query.Close(ctx) // a server that is told to stop smartly would wait for it
	l.query = nil
	err := pglogrepl.StartReplication(ctx, l.stream.PgConn(), `"`+slot+`"`, pglogrepl.LSN(s.Start(l.server.SegmentSize)), pglogrepl.StartReplicationOptions{
		Timeline: int32(s.Timeline), Mode: pglogrepl.PhysicalReplication,
	})
	if _, _, end := pglogrepl.IsErrEndTimeline(err); end {
		return errTimelineEnd
	}
	if err != nil {
		return fmt.Errorf("start to receive WAL from %s: %w", s.Name(l.server.SegmentSize), err)
	}
	return nil
}

// errTimelineEnd says that the server has sent all of a timeline.
var errTimelineEnd = errors.New("end of the timeline")

func (l *link) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	for _, c := range []*pgx.Conn{l.query, l.stream} {
		if c != nil {
			_ = c.Close(ctx) // whatever it says, it is over
		}
	}
	l.query, l.stream = nil, nil
}

// slot is what the server says of ours.
type slot struct {
	restart pg.LSN // from where on it keeps WAL; 0: nothing
	fresh   bool   // it was made just now, or was never used
}

// slot finds the slot, or makes it. One that has lost its WAL holds nothing any more, and is made anew. Errors: ErrSlot.
func (l *link) slot(ctx context.Context, name string, made func(name string, lost bool)) (s slot, err error) {
	ctx, cancel := context.WithTimeout(ctx, connectPatience)
	defer cancel()
	var kind, restart, status string
	err = l.query.QueryRow(ctx, "SELECT slot_type, coalesce(restart_lsn::text, ''), coalesce(wal_status, '') FROM pg_catalog.pg_replication_slots "+
		"WHERE slot_name = $1::text", name).Scan(&kind, &restart, &status)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return l.makeSlot(ctx, name, false, made)
	case err != nil:
		return s, fmt.Errorf("look for slot %s: %w", name, err)
	case kind != "physical":
		return s, fmt.Errorf("slot %s: %w: it is a %s one", name, ErrSlot, kind)
	case status == "lost":
		if _, err := l.query.Exec(ctx, "SELECT pg_catalog.pg_drop_replication_slot($1::text::name)", name); err != nil {
			return s, fmt.Errorf("drop slot %s, which has lost its WAL: %w", name, err)
		}
		return l.makeSlot(ctx, name, true, made)
	case restart == "":
		return slot{fresh: true}, nil
	}
	s.restart, err = pg.ParseLSN(restart)
	return s, err
}

func (l *link) makeSlot(ctx context.Context, name string, lost bool, made func(string, bool)) (s slot, err error) {
	var restart string
	err = l.query.QueryRow(ctx, "SELECT lsn::text FROM pg_catalog.pg_create_physical_replication_slot($1::text::name, true)", name).Scan(&restart)
	var refused *pgconn.PgError
	switch {
	case errors.As(err, &refused) && !passes(refused.Code):
		return s, fmt.Errorf("make slot %s: %w: %w", name, ErrSlot, err)
	case err != nil:
		return s, fmt.Errorf("make slot %s: %w", name, err)
	}
	s.fresh = true
	if s.restart, err = pg.ParseLSN(restart); err != nil {
		return s, fmt.Errorf("make slot %s: %w", name, err)
	}
	made(name, lost)
	return s, nil
}

// passes says of a server's refusal that it passes by itself: it stops, starts or is full, or somebody else has just made the slot.
func passes(code string) bool {
	return len(code) == 5 && (code[:2] == "57" || code[:2] == "08" || code == "53300" || code == "42710" || code == "25006")
}

// DropSlot removes the slot, so that the server keeps no WAL for it any more. Errors: ErrNoSlot, ErrSlotInUse.
func DropSlot(ctx context.Context, conn *pgx.Conn, name string) error {
	_, err := conn.Exec(ctx, "SELECT pg_catalog.pg_drop_replication_slot($1::text::name)", name)
	switch {
	case isCode(err, "42704"):
		return fmt.Errorf("drop slot %s: %w", name, ErrNoSlot)
	case isCode(err, "55006"):
		return fmt.Errorf("drop slot %s: %w", name, ErrSlotInUse)
	case err != nil:
		return fmt.Errorf("drop slot %s: %w", name, err)
	}
	return nil
}

// isCode reports whether the server refused with this SQLSTATE.
func isCode(err error, code string) bool {
	var server *pgconn.PgError
	return errors.As(err, &server) && server.Code == code
}

// codeRemoved is the SQLSTATE with which a server says that it has removed WAL (undefined_file).
const codeRemoved = "58P01"
