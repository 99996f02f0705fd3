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
