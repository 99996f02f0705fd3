package e2e

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pgtrove/pgtrove/test/pgtest"
)

func TestABackupUnderLoadRestoresToTheSameCluster(t *testing.T) {
	eachVersion(t, pgtest.Versions(t), func(t *testing.T, version string) {
		w := newWorld(t, version, pgtest.Options{})
		w.Pgbench(t, "-i", "-s", "5", "-q")
		stop := load(t, w.Server, 3)
		first := w.backup()
		second := w.backup("--tag", "run=second")
		stop()
		w.archived()
		if second.Added >= first.Added || second.Added == 0 {
			t.Errorf("the second snapshot added %d bytes, the first %d", second.Added, first.Added)
		}
		if second.Tags["run"] != "second" || first.Size < 50<<20 || first.Read < first.Size/2 || first.Files < 500 {
			t.Errorf("odd snapshots: %+v, %+v", first, second)
		}
		var ids []string
		for _, s := range w.snapshots() {
			ids = append(ids, s.ID)
		}
		if !slices.Equal(ids, []string{first.ID, second.ID}) {
			t.Errorf("listed: %v", ids)
		}
		for _, from := range []string{"latest", first.ID} {
			dir := w.newDir()
			w.ok("restore", from, "--to", dir)
			restored := w.adopt(dir)
			sameContents(t, w.Server, restored)
			sound(t, restored)
		}
	})
}

// TestSmoke is the whole way, short, on the versions that the other tests do not cover.
func TestSmoke(t *testing.T) {
	eachVersion(t, rest(t), func(t *testing.T, version string) {
		w := newWorld(t, version, pgtest.Options{})
		w.Pgbench(t, "-i", "-s", "1", "-q")
		stop := load(t, w.Server, 2)
		w.backup()
		stop()
		w.Exec(t, "CREATE TABLE precious AS SELECT generate_series(1, 1000) AS n")
		moment := w.Query(t, "SELECT clock_timestamp()")
		w.Exec(t, "SELECT pg_sleep(0.01)")
		w.Exec(t, "DROP TABLE precious")
		w.archived()
		whole := w.adopt(w.restore())
		sameContents(t, w.Server, whole)
		sound(t, whole)
		before := w.adopt(w.restore("--target-time", moment))
		if n := before.Query(t, "SELECT count(*) FROM precious"); n != "1000" {
			t.Errorf("%s rows came back", n)
		}
	})
}

// notCompared are the files that differ by design between a quiesced source and its restored copy.
var notCompared = []string{"global/pg_control", "backup_label", "tablespace_map", "recovery.signal", "postgresql.auto.conf",
	"postmaster.pid", "postmaster.opts", "current_logfiles", "pgtrove.last", "pgtrove.gaps"}

// emptied are the directories whose contents are not part of a backup.
var emptied = []string{"pg_wal", "pg_replslot", "pg_dynshmem", "pg_notify", "pg_serial", "pg_snapshots", "pg_stat_tmp", "pg_subtrans"}

