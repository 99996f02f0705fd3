package pgsource_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pgtrove/pgtrove/pgsource"
	"github.com/pgtrove/pgtrove/test/pgtest"
)

func TestLeastPrivilege(t *testing.T) {
	eachVersion(t, func(t *testing.T, version string) {
		s := running(t, version, pgtest.Options{})
		s.Exec(t, `CREATE ROLE "back up" LOGIN`)
		functions := []string{"pg_backup_start(text, boolean)", "pg_backup_stop(boolean)"}
		if version < "15" {
			functions = []string{"pg_start_backup(text, boolean, boolean)", "pg_stop_backup(boolean, boolean)"}
		}
		grants := []string{`GRANT pg_read_all_settings TO "back up";`}
		for _, f := range functions {
			grants = append(grants, `GRANT EXECUTE ON FUNCTION pg_catalog.`+f+` TO "back up";`)
		}
		dsn := strings.ReplaceAll(s.DSN(), "user=postgres", "user='back up'")
		missing := func() []string {
			t.Helper()
			c, err := pgsource.Connect(t.Context(), pgsource.Options{DSN: dsn})
			var lacks *pgsource.PrivilegeError
			if errors.As(err, &lacks) {
				if lacks.Role != "back up" || lacks.Database != "postgres" {
					t.Errorf("%+v", lacks)
				}
				return lacks.Missing
			}
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close(t.Context())
			stop(t, start(t, c))
			return nil
		}
		if got := missing(); !slices.Equal(got, grants) {
			t.Errorf("without grants: missing %q, want %q", got, grants)
		}
		for i, grant := range grants {
			s.Exec(t, grant)
			if got, want := missing(), grants[i+1:]; !slices.Equal(got, want) {
				t.Errorf("after %s: missing %q, want %q", grant, got, want)
			}
		}
		for _, f := range []string{"pg_control_system()", "pg_snapshot_xmax(pg_snapshot)"} { // taken from PUBLIC by somebody careful
			s.Exec(t, "REVOKE EXECUTE ON FUNCTION "+f+" FROM PUBLIC")
			want := []string{`GRANT EXECUTE ON FUNCTION pg_catalog.` + f + ` TO "back up";`}
			if got := missing(); !slices.Equal(got, want) {
				t.Errorf("without %s: missing %q, want %q", f, got, want)
			}
			s.Exec(t, want[0])
		}
		for i, grant := range grants { // each alone
			s.Exec(t, strings.NewReplacer("GRANT", "REVOKE", " TO ", " FROM ").Replace(grant))
			if got := missing(); !slices.Equal(got, grants[i:i+1]) {
				t.Errorf("without %s: missing %q", grant, got)
			}
			s.Exec(t, grant)
		}
		if got := missing(); got != nil {
			t.Errorf("with all grants: missing %q", got)
		}
		switchesWithGrant(t, s, dsn)
	})
}

