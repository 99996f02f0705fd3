package e2e

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/test/pgtest"
)

// beside is a program that runs while the test does something else.
type beside struct {
	t         *testing.T
	signal    func(os.Signal) error
	wait      func() pgtest.Result
	out, errs bytes.Buffer
}

// begin starts pgtrove.
func (w *world) begin(args ...string) *beside {
	w.t.Helper()
	b := &beside{t: w.t}
	cmd := w.Command("pgtrove", args...)
	cmd.Stdout, cmd.Stderr = &b.out, &b.errs
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	b.signal = cmd.Process.Signal
	b.wait = func() pgtest.Result {
		_ = cmd.Wait()
		return pgtest.Result{Stdout: b.out.String(), Stderr: b.errs.String(), Code: pgtest.ExitCode(cmd.ProcessState)}
	}
	return b
}

// finishes waits for the end, which must be a good one.
func (b *beside) finishes() pgtest.Result {
	b.t.Helper()
	r := b.wait()
	if r.Code != 0 {
		b.t.Fatalf("exit %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
	return r
}

// appears waits for an object that was not there before, and returns its path in the repository.
func (w *world) appears(pattern string, before []string) string {
	w.t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		for _, path := range w.matching(pattern) {
			if !slices.Contains(before, path) {
				return path
			}
		}
	}
	w.t.Fatalf("nothing new in %s after a minute", pattern)
	return ""
}

func (w *world) matching(pattern string) (found []string) {
	w.t.Helper()
	paths, err := filepath.Glob(filepath.Join(w.repo, pattern))
	if err != nil {
		w.t.Fatal(err)
	}
	for _, path := range paths {
		rel, _ := filepath.Rel(w.repo, path)
		found = append(found, rel)
	}
	return found
}

func TestWhatAKilledBackupLeftIsReclaimed(t *testing.T) {
	w := unarchived(t, "15", still(nil))
	w.fill("big", 80)
	w.Exec(t, "CHECKPOINT")
	sid := w.kill(2)
	packs := w.packsOf(sid)
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}

	if p := w.prune(); len(p.Fenced) != 0 || p.Condemned.Packs != 0 { // it might be alive
		t.Errorf("%+v", p)
	}
	w.unchanged("a blocked run", func() {
		for _, flags := range [][]string{{"--json"}, {"--json", "--dry-run"}, {"--json", "--fence-after", "1h"}} {
			r := w.fails(3, []string{"nothing was changed", sid, "on host " + host, "last wrote at 20", "hint: ", "--fence-after"}, append([]string{"prune"}, flags...)...)
			if p := w.pruneResult(r.Stdout); len(p.Blocked) != 1 || p.Blocked[0].ID != sid || p.Blocked[0].Host != host {
				t.Errorf("%+v", p)
			}
		}
		w.tells([]string{"prune", "--dry-run", "--fence-after", "1ms"}, "nothing was changed; prune run 2 would do this", "ended, because it is silent: ")
	})
	w.tells([]string{"prune", "--fence-after", "1ms"}, "prune run 2: 0 snapshots kept", "ended, because it is silent: the backup of cluster main on host "+host)
	if p := w.prune(); p.Condemned.Packs != int64(len(packs)) || len(p.Fenced) != 0 { // not before: it might have come back
		t.Errorf("%+v", p)
	}
	w.verify()

	// What the storage does not let go is named, and the rest is done.
	closed(t, filepath.Dir(packs[0]), 0o555, func() {
		r := w.fails(3, []string{"refused to delete", "packs/" + sid, "hint: "}, "prune", "--max-delete", "100%", "--json")
		if p := w.pruneResult(r.Stdout); len(p.Locked) != len(packs) {
			t.Errorf("%+v", p)
		}
	})
	w.packsOf(sid)
	w.prune("--max-delete", "100%")
	w.prune("--max-delete", "100%")
	if left := w.matching("packs/*/*"); len(left) != 0 || w.stored() != 0 {
		t.Errorf("left of a killed backup: %v", left)
	}
	if left := w.matching("*/" + sid + "*"); len(left) != 0 {
		t.Errorf("left of a killed backup: %v", left)
	}
	drop(t, w.freeze().restored())
}

