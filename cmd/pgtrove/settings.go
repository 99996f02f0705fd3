package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/spf13/pflag"
)

// settings are those that commands share, resolved: flag, then environment, then configuration file.
type settings struct {
	Config       string // the file named by flag or environment; empty: none, or the system's
	Repo         string
	KeyFile      string // at most one of KeyFile, PasswordFile and Password is set
	PasswordFile string
	Password     secret
	Cluster      string // empty: not given; see clusterName
	CacheDir     string // empty: the XDG default
	PGData       string
	PGDataByFlag bool   // and so meant for this command, not for the account or host
	DSN          string // empty: as libpq's variables say
	Jobs         int    // 0: the command's own default
	Storage      storageSettings
	JSON         bool
	Quiet        bool
	Verbose      bool
}

// clusterName returns the cluster that a command works on. Those that only show things show all where none is given.
func (s *settings) clusterName() string {
	if s.Cluster == "" {
		return "main"
	}
	return s.Cluster
}

// secret is text that no formatting verb prints.
type secret string

func (secret) String() string   { return "(secret)" }
func (secret) GoString() string { return "(secret)" }

// setting is one line of the table in the documentation. Its flag is also its key in the configuration file.
type setting struct {
	flag, env, usage string
}

func settingTable() []setting {
	return append([]setting{
		{"repo", "PGTROVE_REPO", "repository: a `directory`, or s3://bucket/prefix with credentials as for AWS's own programs (AWS_ACCESS_KEY_ID, AWS_PROFILE and so on)"},
		{"key-file", "PGTROVE_KEY_FILE", "identity `file` that opens the repository (default: " + identityName + " in the user's configuration directory)"},
		{"password-file", "PGTROVE_PASSWORD_FILE", "`file` with the passphrase, instead of an identity; or PGTROVE_PASSWORD"},
		{"cluster", "PGTROVE_CLUSTER", "`name` of the cluster in the repository (default \"main\")"},
		{"cache-dir", "PGTROVE_CACHE_DIR", "`directory` for the cache, which may be deleted at any time (default: pgtrove in the user's cache directory)"},
		{"pgdata", "PGDATA", "data `directory` of the cluster (default: what the server says)"},
		{"dsn", "", "connection `string`, without password (default: PGHOST, PGPORT, PGUSER and so on, as for psql)"},
		{"jobs", "PGTROVE_JOBS", "`number` of parallel workers"},
	}, storageSettingTable()...)
}

const passwordVariable = "PGTROVE_PASSWORD"

func addSettings(f *pflag.FlagSet) {
	f.SortFlags = false
	for _, s := range settingTable() {
		usage := s.usage
		if s.env != "" {
			usage += " [" + s.env + "]"
		}
		f.String(s.flag, "", usage)
	}
	f.String("config", "", "configuration `file` (TOML) [PGTROVE_CONFIG]")
	f.Bool("json", false, "results as JSON on stdout, one object per line")
	f.BoolP("quiet", "q", false, "say less")
	f.BoolP("verbose", "v", false, "say more")
}

// origin says where a value came from; a higher one wins.
type origin int

const (
	fromNowhere origin = iota
	fromFile
	fromEnvironment
	fromFlag
)

type value struct {
	text string
	from origin
}

// loadSettings resolves all settings. Errors are usageError.
func loadSettings(flags *pflag.FlagSet, env environment, systemConfig string) (settings, error) {
	config, file, err := readConfigFile(flags, env, systemConfig)
	if err != nil {
		return settings{}, usageError{err: err}
	}
	values := make(map[string]value)
	for _, s := range settingTable() {
		values[s.flag] = resolve(s, flags, env, file)
	}
	s := settings{
		Config:   config,
		Repo:     values["repo"].text,
		Cluster:  values["cluster"].text,
		CacheDir: values["cache-dir"].text,
		PGData:   values["pgdata"].text,
		DSN:      values["dsn"].text,

		PGDataByFlag: values["pgdata"].from == fromFlag,
	}
	s.JSON, _ = flags.GetBool("json")
	s.Quiet, _ = flags.GetBool("quiet")
	s.Verbose, _ = flags.GetBool("verbose")
	for _, check := range []error{
		s.chooseKey(values["key-file"], values["password-file"], env),
		checkClusterName(s.clusterName()),
		s.parseJobs(values["jobs"].text),
		checkRepo(s.Repo),
		s.parseStorage(values),
		checkDSN(values["dsn"]),
	} {
		if check != nil {
			return settings{}, usageError{err: check}
		}
	}
	return s, nil
}

func resolve(s setting, flags *pflag.FlagSet, env environment, file map[string]string) value {
	if f := flags.Lookup(s.flag); f != nil && f.Changed {
		return value{f.Value.String(), fromFlag}
	}
	if s.env != "" {
		if v, ok := env.get(s.env); ok {
			return value{v, fromEnvironment}
		}
	}
	if v, ok := file[s.flag]; ok {
		return value{v, fromFile}
	}
	return value{}
}

