package restore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pgtrove/pgtrove/snapshot"
)

// Marker is a file in the data directory that says that a restore into it has not finished.
const Marker = "pgtrove.restore-incomplete"

// ConfigDir is the directory in the restored data directory for configuration files that lay outside the original one. Where the
// original, restored once before, has it already, another name beginning with it is taken.
const ConfigDir = "pgtrove-config"

// lostFound is a directory that the file system keeps in a mount point.
const lostFound = "lost+found"

// tablespace is where one is to go.
type tablespace struct {
	oid      string
	old, new string
	real     string // new, with no links in it
}

// destination is where a snapshot is to go, checked, nothing made yet.
type destination struct {
	dir     string // absolute
	real    string // dir, with no links in it
	config  string // the name of the directory for files from elsewhere
	spaces  []tablespace
	present *present // what a delta restore finds there; nil: nothing
	links   []linked // only with Options.LinkAll
}

// Check makes every check that needs no repository, and changes nothing: whether the directory and those of the
// tablespaces may be written to. Errors wrap ErrRefused. Run makes the same checks.
func Check(o Options) error {
	_, err := o.destination()
	return err
}

func (o *Options) destination() (*destination, error) {
	dir, err := filepath.Abs(o.To)
	if err != nil || o.To == "" {
		return nil, &RefusedError{Reason: fmt.Sprintf("no directory to restore to: %q", o.To)}
	}
	d := &destination{dir: dir, real: truePath(dir)}
	if d.present, err = o.checkData(dir); err != nil {
		return nil, err
	}
	if d.spaces, err = o.place(d); err != nil {
		return nil, err
	}
	if o.Reuse != "" {
		if err := d.checkDonor(o.Reuse); err != nil {
			return nil, err
		}
	}
	for i, s := range d.spaces {
		if err := d.checkSpace(s); err != nil {
			return nil, err
		}
		if s.real == d.real {
			return nil, &RefusedError{Reason: fmt.Sprintf("tablespace %s cannot go to %s, the data directory itself", s.oid, dir)}
		}
		for _, other := range d.spaces[:i] {
			if s.real == other.real {
				return nil, &RefusedError{Reason: fmt.Sprintf("tablespaces %s and %s would both go to %s", other.old, s.old, s.new)}
			}
		}
	}
	return d, nil
}

// foresee is destination, with what has to be known of the listing before anything is put into its place.
func (o *Options) foresee(ctx context.Context, c Chunks) (*destination, error) {
	d, err := o.destination()
	if err != nil {
		return nil, err
	}
	s := newSource(c, o.IsDamage)
	if err := d.nameConfig(ctx, s, o); err != nil {
		return nil, err
	}
	return d, d.findLinks(ctx, s, o)
}

// nameConfig finds a name that the data directory has not for the directory of files from elsewhere, of which the listing tells
// first.
func (d *destination) nameConfig(ctx context.Context, c *source, o *Options) error {
	const prefix = snapshot.DataRoot + "/" + ConfigDir
	enough := errors.New("enough is known")
	taken, elsewhere := map[string]bool{}, false
	err := o.Snapshot.Root.Walk(ctx, c, func(e *snapshot.Entry) error {
		elsewhere = elsewhere || within(e.Path, snapshot.ConfigRoot)
		if strings.HasPrefix(e.Path, prefix) {
			taken[e.Path] = true
		} else if !elsewhere || e.Path > prefix {
			return enough
		}
		return nil
	})
	d.config = ConfigDir
	for n := 2; taken[snapshot.DataRoot+"/"+d.config]; n++ {
		d.config = fmt.Sprintf("%s-%d", ConfigDir, n)
	}
	if errors.Is(err, enough) {
		return nil
	}
	return err
}

