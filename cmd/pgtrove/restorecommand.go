package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/pgtrove/pgtrove/keys"
	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/restore"
)

// restoreCommand returns the restore_command that fetches the cluster's WAL with the settings of this very call. It
// depends on nothing in the server's environment but, if that is how the repository is opened, the passphrase.
func (a *app) restoreCommand(cluster string) (string, error) {
	exe, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find the path of pgtrove for restore_command: %w", err)
	}
	name, err := a.repositoryName()
	if err != nil {
		return "", err
	}
	words := []string{exe, "--repo", name, "--cluster", cluster}
	keyFile, passwordFile := a.recoveryKeys()
	for _, file := range []struct{ flag, path string }{
		{"--config", a.settings.Config},
		{"--key-file", keyFile},
		{"--password-file", passwordFile},
	} {
		if file.path == "" {
			continue
		}
		abs, err := absolute(file.path)
		if err != nil {
			return "", err
		}
		words = append(words, file.flag, abs)
	}
	if isRemote(name) {
		words = append(words, a.remoteWords()...)
	}
	return percentQuote(commandLine(words...)) + ` wal fetch %f "%p"`, nil
}

// remoteWords are the flags that find the object storage again, where this call knows it from its own environment, too. Keys are no flags: the server
// must find them itself, and a person is told if this call has them from a place that the server does not look at.
func (a *app) remoteWords() (words []string) {
	o := a.settings.Storage.S3
	profile := []string{"AWS_PROFILE", "AWS_DEFAULT_PROFILE"}
	if _, ok := a.env.get("AWS_ACCESS_KEY_ID"); ok {
		profile = nil // which a flag would have come before these keys
	}
	for _, s := range []struct {
		flag, value string
		variables   []string
	}{
		{"--s3-endpoint", o.Endpoint, []string{"AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"}},
		{"--s3-region", o.Region, []string{"AWS_REGION", "AWS_DEFAULT_REGION"}},
		{"--s3-profile", o.Profile, profile},
		{"--s3-addressing", string(o.Addressing), nil},
		{"--s3-ca-file", o.CAFile, []string{"AWS_CA_BUNDLE"}},
	} {
		for i := 0; s.value == "" && i < len(s.variables); i++ {
			s.value, _ = a.env.get(s.variables[i])
		}
		if s.value != "" {
			words = append(words, s.flag, s.value)
		}
	}
	for _, variable := range []string{"AWS_ACCESS_KEY_ID", "AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE", "AWS_WEB_IDENTITY_TOKEN_FILE"} {
		if _, ok := a.env.get(variable); ok {
			a.out.warn("restore_command will need the storage's credentials, which this command has from %s: start the server with the same AWS_* "+
				"variables, or give its account a ~/.aws/credentials", variable)
			break
		}
	}
	return words
}

// recoveryKeys are the files that restore_command opens the repository with. Both are empty where it is a passphrase that stands in no file.
func (a *app) recoveryKeys() (keyFile, passwordFile string) {
	if a.recoveryKey != "" {
		return a.recoveryKey, ""
	}
	return a.keyFileInUse(), a.settings.PasswordFile
}

// checkRecoveryKey makes sure that what restore_command shall use opens WAL, as long as there is somebody to tell.
func (a *app) checkRecoveryKey(ctx context.Context) error {
	if a.recoveryKey == "" {
		return nil
	}
	given, err := a.readIdentities(ctx, a.recoveryKey)
	if err != nil {
		return err
	}
	name, err := a.repositoryName()
	if err != nil {
		return err
	}
	store, _, err := a.openStorage(ctx, name)
	if err != nil {
		return err
	}
	r, err := repo.OpenWith(ctx, store, given)
	if err != nil {
		return err
	}
	if r.Role() == keys.Writer {
		return withHint(classified{fmt.Errorf("it%s is a writer's, which opens no WAL", nameInUse(r)), keys.ErrRole}, "give that of a standby: `pgtrove key add --role standby` makes one")
	}
	return nil
}

// keyFileInUse is the identity file that the repository is opened with, "" where it is a passphrase.
func (a *app) keyFileInUse() string {
	s := &a.settings
	if s.KeyFile != "" || s.PasswordFile != "" || s.Password != "" {
		return s.KeyFile
	}
	path, err := a.env.identityFile()
	if err != nil {
		return ""
	}
	return path
}

