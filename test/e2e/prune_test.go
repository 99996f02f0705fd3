package e2e

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// pruned is what the tests look at of prune --json.
type pruned struct {
	Type                                          string
	Run                                           uint64
	Snapshots                                     int
	Removed, Returned, Vanished                   []struct{ ID, Cluster string }
	Fenced, Blocked                               []struct{ ID, Host string }
	Stored, Deleted, Condemned, Repacked, Rescued struct{ Packs, Bytes int64 }
	Locked, Damage                                []string
}

// prune runs prune, which must succeed.
func (w *world) prune(args ...string) pruned {
	w.t.Helper()
	return w.pruneResult(w.ok(append([]string{"prune", "--json"}, args...)...))
}

func (w *world) pruneResult(out string) (p pruned) {
	w.t.Helper()
	if err := json.Unmarshal([]byte(out), &p); err != nil || p.Type != "prune" {
		w.t.Fatalf("no result of prune (%v): %s", err, out)
	}
	return p
}

// inventory describes every object of the repository: they are never written twice, so size and time tell.
func (w *world) inventory() map[string]string {
	w.t.Helper()
	all := map[string]string{}
	if err := filepath.WalkDir(w.repo, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			rel, _ := filepath.Rel(w.repo, path)
			all[rel] = fmt.Sprint(info.Size(), " ", info.ModTime().UnixNano())
		}
		return err
	}); err != nil {
		w.t.Fatal(err)
	}
	return all
}

// unchanged makes sure that do changes not one object.
func (w *world) unchanged(what string, do func()) {
	w.t.Helper()
	before := w.inventory()
	do()
	if after := w.inventory(); !maps.Equal(before, after) {
		w.t.Errorf("%s has changed the repository:\n%v\n%v", what, slices.Sorted(maps.Keys(before)), slices.Sorted(maps.Keys(after)))
	}
}

// stored sums up the packs.
func (w *world) stored() (bytes int64) {
	w.t.Helper()
	err := filepath.WalkDir(filepath.Join(w.repo, "packs"), func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			bytes += info.Size()
		}
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return bytes
}

// tells runs pgtrove, which must succeed and say every one of parts.
func (w *world) tells(args []string, parts ...string) {
	w.t.Helper()
	r := w.run(args...)
	for _, part := range parts {
		if r.Code != 0 || !strings.Contains(r.Stdout+r.Stderr, part) {
			w.t.Errorf("pgtrove %s: exit %d, and it does not say %q:\n%s%s", strings.Join(args, " "), r.Code, part, r.Stdout, r.Stderr)
		}
	}
}

func (w *world) ids() (ids []string) {
	w.t.Helper()
	for _, s := range w.snapshots() {
		ids = append(ids, s.ID)
	}
	return ids
}

func (w *world) shows(want ...string) {
	w.t.Helper()
	if got := w.ids(); !slices.Equal(got, want) {
		w.t.Errorf("the snapshots are %v, want %v", got, want)
	}
}

// asWriter gives commands from now on the key of a writer instead of the owner's.
func (w *world) asWriter() {
	w.t.Helper()
	key := filepath.Join(w.dir, "writer.txt")
	w.ok("key", "add", "--role", "writer", "--name", "writer", "--clusters", "*", "--output", key)
	w.ExtraEnv = append(w.env(), "PGTROVE_KEY_FILE="+key)
}

// fill makes a table of about so many MB that do not compress.
func (w *world) fill(table string, mb int) {
	w.t.Helper()
	w.Exec(w.t, "CREATE EXTENSION IF NOT EXISTS pgcrypto")
	w.Exec(w.t, fmt.Sprintf("CREATE TABLE %s AS SELECT n, gen_random_bytes(1000) AS x FROM generate_series(1, %d) n", table, mb*1000))
}

