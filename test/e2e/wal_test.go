package e2e

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgtrove/pgtrove/test/pgtest"
)

// segment makes a finished segment and returns its name and a copy of it outside the cluster.
func (w *world) segment() (name, path string) {
	w.t.Helper()
	w.Exec(w.t, "CREATE TABLE IF NOT EXISTS filler (n int); INSERT INTO filler SELECT generate_series(1, 1000)")
	name = w.SwitchWAL(w.t)
	b, err := os.ReadFile(filepath.Join(w.Dir, "pg_wal", name))
	if err != nil {
		w.t.Fatal(err)
	}
	return name, w.file(name, b)
}

// file writes a file of that name into a directory of its own.
func (w *world) file(name string, b []byte) string {
	w.t.Helper()
	dir, err := os.MkdirTemp(w.dir, "wal-")
	if err != nil {
		w.t.Fatal(err)
	}
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		w.t.Fatal(err)
	}
	pgtest.Own(w.t, dir)
	return path
}

// unarchived is a world whose server archives nowhere: the test pushes by hand.
func unarchived(t *testing.T, version string, o pgtest.Options) *world {
	t.Helper()
	if o.Conf == nil {
		o.Conf = map[string]string{}
	}
	o.Conf["archive_mode"] = "off"
	return newWorld(t, version, o)
}

