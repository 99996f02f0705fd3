package e2e

import (
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/test/pgtest"
)

// TestAPageChangedBehindTheRestartPointIsSeenByTheNextBackup: a backup of a standby begins with the last restart point. A page that was
// changed and written since is in no summary up to there, and keeps the parent's version; the file has a new time already. The
// next backup, which begins behind the change, must not take the file for untouched.
func TestAPageChangedBehindTheRestartPointIsSeenByTheNextBackup(t *testing.T) {
	w := newWorld(t, "18", pgtest.Options{Conf: map[string]string{"summarize_wal": "on", "autovacuum": "off"}})
	w.Exec(t, "CREATE EXTENSION pg_buffercache")
	w.Exec(t, "CREATE TABLE ledger AS SELECT n, 'before'::text AS v, repeat('x', 500) AS fill FROM generate_series(1, 3000) n")
	w.Exec(t, "VACUUM (FREEZE) ledger")
	standby := standbyOf(t, w)
	replayed := func() {
		t.Helper()
		lsn := w.Query(t, "SELECT pg_current_wal_lsn()")
		for until := time.Now().Add(time.Minute); standby.Query(t, "SELECT pg_last_wal_replay_lsn() >= '"+lsn+"'") != "t"; {
			if time.Now().After(until) {
				t.Fatal("the standby does not follow")
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	restartPoint := func() {
		w.Exec(t, "CREATE TABLE IF NOT EXISTS other (); DROP TABLE other")
		w.Exec(t, "CHECKPOINT")
		replayed()
		standby.Exec(t, "CHECKPOINT")
	}
	backup := func() snapshot {
		t.Helper()
		r := pgtest.Run(t, standby.Command("pgtrove", "backup", "--json", "--wal", "none"))
		return lastSnapshot(t, r.Stdout)
	}
	restartPoint()
	time.Sleep(2100 * time.Millisecond) // the times of files are to be believed
	backup()
	restartPoint()
	w.Exec(t, "UPDATE ledger SET v = 'after' WHERE n = 1700")
	replayed()
	if n := standby.Query(t, "SELECT count(pg_buffercache_evict(bufferid)) FROM pg_buffercache WHERE relfilenode = pg_relation_filenode('ledger') AND isdirty"); n == "0" {
		t.Fatal("nothing was to be written")
	}
	time.Sleep(2100 * time.Millisecond)
	second := backup()
	if second.SkippedBlocks == 0 {
		t.Fatal("summaries were not used, so this proves nothing")
	}
	restartPoint()
	third := backup()
	w.archived()
	restored := w.adopt(w.restore(third.ID))
	if got := restored.Query(t, "SELECT v FROM ledger WHERE n = 1700"); got != "after" {
		t.Errorf("the row is %q", got)
	}
	sound(t, restored)
}
