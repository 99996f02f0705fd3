package restore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/snapshot"
)

// sampleCluster has files of all kinds.
func sampleCluster(t *testing.T) (*cluster, *snapshot.Manifest) {
	t.Helper()
	r := rand.New(rand.NewPCG(11, 12))
	c := newCluster(t)
	for i := range 6 {
		c.files[fmt.Sprintf("data/base/1/%d", 1000+i)] = pages(r, 1+r.IntN(100))
	}
	c.files["data/base/1/2000"] = pages(r, 400)
	c.files["data/base/1/zeros"] = make([]byte, 100*8192)
	c.files["data/base/1/empty"] = []byte{}
	c.files["data/pg_xact/0000"] = bytes.Repeat([]byte("clog"), 200_000)
	c.files["data/postgresql.conf"] = []byte("port = 5432\n")
	c.dir("config", 0o755)
	c.files["config/pg_hba.conf"], c.links["config/pg_hba.conf"] = []byte("# nobody"), "/etc/postgresql/pg_hba.conf"
	c.dir("data/base/1-odd", 0o700) // sorts between base/1 and what is in it
	c.files["data/base/1-odd/1"] = pages(r, 3)
	c.entries = append(c.entries, snapshot.Entry{Path: "data/link", Type: snapshot.Symlink, Mode: 0o777, Owner: me(), Link: "base/1"})
	return c, c.take(t, "snap")
}

func (c *cluster) options(m *snapshot.Manifest, dir string) Options {
	return Options{Snapshot: m, To: dir, Jobs: 3, Recovery: recovery(), Key: testKey(), IsDamage: func(err error) bool { return errors.Is(err, errBroken) }}
}

// fresh restores into a new directory.
func (c *cluster) fresh(t *testing.T, m *snapshot.Manifest) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "data")
	if _, err := Run(t.Context(), c.repo, c.options(m, dir)); err != nil {
		t.Fatal(err)
	}
	return dir
}

