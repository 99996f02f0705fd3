package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/pgtrove/pgtrove/storage/s3"
)

// load resolves settings from a command line, an environment and the text of a configuration file.
func load(t *testing.T, args []string, env map[string]string, config string) (settings, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "pgtrove.toml")
	if config != "" {
		if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
	addSettings(flags)
	if err := flags.Parse(args); err != nil {
		t.Fatal(err)
	}
	return loadSettings(flags, environmentOf(env), path)
}

func environmentOf(env map[string]string) environment {
	return environment{
		lookup:      func(k string) (string, bool) { v, ok := env[k]; return v, ok },
		accountHome: func() (string, error) { return "", errors.New("no account") },
	}
}

func TestFlagWinsOverEnvironmentOverFile(t *testing.T) {
	config := "repo = '/file'\ncluster = 'file'\njobs = 3\n"
	for _, c := range []struct {
		args []string
		env  map[string]string
		want string
	}{
		{nil, nil, "/file"},
		{nil, map[string]string{"PGTROVE_REPO": "/env"}, "/env"},
		{nil, map[string]string{"PGTROVE_REPO": ""}, "/file"},
		{[]string{"--repo", "/flag"}, map[string]string{"PGTROVE_REPO": "/env"}, "/flag"},
	} {
		s, err := load(t, c.args, c.env, config)
		if err != nil {
			t.Fatal(err)
		}
		if s.Repo != c.want || s.Cluster != "file" || s.Jobs != 3 {
			t.Errorf("%v %v: repo %q, cluster %q, jobs %d; want repo %q", c.args, c.env, s.Repo, s.Cluster, s.Jobs, c.want)
		}
	}
}

func TestEverySettingCanComeFromTheConfigurationFile(t *testing.T) {
	for _, s := range settingTable() {
		value := "'/x'"
		if s.flag == "jobs" {
			value = "2"
		}
		values, err := parseConfigFile([]byte(s.flag + " = " + value))
		if err != nil || values[s.flag] == "" {
			t.Errorf("%s: %v, values %v", s.flag, err, values)
		}
	}
}

func TestStorageSettings(t *testing.T) {
	config := `
limit-upload = "20MB"
limit-download = "50MiB/s"
retry-time = "90s"
s3-endpoint = "https://file:9000"
s3-encrypt = "kms:key"
`
	s, err := load(t, []string{"--limit-download", "0", "--s3-addressing", "host"}, map[string]string{"PGTROVE_S3_ENDPOINT": "https://env:9000"}, config)
	if err != nil {
		t.Fatal(err)
	}
	want := storageSettings{LimitUpload: 20_000_000, RetryTime: 90 * time.Second, RetryGiven: true,
		S3: s3.Options{Endpoint: "https://env:9000", Encrypt: "kms:key", Addressing: s3.AddressHost}}
	if !reflect.DeepEqual(s.Storage, want) {
		t.Errorf("got  %+v\nwant %+v", s.Storage, want)
	}
	if s, err := load(t, nil, nil, ""); err != nil || !reflect.DeepEqual(s.Storage, storageSettings{RetryTime: defaultRetryTime}) {
		t.Errorf("defaults are %+v, %v", s.Storage, err)
	}
	if s, err := load(t, []string{"--retry-time", "0"}, nil, ""); err != nil || s.Storage.RetryTime != 0 {
		t.Errorf("no retries: %+v, %v", s.Storage, err)
	}
	given, byDefault := s.Storage, storageSettings{RetryTime: defaultRetryTime}
	given.retryByDefault(serverRetryTime)
	byDefault.retryByDefault(serverRetryTime)
	if given.RetryTime != 90*time.Second || byDefault.RetryTime != serverRetryTime {
		t.Errorf("for PostgreSQL's own calls: %s where 90s was asked for, %s by default", given.RetryTime, byDefault.RetryTime)
	}
}

