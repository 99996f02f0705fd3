package pgsource

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgtrove/pgtrove/internal/pg"
)

// heldSlot names the slot of this connection. Names are lower-case letters, digits and underscores.
const heldSlot = "'pgtrove_' || pg_backend_pid()"

// HoldWAL makes the server keep the WAL from its last checkpoint on, by a temporary replication slot as pg_basebackup makes one: it
// ends with the connection. false: the role may not (it needs REPLICATION), or there is no slot left; the server then keeps its
// WAL only until the checkpoint after next.
//
// Errors: ErrConnectionLost.
func (c *Cluster) HoldWAL(ctx context.Context) (bool, error) {
	var name string
	return c.slot(ctx, "SELECT slot_name FROM pg_create_physical_replication_slot("+heldSlot+", true, true)", &name)
}

// ReleaseWAL lets go of the WAL before lsn. The slot may be gone: a server drops one that holds too much (max_slot_wal_keep_size).
// Errors: ErrConnectionLost.
func (c *Cluster) ReleaseWAL(ctx context.Context, lsn pg.LSN) error {
	var name string
	_, err := c.slot(ctx, "SELECT slot_name FROM pg_replication_slot_advance("+heldSlot+", '"+lsn.String()+"')", &name)
	return err
}

// slot runs a query whose refusal by the server is no error.
func (c *Cluster) slot(ctx context.Context, sql string, dest ...any) (bool, error) {
	err := c.row(ctx, sql, nil, dest...)
	if refusal := (*pgconn.PgError)(nil); errors.As(err, &refusal) && !errors.Is(err, ErrConnectionLost) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("hold WAL: %w", err)
	}
	return true, nil
}
