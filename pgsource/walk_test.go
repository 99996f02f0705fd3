package pgsource_test

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sys/unix"

	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/pgsource"
	"github.com/pgtrove/pgtrove/snapshot"
	"github.com/pgtrove/pgtrove/test/pgtest"
)

// expect compares one entry of a listing: its type and link, "" for absent.
func expect(t *testing.T, files map[string]pgsource.File, path string, want snapshot.Type, link string) {
	t.Helper()
	f, ok := files[path]
	if !ok {
		t.Errorf("%s is not listed", path)
		return
	}
	if f.Entry.Type != want || f.Entry.Link != link {
		t.Errorf("%s is listed as %s with link %q, want %s with %q", path, f.Entry.Type, f.Entry.Link, want, link)
	}
}

func absent(t *testing.T, files map[string]pgsource.File, paths ...string) {
	t.Helper()
	for _, p := range paths {
		if _, ok := files[p]; ok {
			t.Errorf("%s is listed", p)
		}
	}
}

func children(files map[string]pgsource.File, dir string) []string {
	var found []string
	for p := range files {
		if strings.HasPrefix(p, dir+"/") {
			found = append(found, p)
		}
	}
	slices.Sort(found)
	return found
}

func TestListLeavesOutWhatPostgreSQLLeavesOut(t *testing.T) {
	eachVersion(t, func(t *testing.T, version string) {
		o := pgtest.Options{}
		if version < "15" { // later there is no such setting
			o.Conf = map[string]string{"stats_temp_directory": "stats_elsewhere"}
		}
		s := pgtest.New(t, version, o)
		write(t, filepath.Join(s.Dir, "stats_elsewhere", "global.stat"), "")
		pgtest.Own(t, s.Dir)
		s.Start(t)
		s.Exec(t, "CREATE UNLOGGED TABLE u AS SELECT generate_series(1, 1000) AS n; CREATE TABLE l AS SELECT 1 AS n")
		s.Exec(t, "VACUUM u")
		u, l := s.Query(t, "SELECT pg_relation_filepath('u')"), s.Query(t, "SELECT pg_relation_filepath('l')")
		base := filepath.Dir(u)
		temporary, err := s.Connect(t.Context(), "postgres")
		if err != nil {
			t.Fatal(err)
		}
		defer temporary.Close(t.Context())
		temp := query(t, temporary, "CREATE TEMP TABLE x AS SELECT 1 AS n; SELECT pg_relation_filepath('x')")

		outs := []string{
			"postmaster.opts", "backup_label", "tablespace_map", "backup_manifest", "postgresql.auto.conf.tmp", "current_logfiles.tmp",
			"backup_label.old", "tablespace_map.old", "pgtrove.last", "pgtrove.gaps", "pgtrove-unarchived-wal", "global/pg_internal.init", "global/pg_internal.init.123",
			base + "/pg_internal.init", "base/pgsql_tmp/pgsql_tmp99.0", "pg_replslot/slot/state", "pg_dynshmem/mmap.1", "pg_notify/9999",
			"pg_serial/9999", "pg_snapshots/9", "pg_stat_tmp/x.stat", "pg_subtrans/9999", "pg_wal/archive_status/x.ready", ".DS_Store",
			"base/pgsql_tmp/pgsql_tmp1.sharedfileset/0.0",
		}
		for _, path := range outs {
			if path != "postmaster.opts" {
				write(t, filepath.Join(s.Dir, path), "")
			}
		}
		ins := []string{"current_logfiles", "mine.txt", "log/postgresql.log", base + "/mine", "pg_stat/x", "pg_xact/0000", "PG_VERSION",
			"global/pg_control", "global/pg_filenode.map", "postgresql.conf", "postgresql.auto.conf", "pg_hba.conf", l, u + "_init", "base/1/PG_VERSION"}
		for _, path := range []string{"current_logfiles", "mine.txt", "log/postgresql.log", base + "/mine", "pg_stat/x"} {
			write(t, filepath.Join(s.Dir, path), "")
		}
		pgtest.Own(t, s.Dir)

		files := list(t, start(t, connect(t, s)))
		for _, p := range outs {
			absent(t, files, "data/"+p)
		}
		absent(t, files, "data/postmaster.pid", "data/"+u, "data/"+u+"_fsm", "data/"+u+"_vm", "data/"+temp, "data/base/pgsql_tmp")
		if _, err := os.Lstat(filepath.Join(s.Dir, temp)); err != nil {
			t.Errorf("the temporary table is not there: %v", err)
		}
		for _, p := range ins {
			expect(t, files, "data/"+p, snapshot.File, "")
		}
		dirs := []string{"data", "data/pg_wal", "data/pg_replslot", "data/pg_dynshmem", "data/pg_notify", "data/pg_serial",
			"data/pg_snapshots", "data/pg_stat_tmp", "data/pg_subtrans", "data/pg_tblspc", "data/pg_twophase", "data/base/1"}
		if version < "15" {
			dirs = append(dirs, "data/stats_elsewhere")
		}
		for _, d := range dirs {
			expect(t, files, d, snapshot.Dir, "")
			if d != "data" && d != "data/base/1" && len(children(files, d)) > 0 {
				t.Errorf("%s holds %s", d, children(files, d))
			}
		}
		if got := children(files, "config"); got != nil {
			t.Errorf("configuration elsewhere: %s", got)
		}
		describesFiles(t, files, s, l)
	})
}

