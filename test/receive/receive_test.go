package receive

import (
	"testing"

	"github.com/pgtrove/pgtrove/test/pgtest"
)

// TestTheLastSecondsBeforeACrashAreRestored: nothing archives, no segment is finished, the server is gone.
func TestTheLastSecondsBeforeACrashAreRestored(t *testing.T) {
	eachVersion(t, func(t *testing.T, version string) {
		w := newWorld(t, version, pgtest.Options{})
		w.backup()
		r := w.receive(w.Server)
		w.Exec(t, "CREATE TABLE x (i int)")
		for range 3 {
			w.Exec(t, "INSERT INTO x SELECT generate_series(1, 1000)")
			w.reached(w.Server, r)
		}
		w.crash(w.Server)
		r.says("trying again", 1)
		if code := r.stop(); code != 0 {
			t.Errorf("exit code %d", code)
		}
		if got := w.recovered().Query(t, "SELECT count(*) FROM x"); got != "3000" {
			t.Errorf("%s rows are back, want 3000", got)
		}
	})
}

// TestOldestVersion is the same in short for the oldest server.
func TestOldestVersion(t *testing.T) {
	w := newWorld(t, pgtest.AllVersions()[0], pgtest.Options{})
	w.backup()
	r := w.receive(w.Server)
	w.Exec(t, "CREATE TABLE x AS SELECT generate_series(1, 100)")
	w.reached(w.Server, r)
	w.crash(w.Server)
	if code := r.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if got := w.recovered().Query(t, "SELECT count(*) FROM x"); got != "100" {
		t.Errorf("%s rows are back, want 100", got)
	}
}

// TestAPromotionIsFollowed: the server that it streams from becomes a primary on a new timeline.
func TestAPromotionIsFollowed(t *testing.T) {
	w := newWorld(t, "18", pgtest.Options{Conf: map[string]string{"wal_keep_size": "64MB"}})
	w.Exec(t, "CREATE TABLE x AS SELECT 1 AS i")
	w.backup()
	standby := w.NewStandby(t)
	standby.ExtraEnv = w.env()
	standby.Start(t)
	r := w.receive(standby)
	r.says("receiving WAL of system", 1)
	w.Exec(t, "INSERT INTO x VALUES (2)")
	at := position(t, w.Server).String()
	standby.WaitQuery(t, "SELECT pg_last_wal_replay_lsn() >= '"+at+"'", "t", patience)
	w.Stop(t, pgtest.Fast)
	standby.Exec(t, "SELECT pg_promote()")
	standby.WaitPromoted(t)
	standby.Exec(t, "INSERT INTO x VALUES (3)")
	w.reached(standby, r)
	if tli := r.progress().Timeline; tli != 2 {
		t.Errorf("it streams timeline %d", tli)
	}
	w.crash(standby)
	if code := r.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if got := w.recovered().Query(t, "SELECT string_agg(i::text, ' ' ORDER BY i) FROM x"); got != "1 2 3" {
		t.Errorf("rows %s are back", got)
	}
}

// TestARestartedServerIsStreamedFromAgain, and one that takes another's place at the same address.
func TestARestartedServerIsStreamedFromAgain(t *testing.T) {
	w := newWorld(t, "15", pgtest.Options{})
	w.announcedLongAgo()
	w.Exec(t, "CREATE TABLE x (i int)")
	w.backup()
	r := w.receive(w.Server)
	r.says("receiving WAL of system", 1) // without its slot the server keeps nothing for it
	for _, mode := range []pgtest.StopMode{pgtest.Fast, pgtest.Smart, pgtest.Immediate} {
		w.Exec(t, "INSERT INTO x SELECT generate_series(1, 20000)")
		w.Stop(t, mode)
		w.Start(t)
	}
	w.reached(w.Server, r)
	w.crash(w.Server)
	if code := r.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if got := w.recovered().Query(t, "SELECT count(*) FROM x"); got != "60000" {
		t.Errorf("%s rows are back, want 60000", got)
	}
}

// TestAKilledReceiverLeavesNoGap: the next one goes on where it was, and makes whole segments of what the other one had in parts.
func TestAKilledReceiverLeavesNoGap(t *testing.T) {
	w := newWorld(t, "15", pgtest.Options{})
	w.announcedLongAgo()
	w.Exec(t, "CREATE TABLE x (i int)")
	w.backup()
	for range 3 {
		r := w.receive(w.Server, "--synchronous")
		r.says("receiving WAL of system", 1)
		w.Exec(t, "INSERT INTO x SELECT generate_series(1, 30000)")
		r.kill()
	}
	r := w.receive(w.Server)
	w.SwitchWAL(t)
	w.reached(w.Server, r)
	if code := r.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if list := w.ok("wal", "list"); gaps(list) {
		t.Errorf("the archive has gaps:\n%s", list)
	}
	w.crash(w.Server)
	if got := w.recovered().Query(t, "SELECT count(*) FROM x"); got != "90000" {
		t.Errorf("%s rows are back, want 90000", got)
	}
}