// gated is a world whose server archives only while the gate is open, so that a backup that waits for its archive stands still
// right before its commit.
func gated(t *testing.T) (w *world, gate func(open bool)) {
	t.Helper()
	dir := pgtest.TempDir(t)
	path := filepath.Join(dir, "open")
	conf := map[string]string{"archive_command": "test -e " + path + " && " + pgtest.Binary(t) + " wal push %p"}
	w = newWorld(t, "15", still(conf))
	gate = func(open bool) {
		t.Helper()
		var err error
		if open {
			err = os.WriteFile(path, nil, 0o644)
		} else {
			err = os.Remove(path)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	gate(true)
	return w, gate
}

// held lets something happen right before the commit of a backup, and returns the session that began it and what became of it.
func held(t *testing.T, w *world, gate func(bool), do func(sid string)) (sid string, m *moment, said string) {
	t.Helper()
	w.Exec(t, "CHECKPOINT")
	gate(false)
	before := w.matching("index/*/0")
	b := w.begin("backup", "--json", "--wal", "archive", "--wal-timeout", "5m")
	sid = filepath.Base(filepath.Dir(w.appears("index/*/0", before)))
	do(sid)
	gate(true)
	w.Exec(t, "SELECT pg_reload_conf()") // wakes the archiver, which after three failures sleeps for a minute
	r := b.finishes()
	m = &moment{snapshot: lastSnapshot(t, r.Stdout), world: w}
	m.files, m.spaces = everyFile(t, w.Dir)
	if m.WAL != "complete" {
		t.Errorf("the snapshot's WAL is %s", m.WAL)
	}
	return sid, m, r.Stderr
}

// fencedBackup is held, for a backup that is fenced.
func fencedBackup(t *testing.T, w *world, gate func(bool), do func(sid string)) (*moment, string) {
	t.Helper()
	sid, m, said := held(t, w, gate, do)
	if m.ID == sid || !strings.Contains(said, "session "+sid+" was fenced by a prune") {
		t.Errorf("snapshot %s after session %s:\n%s", m.ID, sid, said)
	}
	return m, said
}

func TestABackupThatWasFencedGoesOnWithoutReadingEverythingAgain(t *testing.T) {
	w, gate := gated(t)
	w.fill("big", 60)
	w.Exec(t, "VACUUM FREEZE big")
	w.Exec(t, "CHECKPOINT")
	time.Sleep(settle)

	first, said := fencedBackup(t, w, gate, func(sid string) {
		if p := w.prune("--fence-after", "1ms"); len(p.Fenced) != 1 || p.Fenced[0].ID != sid {
			t.Errorf("%+v", p)
		}
	})
	if first.Read > first.Size/20 || first.Added > first.Size/20 || first.SkippedFiles < 60<<20 {
		t.Errorf("of %d bytes, %d were read again and %d stored:\n%s", first.Size, first.Read, first.Added, said)
	}
	drop(t, first.restored())
	if next := w.freeze(); next.Read > first.Size/20 {
		t.Errorf("the next one has read %d bytes of %d: it does not trust what the fenced one left", next.Read, next.Size)
	}

	// A backup that is not silent for long is waited for.
	w.prune("--max-delete", "100%") // WAL is half of what there is
	sid, waited, _ := held(t, w, gate, func(sid string) {
		w.prune("--max-delete", "100%") // it has seen the run before this one
		w.unchanged("a blocked run", func() {
			w.fails(3, []string{"nothing was changed", sid, "hint: run prune again when it has ended"}, "prune")
		})
	})
	if waited.ID != sid {
		t.Errorf("session %s was waited for, and committed as %s", sid, waited.ID)
	}
	if p := w.prune("--max-delete", "100%"); p.Snapshots != 3 {
		t.Errorf("%+v", p)
	}

	// Now all that it is compared with is forgotten, and deleted before it goes on.
	w.fill("last", 5)
	last, _ := fencedBackup(t, w, gate, func(sid string) {
		for _, id := range w.ids() {
			w.ok("forget", id, "--allow-last")
		}
		w.prune("--fence-after", "1ms")
		for range 2 {
			w.prune("--max-delete", "100%")
		}
		if left := w.stored(); left != 0 {
			t.Errorf("%d bytes are left", left)
		}
	})
	w.shows(last.ID)
	drop(t, last.restored())
	w.fails(4, []string{"no such snapshot"}, "restore", first.ID, "--to", w.newDir())
}

func TestARestoreOfWhatIsForgottenFinishesOrSaysSo(t *testing.T) {
	w := unarchived(t, "15", still(nil))
	w.fill("big", 100)
	m := w.freeze()
	w.Exec(t, "TRUNCATE big")
	w.freeze()
	begin := func() (*beside, string) {
		dir := w.newDir()
		b := w.begin("restore", m.ID, "--no-recovery", "--to", dir, "--jobs", "1")
		for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
			if _, err := os.Stat(filepath.Join(dir, "base")); err == nil {
				break
			}
		}
		if err := b.signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		return b, dir
	}
	resume := func(b *beside) {
		if err := b.signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
	}

	first, dir := begin()
	second, part := begin()
	w.ok("forget", m.ID)
	if p := w.prune(); p.Condemned.Bytes < 90<<20 {
		t.Fatalf("%+v", p)
	}
	resume(first)
	first.finishes()
	got, _ := everyFile(t, dir)
	for path, want := range m.files {
		if got[path] != want {
			t.Errorf("%s is %q, want %q", path, got[path], want)
		}
	}
	drop(t, dir)

	w.prune("--max-delete", "100%")
	resume(second)
	expect(t, second.wait(), 4, []string{m.ID, "it was forgotten, and a prune has removed it meanwhile", "hint: "}, "restore")
	if err := pgtest.Adopt(t, w.Version, part).StartErr(); err == nil {
		t.Error("half a cluster starts")
	}
}

// Two hosts back up clones of one cluster, each with a cache of its own.
func TestClonesShareWhatTheyStoreAlsoAtTheSameTime(t *testing.T) {
	w := unarchived(t, "15", still(nil))
	w.fill("big", 60)
	w.Stop(t, pgtest.Fast)
	copied := filepath.Join(w.dir, "clone")
	pgtest.MustRun(t, pgtest.Command(t, w.dir, "cp", "-a", w.Dir, copied))
	w.Start(t)
	clone := pgtest.Adopt(t, w.Version, copied)
	clone.ExtraEnv = w.env()
	clone.Start(t)

	a := w.freeze("--cluster", "a")
	b := w.freezeOf(clone, "--cluster", "b")
	if b.Added > a.Added/10 || b.Read < a.Size*9/10 {
		t.Errorf("the first host has stored %d bytes, and the second %d more of %d read", a.Added, b.Added, b.Read)
	}

	all := []*moment{a, b}
	for _, s := range []*pgtest.Server{w.Server, clone} {
		s.Exec(t, "CREATE TABLE "+map[bool]string{true: "of_a", false: "of_b"}[s == w.Server]+" AS SELECT n, gen_random_bytes(1000) FROM generate_series(1, 10000) n")
		s.Exec(t, "UPDATE big SET n = -n WHERE n % 100 = 0")
		s.Exec(t, "CHECKPOINT")
	}
	other := *w
	other.Server = clone
	both := []*beside{w.begin("backup", "--json", "--cluster", "a"), other.begin("backup", "--json", "--cluster", "b")}
	for i, s := range []*pgtest.Server{w.Server, clone} {
		m := &moment{snapshot: lastSnapshot(t, both[i].finishes().Stdout), world: w}
		m.files, m.spaces = everyFile(t, s.Dir)
		all = append(all, m)
	}
	w.verify()
	w.ok("forget", a.ID, b.ID)
	w.prune()
	w.prune("--max-delete", "100%")
	for _, m := range all[2:] {
		drop(t, m.restored())
	}
}
