package pgsource_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/pgsource"
	"github.com/pgtrove/pgtrove/test/pgtest"
)

func TestCopyUnderLoadRecovers(t *testing.T) {
	eachVersion(t, func(t *testing.T, version string) {
		s := running(t, version, pgtest.Options{WALSegMB: 1, Conf: map[string]string{"checkpoint_timeout": "30s"}})
		space := filepath.Join(pgtest.TempDir(t), "space")
		if err := os.Mkdir(space, 0o700); err != nil {
			t.Fatal(err)
		}
		pgtest.Own(t, space)
		s.Exec(t, "CREATE TABLESPACE outside LOCATION '"+space+"'")
		s.Pgbench(t, "-i", "-s", "3", "--tablespace=outside", "--quiet")
		s.Exec(t, "CREATE UNLOGGED TABLE u AS SELECT generate_series(1, 1000) AS n; CREATE INDEX ON u (n)")

		load := s.Command("pgbench", "-c", "2", "-T", "60", "-n")
		if err := load.Start(); err != nil {
			t.Fatal(err)
		}
		c := connect(t, s)
		b := start(t, c)
		dir, spaces := filepath.Join(pgtest.TempDir(t), "copy"), pgtest.TempDir(t)
		time.Sleep(300 * time.Millisecond)
		copyTo(t, b, dir, spaces)
		info := stop(t, b)
		copied := restore(t, c, version, dir, info)
		if err := load.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = load.Wait()

		pgtest.Own(t, spaces)
		copied.Start(t)
		sums := "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = sum(delta), (SELECT sum(tbalance) FROM pgbench_tellers) = sum(delta), " +
			"(SELECT sum(bbalance) FROM pgbench_branches) = sum(delta), count(*) > 0, (SELECT count(*) FROM u) FROM pgbench_history"
		if got := copied.Query(t, sums); got != "t|t|t|t|0" {
			t.Errorf("the copy says %s", got)
		}
		copied.Stop(t, pgtest.Fast)
		if version == "15" { // the other servers come without pg_checksums
			pgtest.MustRun(t, copied.Command("pg_checksums", "--check", "-D", dir))
		}
	})
}

func TestStopReturnsWhatTheServerWrote(t *testing.T) {
	eachVersion(t, func(t *testing.T, version string) {
		// An archive that fails keeps the backup history file, which repeats the label's lines, in pg_wal.
		s := running(t, version, pgtest.Options{Conf: map[string]string{"archive_mode": "on", "archive_command": "false"}})
		// The database's encoding is not that of the path.
		s.Exec(t, "CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0")
		space := filepath.Join(pgtest.TempDir(t), "räume")
		if err := os.Mkdir(space, 0o700); err != nil {
			t.Fatal(err)
		}
		pgtest.Own(t, space)
		s.Exec(t, "CREATE TABLESPACE spaced LOCATION '"+space+"'")
		oid := s.Query(t, "SELECT oid FROM pg_tablespace WHERE spcname = 'spaced'")

		c, err := pgsource.Connect(t.Context(), pgsource.Options{DSN: strings.ReplaceAll(s.DSN(), "dbname=postgres", "dbname=latin")})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close(t.Context())
		before := s.Query(t, "SELECT pg_snapshot_xmax(pg_current_snapshot())::text")
		b := start(t, c)
		s.Exec(t, "SELECT txid_current()")
		info := stop(t, b)

		if got, want := string(info.TablespaceMap), oid+" "+space+"\n"; got != want {
			t.Errorf("tablespace map %q, want %q", got, want)
		}
		histories, err := filepath.Glob(filepath.Join(s.Dir, "pg_wal", "*.backup"))
		if err != nil || len(histories) != 1 {
			t.Fatal(histories, err)
		}
		history, err := os.ReadFile(histories[0])
		if err != nil {
			t.Fatal(err)
		}
		var want string
		for line := range strings.Lines(string(history)) {
			if !strings.HasPrefix(line, "STOP ") {
				want += line
			}
		}
		if string(info.BackupLabel) != want {
			t.Errorf("label\n%q, want\n%q", info.BackupLabel, want)
		}
		stopLine := regexp.MustCompile(`STOP WAL LOCATION: (\S+)`).FindStringSubmatch(string(history))
		if stopLine == nil || stopLine[1] != info.StopLSN.String() {
			t.Errorf("stop at %s, history file says %s", info.StopLSN, stopLine)
		}
		if info.StartLSN != b.StartLSN || info.StopLSN <= info.StartLSN || info.Timeline != 1 || info.StopTimeline != 1 || b.Timeline != 1 {
			t.Errorf("%+v", info)
		}
		if got := s.Query(t, "SELECT "+before+"::bigint < "+itoa(info.NextXID)+", "+itoa(info.NextXID)+" <= pg_snapshot_xmax(pg_current_snapshot())::text::bigint"); got != "t|t" {
			t.Errorf("next xid %d, before %s: %s", info.NextXID, before, got)
		}
		if info.StopTime.Before(b.StartTime) || time.Since(info.StopTime) > time.Minute || info.StopTime.Location() != time.UTC {
			t.Errorf("start %s, stop %s", b.StartTime, info.StopTime)
		}
	})
}

func TestSession(t *testing.T) {
	eachVersion(t, func(t *testing.T, version string) {
		s := running(t, version, pgtest.Options{})
		t.Run("two backups run at once", func(t *testing.T) { twoAtOnce(t, s) })
		t.Run("a backup is started and stopped once", func(t *testing.T) { startedOnce(t, s) })
		t.Run("a lost connection voids the backup", func(t *testing.T) { lostConnection(t, s) })
		t.Run("guard ends with the work", func(t *testing.T) { guardEnds(t, s) })
		t.Run("guard notices the loss of the connection", func(t *testing.T) { guardNotices(t, s) })
	})
}

