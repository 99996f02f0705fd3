package e2e

import (
	"strings"
	"testing"

	"github.com/pgtrove/pgtrove/test/pgtest"
)

// TestAServerThatGoesOnFromANarrowedSnapshotLosesNothing, though prunes come before its first backup, and it is lost before that, too.
func TestAServerThatGoesOnFromANarrowedSnapshotLosesNothing(t *testing.T) {
	w := newWorld(t, "15", pgtest.Options{WALSegMB: 1, Conf: map[string]string{"autovacuum": "off"}})
	w.Exec(t, "CREATE TABLE story (n int); INSERT INTO story VALUES (1)")
	base := w.backup()
	w.Exec(t, "INSERT INTO story VALUES (9)")
	later := w.backup()
	w.Stop(t, pgtest.Fast)
	w.narrow(base.ID)
	to := w.newDir()
	if r := w.run("restore", base.ID, "--target-immediate", "--to", to); r.Code != 0 || !strings.Contains(r.Stderr, "back it up as soon as it has been promoted") {
		t.Fatalf("%+v", r)
	}
	promoted := pgtest.Adopt(t, "15", to)
	promoted.ExtraEnv = w.env()
	promoted.Start(t)
	promoted.WaitPromoted(t)
	for _, n := range []string{"2", "3", "4"} {
		promoted.Exec(t, "INSERT INTO story VALUES ("+n+"); SELECT pg_switch_wal()")
	}
	promoted.WaitArchived(t, promoted.SwitchWAL(t))
	promoted.Stop(t, pgtest.Immediate)
	w.ok("forget", later.ID)
	for range 3 {
		w.pruneWAL()
	}
	if got := w.gaps(); len(got) > 0 {
		t.Errorf("gaps: %v", got)
	}
	s := w.adopt(w.restore())
	sameRows(t, s, "SELECT string_agg(n::text, ' ' ORDER BY n) FROM story", "1 2 3 4")
	s.Stop(t, pgtest.Immediate)
}
