package receive

import (
	"os"
	"strings"
	"testing"

	"github.com/pgtrove/pgtrove/test/pgtest"
)

// TestWhatAnotherRepositoryHoldsIsNotConfirmed: what is sealed for one repository is lost in another that has taken its place.
func TestWhatAnotherRepositoryHoldsIsNotConfirmed(t *testing.T) {
	w := newWorld(t, "15", pgtest.Options{})
	w.announcedLongAgo()
	w.Exec(t, "CREATE TABLE x (i int)")
	w.backup()
	r := w.receive(w.Server)
	w.reached(w.Server, r)
	if err := os.Rename(w.repo, w.repo+".old"); err != nil {
		t.Fatal(err)
	}
	w.ok("init", "--key-file", w.key+".new")
	w.Exec(t, "INSERT INTO x VALUES (1)")
	w.SwitchWAL(t)
	w.Exec(t, "INSERT INTO x VALUES (2)")
	at := position(t, w.Server)
	wait(t, "an end, or all confirmed", func() bool {
		select {
		case <-r.done:
			return true
		default:
			return r.progress().Durable >= at
		}
	})
	if r.progress().Durable >= at {
		t.Fatalf("%s is confirmed", at)
	}
	if code := r.ended(); code != 5 || !strings.Contains(r.text(), "another repository has taken the place") {
		t.Errorf("exit code %d", code)
	}
	if kept := w.Query(t, "SELECT restart_lsn < '"+at.String()+"' FROM pg_replication_slots"); kept != "t" {
		t.Error("the slot does not keep what was not stored")
	}
	w.ok("verify", "--read-data", "--key-file", w.key+".new") // nothing was put there that it cannot read

	w.ok("wal", "receive", "--drop-slot")
	for _, move := range [][2]string{{w.repo, w.repo + ".new"}, {w.repo + ".old", w.repo}} {
		if err := os.Rename(move[0], move[1]); err != nil {
			t.Fatal(err)
		}
	}
}
