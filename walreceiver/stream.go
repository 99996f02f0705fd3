package walreceiver

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgtrove/pgtrove/internal/pg"
)

// message is what came from the server.
type message struct {
	lsn   pg.LSN // of the first byte of data
	data  []byte // valid until the next message is asked for; nil: none
	end   pg.LSN // the server's
	reply bool   // an answer is asked for
	err   error  // the stream has ended; errTimelineEnd: in order
}

// reader receives messages of one stream, one for each time that it is asked, in a goroutine of its own.
type reader struct {
	conn *pgconn.PgConn
	in   chan message
	next chan struct{} // asks for the next message
	quit chan struct{}
	done chan struct{}
}

func startReader(conn *pgconn.PgConn) *reader {
	r := &reader{conn: conn, in: make(chan message), next: make(chan struct{}, 1), quit: make(chan struct{}), done: make(chan struct{})}
	go r.run()
	return r
}

// stop ends the goroutine. The connection can be used afterwards.
func (r *reader) stop() {
	close(r.quit)
	_ = r.conn.Conn().SetReadDeadline(time.Unix(1, 0)) // it may wait for the server
	<-r.done
	_ = r.conn.Conn().SetReadDeadline(time.Time{})
}

func (r *reader) run() {
	defer close(r.done)
	for {
		select {
		case <-r.next:
		case <-r.quit:
			return
		}
		m := r.receive()
		select {
		case r.in <- m:
		case <-r.quit:
			return
		}
		if m.err != nil {
			return
		}
	}
}

// receive waits for the next message that means something.
func (r *reader) receive() message {
	for {
		raw, err := r.conn.ReceiveMessage(context.Background())
		if err != nil {
			return message{err: err}
		}
		switch raw := raw.(type) {
		case *pgproto3.CopyData:
			m, known := parse(raw.Data)
			if known {
				return m
			}
		case *pgproto3.CopyDone:
			return message{err: errTimelineEnd}
		case *pgproto3.ErrorResponse:
			return message{err: pgconn.ErrorResponseToPgError(raw)}
		case *pgproto3.CommandComplete: // a server that shuts down says so when it has sent everything
			return message{err: errServerEnd}
		}
	}
}

// errServerEnd says that the server has sent everything, and stops.
var errServerEnd = errors.New("the server has shut down")

func parse(data []byte) (message, bool) {
	if len(data) == 0 {
		return message{}, false
	}
	switch data[0] {
	case pglogrepl.XLogDataByteID:
		x, err := pglogrepl.ParseXLogData(data[1:])
		return message{lsn: pg.LSN(x.WALStart), data: x.WALData, end: pg.LSN(x.ServerWALEnd), err: err}, true
	case pglogrepl.PrimaryKeepaliveMessageByteID:
		k, err := pglogrepl.ParsePrimaryKeepaliveMessage(data[1:])
		return message{end: pg.LSN(k.ServerWALEnd), reply: k.ReplyRequested, err: err}, true
	}
	return message{}, false
}

// sendStatus tells the server up to where all is durable. What is only received counts as nothing: with synchronous_commit = remote_write the server would take
// it for confirmed. A flushed of 0 tells nothing (pglogrepl's own function would make something of it).
func sendStatus(conn *pgconn.PgConn, now time.Time, flushed pg.LSN, ask bool) error {
	b := []byte{'d', 0, 0, 0, 4 + 34, pglogrepl.StandbyStatusUpdateByteID} // CopyData
	b = binary.BigEndian.AppendUint64(b, uint64(flushed))                  // written
	b = binary.BigEndian.AppendUint64(b, uint64(flushed))
	b = binary.BigEndian.AppendUint64(b, uint64(flushed)) // applied
	b = binary.BigEndian.AppendUint64(b, uint64(now.Sub(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)).Microseconds()))
	b = append(b, 0)
	if ask {
		b[len(b)-1] = 1
	}
	_ = conn.Conn().SetWriteDeadline(now.Add(statusEvery))
	if err := conn.Frontend().SendUnbufferedEncodedCopyData(b); err != nil {
		return fmt.Errorf("answer the server: %w", err)
	}
	return nil
}

// endStream leaves the streaming in order, whoever began to end it. What still comes of it is passed over.
func endStream(conn *pgconn.PgConn) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	conn.Frontend().Send(&pgproto3.CopyDone{})
	if conn.Frontend().Flush() != nil {
		return
	}
	for {
		m, err := conn.ReceiveMessage(ctx)
		if err != nil {
			return
		}
		if _, ok := m.(*pgproto3.ReadyForQuery); ok {
			return
		}
	}
}
