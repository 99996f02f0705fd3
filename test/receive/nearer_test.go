package receive

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/pgtrove/pgtrove/test/pgtest"
)

// TestWhatTheServerHasOfASegmentIsReplayed: a person saves the last segment of a dead server, which reaches farther than what was received of it. PostgreSQL asks the archive first.
func TestWhatTheServerHasOfASegmentIsReplayed(t *testing.T) {
	w := newWorld(t, "15", pgtest.Options{})
	w.announcedLongAgo()
	w.Exec(t, "CREATE TABLE x AS SELECT 1 AS i")
	w.backup()
	r := w.receive(w.Server)
	w.Exec(t, "INSERT INTO x VALUES (2)")
	w.reached(w.Server, r)
	if code := r.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	w.Exec(t, "INSERT INTO x VALUES (3)")
	last := w.Query(t, "SELECT pg_walfile_name(pg_current_wal_lsn())")
	w.crash(w.Server)
	to := w.restored()
	saved, err := os.ReadFile(filepath.Join(w.Dir, "pg_wal", last))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(to, "pg_wal", last)
	if err := os.WriteFile(path, saved, 0o600); err != nil {
		t.Fatal(err)
	}
	pgtest.Own(t, path)
	if rows := w.started(to).Query(t, "SELECT count(*) FROM x"); rows != "3" {
		t.Errorf("%s rows are back, want 3", rows)
	}
}
