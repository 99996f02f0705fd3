package walrules

import (
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/test/pgtest"
)

// TestASegmentOfOneGigabyteGoesThere is the largest that PostgreSQL has.
func TestASegmentOfOneGigabyteGoesThere(t *testing.T) {
	a := newArchive(t)
	s := a.server("15", pgtest.Options{WALSegMB: 1024, Conf: map[string]string{"wal_init_zero": "off"}})
	s.Exec(t, "CREATE TABLE t AS SELECT 1 AS n")
	name := s.SwitchWAL(t)
	s.WaitQuery(t, "SELECT last_archived_wal FROM pg_stat_archiver", name, 2*time.Minute)
	to := filepath.Join(a.dir, "fetched")
	pgtest.MustRun(t, inData(s, "wal", "fetch", "--ahead", "0", name, to))
	if r := pgtest.Run(t, exec.Command("cmp", to, inWAL(s, name))); r.Code != 0 {
		t.Errorf("another gigabyte came back: %s%s", r.Stdout, r.Stderr)
	}
}
