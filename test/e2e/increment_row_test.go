package e2e

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/test/pgtest"
)

// moment is a snapshot of a cluster on which nothing happened meanwhile, and what its files were.
type moment struct {
	snapshot
	world  *world
	files  map[string]string
	spaces []string // locations of its tablespaces
}

// still are settings with which a server writes only what it is told to, and to disk at the next checkpoint: even a backup's own
// queries set hint bits, and where there is no room for all pages these may get to disk at any time.
func still(more map[string]string) pgtest.Options {
	conf := map[string]string{"autovacuum": "off", "bgwriter_lru_maxpages": "0", "shared_buffers": "128MB"}
	maps.Copy(conf, more)
	return pgtest.Options{Conf: conf}
}

// summarizing is still, on a server that summarizes its WAL, and archives nothing: a test may let it live through the same
// positions twice.
func summarizing(t *testing.T, version string) *world {
	t.Helper()
	o := still(map[string]string{"summarize_wal": "on"})
	o.WALSegMB = 1
	return unarchived(t, version, o)
}

// freeze takes a snapshot of a server that is still.
func (w *world) freeze(args ...string) *moment {
	w.t.Helper()
	return w.freezeOf(w.Server, args...)
}

// freezeOf is freeze for another server: a standby that was promoted.
func (w *world) freezeOf(s *pgtest.Server, args ...string) *moment {
	w.t.Helper()
	s.Exec(w.t, "CHECKPOINT")
	out := pgtest.MustRun(w.t, s.Command("pgtrove", append([]string{"backup", "--json"}, args...)...))
	m := &moment{snapshot: lastSnapshot(w.t, out), world: w}
	m.files, m.spaces = everyFile(w.t, s.Dir)
	return m
}