func (c *cluster) delta(t *testing.T, m *snapshot.Manifest, dir string) *Report {
	t.Helper()
	o := c.options(m, dir)
	o.Delta = true
	report, err := Run(t.Context(), c.repo, o)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// sameTree compares two directories: names, contents, modes, times of files.
func sameTree(t *testing.T, want, got string) {
	t.Helper()
	a, b := restored(t, want), restored(t, got)
	for rel, content := range a {
		if b[rel] != content {
			t.Errorf("%s differs or is missing", rel)
			continue
		}
		x, err := os.Lstat(filepath.Join(want, rel))
		y, err2 := os.Lstat(filepath.Join(got, rel))
		if err := errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		ours := rel == "backup_label" || strings.HasSuffix(rel, ".signal") || rel == "postgresql.auto.conf"
		if x.Mode() != y.Mode() || x.Mode().IsRegular() && !ours && !x.ModTime().Equal(y.ModTime()) {
			t.Errorf("%s: mode %v and time %v, want %v and %v", rel, y.Mode(), y.ModTime(), x.Mode(), x.ModTime())
		}
	}
	for rel := range b {
		if _, ok := a[rel]; !ok {
			t.Errorf("%s is there", rel)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func put(t *testing.T, path, content string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o700))
	must(t, os.WriteFile(path, []byte(content), 0o600))
}

// flip changes a byte of a file.
func flip(t *testing.T, path string, at int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	var b [1]byte
	_, err = f.ReadAt(b[:], at)
	must(t, err)
	b[0] ^= 0x40
	_, err = f.WriteAt(b[:], at)
	must(t, errors.Join(err, f.Close()))
}

// spoil makes many things wrong in a restored directory, and returns a path outside that a link leads to.
func spoil(t *testing.T, dir string) (outside string) {
	t.Helper()
	at := func(rel string) string { return filepath.Join(dir, rel) }
	outside = t.TempDir()
	put(t, filepath.Join(outside, "precious"), "not ours")
	flip(t, at("base/1/2000"), 300*8192+5)
	flip(t, at("pg_xact/0000"), 1000)
	flip(t, at("base/1/zeros"), 50*8192)
	must(t, os.Truncate(at("base/1/1000"), 8192/2))
	must(t, os.WriteFile(at("base/1/empty"), []byte("not empty"), 0o600))
	must(t, os.Remove(at("base/1/1001")))
	must(t, os.Remove(at("base/1/1002")))
	must(t, os.Mkdir(at("base/1/1002"), 0o700)) // a directory in a file's place
	put(t, at("base/1/1002/x"), "x")
	must(t, os.Remove(at("base/1/1003")))
	must(t, os.Symlink(filepath.Join(outside, "precious"), at("base/1/1003")))
	must(t, os.RemoveAll(at("base/1-odd")))
	put(t, at("base/1-odd"), "a file in a directory's place")
	must(t, os.Chmod(at("base/1/1004"), 0o444))
	must(t, os.Chmod(at("global"), 0o755))
	must(t, os.Remove(at("link")))
	must(t, os.Symlink("base", at("link")))
	for _, rel := range []string{"base/1/9999", "base/7/1", "base/7/deep/er", "standby.signal", "postmaster.pid", "postmaster.opts", "pgtrove.last",
		"pg_stat_tmp/x", "global/pg_internal.init", ".tmp-123", ConfigDir + "/old.conf", "zzz", "backup_label.old", "pg_replslot/s/state"} {
		put(t, at(rel), "4194399\n")
	}
	must(t, os.Symlink(outside, at("base/elsewhere")))
	must(t, os.RemoveAll(at("pg_stat")))
	must(t, os.Symlink(outside, at("pg_stat")))
	must(t, os.RemoveAll(at("pg_wal")))
	must(t, os.Symlink(outside, at("pg_wal")))
	return outside
}

func TestADeltaRestoreMakesWhatARestoreMakes(t *testing.T) {
	c, m := sampleCluster(t)
	want, dir := c.fresh(t, m), c.fresh(t, m)
	outside := spoil(t, dir)
	before, config := inode(t, filepath.Join(dir, "base/1/2000")), inode(t, filepath.Join(dir, ConfigDir, "pg_hba.conf"))
	report := c.delta(t, m, dir)
	sameTree(t, want, dir)
	if got := restored(t, outside); len(got) != 2 || got["precious"] != "not ours" {
		t.Errorf("what a link leads to was touched: %v", got)
	}
	if inode(t, filepath.Join(dir, "base/1/2000")) != before || inode(t, filepath.Join(dir, ConfigDir, "pg_hba.conf")) != config {
		t.Error("a file was made anew for one page")
	}
	if report.Kept < m.Totals.Size/3 || report.Fetched > m.Totals.Size/2 {
		t.Errorf("kept %d bytes and fetched %d of %d", report.Kept, report.Fetched, m.Totals.Size)
	}
	if report.Removed < 12 || !slices.Contains(report.Replaced, filepath.Join(dir, "pg_wal")) {
		t.Errorf("removed %d files, replaced links %v", report.Removed, report.Replaced)
	}
	// Nothing is wrong any more but the recovery settings.
	if report = c.delta(t, m, dir); report.Fetched > 20_000 {
		t.Errorf("once more: fetched %d bytes", report.Fetched)
	}
	sameTree(t, want, dir)
}

func inode(t *testing.T, path string) uint64 {
	t.Helper()
	info, err := os.Stat(path)
	must(t, err)
	return info.Sys().(*syscall.Stat_t).Ino
}

func TestADeltaRestoreIntoAnEmptyDirectoryIsARestore(t *testing.T) {
	c, m := sampleCluster(t)
	dir := filepath.Join(t.TempDir(), "data")
	c.delta(t, m, dir)
	sameTree(t, c.fresh(t, m), dir)
}

func TestADeltaRestoreThatIsInterruptedCanBeRunAgain(t *testing.T) {
	c, m := sampleCluster(t)
	want := c.fresh(t, m)
	stopped := errors.New("stopped")
	for _, plain := range []bool{true, false} { // whether the directory is new at first
		dir := filepath.Join(t.TempDir(), "data")
		if !plain {
			dir = c.fresh(t, m)
			spoil(t, dir)
		}
		for stop := int64(1); ; stop *= 3 {
			ctx, cancel := context.WithCancelCause(t.Context())
			var reads atomic.Int64
			o := c.options(m, dir)
			o.Delta = true
			o.Events.Fetched = func(int64) {
				if reads.Add(1) >= stop {
					cancel(stopped)
				}
			}
			_, err := Run(ctx, c.repo, o)
			cancel(nil)
			if err == nil {
				break
			}
			if !errors.Is(err, stopped) {
				t.Fatal(err)
			}
			if _, err := os.Stat(filepath.Join(dir, pg.ControlPath)); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("interrupted, but there is a control file: %v", err)
			}
			var refused *RefusedError
			if _, err := Run(t.Context(), c.repo, c.options(m, dir)); !errors.As(err, &refused) || !strings.Contains(refused.Hint, "--delta") {
				t.Errorf("without --delta: %v", err)
			}
		}
		sameTree(t, want, dir)
	}
}

func TestADeltaRestoreRefusesWhatIsNotItsOwn(t *testing.T) {
	c, m := sampleCluster(t)
	sleep := exec.Command("sleep", "600")
	must(t, sleep.Start())
	defer func() { _ = sleep.Process.Kill(); _ = sleep.Wait() }()
	for name, x := range map[string]struct {
		spoil func(dir string)
		want  []string
	}{
		"no data directory":   {func(dir string) { must(t, os.Remove(filepath.Join(dir, "PG_VERSION"))) }, []string{"no data directory", "PG_VERSION"}},
		"no control file":     {func(dir string) { must(t, os.Remove(filepath.Join(dir, pg.ControlPath))) }, []string{"no data directory", "pg_control"}},
		"another cluster":     {func(dir string) { flip(t, filepath.Join(dir, pg.ControlPath), 3) }, []string{"another cluster", m.Server.SystemID.String()}},
		"a live server":       {func(dir string) { put(t, filepath.Join(dir, "postmaster.pid"), fmt.Sprint(sleep.Process.Pid, "\n")) }, []string{"running", fmt.Sprint(sleep.Process.Pid)}},
		"a single backend":    {func(dir string) { put(t, filepath.Join(dir, "postmaster.pid"), fmt.Sprint(-sleep.Process.Pid, "\n")) }, []string{"running"}},
		"left by another one": {func(dir string) { put(t, filepath.Join(dir, Marker), markSystem+"17\n") }, []string{"another cluster", "17"}},
		"left by somebody": {func(dir string) {
			put(t, filepath.Join(dir, Marker), "no system\n")
			must(t, os.Remove(filepath.Join(dir, pg.ControlPath)))
		}, []string{"no data directory"}},
		"one that is at work": {func(dir string) {
			o := c.options(m, dir)
			o.Delta = true
			d, err := o.destination()
			must(t, err)
			f, err := d.claim(&o)
			must(t, err)
			t.Cleanup(func() { f.Close() })
		}, []string{"another restore"}},
		"the repository is in it": {func(dir string) { put(t, filepath.Join(dir, "repository/config"), "x") }, []string{"would be removed"}},
	} {
		dir := c.fresh(t, m)
		x.spoil(dir)
		before := restored(t, dir)
		o := c.options(m, dir)
		o.Delta = true
		if link := filepath.Join(t.TempDir(), "link"); name == "the repository is in it" {
			must(t, os.Symlink(filepath.Join(dir, "repository"), link))
			o.Spare = []string{"/nowhere", link}
		}
		_, err := Run(t.Context(), c.repo, o)
		var refused *RefusedError
		if !errors.As(err, &refused) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, word := range x.want {
			if !strings.Contains(refused.Reason, word) {
				t.Errorf("%s: %q is not in %s", name, word, refused.Reason)
			}
		}
		if after := restored(t, dir); !mapsEqual(before, after) {
			t.Errorf("%s: the directory was changed", name)
		}
	}
}

func mapsEqual(a, b map[string]string) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if w, ok := b[k]; !ok || w != v {
			return false
		}
	}
	return true
}

