package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/restore"
)

func TestTimesAreReadAsPostgreSQLAndRFC3339WriteThem(t *testing.T) {
	want := time.Date(2026, 5, 4, 12, 30, 1, 250000000, time.UTC)
	for _, text := range []string{
		"2026-05-04T12:30:01.25Z", "2026-05-04 12:30:01.25+00", "2026-05-04 12:30:01.250000+00:00", "2026-05-04 14:30:01.25+02",
		"2026-05-04T18:00:01.25+05:30", "2026-05-04 08:30:01.25-0400", "2026-05-04 12:30:01.25 UTC", "2026-05-04 14:30:01.25 +02:00",
		" 2026-05-04 12:30:01.25Z ",
	} {
		if got, err := parseTime(text); err != nil || !got.Equal(want) {
			t.Errorf("%q is %v, %v", text, got, err)
		}
	}
	if got, err := parseTime("2026-05-04 12:30Z"); err != nil || !got.Equal(want.Truncate(time.Minute)) {
		t.Errorf("without seconds: %v, %v", got, err)
	}
	for text, reason := range map[string]string{
		"2026-05-04 12:30:01": "no time zone", "2026-05-04 12:30": "no time zone", "12:30:01Z": "give a time", "tomorrow": "give a time",
		"2026-13-04 12:30:01Z": "give a time", "2026-05-04": "give a time", "1777897801": "give a time",
	} {
		if got, err := parseTime(text); err == nil || !strings.Contains(err.Error(), reason) {
			t.Errorf("%q is %v, %v; want an error that says %q", text, got, err, reason)
		}
	}
}

func TestTargetFlagsNameOneTarget(t *testing.T) {
	for _, c := range []struct {
		flags targetFlags
		want  restore.Target
	}{
		{targetFlags{}, restore.Target{}},
		{targetFlags{lsn: "1/2A", exclusive: true}, restore.Target{Kind: restore.AtLSN, LSN: 0x10000002A, Exclusive: true}},
		{targetFlags{xid: "4294967999"}, restore.Target{Kind: restore.AtXID, XID: 4294967999}},
		{targetFlags{name: "before"}, restore.Target{Kind: restore.AtName, Name: "before"}},
		{targetFlags{immediate: true, action: "shutdown", timeline: "2"}, restore.Target{Kind: restore.Immediate, Timeline: restore.TimelineGoal{Number: 2}}},
	} {
		got, action, err := c.flags.parse()
		if err != nil || got != c.want || string(action) != c.flags.action {
			t.Errorf("%+v: %+v, %q, %v", c.flags, got, action, err)
		}
	}
}

func TestTablespaceMappingsMayHoldEqualsSigns(t *testing.T) {
	for text, want := range map[string][2]string{
		"/a=/b": {"/a", "/b"}, "16400=/b": {"16400", "/b"}, `/a\=1=/b\=2`: {"/a=1", "/b=2"}, "/a b=/c d": {"/a b", "/c d"},
	} {
		from, to, ok := cutTablespace(text)
		if !ok || from != want[0] || to != want[1] {
			t.Errorf("%q: %q to %q, %v", text, from, to, ok)
		}
	}
	for _, text := range []string{"", "/a", "=/b", "/a=", "/a=/b=/c"} {
		if from, to, ok := cutTablespace(text); ok {
			t.Errorf("%q: %q to %q", text, from, to)
		}
	}
}

func TestRestoreCommandNeedsNothingOfTheEnvironment(t *testing.T) {
	t.Chdir(t.TempDir())
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		set  settings
		env  map[string]string
		want []string
	}{
		{"relative paths", settings{Repo: "my repo", KeyFile: "key", Config: "conf.toml"}, nil,
			[]string{"--repo", dir + "/my repo", "--cluster", "main", "--config", dir + "/conf.toml", "--key-file", dir + "/key"}},
		{"passphrase", settings{Repo: "/r", PasswordFile: "pass"}, map[string]string{"HOME": "/home/joe"},
			[]string{"--repo", "/r", "--cluster", "main", "--password-file", dir + "/pass"}},
		{"passphrase of the environment", settings{Repo: "/r", Password: "secret"}, map[string]string{"HOME": "/home/joe"},
			[]string{"--repo", "/r", "--cluster", "main"}},
		{"default identity", settings{Repo: "/100%f's"}, map[string]string{"HOME": "/home/joe"},
			[]string{"--repo", "/100%f's", "--cluster", "main", "--key-file", "/home/joe/.config/pgtrove/identity.txt"}},
	} {
		a := &app{settings: c.set, env: environmentOf(c.env)}
		command, err := a.restoreCommand("main")
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		// As BuildRestoreCommand and the shell read it.
		command = strings.NewReplacer("%%", "%", "%f", "000000010000000000000001", "%p", "pg_wal/RECOVERYXLOG").Replace(command)
		out, err := exec.Command("sh", "-c", "printf '%s\\n' "+command).Output()
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		words := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
		want := append(c.want, "wal", "fetch", "000000010000000000000001", "pg_wal/RECOVERYXLOG")
		if !filepath.IsAbs(words[0]) || strings.Join(words[1:], "|") != strings.Join(want, "|") {
			t.Errorf("%s: %q, want %q", c.name, words[1:], want)
		}
	}
}

func TestTheStartCommandPointsToMovedConfiguration(t *testing.T) {
	if got := startCommand(&restore.Report{Dir: "/srv/data"}); got != "pg_ctl -D /srv/data start" {
		t.Error(got)
	}
	got := startCommand(&restore.Report{Dir: "/srv/my data", Config: []restore.Moved{
		{From: "/etc/postgresql/15/main/postgresql.conf", To: "/srv/my data/pgtrove-config/postgresql.conf"},
		{From: "/etc/postgresql/15/main/conf.d/x.conf", To: "/srv/my data/pgtrove-config/x.conf"},
		{From: "/etc/postgresql/15/main/pg_hba.conf", To: "/srv/my data/pgtrove-config/pg_hba.conf"},
	}})
	out, err := exec.Command("sh", "-c", "printf '%s\\n' "+got).Output()
	if err != nil {
		t.Fatal(err)
	}
	want := "pg_ctl\n-D\n/srv/my data\n-o\n-c 'data_directory=/srv/my data' -c 'config_file=/srv/my data/pgtrove-config/postgresql.conf'" +
		" -c 'hba_file=/srv/my data/pgtrove-config/pg_hba.conf'\nstart\n"
	if string(out) != want {
		t.Errorf("got\n%s, want\n%s", out, want)
	}
}

func TestAFileIsReadableOnlyIfTheWayToItIs(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "key")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	const stranger = 4242
	for p := filepath.Dir(dir); strings.HasPrefix(p, os.TempDir()+"/"); p = filepath.Dir(p) { // made for one account only
		if err := os.Chmod(p, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		dir, file os.FileMode
		uid       uint32
		want      bool
	}{
		{0o755, 0o600, uint32(os.Getuid()), true},
		{0o755, 0o600, stranger, false},
		{0o755, 0o644, stranger, true},
		{0o700, 0o644, stranger, false},
	} {
		if err := os.Chmod(file, c.file); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(dir, c.dir); err != nil {
			t.Fatal(err)
		}
		if got := readableBy(file, c.uid); got != c.want {
			t.Errorf("directory %o, file %o, account %d: %v", c.dir, c.file, c.uid, got)
		}
	}
}
