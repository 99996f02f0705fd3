package pgsource_test

import (
	"path/filepath"
	"slices"
	"testing"

	"github.com/pgtrove/pgtrove/pgsource"
	"github.com/pgtrove/pgtrove/snapshot"
	"github.com/pgtrove/pgtrove/test/pgtest"
)

// debian moves a server's configuration to where Debian has it, and says what the directory and a second one hold.
func debian(t *testing.T, s *pgtest.Server) (etc, far string) {
	t.Helper()
	etc, far = filepath.Join(pgtest.TempDir(t), "etc"), filepath.Join(pgtest.TempDir(t), "far")
	write(t, filepath.Join(etc, "postgresql.conf"), "data_directory = '"+s.Dir+"'\nhba_file = '"+etc+"/pg_hba.conf'\n"+
		"ident_file = '"+etc+"/pg_ident.conf'\ninclude_dir 'conf.d'\nInclude_If_Exists = 'missing.conf'\n# include 'comment.conf'\n"+
		"include '"+far+"/postgresql.conf' # the shared one\nport = 1\nmax_connections = 20\n")
	write(t, filepath.Join(etc, "conf.d", "10-memory.conf"), "work_mem = '5MB'\ninclude 'deep/it''s.conf'\n")
	write(t, filepath.Join(etc, "conf.d", "deep", "it's.conf"), "# nothing set\n")
	write(t, filepath.Join(etc, "conf.d", "off.conf.disabled"), "")
	write(t, filepath.Join(etc, "conf.d", ".hidden.conf"), "")
	write(t, filepath.Join(etc, "comment.conf"), "")
	write(t, filepath.Join(etc, "start.conf"), "auto\n")
	write(t, filepath.Join(etc, "environment"), "")
	write(t, filepath.Join(far, "postgresql.conf"), "maintenance_work_mem = '33MB'\n")
	write(t, filepath.Join(etc, "pg_hba.conf"), "local all all trust\nhost @dbs,postgres \"@quoted\" 127.0.0.1/32 trust # @comment\n")
	write(t, filepath.Join(etc, "dbs"), "one two @more\n")
	write(t, filepath.Join(etc, "more"), "three\n")
	write(t, filepath.Join(etc, "pg_ident.conf"), "")
	pgtest.Own(t, etc, far)
	s.Args = []string{"-c", "config_file=" + filepath.Join(etc, "postgresql.conf")}
	return etc, far
}

func TestConfigurationElsewhereIsListed(t *testing.T) {
	eachVersion(t, func(t *testing.T, version string) {
		s := pgtest.New(t, version, pgtest.Options{})
		etc, far := debian(t, s)
		if version >= "16" {
			write(t, filepath.Join(etc, "pg_ident.conf"), "include_dir \"ident d\"\ninclude_if_exists nothing\n")
			write(t, filepath.Join(etc, "ident d", "a.conf"), "")
			pgtest.Own(t, etc)
		}
		s.Start(t)
		files := list(t, start(t, connect(t, s)))
		want := map[string]string{
			"config/conf.d/10-memory.conf":      etc + "/conf.d/10-memory.conf",
			"config/conf.d/deep/it's.conf":      etc + "/conf.d/deep/it's.conf",
			"config/dbs":                        etc + "/dbs",
			"config/environment":                etc + "/environment",
			"config/more":                       etc + "/more",
			"config/pg_hba.conf":                etc + "/pg_hba.conf",
			"config/pg_ident.conf":              etc + "/pg_ident.conf",
			"config/postgresql.conf":            etc + "/postgresql.conf",
			"config/start.conf":                 etc + "/start.conf",
			"config" + far + "/postgresql.conf": far + "/postgresql.conf",
		}
		if version >= "16" {
			want["config/ident d/a.conf"] = etc + "/ident d/a.conf"
		}
		for path, link := range want {
			expect(t, files, path, snapshot.File, link)
		}
		expect(t, files, "config", snapshot.Dir, etc)
		expect(t, files, "config/conf.d", snapshot.Dir, etc+"/conf.d")
		expect(t, files, "config/conf.d/deep", snapshot.Dir, etc+"/conf.d/deep")
		expect(t, files, filepath.Dir("config"+far), snapshot.Dir, "")
		for _, p := range children(files, "config") {
			if _, ok := want[p]; !ok && files[p].Entry.Type != snapshot.Dir {
				t.Errorf("%s is listed", p)
			}
		}
		expect(t, files, "data/postgresql.conf", snapshot.File, "") // initdb's, not in use
		if f := files["config/start.conf"]; f.Entry.Size != 5 || f.Disk != etc+"/start.conf" || f.Relation {
			t.Errorf("%+v", f)
		}
	})
}

func TestConfigurationInsideIsListedOnce(t *testing.T) {
	s := pgtest.New(t, "15", pgtest.Options{Conf: map[string]string{"include_dir": "conf.d"}})
	s.Configure(t, map[string]string{"hba_file": filepath.Join(s.Dir, "conf.d", "hba")})
	far := filepath.Join(pgtest.TempDir(t), "far.conf")
	write(t, filepath.Join(s.Dir, "conf.d", "a.conf"), "include '"+far+"'\n")
	write(t, filepath.Join(s.Dir, "conf.d", "hba"), "local all all trust\n")
	write(t, far, "work_mem = '5MB'\n")
	pgtest.Own(t, s.Dir, far)
	s.Start(t)
	files := list(t, start(t, connect(t, s)))
	expect(t, files, "data/conf.d/a.conf", snapshot.File, "")
	expect(t, files, "data/conf.d/hba", snapshot.File, "")
	expect(t, files, "config/far.conf", snapshot.File, far)
	if got := children(files, "config"); !slices.Equal(got, []string{"config/far.conf"}) {
		t.Errorf("%s", got)
	}
}

func TestSessionsFindTheirSettingsWithoutASearchPath(t *testing.T) {
	s := running(t, "15", pgtest.Options{})
	// Somebody's own functions and views of the same names come first for other sessions.
	s.Exec(t, "CREATE SCHEMA evil; CREATE FUNCTION evil.pg_is_in_recovery() RETURNS boolean RETURN true; "+
		"CREATE VIEW evil.pg_stat_archiver AS SELECT 1 AS x; ALTER ROLE postgres SET search_path = evil, pg_catalog")
	c, err := pgsource.Connect(t.Context(), pgsource.Options{DSN: s.DSN()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(t.Context())
	if c.Info().InRecovery {
		t.Error("another function was called")
	}
	if _, err := c.ArchiverStatus(t.Context()); err != nil {
		t.Error(err)
	}
}
