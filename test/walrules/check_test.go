package walrules

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/test/pgtest"
)

func TestCheckTriesTheArchive(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"13", "15", "18"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			a := newArchive(t)
			s := a.server(version, pgtest.Options{})
			seen := map[string]bool{}
			for range 2 { // the second time nobody has written anything
				all := check(t, s, "archiving")
				if len(all) != 1 || !all[0].says("ok", "was in the repository after") {
					t.Fatalf("%+v", all)
				}
				segment := strings.Trim(strings.Fields(all[0].Text)[1], ",")
				if seen[segment] || a.fetched(s, segment) == nil {
					t.Errorf("%s, of %v, is not a new one in the repository", segment, seen)
				}
				seen[segment] = true
			}
		})
	}
}

func TestCheckNamesWhatKeepsWALFromComing(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	s := a.server("15", pgtest.Options{})
	role := "backup"
	s.Exec(t, "CREATE ROLE backup LOGIN; GRANT pg_read_all_settings TO backup; GRANT EXECUTE ON FUNCTION pg_backup_start(text, boolean), pg_backup_stop(boolean) TO backup")
	with := func(command string) { set(t, s, map[string]string{"archive_command": command}) }

	all := check(t, s, "archiving", "PGUSER="+role)
	if len(all) != 2 || !all[1].says("advice", "nothing was archived yet") {
		t.Errorf("before anything was archived: %+v", all)
	}
	s.WaitArchived(t, s.SwitchWAL(t))
	all = check(t, s, "archiving", "PGUSER="+role)
	if len(all) != 2 || !all[0].says("advice", "GRANT EXECUTE ON FUNCTION pg_catalog.pg_switch_wal() TO backup;", `"postgres"`) || !all[1].says("ok", "is in the repository") {
		t.Errorf("without the right: %+v", all)
	}

	with(push(t, "--cluster", "other"))
	finds(t, s, "archiving", "problem", []string{"archived elsewhere", "cluster main of this repository does not have it", "--cluster other"})
	all = check(t, s, "archiving", "PGUSER="+role)
	if len(all) != 2 || !all[1].says("problem", "archived elsewhere") {
		t.Errorf("without the right: %+v", all)
	}

	with("echo no room >&2; false")
	finds(t, s, "archiving", "problem", []string{"archiving fails", "no room", "the server's log", "cd " + s.Dir + " && "})
	all = check(t, s, "archiving", "PGUSER="+role)
	if len(all) != 2 || !all[1].says("problem", "archiving fails") {
		t.Errorf("without the right: %+v", all)
	}
	givenUp(t, s)

	with("")
	finds(t, s, "archiving", "problem", []string{"archive_mode is on, but the server has no archive_command"})

	slow := filepath.Join(a.dir, "go on")
	with("while [ ! -e '" + slow + "' ]; do sleep 0.1; done; " + push(t))
	finds(t, s, "archiving", "problem", []string{"did not come", "the archiver is behind", "files wait", "the last that it finished failed"}, "--wal-timeout=1s")
	interrupted(t, s)
	write(t, slow, "")
	finds(t, s, "archiving", "ok", nil)
	if all := check(t, s, "gaps"); all != nil {
		t.Errorf("%+v", all)
	}

	set(t, s, map[string]string{"archive_library": "no_such_library"})
	s.WaitQuery(t, "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'archiver'", "0", time.Minute)
	finds(t, s, "archiving", "problem", []string{"no archiver process runs", "archive_library"}, "--wal-timeout=1s")
}

