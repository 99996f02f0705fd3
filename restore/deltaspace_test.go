package restore

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgtrove/pgtrove/snapshot"
)

const spaceDir = "PG_15_202209061"

func TestADeltaRestoreGoesIntoItsTablespacesAndNoOthers(t *testing.T) {
	fast := filepath.Join(t.TempDir(), "fast")
	c, m := spaced(t, fast)
	dir := c.fresh(t, m)
	inside := filepath.Join(dir, "inside", spaceDir, "5")
	later := filepath.Join(t.TempDir(), "later") // a tablespace that was made after the snapshot
	put(t, filepath.Join(later, spaceDir, "5/1"), "of a time to come")
	put(t, filepath.Join(later, "PG_14_202107181/5/1"), "of another cluster")
	must(t, os.Symlink(later, filepath.Join(dir, "pg_tblspc/16500")))
	put(t, filepath.Join(fast, "PG_14_202107181/5/1"), "of another cluster")
	put(t, filepath.Join(fast, "README"), "of somebody")
	put(t, filepath.Join(fast, spaceDir, "5/99"), "extra")
	put(t, filepath.Join(inside, "99"), "extra")
	put(t, filepath.Join(dir, "inside/more"), "somebody's")
	flip(t, filepath.Join(fast, spaceDir, "5/1"), 100)
	flip(t, filepath.Join(inside, "1"), 100)
	c.delta(t, m, dir)
	for path, there := range map[string]bool{
		filepath.Join(fast, "PG_14_202107181/5/1"):    true,
		filepath.Join(fast, "README"):                 true,
		filepath.Join(fast, spaceDir, "5/PG_VERSION"): true,
		filepath.Join(fast, spaceDir, "5/99"):         false,
		filepath.Join(inside, "PG_VERSION"):           true,
		filepath.Join(inside, "99"):                   false,
		filepath.Join(later, "PG_14_202107181/5/1"):   true,
		filepath.Join(later, spaceDir):                false,
		filepath.Join(dir, "pg_tblspc/16500"):         false,
	} {
		if _, err := os.Lstat(path); (err == nil) != there {
			t.Errorf("%s: %v, should be there: %v", path, err, there)
		}
	}
	for _, file := range []string{filepath.Join(fast, spaceDir, "5/1"), filepath.Join(inside, "1")} {
		if b, err := os.ReadFile(file); err != nil || !allZero(b) || len(b) != 8192 {
			t.Errorf("%s is not right: %v", file, err)
		}
	}
}