// query runs statements on a connection and returns the last cell.
func query(t *testing.T, conn *pgconn.PgConn, sql string) string {
	t.Helper()
	results, err := conn.Exec(t.Context(), sql).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	rows := results[len(results)-1].Rows
	return string(rows[len(rows)-1][0])
}

// describesFiles compares an entry with the file system.
func describesFiles(t *testing.T, files map[string]pgsource.File, s *pgtest.Server, rel string) {
	t.Helper()
	f := files["data/"+rel]
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(s.Dir, rel), &st); err != nil {
		t.Fatal(err)
	}
	want := snapshot.Stat{ModTime: st.Mtim.Nano(), ChangeTime: st.Ctim.Nano(), Device: uint64(st.Dev), Inode: st.Ino}
	if f.Entry.Stat != want || f.Entry.Size != st.Size || f.Entry.Mode != 0o600 {
		t.Errorf("%s: %+v", rel, f.Entry)
	}
	if f.Entry.Owner.UID != st.Uid || f.Entry.Owner.GID != st.Gid || f.Entry.Owner.User == "" || f.Entry.Owner.Group == "" {
		t.Errorf("%s: owner %+v", rel, f.Entry.Owner)
	}
	if !f.Relation || f.FirstBlock != 0 || f.Control {
		t.Errorf("%s: %+v", rel, f)
	}
	if m := files["data/pg_xact/0000"]; m.Relation || m.Entry.Size == 0 {
		t.Errorf("pg_xact: %+v", m)
	}
	if m := files["data/base/1/1259_fsm"]; !m.Relation || m.Fork != pg.ForkFSM {
		t.Errorf("fsm: %+v", m)
	}
	if !files["data/global/pg_control"].Control {
		t.Error("pg_control is not marked")
	}
}

func TestListCountsBlocksThroughSegments(t *testing.T) {
	s := running(t, "15", pgtest.Options{})
	s.Exec(t, "CREATE TABLE l AS SELECT 1 AS n")
	path := s.Query(t, "SELECT pg_relation_filepath('l')")
	write(t, filepath.Join(s.Dir, path+".2"), "")
	write(t, filepath.Join(s.Dir, path+"_fsm.1"), "")
	pgtest.Own(t, s.Dir)
	files := list(t, start(t, connect(t, s)))
	if got := files["data/"+path+".2"].FirstBlock; got != 2*131072 {
		t.Errorf("segment 2 begins with block %d", got)
	}
	if got := files["data/"+path+"_fsm.1"]; got.FirstBlock != 131072 || got.Fork != pg.ForkFSM {
		t.Errorf("segment 1 of the free space map: %+v", got)
	}
}

