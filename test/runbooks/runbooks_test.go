// Package runbooks executes docs/runbooks: every block of shell on each page, in order, as the server's user, after a
// disaster that the test has made.
package runbooks

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/pgtrove/pgtrove/test/pgtest"
)

// steps returns the blocks of shell of a page; of PAGE#TITLE those of the section with that title.
func steps(t *testing.T, page string) []string {
	t.Helper()
	file, title, _ := strings.Cut(page, "#")
	b, err := os.ReadFile(filepath.Join("../../docs/runbooks", file))
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	if title != "" {
		_, text, _ = strings.Cut(text, "\n## "+title+"\n")
		text, _, _ = strings.Cut(text, "\n## ")
	}
	var out []string
	for _, m := range regexp.MustCompile("(?ms)^ *```sh\n(.*?)^ *```$").FindAllStringSubmatch(text, -1) {
		out = append(out, m[1])
	}
	if len(out) == 0 {
		t.Fatalf("%s has no steps", page)
	}
	return out
}

// follow runs all steps of a page in one shell, as a person would type them, and returns what was printed.
func follow(t *testing.T, s *pgtest.Server, page string, variables ...string) string {
	t.Helper()
	script := "set -eu\n" + strings.Join(steps(t, page), "\n")
	cmd := s.Command("bash", "-c", script)
	cmd.Env = append(cmd.Env, "PATH="+filepath.Dir(pgtest.Binary(t))+":"+s.Bin+":/usr/lib/postgresql/15/bin:"+os.Getenv("PATH"))
	cmd.Env = append(cmd.Env, variables...)
	r := pgtest.Run(t, cmd)
	if r.Code != 0 {
		t.Fatalf("%s: exit %d\n%s%s", page, r.Code, r.Stdout, r.Stderr)
	}
	return r.Stdout + r.Stderr
}

// protected is a running server with a repository that it archives to.
func protected(t *testing.T) (s *pgtest.Server, dir string) {
	t.Helper()
	dir = pgtest.TempDir(t)
	s = pgtest.New(t, "15", pgtest.Options{Conf: map[string]string{
		"archive_mode": "on", "archive_command": pgtest.Binary(t) + " wal push %p"}})
	s.ExtraEnv = []string{"PGTROVE_REPO=" + filepath.Join(dir, "repo"), "PGTROVE_KEY_FILE=" + filepath.Join(dir, "key")}
	pgtest.MustRun(t, s.Command("pgtrove", "init"))
	s.Start(t)
	s.Exec(t, "CREATE TABLE orders AS SELECT generate_series(1, 1000) AS id")
	pgtest.MustRun(t, s.Command("pgtrove", "backup", "--checkpoint", "fast"))
	return s, dir
}

func same(t *testing.T, s *pgtest.Server, sql, want string) {
	t.Helper()
	if got := s.Query(t, sql); got != want {
		t.Errorf("%s: got %s, want %s", sql, got, want)
	}
}

func TestEveryPageIsExecuted(t *testing.T) {
	pages, err := filepath.Glob("../../docs/runbooks/*.md")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, p := range pages {
		names = append(names, filepath.Base(p))
	}
	want := []string{"README.md", "archiving-fails.md", "damage.md", "damaged-files.md", "damaged-repository.md", "dropped-table.md", "free-space.md", "lost-key.md", "lost-server.md"}
	if !slices.Equal(names, want) {
		t.Errorf("pages %v, tests for %v", names, want)
	}
}

func TestADroppedTableComesBack(t *testing.T) {
	s, dir := protected(t)
	s.Exec(t, "INSERT INTO orders SELECT generate_series(1001, 1200)")
	s.Exec(t, "SELECT pg_sleep(0.05)")
	moment := s.Query(t, "SELECT clock_timestamp()")
	s.Exec(t, "SELECT pg_sleep(0.05)")
	s.Exec(t, "DROP TABLE orders")
	s.Exec(t, "CREATE TABLE meanwhile AS SELECT 1 AS n")
	side := pgtest.New(t, "15", pgtest.Options{}) // lends its free port
	follow(t, s, "dropped-table.md", "MOMENT="+moment, "SIDE="+filepath.Join(dir, "side"), "SIDE_PORT="+strconv.Itoa(side.Port), "TABLE=orders")
	same(t, s, "SELECT count(*), sum(id) FROM orders", "1200|720600")
	same(t, s, "SELECT count(*) FROM meanwhile", "1")
}

