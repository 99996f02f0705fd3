package walreceiver

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgtrove/pgtrove/internal/pg"
)

// link is a connection to a server.
type link struct {
	beside  Beside
	query   *pgx.Conn // ordinary; nil where it is not needed
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
	var err error
	if l.text, err = l.historyText(ctx, l.server.Timeline); err != nil {
		return err
	}
	if l.history, err = pg.ParseHistory(l.server.Timeline, l.text); err != nil {
		return fmt.Errorf("read the history of timeline %d: %w", uint32(l.server.Timeline), err)
	}
	return nil
}

// historyText is the history file of a timeline.
func (l *link) historyText(ctx context.Context, tli pg.Timeline) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, connectPatience)
	defer cancel()
	h, err := pglogrepl.TimelineHistory(ctx, l.stream.PgConn(), int32(tli))
	if err != nil {
		return nil, fmt.Errorf("read the history of timeline %d: %w", uint32(tli), err)
	}
	return h.Content, nil
}

// quiet closes the ordinary connection: a server that is told to stop smartly would wait for it.
func (l *link) quiet() {
	if l.query == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	_ = l.query.Close(ctx) // whatever it says, it is over
	l.query = nil
}

// has says whether the server has a segment. It asks to stream it, beside, and without a slot: other ways need more privileges.
func (l *link) has(ctx context.Context, s pg.Segment) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, connectPatience)
	defer cancel()
	name := s.Name(l.server.SegmentSize)
	conn, err := l.beside(ctx, true)
	if err != nil {
		return false, fmt.Errorf("ask the server for %s: %w", name, err)
	}
	defer func() { _ = conn.Close(ctx) }()
	conn.PgConn().Frontend().SendQuery(&pgproto3.Query{
		String: fmt.Sprintf("START_REPLICATION PHYSICAL %s TIMELINE %d", s.Start(l.server.SegmentSize), uint32(s.Timeline)),
	})
	err = conn.PgConn().Frontend().Flush()
	for err == nil {
		var m pgproto3.BackendMessage
		if m, err = conn.PgConn().ReceiveMessage(ctx); err != nil {
			break
		}
		switch m := m.(type) {
		case *pgproto3.CopyData:
			if p, known := parse(m.Data); known && p.data != nil {
				return true, nil
			}
		case *pgproto3.CopyDone, *pgproto3.CommandComplete: // nothing of the timeline is behind it
			return true, nil
		case *pgproto3.ErrorResponse:
			err = pgconn.ErrorResponseToPgError(m)
		}
	}
	if isCode(err, codeRemoved) {
		return false, nil
	}
	return false, fmt.Errorf("ask the server for %s: %w", name, err)
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
