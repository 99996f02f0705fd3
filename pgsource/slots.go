package pgsource

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// ReceiverSlot is the replication slot of `pgtrove wal receive`, unless it was given another.
const ReceiverSlot = "pgtrove"

// Slot is a replication slot that stays when its session ends.
type Slot struct {
	Name        string
	Logical     bool
	Active      bool
	Application string    // of the session that uses it; "" where none does
	Holds       int64     // bytes of WAL from its restart position to the newest; -1: it holds none (not used yet, or lost)
	Lost        bool      // the server has removed WAL that it was to keep (max_slot_wal_keep_size)
	Safe        int64     // bytes that can be written before it is lost; -1: no end is set, or it is lost
	Since       time.Time // when it became inactive; zero: not known, always before 17
}

// Receives reports whether the slot is that of a receiver of this program, of which name is the slot: by its name, or by who uses it.
func (s Slot) Receives(name string) bool {
	return !s.Logical && (s.Name == name || s.Name == ReceiverSlot || strings.HasPrefix(s.Application, ReceiverSlot))
}

// Slots lists the replication slots, by name, without temporary ones, which end with their sessions, and without copies that a standby
// keeps of its primary's slots, which are never active. Errors: ErrConnectionLost.
func (c *Cluster) Slots(ctx context.Context) ([]Slot, error) {
	// to_jsonb gives NULL for columns that a version does not have.
	const sql = "SELECT s.slot_name::text, s.slot_type = 'logical', s.active, coalesce(a.application_name, ''), " +
		"coalesce(pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) " +
		"ELSE pg_current_wal_insert_lsn() END, s.restart_lsn)::bigint, -1), " +
		"coalesce(s.wal_status = 'lost', false), coalesce(s.safe_wal_size, -1), (to_jsonb(s) ->> 'inactive_since')::timestamptz " +
		"FROM pg_replication_slots s LEFT JOIN pg_stat_activity a ON a.pid = s.active_pid " +
		"WHERE NOT s.temporary AND NOT (pg_is_in_recovery() AND coalesce((to_jsonb(s) ->> 'synced')::boolean, false)) ORDER BY 1"
	var all []Slot
	err := c.rows(ctx, sql, nil, func(row pgx.CollectableRow) error {
		var s Slot
		var since *time.Time
		err := row.Scan(&s.Name, &s.Logical, &s.Active, &s.Application, &s.Holds, &s.Lost, &s.Safe, &since)
		if since != nil {
			s.Since = since.UTC()
		}
		if s.Lost {
			s.Holds = -1
		}
		all = append(all, s)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read replication slots: %w", err)
	}
	return all, nil
}
