package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/pgtrove/pgtrove/test/pgtest"
)

func TestInitRefusesWhatItMustNotTouch(t *testing.T) {
	dir := pgtest.TempDir(t)
	init := func(repo, key string, more ...string) pgtest.Result {
		return pgtest.Run(t, pgtest.Command(t, dir, "pgtrove", append([]string{"init", "--repo", repo, "--key-file", key}, more...)...))
	}
	repo, key := filepath.Join(dir, "repo"), filepath.Join(dir, "key")
	r := init(repo, key)
	if r.Code != 0 || !strings.Contains(r.Stdout+r.Stderr, key) || !strings.Contains(strings.ToLower(r.Stdout+r.Stderr), "without it") {
		t.Errorf("exit %d; does it say where the identity is and what losing it means?\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
	if info, err := os.Stat(key); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("identity file: %v, %v", info, err)
	}
	expect(t, init(repo, key+"2"), 5, []string{"already"}, "init again")
	if _, err := os.Stat(key + "2"); err == nil {
		t.Error("a refused init left an identity file")
	}
	other := filepath.Join(dir, "other")
	if err := os.MkdirAll(filepath.Join(other, "photos"), 0o777); err != nil {
		t.Fatal(err)
	}
	pgtest.Own(t, other)
	expect(t, init(other, key+"3"), 5, []string{"not empty"}, "init in a full directory")
	expect(t, init(filepath.Join(dir, "new"), key), 5, []string{key}, "init over an identity")
	if b := read(t, key); !strings.Contains(string(b), "AGE-SECRET-KEY") {
		t.Error("the identity file was changed")
	}

	pass := filepath.Join(dir, "pass")
	if err := os.WriteFile(pass, []byte("correct horse\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	pgtest.Own(t, pass)
	secret := filepath.Join(dir, "secret")
	cmd := pgtest.Command(t, dir, "pgtrove", "init", "--repo", secret, "--password-file", pass)
	pgtest.MustRun(t, cmd)
	if keys, _ := filepath.Glob(filepath.Join(dir, ".config", "*", "*")); len(keys) != 0 {
		t.Errorf("with a passphrase %v was made", keys)
	}
	pgtest.MustRun(t, pgtest.Command(t, dir, "pgtrove", "snapshots", "--repo", secret, "--password-file", pass))
	wrong := pgtest.Command(t, dir, "pgtrove", "snapshots", "--repo", secret)
	wrong.Env = append(wrong.Env, "PGTROVE_PASSWORD=wrong")
	expect(t, pgtest.Run(t, wrong), 8, []string{"hint: "}, "snapshots with a wrong passphrase")
}

func TestBadInputGetsAClearAnswer(t *testing.T) {
	w := newWorld(t, "15", pgtest.Options{})
	w.backup()
	dir := w.newDir()

	// another repository's identity
	pgtest.MustRun(t, pgtest.Command(t, w.dir, "pgtrove", "init", "--repo", filepath.Join(w.dir, "r2"), "--key-file", filepath.Join(w.dir, "k2")))
	for _, args := range [][]string{{"snapshots"}, {"backup"}, {"restore", "--to", dir}, {"verify"}, {"info"}} {
		w.fails(8, []string{"hint: "}, append(args, "--key-file", filepath.Join(w.dir, "k2"))...)
	}
	w.fails(8, []string{"hint: "}, "snapshots", "--key-file", filepath.Join(w.dir, "no such key"))
	w.fails(4, []string{"hint: "}, "snapshots", "--repo", filepath.Join(w.dir, "nowhere"))
	w.fails(4, []string{"hint: "}, "restore", "20200101", "--to", dir)
	w.fails(2, nil, "restore")
	w.fails(2, nil, "backup", "--wal", "sometimes")
	w.fails(2, nil, "backup", "--cluster", "../x")
	w.fails(2, nil, "frobnicate")
	w.fails(2, nil, "snapshots", "--config", w.file("bad.toml", []byte("repository = 'x'\n")))

	// directories that are not what they should be
	w.fails(5, []string{"not a data directory"}, "backup", "--pgdata", w.dir)
	w.fails(5, []string{"running"}, "restore", "--to", w.Dir)
	full := filepath.Join(w.dir, "full")
	if err := os.MkdirAll(filepath.Join(full, "something"), 0o777); err != nil {
		t.Fatal(err)
	}
	pgtest.Own(t, full)
	w.fails(5, []string{"not empty"}, "restore", "--to", full)
	w.fails(5, []string{"system identifier"}, "backup", "--pgdata", pgtest.New(t, "15", pgtest.Options{}).Dir)

	// a server that is down, a repository that cannot be written
	w.fails(7, []string{"hint: "}, "backup", "--dsn", "host=/nonexistent port=1")
	locked := filepath.Join(w.repo, "sessions")
	if err := os.Chmod(locked, 0o500); err != nil {
		t.Fatal(err)
	}
	r := w.run("backup")
	if err := os.Chmod(locked, 0o700); err != nil {
		t.Fatal(err)
	}
	if r.Code == 0 || !strings.Contains(strings.ToLower(r.Stderr), "denied") {
		t.Errorf("an unwritable repository: exit %d\n%s", r.Code, r.Stderr)
	}
	quiet(t, w.Server)
	if n := len(w.snapshots()); n != 1 {
		t.Errorf("%d snapshots", n)
	}
}

func TestARoleWithoutPrivilegesIsToldWhichGrantIsMissing(t *testing.T) {
	eachVersion(t, pgtest.Versions(t), func(t *testing.T, version string) {
		w := newWorld(t, version, pgtest.Options{})
		w.Exec(t, "CREATE ROLE backup LOGIN")
		major, _ := strconv.Atoi(version)
		grants := []string{"GRANT pg_read_all_settings TO backup", "GRANT EXECUTE ON FUNCTION pg_backup_start(text, boolean) TO backup",
			"GRANT EXECUTE ON FUNCTION pg_backup_stop(boolean) TO backup"}
		if major < 15 {
			grants[1] = "GRANT EXECUTE ON FUNCTION pg_start_backup(text, boolean, boolean) TO backup"
			grants[2] = "GRANT EXECUTE ON FUNCTION pg_stop_backup(boolean, boolean) TO backup"
		}
		for _, grant := range grants {
			r := w.fails(5, []string{"GRANT"}, "backup", "--dsn", w.DSN()+" user=backup")
			said := strings.NewReplacer("\"", "", "pg_catalog.", "").Replace(r.Stderr)
			if !strings.Contains(said, strings.SplitN(grant, "(", 2)[0]) {
				t.Errorf("%q is not named:\n%s", grant, r.Stderr)
			}
			w.Exec(t, grant)
		}
		w.backup("--dsn", w.DSN()+" user=backup", "--wal", "archive")
	})
}

func TestAnotherClusterUnderTheSameNameIsRefused(t *testing.T) {
	w := newWorld(t, "15", pgtest.Options{})
	first := w.backup()
	other := pgtest.New(t, "15", pgtest.Options{Conf: map[string]string{"archive_mode": "off"}})
	other.ExtraEnv = w.env()
	other.Start(t)
	r := pgtest.Run(t, other.Command("pgtrove", "backup"))
	expect(t, r, 5, []string{"system identifier", "hint: "}, "backup of another cluster")
	if n := len(w.snapshots()); n != 1 {
		t.Fatalf("%d snapshots", n)
	}
	pgtest.MustRun(t, other.Command("pgtrove", "backup", "--cluster", "other"))
	flag := ""
	for word := range strings.FieldsSeq(r.Stderr) {
		if strings.HasPrefix(word, "--") {
			flag = strings.Trim(word, "`.,;'\"")
		}
	}
	if flag == "" {
		t.Fatalf("the hint names no flag:\n%s", r.Stderr)
	}
	pgtest.MustRun(t, other.Command("pgtrove", "backup", flag))
	if n := len(w.snapshots()); n != 2 {
		t.Fatalf("%d snapshots", n)
	}
	w.archived()
	dir := w.newDir()
	w.ok("restore", first.ID, "--to", dir)
	sameContents(t, w.Server, w.adopt(dir))
}

func TestDamageIsFoundAndNamed(t *testing.T) {
	w := newWorld(t, "15", pgtest.Options{})
	w.Pgbench(t, "-i", "-s", "3", "-q")
	s := w.backup()
	w.archived()
	pack := w.object(largest(t, filepath.Join(w.repo, "packs")))
	original := read(t, pack)
	name, err := filepath.Rel(w.repo, pack)
	if err != nil {
		t.Fatal(err)
	}
	flipped := append([]byte(nil), original...)
	flipped[len(flipped)/3] ^= 0x10
	for what, damage := range map[string]func() error{
		"a flipped bit":   func() error { return os.WriteFile(pack, flipped, 0o600) },
		"a truncated one": func() error { return os.WriteFile(pack, original[:len(original)-1000], 0o600) },
		"a missing one":   func() error { return os.Remove(pack) },
	} {
		if err := damage(); err != nil {
			t.Fatal(err)
		}
		if what != "a flipped bit" { // which only reading finds
			w.fails(9, []string{name, s.ID}, "verify")
		}
		w.fails(9, []string{name, s.ID}, "verify", "--read-data")
		dir := w.newDir()
		w.fails(9, []string{name}, "restore", "--to", dir)
		if _, err := os.Stat(filepath.Join(dir, "global", "pg_control")); err == nil {
			t.Errorf("%s: the restore looks finished", what)
		}
		overwrite(t, pack, original)
		pgtest.Own(t, pack)
	}
}

// largest names the largest file below dir.
func largest(t *testing.T, dir string) (name string) {
	t.Helper()
	var size int64
	err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err == nil && info.Size() > size && !info.IsDir() {
			size, name = info.Size(), filepath.Base(path)
		}
		return err
	})
	if err != nil || name == "" {
		t.Fatalf("nothing in %s: %v", dir, err)
	}
	return name
}

func TestADamagedPageOfTheSourceIsReportedAndTheBackupFinishes(t *testing.T) {
	eachVersion(t, pgtest.Versions(t), func(t *testing.T, version string) {
		w := newWorld(t, version, pgtest.Options{})
		w.Pgbench(t, "-i", "-s", "1", "-q")
		w.Exec(t, "CHECKPOINT")
		rel := w.Query(t, "SELECT pg_relation_filepath('pgbench_accounts')")
		f, err := os.OpenFile(filepath.Join(w.Dir, rel), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte("rotten"), 17*8192+4000); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		r := w.fails(3, []string{rel, fmt.Sprint(17)}, "backup", "--json", "--checkpoint", "fast")
		if s := lastSnapshot(t, r.Stdout); s.ID == "" {
			t.Error("no snapshot was taken")
		}
		if n := len(w.snapshots()); n != 1 {
			t.Errorf("%d snapshots", n)
		}
	})
}

func TestAServerThatArchivesNowhereGetsItsWALIncluded(t *testing.T) {
	eachVersion(t, pgtest.Versions(t), func(t *testing.T, version string) {
		w := unarchived(t, version, pgtest.Options{})
		w.Pgbench(t, "-i", "-s", "1", "-q")
		stop := load(t, w.Server, 1)
		s := w.backup()
		stop()
		restored := w.adopt(w.restore())
		sameRows(t, restored, "SELECT count(*) FROM pgbench_accounts", "100000")
		sound(t, restored)

		r := w.run("backup", "--json", "--wal", "none")
		if r.Code != 0 || lastSnapshot(t, r.Stdout).WAL != "unproven" {
			t.Errorf("--wal none: exit %d\n%s%s", r.Code, r.Stdout, r.Stderr)
		}
		late := w.fails(3, nil, "backup", "--json", "--wal", "archive", "--wal-timeout", "2s")
		if lastSnapshot(t, late.Stdout).WAL != "missing" {
			t.Errorf("--wal archive without an archiver:\n%s", late.Stdout)
		}
		id := lastSnapshot(t, late.Stdout).ID
		w.fails(3, []string{id, "did not come"}, "verify")
		w.ok("forget", id)
		dir := w.newDir()
		w.ok("restore", s.ID, "--to", dir)
	})
}
