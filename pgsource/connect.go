package pgsource

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Options of Connect.
type Options struct {
	// DSN is a connection string or URI as libpq takes it. What it does not say comes from the libpq environment (PGHOST,
	// PGPASSFILE, PGSERVICE, ...), so "" is fine.
	DSN string
	// DataDir is where the server's data directory is on this host; "": where the server says.
	DataDir string
	Events  Events
}

// Events are told what a person may want to know of and no error stands for. Functions may be nil.
type Events struct {
	// Skipped is told of what lies in the data directory and cannot be stored: sockets, pipes, devices.
	Skipped func(path, why string)
}

// Cluster is a connection to a running server and its data directory on this host. All methods may be called from several
// goroutines: they take turns on the connection.
//
// Cancelling the context of a call that waits for the server closes the connection, and so ends a backup that runs.
type Cluster struct {
	info   Info
	root   string // the data directory, links resolved
	events Events

	mu    sync.Mutex
	conn  *pgx.Conn
	lost  error // why the connection ended, for later calls
	inUse bool  // a backup was started and not stopped
}

// connectTimeout ends a try to connect where nobody said how long to wait (connect_timeout).
const connectTimeout = 30 * time.Second

// Connect opens the connection and makes sure that a backup can be made with it: version, privileges, and that the data
// directory is the one in which this very server runs. Close the result.
//
// Errors: ErrSettings, ErrUnreachable, ErrRejected, *VersionError, *PrivilegeError, *DataDirError.
func Connect(ctx context.Context, o Options) (*Cluster, error) {
	conn, err := dial(ctx, o.DSN)
	if err != nil {
		return nil, err
	}
	c := &Cluster{conn: conn, events: o.Events}
	if err := c.prepare(ctx, o.DataDir); err != nil {
		_ = c.Close(ctx) // the first error says why
		return nil, err
	}
	return c, nil
}

func dial(ctx context.Context, dsn string) (*pgx.Conn, error) {
	config, err := parseSettings(dsn, "pgtrove")
	if err != nil {
		return nil, err
	}
	return dialConfig(ctx, config)
}

// connectCause sorts a failed try to connect by the server's SQLSTATE.
func connectCause(err error) error {
	var server *pgconn.PgError
	if errors.As(err, &server) {
		switch {
		case strings.HasPrefix(server.Code, "28"): // invalid authorization
			return ErrRejected
		case server.Code == "42501": // no CONNECT on the database
			return ErrRejected
		case server.Code == "3D000", server.Code == "22023": // no such database, no such value of a setting
			return ErrSettings
		}
	}
	return ErrUnreachable
}

func (c *Cluster) prepare(ctx context.Context, dataDir string) error {
	if err := c.readVersion(ctx); err != nil {
		return err
	}
	if err := c.configureSession(ctx); err != nil {
		return err
	}
	if err := c.checkPrivileges(ctx); err != nil {
		return err
	}
	if err := c.readInfo(ctx); err != nil {
		return err
	}
	return c.openDataDir(ctx, dataDir)
}

// configureSession keeps the server from ending a session that is idle while files are copied, and our queries from meaning
// something else through a search_path.
func (c *Cluster) configureSession(ctx context.Context) error {
	settings := []string{"statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"}
	if c.info.Major() >= 14 {
		settings = append(settings, "idle_session_timeout")
	}
	if c.info.Major() >= 17 {
		settings = append(settings, "transaction_timeout")
	}
	var done int
	err := c.row(ctx, "SELECT count(pg_catalog.set_config(name, '0', false)) + count(pg_catalog.set_config('search_path', 'pg_catalog', false)) "+
		"FROM pg_catalog.unnest($1::text[]) name", []any{settings}, &done)
	if err != nil {
		return fmt.Errorf("configure session: %w", err)
	}
	return nil
}

// Close ends the connection, and so a backup that was started and not stopped. A query that was given up is cancelled on the
// server first. It works with a cancelled context too, and takes a few seconds at most. Later calls do nothing.
func (c *Cluster) Close(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lost == nil {
		c.lost = errors.New("it was closed")
	}
	if c.conn.IsClosed() { // pgx cancels the query and ends the connection beside us
		select {
		case <-c.conn.PgConn().CleanupDone():
		case <-time.After(closePatience):
		}
		return nil
	}
	closeCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closePatience)
	defer cancel()
	if err := c.conn.Close(closeCtx); err != nil {
		return fmt.Errorf("close connection: %w", err)
	}
	return nil
}

// closePatience is for a server that does not read what we send.
const closePatience = 5 * time.Second

// row runs a query of one row.
func (c *Cluster) row(ctx context.Context, sql string, args []any, dest ...any) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rowLocked(ctx, sql, args, dest...)
}

func (c *Cluster) rowLocked(ctx context.Context, sql string, args []any, dest ...any) error {
	if err := c.alive(); err != nil {
		return err
	}
	return c.judge(ctx, c.conn.QueryRow(ctx, sql, args...).Scan(dest...))
}

// rows runs a query and calls each with every row.
func (c *Cluster) rows(ctx context.Context, sql string, args []any, each func(pgx.CollectableRow) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.alive(); err != nil {
		return err
	}
	rows, err := c.conn.Query(ctx, sql, args...)
	if err == nil {
		defer rows.Close()
		for err == nil && rows.Next() {
			err = each(rows)
		}
		if err == nil {
			err = rows.Err()
		}
	}
	return c.judge(ctx, err)
}

func (c *Cluster) alive() error {
	if c.lost == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrConnectionLost, c.lost)
}

// judge tells the loss of the connection from other errors of a query, and remembers it.
func (c *Cluster) judge(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	if !c.conn.IsClosed() {
		return err
	}
	c.lost = err
	if ctx.Err() != nil {
		return err
	}
	return fmt.Errorf("%w: %w", ErrConnectionLost, err)
}

// isCode reports whether the server refused a query with this SQLSTATE.
func isCode(err error, code string) bool {
	var server *pgconn.PgError
	return errors.As(err, &server) && server.Code == code
}
