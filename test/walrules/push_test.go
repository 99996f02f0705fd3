package walrules

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/test/pgtest"
)

// TestOfTwoServersOnOneTimelineTheSecondIsRefused promotes two copies of one standby. Neither sees the other's history file, so both go on
// as timeline 2, and archive under one cluster name.
func TestOfTwoServersOnOneTimelineTheSecondIsRefused(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	s := a.server("15", pgtest.Options{})
	s.Exec(t, "CREATE TABLE t (s text)")
	s.Stop(t, pgtest.Fast)
	write(t, filepath.Join(s.Dir, "standby.signal"), "")
	s.Configure(t, map[string]string{"restore_command": "false"})
	var both [2]*pgtest.Server
	for i := range both {
		both[i] = pgtest.Adopt(t, "15", a.copyOf(s.Dir))
		both[i].ExtraEnv = a.env()
		both[i].Start(t)
		both[i].Exec(t, "SELECT pg_promote()")
	}
	first, second := both[0], both[1]
	first.Exec(t, "INSERT INTO t VALUES ('first')")
	name := first.SwitchWAL(t)
	first.WaitArchived(t, name)
	second.Exec(t, "INSERT INTO t VALUES ('second')")
	if again := second.SwitchWAL(t); again != name || !strings.HasPrefix(name, "00000002") {
		t.Fatalf("%s and %s: this tries nothing", name, again)
	}
	failed := fmt.Sprintf("SELECT failed_count >= %%d AND last_failed_wal = '%s' FROM pg_stat_archiver", name)
	second.WaitQuery(t, fmt.Sprintf(failed, 3), "t", time.Minute)
	for _, said := range []string{"archive command failed with exit code 5", "two servers write the same timeline", "split brain", "give each its own --cluster"} {
		if !strings.Contains(second.Log(), said) {
			t.Errorf("the log lacks %q:\n%s", said, second.Log())
		}
	}
	finds(t, second, "archiving", "problem", []string{"archiving fails: " + name, "another server may archive under the same cluster name"})
	second.WaitQuery(t, fmt.Sprintf(failed, 6), "t", time.Minute) // and goes on so
	if _, err := os.Stat(filepath.Join(second.Dir, "pg_wal", "archive_status", name+".ready")); err != nil {
		t.Errorf("the second server does not keep it: %v", err)
	}
	if got := a.fetched(second, name); !bytes.Equal(got, read(t, inWAL(first, name))) {
		t.Error("the archive does not have the first server's content")
	}
	finds(t, first, "archiving", "ok", nil) // which goes on undisturbed
}

// TestPrimaryAndStandbyMayBothArchive is archive_mode = always: each segment is pushed twice, at about the same time.
func TestPrimaryAndStandbyMayBothArchive(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	s := a.server("15", pgtest.Options{Conf: map[string]string{"archive_mode": "always"}})
	standby := s.NewStandby(t)
	standby.ExtraEnv = a.env()
	standby.Start(t)
	s.Exec(t, "CREATE TABLE t (n int)")
	var names []string
	for range 5 {
		s.Exec(t, "INSERT INTO t SELECT generate_series(1, 1000)")
		names = append(names, s.SwitchWAL(t))
	}
	for _, one := range []*pgtest.Server{s, standby} {
		one.WaitArchived(t, names[4])
		if got := one.Query(t, "SELECT failed_count, archived_count >= 5 FROM pg_stat_archiver"); got != "0|t" {
			t.Errorf("failed and archived: %s\n%s", got, one.Log())
		}
	}
	for _, n := range names {
		if !bytes.Equal(a.fetched(s, n), read(t, inWAL(s, n))) {
			t.Errorf("%s is not what the server wrote", n)
		}
		if copies := pgtest.MustRun(t, exec.Command("find", a.repo, "-name", n+"*")); strings.Count(copies, "\n") != 1 {
			t.Errorf("stored more than once:\n%s", copies)
		}
	}
	// Both after a promotion, too: the old primary's last segment may be there in part and in full.
	s.Stop(t, pgtest.Immediate)
	standby.Exec(t, "SELECT pg_promote()")
	standby.WaitArchived(t, standby.SwitchWAL(t))
	if got := standby.Query(t, "SELECT failed_count FROM pg_stat_archiver"); got != "0" {
		t.Errorf("%s failures\n%s", got, standby.Log())
	}
}

// TestAPushMayBeKilledAtAnyMoment kills calls after longer and longer times, and looks each time whether what was acknowledged is there and
// what is there is whole. Then the server's archiver pushes the rest.
func TestAPushMayBeKilledAtAnyMoment(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	s := a.server("15", pgtest.Options{Conf: map[string]string{"archive_command": "false"}})
	s.Exec(t, "CREATE TABLE t (s text)")
	segment := func() string {
		s.Exec(t, "INSERT INTO t SELECT md5(random()::text) FROM generate_series(1, 8000)")
		return s.SwitchWAL(t)
	}
	names := []string{segment()}
	began := time.Now()
	pgtest.MustRun(t, inData(s, "wal", "push", "--ahead", "0", "pg_wal/"+names[0]))
	whole := time.Since(began)
	const kills = 24
	acknowledged, ended := 0, 0
	for i := range kills {
		name := segment()
		names = append(names, name)
		push := inData(s, "wal", "push", "pg_wal/"+name)
		if err := push.Start(); err != nil {
			t.Fatal(err)
		}
		kill := time.AfterFunc(whole*time.Duration(2*i)/kills+time.Duration(rand.Int64N(int64(whole/kills))), func() { _ = push.Process.Kill() })
		_ = push.Wait()
		kill.Stop()
		content := read(t, inWAL(s, name))
		switch got := a.fetched(s, name); {
		case push.ProcessState.ExitCode() == 0:
			acknowledged++
			if !bytes.Equal(got, content) {
				t.Errorf("%s was acknowledged and is not there", name)
			}
		case got != nil && !bytes.Equal(got, content):
			t.Errorf("%s is there with other content", name)
		default:
			ended++
		}
	}
	t.Logf("%d acknowledged, %d killed before", acknowledged, ended)
	if ended == 0 || acknowledged == 0 {
		t.Error("not both happened: this tries nothing")
	}
	set(t, s, map[string]string{"archive_command": push(t)})
	s.WaitArchived(t, segment())
	if got := s.Query(t, "SELECT count(*) FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'"); got != "0" {
		t.Errorf("%s files wait", got)
	}
	for _, n := range names {
		if !bytes.Equal(a.fetched(s, n), read(t, inWAL(s, n))) {
			t.Errorf("%s is not what the server wrote", n)
		}
	}
}

