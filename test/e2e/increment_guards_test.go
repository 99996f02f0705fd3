package e2e

import (
	"encoding/binary"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/test/pgtest"
)

// Each of these fails when its guard is removed: then pages of the parent come back that are not the source's.
func TestNothingThatSummariesDoNotTellIsSkipped(t *testing.T) {
	eachVersion(t, []string{"17"}, func(t *testing.T, version string) {
		w := summarizing(t, version)
		in := func(name string, test func(t *testing.T, w *world)) {
			t.Run(name, func(t *testing.T) {
				of := *w
				of.t = t
				test(t, &of)
			})
		}
		in("visibility map after DELETE", visibilityMapComesBack)
		in("truncated and filled again", pagesBehindALimitComeBack)
		for _, strategy := range []string{"wal_log", "file_copy"} {
			in("database created again by "+strategy, func(t *testing.T, w *world) { newDatabaseComesBack(t, w, strategy) })
		}
		in("relfilenode again", newRelationOfTheSameNameComesBack)
		in("inode of another file", fileOfAnotherOriginComesBack)
		in("page that was damaged", repairedPageComesBack)
	})
}

// skipsBlocks makes sure that the test shows something: the shortcuts were taken.
func (m *moment) skipsBlocks() *moment {
	m.world.t.Helper()
	if m.SkippedBlocks == 0 {
		m.world.t.Errorf("snapshot %s skipped no blocks", m.ID)
	}
	return m
}

// table makes one with rows of n that nothing else uses, and returns its file.
func (w *world) table(name, rows string) (path string) {
	w.t.Helper()
	w.Exec(w.t, "CREATE TABLE "+name+" AS SELECT n, repeat('x', 500) AS filler FROM generate_series(1, "+rows+") n")
	return w.pathIn("postgres", name)
}

func (w *world) pathIn(database, name string) string {
	w.t.Helper()
	return filepath.Join(w.Dir, w.QueryIn(w.t, database, "SELECT pg_relation_filepath('"+name+"')"))
}

func visibilityMapComesBack(t *testing.T, w *world) {
	w.table("visible", "2000")
	w.Exec(t, "CREATE INDEX visible_n ON visible (n)")
	w.Exec(t, "VACUUM visible")
	w.freeze()
	w.Exec(t, "DELETE FROM visible WHERE n % 20 = 0")
	deleted := w.freeze().skipsBlocks()
	w.Exec(t, "VACUUM visible")
	w.Exec(t, "UPDATE visible SET n = -n WHERE n % 500 = 1")
	vacuumed := w.freeze().skipsBlocks()
	for m, want := range map[*moment]string{deleted: "1900", vacuumed: "1900"} {
		s := pgtest.Adopt(t, w.Version, m.restored())
		s.Start(t)
		const seq = "SET enable_indexscan = off; SET enable_indexonlyscan = off; SET enable_bitmapscan = off; "
		const index = "SET enable_seqscan = off; SET enable_bitmapscan = off; "
		sameRows(t, s, seq+"SELECT count(*) FROM visible WHERE n > -5000", want)
		sameRows(t, s, index+"SELECT count(*) FROM visible WHERE n > -5000", want)
		if plan := s.Query(t, index+"EXPLAIN SELECT count(*) FROM visible WHERE n > -5000"); !strings.Contains(plan, "Index Only Scan") {
			t.Errorf("this asks no visibility map:\n%s", plan)
		}
		s.Stop(t, pgtest.Immediate)
	}
}

// COPY makes a relation longer by more pages than it fills at once, and the rest are initialised without WAL.
func pagesBehindALimitComeBack(t *testing.T, w *world) {
	w.table("short", "8000")
	w.table("emptied", "8000")
	w.freeze()
	w.Exec(t, "DELETE FROM short WHERE n > 1600")
	w.Exec(t, "VACUUM short")
	if n := w.Query(t, "SELECT pg_relation_size('short') / 8192 < 120"); n != "t" {
		t.Fatal("VACUUM did not truncate the table")
	}
	const fill = "FROM PROGRAM 'seq 10001 15000 | sed ''s/$/\tyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy/'''"
	w.Exec(t, "COPY short "+fill)
	w.Exec(t, "TRUNCATE emptied; COPY emptied "+fill)
	drop(t, w.freeze().skipsBlocks().restored())
}

// keepInode returns a function that gives the file path, another one by then, the inode that it has now: so do file systems that
// give the number of a removed file to the next one. The server must not run.
func (w *world) keepInode(path string) (giveBack func()) {
	w.t.Helper()
	kept := filepath.Join(w.dir, "kept-"+filepath.Base(path))
	if err := os.Link(path, kept); err != nil {
		w.t.Fatal(err)
	}
	return func() {
		w.t.Helper()
		if err := os.WriteFile(kept, read(w.t, path), 0o600); err != nil {
			w.t.Fatal(err)
		}
		if err := os.Rename(kept, path); err != nil {
			w.t.Fatal(err)
		}
	}
}