func ownerOf(path string) (uid uint32, ok bool) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return st.Uid, true
}

// readableBy guesses from mode and owner, of the file and of what leads to it.
func readableBy(path string, uid uint32) bool {
	want := os.FileMode(0o4)
	for p := path; ; p = filepath.Dir(p) {
		info, err := os.Stat(p)
		if err != nil {
			return !errors.Is(err, fs.ErrPermission)
		}
		mode := info.Mode().Perm()
		if owner, ok := ownerOf(p); ok && owner == uid {
			mode >>= 6
		} else {
			mode |= mode >> 3 // the group may be right
		}
		if mode&want == 0 {
			return false
		}
		if p == filepath.Dir(p) {
			return true
		}
		want = 0o1 // directories: to be passed through
	}
}

type movedJSON struct {
	From string `json:"from"`
	To   string `json:"to"`
}

type restoreJSON struct {
	Type           string      `json:"type"`
	Snapshot       string      `json:"snapshot"`
	Cluster        string      `json:"cluster"`
	Reason         string      `json:"reason"`
	Target         string      `json:"target"`
	Timeline       uint32      `json:"timeline"`
	Dir            string      `json:"dir"`
	Files          int64       `json:"files"`
	Size           int64       `json:"size"`
	Config         []movedJSON `json:"config"`
	Tablespaces    []movedJSON `json:"tablespaces"`
	Links          []movedJSON `json:"links"`
	RestoreCommand string      `json:"restore_command,omitempty"`
	localJSON
	Start string `json:"start"`
}

func movedResult(all []restore.Moved) []movedJSON {
	out := []movedJSON{}
	for _, m := range all {
		out = append(out, movedJSON(m))
	}
	return out
}

// showRestore says what is where now, and how to go on.
func (a *app) showRestore(run *restoreRun, c *restore.Choice, r *restore.Report, took time.Duration) error {
	if run.Recovery != nil {
		a.warnAboutKey(r.Dir)
	}
	start := startCommand(r)
	if a.settings.JSON {
		return a.out.object(restoreJSON{
			Type: "restore", Snapshot: c.Snapshot.ID, Cluster: c.Snapshot.Cluster, Reason: c.Reason, Target: c.Target.String(),
			Timeline: uint32(c.Timeline), Dir: r.Dir, Files: r.Files, Size: r.Bytes, Config: movedResult(r.Config),
			Tablespaces: movedResult(r.Tablespaces), Links: movedResult(r.Links), RestoreCommand: run.command, localJSON: localResult(r), Start: start,
		})
	}
	text := fmt.Sprintf("restored snapshot %s to %s: %s, %s\n", c.Snapshot.ID, r.Dir, showCount(r.Files, "file", "files"), summaryRate(r.Bytes, took))
	for _, m := range r.Tablespaces {
		text += fmt.Sprintf("  tablespace: %s, was at %s\n", m.To, m.From)
	}
	for _, m := range r.Config {
		text += fmt.Sprintf("  configuration: %s is in %s\n", m.From, m.To)
	}
	for _, m := range r.Links {
		text += fmt.Sprintf("  was a link to %s and is inside the data directory now: %s\n", m.From, m.To)
	}
	text += localText(run.Options, r)
	text += fmt.Sprintf("start the server with\n  %s\n", start)
	if run.Recovery != nil && !run.Recovery.Standby && !run.ArchiveOff {
		text += "Beside the original, start a copy with archive_mode=off (restore with --archive-mode off, or pg_ctl's\n-o '-c archive_mode=off'): otherwise it archives its new timeline into the same repository, and later restores follow it.\n"
	}
	return a.out.print("%s", text)
}

// startCommand starts the server, with its configuration files where they are now.
func startCommand(r *restore.Report) string {
	words := []string{"pg_ctl", "-D", r.Dir}
	settings := map[string]string{"postgresql.conf": "config_file", "pg_hba.conf": "hba_file", "pg_ident.conf": "ident_file"}
	options := ""
	for _, m := range r.Config {
		if name, ok := settings[filepath.Base(m.To)]; ok {
			options += " -c " + shellQuote(name+"="+m.To)
		}
	}
	if options != "" {
		words = append(words, "-o", "-c "+shellQuote("data_directory="+r.Dir)+options)
	}
	return commandLine(append(words, "start")...)
}
