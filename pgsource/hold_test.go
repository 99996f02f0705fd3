package pgsource_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/test/pgtest"
)

// TestHeldWALStaysUntilItIsReleased: checkpoints remove what nothing holds; the slot does, and ends with the connection.
func TestHeldWALStaysUntilItIsReleased(t *testing.T) {
	for _, version := range pgtest.Versions(t) {
		t.Run("PostgreSQL"+version, func(t *testing.T) {
			s := pgtest.New(t, version, pgtest.Options{WALSegMB: 1, Conf: map[string]string{"min_wal_size": "2MB", "max_wal_size": "4MB"}})
			s.Start(t)
			c := connect(t, s)
			if held, err := c.HoldWAL(t.Context()); !held || err != nil {
				t.Fatal(held, err)
			}
			first := s.Query(t, "SELECT pg_walfile_name(pg_current_wal_lsn())")
			there := func() bool {
				_, err := os.Stat(filepath.Join(s.Dir, "pg_wal", first))
				return err == nil
			}
			write := func() {
				for range 4 {
					s.Exec(t, "SELECT pg_switch_wal()")
					s.Exec(t, "CREATE TABLE IF NOT EXISTS x (); DROP TABLE x")
					s.Exec(t, "CHECKPOINT")
				}
			}
			write()
			if !there() {
				t.Fatal("the server removed what is held")
			}
			seg, err := pg.ParseSegment(first, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			if err := c.ReleaseWAL(t.Context(), seg.Next().Start(1<<20)); err != nil {
				t.Fatal(err)
			}
			write()
			if there() {
				t.Error("the server still keeps what was released")
			}
			if err := c.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			s.Exec(t, "SELECT pg_sleep(0.2)")
			if n := s.Query(t, "SELECT count(*) FROM pg_replication_slots"); n != "0" {
				t.Errorf("%s slots outlast the connection", n)
			}
		})
	}
}

// TestAServerWithoutSlotsHoldsNothing: and that is no error, the backup goes on without.
func TestAServerWithoutSlotsHoldsNothing(t *testing.T) {
	s := pgtest.New(t, "15", pgtest.Options{Conf: map[string]string{"max_replication_slots": "0"}})
	s.Start(t)
	c := connect(t, s)
	if held, err := c.HoldWAL(t.Context()); held || err != nil {
		t.Fatal(held, err)
	}
	if err := c.ReleaseWAL(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if _, err := c.ArchiverStatus(t.Context()); err != nil {
		t.Errorf("the connection is of no use any more: %v", err)
	}
}