func switchesWithGrant(t *testing.T, s *pgtest.Server, dsn string) {
	t.Helper()
	c, err := pgsource.Connect(t.Context(), pgsource.Options{DSN: dsn})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(t.Context())
	_, err = c.ForceSegment(t.Context())
	var lacks *pgsource.PrivilegeError
	if !errors.As(err, &lacks) || len(lacks.Missing) != 1 {
		t.Fatalf("switch without grant: %v", err)
	}
	s.Exec(t, lacks.Missing[0])
	first, err := c.ForceSegment(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if data, err := c.WALSegment(t.Context(), first); err != nil || len(data) != int(c.Info().Layout.WALSegmentSize) {
		t.Errorf("segment after the switch: %d bytes, %v", len(data), err)
	}
	if second, err := c.ForceSegment(t.Context()); err != nil || second != first.Next() { // though nobody wrote anything
		t.Errorf("%v after %v: %v", second, first, err)
	}
}

func TestInfoIsWhatTheServerSays(t *testing.T) {
	eachVersion(t, func(t *testing.T, version string) {
		s := running(t, version, pgtest.Options{WALSegMB: 4, NoChecksums: true, Conf: map[string]string{
			"archive_mode": "on", "archive_command": "true"}})
		c := connect(t, s)
		i := c.Info()
		got := fmt.Sprintf("%d|%s|%d|%d|%d|%t|%s|%s|%s|%s", i.Version, i.SystemID, i.Layout.BlockSize, i.Layout.WALBlockSize,
			i.Layout.WALSegmentSize, i.Layout.Checksums, i.DataDirectory, i.Config.HBA, i.WAL.Level, i.WAL.ArchiveCommand)
		want := s.Query(t, `SELECT current_setting('server_version_num'), system_identifier, current_setting('block_size'),
			current_setting('wal_block_size'), 4 << 20, 'false', current_setting('data_directory'), current_setting('hba_file'),
			current_setting('wal_level'), 'true' FROM pg_control_system()`)
		if got != want {
			t.Errorf("%s, want %s", got, want)
		}
		if i.Layout.RelSegSize != 131072 || fmt.Sprint(i.Major()) != version || i.InRecovery || !i.Archives() || i.Timeline != 1 {
			t.Errorf("%+v", i)
		}
		if c.DataDir() != s.Dir || c.Server().VersionString() == "" {
			t.Errorf("%s, %+v", c.DataDir(), c.Server())
		}
	})
}

func TestArchiveModeOffIsNoArchive(t *testing.T) {
	s := running(t, "15", pgtest.Options{Conf: map[string]string{"archive_command": "true"}})
	if i := connect(t, s).Info(); i.Archives() || i.WAL.ArchiveCommand != "" || i.WAL.ArchiveMode != "off" {
		t.Errorf("%+v", i.WAL)
	}
}

func TestUnreachableAndRejectedAreToldApart(t *testing.T) {
	s := running(t, "15", pgtest.Options{})
	s.Exec(t, "CREATE ROLE nologin; CREATE ROLE locked LOGIN PASSWORD 'x'")
	hba := filepath.Join(s.Dir, "pg_hba.conf")
	text, err := os.ReadFile(hba)
	if err != nil {
		t.Fatal(err)
	}
	write(t, hba, "local all locked scram-sha-256\nlocal all closed reject\n"+string(text))
	pgtest.Own(t, hba)
	s.Reload(t)
	as := func(user string) string { return strings.ReplaceAll(s.DSN(), "user=postgres", "user="+user) }
	eventually(t, "rejected", func() bool {
		_, err := pgsource.Connect(t.Context(), pgsource.Options{DSN: as("closed")})
		return errors.Is(err, pgsource.ErrRejected)
	})
	cases := map[string]struct {
		dsn  string
		want error
	}{
		"nobody there":     {"host=" + pgtest.TempDir(t) + " port=1 user=postgres", pgsource.ErrUnreachable},
		"no such role":     {as("nobody"), pgsource.ErrRejected},
		"role may not":     {as("nologin"), pgsource.ErrRejected},
		"wrong password":   {as("locked") + " password=secret", pgsource.ErrRejected},
		"no such database": {strings.ReplaceAll(s.DSN(), "dbname=postgres", "dbname=nothing"), pgsource.ErrSettings},
		"no number":        {"port=x password=secret", pgsource.ErrSettings},
		"no string":        {"postgres://user:secret@host:port/", pgsource.ErrSettings},
	}
	for name, c := range cases {
		_, err := pgsource.Connect(t.Context(), pgsource.Options{DSN: c.dsn})
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: the password is in %q", name, err)
		}
	}
}

