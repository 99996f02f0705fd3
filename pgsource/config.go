package pgsource

import (
	"errors"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pgtrove/pgtrove/snapshot"
)

// config lists the configuration files that lie outside the data directory: config_file, hba_file and ident_file, what they
// include, and where settings in force come from. Beside a config_file of Debian lie files of its own tools; they come along.
//
// A file is "config/<name>", or "config/<directories>/<name>" when it is below the directory of config_file or has a name that is
// taken already. Its entry's Link is where it was.
func (w *walker) config(files ConfigFiles, major int) error {
	in := includes{seen: make(map[string]bool)}
	mainDir := ""
	if files.Main != "" {
		mainDir = filepath.Dir(files.Main)
		in.settings(files.Main, 0)
		if _, ok := w.inData(files.Main); !ok {
			in.beside(mainDir)
		}
	}
	for _, file := range files.sources {
		in.settings(file, 0)
	}
	for _, file := range []string{files.HBA, files.Ident} {
		if file != "" {
			in.auth(file, major, 0)
		}
	}
	if err := errors.Join(in.errs...); err != nil {
		return err
	}
	return w.addConfig(in.found, in.dirs, mainDir)
}

// inData reports whether a path names something inside the data directory, which is listed there.
func (w *walker) inData(file string) (string, bool) {
	dir, err := filepath.EvalSymlinks(filepath.Dir(file))
	if err != nil {
		return "", false
	}
	if dir == w.root {
		return filepath.Base(file), true
	}
	return below(w.root, filepath.Join(dir, filepath.Base(file)))
}

func (w *walker) addConfig(found, included []string, mainDir string) error {
	taken := make(map[string]bool)
	dirs := make(map[string]bool)
	for _, file := range found {
		if _, ok := w.inData(file); ok {
			continue
		}
		st, err := stat(file)
		if gone(err) {
			continue // include_if_exists, or removed since the server read it
		}
		if err != nil {
			return err
		}
		if kind(st) != unix.S_IFREG {
			w.skipped(file, "configuration in a "+kindName(st))
			continue
		}
		name := filepath.Base(file)
		rel, isBelow := below(mainDir, file)
		if isBelow {
			name = rel
		}
		if taken[name] {
			name, isBelow = strings.TrimPrefix(file, "/"), false
		}
		taken[name] = true
		if err := w.addConfigDirs(dirs, name, mainDir, isBelow); err != nil {
			return err
		}
		e := w.owners.entry(snapshot.ConfigRoot+"/"+name, snapshot.File, st)
		e.Link = file
		w.files = append(w.files, File{Entry: e, Disk: file})
	}
	// An include_dir may be empty, as Debian's conf.d is at first; a server does not start when it is missing.
	for _, dir := range included {
		rel, isBelow := below(mainDir, dir)
		if _, ok := w.inData(dir); ok || !isBelow {
			continue
		}
		if _, err := stat(dir); gone(err) {
			continue
		}
		if err := w.addConfigDirs(dirs, path.Join(rel, "*"), mainDir, true); err != nil {
			return err
		}
	}
	return nil
}

// addConfigDirs lists the directories above a configuration file: the real ones below mainDir, and made-up ones, which look like the
// data directory.
func (w *walker) addConfigDirs(done map[string]bool, name, mainDir string, isBelow bool) error {
	for dir := path.Dir(name); ; dir = path.Dir(dir) {
		if !done[dir] {
			done[dir] = true
			st, disk := w.rootStat, ""
			if isBelow {
				var err error
				disk = filepath.Join(mainDir, dir)
				if st, err = stat(disk); err != nil {
					return err
				}
			}
			e := w.owners.entry(path.Join(snapshot.ConfigRoot, dir), snapshot.Dir, st)
			e.Link = disk
			w.files = append(w.files, File{Entry: e, Disk: disk})
		}
		if dir == "." {
			return nil
		}
	}
}

// includes follows the directives of configuration files.
type includes struct {
	found []string // absolute paths, whether they exist or not
	dirs  []string // that include_dir names, likewise
	seen  map[string]bool
	errs  []error
}

// maxIncludeDepth is CONF_FILE_MAX_DEPTH (conffiles.h); the server does not start with deeper ones.
const maxIncludeDepth = 10

// read notes a file and returns its text, "" when it was read before or is not there.
func (in *includes) read(file string) string {
	if in.seen[file] {
		return ""
	}
	in.seen[file] = true
	in.found = append(in.found, file)
	text, err := os.ReadFile(file)
	if err != nil && !gone(err) {
		in.errs = append(in.errs, err)
	}
	return string(text)
}

