package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/pgtrove/pgtrove/test/pgtest"
)

// walRow is a row of wal list.
type walRow struct {
	Timeline    int
	First, Last string
	FromLSN     string `json:"from_lsn"`
}

func (w *world) walRows() (all []walRow) {
	w.t.Helper()
	for line := range strings.Lines(w.ok("wal", "list", "--json")) {
		var row walRow
		if err := json.Unmarshal([]byte(line), &row); err != nil {
			w.t.Fatal(err)
		}
		all = append(all, row)
	}
	return all
}

// gaps are those that info tells of, and the snapshots that it calls unusable.
func (w *world) gaps() (all []string) {
	w.t.Helper()
	for line := range strings.Lines(w.ok("info", "--json")) {
		var row struct {
			Gaps     []struct{ First string }
			Unusable []string
		}
		if err := json.Unmarshal([]byte(line), &row); err != nil {
			w.t.Fatal(err)
		}
		for _, g := range row.Gaps {
			all = append(all, g.First)
		}
		all = append(all, row.Unusable...)
	}
	return all
}

// walPruned is what prune --json says of WAL.
type walPruned struct {
	WAL struct {
		Stored, Deleted, Condemned struct{ Files, Bytes int64 }
		Rows                       []struct {
			Timeline int
			First    string
			Deleted  bool
		}
	}
}

func (w *world) pruneWAL(args ...string) (p walPruned) {
	w.t.Helper()
	if err := json.Unmarshal([]byte(w.ok(append([]string{"prune", "--json", "--max-delete", "100%"}, args...)...)), &p); err != nil {
		w.t.Fatal(err)
	}
	return p
}

// TestPruneKeepsTheWALThatSnapshotsNeedAcrossAPromotion: of three snapshots the first is forgotten, the second keeps its own moment only, and the
// third is of the timeline that a restore of the second began.
func TestPruneKeepsTheWALThatSnapshotsNeedAcrossAPromotion(t *testing.T) {
	eachVersion(t, pgtest.Versions(t), func(t *testing.T, version string) {
		w := newWorld(t, version, pgtest.Options{WALSegMB: 1, Conf: map[string]string{"autovacuum": "off"}})
		w.Exec(t, "CREATE TABLE story (n int)")
		write := func(s *pgtest.Server, n string) {
			s.Exec(t, "INSERT INTO story VALUES ("+n+"); SELECT pg_switch_wal()")
		}
		write(w.Server, "1")
		first := w.backup()
		write(w.Server, "2")
		second := w.backup()
		write(w.Server, "3")
		w.archived()
		w.Stop(t, pgtest.Fast)
		promoted := pgtest.Adopt(t, version, w.restore())
		promoted.ExtraEnv = w.env()
		promoted.Start(t)
		promoted.WaitPromoted(t)
		write(promoted, "4")
		third := lastSnapshot(t, pgtest.MustRun(t, promoted.Command("pgtrove", "backup", "--json")))
		write(promoted, "5")
		promoted.Exec(t, "SELECT pg_sleep(0.05)")
		moment := promoted.Query(t, "SELECT clock_timestamp()")
		promoted.Exec(t, "SELECT pg_sleep(0.05)")
		write(promoted, "6")
		promoted.WaitArchived(t, promoted.SwitchWAL(t))
		promoted.Stop(t, pgtest.Fast)

		w.ok("forget", first.ID)
		w.narrow(second.ID)
		if got := w.windows(); len(got) != 2 || got[0].Timeline != 1 || got[0].From != second.StopLSN || got[1].From != third.StopLSN {
			t.Errorf("as soon as it was asked for, the windows are %+v", got)
		}
		w.unchanged("a dry run", func() {
			if p := w.pruneWAL("--dry-run"); p.WAL.Deleted.Files != 0 || p.WAL.Condemned.Files == 0 {
				t.Errorf("%+v", p)
			}
		})
		before := len(w.matching("wal/*/*/*/*"))
		one, rows := w.pruneWAL(), w.walRows()
		if one.WAL.Deleted.Files != 0 || one.WAL.Condemned.Files == 0 || len(w.matching("wal/*/*/*/*")) != before {
			t.Errorf("the first run: %+v", one)
		}
		w.verify()
		two := w.pruneWAL()
		if two.WAL.Deleted != one.WAL.Condemned || two.WAL.Condemned.Files != 0 || two.WAL.Stored != one.WAL.Stored || before-len(w.matching("wal/*/*/*/*")) != int(two.WAL.Deleted.Files) {
			t.Errorf("the first run condemned %+v, the second deleted %+v; %d of %d files are left", one, two, len(w.matching("wal/*/*/*/*")), before)
		}
		w.verify()
		if w.matching("wal/*/*/00000002.history") == nil {
			t.Error("the history of timeline 2 is gone")
		}
		left := w.walRows()
		if len(rows) != 2 || len(left) != 2 || left[0].Timeline != 1 || left[0].FromLSN > second.StartLSN || left[0].First <= rows[0].First || left[0].Last >= rows[0].Last ||
			left[1].First <= rows[1].First || left[1].FromLSN > third.StartLSN || left[1].Last != rows[1].Last {
			t.Errorf("wal list told of %+v, and now of %+v", rows, left)
		}
		if got := w.gaps(); len(got) > 0 {
			t.Errorf("what no snapshot needs is told of as missing: %v", got)
		}
		for _, c := range []struct {
			want string
			args []string
		}{
			{"1 2 3 4 5 6", nil},
			{"1 2 3 4 5", []string{"--target-time", moment}},
			{"1 2 3 4", []string{third.ID, "--target-immediate"}},
			{"1 2", []string{second.ID, "--target-immediate"}},
		} {
			s := w.adopt(w.restore(c.args...))
			sameRows(t, s, "SELECT string_agg(n::text, ' ' ORDER BY n) FROM story", c.want)
			s.Stop(t, pgtest.Immediate)
		}
		w.fails(5, []string{"hint: "}, "restore", second.ID, "--target-lsn", third.StopLSN, "--to", w.newDir())
		if p := w.pruneWAL(); p.WAL.Deleted.Files+p.WAL.Condemned.Files != 0 {
			t.Errorf("a third run: %+v", p)
		}
	})
}