// stopped runs something while the server does not.
func (w *world) stopped(do func()) {
	w.t.Helper()
	w.Stop(w.t, pgtest.Fast)
	do()
	w.Start(w.t)
}

func newDatabaseComesBack(t *testing.T, w *world, strategy string) {
	one, two := strategy+"1", strategy+"2"
	w.Exec(t, "CREATE DATABASE "+one)
	w.QueryIn(t, one, "CREATE TABLE x AS SELECT n, repeat('x', 500) FROM generate_series(1, 1000) n")
	w.Exec(t, "CREATE DATABASE "+two+" TEMPLATE "+one)
	w.QueryIn(t, two, "UPDATE x SET n = -n; CHECKPOINT")
	w.Exec(t, "CREATE DATABASE again TEMPLATE "+one+" OID 50000")
	path := w.pathIn("again", "x")
	w.freeze()
	giveBack := w.keepInode(path)
	w.Exec(t, "DROP DATABASE again")
	w.Exec(t, "CREATE DATABASE again TEMPLATE "+two+" OID 50000 STRATEGY "+strategy)
	if now := w.pathIn("again", "x"); now != path {
		t.Fatalf("%s instead of %s", now, path)
	}
	w.stopped(giveBack)
	drop(t, w.freeze().skipsBlocks().restored())
	for _, name := range []string{"again", one, two} {
		w.Exec(t, "DROP DATABASE "+name)
	}
}

// The names of new files come from a counter of 32 bits that also counts other things. In the mode that pg_upgrade uses, one
// can say what the next is.
func newRelationOfTheSameNameComesBack(t *testing.T, w *world) {
	path := w.table("was", "3000")
	oid := w.Query(t, "SELECT pg_relation_filenode('was')")
	w.freeze()
	giveBack := w.keepInode(path)
	args := w.Args
	w.stopped(func() { w.Args = append(slices.Clone(args), "-b") })
	w.Exec(t, "DROP TABLE was")
	w.Exec(t, "CHECKPOINT")
	w.Exec(t, "SELECT binary_upgrade_set_next_heap_pg_class_oid("+oid+"), binary_upgrade_set_next_heap_relfilenode("+oid+"), "+
		"binary_upgrade_set_next_pg_type_oid(90001), binary_upgrade_set_next_array_pg_type_oid(90002); CREATE TABLE reborn (n int)")
	w.stopped(func() { w.Args = args })
	w.Exec(t, "COPY reborn FROM PROGRAM 'seq 100001 110000'")
	if now := w.pathIn("postgres", "reborn"); now != path {
		t.Fatalf("%s instead of %s", now, path)
	}
	w.stopped(giveBack)
	drop(t, w.freeze().skipsBlocks().restored())
}

// A file that somebody put there is not the one that WAL tells of; here an older state of it.
func fileOfAnotherOriginComesBack(t *testing.T, w *world) {
	path := w.table("replaced", "1000")
	var old []byte
	w.stopped(func() { old = read(t, path) })
	w.Exec(t, "UPDATE replaced SET filler = repeat('y', 500) WHERE n = 7")
	w.freeze()
	w.stopped(func() {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path+".new", append(old, make([]byte, int(info.Size())-len(old))...), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
		pgtest.Own(t, path)
	})
	drop(t, w.freeze().skipsBlocks().restored())
}

// A page that was damaged when the parent was taken, and is repaired by hand: no WAL tells.
func repairedPageComesBack(t *testing.T, w *world) {
	path := w.table("rotten", "1000")
	var good []byte
	w.stopped(func() {
		good = read(t, path)
		bad := slices.Clone(good)
		copy(bad[17*8192+4000:], "rotten")
		overwrite(t, path, bad)
	})
	w.fails(3, []string{"damaged"}, "backup", "--json")
	w.stopped(func() { overwrite(t, path, good) })
	drop(t, w.freeze().skipsBlocks().restored())
}

