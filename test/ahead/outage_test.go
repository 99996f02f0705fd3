package ahead

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgtrove/pgtrove/test/pgtest"
	"github.com/pgtrove/pgtrove/test/s3test"
)

func TestAfterAnOutageTheBacklogIsArchivedAndNothingIsMissing(t *testing.T) {
	w, server, _ := inBucket(t, "15", pgtest.Options{WALSegMB: 1})
	w.Pgbench(t, "-i", "-s", "1", "-q")
	w.backup()
	stop := w.load()
	server.Stop()
	w.failing("exit code 7")
	w.segments(30)
	if n := w.ready(); n < 30 {
		t.Errorf("%d files wait", n)
	}
	server.Start()
	w.eventually("the backlog is archived under load", func() bool {
		w.segments(1) // which wakes the archiver
		return w.ready() <= 3
	})
	stop()
	w.archived()
	if n := strings.Count(w.Log(), "archiver process"); n > 0 {
		t.Errorf("the archiver was restarted:\n%s", w.Log())
	}
	for line := range strings.Lines(w.ok("wal", "list", "--json")) {
		if strings.Contains(line, `"gap"`) {
			t.Errorf("a gap: %s", line)
		}
	}
	w.comesBack()
}

// TestASignalDuringAPushIsNoReasonToRestartTheArchiver: PostgreSQL takes death by a signal, and codes above 125, for one.
// From 15 on a module of the server runs the command.
func TestASignalDuringAPushIsNoReasonToRestartTheArchiver(t *testing.T) {
	for _, version := range []string{"13", "18"} {
		w, _, proxy := inBucket(t, version, pgtest.Options{WALSegMB: 1})
		w.WaitArchived(t, w.segments(1)[0])
		proxy.Set(s3test.Faults{Stall: true})
		pids := filepath.Join(w.dir, "pids")
		// The shell becomes the program, so that the signal reaches it.
		w.Configure(t, map[string]string{"archive_command": "echo $$ >> " + pids + "; exec " + pgtest.Binary(t) + " wal push %p"})
		w.Reload(t)
		last := w.segments(1)[0]
		var pid string
		w.eventually("a push has begun", func() bool {
			b, _ := os.ReadFile(pids)
			pid = strings.TrimSpace(string(b))
			exe, _ := os.Readlink("/proc/" + pid + "/exe")
			return strings.HasSuffix(exe, "pgtrove") && proxy.Connections() > 0
		})
		pgtest.MustRun(t, pgtest.Command(t, w.dir, "kill", "-TERM", pid))
		w.failing("archive command failed with exit code 1")
		proxy.Set(s3test.Faults{})
		w.WaitArchived(t, last)
		if strings.Contains(w.Log(), "archiver process") || strings.Contains(w.Log(), "was terminated by signal") {
			t.Errorf("the archiver was restarted:\n%s", w.Log())
		}
		w.Stop(t, pgtest.Fast)
	}
}

func TestWhatMaxBacklogDropsIsARecordedGap(t *testing.T) {
	w, server, _ := inBucket(t, "15", pgtest.Options{WALSegMB: 1})
	w.backup()
	w.Configure(t, map[string]string{"archive_command": pgtest.Binary(t) + " wal push --max-backlog 4MiB %p"})
	w.Reload(t)
	server.Stop()
	w.segments(12)
	w.eventually("the server gives up what is too much", func() bool { return w.ready() <= 4 })
	ledger := filepath.Join(w.Dir, "pgtrove.gaps")
	if !strings.Contains(w.Log(), "is NOT archived and given up") {
		t.Errorf("nothing was said:\n%s", w.Log())
	}
	b := read(t, ledger)
	server.Start()
	w.archived()
	w.eventually("the record is in the archive", func() bool {
		_, err := os.Stat(ledger)
		return err != nil
	})
	r := w.ends(3, "check")
	if !strings.Contains(r.Stdout, "dropped by wal push --max-backlog 4.0 MiB") || !strings.Contains(r.Stdout, "unreachable") {
		t.Errorf("check says\n%s\nthe record was\n%s", r.Stdout, b)
	}
	for _, command := range [][]string{{"info"}, {"wal", "list"}} {
		if out := w.ok(command...); !strings.Contains(out, "dropped by wal push --max-backlog 4.0 MiB") {
			t.Errorf("%v says\n%s", command, out)
		}
	}
	gaps := 0
	for line := range strings.Lines(w.ok("wal", "list", "--json")) {
		var g struct {
			Type     string `json:"type"`
			Segments int    `json:"segments"`
			Recorded []struct {
				Reason string `json:"reason"`
			} `json:"recorded"`
		}
		if err := json.Unmarshal([]byte(line), &g); err != nil {
			t.Fatal(err)
		}
		if g.Type == "gap" {
			gaps++
			if g.Segments < 8 || len(g.Recorded) == 0 || g.Recorded[0].Reason != "backlog" {
				t.Errorf("%s", line)
			}
		}
	}
	if gaps != 1 {
		t.Errorf("%d gaps", gaps)
	}
	// Behind the gap all is well again, and a restore says what it can reach.
	w.backup()
	w.comesBack()
	for line := range strings.Lines(w.ok("inspect", "wal/")) {
		if name := strings.Fields(line)[1]; strings.HasSuffix(name, ".gap") {
			if out := w.ok("inspect", name); !strings.Contains(out, `"reason":"backlog"`) && !strings.Contains(out, `"reason": "backlog"`) {
				t.Errorf("inspect %s: %s", name, out)
			}
			return
		}
	}
	t.Error("inspect lists no note of a gap")
}

