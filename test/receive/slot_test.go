package receive

import (
	"strings"
	"testing"

	"github.com/pgtrove/pgtrove/test/pgtest"
)

// refused runs wal receive to its end, which must come by itself with this exit code and a message that has all parts.
func (w *world) refused(s *pgtest.Server, code int, parts []string, args ...string) {
	w.t.Helper()
	cmd := s.Command("pgtrove", append([]string{"wal", "receive"}, args...)...)
	r := pgtest.Run(w.t, cmd)
	if r.Code != code {
		w.t.Errorf("wal receive %s: exit %d, want %d\n%s", strings.Join(args, " "), r.Code, code, r.Stderr)
	}
	for _, p := range parts {
		if !strings.Contains(r.Stderr, p) {
			w.t.Errorf("wal receive %s: the message lacks %q:\n%s", strings.Join(args, " "), p, r.Stderr)
		}
	}
}

// TestWhatDoesNotPassByItselfEndsIt with the exit code of its class.
func TestWhatDoesNotPassByItselfEndsIt(t *testing.T) {
	w := newWorld(t, "15", pgtest.Options{})
	w.backup()
	w.refused(w.Server, 4, []string{"no such replication slot"}, "--drop-slot")
	w.refused(w.Server, 2, []string{"--slot \"A-b\""}, "--slot", "A-b")
	w.Exec(t, "CREATE ROLE plain LOGIN")
	w.refused(w.Server, 8, []string{`ALTER ROLE "plain" REPLICATION`}, "--dsn", "user=plain")
	w.Exec(t, "ALTER SYSTEM SET wal_level = 'logical'")
	w.Stop(t, pgtest.Fast)
	w.Start(t)
	w.Exec(t, "SELECT pg_create_logical_replication_slot('decoding', 'test_decoding')")
	w.refused(w.Server, 5, []string{"it is a logical one"}, "--slot", "decoding")
	w.Exec(t, "SELECT pg_drop_replication_slot('decoding')")

	other := pgtest.New(t, "15", pgtest.Options{WALSegMB: 1})
	other.ExtraEnv = w.env()
	other.Start(t)
	w.refused(other, 5, []string{"has system identifier"})
	if got := other.Query(t, "SELECT count(*) FROM pg_replication_slots"); got != "0" {
		t.Errorf("%s slots were made at a server that was refused", got)
	}
}

func TestASlotIsInUseOnce(t *testing.T) {
	w := newWorld(t, "15", pgtest.Options{})
	r := w.receive(w.Server)
	w.reached(w.Server, r)
	w.refused(w.Server, 6, []string{"in use"}, "--drop-slot")
	second := w.receive(w.Server)
	second.says("is active for PID", 1)
	if code := r.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	second.says("receiving WAL of system", 1)
	if code := second.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	w.refused(w.Server, 0, []string{"slot pgtrove is removed"}, "--drop-slot")
	if got := w.Query(t, "SELECT count(*) FROM pg_replication_slots"); got != "0" {
		t.Errorf("%s slots are left", got)
	}
}

// TestASlotThatOthersDroppedOrMade: receiving goes on where the archive ends if the server still has that, whatever the slot says; and else it says what is missing, and
// that is what is removed.
func TestASlotThatOthersDroppedOrMade(t *testing.T) {
	w := newWorld(t, "18", pgtest.Options{Conf: map[string]string{"min_wal_size": "2MB", "max_wal_size": "2MB", "wal_keep_size": "5MB"}})
	w.Exec(t, "CREATE TABLE x (t text)")
	w.backup()
	received := func() *receiver {
		t.Helper()
		r := w.receive(w.Server)
		w.reached(w.Server, r)
		if code := r.stop(); code != 0 {
			t.Fatalf("exit code %d", code)
		}
		w.Exec(t, "SELECT pg_drop_replication_slot('pgtrove')")
		return r
	}
	w.SwitchWAL(t)
	received()
	w.SwitchWAL(t)
	if r := received(); !strings.Contains(r.text(), "made the replication slot pgtrove") {
		t.Error("nothing is said of a new slot")
	}
	for range 2 {
		w.Exec(t, "INSERT INTO x VALUES ('y')")
		w.SwitchWAL(t)
	}
	w.Exec(t, "CHECKPOINT")
	w.Exec(t, "SELECT pg_create_physical_replication_slot('pgtrove', true)") // further on than the archive reaches
	received()
	if list := w.ok("wal", "list"); gaps(list) {
		t.Errorf("the server had the WAL, and the archive has gaps:\n%s", list)
	}

	for range 12 {
		w.Exec(t, "INSERT INTO x SELECT repeat('x', 1000) FROM generate_series(1, 500)")
		w.SwitchWAL(t)
		w.Exec(t, "CHECKPOINT")
	}
	oldest := w.Query(t, "SELECT min(name) FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$'")
	r := received()
	if n := strings.Count(r.text(), "the server has removed WAL that the repository lacks"); n != 1 {
		t.Errorf("told %d times what is missing, want once:\n%s", n, r.text())
	}
	if list := w.ok("wal", "list"); !gaps(list) || !strings.Contains(w.ok("wal", "list", "--json"), oldest) {
		t.Errorf("no gap is shown, or %s, which the server had, was not received:\n%s", oldest, list)
	}
}

// TestTwoServersOnOneTimelineAreTold: the archive holds other content under the segment's name.
func TestTwoServersOnOneTimelineAreTold(t *testing.T) {
	w := newWorld(t, "15", pgtest.Options{Conf: map[string]string{"wal_keep_size": "64MB"}})
	w.Exec(t, "CREATE TABLE x (i int)")
	w.backup()
	twin := w.NewStandby(t)
	twin.ExtraEnv = w.env()
	twin.Start(t)
	at := position(t, w.Server).String()
	twin.WaitQuery(t, "SELECT pg_last_wal_replay_lsn() >= '"+at+"'", "t", patience)
	twin.Stop(t, pgtest.Fast)
	removeStandbySignal(t, twin)
	twin.Start(t) // on the same timeline: nobody promoted it

	r := w.receive(w.Server)
	w.Exec(t, "INSERT INTO x SELECT generate_series(1, 1000)")
	w.SwitchWAL(t)
	w.reached(w.Server, r)
	if code := r.stop(); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	other := w.receive(twin, "--slot", "twin")
	other.says("receiving WAL of system", 1)
	twin.Exec(t, "INSERT INTO x VALUES (4)")
	twin.SwitchWAL(t)
	if code := other.ended(); code != 5 || !strings.Contains(other.text(), "split brain") {
		t.Errorf("exit code %d, want 5", code)
	}
}