// everyFile describes what a snapshot of a data directory holds, tablespaces included.
func everyFile(t *testing.T, dir string) (files map[string]string, spaces []string) {
	t.Helper()
	files = hashes(t, dir)
	links, err := filepath.Glob(filepath.Join(dir, "pg_tblspc", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		at, err := os.Readlink(link)
		if err != nil {
			t.Fatal(err)
		}
		spaces = append(spaces, at)
		rel, _ := filepath.Rel(dir, link)
		files[rel] = "tablespace"
		for path, what := range hashes(t, at) {
			files[filepath.Join(rel, path)] = what
		}
	}
	maps.DeleteFunc(files, func(path, _ string) bool {
		return path == "pgtrove.last" || path == "backup_label.old" || strings.Contains(path, "pgsql_tmp") ||
			strings.HasPrefix(filepath.Base(path), "pg_internal.init")
	})
	return files, spaces
}

// restored restores the snapshot into a new directory and compares every file.
func (m *moment) restored() string {
	w := m.world
	w.t.Helper()
	dir := w.newDir()
	args := []string{"restore", m.ID, "--no-recovery", "--to", dir}
	for i, at := range m.spaces {
		args = append(args, "--tablespace", fmt.Sprintf("%s=%s-space-%d", at, dir, i))
	}
	w.ok(args...)
	got, _ := everyFile(w.t, dir)
	differ := 0
	for _, path := range slices.Sorted(maps.Keys(m.files)) {
		if got[path] != m.files[path] {
			if differ++; differ <= 5 {
				w.t.Errorf("snapshot %s: %s is %q, want %q", m.ID, path, got[path], m.files[path])
			}
		}
		delete(got, path)
	}
	for path := range got {
		if differ++; differ <= 5 {
			w.t.Errorf("snapshot %s: %s was not in the source", m.ID, path)
		}
	}
	if differ > 5 {
		w.t.Errorf("snapshot %s: %d files differ in all", m.ID, differ)
	}
	return dir
}

// drop removes a directory that restored made: clusters are large.
func drop(t *testing.T, dir string) {
	t.Helper()
	if err := os.RemoveAll(dir); err != nil {
		t.Error(err)
	}
}

func newSpace(t *testing.T, w *world, name string) {
	t.Helper()
	dir := filepath.Join(w.dir, "space-"+name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	pgtest.Own(t, dir)
	w.Exec(t, "CREATE TABLESPACE "+name+" LOCATION '"+dir+"'")
}

// summaryConf switches summaries on where there are any.
func summaryConf(version string) map[string]string {
	conf := map[string]string{}
	if major, _ := strconv.Atoi(version); major >= 17 {
		conf["summarize_wal"] = "on"
	}
	return conf
}

// changeOfAllKinds are rounds of statements, a snapshot after each. SP-GiST has no part: the first page of its indexes changes
// without WAL.
func changeOfAllKinds(t *testing.T, w *world) []func() {
	t.Helper()
	all := func(statements ...string) {
		for _, sql := range statements {
			w.Exec(t, sql)
		}
	}
	return []func(){
		func() {
			w.Pgbench(t, "-i", "-s", "2", "-q")
			all("CREATE TABLE churn AS SELECT n, md5(n::text) AS t, ARRAY[n, n % 7] AS v FROM generate_series(1, 30000) n",
				"CREATE TABLE emptied AS SELECT * FROM churn", "CREATE TABLE rewritten AS SELECT * FROM churn", "CREATE TABLE moved AS SELECT * FROM churn",
				"CREATE TABLE dropped AS SELECT * FROM churn", "CREATE DATABASE side", "CREATE SEQUENCE seq", "VACUUM")
		},
		func() {
			all("UPDATE churn SET t = 'x' || t WHERE n % 50 = 0", "DELETE FROM churn WHERE n % 37 = 0", "VACUUM churn",
				"CREATE INDEX churn_n ON churn (n)", "CREATE INDEX churn_gin ON churn USING gin (v)", "CREATE INDEX churn_hash ON churn USING hash (t)",
				"SELECT nextval('seq') FROM generate_series(1, 100)")
		},
		func() {
			all("VACUUM FULL rewritten", "TRUNCATE emptied; COPY emptied (n) FROM PROGRAM 'seq 1 20000'", "DROP TABLE dropped",
				"CREATE DATABASE copied STRATEGY file_copy", "DROP DATABASE side", "CREATE DATABASE logged STRATEGY wal_log", "DELETE FROM moved WHERE n > 3000", "VACUUM moved",
				"COPY moved (n) FROM PROGRAM 'seq 1 9000'")
		},
		func() {
			newSpace(t, w, "other")
			all("ALTER TABLE moved SET TABLESPACE other", "CREATE TABLE there TABLESPACE other AS SELECT * FROM churn", "DROP DATABASE copied",
				"REINDEX INDEX churn_n", "BEGIN; TRUNCATE emptied; ROLLBACK", "BEGIN; CREATE TABLE gone AS SELECT * FROM churn; ROLLBACK")
		},
		func() {
			all("UPDATE there SET t = 'y' WHERE n < 100", "INSERT INTO moved (n) SELECT generate_series(1, 5000)")
			w.Stop(t, pgtest.Immediate) // and what it wrote after the checkpoint comes from its WAL
			w.Start(t)
		},
	}
}

func TestEverySnapshotOfARowComesBackBitByBit(t *testing.T) {
	eachVersion(t, []string{"15", "18"}, func(t *testing.T, version string) {
		w := unarchived(t, version, still(summaryConf(version)))
		var row []*moment
		for i, change := range changeOfAllKinds(t, w) {
			change()
			if i == 0 {
				w.Exec(t, "CHECKPOINT")
				time.Sleep(settle)
			} else {
				w.Pgbench(t, "-n", "-c", "2", "-t", "100")
			}
			row = append(row, w.freeze())
		}
		for i, m := range row {
			if i > 0 && (m.SkippedFiles == 0 || version == "18" && m.SkippedBlocks == 0) {
				t.Errorf("snapshot %d skipped %d bytes of files and %d of blocks: this test would show nothing", i, m.SkippedFiles, m.SkippedBlocks)
			}
		}

		// Without one of the middle, the others are what they were; without the newest, the next one finds its way back.
		drop(t, row[2].restored())
		w.ok("forget", row[2].ID)
		w.prune()
		w.verify()
		drop(t, row[4].restored())
		w.ok("forget", row[4].ID)
		w.Exec(t, "UPDATE churn SET t = 'z' WHERE n % 100 = 0")
		last := w.freeze()
		for range 2 {
			w.prune("--max-delete", "100%")
		}
		for _, m := range []*moment{row[0], row[1], row[3], last} {
			drop(t, m.restored())
		}
	})
}

func TestEverySnapshotOfARowUnderLoadIsSound(t *testing.T) {
	eachVersion(t, []string{"15", "18"}, func(t *testing.T, version string) {
		w := unarchived(t, version, pgtest.Options{Conf: summaryConf(version)})
		w.Pgbench(t, "-i", "-s", "1", "-q")
		w.Exec(t, "CREATE TABLE story AS SELECT n, md5(n::text) AS t FROM generate_series(1, 10000) n; CREATE INDEX story_t ON story (t)")
		stop := load(t, w.Server, 3)
		type told struct {
			snapshot
			story string
		}
		const tell = "SELECT count(*), sum(n), md5(string_agg(t, '' ORDER BY n, t)) FROM story"
		var row []told
		for _, change := range []string{"VACUUM", "UPDATE story SET t = 'x' || t WHERE n % 30 = 0", "DELETE FROM story WHERE n % 41 = 0", "VACUUM FULL story",
			"TRUNCATE story; COPY story (n) FROM PROGRAM 'seq 1 7000'; UPDATE story SET t = md5(n::text)"} {
			w.Exec(t, change)
			row = append(row, told{w.backup(), w.Query(t, tell)})
		}
		stop()
		for i, m := range row {
			s := w.started(m.ID)
			sameRows(t, s, tell, m.story)
			balanced(t, s)
			if i == len(row)-1 {
				sound(t, s)
			}
			s.Stop(t, pgtest.Immediate)
			drop(t, s.Dir)
		}
	})
}

// started restores a snapshot and starts a server on it, which recovers by what the snapshot has.
func (w *world) started(id string) *pgtest.Server {
	w.t.Helper()
	dir := w.newDir()
	w.ok("restore", id, "--no-recovery", "--to", dir)
	s := pgtest.Adopt(w.t, w.Version, dir)
	s.Args = append(s.Args, "-c", "archive_mode=off")
	s.Start(w.t)
	return s
}

// balanced checks what every transaction of pgbench keeps.
func balanced(t *testing.T, s *pgtest.Server) {
	t.Helper()
	sameRows(t, s, `SELECT a = t AND a = b AND a = h AND n > 0 FROM (SELECT sum(abalance) a FROM pgbench_accounts) a, (SELECT sum(tbalance) t FROM pgbench_tellers) t,
		(SELECT sum(bbalance) b FROM pgbench_branches) b, (SELECT coalesce(sum(delta), 0) h, count(*) n FROM pgbench_history) h`, "t")
}

func TestARowOfSnapshotsOfAStandbyIsSound(t *testing.T) {
	w := unarchived(t, "18", pgtest.Options{WALSegMB: 1, Conf: map[string]string{"summarize_wal": "on"}})
	w.Pgbench(t, "-i", "-s", "1", "-q")
	w.Exec(t, "CREATE TABLE quiet AS SELECT n, md5(n::text) AS t FROM generate_series(1, 20000) n")
	standby := standbyOf(t, w)
	stop := load(t, w.Server, 2)
	time.Sleep(time.Second) // some transactions
	var row []string
	skipped := int64(0)
	for _, change := range []string{"CHECKPOINT", "SELECT 1", "CHECKPOINT", "VACUUM", "CHECKPOINT"} {
		w.Exec(t, change) // what starts a backup of a standby is a checkpoint of its primary
		out := pgtest.MustRun(t, standby.Command("pgtrove", "backup", "--json", "--wal", "include"))
		s := lastSnapshot(t, out)
		row, skipped = append(row, s.ID), skipped+s.SkippedBlocks
	}
	stop()
	if skipped == 0 {
		t.Error("nothing was ever skipped")
	}
	for _, id := range row {
		s := w.started(id)
		if s.Query(t, "SELECT pg_is_in_recovery()") == "t" {
			s.Exec(t, "SELECT pg_promote()")
			s.WaitPromoted(t)
		}
		balanced(t, s)
		sound(t, s)
		drop(t, s.Dir)
	}
}