func TestADamagedControlFileOfTheClusterIsNoObstacle(t *testing.T) {
	c, m := sampleCluster(t)
	want, dir := c.fresh(t, m), c.fresh(t, m)
	flip(t, filepath.Join(dir, pg.ControlPath), 100)
	c.delta(t, m, dir)
	sameTree(t, want, dir)
}

func TestAServerThatStartsInTheLastMomentKeepsItsControlFile(t *testing.T) {
	c, m := sampleCluster(t)
	dir := c.fresh(t, m)
	o := c.options(m, dir)
	o.Delta = true
	d, err := o.destination()
	must(t, err)
	put(t, filepath.Join(dir, "postmaster.pid"), fmt.Sprint(aProcess(t), "\n"))
	if _, err := d.make(&o); !errors.Is(err, ErrRefused) {
		t.Fatal(err)
	}
	must(t, os.Remove(filepath.Join(dir, "postmaster.pid")))
	sameTree(t, c.fresh(t, m), dir)
}

func TestFilesWithSeveralNamesAreNotWrittenTo(t *testing.T) {
	c, m := sampleCluster(t)
	want, dir := c.fresh(t, m), c.fresh(t, m)
	other := filepath.Join(filepath.Dir(dir), "other")
	flip(t, filepath.Join(dir, "base/1/2000"), 9000)
	must(t, os.Link(filepath.Join(dir, "base/1/2000"), other))
	before, err := os.ReadFile(other)
	must(t, err)
	c.delta(t, m, dir)
	sameTree(t, want, dir)
	if after, err := os.ReadFile(other); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the file was changed under its other name: %v", err)
	}
}

