package walreceiver

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgtrove/pgtrove/internal/pg"
)

// slot is what the server says of ours.
type slot struct {
	restart pg.LSN // from where on it keeps WAL; 0: nothing
	fresh   bool   // it was made just now, or was never used
}

// slot finds the slot, or makes it. One that has lost its WAL holds nothing any more, and is made anew. Errors: ErrSlot.
func (l *link) slot(ctx context.Context, name string, made func(name string, lost bool)) (s slot, err error) {
	ctx, cancel := context.WithTimeout(ctx, connectPatience)
	defer cancel()
	if l.query == nil {
		if l.query, err = l.beside(ctx, false); err != nil {
			return s, fmt.Errorf("look for slot %s: %w", name, err)
		}
	}
	defer l.quiet()
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

// holdSlot makes sure now and then, until ctx ends, that the server that is there has our slot, and says when it made one: while what was received is still being stored
// another server may have been promoted, and it would keep no WAL for us.
func holdSlot(ctx context.Context, o Options, ours Server, made chan<- bool) {
	for pause := firstPause; ; pause = min(2*pause, modeEvery) {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		var lost []bool
		l, err := connect(ctx, o.Dial)
		if err != nil {
			continue // the next session tells it
		}
		if l.server.isOf(ours) {
			_, _ = l.slot(ctx, o.Slot, func(_ string, was bool) { lost = append(lost, was) })
		}
		l.close()
		for _, was := range lost {
			select {
			case made <- was:
			case <-ctx.Done():
				return
			}
		}
	}
}

// isOf says whether both are of one cluster.
func (s Server) isOf(o Server) bool { return s.System == o.System && s.SegmentSize == o.SegmentSize }
