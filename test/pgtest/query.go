package pgtest

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// DSN is the connection string of the server's database postgres.
func (s *Server) DSN() string { return s.dsn("postgres") }

func (s *Server) dsn(database string) string {
	return fmt.Sprintf("host=%s port=%d user=postgres dbname=%s sslmode=disable connect_timeout=5", s.SocketDir, s.Port, database)
}

// Connect opens a connection that the caller closes.
func (s *Server) Connect(ctx context.Context, database string) (*pgconn.PgConn, error) {
	config, err := pgconn.ParseConfig(s.dsn(database))
	if err != nil {
		return nil, err
	}
	return pgconn.ConnectConfig(ctx, config)
}

// Exec runs SQL in the database postgres; several statements are one
// transaction, as with psql -c.
func (s *Server) Exec(t testing.TB, sql string) {
	t.Helper()
	s.Query(t, sql)
}

// Query runs SQL in the database postgres and returns what psql -At would
// print: columns separated by |, rows by newlines, NULL as nothing, without a
// newline at the end.
func (s *Server) Query(t testing.TB, sql string) string {
	t.Helper()
	return s.QueryIn(t, "postgres", sql)
}

// QueryIn is Query in another database.
func (s *Server) QueryIn(t testing.TB, database, sql string) string {
	t.Helper()
	out, err := s.QueryErr(context.Background(), database, sql)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return out
}

// QueryErr is QueryIn for other goroutines than the test's own, and for SQL
// that may fail.
func (s *Server) QueryErr(ctx context.Context, database, sql string) (string, error) {
	conn, err := s.Connect(ctx, database)
	if err != nil {
		return "", err
	}
	defer conn.Close(ctx)
	results, err := conn.Exec(ctx, sql).ReadAll()
	if err != nil {
		return "", err
	}
	var lines []string
	for _, r := range results {
		for _, row := range r.Rows {
			cells := make([]string, len(row))
			for i, cell := range row {
				cells[i] = string(cell)
			}
			lines = append(lines, strings.Join(cells, "|"))
		}
	}
	return strings.Join(lines, "\n"), nil
}

// WaitQuery repeats a query until its answer is want; an error of the query is
// an answer that is not. It fails the test after timeout.
func (s *Server) WaitQuery(t testing.TB, sql, want string, timeout time.Duration) {
	t.Helper()
	deadline := time.Now().Add(timeout)
	for {
		got, err := s.QueryErr(context.Background(), "postgres", sql)
		if err == nil && got == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: still %q (%v) after %s, want %q", sql, got, err, timeout, want)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// WaitPromoted waits until recovery has ended and the server takes writes.
func (s *Server) WaitPromoted(t testing.TB) {
	t.Helper()
	s.WaitQuery(t, "SELECT pg_is_in_recovery()", "f", startTimeout)
}

// SwitchWAL ends the current segment and returns its name, which the archiver
// will see next. An empty segment is not switched, so a record is written first.
func (s *Server) SwitchWAL(t testing.TB) string {
	t.Helper()
	s.Exec(t, "SELECT txid_current()")
	return s.Query(t, "SELECT pg_walfile_name(pg_switch_wal())")
}

// WaitArchived waits until the archiver has reported this segment or a later
// one as archived.
func (s *Server) WaitArchived(t testing.TB, segment string) {
	t.Helper()
	s.WaitQuery(t, fmt.Sprintf("SELECT coalesce(max(last_archived_wal) >= '%s', false) FROM pg_stat_archiver "+
		"WHERE last_archived_wal ~ '^[0-9A-F]{24}$'", segment), "t", time.Minute)
}
