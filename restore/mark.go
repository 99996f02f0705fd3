package restore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pgtrove/pgtrove/internal/durable"
	"github.com/pgtrove/pgtrove/internal/pg"
)

// What a marker says besides its text, a line each: whose cluster is being restored, and where its tablespaces are.
const (
	markSystem = "System identifier: "
	markSpace  = "Tablespace "
	markLink   = "Link "
)

// mark is what the marker of an earlier restore says.
type mark struct {
	system string            // "": it does not say
	spaces map[string]string // OID to directory
	links  map[string]string // path in the listing to where it leads
}

// readMark reads the marker in dir; nil where there is none.
func readMark(dir string) (*mark, error) {
	b, err := os.ReadFile(filepath.Join(dir, Marker))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look at the destination: %w", err)
	}
	m := &mark{spaces: map[string]string{}, links: map[string]string{}}
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSuffix(line, "\n")
		if id, ok := strings.CutPrefix(line, markSystem); ok {
			m.system = id
		}
		if rest, ok := strings.CutPrefix(line, markSpace); ok {
			if oid, path, ok := strings.Cut(rest, ": "); ok {
				m.spaces[oid] = path
			}
		}
		if rest, ok := strings.CutPrefix(line, markLink); ok {
			if path, to, ok := strings.Cut(rest, ": "); ok {
				m.links[path] = to
			}
		}
	}
	return m, nil
}

// text is what the marker of this restore says.
func (d *destination) text(o *Options) []byte {
	b := fmt.Appendf(nil, "pgtrove is restoring snapshot %s into this directory, or was interrupted while it did.\n"+
		"The cluster is not complete, and PostgreSQL cannot start from it. Unless a restore is still running,\n"+
		"run it again with --delta, which goes on from here; or remove everything in here and in the tablespaces'\n"+
		"directories, and run it again.\n", o.Snapshot.ID)
	b = fmt.Appendf(b, "%s%s\n", markSystem, o.Snapshot.Server.SystemID)
	for _, s := range d.spaces {
		b = fmt.Appendf(b, "%s%s: %s\n", markSpace, s.oid, s.new)
	}
	for _, l := range d.links {
		b = fmt.Appendf(b, "%s%s: %s\n", markLink, l.path, l.to)
	}
	return b
}

// claim writes the marker and holds a lock on it until the file that it returns is closed: of two restores into one
// directory the second is refused, and the lock of one that was killed is gone.
func (d *destination) claim(o *Options) (*os.File, error) {
	path := filepath.Join(d.dir, Marker)
	write := durable.Create
	if old, err := os.Open(path); err == nil {
		defer old.Close() // the new marker is locked by then
		if err := lockMark(old, d.dir); err != nil {
			return nil, err
		}
		if d.present == nil {
			return nil, d.notEmpty()
		}
		write = durable.Replace
	}
	err := write(path, 0o600, d.text(o))
	if errors.Is(err, fs.ErrExist) {
		return nil, busy(d.dir)
	}
	if err != nil {
		return nil, fmt.Errorf("mark %s as incomplete: %w", d.dir, err)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("mark %s as incomplete: %w", d.dir, err)
	}
	if err := lockMark(f, d.dir); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// stillEmpty makes sure, when the marker is written, that nothing else has come into the directory since it was looked at.
func (d *destination) stillEmpty() error {
	_, names, err := lookAt(d.dir)
	// A temporary file may be the marker of one that comes too late.
	foreign := func(name string) bool { return name != Marker && !strings.HasPrefix(name, durable.TempPrefix) }
	if err == nil && !slices.ContainsFunc(names, foreign) {
		return nil
	}
	if err == nil {
		err = d.notEmpty()
	}
	return errors.Join(err, os.Remove(filepath.Join(d.dir, Marker)))
}

func (d *destination) notEmpty() error {
	return &RefusedError{Reason: fmt.Sprintf("%s was empty a moment ago and is not any more", d.dir)}
}

func busy(dir string) error {
	return &RefusedError{Reason: fmt.Sprintf("another restore is at work in %s", dir)}
}

func lockMark(f *os.File, dir string) error {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return busy(dir)
	}
	// Some file systems have no locks. The marker is there all the same.
	if err != nil && !errors.Is(err, unix.ENOLCK) && !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.ENOSYS) {
		return fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	// Whoever had the lock before may have put another marker there, and have locked that.
	info, err := f.Stat()
	here, err2 := os.Lstat(filepath.Join(dir, Marker))
	if err != nil || err2 != nil || !os.SameFile(info, here) {
		return busy(dir)
	}
	return nil
}

// asideControl is the control file's name between the moment in which it is taken away and the one in which it is clear that no
// server began just then.
const asideControl = pg.ControlPath + ".pgtrove"

// disarm takes the control file away: from now on PostgreSQL cannot start. One that began a moment ago either has
// written its postmaster.pid by now, which is seen, and gets its control file back, or does not find the file: a server
// looks at it again after it has written that (CreateDataDirLockFile and LocalProcessControlFile in postmaster.c).
func (d *destination) disarm(data *os.Root) error {
	err := data.Rename(pg.ControlPath, asideControl)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // as an earlier restore left it
	}
	if err != nil {
		return fmt.Errorf("take away %s: %w", pg.ControlPath, err)
	}
	if err := refuseLive(d.dir); err != nil {
		return errors.Join(err, data.Rename(asideControl, pg.ControlPath), os.Remove(filepath.Join(d.dir, Marker)))
	}
	if err := data.Remove(asideControl); err != nil {
		return fmt.Errorf("take away %s: %w", pg.ControlPath, err)
	}
	return durable.SyncDir(filepath.Join(d.dir, filepath.Dir(pg.ControlPath)))
}
