package ahead

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/test/pgtest"
	"github.com/pgtrove/pgtrove/test/s3test"
)

// backlog makes n segments that wait for an archiver, and stops the server. It returns their names.
func (w *world) backlog(n int) (names []string) {
	w.t.Helper()
	names = w.segments(n)
	w.Stop(w.t, pgtest.Immediate)       // or the archiver is waited for
	time.Sleep(1100 * time.Millisecond) // segments that changed a moment ago are left alone
	return names
}

func waiting() pgtest.Options {
	return pgtest.Options{WALSegMB: 1, Conf: map[string]string{"archive_command": "false"}}
}

// inData prepares pgtrove as the server runs it.
func (w *world) inData(args ...string) *exec.Cmd {
	cmd := w.Command("pgtrove", args...)
	cmd.Dir = w.Dir
	return cmd
}

// push pushes a segment as the server does, with this result.
func (w *world) push(code int, name string, flags ...string) pgtest.Result {
	w.t.Helper()
	r := pgtest.Run(w.t, w.inData(append(append([]string{"wal", "push", "-v"}, flags...), "pg_wal/"+name)...))
	if r.Code != code {
		w.t.Fatalf("push %s: exit %d, want %d\n%s", name, r.Code, code, r.Stderr)
	}
	return r
}

const beforeItsTurn = "was archived before its turn"

func TestOneCallPushesWhatWaitsBehindIt(t *testing.T) {
	w, server, _ := inBucket(t, "15", waiting())
	names := w.backlog(9)
	status := filepath.Join(w.Dir, "pg_wal", "archive_status")
	if err := os.Remove(filepath.Join(status, names[7]+".ready")); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(status, 0o300); err != nil { // however many wait: it is not listed
		t.Fatal(err)
	}
	w.push(0, names[0], "--ahead", "5")
	server.Stop()
	for _, n := range names[1:6] {
		if r := w.push(0, n); !strings.Contains(r.Stderr, beforeItsTurn) {
			t.Errorf("%s: %s", n, r.Stderr)
		}
	}
	w.push(7, names[1]) // what was remembered is used once
	w.push(7, names[6])
	server.Start()
	w.push(0, names[6]) // finds no other that waits
	server.Stop()
	w.push(7, names[7])
	server.Start()
	for _, n := range names {
		w.push(0, n, "--ahead", "0")
	}
	if err := os.Chmod(status, 0o700); err != nil {
		t.Fatal(err)
	}
}

func TestOnlyTheVeryFileThatWasPushedCountsAsArchived(t *testing.T) {
	w := newWorld(t, "15", waiting())
	names := w.backlog(6)
	w.push(0, names[0])
	in := func(n string) string { return filepath.Join(w.Dir, "pg_wal", n) }
	if r := w.push(0, names[5]); !strings.Contains(r.Stderr, beforeItsTurn) {
		t.Errorf("%s", r.Stderr)
	}

	// Another branch's segment of the same name, by whatever way it comes there.
	whole := read(t, in(names[1]))
	other := bytes.Clone(whole)
	other[len(other)-9] ^= 1
	info, err := os.Stat(in(names[1]))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(in(names[1]), other, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(in(names[1]), info.ModTime(), info.ModTime()); err != nil {
		t.Fatal(err)
	}
	w.push(5, names[1])
	overwrite(t, in(names[1]), whole)

	// A copy of the data directory.
	copied := filepath.Join(w.dir, "copy")
	pgtest.MustRun(t, exec.Command("cp", "-a", w.Dir, copied))
	cmd := w.Command("pgtrove", "wal", "push", "-v", "pg_wal/"+names[2])
	cmd.Dir = copied
	if r := pgtest.Run(t, cmd); r.Code != 0 || strings.Contains(r.Stderr, beforeItsTurn) || !strings.Contains(r.Stderr, "with the same content") {
		t.Errorf("exit %d\n%s", r.Code, r.Stderr)
	}

	// Another cluster name.
	if r := w.push(0, names[3], "--cluster", "other", "--ahead", "0"); strings.Contains(r.Stderr, beforeItsTurn) {
		t.Errorf("%s", r.Stderr)
	}

	// Another repository under the same name, that the same key opens.
	if err := os.Rename(w.repo, w.repo+".old"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(w.key, w.key+".old"); err != nil {
		t.Fatal(err)
	}
	w.ok("init")
	if r := w.push(0, names[4], "--ahead", "0"); strings.Contains(r.Stderr, beforeItsTurn) {
		t.Errorf("%s", r.Stderr)
	}
	if !w.stored(names[4]) {
		t.Error("it is not in the repository")
	}
}

func TestWhatGoesWrongWithOneSegmentIsNoOthersResult(t *testing.T) {
	w := newWorld(t, "15", waiting())
	names := w.backlog(6)
	in := func(n string) string { return filepath.Join(w.Dir, "pg_wal", n) }
	// The archive holds something else under the second one's name; the third is cut short.
	whole := read(t, in(names[1]))
	other := bytes.Clone(whole)
	other[len(other)-9] ^= 1
	dir := filepath.Join(w.dir, "elsewhere")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, names[1]), other, 0o644); err != nil {
		t.Fatal(err)
	}
	w.ok("wal", "push", filepath.Join(dir, names[1]))
	third := read(t, in(names[2]))
	overwrite(t, in(names[2]), third[:len(third)/2])

	w.push(0, names[0])
	w.push(5, names[1])
	w.push(5, names[2])
	w.push(0, names[3])
	w.push(0, names[4])
	w.push(5, names[1])
	overwrite(t, in(names[2]), third)
	w.push(0, names[2])
	for _, n := range []string{names[0], names[2], names[3], names[4]} {
		to := filepath.Join(w.dir, "fetched")
		w.ok("--pgdata", w.Dir, "wal", "fetch", n, to)
		if !bytes.Equal(read(t, to), read(t, in(n))) {
			t.Errorf("%s came back with other content", n)
		}
	}
}