func TestPushAndFetchGiveBackTheSegment(t *testing.T) {
	eachVersion(t, pgtest.AllVersions(), func(t *testing.T, version string) {
		for _, size := range []int{1, 16, 64} {
			if size != 16 && version != "15" {
				continue
			}
			w := unarchived(t, version, pgtest.Options{WALSegMB: size})
			name, path := w.segment()
			w.ok("wal", "push", path)
			w.ok("wal", "push", path) // the same again
			to := filepath.Join(w.dir, "fetched")
			w.ok("--pgdata", w.Dir, "wal", "fetch", name, to)
			want, got := read(t, path), read(t, to)
			if !bytes.Equal(want, got) {
				t.Errorf("%d MB: %d bytes came back, other than the %d that were pushed", size, len(got), len(want))
			}
		}
	})
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestPushRefusesWhatIsNotThisSegment(t *testing.T) {
	w := unarchived(t, "15", pgtest.Options{})
	name, path := w.segment()
	_, nextPath := w.segment()
	whole := read(t, path)

	w.fails(5, []string{"empty"}, "wal", "push", w.file(name, nil))
	w.fails(5, []string{"truncated"}, "wal", "push", w.file(name, whole[:len(whole)/2]))
	w.fails(5, nil, "wal", "push", w.file(name, make([]byte, len(whole))))
	w.fails(5, []string{name, "begins at"}, "wal", "push", w.file(name, read(t, nextPath)))
	foreign := unarchived(t, "15", pgtest.Options{})
	foreignName, foreignPath := foreign.segment()
	w.fails(5, []string{"system identifier"}, "--pgdata", w.Dir, "wal", "push", foreignPath)
	w.fails(2, nil, "wal", "push", w.file("notes.txt", whole))
	for _, n := range []string{name, foreignName} {
		w.fails(4, nil, "--pgdata", w.Dir, "wal", "fetch", n, filepath.Join(w.dir, "never"))
	}

	w.ok("wal", "push", path)
	other := bytes.Clone(whole)
	other[len(other)-9] ^= 0xff // behind the switch record, where nobody looks but the comparison
	w.fails(5, []string{name}, "wal", "push", w.file(name, other))
	to := filepath.Join(w.dir, "kept")
	w.ok("--pgdata", w.Dir, "wal", "fetch", name, to)
	if !bytes.Equal(read(t, to), whole) {
		t.Error("the first content did not stay")
	}
}

func TestFetchExitsByTheRulesOfRecovery(t *testing.T) {
	w := unarchived(t, "15", pgtest.Options{})
	name, path := w.segment()
	w.ok("wal", "push", path)
	to := filepath.Join(w.dir, "fetched")
	standby := filepath.Join(w.dir, "standby")
	if err := os.MkdirAll(filepath.Join(standby, "global"), 0o700); err != nil {
		t.Fatal(err)
	}
	for from, b := range map[string][]byte{"standby.signal": nil, "global/pg_control": read(t, filepath.Join(w.Dir, "global/pg_control"))} {
		if err := os.WriteFile(filepath.Join(standby, from), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pgtest.Own(t, standby)
	fetch := func(dir string, code int, args ...string) {
		t.Helper()
		cmd := w.Command("pgtrove", append([]string{"wal", "fetch"}, args...)...)
		cmd.Dir = dir
		if r := pgtest.Run(t, cmd); r.Code != code {
			t.Errorf("in %s, wal fetch %s: exit %d, want %d\n%s", filepath.Base(dir), strings.Join(args, " "), r.Code, code, r.Stderr)
		}
	}
	fetch(w.Dir, 0, name, to)
	fetch(w.Dir, 4, "0000000100000000000000FE", to)
	fetch(w.Dir, 4, "00000009.history", to)
	fetch(standby, 4, "00000009.history", to)
	fetch(w.Dir, 126, "nonsense", to)
	fetch(w.Dir, 126, name, filepath.Join(w.dir, "no such directory", "x"))

	// The repository is gone: an outage, not an end of the archive.
	if err := os.Rename(w.repo, w.repo+".away"); err != nil {
		t.Fatal(err)
	}
	fetch(w.Dir, 126, name, to)
	fetch(standby, 7, name, to)
	fetch(standby, 126, "--strict", name, to)
	if err := os.Mkdir(w.repo, 0o755); err != nil { // the mount point without the mount
		t.Fatal(err)
	}
	fetch(w.Dir, 126, name, to)
	if err := os.Remove(w.repo); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(w.repo+".away", w.repo); err != nil {
		t.Fatal(err)
	}

	// A damaged object is never handed to recovery.
	object := w.object(name)
	b := read(t, object)
	damaged := bytes.Clone(b)
	damaged[len(damaged)/2] ^= 1
	overwrite(t, object, damaged)
	gone := filepath.Join(w.dir, "nothing")
	fetch(w.Dir, 126, name, gone)
	if _, err := os.Stat(gone); err == nil {
		t.Error("a damaged segment was written")
	}
	w.fails(9, []string{name}, "verify", "--read-data")
	overwrite(t, object, b)
}

// object is the path of the object in the repository whose name ends so.
func (w *world) object(suffix string) string {
	w.t.Helper()
	var found string
	err := filepath.Walk(w.repo, func(path string, info os.FileInfo, err error) error {
		if err == nil && strings.HasSuffix(path, suffix) {
			found = path
		}
		return err
	})
	if err != nil || found == "" {
		w.t.Fatalf("no object %s: %v", suffix, err)
	}
	return found
}

func overwrite(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestHistoryBackupAndPartialFilesKeepTheirNames(t *testing.T) {
	w := newWorld(t, "15", pgtest.Options{})
	w.Exec(t, "CREATE TABLE story AS SELECT 1 AS n")
	w.backup()
	w.archived()
	standby := w.NewStandby(t)
	standby.Configure(t, map[string]string{"archive_mode": "on"})
	standby.ExtraEnv = w.env()
	standby.Start(t)
	w.Exec(t, "INSERT INTO story VALUES (2)") // into a segment that the promotion leaves unfinished
	standby.WaitQuery(t, "SELECT count(*) FROM story", "2", 1e11)
	w.Stop(t, pgtest.Immediate)
	standby.Exec(t, "SELECT pg_promote()")
	standby.WaitPromoted(t)
	standby.WaitArchived(t, standby.SwitchWAL(t))

	list := w.ok("wal", "list")
	for _, part := range []string{"00000002.history", ".partial"} {
		found := false
		_ = filepath.Walk(w.repo, func(path string, _ os.FileInfo, _ error) error {
			found = found || strings.HasSuffix(path, part)
			return nil
		})
		if !found {
			t.Errorf("no %s in the repository; wal list says\n%s", part, list)
		}
	}
	partial := filepath.Base(w.object(".partial"))
	whole := strings.TrimSuffix(partial, ".partial")
	r := w.fails(4, nil, "--pgdata", standby.Dir, "wal", "fetch", whole, filepath.Join(w.dir, "x"))
	if r.Code == 0 {
		t.Error("a partial segment was served for the full one")
	}
	w.ok("--pgdata", standby.Dir, "wal", "fetch", partial, filepath.Join(w.dir, "y"))
	w.ok("--pgdata", standby.Dir, "wal", "fetch", "00000002.history", filepath.Join(w.dir, "z"))
}