// settings reads a file of postgresql.conf's form.
func (in *includes) settings(file string, depth int) {
	text := in.read(file)
	if depth >= maxIncludeDepth {
		return
	}
	for line := range strings.Lines(text) {
		name, value := parseSetting(line)
		switch name {
		case "include", "include_if_exists":
			in.settings(relativeTo(file, value), depth+1)
		case "include_dir":
			for _, f := range in.dir(relativeTo(file, value)) {
				in.settings(f, depth+1)
			}
		}
	}
}

// auth reads a file of pg_hba.conf's or pg_ident.conf's form, or one of their lists of names. Directives came with 16; a name that
// begins with @ is a file in all versions.
func (in *includes) auth(file string, major, depth int) {
	text := in.read(file)
	if depth >= maxIncludeDepth {
		return
	}
	for line := range strings.Lines(text) {
		words := authWords(line)
		if len(words) == 2 && major >= 16 {
			switch words[0] {
			case "include", "include_if_exists":
				in.auth(relativeTo(file, strings.TrimPrefix(words[1], `"`)), major, depth+1)
				continue
			case "include_dir":
				for _, f := range in.dir(relativeTo(file, strings.TrimPrefix(words[1], `"`))) {
					in.auth(f, major, depth+1)
				}
				continue
			}
		}
		for _, word := range words {
			if name, ok := strings.CutPrefix(word, "@"); ok && name != "" {
				in.auth(relativeTo(file, name), major, depth+1)
			}
		}
	}
}

// dir lists the files that include_dir reads (GetConfFilesInDir in conffiles.c).
func (in *includes) dir(dir string) []string {
	in.dirs = append(in.dirs, dir)
	entries, err := os.ReadDir(dir)
	if err != nil {
		if !gone(err) {
			in.errs = append(in.errs, err)
		}
		return nil
	}
	var files []string
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".conf") && e.Name()[0] != '.' && !e.IsDir() {
			files = append(files, filepath.Join(dir, e.Name()))
		}
	}
	return files
}

// beside adds what Debian's postgresql-common keeps in the directory of postgresql.conf.
func (in *includes) beside(dir string) {
	for _, name := range []string{"environment", "pg_ctl.conf", "start.conf"} {
		in.read(filepath.Join(dir, name))
	}
	for _, file := range in.dir(filepath.Join(dir, "conf.d")) {
		in.settings(file, 0)
	}
}

// relativeTo resolves a path as AbsoluteConfigLocation does: relative to the file that names it.
func relativeTo(file, name string) string {
	if filepath.IsAbs(name) {
		return filepath.Clean(name)
	}
	return filepath.Join(filepath.Dir(file), name)
}

// parseSetting reads a line of postgresql.conf, "name = 'value' # comment" with the sign left out at will. The name comes in lower case.
func parseSetting(line string) (name, value string) {
	line = strings.TrimSpace(line)
	end := strings.IndexFunc(line, func(r rune) bool { return strings.ContainsRune(" \t='#", r) })
	if end <= 0 {
		return "", ""
	}
	name, rest := strings.ToLower(line[:end]), strings.TrimLeft(line[end:], " \t")
	rest = strings.TrimLeft(strings.TrimPrefix(rest, "="), " \t")
	if quoted, ok := strings.CutPrefix(rest, "'"); ok {
		return name, unquote(quoted)
	}
	if end := strings.IndexAny(rest, " \t#"); end >= 0 {
		rest = rest[:end]
	}
	return name, rest
}

// unquote reads up to the closing quote: two quotes are one, and a backslash escapes (DeescapeQuotedString in guc-file.l; octal
// numbers and such do not occur in paths).
func unquote(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && i+1 < len(s):
			i++
		case s[i] == '\'' && i+1 < len(s) && s[i+1] == '\'':
			i++
		case s[i] == '\'':
			return b.String()
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// authWords splits a line of pg_hba.conf into words, at white space and commas (next_token in hba.c). A quoted word keeps its opening
// quote, so that "@x" is no file.
func authWords(line string) []string {
	var words []string
	var word []byte
	quoted, inWord := false, false
	end := func() {
		if inWord {
			words = append(words, string(word))
		}
		word, inWord = nil, false
	}
	for i := range len(line) {
		switch c := line[i]; {
		case c == '"':
			if !inWord {
				word = append(word, c)
			}
			quoted, inWord = !quoted, true
		case quoted:
			word = append(word, c)
		case c == '#':
			end()
			return words
		case c == ',' || c == ' ' || c == '\t' || c == '\r' || c == '\n':
			end()
		default:
			word, inWord = append(word, c), true
		}
	}
	end()
	return words
}