// begun starts a push and returns when it has said this.
func (w *world) begun(said string, cmd *exec.Cmd) (end func() int) {
	w.t.Helper()
	stderr, err := cmd.StderrPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	lines := bufio.NewReader(stderr)
	for text := ""; !strings.Contains(text, said); {
		if text, err = lines.ReadString('\n'); err != nil {
			w.t.Fatalf("it never said %q", said)
		}
	}
	return func() int {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			w.t.Fatal(err)
		}
		_, _ = lines.WriteTo(os.Stderr)
		_ = cmd.Wait()
		return pgtest.ExitCode(cmd.ProcessState)
	}
}

func TestASignalEndsAPushWithTheTruthAboutItsOwnSegment(t *testing.T) {
	w, _, proxy := inBucket(t, "15", waiting())
	names := w.backlog(20)
	// Durable, with others under way.
	end := w.begun("archived "+names[0], w.inData("wal", "push", "-v", "--limit-upload", "100kB", "pg_wal/"+names[0]))
	if code := end(); code != 0 {
		t.Errorf("exit %d though its segment is durable", code)
	}
	w.push(0, names[1], "--ahead", "0") // and the repository is remembered
	proxy.Set(s3test.Faults{Refuse: true})
	w.push(7, names[19])
	end = w.begun("trying again", w.inData("wal", "push", "-v", "--retry-time", "1m", "pg_wal/"+names[19]))
	if code := end(); code != 1 {
		t.Errorf("exit %d, want 1", code)
	}
	proxy.Set(s3test.Faults{})
}

// TestOnlyWhatIsStoredIsAcknowledged breaks connections after some bytes of requests, or before an answer, so that some of the segments that are
// pushed together fail.
func TestOnlyWhatIsStoredIsAcknowledged(t *testing.T) {
	w, _, proxy := inBucket(t, "15", waiting())
	names := w.backlog(6)
	acknowledged, failed := 0, 0
	for i, f := range []s3test.Faults{{CutRequests: 30e3}, {CutRequests: 200e3}, {CutRequests: 400e3}, {CutAnswers: 600}, {CutAnswers: 2000}} {
		cluster := []string{"--cluster", string(rune('a' + i)), "--retry-time", "0"}
		proxy.Set(f)
		pgtest.Run(t, w.inData(append([]string{"wal", "push", "pg_wal/" + names[0]}, cluster...)...))
		proxy.Set(s3test.Faults{Refuse: true})
		var done []string
		for _, name := range names[1:] {
			r := pgtest.Run(t, w.inData(append([]string{"wal", "push", "pg_wal/" + name}, cluster...)...))
			switch r.Code {
			case 0:
				done = append(done, name)
				acknowledged++
			case 7:
				failed++
			default:
				t.Errorf("exit %d\n%s", r.Code, r.Stderr)
			}
		}
		proxy.Set(s3test.Faults{})
		for _, name := range done {
			w.fetch(w.recovering(), name, "--ahead", "0", "--cluster", cluster[1])
		}
	}
	if acknowledged == 0 || failed == 0 {
		t.Errorf("%d were acknowledged and %d failed: this tries nothing", acknowledged, failed)
	}
}

func overwrite(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}