// givenUp lets pushes give up a history file and then a segment, while nothing is archived, and looks that check says so before the repository can know.
func givenUp(t *testing.T, s *pgtest.Server) {
	t.Helper()
	s.SwitchWAL(t)
	segment, history := s.SwitchWAL(t), "0000000F.history"
	ledger := filepath.Join(s.Dir, "pgtrove.gaps")
	for _, name := range []string{history, segment} {
		write(t, inWAL(s, history), "1\t0/3000000\tno recovery target specified\n")
		cmd := inData(s, "wal", "push", "--repo", "s3://absent/x", "--max-backlog", "1MiB", "pg_wal/"+name)
		cmd.Env = append(cmd.Env, "AWS_ACCESS_KEY_ID=a", "AWS_SECRET_ACCESS_KEY=b", "AWS_REGION=r", "AWS_ENDPOINT_URL_S3=http://127.0.0.1:1", "PGTROVE_RETRY_TIME=0")
		pgtest.MustRun(t, cmd)
		finds(t, s, "gaps", "problem", []string{name, "--max-backlog", "s3://absent/x"}, "--wal-timeout=1s")
		b := read(t, ledger)
		write(t, ledger, string(b[:len(b)-4]))
		finds(t, s, "gaps", "problem", []string{"damaged record of gaps"}, "--wal-timeout=1s")
		for _, path := range []string{ledger, inWAL(s, history)} {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// interrupted presses Ctrl-C while check waits for a segment.
func interrupted(t *testing.T, s *pgtest.Server) {
	t.Helper()
	cmd := s.Command("pgtrove", "check", "--wal-timeout", "10m")
	stderr := filepath.Join(s.Home, "stderr")
	f, err := os.Create(stderr)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cmd.Stderr = f
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "check says what it waits for", func() bool { return strings.Contains(string(read(t, stderr)), "waiting for WAL segment") })
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if code := pgtest.ExitCode(cmd.ProcessState); code != 1 || !strings.Contains(string(read(t, stderr)), "pgtrove: interrupted") {
		t.Errorf("exit %d\n%s", code, read(t, stderr))
	}
}

func TestCheckAtAStandbyLooksForTheNewestSegment(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	s := a.server("15", pgtest.Options{})
	standby := s.NewStandby(t)
	standby.ExtraEnv = a.env()
	standby.Start(t)
	follow := func() {
		t.Helper()
		s.SwitchWAL(t)
		standby.WaitQuery(t, "SELECT pg_last_wal_receive_lsn() >= '"+s.Query(t, "SELECT pg_current_wal_flush_lsn()")+"'", "t", time.Minute)
	}
	follow()
	const what = "this is a standby, where no segment can be ended"
	finds(t, standby, "archiving", "ok", []string{what, "is in the repository"})
	set(t, s, map[string]string{"archive_command": push(t, "--cluster", "other")})
	follow()
	finds(t, standby, "archiving", "problem", []string{what, "is not in the repository", "at the primary"}, "--wal-timeout=1s")

	standby.Stop(t, pgtest.Fast)
	standby.Configure(t, map[string]string{"archive_mode": "always", "archive_command": push(t)})
	standby.Start(t)
	follow()
	finds(t, standby, "archiving", "ok", []string{what, "is in the repository"})
	set(t, standby, map[string]string{"archive_command": "false"})
	follow()
	finds(t, standby, "archiving", "problem", []string{"archiving fails", `by "false"`})
	set(t, standby, map[string]string{"archive_command": push(t, "--cluster", "third")})
	follow()
	// The archiver may rest for a while after what failed.
	standby.WaitQuery(t, "SELECT last_archived_time > last_failed_time FROM pg_stat_archiver", "t", 2*time.Minute)
	finds(t, standby, "archiving", "problem", []string{"archived elsewhere", "--cluster third"})
}

func TestCheckWatchesSlots(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	s := a.server("15", pgtest.Options{Conf: map[string]string{"archive_mode": "off", "wal_level": "logical"}})
	finds(t, s, "archiving", "problem", []string{"archives no WAL", "pgtrove wal receive"})
	s.Exec(t, "SELECT pg_create_physical_replication_slot('pgtrove', true); SELECT pg_create_logical_replication_slot('forgotten', 'test_decoding')")
	for range 3 {
		s.SwitchWAL(t)
	}
	const drop = "SELECT pg_drop_replication_slot('"
	all := check(t, s, "slots")
	if len(all) != 2 || !all[0].says("advice", "logical slot forgotten is not in use", "MiB of WAL", "more and more", drop+"forgotten');") ||
		!all[1].says("problem", "nobody receives from slot pgtrove", "MiB of WAL", "start `pgtrove wal receive`", "--drop-slot") {
		t.Errorf("%+v", all)
	}
	s.Exec(t, drop+"forgotten')")

	// Somebody receives: what comes that way is waited for.
	to := filepath.Join(a.dir, "received")
	if err := os.Mkdir(to, 0o755); err != nil {
		t.Fatal(err)
	}
	pgtest.Own(t, to)
	receiver := s.Command("pg_receivewal", "-D", to, "-S", "pgtrove")
	if err := receiver.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = receiver.Process.Kill()
		_ = receiver.Wait()
	})
	s.WaitQuery(t, "SELECT active FROM pg_replication_slots", "t", time.Minute)
	finds(t, s, "archiving", "problem", []string{"did not come", "a receiver is connected"}, "--wal-timeout=1s")
	_ = receiver.Process.Kill()
	_ = receiver.Wait()
	s.WaitQuery(t, "SELECT active FROM pg_replication_slots", "f", time.Minute)

	for _, slot := range []string{"pgtrove", "other"} {
		receiver := s.Command("pgtrove", "wal", "receive", "--slot", slot)
		if err := receiver.Start(); err != nil {
			t.Fatal(err)
		}
		s.WaitQuery(t, "SELECT active FROM pg_replication_slots WHERE slot_name = '"+slot+"'", "t", time.Minute)
		for name, says := range map[string][]string{"archiving": {"was in the repository after"}, "slots": {"slot " + slot + " is in use by", "behind"}} {
			if all := check(t, s, name, "--slot="+slot); len(all) == 0 || !all[0].says("ok", says...) {
				t.Errorf("%s: %+v", name, all)
			}
		}
		if err := receiver.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := receiver.Wait(); err != nil {
			t.Error(err)
		}
	}
	finds(t, s, "archiving", "problem", []string{"archives no WAL"}, "--slot=other")
	pgtest.MustRun(t, s.Command("pgtrove", "wal", "receive", "--slot", "other", "--drop-slot"))

	set(t, s, map[string]string{"max_slot_wal_keep_size": "16MB"})
	finds(t, s, "slots", "problem", []string{"and drops it after"})
	for range 24 {
		s.SwitchWAL(t)
	}
	s.Exec(t, "CHECKPOINT")
	finds(t, s, "slots", "problem", []string{"has removed WAL that slot pgtrove was to keep", "which makes it anew"})
}