func TestWithoutAnySettingThereAreDefaults(t *testing.T) {
	s, err := load(t, nil, nil, "")
	if err != nil {
		t.Fatal(err)
	}
	if s.clusterName() != "main" || s.Cluster != "" || s.Jobs != 0 || s.Repo != "" || s.Config != "" {
		t.Errorf("defaults are %+v", s)
	}
}

func TestWrongSettingsAreUsageErrorsThatNameThem(t *testing.T) {
	for _, c := range []struct {
		name, config string
		args         []string
		env          map[string]string
		want         string
	}{
		{"unknown key", "repo = '/r'\ncolour = 'red'\n", nil, nil, `unknown key "colour" in line 2`},
		{"unknown table", "[repo]\npath = '/r'\n", nil, nil, "line 1"},
		{"wrong type", "repo = 5\n", nil, nil, "line 1"},
		{"no TOML", "repo\n", nil, nil, "line 1"},
		{"relative path", "repo = 'backups'\n", nil, nil, "absolute path"},
		{"absent file", "", []string{"--config", "/nonexistent.toml"}, nil, "/nonexistent.toml"},
		{"absent file of the environment", "", nil, map[string]string{"PGTROVE_CONFIG": "/gone.toml"}, "/gone.toml"},
		{"cluster with a slash", "", []string{"--cluster", "a/b"}, nil, "a/b"},
		{"cluster above itself", "", []string{"--cluster", ".."}, nil, `".."`},
		{"jobs", "", []string{"--jobs", "many"}, nil, "many"},
		{"no jobs", "", nil, map[string]string{"PGTROVE_JOBS": "0"}, `"0"`},
		{"two keys", "", []string{"--key-file", "/k", "--password-file", "/p"}, nil, "give one"},
		{"two passphrases", "", nil, map[string]string{"PGTROVE_PASSWORD": "x", "PGTROVE_PASSWORD_FILE": "/p"}, "give one"},
		{"another scheme", "", []string{"--repo", "ftp://host/repo"}, nil, "s3://bucket/prefix"},
		{"another scheme with an account", "", []string{"--repo", "sftp://joe:hidden@host/repo"}, nil, "s3://bucket/prefix"},
		{"bucket that cannot be", "", []string{"--repo", "s3://x/repo"}, nil, `bucket "x"`},
		{"keys in the bucket's place", "", []string{"--repo", "s3://id:hidden@bucket/repo"}, nil, "bucket"},
		{"retry time", "", []string{"--retry-time", "soon"}, nil, `retry-time "soon"`},
		{"negative retry time", "", nil, map[string]string{"PGTROVE_RETRY_TIME": "-1s"}, `retry-time "-1s"`},
		{"limit", "", []string{"--limit-upload", "fast"}, nil, `limit-upload "fast"`},
		{"limit that stands still", "limit-download = '1kB'\n", nil, nil, `limit-download "1kB"`},
		{"relative CA file", "s3-ca-file = 'ca.pem'\n", nil, nil, "absolute path"},
		{"password in URL", "", []string{"--dsn", "postgres://joe:hidden@host/db"}, nil, "password"},
		{"password in keywords", "", []string{"--dsn", "host=h password = hidden"}, nil, "password"},
		{"password in query", "", []string{"--dsn", "postgres://h/db?user=joe&password=hidden"}, nil, "password"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := load(t, c.args, c.env, c.config)
			if err == nil {
				t.Fatal("no error")
			}
			if got := classify(err).code; got != codeUsage {
				t.Errorf("exit code %d for %v", got, err)
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("message %q does not say %q", err, c.want)
			}
			if strings.Contains(err.Error(), "hidden") {
				t.Errorf("message shows the password: %q", err)
			}
		})
	}
}