func TestALostServerIsBackOnAnotherHost(t *testing.T) {
	s, dir := protected(t)
	s.Exec(t, "INSERT INTO orders SELECT generate_series(1001, 1100)")
	s.WaitArchived(t, s.SwitchWAL(t))
	s.Stop(t, pgtest.Immediate)
	if err := os.RemoveAll(s.Dir); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(dir, "new")
	said := follow(t, s, "lost-server.md", "DATA="+data, "PGHOST="+s.SocketDir, "PGOPTIONS=")
	if !strings.Contains(said, "00000002") {
		t.Errorf("the new timeline is not shown:\n%s", said)
	}
	t.Cleanup(func() { _ = s.Command("pg_ctl", "-D", data, "-m", "immediate", "stop").Run() })
	same(t, s, "SELECT count(*) FROM orders", "1100")
}

func TestDamagedFilesAreRestoredInPlace(t *testing.T) {
	s, _ := protected(t)
	s.Exec(t, "INSERT INTO orders SELECT generate_series(1001, 1100)")
	s.WaitArchived(t, s.SwitchWAL(t))
	file := filepath.Join(s.Dir, s.Query(t, "SELECT pg_relation_filepath('orders')"))
	s.Exec(t, "CHECKPOINT")
	flip(t, file, 5000)
	said := follow(t, s, "damaged-files.md", "DATA="+s.Dir, "PGHOST="+s.SocketDir)
	t.Cleanup(func() { _ = s.Command("pg_ctl", "-D", s.Dir, "-m", "immediate", "stop").Run() })
	if !strings.Contains(said, "right already: ") || !strings.Contains(said, "were fetched") {
		t.Errorf("it does not say what was done:\n%s", said)
	}
	same(t, s, "SELECT count(*) FROM orders", "1100")
}

func TestAnArchiverThatFailedCatchesUp(t *testing.T) {
	s, dir := protected(t)
	repo := filepath.Join(dir, "repo")
	if err := os.Rename(repo, repo+".away"); err != nil {
		t.Fatal(err)
	}
	s.Exec(t, "INSERT INTO orders SELECT generate_series(1001, 1100)")
	s.SwitchWAL(t)
	s.WaitQuery(t, "SELECT failed_count > 0 FROM pg_stat_archiver", "t", 1e11)
	if err := os.Rename(repo+".away", repo); err != nil {
		t.Fatal(err)
	}
	said := follow(t, s, "archiving-fails.md", "DATA="+s.Dir)
	if !strings.Contains(said, "ok       archiving: ") {
		t.Errorf("check does not say that it works again:\n%s", said)
	}
	same(t, s, "SELECT last_archived_wal >= last_failed_wal FROM pg_stat_archiver", "t")
	pgtest.MustRun(t, s.Command("pgtrove", "verify", "--read-data"))
}

// TestDamageIsRepaired: of a chunk that the cluster still has, and of the index; then of a whole pack, with what the first snapshot alone had.
func TestDamageIsRepaired(t *testing.T) {
	s, dir := protected(t)
	s.Exec(t, "CREATE TABLE filler AS SELECT n, md5(n::text) || md5((-n)::text) AS x FROM generate_series(1, 200000) n")
	pgtest.MustRun(t, s.Command("pgtrove", "backup", "--checkpoint", "fast"))
	repository := filepath.Join(dir, "repo")
	packs := func() (largest string) {
		all, err := filepath.Glob(filepath.Join(repository, "packs", "*", "*"))
		if err != nil || len(all) == 0 {
			t.Fatalf("no packs: %v", err)
		}
		return slices.MaxFunc(all, func(a, b string) int { return int(size(t, a) - size(t, b)) })
	}
	flip(t, packs(), size(t, packs())/2)
	segments, err := filepath.Glob(filepath.Join(repository, "index", "*", "*"))
	if err != nil || len(segments) == 0 {
		t.Fatalf("no index: %v", err)
	}
	flip(t, segments[0], 100)
	said := follow(t, s, "damage.md", "LOST=", "XDG_CACHE_HOME="+filepath.Join(dir, "cache"))
	for _, part := range []string{"damaged: index/", "the index is new", "damaged: packs/", "repaired: 1 damaged pack is given up"} {
		if !strings.Contains(said, part) {
			t.Errorf("it does not say %q:\n%s", part, said)
		}
	}
	old := strings.Fields(strings.Split(pgtest.MustRun(t, s.Command("pgtrove", "snapshots")), "\n")[1])[0]
	lost, err := filepath.Glob(filepath.Join(repository, "packs", old, "*"))
	if err != nil || len(lost) == 0 {
		t.Fatalf("no packs of %s: %v", old, err)
	}
	if err := os.Remove(lost[0]); err != nil {
		t.Fatal(err)
	}
	said = follow(t, s, "damage.md", "LOST="+strings.Join(snapshots(t, s), " "))
	if !strings.Contains(said, "lost: ") {
		t.Errorf("nothing is lost:\n%s", said)
	}
	to := filepath.Join(dir, "restored")
	pgtest.MustRun(t, s.Command("pgtrove", "restore", "--to", to))
	restored := pgtest.Adopt(t, "15", to)
	restored.Args = append(restored.Args, "-c", "archive_mode=off")
	restored.Start(t)
	restored.WaitPromoted(t)
	same(t, restored, "SELECT count(*) FROM filler", "200000")
	pgtest.MustRun(t, s.Command("pgtrove", "verify", "--read-data"))
}

