package walrules

import (
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/test/pgtest"
)

// TestRecoveryReadsTheExitCodesOfWALFetch lets servers of every version recover from an archive that is away for a while.
func TestRecoveryReadsTheExitCodesOfWALFetch(t *testing.T) {
	t.Parallel()
	for _, version := range pgtest.AllVersions() {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			r := newRecovery(t, version)
			t.Run("an outage ends it", r.outageEndsIt)
			t.Run("on a standby it is asked again", r.standbyAsksAgain)
			if version == "15" {
				t.Run("damage ends it", r.damageEndsIt)
			}
		})
	}
}

// recovery is a data directory, and an archive that leads on from it.
type recovery struct {
	*archive
	version string
	base    string // of a server that was shut down before it wrote the segments
	last    string // segment; rows come in each
	rows    string
	n       int
}

const rowsOfT = "SELECT count(*) FROM t"

func newRecovery(t *testing.T, version string) *recovery {
	r := &recovery{archive: newArchive(t), version: version}
	s := r.server(version, pgtest.Options{})
	s.Exec(t, "CREATE TABLE t (n int)")
	s.Stop(t, pgtest.Fast)
	r.base = r.copyOf(s.Dir)
	s.Start(t)
	for range 3 {
		s.Exec(t, "INSERT INTO t SELECT generate_series(1, 100)")
		r.last = s.SwitchWAL(t)
	}
	s.WaitArchived(t, r.last)
	r.rows = s.Query(t, rowsOfT)
	s.Stop(t, pgtest.Immediate)
	return r
}

func (a *archive) copyOf(dir string) string {
	a.t.Helper()
	to := filepath.Join(pgtest.TempDir(a.t), "data")
	pgtest.MustRun(a.t, pgtest.Command(a.t, a.dir, "cp", "-a", dir, to))
	return to
}

// server is a copy of the base that recovers from the archive. As long as there is a file away, there is none for the last segment. Each call
// of restore_command leaves a line in calls.
func (r *recovery) recovering(t *testing.T, signal string) (s *pgtest.Server, away, calls string) {
	t.Helper()
	r.n++
	away, calls = filepath.Join(r.dir, fmt.Sprint("away", r.n)), filepath.Join(r.dir, fmt.Sprint("calls", r.n))
	script := filepath.Join(r.dir, fmt.Sprint("restore", r.n))
	write(t, script, fmt.Sprintf(`#!/bin/sh
echo "$1" >> %s
if [ -e %s ] && [ "$1" = %s ]; then
	export PGTROVE_REPO=s3://absent/x AWS_ACCESS_KEY_ID=a AWS_SECRET_ACCESS_KEY=b AWS_REGION=r AWS_ENDPOINT_URL_S3=http://127.0.0.1:1 PGTROVE_RETRY_TIME=0
fi
exec %s wal fetch --ahead 0 "$1" "$2"
`, calls, away, r.last, pgtest.Binary(t)))
	s = pgtest.Adopt(t, r.version, r.copyOf(r.base))
	s.ExtraEnv = r.env()
	s.Configure(t, map[string]string{"restore_command": script + " %f %p", "archive_mode": "off", "wal_retrieve_retry_interval": "200ms"})
	if signal == "recovery.signal" {
		s.Configure(t, map[string]string{"hot_standby": "off"}) // so that it takes connections only when it was promoted
	}
	write(t, filepath.Join(s.Dir, signal), "")
	return s, away, calls
}

func (r *recovery) outageEndsIt(t *testing.T) {
	s, away, _ := r.recovering(t, "recovery.signal")
	write(t, away, "")
	var exit *pgtest.ExitError
	if err := s.StartErr(); !errors.As(err, &exit) || exit.Code == 0 || !strings.Contains(exit.Log, "storage unreachable") {
		t.Fatalf("the server did not end: %v", err)
	}
	if strings.Contains(exit.Log, "selected new timeline") {
		t.Errorf("it was promoted:\n%s", exit.Log)
	}
	pgtest.MustRun(t, exec.Command("rm", away))
	// Now the archive has an end, which ends the recovery well.
	s.Start(t)
	s.WaitPromoted(t)
	if got := s.Query(t, rowsOfT); got != r.rows {
		t.Errorf("%s rows, want %s", got, r.rows)
	}
	s.Stop(t, pgtest.Immediate)
}

func (r *recovery) standbyAsksAgain(t *testing.T) {
	s, away, calls := r.recovering(t, "standby.signal")
	write(t, away, "")
	s.Start(t)
	eventually(t, "it was asked again, or it ended", func() bool {
		return strings.Count(string(read(t, calls)), r.last+"\n") >= 2 || !s.Running()
	})
	if !s.Running() {
		t.Fatal("it ended")
	}
	if s.Query(t, "SELECT pg_is_in_recovery()") != "t" || s.Query(t, rowsOfT) == r.rows {
		t.Errorf("it does not wait:\n%s", s.Log())
	}
	pgtest.MustRun(t, exec.Command("rm", away))
	s.WaitQuery(t, rowsOfT, r.rows, 2*time.Minute)
	// What is absent is asked for again, too; a promotion ends it.
	if s.Query(t, "SELECT pg_is_in_recovery()") != "t" {
		t.Error("it promoted itself")
	}
	s.Exec(t, "SELECT pg_promote(false)")
	s.WaitPromoted(t)
	s.Stop(t, pgtest.Immediate)
}

func (r *recovery) damageEndsIt(t *testing.T) {
	s, _, _ := r.recovering(t, "recovery.signal")
	var object string
	for path := range strings.Lines(pgtest.MustRun(t, exec.Command("find", r.repo, "-name", r.last))) {
		object = strings.TrimSpace(path)
	}
	whole := read(t, object)
	damaged := []byte(string(whole))
	damaged[len(damaged)-20] ^= 1
	pgtest.MustRun(t, exec.Command("chmod", "u+w", object))
	write(t, object, string(damaged))
	err := s.StartErr()
	write(t, object, string(whole))
	var exit *pgtest.ExitError
	if !errors.As(err, &exit) || exit.Code == 0 || !strings.Contains(exit.Log, r.last) || strings.Contains(exit.Log, "selected new timeline") {
		t.Errorf("the server did not end: %v", err)
	}
}
