package pgsource_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/pgsource"
	"github.com/pgtrove/pgtrove/test/pgtest"
)

func standbyOf(t *testing.T, s *pgtest.Server) *pgtest.Server {
	t.Helper()
	standby := s.NewStandby(t)
	standby.Start(t)
	return standby
}

// catchUp waits until the standby has replayed all that the primary wrote.
func catchUp(t *testing.T, primary, standby *pgtest.Server) {
	t.Helper()
	lsn := primary.Query(t, "SELECT pg_current_wal_flush_lsn()")
	standby.WaitQuery(t, "SELECT pg_last_wal_replay_lsn() >= '"+lsn+"'", "t", startTimeout)
}

func TestCopyOfAStandbyRecovers(t *testing.T) {
	eachVersion(t, func(t *testing.T, version string) {
		s := running(t, version, pgtest.Options{WALSegMB: 1, Conf: map[string]string{"wal_keep_size": "256MB"}})
		standby := standbyOf(t, s)
		s.Pgbench(t, "-i", "-s", "2", "--quiet")
		catchUp(t, s, standby)
		s.Exec(t, "CHECKPOINT")
		load := s.Command("pgbench", "-c", "2", "-T", "60", "-n")
		if err := load.Start(); err != nil {
			t.Fatal(err)
		}
		c := connect(t, standby)
		if !c.Info().InRecovery {
			t.Fatal("the standby says it is none")
		}
		b := start(t, c)
		time.Sleep(time.Second)
		dir := filepath.Join(pgtest.TempDir(t), "copy")
		copyTo(t, b, dir, pgtest.TempDir(t))
		info := stop(t, b)
		if err := load.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = load.Wait()
		if !b.Standby || info.StopTimeline != 1 || info.StopLSN <= info.StartLSN || info.NextXID == 0 || time.Since(info.StopTime) > time.Minute {
			t.Errorf("%+v, %+v", b, info)
		}
		if !strings.Contains(string(info.BackupLabel), "BACKUP FROM: standby\n") {
			t.Errorf("label %q", info.BackupLabel)
		}

		last := pg.SegmentBefore(info.StopTimeline, info.StopLSN, c.Info().Layout.WALSegmentSize)
		s.SwitchWAL(t) // only the primary ends the segment in which the backup stopped
		if err := c.WaitSegment(t.Context(), last); err != nil {
			t.Fatal(err)
		}
		copied := restore(t, c, version, dir, info)
		if err := os.Remove(filepath.Join(dir, "standby.signal")); err != nil { // a restore's part
			t.Fatal(err)
		}
		copied.Start(t)
		sums := "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = sum(delta), (SELECT sum(tbalance) FROM pgbench_tellers) = sum(delta), count(*) > 0 FROM pgbench_history"
		if got := copied.Query(t, sums); got != "t|t|t" {
			t.Errorf("the copy says %s", got)
		}
	})
}

func TestSegmentOfAStandbyMayBeIncomplete(t *testing.T) {
	s := running(t, "15", pgtest.Options{})
	standby := standbyOf(t, s)
	s.Exec(t, "CREATE TABLE x AS SELECT 1; CHECKPOINT")
	catchUp(t, s, standby)
	c := connect(t, standby)
	info := stop(t, start(t, c))
	last := pg.SegmentBefore(info.StopTimeline, info.StopLSN, c.Info().Layout.WALSegmentSize)
	if _, err := c.WALSegment(t.Context(), last); !errors.Is(err, pgsource.ErrSegmentIncomplete) {
		t.Error(err)
	}
	if _, err := c.ForceSegment(t.Context()); !errors.Is(err, pgsource.ErrInRecovery) {
		t.Error(err)
	}
}

func TestPromotionVoidsTheBackup(t *testing.T) {
	eachVersion(t, func(t *testing.T, version string) {
		s := running(t, version, pgtest.Options{})
		standby := standbyOf(t, s)
		b, other := start(t, connect(t, standby)), start(t, connect(t, standby))
		if err := other.Ping(t.Context()); err != nil {
			t.Error(err)
		}
		standby.Exec(t, "SELECT pg_promote()")
		standby.WaitPromoted(t)
		if err := other.Ping(t.Context()); !errors.Is(err, pgsource.ErrPromoted) {
			t.Errorf("ping: %v", err)
		}
		if _, err := b.Stop(t.Context()); !errors.Is(err, pgsource.ErrPromoted) {
			t.Errorf("stop: %v", err)
		}
	})
}

func TestWALWithoutFullPagesVoidsTheBackup(t *testing.T) {
	eachVersion(t, func(t *testing.T, version string) {
		s := running(t, version, pgtest.Options{})
		standby := standbyOf(t, s)
		catchUp(t, s, standby)
		b := start(t, connect(t, standby))
		s.Exec(t, "ALTER SYSTEM SET full_page_writes = off")
		s.Reload(t)
		s.WaitQuery(t, "SHOW full_page_writes", "off", startTimeout)
		s.Exec(t, "CHECKPOINT") // writes the change to the WAL
		catchUp(t, s, standby)
		if _, err := b.Stop(t.Context()); !errors.Is(err, pgsource.ErrFullPageWrites) {
			t.Errorf("stop: %v", err)
		}
		if _, err := connect(t, standby).Start(t.Context(), "x", true); !errors.Is(err, pgsource.ErrFullPageWrites) {
			t.Errorf("start: %v", err)
		}
	})
}

func TestStandbyMayFollowItsPrimaryToANewTimeline(t *testing.T) {
	eachVersion(t, func(t *testing.T, version string) {
		s := running(t, version, pgtest.Options{})
		middle := standbyOf(t, s)
		last := standbyOf(t, middle)
		c := connect(t, last)
		b := start(t, c)
		middle.Exec(t, "SELECT pg_promote()")
		middle.WaitPromoted(t)
		middle.Exec(t, "CREATE TABLE x AS SELECT generate_series(1, 10000) AS n; CHECKPOINT")
		catchUp(t, middle, last)
		last.Exec(t, "CHECKPOINT") // a restart point: the minimum recovery point is on the new timeline
		info := stop(t, b)
		if b.Timeline != 1 || info.Timeline != 1 || info.StopTimeline != 2 {
			t.Errorf("%+v", info)
		}
		text, err := c.HistoryFile(2)
		if err != nil {
			t.Fatal(err)
		}
		if h, err := pg.ParseHistory(2, text); err != nil || h.TimelineAt(info.StopLSN-1) != 2 {
			t.Errorf("%v, %v", h, err)
		}
		if _, err := c.HistoryFile(1); !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
	})
}