func TestADeltaRestoreFindsItsTablespacesWhereItsLinksLead(t *testing.T) {
	c, m := spaced(t, "/was/elsewhere")
	moved := filepath.Join(t.TempDir(), "moved")
	dir := filepath.Join(t.TempDir(), "data")
	o := c.options(m, dir)
	o.Tablespaces = map[string]string{"16400": moved}
	_, err := Run(t.Context(), c.repo, o)
	must(t, err)
	report := c.delta(t, m, dir)
	if len(report.Tablespaces) != 2 || report.Tablespaces[0].To != moved {
		t.Errorf("tablespaces: %v", report.Tablespaces)
	}
	// One with content that is not this directory's is refused.
	other := t.TempDir()
	put(t, filepath.Join(other, spaceDir, "5/1"), "another's")
	o.Delta, o.Tablespaces["16400"] = true, other
	var refused *RefusedError
	if _, err := Run(t.Context(), c.repo, o); !errors.As(err, &refused) || !strings.Contains(refused.Reason, "not empty") {
		t.Errorf("into another's tablespace: %v", err)
	}
	// A copy of the directory whose links lead to the original's tablespaces, while that runs.
	original := t.TempDir()
	must(t, os.Mkdir(filepath.Join(original, "pg_tblspc"), 0o700))
	must(t, os.Symlink(moved, filepath.Join(original, "pg_tblspc/16400")))
	server := exec.Command("sleep", "600")
	server.Dir = original
	must(t, server.Start())
	defer func() { _ = server.Process.Kill(); _ = server.Wait() }()
	put(t, filepath.Join(original, "postmaster.pid"), fmt.Sprintln(server.Process.Pid))
	o.Tablespaces = nil
	if _, err := Run(t.Context(), c.repo, o); !errors.As(err, &refused) || !strings.Contains(refused.Reason, original) {
		t.Errorf("into a live server's tablespace: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "global/pg_control")); err != nil {
		t.Errorf("refused, and yet: %v", err)
	}
}

func TestAnInterruptedRestoreGoesOnInItsTablespaces(t *testing.T) {
	fast := filepath.Join(t.TempDir(), "fast")
	c, m := spaced(t, fast)
	dir := filepath.Join(t.TempDir(), "data")
	o := c.options(m, dir)
	d, err := o.destination()
	must(t, err)
	l, err := d.make(&o)
	must(t, errors.Join(err, l.close()))
	put(t, filepath.Join(fast, spaceDir, "5/1"), "half") // and the link was lost in a crash
	c.delta(t, m, dir)
	if b, err := os.ReadFile(filepath.Join(fast, spaceDir, "5/1")); err != nil || len(b) != 8192 {
		t.Errorf("%d bytes, %v", len(b), err)
	}
}

func TestPagesOfAnotherDirectoryAreTakenWhereTheyAreRight(t *testing.T) {
	fast := filepath.Join(t.TempDir(), "fast")
	c, m := spaced(t, fast)
	r := rand.New(rand.NewPCG(21, 22))
	for i := range 5 {
		c.files[fmt.Sprintf("data/base/1/%d", 3000+i)] = pages(r, 300)
	}
	c.files["data/pg_tblspc/16400/"+spaceDir+"/5/4000"] = pages(r, 300)
	c.files["data/pg_xact/0000"] = make([]byte, 100_000)
	m2 := c.take(t, "snap")
	m2.TablespaceMap = m.TablespaceMap
	donor := c.fresh(t, m2)
	at := func(rel string) string { return filepath.Join(donor, rel) }
	flip(t, at("base/1/3000"), 8192*100)
	must(t, os.MkdirAll(at("base/9"), 0o700))
	must(t, os.Rename(at("base/1/3001"), at("base/9/3001")))
	must(t, os.Truncate(at("base/1/3002"), 8192*200))
	must(t, os.Remove(at("base/1/3003")))
	must(t, os.Mkdir(at("base/1/3003"), 0o700))
	before := restored(t, donor)
	dir, moved := filepath.Join(t.TempDir(), "data"), filepath.Join(t.TempDir(), "space")
	o := c.options(m2, dir)
	o.Reuse, o.Tablespaces = donor, map[string]string{"16400": moved}
	report, err := Run(t.Context(), c.repo, o)
	must(t, err)
	got := restored(t, dir)
	for rel, b := range restored(t, moved) {
		got["pg_tblspc/16400/"+rel] = b
	}
	for rel, b := range restored(t, filepath.Join(dir, "inside")) {
		got["pg_tblspc/16401/"+rel] = b
	}
	for path, want := range c.files {
		if rel := strings.TrimPrefix(path, "data/"); got[rel] != string(want) {
			t.Errorf("%s differs", rel)
		}
	}
	if !mapsEqual(before, restored(t, donor)) {
		t.Error("the directory that was reused has changed")
	}
	if report.Copied < m2.Totals.Size/4 || report.Fetched > m2.Totals.Size/2 {
		t.Errorf("copied %d, fetched %d of %d", report.Copied, report.Fetched, m2.Totals.Size)
	}
	// All files are where another database would have them.
	must(t, os.RemoveAll(at("base/9")))
	must(t, os.Rename(at("base/1"), at("base/9")))
	must(t, os.RemoveAll(moved))
	o.To = filepath.Join(t.TempDir(), "data")
	again, err := Run(t.Context(), c.repo, o)
	must(t, err)
	if again.Copied < report.Copied/2 {
		t.Errorf("from files of the same names %d bytes were copied, from the same places %d", again.Copied, report.Copied)
	}
	for name, reuse := range map[string]string{"itself": dir, "nothing": filepath.Join(t.TempDir(), "no"), "a part": filepath.Join(dir, "base")} {
		o := c.options(m2, dir)
		o.Delta, o.Reuse = true, reuse
		if _, err := Run(t.Context(), c.repo, o); !errors.Is(err, ErrRefused) {
			t.Errorf("reusing %s: %v", name, err)
		}
	}
}

// As where /var/lib/postgresql is a link: what is named through it is the same directory.
func TestATablespaceInsideTheDataDirectoryStaysHoweverThatIsNamed(t *testing.T) {
	c, m := spaced(t, filepath.Join(t.TempDir(), "fast"))
	c.dir("data/z", 0o700) // behind pg_tblspc
	m2 := c.take(t, "snap")
	m2.TablespaceMap = []byte("16401 /was/here/z\n")
	for i := range c.entries {
		if c.entries[i].Path == "data/pg_tblspc/16400" {
			m2.TablespaceMap = append(m2.TablespaceMap, "16400 "+c.entries[i].Link+"\n"...)
		}
	}
	dir := c.fresh(t, m2)
	want := restored(t, dir)
	link := filepath.Join(t.TempDir(), "link")
	must(t, os.Symlink(dir, link))
	for _, small := range []bool{false, true} {
		o := c.options(m2, link)
		o.Delta = true
		run := func() (*Report, error) { return Run(t.Context(), c.repo, o) }
		if small {
			run = func() (*Report, error) { return c.inSmallPlans(t, o) }
		}
		report, err := run()
		must(t, err)
		if !mapsEqual(want, restored(t, dir)) || report.Kept == 0 {
			t.Errorf("in small plans %v: %+v", small, report)
		}
	}
	o := c.options(m, filepath.Join(t.TempDir(), "data"))
	x, y := filepath.Join(t.TempDir(), "x"), filepath.Join(t.TempDir(), "y")
	must(t, os.Symlink(filepath.Dir(x), y))
	o.Tablespaces = map[string]string{"16400": x, "16401": filepath.Join(y, "x")}
	var refused *RefusedError
	if _, err := Run(t.Context(), c.repo, o); !errors.As(err, &refused) || !strings.Contains(refused.Reason, "would both go to") {
		t.Errorf("two tablespaces in one directory: %v", err)
	}
}

// A tablespace was dropped and another one made in its place, which may be lost.
func TestATablespaceComesBackToWhereALaterOneIs(t *testing.T) {
	fast := filepath.Join(t.TempDir(), "fast")
	c, m := spaced(t, fast)
	dir := c.fresh(t, m)
	want := restored(t, fast)
	for _, lost := range []bool{false, true} {
		must(t, os.Rename(filepath.Join(dir, "pg_tblspc/16400"), filepath.Join(dir, "pg_tblspc/17000")))
		put(t, filepath.Join(fast, spaceDir, "5/99"), "of the later one")
		if lost {
			must(t, os.RemoveAll(fast))
		}
		c.delta(t, m, dir)
		if !mapsEqual(want, restored(t, fast)) {
			t.Errorf("lost %v: it is not as it was", lost)
		}
		if _, err := os.Lstat(filepath.Join(dir, "pg_tblspc/17000")); err == nil {
			t.Error("the later one is still there")
		}
	}
}

func TestWhatIsTheFileSystemsStays(t *testing.T) {
	c, m := sampleCluster(t)
	dir := c.fresh(t, m)
	for _, name := range []string{"lost+found/1", "pg_wal/lost+found/1", "base/x/lost+found/1"} {
		put(t, filepath.Join(dir, name), "")
	}
	c.delta(t, m, dir)
	for name, there := range map[string]bool{"lost+found/1": true, "pg_wal/lost+found/1": true, "base/x": false} {
		if _, err := os.Stat(filepath.Join(dir, name)); (err == nil) != there {
			t.Errorf("%s: %v, should be there: %v", name, err, there)
		}
	}
	root, err := os.OpenRoot("/")
	must(t, err)
	defer root.Close()
	s := &sweeper{dest: &destination{dir: "/", real: "/"}}
	if d := (&sweptDir{path: snapshot.DataRoot, place: place{root, "."}}); !s.keeps(d, "proc") || s.keeps(d, "etc") {
		t.Error("a mount point is not told from a directory")
	}
}