func TestForgettingAndPruningFreesTheSpaceAndNothingElse(t *testing.T) {
	w := unarchived(t, "15", still(nil))
	w.fill("stays", 10)
	row := []*moment{}
	for _, table := range []string{"one", "two", "three"} {
		w.fill(table, 30)
		row = append(row, w.freeze())
		w.Exec(t, "DROP TABLE "+table)
	}
	one, two, three := row[0], row[1], row[2]
	full := w.stored()

	w.unchanged("a dry run", func() {
		if p := w.prune("--dry-run"); p.Run != 1 || p.Snapshots != 3 || p.Condemned.Packs != 0 {
			t.Errorf("the dry run says %+v", p)
		}
	})
	w.unchanged("a dry run of forget", func() { w.ok("forget", "--dry-run", one.ID) })
	r := w.run("forget", one.ID, two.ID[len(two.ID)-8:])
	if r.Code != 0 || !strings.Contains(r.Stdout, one.ID) || !strings.Contains(r.Stdout, two.ID) || !strings.Contains(r.Stderr, "gone with the next `pgtrove prune`") {
		t.Errorf("forget: exit %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
	w.shows(three.ID)
	for _, args := range [][]string{{"restore", one.ID, "--to", w.newDir()}, {"verify", one.ID}} {
		w.fails(4, []string{"no such snapshot", "hint: it is forgotten", "`pgtrove pin " + one.ID + "`"}, args...)
	}
	w.unchanged("a dry run", func() {
		if p := w.prune("--dry-run"); len(p.Removed) != 2 || p.Condemned.Bytes < 50<<20 {
			t.Errorf("the dry run says %+v", p)
		}
	})
	p := w.prune()
	if p.Run != 1 || p.Snapshots != 1 || len(p.Removed) != 2 || p.Deleted.Packs != 0 || p.Condemned.Bytes < 50<<20 || w.stored() < full {
		t.Errorf("the first run: %+v; %d bytes are left of %d", p, w.stored(), full)
	}
	w.verify()
	w.unchanged("a run that would delete too much", func() {
		r = w.fails(5, []string{"--max-delete allows 50 %", "hint: look at `pgtrove prune --dry-run`"}, "prune")
		w.fails(5, []string{"nothing was deleted"}, "prune", "--dry-run")
	})
	allowed := regexp.MustCompile("`pgtrove prune --max-delete ([0-9]+%)`").FindStringSubmatch(r.Stderr)
	if allowed == nil {
		t.Fatalf("no hint:\n%s", r.Stderr)
	}
	w.asWriter() // who prunes need not be able to open what is stored
	w.fails(8, []string{"opens no backup"}, "restore", three.ID, "--no-recovery", "--to", w.newDir())
	p = w.prune("--max-delete", allowed[1])
	w.ExtraEnv = w.env()
	if p.Run != 2 || p.Snapshots != 1 || p.Deleted.Bytes < 50<<20 {
		t.Errorf("the second run: %+v", p)
	}
	// What is left is what one snapshot takes, but for packs that held something of the others too, less than half of each.
	if left := w.stored(); left > 3*three.Size/4 || left > full*6/10 || left != p.Stored.Bytes-p.Deleted.Bytes {
		t.Errorf("%d bytes are left of %d, and the snapshot has %d", left, full, three.Size)
	}
	drop(t, three.restored())
	w.verify()
	next := w.freeze()
	if next.Added > 2<<20 {
		t.Errorf("the next snapshot added %d bytes: what it shares was swept", next.Added)
	}
	drop(t, next.restored())
	w.fails(4, []string{"no such snapshot"}, "forget", one.ID)
}

func TestForgetAndPinDoWhatTheySayAndNothingIfTheyCannot(t *testing.T) {
	w := unarchived(t, "15", still(nil))
	a, b, c := w.backup(), w.backup("--tag", "kind=nightly"), w.backup()
	gone := w.newDir()

	w.unchanged("a refused request", func() {
		w.fails(4, []string{"no such snapshot", "nonsense"}, "forget", a.ID, "nonsense")
		w.fails(2, []string{"give more of the id"}, "forget", c.ID, a.ID[:4])
		w.fails(2, []string{"twice", "hint: give the snapshot's id"}, "forget", "latest")
		w.fails(2, []string{"snapshot is missing"}, "forget")
		w.fails(4, []string{"no such snapshot"}, "pin", "nonsense")
		w.fails(4, []string{"no such snapshot"}, "unpin", "nonsense")
		w.ok("unpin", a.ID)
		for _, flags := range [][]string{{"--max-delete", "50"}, {"--max-repack", "1M"}, {"--fence-after", "0s"}, {"now"}} {
			w.fails(2, []string{"pgtrove prune --help"}, append([]string{"prune"}, flags...)...)
		}
	})

	w.ok("pin", a.ID[len(a.ID)-6:])
	w.ok("pin", a.ID) // again
	if list := w.ok("snapshots"); strings.Count(list, "pinned") != 1 || !strings.Contains(list, "kind=nightly") {
		t.Errorf("the list shows other pins:\n%s", list)
	}
	if list := w.ok("snapshots", "--json"); strings.Count(list, `"pinned":true`) != 1 {
		t.Errorf("the list shows other pins:\n%s", list)
	}
	w.unchanged("a request that a pin refuses", func() {
		w.fails(5, []string{"is pinned", "hint: `pgtrove unpin " + a.ID}, "forget", b.ID, a.ID)
	})
	w.ok("unpin", a.ID)

	w.ok("forget", a.ID)
	w.tells([]string{"forget", a.ID}, "was forgotten before")
	w.tells([]string{"snapshots"}, "not shown: 1 forgotten snapshot")
	w.shows(b.ID, c.ID)
	w.tells([]string{"pin", a.ID}, "it was forgotten, and is back")
	w.shows(a.ID, b.ID, c.ID)
	if p := w.prune(); p.Snapshots != 3 || len(p.Removed) != 0 {
		t.Errorf("%+v", p)
	}
	w.tells([]string{"unpin", a.ID}, "was forgotten before it was pinned", "the next prune removes it")
	w.shows(b.ID, c.ID)
	w.tells([]string{"forget", "--prune", b.ID}, "prune run 2: 1 snapshot kept, 2 removed", "removed: snapshot "+b.ID)
	w.fails(4, []string{"no such snapshot"}, "pin", a.ID[:len(a.ID)-1])
	w.ok("restore", c.ID, "--no-recovery", "--to", gone)

	for _, object := range []string{"gc/0000000002", "forget/" + b.ID} {
		w.tells([]string{"inspect", object}, `"version": 1`)
	}
	w.tells([]string{"inspect", "gc/0000000002"}, a.ID, c.ID)
	for line := range strings.Lines(w.ok("inspect", "base/")) {
		w.tells([]string{"inspect", strings.Fields(line)[1]}, "packs/"+c.ID)
	}
	w.unchanged("forgetting the last one", func() {
		w.fails(5, []string{"no snapshot of cluster main", "hint: take a new one first", "--allow-last"}, "forget", c.ID)
	})
	w.tells([]string{"forget", c.ID, "--allow-last"}, "no snapshot of cluster main")
	w.tells([]string{"snapshots"}, "no snapshots of cluster main yet")
	w.prune("--max-delete", "100%")
	w.prune("--max-delete", "100%")
	if p := w.prune(); p.Stored.Packs != 0 || w.stored() != 0 {
		t.Errorf("%d bytes are left of nothing: %+v", w.stored(), p)
	}
	if left := w.inventory(); len(left) > 20 {
		t.Errorf("what is left of three snapshots: %v", slices.Sorted(maps.Keys(left)))
	}
	w.backup()
}

func TestAPruneThatCannotBeSureChangesNothing(t *testing.T) {
	w := unarchived(t, "15", still(nil))
	w.fill("data", 5)
	a, b := w.backup(), w.backup()
	w.ok("pin", a.ID)
	w.prune()

	// Somebody removed a snapshot, though it was pinned.
	if err := os.Remove(filepath.Join(w.repo, "snapshots", "main", a.ID)); err != nil {
		t.Fatal(err)
	}
	w.unchanged("a run that misses a snapshot", func() {
		r := w.fails(5, []string{a.ID + " of cluster main", "hint: ", "`pgtrove unpin " + a.ID + "`", "`pgtrove forget " + a.ID + "`"}, "prune", "--json")
		if p := w.pruneResult(r.Stdout); len(p.Vanished) != 1 || p.Vanished[0].ID != a.ID {
			t.Errorf("%+v", p)
		}
		for _, command := range []string{"forget", "unpin"} { // nobody means this by accident
			w.fails(4, []string{"no such snapshot"}, command, a.ID[:len(a.ID)-1])
		}
		w.fails(5, []string{"is pinned", "hint: `pgtrove unpin " + a.ID + "`"}, "forget", a.ID)
	})
	w.ok("unpin", a.ID)
	w.unchanged("a run that misses a snapshot", func() {
		if r := w.fails(5, []string{"`pgtrove forget " + a.ID + "`"}, "prune"); strings.Contains(r.Stderr, "unpin") {
			t.Errorf("it is not pinned any more:\n%s", r.Stderr)
		}
	})
	w.ok("forget", a.ID)
	if p := w.prune(); p.Snapshots != 1 {
		t.Errorf("%+v", p)
	}
	w.shows(b.ID)

	// A directory that cannot be listed.
	for _, dir := range []string{"packs", "snapshots/main", "sessions", "forget", "gc"} {
		dir = filepath.Join(w.repo, dir)
		w.unchanged("a run that cannot see everything", func() {
			closed(t, dir, 0, func() { w.fails(8, []string{"denied"}, "prune") })
		})
	}

	// Damage: a pack that a snapshot needs is gone.
	w.ok("forget", w.backup().ID)
	condemned := w.prune().Condemned.Packs
	packs := w.packsOf(b.ID)
	away := filepath.Join(w.dir, "away")
	if err := os.Rename(packs[0], away); err != nil {
		t.Fatal(err)
	}
	before := w.stored()
	r := w.fails(9, []string{"damaged: ", b.ID, "no pack is deleted", "hint: "}, "prune", "--json")
	if p := w.pruneResult(r.Stdout); p.Deleted.Packs != 0 || p.Condemned.Packs != condemned || len(p.Damage) == 0 || w.stored() != before {
		t.Errorf("%+v", p)
	}
	if err := os.Rename(away, packs[0]); err != nil {
		t.Fatal(err)
	}
	w.verify()
	w.prune()
}

// closed changes the mode of a directory while do runs.
func closed(t *testing.T, dir string, mode os.FileMode, do func()) {
	t.Helper()
	info, err := os.Stat(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, mode); err != nil {
		t.Fatal(err)
	}
	do()
	if err := os.Chmod(dir, info.Mode().Perm()); err != nil {
		t.Fatal(err)
	}
}

// packsOf are the paths of the packs that a session wrote.
func (w *world) packsOf(sid string) []string {
	w.t.Helper()
	found, err := filepath.Glob(filepath.Join(w.repo, "packs", sid, "[0-9]*"))
	if err != nil || len(found) == 0 {
		w.t.Fatalf("no packs of %s (%v)", sid, err)
	}
	return found
}