// snapshots gives the IDs of those that there are now.
func snapshots(t *testing.T, s *pgtest.Server) (ids []string) {
	t.Helper()
	for line := range strings.Lines(pgtest.MustRun(t, s.Command("pgtrove", "snapshots", "--json"))) {
		_, rest, _ := strings.Cut(line, `"id":"`)
		id, _, _ := strings.Cut(rest, `"`)
		ids = append(ids, id)
	}
	return ids
}

func size(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// flip changes a byte of a file.
func flip(t *testing.T, path string, at int64) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err == nil {
		b[at] ^= 4
		err = os.WriteFile(path, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestADamagedRepositoryIsReplaced(t *testing.T) {
	s, dir := protected(t)
	packs, err := filepath.Glob(filepath.Join(dir, "repo", "packs", "*", "*"))
	if err != nil || len(packs) == 0 {
		t.Fatalf("no packs: %v", err)
	}
	if err := os.Truncate(packs[0], 5000); err != nil {
		t.Fatal(err)
	}
	fresh := []string{"NEW_REPOSITORY=" + filepath.Join(dir, "repo2"), "NEW_KEY=" + filepath.Join(dir, "key2")}
	said := follow(t, s, "damaged-repository.md", fresh...)
	if !strings.Contains(said, filepath.Base(packs[0])) {
		t.Errorf("the damaged object is not named:\n%s", said)
	}
	to := filepath.Join(dir, "restored")
	cmd := s.Command("pgtrove", "restore", "--to", to, "--repo", filepath.Join(dir, "repo2"), "--key-file", filepath.Join(dir, "key2"))
	pgtest.MustRun(t, cmd)
	restored := pgtest.Adopt(t, "15", to)
	restored.Args = append(restored.Args, "-c", "archive_mode=off")
	restored.Start(t)
	restored.WaitPromoted(t)
	same(t, restored, "SELECT count(*) FROM orders", "1000")
}

func TestSpaceIsFreed(t *testing.T) {
	s, dir := protected(t)
	var old []string
	for _, table := range []string{"one", "two"} {
		s.Exec(t, "CREATE TABLE "+table+" AS SELECT n, md5(n::text) || md5((-n)::text) AS x FROM generate_series(1, 100000) n")
		pgtest.MustRun(t, s.Command("pgtrove", "backup", "--checkpoint", "fast", "--tag", "table="+table))
		s.Exec(t, "DROP TABLE "+table)
	}
	for line := range strings.Lines(pgtest.MustRun(t, s.Command("pgtrove", "snapshots"))) {
		if strings.Contains(line, "table=") {
			old = append(old, strings.Fields(line)[0])
		}
	}
	size := func() (sum int64) {
		packs, err := filepath.Glob(filepath.Join(dir, "repo", "packs", "*", "*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range packs {
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			sum += info.Size()
		}
		return sum
	}
	before := size()
	follow(t, s, "free-space.md", "OLD="+strings.Join(old, " "))
	if after := size(); len(old) != 2 || after > before/2 {
		t.Errorf("%d bytes are left of %d without %v", after, before, old)
	}
	left := pgtest.MustRun(t, s.Command("pgtrove", "snapshots", "--json"))
	if strings.Count(left, "\n") != 1 {
		t.Errorf("other snapshots are left:\n%s", left)
	}
	pgtest.MustRun(t, s.Command("pgtrove", "verify", "--read-data"))
}
