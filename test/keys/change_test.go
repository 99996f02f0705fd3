package keys

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// copyOf makes a copy of some directory.
func copyOf(t *testing.T, dir string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return to
}

// TestKeysAreChangedUnderAHostThatGoesOn: its identity is rotated, and so are the data keys. What was stored can be restored as before; and who had an owner's key, which was
// removed, reads with a copy of it what was there then, and nothing that was written since the data keys were rotated.
func TestKeysAreChangedUnderAHostThatGoesOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	was := w.add("owner", "former")
	standby := w.add("standby", "db2")
	old, fresh := marker("old"), marker("new")
	w.plant("planted", old, "")
	first := w.backup("")
	before := copyOf(t, filepath.Join(w.repo, "keys"))

	rotated := filepath.Join(w.dir, "rotated.txt")
	w.ok(w.owner, "key", "rotate", "db1", "--output", rotated)
	w.ends(8, "", "snapshots") // with the old one
	w.write(w.host, w.read(rotated))
	w.ok("", "snapshots")

	w.ok(w.owner, "prune") // it brings into the index what writers take from no key that is gone

	r := w.ok(w.owner, "key", "remove", "former")
	if !has(r, "owner former", "pgtrove key rotate --data") {
		t.Error(r)
	}
	w.ends(8, was, "snapshots")
	w.ok(w.owner, "key", "rotate", "--data")

	w.plant("later", fresh, "")
	second := w.backup("")
	if second.WAL != "complete" || second.Added > first.Added/2 {
		t.Errorf("%+v: it shares nothing with %+v, whose key was rotated", second, first)
	}
	w.findsOnly(before, was, old, fresh)

	honest := newThief(t, w.repo, w.owner, old, fresh)
	honest.everything()
	if len(honest.found) != 2 || honest.refused+honest.closed > 0 {
		t.Errorf("the owner found %v, and not all opened: %d, %d", honest.found, honest.refused, honest.closed)
	}
	follows := newThief(t, w.repo, standby, old, fresh)
	follows.everything()
	if len(follows.found) != 2 || follows.closed > 0 || follows.opened > 0 {
		t.Errorf("the standby found %v; %d WAL files did not open, %d chunks of data did", follows.found, follows.closed, follows.opened)
	}
	if !has(w.ok(w.owner, "snapshots"), first.ID, second.ID) {
		t.Error("a snapshot does not count any more")
	}
	w.losesItsOwner(second, fresh)
}

// findsOnly looks with a key that was removed, and the bundles as they were before that.
func (w *world) findsOnly(bundles, identity, old, fresh string) {
	w.t.Helper()
	stolen := copyOf(w.t, w.repo)
	for _, err := range []error{os.RemoveAll(filepath.Join(stolen, "keys")), os.Rename(bundles, filepath.Join(stolen, "keys"))} {
		if err != nil {
			w.t.Fatal(err)
		}
	}
	th := newThief(w.t, stolen, identity, old, fresh)
	th.everything()
	if th.found[fresh] != "" || th.found[old] == "" || th.refused+th.closed == 0 {
		w.t.Errorf("the former owner found %v; %d chunks and %d WAL files did not open", th.found, th.refused, th.closed)
	}
}

// losesItsOwner restores with nothing but the paper copy of an identity.
func (w *world) losesItsOwner(s snapshot, text string) {
	w.t.Helper()
	sheet := w.ok(w.owner, "key", "export", "--paper")
	if err := os.Remove(w.owner); err != nil {
		w.t.Fatal(err)
	}
	var typed strings.Builder
	for line := range strings.Lines(sheet) {
		if !strings.HasPrefix(line, "#") {
			typed.WriteString(strings.ToLower(strings.ReplaceAll(line, "  ", " ")))
		}
	}
	w.write(w.owner, typed.String())
	to := w.restored(w.owner, s.ID)
	if n := w.started(to).Query(w.t, "SELECT count(*) FROM later WHERE what = '"+text+"'"); n != "3000" {
		w.t.Errorf("%s rows", n)
	}
}

func (w *world) read(path string) string {
	w.t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		w.t.Fatal(err)
	}
	return string(b)
}