// within says whether path is dir or lies below it.
func within(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

// truePath follows the links in a path, as far as it is there.
func truePath(path string) string {
	for at, rest := path, ""; ; at, rest = filepath.Dir(at), filepath.Join(filepath.Base(at), rest) {
		if real, err := filepath.EvalSymlinks(at); err == nil {
			return filepath.Join(real, rest)
		}
		if at == filepath.Dir(at) {
			return path
		}
	}
}

// lookAt says what is at path: whether it is there, and the first names in it. A new file system is empty.
func lookAt(path string) (there bool, names []string, err error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Lstat(path); err == nil {
			return false, nil, &RefusedError{Reason: fmt.Sprintf("%s is a link that leads nowhere", path)}
		}
		return false, nil, nil
	}
	if err != nil {
		return false, nil, fmt.Errorf("look at the destination: %w", err)
	}
	defer f.Close()
	names, err = f.Readdirnames(10)
	switch {
	case errors.Is(err, unix.ENOTDIR):
		return true, nil, &RefusedError{Reason: fmt.Sprintf("%s is not a directory", path)}
	case err != nil && !errors.Is(err, io.EOF):
		return true, nil, fmt.Errorf("look at the destination: %w", err)
	}
	return true, slices.DeleteFunc(names, func(name string) bool { return name == lostFound }), nil
}

// checkData makes sure that the data directory may be written to. It returns what a delta restore finds there, nil where
// there is nothing.
func (o *Options) checkData(dir string) (*present, error) {
	_, names, err := lookAt(dir)
	if err != nil || len(names) == 0 {
		return nil, err
	}
	if err := refuseLive(dir); err != nil {
		return nil, err
	}
	if o.Delta {
		return o.existing(dir)
	}
	if _, err := os.Lstat(filepath.Join(dir, Marker)); err == nil {
		return nil, &RefusedError{
			Reason: fmt.Sprintf("%s is not empty: an earlier restore into it did not finish", dir),
			Hint:   "run the command again with --delta; or remove what is in it, and in the directories of its tablespaces, and run it again",
		}
	}
	return nil, &RefusedError{
		Reason: fmt.Sprintf("%s is not empty: it holds %s", dir, slices.Min(names)),
		Hint:   "restore into an empty or a new directory; or, to bring this one to the snapshot's state, with --delta",
	}
}

// livePostmaster says whether the process that postmaster.pid names exists. A process that is not ours counts. This one and its
// parent are no servers: in a container they have the low numbers that the dead one had (CreateLockFile in miscinit.c, too).
func livePostmaster(dir string) (pid int, live bool) {
	b, err := os.ReadFile(filepath.Join(dir, "postmaster.pid"))
	if err != nil {
		return 0, false
	}
	line, _, _ := strings.Cut(string(b), "\n")
	pid, err = strconv.Atoi(strings.TrimSpace(line))
	if err != nil || pid == 0 {
		return 0, false
	}
	pid = max(pid, -pid) // a standalone backend writes its number negated
	if pid == os.Getpid() || pid == os.Getppid() {
		return 0, false
	}
	err = unix.Kill(pid, 0)
	return pid, err == nil || errors.Is(err, unix.EPERM)
}

func (d *destination) checkSpace(s tablespace) error {
	_, names, err := lookAt(s.new)
	if err != nil || len(names) == 0 {
		return err
	}
	if d.present.owns(s.oid, s.new) || d.succeeds(s) {
		return d.checkOwnSpace(s)
	}
	return &RefusedError{
		Reason: fmt.Sprintf("tablespace %s cannot go to %s: the directory is not empty", s.oid, s.new),
		Hint:   fmt.Sprintf("say where it shall go: --tablespace %s=/new/directory, empty or new", shellWord(s.old)),
	}
}

// shellWord quotes s for a hint that may be copied into a shell.
func shellWord(s string) string {
	if strings.ContainsAny(s, " '\"\\$`!*?[](){}<>|&;#~") {
		return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
	}
	return s
}