// TestTheWALOfAClusterGoesWithItsLastSnapshot, but what was archived before the first one stays.
func TestTheWALOfAClusterGoesWithItsLastSnapshot(t *testing.T) {
	w := newWorld(t, "15", pgtest.Options{WALSegMB: 1})
	w.archived()
	early := len(w.matching("wal/*/*/*/*"))
	w.pruneWAL()
	w.pruneWAL()
	if n := len(w.matching("wal/*/*/*/*")); n != early || n == 0 {
		t.Errorf("before the first snapshot %d of %d files are left", n, early)
	}
	last := w.backup()
	w.ok("forget", "--allow-last", last.ID)
	p := w.pruneWAL()
	gone := p.WAL.Condemned.Files
	if int(gone) <= early {
		t.Errorf("%+v", p)
	}
	w.archived()
	later := w.walRows()
	w.pruneWAL()
	w.pruneWAL()
	left := w.walRows()
	if len(left) != 1 || left[0].Last != later[0].Last || left[0].First <= last.segment(w) {
		t.Errorf("there was %+v, and %+v is left", later, left)
	}
	again := w.backup()
	s := w.adopt(w.restore())
	s.Stop(t, pgtest.Immediate)
	w.pruneWAL()
	w.pruneWAL()
	if left := w.walRows(); len(left) != 1 || left[0].First != again.segment(w) {
		t.Errorf("of %+v the snapshot needs what begins with %s", left, again.segment(w))
	}
}

// segment is the name of the WAL segment that a snapshot of timeline 1 begins in, of 1 MB.
func (s snapshot) segment(w *world) string {
	w.t.Helper()
	var log, offset uint32
	if _, err := fmt.Sscanf(s.StartLSN, "%X/%X", &log, &offset); err != nil {
		w.t.Fatal(err)
	}
	return fmt.Sprintf("00000001%08X%08X", log, offset>>20)
}