func TestNothingIsDroppedThatCannotBeRecorded(t *testing.T) {
	w := newWorld(t, "15", waiting())
	names := w.backlog(5)
	if err := os.Rename(w.repo, w.repo+".away"); err != nil {
		t.Fatal(err)
	}
	// An archive that is absent is a mistake and no outage.
	w.push(4, names[0], "--max-backlog", "1MiB")
	if err := os.Rename(w.repo+".away", w.repo); err != nil {
		t.Fatal(err)
	}
	w.repo = "s3://absent/x"
	w.more = []string{"AWS_ACCESS_KEY_ID=a", "AWS_SECRET_ACCESS_KEY=b", "AWS_REGION=r", "AWS_ENDPOINT_URL_S3=http://127.0.0.1:1", "PGTROVE_RETRY_TIME=0"}
	w.ExtraEnv = w.env()
	w.push(7, names[0])
	w.push(7, names[0], "--max-backlog", "1GiB")
	ledger := filepath.Join(w.Dir, "pgtrove.gaps")
	if err := os.Mkdir(ledger, 0o755); err != nil {
		t.Fatal(err)
	}
	w.push(7, names[0], "--max-backlog", "1MiB")
	if err := os.Remove(ledger); err != nil {
		t.Fatal(err)
	}
	w.push(0, names[0], "--max-backlog", "1MiB")
	b := read(t, ledger)
	overwrite(t, ledger, b[:len(b)-4]) // damaged: what it held must not be forgotten
	w.push(7, names[1], "--max-backlog", "1MiB")
	overwrite(t, ledger, b)
	w.push(0, names[1], "--max-backlog", "1MiB")
	w.repo, w.more = filepath.Join(w.dir, "repo"), nil
	w.ExtraEnv = w.env()
	// Another repository than the one that lacks them: the record stays.
	w.push(0, names[2])
	if _, err := os.Stat(ledger); err != nil {
		t.Error(err)
	}
}

// TestFilesOfOtherKindsThatWereGivenUpAreArchivedLater: the server keeps history files, and waits for them before it goes on to segments.
func TestFilesOfOtherKindsThatWereGivenUpAreArchivedLater(t *testing.T) {
	w, _, proxy := inBucket(t, "15", waiting())
	names := w.backlog(5)
	history := filepath.Join(w.Dir, "pg_wal", "00000002.history")
	overwrite(t, history, []byte("1\t0/3000000\tno recovery target specified\n"))
	pgtest.Own(t, history)
	gone := names[1] + ".00000028.backup"
	label := filepath.Join(w.Dir, "pg_wal", gone)
	overwrite(t, label, nil)
	pgtest.Own(t, label)
	proxy.Set(s3test.Faults{Refuse: true})
	w.push(5, gone, "--max-backlog", "1MiB") // no file of its kind: that is no outage
	w.push(0, "00000002.history", "--max-backlog", "1MiB")
	w.push(0, names[0], "--max-backlog", "1MiB")
	w.push(0, names[1], "--max-backlog", "1MiB")
	proxy.Set(s3test.Faults{})
	r := w.push(0, names[2], "--ahead", "0")
	if !strings.Contains(r.Stderr, "the archive has a gap, "+names[0]+" to "+names[1]) || !strings.Contains(r.Stderr, "archived 00000002.history") {
		t.Error(r.Stderr)
	}
	if _, err := os.Stat(filepath.Join(w.Dir, "pgtrove.gaps")); err == nil {
		t.Error("the record stays")
	}
	w.ok("--pgdata", w.Dir, "wal", "fetch", "00000002.history", filepath.Join(w.dir, "history"))
	out := w.ok("wal", "list")
	if !strings.Contains(out, "gap: ") || !strings.Contains(out, names[0]) {
		t.Error(out)
	}
	// Archived after all, by another host perhaps: then it is no gap.
	w.push(0, names[0], "--ahead", "0")
	w.push(0, names[1], "--ahead", "0")
	if out := w.ok("wal", "list"); strings.Contains(out, "gap: ") {
		t.Error(out)
	}
}