func TestWALThatWasNeverArchivedIsMovedAside(t *testing.T) {
	c, m := sampleCluster(t)
	want, dir := c.fresh(t, m), c.fresh(t, m)
	segment := func(name string, address uint64) {
		b := make([]byte, pg.MinSegmentSize)
		binary.LittleEndian.PutUint64(b[8:], address)
		put(t, filepath.Join(dir, "pg_wal", name), string(b))
	}
	segment("000000010000000000000002", 0x200000)
	segment("000000010000000000000003", 0x300000)
	segment("000000010000000000000004", 0x400000)
	segment("000000010000000000000009", 0x100000) // recycled
	put(t, filepath.Join(dir, "pg_wal/00000002.history"), "1 0/1\n")
	put(t, filepath.Join(dir, "pg_wal/000000010000000000000002.00000028.backup"), "START")
	put(t, filepath.Join(dir, "pg_wal/archive_status/000000010000000000000002.done"), "")
	put(t, filepath.Join(dir, "pg_wal/archive_status/000000010000000000000003.ready"), "")
	put(t, filepath.Join(dir, snapshot.UnarchivedDir, "000000010000000000000004"), "of an earlier time")
	report := c.delta(t, m, dir)
	if report.Unarchived != 3 {
		t.Errorf("moved %d files", report.Unarchived)
	}
	var names []string
	aside := filepath.Join(dir, snapshot.UnarchivedDir)
	entries, err := os.ReadDir(aside)
	must(t, err)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if fmt.Sprint(names) != "[000000010000000000000003 000000010000000000000004 000000010000000000000004.1 00000002.history]" {
		t.Errorf("moved: %v", names)
	}
	c.delta(t, m, dir) // which leaves it alone
	if again, err := os.ReadDir(aside); err != nil || len(again) != len(names) {
		t.Errorf("after another restore: %v, %v", again, err)
	}
	must(t, os.RemoveAll(aside))
	sameTree(t, want, dir)
}

func TestADryRunChangesNothingAndSaysWhatWouldBeDone(t *testing.T) {
	c, m := sampleCluster(t)
	dir := c.fresh(t, m)
	spoil(t, dir)
	before := restored(t, dir)
	o := c.options(m, dir)
	o.Delta = true
	s, err := DryRun(t.Context(), c.repo, o)
	must(t, err)
	if !mapsEqual(before, restored(t, dir)) {
		t.Error("the directory was changed")
	}
	if s.SampleBytes == 0 || s.Estimate() <= 0 || s.Reads == 0 || s.Packs == 0 {
		t.Errorf("survey: %+v", s)
	}
	report := c.delta(t, m, dir)
	// The control file, of 8192 bytes, is only fetched in earnest; and a file that is too short has no zeros at its end yet.
	if d := report.Fetched - s.Fetched; d < -9000 || d > 9000 || s.Kept < report.Kept*95/100 || s.Kept > report.Kept+9000 {
		t.Errorf("announced %d bytes to be fetched and %d kept, it were %d and %d", s.Fetched, s.Kept, report.Fetched, report.Kept)
	}
	if s.Removed != report.Removed {
		t.Errorf("announced %d files to be removed, it were %d", s.Removed, report.Removed)
	}
	// Into a directory that does not exist.
	o.To, o.Delta = filepath.Join(t.TempDir(), "a/b"), false
	if s, err = DryRun(t.Context(), c.repo, o); err != nil || s.Kept != 0 || s.Files != m.Totals.Files {
		t.Errorf("%+v, %v", s, err)
	}
	if _, err := os.Stat(filepath.Dir(o.To)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the directory was made: %v", err)
	}
}

func TestTheListSaysWhereEverythingGoes(t *testing.T) {
	c, m := spaced(t, "/fast")
	c.dir("config", 0o755)
	c.files["config/pg_hba.conf"] = []byte("# none")
	m2 := c.take(t, "snap")
	m2.TablespaceMap = m.TablespaceMap
	dir := filepath.Join(t.TempDir(), "data")
	o := c.options(m2, dir)
	for name, want := range map[string]map[string]string{
		dir: {
			"data": dir, "data/global/pg_control": dir + "/global/pg_control", "config/pg_hba.conf": dir + "/" + ConfigDir + "/pg_hba.conf",
			"data/pg_tblspc/16400": dir + "/pg_tblspc/16400", "data/pg_tblspc/16400/PG_15_202209061/5/1": "/fast/PG_15_202209061/5/1",
			"data/pg_tblspc/16401/PG_15_202209061/5/1": dir + "/inside/PG_15_202209061/5/1",
		},
		"": {"data/global/pg_control": ""},
	} {
		o.To = name
		got := map[string]string{}
		must(t, List(t.Context(), c.repo, o, func(e *snapshot.Entry, to string) error {
			got[e.Path] = to
			return nil
		}))
		for path, to := range want {
			if there, ok := got[path]; !ok || there != to {
				t.Errorf("%s goes to %q, want %q", path, there, to)
			}
		}
	}
	if len(c.repo.reads) != 0 {
		t.Errorf("data was read: %v", c.repo.reads)
	}
}