func twoAtOnce(t *testing.T, s *pgtest.Server) {
	one, two := start(t, connect(t, s)), start(t, connect(t, s))
	if _, err := one.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := two.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if one.StartLSN == two.StartLSN {
		t.Errorf("both start at %s", one.StartLSN)
	}
}

func startedOnce(t *testing.T, s *pgtest.Server) {
	c := connect(t, s)
	b := start(t, c)
	if _, err := c.Start(t.Context(), "again", true); !errors.Is(err, pgsource.ErrBackupState) {
		t.Errorf("second start: %v", err)
	}
	stop(t, b)
	if _, err := b.Stop(t.Context()); !errors.Is(err, pgsource.ErrBackupState) {
		t.Errorf("second stop: %v", err)
	}
	stop(t, start(t, c))
	if _, err := c.Start(t.Context(), "a\nb", true); err == nil {
		t.Error("a label of two lines was accepted")
	}
}

// disconnect ends all sessions of this package on the server's side.
func disconnect(t *testing.T, s *pgtest.Server) {
	t.Helper()
	got := s.Query(t, "SELECT count(pg_terminate_backend(pid)) > 0 FROM pg_stat_activity WHERE application_name = 'pgtrove'")
	if got != "t" {
		t.Fatal("no session")
	}
}

func lostConnection(t *testing.T, s *pgtest.Server) {
	c := connect(t, s)
	b := start(t, c)
	disconnect(t, s)
	if _, err := b.Stop(t.Context()); !errors.Is(err, pgsource.ErrConnectionLost) {
		t.Errorf("stop: %v", err)
	}
	if _, err := c.WALSegment(t.Context(), pg.Segment{Timeline: 1, Number: 1}); !errors.Is(err, pgsource.ErrConnectionLost) {
		t.Errorf("afterwards: %v", err)
	}
}

func guardEnds(t *testing.T, s *pgtest.Server) {
	b := start(t, connect(t, s))
	failed := errors.New("failed")
	if err := b.Guard(t.Context(), func(context.Context) error { return failed }); !errors.Is(err, failed) {
		t.Error(err)
	}
	if err := b.Guard(t.Context(), func(context.Context) error { return nil }); err != nil {
		t.Error(err)
	}
	stop(t, b)
}

func guardNotices(t *testing.T, s *pgtest.Server) {
	b := start(t, connect(t, s))
	err := b.Guard(t.Context(), func(ctx context.Context) error {
		disconnect(t, s)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Minute):
			return errors.New("nobody told")
		}
	})
	if !errors.Is(err, pgsource.ErrConnectionLost) {
		t.Error(err)
	}
}

func TestNoBackupRunsAfterClose(t *testing.T) {
	eachVersion(t, func(t *testing.T, version string) {
		s := running(t, version, noticeBackups())
		if backupRuns(t, s) {
			t.Fatal("a backup runs before the first")
		}
		c := connect(t, s)
		start(t, c)
		if !backupRuns(t, s) {
			t.Fatal("the backup is not noticed")
		}
		if err := c.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		eventually(t, "ended", func() bool { return !backupRuns(t, s) })
	})
}

func TestNoBackupRunsAfterCancelledStart(t *testing.T) {
	eachVersion(t, func(t *testing.T, version string) {
		o := noticeBackups()
		o.Conf["checkpoint_timeout"] = "1h" // a spread checkpoint would take most of it
		s := running(t, version, o)
		s.Pgbench(t, "-i", "-s", "1", "--quiet")
		c := connect(t, s)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := c.Start(ctx, "spread", false)
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("start: %v", err)
		}
		if err := c.Close(ctx); err != nil {
			t.Fatal(err)
		}
		if got := s.Query(t, "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgtrove'"); got != "0" {
			t.Errorf("%s sessions left", got)
		}
		if backupRuns(t, s) {
			t.Error("a backup is left")
		}
	})
}

// killedBackup is set for the program that TestNoBackupRunsAfterKill starts: it begins a backup of the server that the variable names
// and waits for its end.
const killedBackup = "PGSOURCE_TEST_KILLED_BACKUP"

func TestNoBackupRunsAfterKill(t *testing.T) {
	if dsn := os.Getenv(killedBackup); dsn != "" {
		c, err := pgsource.Connect(t.Context(), pgsource.Options{DSN: dsn})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Start(t.Context(), "to be killed", true); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		return
	}
	eachVersion(t, func(t *testing.T, version string) {
		s := running(t, version, noticeBackups())
		cmd := exec.Command(os.Args[0], "-test.run=^TestNoBackupRunsAfterKill$")
		cmd.Env = append(os.Environ(), killedBackup+"="+s.DSN())
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "started", func() bool { return backupRuns(t, s) })
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		eventually(t, "ended", func() bool { return !backupRuns(t, s) })
	})
}

func TestSessionSurvivesTimeouts(t *testing.T) {
	eachVersion(t, func(t *testing.T, version string) {
		conf := map[string]string{"statement_timeout": "500ms", "lock_timeout": "500ms"}
		if version != "13" {
			conf["idle_session_timeout"] = "500ms"
		}
		s := running(t, version, pgtest.Options{Conf: conf})
		b := start(t, connect(t, s))
		time.Sleep(1500 * time.Millisecond)
		stop(t, b)
	})
}

func TestMinimalWALLevelIsRefused(t *testing.T) {
	s := running(t, "15", pgtest.Options{Conf: map[string]string{"wal_level": "minimal", "max_wal_senders": "0"}})
	if _, err := connect(t, s).Start(t.Context(), "x", true); !errors.Is(err, pgsource.ErrWALLevel) {
		t.Error(err)
	}
}