func TestOnlyTheServersOwnDirectoryIsAccepted(t *testing.T) {
	s := running(t, "15", pgtest.Options{})
	standby := s.NewStandby(t)
	standby.Start(t)
	other, younger := running(t, "15", pgtest.Options{}), pgtest.New(t, "16", pgtest.Options{})
	dir := pgtest.TempDir(t)
	copied := filepath.Join(dir, "copied")
	if out, err := exec.Command("cp", "-a", s.Dir, copied).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	noPid := filepath.Join(dir, "no_pid")
	if out, err := exec.Command("cp", "-a", copied, noPid).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := os.Remove(filepath.Join(noPid, "postmaster.pid")); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	symlink(t, s.Dir, link)
	empty, file := filepath.Join(dir, "empty"), filepath.Join(dir, "file")
	write(t, filepath.Join(empty, "x"), "")
	write(t, file, "")

	for dir, want := range map[string]error{
		other.Dir:                       pgsource.ErrForeign,
		younger.Dir:                     pgsource.ErrForeign,
		standby.Dir:                     pgsource.ErrForeign,
		noPid:                           pgsource.ErrForeign,
		empty:                           pgsource.ErrNotDataDir,
		filepath.Join(dir, "missing"):   fs.ErrNotExist,
		filepath.Join(s.Dir, "base"):    pgsource.ErrNotDataDir,
		filepath.Join(s.Dir, "base/1"):  pgsource.ErrNotDataDir,
		filepath.Join(s.Dir, "pg_xact"): pgsource.ErrNotDataDir,
	} {
		_, err := pgsource.Connect(t.Context(), pgsource.Options{DSN: s.DSN(), DataDir: dir})
		var wrong *pgsource.DataDirError
		if !errors.Is(err, want) || !errors.As(err, &wrong) || wrong.Dir != dir || wrong.FromServer {
			t.Errorf("%s: %v, want %v", dir, err, want)
		}
	}
	var wrong *pgsource.DataDirError
	if _, err := pgsource.Connect(t.Context(), pgsource.Options{DSN: s.DSN(), DataDir: file}); !errors.As(err, &wrong) {
		t.Errorf("a file: %v", err)
	}
	// A copy that was made a moment ago cannot be told apart until the server writes its control file.
	c, err := pgsource.Connect(t.Context(), pgsource.Options{DSN: s.DSN(), DataDir: copied})
	if err == nil {
		_, err = c.Start(t.Context(), "copy", true)
	}
	if !errors.Is(err, pgsource.ErrForeign) {
		t.Errorf("a copy: %v", err)
	}
	c, err = pgsource.Connect(t.Context(), pgsource.Options{DSN: s.DSN(), DataDir: link})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(t.Context())
	if c.DataDir() != s.Dir {
		t.Errorf("through a link: %s", c.DataDir())
	}
}

func TestBackupFromTheLibpqEnvironment(t *testing.T) {
	s := running(t, "15", pgtest.Options{})
	for _, v := range s.Env() {
		if name, value, _ := strings.Cut(v, "="); strings.HasPrefix(name, "PG") {
			t.Setenv(name, value)
		}
	}
	c, err := pgsource.Connect(t.Context(), pgsource.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(t.Context())
	stop(t, start(t, c))
}

// unprivileged is set for the program that TestUnreadableFilesAreNamed starts as the user that runs the servers: root reads everything.
const unprivileged = "PGSOURCE_TEST_UNPRIVILEGED"

func TestUnreadableFilesAreNamed(t *testing.T) {
	if dsn := os.Getenv(unprivileged); dsn != "" {
		unreadable(t, dsn)
		return
	}
	s := running(t, "15", pgtest.Options{})
	write(t, filepath.Join(s.Dir, "closed"), "")
	pgtest.Own(t, s.Dir)
	self := filepath.Join(pgtest.TempDir(t), "test")
	if err := exec.Command("cp", os.Args[0], self).Run(); err != nil {
		t.Fatal(err)
	}
	pgtest.Own(t, self)
	cmd := s.Command(self, "-test.run=^TestUnreadableFilesAreNamed$", "-test.v")
	cmd.Env = append(cmd.Env, unprivileged+"="+s.DSN())
	if r := pgtest.Run(t, cmd); r.Code != 0 || !strings.Contains(r.Stdout, "--- PASS: TestUnreadableFilesAreNamed") {
		t.Errorf("exit code %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
}

func unreadable(t *testing.T, dsn string) {
	closed := func(path string) {
		t.Helper()
		info, err := os.Stat(path)
		if err == nil {
			err = os.Chmod(path, 0)
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.Chmod(path, info.Mode()) })
	}
	names := func(what string, err error, path string) {
		t.Helper()
		if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", what, err)
		}
	}
	c, err := pgsource.Connect(t.Context(), pgsource.Options{DSN: dsn})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(t.Context())
	b := start(t, c)
	file := filepath.Join(c.DataDir(), "closed")
	closed(file)
	f := list(t, b)["data/closed"]
	_, err = f.Open()
	names("a file", err, file)

	dir := filepath.Join(c.DataDir(), "base", "1")
	closed(dir)
	_, err = b.Files(t.Context())
	names("a directory", err, dir)

	other := filepath.Join(os.Getenv("HOME"), "other")
	write(t, filepath.Join(other, "PG_VERSION"), "15\n")
	closed(other)
	_, err = pgsource.Connect(t.Context(), pgsource.Options{DSN: dsn, DataDir: other})
	names("the data directory", err, other)
	var wrong *pgsource.DataDirError
	if !errors.As(err, &wrong) || wrong.FromServer {
		t.Errorf("the data directory: %v", err)
	}
}
