package receive

import (
	"fmt"
	"os"
	"testing"

	"github.com/pgtrove/pgtrove/test/pgtest"
)

// promotable adds a standby of w.
func (w *world) promotable() *pgtest.Server {
	w.t.Helper()
	s := w.NewStandby(w.t)
	s.ExtraEnv = w.env()
	s.Start(w.t)
	return s
}

// promoted promotes a standby that has all of the server's WAL, which is lost then.
func (w *world) promoted(s *pgtest.Server) {
	w.t.Helper()
	s.WaitQuery(w.t, fmt.Sprintf("SELECT pg_last_wal_replay_lsn() >= '%s'", position(w.t, w.Server)), "t", patience)
	w.crash(w.Server)
	s.Exec(w.t, "SELECT pg_promote()")
	s.WaitPromoted(w.t)
}

// TestTwoPromotionsWhileNobodyReceived: recovery finds the newest timeline by asking for the history of one after the other until one is absent.
func TestTwoPromotionsWhileNobodyReceived(t *testing.T) {
	w := newWorld(t, "15", pgtest.Options{Conf: map[string]string{"wal_keep_size": "64MB"}})
	w.announcedLongAgo()
	w.Exec(t, "CREATE TABLE x AS SELECT 1 AS i")
	w.backup()
	standby := w.promotable()
	r := w.receive(w.Server)
	w.Exec(t, "INSERT INTO x VALUES (2)")
	w.reached(w.Server, r)
	if code := r.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	w.promoted(standby)
	standby.Exec(t, "INSERT INTO x VALUES (3)")
	standby.Stop(t, pgtest.Fast)
	if err := os.WriteFile(standby.Dir+"/standby.signal", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	pgtest.Own(t, standby.Dir+"/standby.signal")
	standby.Start(t)
	standby.Exec(t, "SELECT pg_promote()")
	standby.WaitPromoted(t)
	r = w.receive(standby)
	standby.Exec(t, "INSERT INTO x VALUES (4)")
	w.reached(standby, r)
	if tli := r.progress().Timeline; tli != 3 {
		t.Errorf("it streams timeline %d", tli)
	}
	w.crash(standby)
	if code := r.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if got := w.recovered().Query(t, "SELECT string_agg(i::text, ' ' ORDER BY i) FROM x"); got != "1 2 3 4" {
		t.Errorf("rows %s are back", got)
	}
}

// TestAFailoverDuringAnOutageKeepsTheWAL: the standby that is promoted while the storage is away keeps its WAL for us, before anything of it can be stored.
func TestAFailoverDuringAnOutageKeepsTheWAL(t *testing.T) {
	w := newWorld(t, "15", pgtest.Options{Conf: map[string]string{"min_wal_size": "2MB", "max_wal_size": "2MB", "wal_keep_size": "64MB"}})
	w.announcedLongAgo()
	w.Exec(t, "CREATE TABLE x (t text)")
	w.backup()
	standby := w.promotable()
	r := w.receive(w.Server, "--dsn", fmt.Sprintf("host=%s,%s port=%v,%v target_session_attrs=read-write", w.SocketDir, standby.SocketDir, w.Port, standby.Port))
	w.reached(w.Server, r)
	back := w.away()
	w.Exec(t, "INSERT INTO x VALUES ('z')")
	r.says("the storage does not take WAL", 1)
	w.promoted(standby)
	r.says("made the replication slot", 2)
	standby.Configure(t, map[string]string{"wal_keep_size": "0"})
	standby.Reload(t)
	for range 8 {
		standby.Exec(t, "INSERT INTO x SELECT repeat('x', 1000) FROM generate_series(1, 500)")
		standby.SwitchWAL(t)
		standby.Exec(t, "CHECKPOINT")
	}
	back()
	w.reached(standby, r)
	w.crash(standby)
	if code := r.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if list := w.ok("wal", "list"); gaps(list) {
		t.Errorf("the archive has gaps:\n%s", list)
	}
	if got := w.recovered().Query(t, "SELECT count(*) FROM x"); got != "4001" {
		t.Errorf("%s rows are back, want 4001", got)
	}
}
