package pgtest_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/test/pgtest"
)

func TestServerOfEachVersionStartsAndAnswers(t *testing.T) {
	for _, version := range pgtest.AllVersions() {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			s := pgtest.New(t, version, pgtest.Options{Conf: map[string]string{"log_line_prefix": "it's \\ %p "}})
			s.Start(t)
			if got := s.Query(t, "SELECT current_setting('server_version_num')::int / 10000, NULL, 'a b' UNION ALL SELECT 1, 'x', 'y'"); got != version+"||a b\n1|x|y" {
				t.Errorf("query returned %q", got)
			}
			if got := s.Query(t, "SHOW data_checksums"); got != "on" {
				t.Errorf("data_checksums %s", got)
			}
			if got := s.Query(t, "SHOW log_line_prefix"); got != "it's \\ %p " {
				t.Errorf("log_line_prefix %q", got)
			}
			s.Pgbench(t, "-i", "-q", "-s", "1")
			if got := pgtest.MustRun(t, s.Command("psql", "-XAtc", "SELECT count(*) FROM pgbench_accounts")); got != "100000\n" {
				t.Errorf("psql printed %q", got)
			}
			s.Stop(t, pgtest.Fast)
			if !strings.Contains(s.Log(), "database system is shut down") {
				t.Errorf("no orderly shutdown in the log:\n%s", s.Log())
			}
		})
	}
}

func TestOptionsOfNewCluster(t *testing.T) {
	for _, version := range []string{"15", "18"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			s := pgtest.New(t, version, pgtest.Options{WALSegMB: 1, NoChecksums: true, InitdbArgs: []string{"--allow-group-access"}})
			s.Start(t)
			got := s.Query(t, "SELECT current_setting('wal_segment_size'), current_setting('data_checksums'), current_setting('data_directory_mode')")
			if got != "1MB|off|0750" {
				t.Errorf("settings %s", got)
			}
		})
	}
}

func TestServersAtOnceAreDifferentClusters(t *testing.T) {
	a, b := pgtest.New(t, "15", pgtest.Options{}), pgtest.New(t, "15", pgtest.Options{})
	a.Start(t)
	b.Start(t)
	const id = "SELECT system_identifier FROM pg_control_system()"
	if a.Query(t, id) == b.Query(t, id) {
		t.Error("the same system identifier twice")
	}
	if a.Port == b.Port {
		t.Error("the same port twice")
	}
}

func TestAdoptedDirectoryStartsWithItsRows(t *testing.T) {
	s := pgtest.New(t, "15", pgtest.Options{})
	s.Start(t)
	s.Exec(t, "CREATE TABLE kept AS SELECT 42 AS n")
	s.Stop(t, pgtest.Fast)
	again := pgtest.Adopt(t, "15", s.Dir)
	again.Start(t)
	if got := again.Query(t, "SELECT n FROM kept"); got != "42" {
		t.Errorf("got %q", got)
	}
}

func TestCopyStartedByPgCtlIsReachedAndStopped(t *testing.T) {
	s := pgtest.New(t, "15", pgtest.Options{})
	var pid string
	t.Run("lends a directory", func(t *testing.T) {
		dir := filepath.Join(pgtest.TempDir(t), "copy")
		pgtest.MustRun(t, s.Command("cp", "-a", s.Dir, dir))
		pgtest.MustRun(t, s.Command("pg_ctl", "-D", dir, "-w", "-l", filepath.Join(dir, "log"), "start"))
		if got := pgtest.MustRun(t, s.Command("psql", "-XAtc", "SHOW data_directory")); got != dir+"\n" {
			t.Errorf("connected to %q", got)
		}
		b, err := os.ReadFile(filepath.Join(dir, "postmaster.pid"))
		if err != nil {
			t.Fatal(err)
		}
		pid, _, _ = strings.Cut(string(b), "\n")
	})
	// A process that ended and that nobody has waited for has no directory.
	if cwd, err := os.Readlink("/proc/" + pid + "/cwd"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("postmaster %s is still there, in %s (%v)", pid, cwd, err)
	}
}

func TestServerThatCannotStartSaysWhy(t *testing.T) {
	s := pgtest.New(t, "15", pgtest.Options{Conf: map[string]string{"no_such_setting": "1"}})
	err := s.StartErr()
	var exit *pgtest.ExitError
	if !errors.As(err, &exit) {
		t.Fatalf("got %v, want an ExitError", err)
	}
	if exit.Code != 1 || !strings.Contains(exit.Log, "no_such_setting") {
		t.Errorf("code %d, log %s", exit.Code, exit.Log)
	}
	if s.Running() {
		t.Error("still running")
	}
}

func TestArchiverRunsWithTheServersExtraEnvironment(t *testing.T) {
	dir := pgtest.TempDir(t)
	s := pgtest.New(t, "15", pgtest.Options{WALSegMB: 1, Conf: map[string]string{
		"archive_mode": "on", "archive_command": `test "$HOME" != /root && cp "%p" "$ARCHIVE_TO/%f"`}})
	s.ExtraEnv = []string{"ARCHIVE_TO=" + dir}
	s.Start(t)
	segment := s.SwitchWAL(t)
	s.WaitArchived(t, segment)
	if info, err := os.Stat(filepath.Join(dir, segment)); err != nil || info.Size() != 1<<20 {
		t.Errorf("archived segment: %v, %v", info, err)
	}
}

func TestStandbyFollowsItsPrimary(t *testing.T) {
	for _, version := range []string{"13", "15", "18"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			primary := pgtest.New(t, version, pgtest.Options{})
			primary.Start(t)
			primary.Exec(t, "CREATE TABLE r (n int)")
			standby := primary.NewStandby(t)
			standby.Start(t)
			primary.Exec(t, "INSERT INTO r VALUES (7)")
			standby.WaitQuery(t, "SELECT n, pg_is_in_recovery() FROM r", "7|t", 30*time.Second)
		})
	}
}

func TestCommandRunsUnprivilegedInACleanHome(t *testing.T) {
	home := pgtest.TempDir(t)
	out := pgtest.MustRun(t, pgtest.Command(t, home, "sh", "-c", `id -u; echo "$HOME"; touch "$HOME/mine"; pwd; echo "${USER-unset}"`))
	lines := strings.Split(out, "\n")
	if lines[0] == "0" {
		t.Error("runs as root")
	}
	if lines[1] != home || lines[2] != home || lines[3] != "unset" {
		t.Errorf("got %q", lines)
	}
	r := pgtest.Run(t, pgtest.Command(t, home, "sh", "-c", "echo out; echo err >&2; exit 7"))
	if r != (pgtest.Result{Stdout: "out\n", Stderr: "err\n", Code: 7}) {
		t.Errorf("got %+v", r)
	}
	if r := pgtest.Run(t, pgtest.Command(t, home, "sh", "-c", "kill -TERM $$")); r.Code != 143 {
		t.Errorf("code %d after SIGTERM, want 143", r.Code)
	}
}

func TestVersionsAreChosenByTheEnvironment(t *testing.T) {
	t.Setenv("PGTROVE_TEST_VERSIONS", "13, 17")
	if got := strings.Join(pgtest.Versions(t), " "); got != "13 17" {
		t.Errorf("got %s", got)
	}
	t.Setenv("PGTROVE_TEST_VERSIONS", "")
	if got := strings.Join(pgtest.Versions(t), " "); got != "15 18" {
		t.Errorf("got %s", got)
	}
}
