package pgsource_test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/snapshot"
	"github.com/pgtrove/pgtrove/test/pgtest"
)

// eachSummaryVersion runs a test on servers of the versions that summarize WAL.
func eachSummaryVersion(t *testing.T, test func(t *testing.T, version string)) {
	for _, v := range []string{"17", "18"} {
		t.Run(v, func(t *testing.T) {
			t.Parallel()
			test(t, v)
		})
	}
}

// summarizing is a server on which nothing happens that the test does not do.
func summarizing(t *testing.T, version string) *pgtest.Server {
	t.Helper()
	return running(t, version, pgtest.Options{WALSegMB: 1, Conf: map[string]string{
		"summarize_wal": "on", "autovacuum": "off", "bgwriter_lru_maxpages": "0",
	}})
}

// listedBlocks are the blocks of a file's fork that the summaries between two positions list, limit blocks left out.
func listedBlocks(t *testing.T, s *pgtest.Server, path string, from, to pg.LSN) []int64 {
	t.Helper()
	r, ok := pg.ParseRelPath(strings.TrimPrefix(path, snapshot.DataRoot+"/"))
	if !ok {
		t.Fatal(path)
	}
	text := s.Query(t, fmt.Sprintf("SELECT DISTINCT relblocknumber FROM pg_available_wal_summaries() s, "+
		"pg_wal_summary_contents(s.tli, s.start_lsn, s.end_lsn) WHERE s.end_lsn > '%s' AND s.start_lsn < '%s' AND NOT is_limit_block "+
		"AND reltablespace = %d AND reldatabase = %d AND relfilenode = %d AND relforknumber = %d", from, to, r.Spc, r.DB, r.Relfilenode, r.Fork))
	var blocks []int64
	for _, word := range strings.Fields(text) {
		n, err := strconv.ParseInt(word, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		blocks = append(blocks, n)
	}
	return blocks
}

// unlisted are the pages of a file that differ and that no summary lists.
func unlisted(t *testing.T, s *pgtest.Server, p *parentCopy, found *comparison, path string) []int64 {
	t.Helper()
	listed := listedBlocks(t, s, path, p.manifest.Window.StartLSN, found.start)
	return slices.DeleteFunc(slices.Clone(found.differ[path]), func(n int64) bool { return slices.Contains(listed, n) })
}

func TestSummariesNameWhatChanged(t *testing.T) {
	eachSummaryVersion(t, func(t *testing.T, version string) {
		s, other, aside := summarizing(t, version), pgtest.TempDir(t), pgtest.TempDir(t)
		t.Run("updates", func(t *testing.T) { updatesAreNamed(t, s) })
		t.Run("updates while the parent was taken", func(t *testing.T) { updatesDuringTheParentAreNamed(t, s) })
		t.Run("visibility map", func(t *testing.T) { visibilityMapIsNotCovered(t, s) })
		t.Run("truncated and filled again", func(t *testing.T) { pagesBehindALimitAreNamed(t, s) })
		t.Run("all kinds of statements", func(t *testing.T) { allKindsAreNamed(t, s, other) })
		for _, strategy := range []string{"wal_log", "file_copy"} {
			t.Run("database created again by "+strategy, func(t *testing.T) { newDatabaseIsNamed(t, s, strategy) })
		}
		t.Run("database moved and back", func(t *testing.T) { movedDatabaseIsNamed(t, s, aside) })
		t.Run("same relfilenode again", func(t *testing.T) { newRelationOfTheSameNameIsNamed(t, s) })
	})
}

func updatesAreNamed(t *testing.T, s *pgtest.Server) {
	s.Exec(t, "CREATE TABLE still AS SELECT n, repeat('x', 500) FROM generate_series(1, 2000) n")
	s.Pgbench(t, "-i", "-s", "1", "--quiet")
	p := takeParent(t, s, "one")
	s.Pgbench(t, "-n", "-t", "100", "-c", "2")
	found := p.compare(t, s)
	accounts := pathOf(t, s, "pgbench_accounts")
	if d, n := len(found.differ[accounts]), len(found.named[accounts]); d < 50 || n > d+20 {
		t.Errorf("of pgbench_accounts %d pages differ, %d are named", d, n)
	}
	if got := found.named[pathOf(t, s, "still")]; got != nil {
		t.Errorf("of a table that nobody touched, %v are named", got)
	}
}

func updatesDuringTheParentAreNamed(t *testing.T, s *pgtest.Server) {
	s.Exec(t, "CREATE TABLE during AS SELECT n, repeat('x', 500) FROM generate_series(1, 2000) n")
	p := takeParentWhile(t, s, "one", func() {
		s.Exec(t, "UPDATE during SET n = -n WHERE n % 100 = 0")
		s.Exec(t, "CHECKPOINT") // and so a summary from the start to here, which the stop is not in
	})
	found := p.compare(t, s)
	if len(found.differ[pathOf(t, s, "during")]) == 0 {
		t.Error("nothing differs")
	}
}

func visibilityMapIsNotCovered(t *testing.T, s *pgtest.Server) {
	s.Exec(t, "CREATE TABLE visible AS SELECT n, repeat('x', 500) FROM generate_series(1, 2000) n")
	s.Exec(t, "VACUUM visible")
	p := takeParent(t, s, "one")
	s.Exec(t, "DELETE FROM visible WHERE n % 500 = 0")
	found := p.compare(t, s)
	vm := pathOf(t, s, "visible") + "_vm"
	if len(found.differ[vm]) == 0 {
		t.Error("DELETE left the visibility map as it was")
	}
	// From 17.11 and 18.6 on these are listed; that is not relied on.
	if v := s.Query(t, "SHOW server_version"); v == "17.10" || v == "18.4" {
		if len(unlisted(t, s, p, found, vm)) == 0 {
			t.Errorf("%s lists the visibility map", v)
		}
	}
	s.Exec(t, "VACUUM visible")
	if found := p.compare(t, s); len(found.differ[pathOf(t, s, "visible")]) == 0 {
		t.Error("nothing differs")
	}
}

// COPY makes a relation longer by more pages than it fills at once, and the rest are initialised without WAL.
func pagesBehindALimitAreNamed(t *testing.T, s *pgtest.Server) {
	s.Exec(t, "CREATE TABLE short AS SELECT n, repeat('x', 500) FROM generate_series(1, 8000) n")
	p := takeParent(t, s, "one")
	s.Exec(t, "DELETE FROM short WHERE n > 1600")
	s.Exec(t, "VACUUM short")
	if n := s.Query(t, "SELECT pg_relation_size('short') / 8192 < 120"); n != "t" {
		t.Fatal("VACUUM did not truncate the table")
	}
	s.Exec(t, "COPY short FROM PROGRAM 'seq 10001 15000 | sed ''s/$/\tyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy/'''")
	found := p.compare(t, s)
	path := pathOf(t, s, "short")
	if got := unlisted(t, s, p, found, path); len(got) == 0 {
		t.Error("all that differs is listed")
	}
	if n, all := len(found.named[path]), len(p.files[path])/8192; n >= all {
		t.Errorf("all %d pages are named", all)
	}
}

func allKindsAreNamed(t *testing.T, s *pgtest.Server, tablespace string) {
	s.Exec(t, `CREATE TABLE a AS SELECT n, md5(n::text) AS t FROM generate_series(1, 20000) n;
		CREATE INDEX a_n ON a (n); CREATE INDEX a_hash ON a USING hash (t); CREATE INDEX a_brin ON a USING brin (n);
		CREATE TABLE g AS SELECT ARRAY[n, n % 7] AS v, point(n, n) AS p FROM generate_series(1, 5000) n;
		CREATE INDEX g_gin ON g USING gin (v); CREATE INDEX g_gist ON g USING gist (p); CREATE INDEX g_spgist ON g USING spgist (p);
		CREATE TABLE full_ AS SELECT * FROM a; CREATE TABLE emptied AS SELECT * FROM a; CREATE TABLE moved AS SELECT * FROM a;
		CREATE UNLOGGED TABLE u (n int PRIMARY KEY); CREATE SEQUENCE seq`)
	s.Exec(t, "CREATE TABLESPACE other LOCATION '"+tablespace+"'")
	s.Exec(t, "CREATE TABLE elsewhere TABLESPACE other AS SELECT * FROM a")
	p := takeParent(t, s, "one")
	for _, sql := range []string{
		"UPDATE a SET t = 'x' || t WHERE n % 50 = 0", "DELETE FROM a WHERE n % 37 = 0", "VACUUM a", "CHECKPOINT",
		"INSERT INTO a SELECT n, md5(n::text) FROM generate_series(20001, 30000) n", "REINDEX INDEX a_n",
		"INSERT INTO g SELECT ARRAY[n, n % 5], point(-n, n) FROM generate_series(1, 2000) n", "DELETE FROM g WHERE v[1] % 10 = 0", "VACUUM g",
		"VACUUM FULL full_", "TRUNCATE emptied; COPY emptied FROM PROGRAM 'seq 1 5000 | sed ''s/$/\tnew/'''", "CHECKPOINT",
		"BEGIN; TRUNCATE emptied; ROLLBACK", "BEGIN; CREATE TABLE gone AS SELECT * FROM a; ROLLBACK",
		"UPDATE elsewhere SET t = 'y' WHERE n < 100", "ALTER TABLE moved SET TABLESPACE other", "UPDATE moved SET t = 'z' WHERE n < 10",
		"SELECT nextval('seq') FROM generate_series(1, 100)", "ALTER TABLE u SET LOGGED", "INSERT INTO u VALUES (1)",
		"CREATE ROLE somebody", "SELECT count(*) FROM a",
	} {
		s.Exec(t, sql)
	}
	// What PostgreSQL changes without WAL is not named, and no standby has it either: here a cache of pages with free space
	// (SpGistUpdateMetaPage in spgutils.c).
	spgist := pathOf(t, s, "g_spgist")
	found := p.compare(t, s, spgist)
	if got := found.missed[spgist]; got != nil && !slices.Equal(got, []int64{0}) {
		t.Errorf("of an SP-GiST index, %v are not named", got)
	}
	for _, name := range []string{"a", "a_hash", "a_brin", "g", "g_gin", "g_gist", "g_spgist", "elsewhere", "seq", "pg_class", "pg_authid"} {
		if len(found.differ[pathOf(t, s, name)]) == 0 {
			t.Errorf("%s does not differ", name)
		}
	}
}

// makeTemplates makes two databases with a table x each: its files have the same names and other contents.
func makeTemplates(t *testing.T, s *pgtest.Server, one, two string) {
	t.Helper()
	s.Exec(t, "CREATE DATABASE "+one)
	s.QueryIn(t, one, "CREATE TABLE x AS SELECT n, repeat('x', 500) FROM generate_series(1, 1000) n")
	s.Exec(t, "CREATE DATABASE "+two+" TEMPLATE "+one)
	s.QueryIn(t, two, "UPDATE x SET n = -n")
}

func newDatabaseIsNamed(t *testing.T, s *pgtest.Server, strategy string) {
	one, two := strategy+"1", strategy+"2"
	makeTemplates(t, s, one, two)
	s.Exec(t, "CREATE DATABASE again TEMPLATE "+one+" OID 50000")
	path := pathIn(t, s, "again", "x")
	p := takeParent(t, s, "one")
	s.Exec(t, "DROP DATABASE again")
	s.Exec(t, "CREATE DATABASE again TEMPLATE "+two+" OID 50000 STRATEGY "+strategy)
	found := p.compare(t, s)
	if pathIn(t, s, "again", "x") != path {
		t.Fatal("its files have other names")
	}
	missing := unlisted(t, s, p, found, path)
	if len(found.differ[path]) == 0 || (strategy == "file_copy") != (len(missing) > 0) {
		t.Errorf("%d pages differ, %d of them are not listed", len(found.differ[path]), len(missing))
	}
	s.Exec(t, "DROP DATABASE again")
}

func movedDatabaseIsNamed(t *testing.T, s *pgtest.Server, tablespace string) {
	s.Exec(t, "CREATE TABLESPACE aside LOCATION '"+tablespace+"'")
	makeTemplates(t, s, "moved1", "moved2")
	path := pathIn(t, s, "moved1", "x")
	p := takeParent(t, s, "one")
	s.Exec(t, "ALTER DATABASE moved1 SET TABLESPACE aside")
	s.QueryIn(t, "moved1", "UPDATE x SET n = n + 1")
	s.Exec(t, "ALTER DATABASE moved1 SET TABLESPACE pg_default")
	found := p.compare(t, s)
	if len(unlisted(t, s, p, found, path)) == 0 {
		t.Error("all that differs is listed")
	}
	if got := found.named[pathIn(t, s, "moved2", "x")]; got != nil {
		t.Errorf("of another database, %v are named", got)
	}
}

// The names of new files come from a counter of 32 bits that also counts other things. In the mode that pg_upgrade uses, one
// can say what the next is.
func newRelationOfTheSameNameIsNamed(t *testing.T, s *pgtest.Server) {
	s.Exec(t, "CREATE TABLE was AS SELECT n FROM generate_series(1, 20000) n")
	path, oid := pathOf(t, s, "was"), s.Query(t, "SELECT pg_relation_filenode('was')")
	p := takeParent(t, s, "one")
	s.Stop(t, pgtest.Fast)
	args := s.Args
	s.Args = append(slices.Clone(args), "-b")
	s.Start(t)
	s.Exec(t, "DROP TABLE was")
	s.Exec(t, "CHECKPOINT")
	s.Exec(t, "SELECT binary_upgrade_set_next_heap_pg_class_oid("+oid+"), binary_upgrade_set_next_heap_relfilenode("+oid+"), "+
		"binary_upgrade_set_next_pg_type_oid(90001), binary_upgrade_set_next_array_pg_type_oid(90002); CREATE TABLE reborn (n int)")
	s.Stop(t, pgtest.Fast)
	s.Args = args
	s.Start(t)
	s.Exec(t, "COPY reborn FROM PROGRAM 'seq 100001 110000'")
	if got := pathOf(t, s, "reborn"); got != path {
		t.Fatalf("%s instead of %s", got, path)
	}
	found := p.compare(t, s)
	if len(unlisted(t, s, p, found, path)) == 0 {
		t.Error("all that differs is listed")
	}
}
