package pgsource_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/pgsource"
	"github.com/pgtrove/pgtrove/snapshot"
	"github.com/pgtrove/pgtrove/test/pgtest"
)

// vouch takes a backup and returns what Vouch said at its begin.
func vouch(t *testing.T, s *pgtest.Server, parent *snapshot.Manifest) error {
	t.Helper()
	c := connect(t, s)
	defer closeNow(t, c)
	b := start(t, c)
	err := b.Vouch(t.Context(), parent, testRepository)
	stop(t, b)
	return err
}

func mustVouch(t *testing.T, s *pgtest.Server, parent *snapshot.Manifest) {
	t.Helper()
	if err := vouch(t, s, parent); err != nil {
		t.Errorf("%s: %v", parent.ID, err)
	}
}

// mustNotVouch wants the error to say why: each guard has its own words.
func mustNotVouch(t *testing.T, s *pgtest.Server, parent *snapshot.Manifest, why string) {
	t.Helper()
	if err := vouch(t, s, parent); !errors.Is(err, pgsource.ErrNotVouched) || !strings.Contains(err.Error(), why) {
		t.Errorf("%s: %v, want ... %s", parent.ID, err, why)
	}
}

// backUp takes a backup and notes it in the data directory, as after a commit.
func backUp(t *testing.T, s *pgtest.Server, id string) *snapshot.Manifest {
	t.Helper()
	m := takeManifest(t, s, id)
	note(t, s, id)
	return m
}

func note(t *testing.T, s *pgtest.Server, id string) {
	t.Helper()
	c := connect(t, s)
	defer closeNow(t, c)
	setLast(t, c, testRepository, "main", id)
}

func TestVouchNeedsTheSameCluster(t *testing.T) {
	s := running(t, "15", pgtest.Options{NoChecksums: true})
	p := backUp(t, s, "one")
	mustVouch(t, s, p)
	mustVouch(t, s, p) // a backup that was not committed changes nothing
	for why, change := range map[string]func(*snapshot.Manifest){
		"system identifier":   func(m *snapshot.Manifest) { m.Server.SystemID++ },
		"16384 bytes":         func(m *snapshot.Manifest) { m.Server.BlockSize *= 2 },
		"switched off since":  func(m *snapshot.Manifest) { m.Server.Checksums = true },
		"it started at 0/":    func(m *snapshot.Manifest) { m.Window.Timeline = 2 },
		"it stopped at 0/":    func(m *snapshot.Manifest) { m.Window.StopTimeline = 2 },
		"this backup's start": func(m *snapshot.Manifest) { m.Window.StopLSN += 1 << 30 },
		"names another":       func(m *snapshot.Manifest) { m.ID = "two" },
		"does not name a":     func(m *snapshot.Manifest) { m.Cluster = "other" },
	} {
		m := *p
		change(&m)
		mustNotVouch(t, s, &m, why)
	}

	s.Stop(t, pgtest.Fast)
	pgtest.MustRun(t, s.Command("pg_checksums", "--enable", "-D", s.Dir, "--no-sync"))
	s.Start(t)
	mustNotVouch(t, s, p, "switched on since")
	p = backUp(t, s, "two")
	mustVouch(t, s, p)
	s.Stop(t, pgtest.Fast)
	pgtest.MustRun(t, s.Command("pg_checksums", "--disable", "-D", s.Dir, "--no-sync"))
	s.Start(t)
	mustNotVouch(t, s, p, "switched off since")
}

// A backup that could not be committed is named by no file. The next one on its connection may go by it all the same.
func TestVouchNextNeedsTheConnectionOfTheBackupBefore(t *testing.T) {
	s := running(t, "15", pgtest.Options{})
	backUp(t, s, "committed")
	c := connect(t, s)
	earlier := start(t, c)
	p := manifestOf("fenced", c, earlier, stop(t, earlier))
	mustNotVouch(t, s, p, "names another snapshot, committed")

	b := start(t, c)
	if err := b.VouchNext(t.Context(), p, earlier); err != nil {
		t.Error(err)
	}
	foreign := start(t, connect(t, s))
	running := *b
	changed := func(change func(*snapshot.Manifest)) *snapshot.Manifest {
		m := *p
		change(&m)
		return &m
	}
	for _, c := range []struct {
		why     string
		b       *pgsource.Backup
		parent  *snapshot.Manifest
		earlier *pgsource.Backup
	}{
		{"another connection", foreign, p, earlier},
		{"not what the backup before", b, p, &running},
		{"not what the backup before", b, changed(func(m *snapshot.Manifest) { m.Window.StopTime = m.Window.StopTime.Add(1) }), earlier},
		{"not what the backup before", b, changed(func(m *snapshot.Manifest) { m.Window.StopLSN-- }), earlier},
		{"system identifier", b, changed(func(m *snapshot.Manifest) { m.Server.SystemID++ }), earlier},
		{"this backup's start", b, changed(func(m *snapshot.Manifest) { m.Window.StopLSN += 1 << 30 }), earlier},
	} {
		if err := c.b.VouchNext(t.Context(), c.parent, c.earlier); !errors.Is(err, pgsource.ErrNotVouched) || !strings.Contains(err.Error(), c.why) {
			t.Errorf("%v, want ... %s", err, c.why)
		}
	}
	stop(t, foreign)
	stop(t, b)
	closeNow(t, c)
	if err := b.VouchNext(t.Context(), p, earlier); !errors.Is(err, pgsource.ErrConnectionLost) {
		t.Errorf("over a connection that is closed: %v", err)
	}
}

