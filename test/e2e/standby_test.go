package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/test/pgtest"
)

// standbyOf starts a standby of w that archives nothing itself.
func standbyOf(t *testing.T, w *world) *pgtest.Server {
	t.Helper()
	s := w.NewStandby(t)
	s.ExtraEnv = w.env()
	s.Start(t)
	return s
}

func TestABackupTakenOnAStandbyRestores(t *testing.T) {
	eachVersion(t, pgtest.Versions(t), func(t *testing.T, version string) {
		w := newWorld(t, version, pgtest.Options{})
		w.Pgbench(t, "-i", "-s", "2", "-q")
		standby := standbyOf(t, w)
		stop := load(t, w.Server, 2)
		// The stop's segment is archived by the primary, which switches when it is asked to or full.
		switching := make(chan struct{})
		done := make(chan struct{})
		go func() {
			defer close(done)
			for {
				select {
				case <-switching:
					return
				case <-time.After(500 * time.Millisecond):
					_, _ = w.QueryErr(t.Context(), "postgres", "SELECT pg_switch_wal()")
				}
			}
		}()
		r := pgtest.Run(t, standby.Command("pgtrove", "backup", "--json", "--wal", "archive"))
		close(switching)
		<-done
		stop()
		if r.Code != 0 {
			t.Fatalf("exit %d\n%s", r.Code, r.Stderr)
		}
		if s := lastSnapshot(t, r.Stdout); s.WAL != "complete" {
			t.Errorf("the snapshot's WAL is %q", s.WAL)
		}
		w.archived()
		restored := w.adopt(w.restore())
		sameContents(t, w.Server, restored)
		sound(t, restored)
	})
}

func TestAPromotionDuringABackupOfAStandbyVoidsIt(t *testing.T) {
	w := newWorld(t, "15", pgtest.Options{})
	noise(t, w.Server)
	standby := standbyOf(t, w)
	gate := standby.Command("pgtrove", "backup", "--jobs", "1")
	backup := beginSlowly(t, w.repo, gate)
	standby.Exec(t, "SELECT pg_promote()")
	standby.WaitPromoted(t)
	r := backup()
	expect(t, r, 1, []string{"promoted"}, "backup")
	if n := len(w.snapshots()); n != 0 {
		t.Errorf("%d snapshots are listed", n)
	}
}

func TestAStandbyThatReplayedWALWithoutFullPagesIsRefused(t *testing.T) {
	w := newWorld(t, "15", pgtest.Options{Conf: map[string]string{"full_page_writes": "off"}})
	w.Pgbench(t, "-i", "-s", "1", "-q")
	standby := standbyOf(t, w)
	r := pgtest.Run(t, standby.Command("pgtrove", "backup"))
	if r.Code == 0 || !strings.Contains(r.Stderr, "full_page_writes") {
		t.Errorf("exit %d\n%s", r.Code, r.Stderr)
	}
	if n := len(w.snapshots()); n != 0 {
		t.Errorf("%d snapshots are listed", n)
	}
}
