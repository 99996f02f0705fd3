package receive

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgtrove/pgtrove/test/pgtest"
)

// TestRecoveryEndsAtAForkOfWhichOnlyTheHistoryIsThere: a standby was promoted, and died before it archived a segment. What the old primary wrote behind the fork is of another history, received in
// parts or archived as a whole. PostgreSQL by itself replays that.
func TestRecoveryEndsAtAForkOfWhichOnlyTheHistoryIsThere(t *testing.T) {
	eachVersion(t, func(t *testing.T, version string) { forked(t, version, false, false) })
}

// TestRecoveryEndsAtAForkOfWholeSegments is the same where nobody need have received anything.
func TestRecoveryEndsAtAForkOfWholeSegments(t *testing.T) { forked(t, "18", true, false) }

// TestRecoveryEndsAtAForkAtASegmentsEnd is the same where the new timeline takes nothing over of the parent's segment.
func TestRecoveryEndsAtAForkAtASegmentsEnd(t *testing.T) { forked(t, "18", false, true) }

func forked(t *testing.T, version string, whole, boundary bool) {
	w := newWorld(t, version, pgtest.Options{Conf: map[string]string{"wal_keep_size": "64MB"}})
	w.announcedLongAgo()
	w.Exec(t, "CREATE TABLE x AS SELECT 1 AS i")
	w.backup()
	standby := w.NewStandby(t)
	standby.ExtraEnv = w.env()
	standby.Start(t)
	r := w.receive(w.Server)
	w.Exec(t, "INSERT INTO x VALUES (2)")
	if boundary {
		w.SwitchWAL(t)
	}
	at := position(t, w.Server).String()
	standby.WaitQuery(t, "SELECT pg_last_wal_replay_lsn() >= '"+at+"'", "t", patience)
	standby.Exec(t, "SELECT pg_promote()")
	standby.WaitPromoted(t)
	w.Exec(t, "INSERT INTO x VALUES (-3)")
	if whole {
		w.SwitchWAL(t)
		w.Exec(t, "INSERT INTO x VALUES (-4)")
	}
	w.reached(w.Server, r)
	w.crash(w.Server)
	if code := r.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	history := filepath.Join(standby.Dir, "pg_wal", "00000002.history")
	if res := pgtest.Run(t, standby.Command("pgtrove", "wal", "push", "--pgdata", standby.Dir, history)); res.Code != 0 {
		t.Fatalf("push: %d %s", res.Code, res.Stderr)
	}
	back := w.recovered()
	if rows := back.Query(t, "SELECT string_agg(i::text, ' ' ORDER BY i) FROM x"); rows != "1 2" {
		t.Errorf("rows %s are back", rows)
	}
	fork := fields(t, history)
	// Timeline 2 is left where it was begun.
	got := fields(t, filepath.Join(back.Dir, "pg_wal", "00000003.history"))
	if len(got) < 4 || strings.Join(got[:4], " ") != "1 "+fork[1]+" 2 "+fork[1] {
		t.Errorf("the new timeline's history is %q, the fork was at %s", got, fork[1])
	}
}

// fields returns the timelines and positions of a history file.
func fields(t *testing.T, path string) (all []string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) >= 2 {
			all = append(all, f[:2]...)
		}
	}
	return all
}
