package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/test/pgtest"
)

// beginSlowly starts a backup and returns once the server is in backup mode. A named pipe cannot hold it up, since
// those are left out; but pg_backup_start with a spread checkpoint takes its time while the test looks: so a large
// relation is what makes the backup long. The returned function waits for its end.
func beginSlowly(t *testing.T, s *pgtest.Server, cmd *exec.Cmd) (finish func() pgtest.Result) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitBusy(t, s)
	// Stopped between two instructions, whatever it is at: the test decides when it goes on.
	if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	return func() pgtest.Result {
		_ = cmd.Process.Signal(syscall.SIGCONT)
		_ = cmd.Wait()
		return pgtest.Result{Stdout: out.String(), Stderr: errs.String(), Code: pgtest.ExitCode(cmd.ProcessState)}
	}
}

// waitBusy waits until a session of the server has started a backup.
func waitBusy(t *testing.T, s *pgtest.Server) {
	t.Helper()
	s.WaitQuery(t, `SELECT count(*) > 0 FROM pg_stat_activity WHERE application_name LIKE 'pgtrove%' AND backend_type = 'client backend'
		AND state = 'idle' AND query ~ 'pg_(start_backup|backup_start)|pg_control|pg_current_wal'`, "t", time.Minute)
}

// quiet checks that no connection of a backup is left: a non-exclusive backup ends with its connection.
func quiet(t *testing.T, s *pgtest.Server) {
	t.Helper()
	s.WaitQuery(t, "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'pgtrove%'", "0", time.Minute)
}

func TestAnInterruptedBackupLeavesNothingHalf(t *testing.T) {
	w := newWorld(t, "15", pgtest.Options{Conf: map[string]string{"autovacuum": "off"}})
	w.Pgbench(t, "-i", "-s", "20", "-q")
	w.Exec(t, "CHECKPOINT")
	for _, c := range []struct {
		name   string
		signal syscall.Signal
		after  time.Duration
	}{
		{"Ctrl-C at the start", syscall.SIGINT, 0},
		{"Ctrl-C in the middle", syscall.SIGINT, 500 * time.Millisecond},
		{"SIGTERM in the middle", syscall.SIGTERM, 700 * time.Millisecond},
		{"kill -9 at the start", syscall.SIGKILL, 0},
		{"kill -9 in the middle", syscall.SIGKILL, 600 * time.Millisecond},
	} {
		cmd := w.Command("pgtrove", "backup", "--checkpoint", "fast")
		var errs bytes.Buffer
		cmd.Stderr = &errs
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		waitBusy(t, w.Server)
		time.Sleep(c.after)
		if err := cmd.Process.Signal(c.signal); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		if code := pgtest.ExitCode(cmd.ProcessState); code == 0 {
			t.Logf("%s: the backup was faster", c.name)
		} else if n := len(w.snapshots()); n != 0 {
			t.Errorf("%s: exit %d and %d snapshots", c.name, code, n)
		} else if c.signal != syscall.SIGKILL && !bytes.Contains(errs.Bytes(), []byte("interrupted")) {
			t.Errorf("%s: does not say so:\n%s", c.name, errs.String())
		}
		quiet(t, w.Server)
		if n := len(w.snapshots()); n != 0 {
			t.Fatalf("%s: %d snapshots; the cluster is too small for this test", c.name, n)
		}
		w.ok("verify")
	}
	w.backup()
	w.archived()
	sameContents(t, w.Server, w.adopt(w.restore()))
}

func TestALostConnectionVoidsTheBackup(t *testing.T) {
	w := newWorld(t, "15", pgtest.Options{})
	w.Pgbench(t, "-i", "-s", "10", "-q")
	finish := beginSlowly(t, w.Server, w.Command("pgtrove", "backup", "--checkpoint", "fast"))
	w.Query(t, "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name LIKE 'pgtrove%'")
	quiet(t, w.Server)
	expect(t, finish(), 7, []string{"connection"}, "backup")
	if n := len(w.snapshots()); n != 0 {
		t.Errorf("%d snapshots", n)
	}
}

func TestAnInterruptedRestoreCannotStart(t *testing.T) {
	w := newWorld(t, "15", pgtest.Options{})
	w.Pgbench(t, "-i", "-s", "20", "-q")
	w.backup()
	w.archived()
	for _, signal := range []syscall.Signal{syscall.SIGKILL, syscall.SIGINT} {
		dir := w.newDir()
		cmd := w.Command("pgtrove", "restore", "--to", dir)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
			if _, err := os.Stat(filepath.Join(dir, "base", "1")); err == nil {
				break
			}
		}
		if err := cmd.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		if _, err := os.Stat(filepath.Join(dir, "global", "pg_control")); err == nil {
			t.Fatalf("%v: the restore was faster; the cluster is too small for this test", signal)
		}
		if err := pgtest.Adopt(t, w.Version, dir).StartErr(); err == nil {
			t.Errorf("%v: half a cluster starts", signal)
		}
		w.fails(5, []string{"not empty"}, "restore", "--to", dir)
	}
}