// chooseKey keeps whichever of identity file and passphrase was given at the higher place. Both at the same one is
// a contradiction.
func (s *settings) chooseKey(key, passwordFile value, env environment) error {
	password, inEnv := env.get(passwordVariable)
	if inEnv && passwordFile.from == fromEnvironment {
		return errors.New("both PGTROVE_PASSWORD and PGTROVE_PASSWORD_FILE are set: give one")
	}
	pass := passwordFile
	if inEnv && pass.from < fromEnvironment {
		pass = value{from: fromEnvironment}
		s.Password = secret(password)
	}
	switch {
	case key.from != fromNowhere && key.from == pass.from:
		return errors.New("both an identity file and a passphrase are given: give one")
	case key.from > pass.from:
		s.KeyFile, s.Password = key.text, ""
	case pass.from > fromNowhere && s.Password == "":
		s.PasswordFile = pass.text
	}
	return nil
}

// checkClusterName keeps cluster names to what is safe in object names on every storage.
func checkClusterName(name string) error {
	if !regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`).MatchString(name) {
		return fmt.Errorf("cluster name %q: use up to 63 letters, digits, '.', '_' and '-', beginning with a letter or digit", name)
	}
	return nil
}

const maxJobs = 256

func (s *settings) parseJobs(text string) error {
	if text == "" {
		return nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > maxJobs {
		return fmt.Errorf("jobs %q: give a number from 1 to %d", text, maxJobs)
	}
	s.Jobs = n
	return nil
}

// checkDSN keeps passwords off command lines, which every user of the machine can read.
func checkDSN(dsn value) error {
	if dsn.from != fromFlag {
		return nil
	}
	if hasPassword(dsn.text) {
		return errors.New("--dsn holds a password: put it into ~/.pgpass, PGPASSFILE or PGPASSWORD, command lines are public")
	}
	return nil
}

// hasPassword says whether there is a password in a connection string, of either form that libpq knows.
func hasPassword(conninfo string) bool {
	if regexp.MustCompile(`(?i)(^|[\s?&])(ssl)?password\s*=`).MatchString(conninfo) {
		return true
	}
	if scheme, rest, ok := strings.Cut(conninfo, "://"); ok && scheme != "" {
		authority, _, _ := strings.Cut(rest, "/")
		account, _, isAccount := cutLast(authority, "@")
		return isAccount && strings.Contains(account, ":")
	}
	return false
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// configFile has a field for every setting of the table.
type configFile struct {
	Repo         *string `toml:"repo"`
	KeyFile      *string `toml:"key-file"`
	PasswordFile *string `toml:"password-file"`
	Cluster      *string `toml:"cluster"`
	CacheDir     *string `toml:"cache-dir"`
	PGData       *string `toml:"pgdata"`
	DSN          *string `toml:"dsn"`
	Jobs         *int    `toml:"jobs"`
	storageConfig
}

// readConfigFile returns the path of the file if it was asked for, and its values by key.
func readConfigFile(flags *pflag.FlagSet, env environment, systemConfig string) (string, map[string]string, error) {
	path, asked := "", false
	if f := flags.Lookup("config"); f != nil && f.Changed {
		path, asked = f.Value.String(), true
	} else if v, ok := env.get("PGTROVE_CONFIG"); ok {
		path, asked = v, true
	}
	read := path
	if !asked {
		read = systemConfig
	}
	text, err := os.ReadFile(read)
	if !asked && errors.Is(err, fs.ErrNotExist) {
		return "", nil, nil
	}
	if err != nil {
		return "", nil, fmt.Errorf("read configuration file: %w", err)
	}
	values, err := parseConfigFile(text)
	if err != nil {
		return "", nil, fmt.Errorf("read configuration file %s: %w", read, err)
	}
	return path, values, nil
}

func parseConfigFile(text []byte) (map[string]string, error) {
	var c configFile
	err := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields().Decode(&c)
	var unknown *toml.StrictMissingError
	var wrong *toml.DecodeError
	switch {
	case errors.As(err, &unknown) && len(unknown.Errors) > 0:
		line, _ := unknown.Errors[0].Position()
		return nil, fmt.Errorf("unknown key %q in line %d", strings.Join(unknown.Errors[0].Key(), "."), line)
	case errors.As(err, &wrong):
		line, _ := wrong.Position()
		return nil, fmt.Errorf("line %d: %s", line, strings.TrimPrefix(wrong.Error(), "toml: "))
	case err != nil:
		return nil, err
	}
	values := make(map[string]string)
	given := c.storageConfig.values()
	maps.Copy(given, map[string]*string{
		"repo": c.Repo, "key-file": c.KeyFile, "password-file": c.PasswordFile, "cluster": c.Cluster,
		"cache-dir": c.CacheDir, "pgdata": c.PGData, "dsn": c.DSN,
	})
	for key, v := range given {
		if v != nil {
			values[key] = *v
		}
	}
	if c.Jobs != nil {
		values["jobs"] = strconv.Itoa(*c.Jobs)
	}
	// Cron, systemd and PostgreSQL each have a working directory of their own: a relative path would name another
	// file for each.
	for _, key := range []string{"repo", "key-file", "password-file", "cache-dir", "pgdata", "s3-ca-file"} {
		if v := values[key]; v != "" && !strings.Contains(v, "://") && !filepath.IsAbs(v) {
			return nil, fmt.Errorf("%s = %q: give an absolute path", key, v)
		}
	}
	return values, nil
}