// place says where each tablespace goes: where the mapping says, by its path or its OID, or one for all; where a delta restore
// finds it; if it lay inside the data directory, to the same place in the new one; else to where it was.
func (o *Options) place(d *destination) ([]tablespace, error) {
	dir := d.dir
	used := map[string]bool{}
	var spaces []tablespace
	source := filepath.Clean(o.Snapshot.Server.DataDirectory)
	for _, l := range parseMap(o.Snapshot.TablespaceMap) {
		s := tablespace{oid: l.oid, old: l.path, new: filepath.Clean(l.path)}
		if source != "." && source != "/" && within(s.new, source) && s.new != source {
			s.new = filepath.Join(dir, strings.TrimPrefix(s.new, source))
		}
		if d.present != nil && d.present.links[l.oid] != "" {
			s.new = d.present.links[l.oid]
		}
		if o.AllTablespaces != "" {
			s.new = filepath.Join(o.AllTablespaces, l.oid)
		}
		for _, name := range []string{filepath.Clean(l.path), l.path, l.oid} {
			if to, ok := o.Tablespaces[name]; ok {
				s.new, used[name] = filepath.Clean(to), true
			}
		}
		if !filepath.IsAbs(s.new) || strings.ContainsAny(s.new, "\n\r") {
			return nil, &RefusedError{
				Reason: fmt.Sprintf("tablespace %s cannot go to %q: want an absolute path", s.oid, s.new),
				Hint:   fmt.Sprintf("say where it shall go: --tablespace %s=/new/directory", s.oid),
			}
		}
		s.real = truePath(s.new)
		spaces = append(spaces, s)
	}
	for _, name := range slices.Sorted(maps.Keys(o.Tablespaces)) {
		if !used[name] {
			return nil, &RefusedError{
				Reason: fmt.Sprintf("the snapshot has no tablespace %s", name),
				Hint:   "its tablespaces: " + describe(spaces),
			}
		}
	}
	return spaces, nil
}

func describe(spaces []tablespace) string {
	if len(spaces) == 0 {
		return "none"
	}
	var all []string
	for _, s := range spaces {
		all = append(all, fmt.Sprintf("%s at %s", s.oid, s.old))
	}
	return strings.Join(all, ", ")
}

// mapLine is a line of tablespace_map.
type mapLine struct{ oid, path string }

// parseMap reads a tablespace_map as read_tablespace_map does (xlogrecovery.c): OID, blank, path; a line end or a
// backslash in a path stands behind a backslash.
func parseMap(b []byte) []mapLine {
	var lines []mapLine
	var line []byte
	end := func() {
		if oid, path, ok := bytes.Cut(line, []byte(" ")); ok {
			lines = append(lines, mapLine{string(oid), string(path)})
		}
		line = nil
	}
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case c == '\\' && i+1 < len(b) && (b[i+1] == '\n' || b[i+1] == '\r' || b[i+1] == '\\'):
			i++
			line = append(line, b[i])
		case c == '\n' || c == '\r':
			end()
		default:
			line = append(line, c)
		}
	}
	end()
	return lines
}

// tablespaceMap returns the tablespace_map for the new places: byte for byte the old one if nothing moves.
func (d *destination) tablespaceMap(old []byte) []byte {
	if !slices.ContainsFunc(d.spaces, func(s tablespace) bool { return s.old != s.new }) {
		return old
	}
	var b []byte
	for _, s := range d.spaces {
		b = fmt.Appendf(b, "%s %s\n", s.oid, strings.ReplaceAll(s.new, `\`, `\\`))
	}
	return b
}

// space finds a tablespace's place by the name of its link.
func (d *destination) space(oid string) (tablespace, bool) {
	i := slices.IndexFunc(d.spaces, func(s tablespace) bool { return s.oid == oid })
	if i < 0 {
		return tablespace{}, false
	}
	return d.spaces[i], true
}

// fileMode turns permission bits as stat has them into Go's.
func fileMode(unixMode uint32) os.FileMode {
	m := os.FileMode(unixMode & 0o777)
	if unixMode&unix.S_ISUID != 0 {
		m |= os.ModeSetuid
	}
	if unixMode&unix.S_ISGID != 0 {
		m |= os.ModeSetgid
	}
	if unixMode&unix.S_ISVTX != 0 {
		m |= os.ModeSticky
	}
	return m
}