func TestListFollowsTablespaces(t *testing.T) {
	eachVersion(t, func(t *testing.T, version string) {
		s := running(t, version, pgtest.Options{})
		outside, inside := filepath.Join(pgtest.TempDir(t), "outside"), filepath.Join(s.Dir, "inside")
		write(t, filepath.Join(outside, "stranger"), "")
		write(t, filepath.Join(outside, "PG_12_201909212", "1", "1"), "")
		if err := os.Mkdir(inside, 0o700); err != nil {
			t.Fatal(err)
		}
		pgtest.Own(t, outside, inside)
		for name, dir := range map[string]string{"outs": outside, "ins": inside} {
			s.Exec(t, "CREATE TABLESPACE "+name+" LOCATION '"+dir+"'")
			s.Exec(t, "CREATE TABLE t_"+name+" (n int) TABLESPACE "+name)
		}
		if err := os.Chmod(outside, 0o750); err != nil { // CREATE TABLESPACE made it 0700
			t.Fatal(err)
		}
		write(t, filepath.Join(inside, "mine"), "")
		pgtest.Own(t, inside)
		inPlace := version >= "15"
		if inPlace {
			s.Exec(t, "ALTER SYSTEM SET allow_in_place_tablespaces = on")
			s.Reload(t)
			s.WaitQuery(t, "SHOW allow_in_place_tablespaces", "on", startTimeout)
			s.Exec(t, "CREATE TABLESPACE place LOCATION ''")
			s.Exec(t, "CREATE TABLE t_place (n int) TABLESPACE place")
		}
		oid := func(name string) string {
			return "data/pg_tblspc/" + s.Query(t, "SELECT oid FROM pg_tablespace WHERE spcname = '"+name+"'")
		}
		path := func(name string) string { return "data/" + s.Query(t, "SELECT pg_relation_filepath('t_"+name+"')") }

		files := list(t, start(t, connect(t, s)))
		expect(t, files, oid("outs"), snapshot.Tablespace, outside)
		expect(t, files, oid("ins"), snapshot.Tablespace, inside)
		if got := files[oid("outs")].Entry.Mode; got != 0o750 {
			t.Errorf("mode of the tablespace is %o", got)
		}
		expect(t, files, path("outs"), snapshot.File, "")
		expect(t, files, path("ins"), snapshot.File, "")
		if !files[path("outs")].Relation {
			t.Error("a table outside is no relation")
		}
		absent(t, files, oid("outs")+"/stranger", oid("outs")+"/PG_12_201909212", oid("ins")+"/mine")
		expect(t, files, "data/inside", snapshot.Dir, "")
		expect(t, files, "data/inside/mine", snapshot.File, "")
		if got := children(files, "data/inside"); len(got) != 1 {
			t.Errorf("the tablespace inside is listed twice: %s", got)
		}
		if inPlace {
			expect(t, files, oid("place"), snapshot.Dir, "")
			expect(t, files, path("place"), snapshot.File, "")
		}
	})
}

func TestListFollowsLinks(t *testing.T) {
	eachVersion(t, func(t *testing.T, version string) {
		s := pgtest.New(t, version, pgtest.Options{})
		elsewhere := pgtest.TempDir(t)
		move := func(name string) {
			t.Helper()
			if err := os.Rename(filepath.Join(s.Dir, name), filepath.Join(elsewhere, name)); err != nil {
				t.Fatal(err)
			}
			symlink(t, filepath.Join(elsewhere, name), filepath.Join(s.Dir, name))
		}
		for _, name := range []string{"pg_wal", "pg_xact", "pg_stat_tmp", "pg_hba.conf", "base"} {
			move(name)
		}
		write(t, filepath.Join(elsewhere, "certificate"), "")
		write(t, filepath.Join(s.Dir, "mine", "file"), "")
		links := map[string]string{
			"server.crt":     filepath.Join(elsewhere, "certificate"),
			"nowhere":        filepath.Join(elsewhere, "nothing"),
			"loop":           "loop",
			"to_mine":        filepath.Join(s.Dir, "mine"),
			"mine/to_conf":   "../postgresql.conf",
			"mine/abs_conf":  filepath.Join(s.Dir, "postgresql.conf"),
			"parent":         "..",
			"self":           ".",
			"null":           "/dev/null",
			"mine/elsewhere": elsewhere,
		}
		for name, target := range links {
			symlink(t, target, filepath.Join(s.Dir, name))
		}
		symlink(t, elsewhere, filepath.Join(elsewhere, "circle"))
		pgtest.Own(t, s.Dir, elsewhere)
		s.Start(t)
		files := list(t, start(t, connect(t, s)))

		at := func(name string) string { return filepath.Join(elsewhere, name) }
		expect(t, files, "data/pg_wal", snapshot.Dir, at("pg_wal"))
		expect(t, files, "data/pg_stat_tmp", snapshot.Dir, at("pg_stat_tmp"))
		if got := append(children(files, "data/pg_wal"), children(files, "data/pg_stat_tmp")...); got != nil {
			t.Errorf("listed: %s", got)
		}
		expect(t, files, "data/pg_xact", snapshot.Dir, at("pg_xact"))
		expect(t, files, "data/pg_xact/0000", snapshot.File, "")
		expect(t, files, "data/base", snapshot.Dir, at("base"))
		expect(t, files, "data/base/1/1259", snapshot.File, "")
		if !files["data/base/1/1259"].Relation {
			t.Error("a table behind a link is no relation")
		}
		expect(t, files, "data/pg_hba.conf", snapshot.File, at("pg_hba.conf"))
		expect(t, files, "data/server.crt", snapshot.File, at("certificate"))
		expect(t, files, "data/nowhere", snapshot.Symlink, at("nothing"))
		expect(t, files, "data/loop", snapshot.Symlink, "loop")
		expect(t, files, "data/to_mine", snapshot.Symlink, "mine")
		expect(t, files, "data/mine/to_conf", snapshot.Symlink, "../postgresql.conf")
		expect(t, files, "data/mine/abs_conf", snapshot.Symlink, "../postgresql.conf")
		expect(t, files, "data/parent", snapshot.Symlink, "..")
		expect(t, files, "data/self", snapshot.Symlink, ".")
		expect(t, files, "data/mine/elsewhere", snapshot.Dir, elsewhere)
		expect(t, files, "data/mine/elsewhere/certificate", snapshot.File, "")
		expect(t, files, "data/mine/elsewhere/circle", snapshot.Symlink, elsewhere)
		absent(t, files, "data/null")
	})
}