// hashes describes every file, link and directory below dir.
func hashes(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		top, _, inside := strings.Cut(rel, "/")
		if slices.Contains(notCompared, rel) || slices.Contains(emptied, top) && inside {
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		switch {
		case d.IsDir():
			out[rel] = info.Mode().String()
		case d.Type()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			out[rel] = "link to " + target
			return err
		case d.Type().IsRegular():
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			out[rel] = fmt.Sprintf("%s %x", info.Mode(), sha256.Sum256(b))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestEveryFileOfAQuiescedSourceComesBackBitByBit(t *testing.T) {
	eachVersion(t, pgtest.Versions(t), func(t *testing.T, version string) {
		w := newWorld(t, version, pgtest.Options{Conf: map[string]string{"autovacuum": "off"}})
		w.Pgbench(t, "-i", "-s", "3", "-q")
		w.Exec(t, "CREATE DATABASE other")
		w.Exec(t, "CREATE UNLOGGED TABLE fleeting AS SELECT generate_series(1, 100) AS n")
		w.Exec(t, "DROP TABLE fleeting")
		w.Exec(t, "VACUUM")
		w.Exec(t, "CHECKPOINT")
		w.backup()
		dir := w.restore()
		want, got := hashes(t, w.Dir), hashes(t, dir)
		for _, path := range slices.Sorted(maps.Keys(want)) {
			if strings.HasPrefix(filepath.Base(path), "pg_internal.init") {
				continue
			}
			if got[path] != want[path] {
				t.Errorf("%s: %q, want %q", path, got[path], want[path])
			}
			delete(got, path)
		}
		for path := range got {
			t.Errorf("%s is not in the source", path)
		}
	})
}

// TestAGoodBackupFromCronSaysNothing: cron mails whatever is printed.
func TestAGoodBackupFromCronSaysNothing(t *testing.T) {
	w := newWorld(t, "15", pgtest.Options{})
	for range 2 {
		if said := w.run("backup", "-q"); said.Code != 0 || said.Stdout+said.Stderr != "" {
			t.Errorf("exit %d: %s%s", said.Code, said.Stdout, said.Stderr)
		}
	}
}

func TestTablespacesComeBackWhereTheyAreToldTo(t *testing.T) {
	eachVersion(t, pgtest.Versions(t), func(t *testing.T, version string) {
		w := newWorld(t, version, pgtest.Options{})
		outside := filepath.Join(w.dir, "fast disk")
		if err := os.Mkdir(outside, 0o700); err != nil {
			t.Fatal(err)
		}
		pgtest.Own(t, outside)
		w.Exec(t, "CREATE TABLESPACE fast LOCATION '"+outside+"'")
		w.Exec(t, "CREATE TABLE there TABLESPACE fast AS SELECT generate_series(1, 5000) AS n")
		w.backup()
		w.archived()

		taken := w.newDir()
		w.fails(5, []string{outside, "--tablespace"}, "restore", "--to", taken)
		if _, err := os.Stat(taken); err == nil {
			t.Errorf("a refused restore made %s", taken)
		}
		moved := filepath.Join(w.dir, "slow disk")
		restored := w.adopt(w.restore("--tablespace", outside+"="+moved))
		sameRows(t, restored, "SELECT count(*), sum(n) FROM there", "5000|12502500")
		if got := restored.Query(t, "SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'fast'"); got != moved {
			t.Errorf("the tablespace is at %s", got)
		}
		sameRows(t, w.Server, "SELECT count(*), sum(n) FROM there", "5000|12502500")
		sound(t, restored)
	})
}

func sameRows(t *testing.T, s *pgtest.Server, sql, want string) {
	t.Helper()
	if got := s.Query(t, sql); got != want {
		t.Errorf("%s: got %s, want %s", sql, got, want)
	}
}

func TestConfigurationOutsideTheDataDirectoryIsStored(t *testing.T) {
	w := newWorld(t, "15", pgtest.Options{})
	w.Stop(t, pgtest.Fast)
	etc := filepath.Join(w.dir, "etc")
	if err := os.MkdirAll(filepath.Join(etc, "conf.d"), 0o755); err != nil { // empty, as Debian makes it
		t.Fatal(err)
	}
	for _, name := range []string{"postgresql.conf", "pg_hba.conf", "pg_ident.conf"} {
		b, err := os.ReadFile(filepath.Join(w.Dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if name == "postgresql.conf" {
			b = fmt.Appendf(b, "\ndata_directory = '%s'\nhba_file = '%s/pg_hba.conf'\nident_file = '%s/pg_ident.conf'\ninclude_dir = 'conf.d'\n", w.Dir, etc, etc)
		}
		if err := os.WriteFile(filepath.Join(etc, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(filepath.Join(w.Dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	pgtest.Own(t, etc)
	w.Args = append(w.Args, "-c", "config_file="+filepath.Join(etc, "postgresql.conf"))
	w.Start(t)
	w.backup()
	dir := w.newDir()
	r := w.run("restore", "--to", dir)
	if r.Code != 0 || !strings.Contains(r.Stderr+r.Stdout, "pg_hba.conf") {
		t.Fatalf("exit %d, does not say where pg_hba.conf is:\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
	found := 0
	for path := range hashes(t, dir) {
		switch filepath.Base(path) {
		case "postgresql.conf", "pg_hba.conf", "pg_ident.conf":
			found++
		}
	}
	if found != 3 {
		t.Errorf("%d of 3 configuration files came back", found)
	}

	w.archived()
	restored := pgtest.Adopt(t, "15", dir)
	conf := filepath.Join(dir, "pgtrove-config")
	for _, setting := range []string{"archive_mode=off", "data_directory=" + dir, "config_file=" + filepath.Join(conf, "postgresql.conf"),
		"hba_file=" + filepath.Join(conf, "pg_hba.conf"), "ident_file=" + filepath.Join(conf, "pg_ident.conf")} {
		restored.Args = append(restored.Args, "-c", setting)
	}
	restored.ExtraEnv = w.env()
	restored.Start(t)
	restored.WaitPromoted(t)
}