// putBack makes dir what the copy of it is, in place: files keep their inodes, as on a volume that is rolled back.
func putBack(t *testing.T, w *world, saved, dir string) {
	t.Helper()
	pgtest.MustRun(t, pgtest.Command(t, w.dir, "cp", "-a", saved+"/.", dir))
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		if _, err := os.Lstat(filepath.Join(saved, rel)); err == nil {
			return nil
		}
		if err := os.RemoveAll(path); err != nil {
			return err
		}
		if d.IsDir() {
			return fs.SkipDir
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// lostFuture is a world of which a snapshot was taken that its directory then knows nothing of any more: it was rolled back. What
// changed in the table lost before that snapshot is in no WAL that the server has now.
func lostFuture(t *testing.T, version string, putBack func(w *world, saved string)) (w *world, lost *moment) {
	t.Helper()
	w = summarizing(t, version)
	w.table("lost", "1000")
	w.table("other", "1000")
	w.freeze()
	saved := filepath.Join(w.dir, "saved")
	w.stopped(func() { pgtest.MustRun(t, pgtest.Command(t, w.dir, "cp", "-a", w.Dir, saved)) })
	w.Exec(t, "UPDATE lost SET n = -n WHERE n % 10 = 0")
	lost = w.freeze().skipsBlocks()
	w.Stop(t, pgtest.Fast)
	putBack(w, saved)
	w.Start(t)
	return w, lost
}

// advance writes WAL until the server is past a position.
func (w *world) advance(to string) {
	w.t.Helper()
	for w.Query(w.t, "SELECT pg_current_wal_lsn() > '"+to+"'") != "t" {
		w.SwitchWAL(w.t)
	}
	w.SwitchWAL(w.t) // into a segment that the repository does not have
}

func TestADirectoryThatWasRolledBackIsReadAgain(t *testing.T) {
	w, lost := lostFuture(t, "18", func(w *world, saved string) { putBack(t, w, saved, w.Dir) })
	w.Exec(t, "UPDATE other SET n = -n WHERE n % 10 = 1")
	w.advance(lost.StopLSN)
	next := w.freeze()
	if next.SkippedBlocks+next.SkippedFiles != 0 {
		t.Errorf("%d bytes were skipped", next.SkippedBlocks+next.SkippedFiles)
	}
	drop(t, next.restored())
	drop(t, lost.restored())
	w.Exec(t, "UPDATE other SET n = -n WHERE n % 10 = 2")
	drop(t, w.freeze().skipsBlocks().restored())
}

// Here the directory even names the snapshot: somebody put back all but that file. It branched off before the snapshot.
func TestASnapshotOfAnotherTimelineIsNotBuiltOn(t *testing.T) {
	w, lost := lostFuture(t, "18", func(w *world, saved string) {
		mark := read(t, filepath.Join(w.Dir, "pgtrove.last"))
		putBack(t, w, saved, w.Dir)
		for name, b := range map[string][]byte{"pgtrove.last": mark, "standby.signal": nil} {
			if err := os.WriteFile(filepath.Join(w.Dir, name), b, 0o600); err != nil {
				t.Fatal(err)
			}
			pgtest.Own(t, filepath.Join(w.Dir, name))
		}
	})
	w.Exec(t, "SELECT pg_promote()")
	w.WaitPromoted(t)
	w.Exec(t, "UPDATE other SET n = -n WHERE n % 10 = 1")
	w.advance(lost.StopLSN)
	drop(t, w.freeze().restored())
	drop(t, lost.restored())
}

func TestFailoverAndBackBringEverythingBack(t *testing.T) {
	w := unarchived(t, "15", still(map[string]string{"wal_keep_size": "128MB"}))
	w.table("one", "2000")
	w.table("two", "2000")
	row := []*moment{w.freeze()}
	b := w.NewStandby(t)
	b.ExtraEnv = w.env()
	b.Start(t)
	w.Exec(t, "UPDATE one SET n = -n WHERE n % 10 = 0")
	b.WaitQuery(t, "SELECT count(*) FROM one WHERE n < 0", "200", time.Minute)
	row = append(row, w.freeze())
	b.Exec(t, "SELECT pg_promote()")
	b.WaitPromoted(t)
	w.Exec(t, "UPDATE two SET n = -n WHERE n % 10 = 1") // which the other never gets
	row = append(row, w.freeze())
	b.Exec(t, "UPDATE two SET n = -n WHERE n % 10 = 2")
	row = append(row, w.freezeOf(b))
	b.Exec(t, "UPDATE one SET n = 5000 + n WHERE n % 10 = 3")
	row = append(row, w.freezeOf(b))
	b.Stop(t, pgtest.Fast)

	w.Stop(t, pgtest.Fast)
	pgtest.MustRun(t, w.Command("pg_rewind", "-D", w.Dir, "--source-pgdata", b.Dir, "--no-sync"))
	w.Configure(t, map[string]string{"primary_conninfo": ""})
	signal := filepath.Join(w.Dir, "standby.signal")
	if err := os.WriteFile(signal, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	pgtest.Own(t, signal)
	w.Start(t)
	w.Exec(t, "SELECT pg_promote()")
	w.WaitPromoted(t)
	w.Exec(t, "UPDATE two SET n = 5000 + n WHERE n % 10 = 4")
	row = append(row, w.freeze())
	w.Exec(t, "UPDATE one SET n = 5000 + n WHERE n % 10 = 5")
	row = append(row, w.freeze())
	for _, m := range row[2:] {
		drop(t, m.restored())
	}
}

// enableChecksums does what pg_checksums --enable does, which the packaged servers come without. No WAL tells of it.
func enableChecksums(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		if _, ok := pg.ParseRelPath(rel); !ok {
			return nil
		}
		b := read(t, path)
		for block := range len(b) / 8192 {
			if page := b[block*8192 : (block+1)*8192]; !pg.PageIsNew(page) {
				binary.LittleEndian.PutUint16(page[8:], pg.PageChecksum(page, uint32(block)))
			}
		}
		return os.WriteFile(path, b, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
	control := filepath.Join(dir, pg.ControlPath)
	b := read(t, control)
	const versionAt, crcAt = 252, 288 // of 17
	binary.LittleEndian.PutUint32(b[versionAt:], 1)
	binary.LittleEndian.PutUint32(b[crcAt:], crc32.Checksum(b[:crcAt], crc32.MakeTable(crc32.Castagnoli)))
	if _, err := pg.ParseControl(b); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(control, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestChecksumsThatWereSwitchedOnComeBack(t *testing.T) {
	for version, enable := range map[string]func(t *testing.T, w *world){
		"15": func(t *testing.T, w *world) {
			pgtest.MustRun(t, w.Command("pg_checksums", "--enable", "-D", w.Dir, "--no-sync"))
		},
		"17": func(t *testing.T, w *world) { enableChecksums(t, w.Dir) },
	} {
		t.Run("PostgreSQL"+version, func(t *testing.T) {
			o := still(summaryConf(version))
			o.NoChecksums = true
			w := unarchived(t, version, o)
			w.table("plain", "2000")
			w.freeze()
			w.stopped(func() { enable(t, w) })
			w.Exec(t, "CREATE TABLE later AS SELECT 1 AS n")
			m := w.freeze()
			if m.SkippedBlocks+m.SkippedFiles != 0 {
				t.Errorf("%d bytes were skipped", m.SkippedBlocks+m.SkippedFiles)
			}
			s := pgtest.Adopt(t, version, m.restored())
			s.Start(t)
			sameRows(t, s, "SELECT count(*), count(DISTINCT current_setting('data_checksums')) FROM plain", "2000|1")
			sameRows(t, s, "SHOW data_checksums", "on")
			s.Stop(t, pgtest.Immediate)
			drop(t, s.Dir)
		})
	}
}

// Times lag the clock: a file that was written just before the parent's start may be written again without getting another time.
func TestAFileThatWasWrittenJustBeforeTheParentIsReadAgain(t *testing.T) {
	w := unarchived(t, "15", still(nil))
	w.table("settled", "4000")
	fresh := w.table("fresh", "4000")
	w.Exec(t, "VACUUM")
	w.Exec(t, "CHECKPOINT")
	time.Sleep(settle)
	touch(t, fresh, time.Now())
	w.freeze()
	second := w.freeze()
	size := fileSize(t, fresh)
	if second.Read < size || second.Read > size*3/2 {
		t.Errorf("%d bytes were read; the file that must be has %d", second.Read, size)
	}
	drop(t, second.restored())
	time.Sleep(settle)
	w.freeze()
	if again := w.freeze(); again.Read > size/2 {
		t.Errorf("%d bytes were read, though nothing is fresh any more", again.Read)
	}

	// An older state of a file, put back in place with the time and the size that it had when the parent was taken: only the time
	// of the last change to its inode tells.
	old := read(t, fresh)
	w.Exec(t, "UPDATE fresh SET filler = repeat('y', 500) WHERE n % 2 = 0")
	w.Exec(t, "VACUUM fresh")
	w.Exec(t, "CHECKPOINT")
	time.Sleep(settle)
	w.freeze()
	w.stopped(func() {
		info, err := os.Stat(fresh)
		if err != nil {
			t.Fatal(err)
		}
		now := read(t, fresh)
		copy(now, old)
		overwrite(t, fresh, now)
		touch(t, fresh, info.ModTime())
	})
	m := w.freeze()
	if m.SkippedFiles == 0 {
		t.Error("nothing was skipped")
	}
	drop(t, m.restored())
}

// settle is how long after its last change a file's time is believed.
const settle = 2200 * time.Millisecond

func touch(t *testing.T, path string, at time.Time) {
	t.Helper()
	if err := os.Chtimes(path, at, at); err != nil {
		t.Fatal(err)
	}
}

func fileSize(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}