func TestListTellsOfSpecialFiles(t *testing.T) {
	s := running(t, "15", pgtest.Options{})
	socket, err := net.Listen("unix", filepath.Join(s.Dir, "socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	if err := unix.Mkfifo(filepath.Join(s.Dir, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	skipped := make(map[string]string)
	c, err := pgsource.Connect(t.Context(), pgsource.Options{DSN: s.DSN(), Events: pgsource.Events{
		Skipped: func(path, why string) { skipped[filepath.Base(path)] = why },
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(t.Context())
	absent(t, list(t, start(t, c)), "data/socket", "data/pipe")
	if skipped["socket"] != "socket" || skipped["pipe"] != "pipe" {
		t.Errorf("told of %v", skipped)
	}
}

func TestFilesComeGoAndChange(t *testing.T) {
	s := running(t, "15", pgtest.Options{})
	for _, name := range []string{"gone", "grown", "shrunk"} {
		write(t, filepath.Join(s.Dir, name), strings.Repeat("x", 100))
	}
	write(t, filepath.Join(s.Dir, "emptied", "file"), "")
	pgtest.Own(t, s.Dir)
	files := list(t, start(t, connect(t, s)))

	gone := files["data/gone"]
	if err := os.Remove(gone.Disk); err != nil {
		t.Fatal(err)
	}
	if _, err := gone.Open(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("gone: %v", err)
	}
	read := func(name string, change func(path string)) string {
		t.Helper()
		f := files["data/"+name]
		content, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		defer content.Close()
		change(f.Disk)
		if size, err := content.Size(); size != 100 || err != nil {
			t.Errorf("%s: size %d, %v", name, size, err)
		}
		buf := make([]byte, 300)
		n, err := content.ReadAt(buf, 0)
		if err == nil || err.Error() != "EOF" {
			t.Errorf("%s: read %d: %v", name, n, err)
		}
		return string(buf[:n])
	}
	grown := read("grown", func(path string) { write(t, path, strings.Repeat("y", 200)) })
	if grown != strings.Repeat("y", 100) {
		t.Errorf("grown: %q", grown)
	}
	shrunk := read("shrunk", func(path string) { write(t, path, "z") })
	if shrunk != "z" {
		t.Errorf("shrunk: %q", shrunk)
	}
}

func TestListUnderChangingDatabases(t *testing.T) {
	s := running(t, "15", pgtest.Options{})
	b := start(t, connect(t, s))
	done := make(chan error)
	go func() {
		var err error
		for range 6 {
			if _, e := s.QueryErr(t.Context(), "postgres", "CREATE DATABASE coming"); e != nil {
				err = e
			}
			if _, e := s.QueryErr(t.Context(), "postgres", "DROP DATABASE coming"); e != nil {
				err = e
			}
		}
		done <- err
	}()
	for n := 0; ; n++ {
		select {
		case err := <-done:
			if err != nil || n == 0 {
				t.Errorf("%d listings, %v", n, err)
			}
			return
		default:
		}
		if _, err := b.Files(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}