// TestNothingIsLostThatTheServerForgetsAtOnce: exit 0 lets the server remove the segment, and the host may die in the same moment.
func TestNothingIsLostThatTheServerForgetsAtOnce(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	s := a.server("15", pgtest.Options{})
	kept := filepath.Join(a.dir, "kept")
	if err := os.Mkdir(kept, 0o755); err != nil {
		t.Fatal(err)
	}
	pgtest.Own(t, kept)
	// The file is out of the way, and every process of the server and of the push is dead, as soon as push has said 0.
	set(t, s, map[string]string{"archive_command": push(t) + " && mv %p " + kept + "/%f && kill -9 $(head -n 1 postmaster.pid) && exit 1"})
	s.Exec(t, "CREATE TABLE t AS SELECT 1 AS n")
	name := s.SwitchWAL(t)
	s.WaitExit(t, time.Minute)
	if got := a.fetched(s, name); got == nil || !bytes.Equal(got, read(t, filepath.Join(kept, name))) {
		t.Errorf("%s is not there as it was", name)
	}
}

// TestEveryKindOfFileKeepsItsNameAndStandsForNoOther on a timeline whose number has a letter.
func TestEveryKindOfFileKeepsItsNameAndStandsForNoOther(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	s := a.server("15", pgtest.Options{})
	s.Stop(t, pgtest.Fast)
	pgtest.MustRun(t, s.Command("pg_resetwal", "-l", "0000000900000000000000A0", s.Dir))
	history := inWAL(s, "00000009.history")
	write(t, history, "1\t0/3000000\tno recovery target specified\n")
	s.Start(t)
	s.Exec(t, "CREATE TABLE t AS SELECT 1 AS n; SELECT pg_backup_start('label', true); SELECT pg_backup_stop(false)")
	standby := s.NewStandby(t)
	standby.ExtraEnv = a.env()
	standby.Configure(t, map[string]string{"restore_command": pgtest.Binary(t) + " wal fetch %f %p"})
	standby.Start(t)
	s.WaitArchived(t, s.SwitchWAL(t))
	s.Exec(t, "INSERT INTO t VALUES (2)") // into a segment that the promotion leaves unfinished
	standby.WaitQuery(t, "SELECT count(*) FROM t", "2", time.Minute)
	s.Stop(t, pgtest.Immediate)
	standby.Exec(t, "SELECT pg_promote()")
	standby.WaitArchived(t, standby.SwitchWAL(t))

	var kinds [4]int
	names := strings.Fields(pgtest.MustRun(t, exec.Command("find", inWAL(standby, ""), "-type", "f", "-printf", "%f ")))
	for _, name := range names {
		suffix := strings.TrimLeft(name, "0123456789ABCDEF")
		kind, ok := map[string]int{"": 0, ".history": 1, ".partial": 2}[suffix]
		if !ok || suffix != ".partial" && !done(standby, name) || name == "00000009.history" { // which no server wrote
			continue
		}
		want, err := os.ReadFile(inWAL(standby, name))
		if errors.Is(err, fs.ErrNotExist) { // a checkpoint has given it another name
			continue
		}
		kinds[kind]++
		if got := a.fetched(standby, name); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes came back", name, len(got))
		}
		if full, partial := strings.CutSuffix(name, ".partial"); partial {
			if a.fetched(standby, full) != nil {
				t.Errorf("%s is served for %s", name, full)
			}
		}
	}
	for _, path := range strings.Fields(pgtest.MustRun(t, exec.Command("find", inWAL(s, ""), "-name", "*.backup"))) {
		kinds[3]++
		if got := a.fetched(standby, filepath.Base(path)); !bytes.Equal(got, read(t, path)) {
			t.Errorf("%s: %d bytes came back", filepath.Base(path), len(got))
		}
	}
	for kind, n := range kinds {
		if n == 0 {
			t.Errorf("none of kind %d: this tries nothing; %v", kind, names)
		}
	}
	if a.fetched(standby, "0000000A.history") == nil {
		t.Error("the history of timeline 10 is not there")
	}
	for _, absent := range []string{"00000010.history", "0000000B.history", "0000000a.history"} {
		if r := pgtest.Run(t, inData(standby, "wal", "fetch", absent, filepath.Join(a.dir, "never"))); r.Code == 0 {
			t.Errorf("%s is there", absent)
		}
	}
}

func done(s *pgtest.Server, name string) bool {
	_, err := os.Stat(filepath.Join(s.Dir, "pg_wal", "archive_status", name+".done"))
	return err == nil
}
