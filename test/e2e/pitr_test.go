package e2e

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/test/pgtest"
)

func TestTheMomentBeforeADroppedTableBringsItsRowsBack(t *testing.T) {
	eachVersion(t, pgtest.Versions(t), func(t *testing.T, version string) {
		w := newWorld(t, version, pgtest.Options{})
		w.Exec(t, "CREATE TABLE precious AS SELECT generate_series(1, 1000) AS n")
		w.backup()
		w.Exec(t, "INSERT INTO precious SELECT generate_series(1001, 1500)")
		w.Exec(t, "SELECT pg_sleep(0.05)")
		moment := w.Query(t, "SELECT clock_timestamp()")
		w.Exec(t, "SELECT pg_sleep(0.05)")
		w.Exec(t, "DROP TABLE precious")
		w.Exec(t, "CREATE TABLE later AS SELECT 1 AS n")
		w.archived()
		restored := w.adopt(w.restore("--target-time", moment))
		sameRows(t, restored, "SELECT count(*), sum(n) FROM precious", "1500|1125750")
		sameRows(t, restored, "SELECT to_regclass('later') IS NULL", "t")
		sound(t, restored)
	})
}

// history is a cluster whose table grows by a row at each of several moments, with a snapshot in the middle.
type history struct {
	*world
	first, second snapshot
	lsn, xid      []string    // after, and of, the insert of row i
	at            []time.Time // after row i
}

func newHistory(t *testing.T, version string) *history {
	t.Helper()
	h := &history{world: newWorld(t, version, pgtest.Options{Conf: map[string]string{"autovacuum": "off"}})}
	h.Exec(t, "CREATE TABLE story (n int)")
	row := func(n string) {
		h.xid = append(h.xid, h.Query(t, "WITH i AS (INSERT INTO story VALUES ("+n+") RETURNING n) SELECT pg_current_xact_id() FROM i"))
		h.lsn = append(h.lsn, h.Query(t, "SELECT pg_current_wal_lsn()"))
		h.Exec(t, "SELECT pg_sleep(0.05)")
		at, err := time.Parse("2006-01-02 15:04:05.999999", h.Query(t, "SELECT clock_timestamp() AT TIME ZONE 'UTC'"))
		if err != nil {
			t.Fatal(err)
		}
		h.at = append(h.at, at)
		h.Exec(t, "SELECT pg_sleep(0.05)")
	}
	row("0")
	h.first = h.backup()
	row("1")
	row("2")
	h.Exec(t, "SELECT pg_create_restore_point('after two')")
	row("3")
	h.second = h.backup()
	row("4")
	row("5")
	h.archived()
	return h
}

// rows restores with args and returns the rows of the story and what was said.
func (h *history) rows(t *testing.T, args ...string) (rows, said string) {
	t.Helper()
	dir := h.newDir()
	r := pgtest.Run(t, h.Command("pgtrove", append([]string{"restore", "--to", dir}, args...)...))
	if r.Code != 0 {
		t.Fatalf("restore %v: exit %d\n%s", args, r.Code, r.Stderr)
	}
	s := pgtest.Adopt(t, h.Version, dir)
	s.Args = append(s.Args, "-c", "archive_mode=off")
	s.ExtraEnv = h.env()
	s.Start(t)
	s.WaitPromoted(t)
	defer s.Stop(t, pgtest.Immediate)
	return s.Query(t, "SELECT string_agg(n::text, ' ' ORDER BY n) FROM story"), r.Stdout + r.Stderr
}

func TestEveryKindOfTargetIsReached(t *testing.T) {
	eachVersion(t, pgtest.Versions(t), func(t *testing.T, version string) {
		h := newHistory(t, version)
		local := h.at[1].In(time.FixedZone("", 5*3600+1800)).Format("2006-01-02 15:04:05.000000-07:00")
		for _, c := range []struct {
			name string
			args []string
			want string
			from snapshot
		}{
			{"the end of the archive", nil, "0 1 2 3 4 5", h.second},
			{"a time before the second snapshot", []string{"--target-time", h.at[1].Format(time.RFC3339Nano)}, "0 1", h.first},
			{"a time in another zone", []string{"--target-time", local}, "0 1", h.first},
			{"a time after it", []string{"--target-time", h.at[4].Format(time.RFC3339Nano)}, "0 1 2 3 4", h.second},
			{"an LSN", []string{"--target-lsn", h.lsn[1]}, "0 1", h.first},
			{"a transaction", []string{"--target-xid", h.xid[2]}, "0 1 2", h.first},
			{"the end before a transaction", []string{"--target-xid", h.xid[2], "--target-exclusive"}, "0 1", h.first},
			{"a transaction after the second snapshot", []string{"--target-xid", h.xid[4]}, "0 1 2 3 4", h.second},
			{"a restore point", []string{"--target-name", "after two"}, "0 1 2", h.first},
			{"the end of the first snapshot", []string{h.first.ID, "--target-immediate"}, "0", h.first},
			{"the end of the newest", []string{"--target-immediate"}, "0 1 2 3", h.second},
		} {
			rows, said := h.rows(t, c.args...)
			if rows != c.want {
				t.Errorf("%s: rows %q, want %q", c.name, rows, c.want)
			}
			if !strings.Contains(said, c.from.ID) {
				t.Errorf("%s: not from %s:\n%s", c.name, c.from.ID, said)
			}
		}
	})
}