// copyDir copies a data directory that nobody uses, with owners and times.
func copyDir(t *testing.T, from string) string {
	t.Helper()
	to := filepath.Join(pgtest.TempDir(t), "copy")
	pgtest.MustRun(t, pgtest.Command(t, filepath.Dir(to), "cp", "-a", from, to))
	return to
}

// advance writes WAL until the server is past a position.
func advance(t *testing.T, s *pgtest.Server, to pg.LSN) {
	t.Helper()
	for s.Query(t, "SELECT pg_current_wal_lsn() > '"+to.String()+"'") != "t" {
		s.SwitchWAL(t)
	}
}

// Neither positions nor timelines tell a directory that was rolled back: it lives through the same positions again.
func TestVouchNoticesADirectoryThatWasPutBack(t *testing.T) {
	s := running(t, "15", pgtest.Options{WALSegMB: 1})
	one := backUp(t, s, "one")
	s.Stop(t, pgtest.Fast)
	old := copyDir(t, s.Dir)
	s.Start(t)
	s.Exec(t, "CREATE TABLE x AS SELECT 1")
	two := backUp(t, s, "two")
	mustVouch(t, s, two)
	mustNotVouch(t, s, one, "names another snapshot, two")

	s.Stop(t, pgtest.Fast)
	rename(t, s.Dir, s.Dir+".away")
	rename(t, old, s.Dir)
	s.Start(t)
	advance(t, s, two.Window.StopLSN)
	mustNotVouch(t, s, two, "names another snapshot, one")
	mustVouch(t, s, one) // which this directory does continue
}

func TestVouchFollowsTheHistory(t *testing.T) {
	s := running(t, "15", pgtest.Options{WALSegMB: 1, Conf: map[string]string{"wal_keep_size": "64MB"}})
	one := backUp(t, s, "one")
	s.Stop(t, pgtest.Fast)
	b := pgtest.Adopt(t, "15", copyDir(t, s.Dir)) // the other host
	s.Start(t)
	s.Exec(t, "CREATE TABLE x AS SELECT 1") // written after the other was cut off
	lost := backUp(t, s, "lost")
	spanning := *lost // of a backup that ran while the other was cut off
	spanning.Window.StartLSN = one.Window.StartLSN
	s.Stop(t, pgtest.Fast)

	asStandby(t, b)
	promote(t, b)
	mustVouch(t, b, one)
	advance(t, b, lost.Window.StopLSN)
	note(t, b, "lost") // as if the directory were the same
	mustNotVouch(t, b, lost, "it started at")
	mustNotVouch(t, b, &spanning, "it stopped at")
	other := backUp(t, b, "other")
	mustVouch(t, b, other)
	mustNotVouch(t, b, one, "names another snapshot, other")

	// And back: the first host's directory, made to follow (pg_rewind takes pgtrove.last along from the other host).
	b.Stop(t, pgtest.Fast)
	s.Start(t)
	s.Stop(t, pgtest.Fast)
	pgtest.MustRun(t, s.Command("pg_rewind", "-D", s.Dir, "--source-pgdata", b.Dir, "--no-sync"))
	asStandby(t, s)
	promote(t, s)
	mustNotVouch(t, s, &spanning, "it stopped at")
	mustVouch(t, s, other) // of which it is a copy now
	third := backUp(t, s, "third")
	if third.Window.StopTimeline != 3 {
		t.Fatalf("%+v", third.Window)
	}
	b.Start(t)
	note(t, b, "third")
	mustNotVouch(t, b, third, "it started at")

	history := filepath.Join(s.Dir, "pg_wal", "00000003.history")
	rename(t, history, history+".away")
	mustNotVouch(t, s, third, "pg_wal has no history of timeline 3")
	if err := os.WriteFile(history, []byte("nonsense\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	mustNotVouch(t, s, third, "history of timeline 3, line 1")
}

// Without a checkpoint of its primary, a standby starts its next backup where it started the last.
func TestVouchNeedsAStandbyToHavePassedItsParent(t *testing.T) {
	s := running(t, "15", pgtest.Options{})
	standby := standbyOf(t, s)
	s.Exec(t, "CREATE TABLE x AS SELECT generate_series(1, 10000) n")
	s.Exec(t, "CHECKPOINT")
	s.Exec(t, "UPDATE x SET n = n + 1")
	catchUp(t, s, standby)
	p := backUp(t, standby, "one")
	if p.Window.StopLSN <= p.Window.StartLSN {
		t.Fatalf("%+v", p.Window)
	}
	mustNotVouch(t, standby, p, "after this backup's start")
	s.Exec(t, "CHECKPOINT")
	catchUp(t, s, standby)
	mustVouch(t, standby, p)
}