func TestThePlaceThatWinsChoosesBetweenIdentityAndPassphrase(t *testing.T) {
	for _, c := range []struct {
		args   []string
		env    map[string]string
		config string
		want   settings
	}{
		{nil, map[string]string{"PGTROVE_PASSWORD": "pass"}, "key-file = '/k'", settings{Password: "pass"}},
		{nil, map[string]string{"PGTROVE_PASSWORD": "pass"}, "password-file = '/p'", settings{Password: "pass"}},
		{[]string{"--key-file", "/k"}, map[string]string{"PGTROVE_PASSWORD": "pass"}, "", settings{KeyFile: "/k"}},
		{[]string{"--password-file", "/p"}, map[string]string{"PGTROVE_PASSWORD": "pass"}, "", settings{PasswordFile: "/p"}},
		{[]string{"--password-file", "/p"}, map[string]string{"PGTROVE_KEY_FILE": "/k"}, "", settings{PasswordFile: "/p"}},
	} {
		got, err := load(t, c.args, c.env, c.config)
		if err != nil {
			t.Errorf("%v %v %q: %v", c.args, c.env, c.config, err)
			continue
		}
		if got.KeyFile != c.want.KeyFile || got.PasswordFile != c.want.PasswordFile || got.Password != c.want.Password {
			t.Errorf("%v %v %q: key file %q, password file %q", c.args, c.env, c.config, got.KeyFile, got.PasswordFile)
		}
	}
}

func TestPlainConnectionStringsAreAccepted(t *testing.T) {
	for _, dsn := range []string{
		"postgres://joe@host/db", "host=/run/postgresql user=joe", "postgresql:///db?host=/tmp&port=5433",
		"service=passwordstore", "host=h passfile=/home/joe/password",
	} {
		if _, err := load(t, []string{"--dsn", dsn}, nil, ""); err != nil {
			t.Errorf("%s: %v", dsn, err)
		}
	}
}

func TestSecretsAreNotPrintable(t *testing.T) {
	s := settings{Password: "correct horse"}
	for _, text := range []string{
		fmt.Sprint(s), fmt.Sprintf("%+v", s), fmt.Sprintf("%#v", s), fmt.Sprintf("%v", &s), fmt.Sprintf("%s %q", s.Password, s.Password),
	} {
		if strings.Contains(text, "horse") {
			t.Errorf("printed: %s", text)
		}
	}
}

func TestMessagesDoNotShowThePassphrase(t *testing.T) {
	var text strings.Builder
	a := &app{started: true, env: environmentOf(map[string]string{"PGPASSWORD": "staple42"}), out: &output{stderr: &text}}
	a.settings.Password = "correct horse"
	a.report(withHint(errors.New("library says correct horse and staple42"), "try correct horse"), exitPolicy{})
	if got, want := text.String(), "pgtrove: library says *** and ***\nhint: try ***\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestDirectoriesFollowXDGAndSurviveAMissingHome(t *testing.T) {
	home := func(h string, err error) func() (string, error) { return func() (string, error) { return h, err } }
	for _, c := range []struct {
		name    string
		vars    map[string]string
		account func() (string, error)
		want    string
	}{
		{"XDG", map[string]string{"XDG_CONFIG_HOME": "/x", "HOME": "/h"}, home("/a", nil), "/x/pgtrove"},
		{"relative XDG", map[string]string{"XDG_CONFIG_HOME": "x", "HOME": "/h"}, home("/a", nil), "/h/.config/pgtrove"},
		{"HOME", map[string]string{"HOME": "/h"}, home("/a", nil), "/h/.config/pgtrove"},
		{"account", nil, home("/var/lib/postgresql", nil), "/var/lib/postgresql/.config/pgtrove"},
		{"nothing", nil, home("", errors.New("unknown user")), ""},
		{"account without home", nil, home("", nil), ""},
	} {
		got, err := environment{environmentOf(c.vars).lookup, c.account}.configDir()
		if got != c.want || (err != nil) != (c.want == "") || err != nil && !errors.Is(err, errNoHome) {
			t.Errorf("%s: %q, %v; want %q", c.name, got, err, c.want)
		}
	}
}