func TestUnreachableTargetsAreRefusedBeforeAnythingIsWritten(t *testing.T) {
	h := newHistory(t, "15")
	for name, args := range map[string][]string{
		"a time before the first snapshot": {"--target-time", h.at[0].Add(-time.Hour).Format(time.RFC3339)},
		"a time after the last commit":     {"--target-time", h.at[5].Add(time.Hour).Format(time.RFC3339)},
		"an LSN before the first snapshot": {"--target-lsn", "0/1000000"},
		"an LSN after the archive":         {"--target-lsn", "7/0"},
		"an unknown restore point":         {"--target-name", "after three"},
		"another timeline":                 {"--target-timeline", "7"},
	} {
		dir := h.newDir()
		r := h.fails(5, []string{"hint: "}, append([]string{"restore", "--to", dir}, args...)...)
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%s: %s was made\n%s", name, dir, r.Stderr)
		}
	}
	for name, args := range map[string][]string{
		"no time":       {"--target-time", "yesterday noon"},
		"no LSN":        {"--target-lsn", "xyz"},
		"no number":     {"--target-xid", "12a"},
		"two at once":   {"--target-lsn", h.lsn[1], "--target-xid", h.xid[1]},
		"no such value": {"--target-immediate", "--target-action", "dance"},
	} {
		dir := h.newDir()
		h.fails(2, nil, append([]string{"restore", "--to", dir}, args...)...)
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%s: %s was made", name, dir)
		}
	}
}

func TestATargetActionOfPauseWaits(t *testing.T) {
	h := newHistory(t, "15")
	s := pgtest.Adopt(t, h.Version, h.restore("--target-lsn", h.lsn[1], "--target-action", "pause"))
	s.Args = append(s.Args, "-c", "archive_mode=off")
	s.ExtraEnv = h.env()
	s.Start(t)
	s.WaitQuery(t, "SELECT pg_get_wal_replay_pause_state()", "paused", 30*time.Second)
	sameRows(t, s, "SELECT string_agg(n::text, ' ' ORDER BY n) FROM story", "0 1")
	s.Exec(t, "SELECT pg_wal_replay_resume()")
	s.WaitPromoted(t)
}

func TestARestoreWithoutRecoveryStartsByItself(t *testing.T) {
	h := newHistory(t, "15")
	dir := h.newDir()
	h.ok("restore", h.first.ID, "--no-recovery", "--to", dir)
	s := pgtest.Adopt(t, h.Version, dir)
	s.Args = append(s.Args, "-c", "archive_mode=off") // and no settings of pgtrove in its environment
	s.Start(t)
	sameRows(t, s, "SELECT string_agg(n::text, ' ' ORDER BY n) FROM story", "0")
	sound(t, s)
}

func TestARestoreAcrossAPromotionFollowsTheNewTimeline(t *testing.T) {
	eachVersion(t, pgtest.Versions(t), func(t *testing.T, version string) {
		w := newWorld(t, version, pgtest.Options{})
		w.Exec(t, "CREATE TABLE story AS SELECT 1 AS n")
		w.backup()
		w.Exec(t, "INSERT INTO story VALUES (2)")
		w.archived()
		w.Stop(t, pgtest.Fast)

		// The copy becomes the primary, archives on timeline 2, and is what a later restore must follow.
		promoted := pgtest.Adopt(t, version, w.restore())
		promoted.ExtraEnv = w.env()
		promoted.Start(t)
		promoted.WaitPromoted(t)
		promoted.Exec(t, "INSERT INTO story VALUES (3)")
		promoted.WaitArchived(t, promoted.SwitchWAL(t))
		promoted.Stop(t, pgtest.Fast)

		rows := func(args ...string) string {
			s := w.adopt(w.restore(args...))
			defer s.Stop(t, pgtest.Immediate)
			return s.Query(t, "SELECT string_agg(n::text, ' ' ORDER BY n) FROM story")
		}
		if got := rows(); got != "1 2 3" {
			t.Errorf("latest timeline: %q", got)
		}
		if got := rows("--target-timeline", "1"); got != "1 2" {
			t.Errorf("timeline 1: %q", got)
		}
	})
}
