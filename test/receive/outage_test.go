package receive

import (
	"os"
	"strings"
	"testing"

	"github.com/pgtrove/pgtrove/test/pgtest"
)

func gaps(list string) bool { return strings.Contains(list, "gap") }

// away takes the storage away, and returns how to bring it back.
func (w *world) away() (back func()) {
	w.t.Helper()
	if err := os.Rename(w.repo, w.repo+".away"); err != nil {
		w.t.Fatal(err)
	}
	done := false
	back = func() {
		if !done {
			done = true
			if err := os.Rename(w.repo+".away", w.repo); err != nil {
				w.t.Error(err)
			}
		}
	}
	w.t.Cleanup(back)
	return back
}

// TestAShutdownDoesNotWaitForTheStorage: the server would wait for ever for a receiver that does not confirm.
func TestAShutdownDoesNotWaitForTheStorage(t *testing.T) {
	eachVersion(t, func(t *testing.T, version string) {
		w := newWorld(t, version, pgtest.Options{Conf: map[string]string{"wal_sender_timeout": "0"}})
		w.announcedLongAgo()
		w.Exec(t, "CREATE TABLE x (i int)")
		w.backup()
		r := w.receive(w.Server)
		w.reached(w.Server, r)
		back := w.away()
		w.Exec(t, "INSERT INTO x SELECT generate_series(1, 1000)")
		r.says("the storage does not take WAL", 1)
		w.Stop(t, pgtest.Fast)
		r.says("disconnected", 1)
		back()
		r.says("the storage takes WAL again", 1)
		// What was received before the shutdown is stored, though the server is gone.
		if got := w.recovered().Query(t, "SELECT count(*) FROM x"); got != "1000" {
			t.Errorf("%s rows are back, want 1000", got)
		}
		w.Start(t)
		w.reached(w.Server, r)
		if code := r.stop(); code != 0 {
			t.Errorf("exit code %d", code)
		}
	})
}

// TestAnOutageUnderLoadIsCaughtUp: more WAL comes than is kept in memory.
func TestAnOutageUnderLoadIsCaughtUp(t *testing.T) {
	w := newWorld(t, "18", pgtest.Options{})
	w.announcedLongAgo()
	w.Exec(t, "CREATE TABLE x (t text)")
	w.backup()
	r := w.receive(w.Server)
	w.reached(w.Server, r)
	back := w.away()
	for range 6 {
		w.Exec(t, "INSERT INTO x SELECT repeat('x', 1000) FROM generate_series(1, 5000)")
	}
	r.says("disconnected", 1)
	back()
	w.reached(w.Server, r)
	if r.progress().Lag != 0 {
		wait(t, "no lag", func() bool { return r.progress().Lag == 0 })
	}
	w.crash(w.Server)
	if code := r.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if list := w.ok("wal", "list"); gaps(list) {
		t.Errorf("the archive has gaps:\n%s", list)
	}
	if got := w.recovered().Query(t, "SELECT count(*) FROM x"); got != "30000" {
		t.Errorf("%s rows are back, want 30000", got)
	}
}

// TestStoppedWhileTheStorageIsAwayItSaysSo and the next one finds everything at the server.
func TestStoppedWhileTheStorageIsAwayItSaysSo(t *testing.T) {
	w := newWorld(t, "15", pgtest.Options{})
	w.Exec(t, "CREATE TABLE x (i int)")
	w.backup()
	r := w.receive(w.Server)
	w.reached(w.Server, r)
	back := w.away()
	w.Exec(t, "INSERT INTO x SELECT generate_series(1, 1000)")
	r.says("the storage does not take WAL", 1)
	if code := r.stop(); code != 7 || !strings.Contains(r.text(), "not everything that was received is stored") {
		t.Errorf("exit code %d, want 7", code)
	}
	back()
	r = w.receive(w.Server)
	w.reached(w.Server, r)
	w.crash(w.Server)
	if code := r.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if got := w.recovered().Query(t, "SELECT count(*) FROM x"); got != "1000" {
		t.Errorf("%s rows are back, want 1000", got)
	}
}
