// Package durable puts whole files and directories on a local disk so that they survive a crash, or are not there.
//
// It never shows a file before all of its content is on disk, and never leaves half a file under the name asked for.
// storage/fs keeps objects with it, restore writes what PostgreSQL asks for with it, and cmd its identity files.
//
// A process that is killed can leave a temporary file behind: its name begins with TempPrefix and it stands in the
// directory of the file that was meant.
package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// TempPrefix begins the name of every temporary file of this package.
const TempPrefix = ".tmp-"

// Create makes the file path with the content data and exactly the permissions mode, whatever the umask is. nil means
// that content and name are on disk. It does not replace: of several callers at once, in any processes, one succeeds.
//
// Errors: fs.ErrExist when path is there, then it was not touched; fs.ErrNotExist when its directory is not. After an error
// of the directory's fsync path is there, whole, but may vanish in a crash; after every other error it is not there,
// unless a network file system lost the answer.
func Create(path string, mode os.FileMode, data []byte) error {
	return write(path, mode, nil, data, link)
}

// Owner is whom a file or directory is given to: user and group by number.
type Owner struct{ UID, GID int }

// CreateFor is Create of a file that belongs to o; nil is whoever makes it. Where it cannot be given away (only the superuser can, and a file server need
// not let that one either) it belongs to whoever makes it.
func CreateFor(o *Owner, path string, mode os.FileMode, data []byte) error {
	return write(path, mode, o, data, link)
}

// Replace makes the file path as Create does, in the place of one that may be there already: a reader sees the old content or
// the new, nothing else. nil means that content and name are on disk.
//
// Errors: fs.ErrNotExist when the directory of path is not there. After an error of the directory's fsync path has the new
// content, and either one after a crash; after every other error it has the old one.
func Replace(path string, mode os.FileMode, data []byte) error {
	return write(path, mode, nil, data, func(_ *os.File, temp, path string) error { return os.Rename(temp, path) })
}

// write fills a temporary file beside path, gives it its name by publish and makes both durable.
func write(path string, mode os.FileMode, o *Owner, data []byte, publish func(f *os.File, temp, path string) error) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, TempPrefix+"*")
	if err != nil {
		return fmt.Errorf("create temporary file for %s: %w", path, err)
	}
	temp := f.Name()
	defer func() {
		_ = f.Close() // everything was fsynced, or failed already
		// After a rename there is nothing to remove; after a link the second name goes.
		if rerr := os.Remove(temp); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) && err == nil {
			err = fmt.Errorf("remove temporary file of %s: %w", path, rerr)
		}
	}()
	if o != nil {
		_ = f.Chown(o.UID, o.GID)
	}
	if err := setMode(f, mode); err != nil {
		return fmt.Errorf("set mode of %s: %w", path, err)
	}
	if _, err := f.Write(data); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", path, err)
	}
	if err := publish(f, temp, path); err != nil {
		return fmt.Errorf("publish %s: %w", path, err)
	}
	return SyncDir(dir)
}

// setMode asks for a change only where the umask made one necessary: some network file systems refuse every chmod.
func setMode(f *os.File, mode os.FileMode) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Mode().Perm() == mode.Perm() {
		return nil
	}
	return f.Chmod(mode.Perm())
}

// link gives the open file temp the second name path. link(2) fails when the name is taken, and nearly every file system
// knows it. Where hard links are missing (CIFS, FAT, some FUSE) a rename that does not replace does the same; where that is
// missing too, Create fails rather than replace.
func link(f *os.File, temp, path string) error {
	err := os.Link(temp, path)
	if noLinks(err) {
		if rerr := renameNew(temp, path); rerr == nil || errors.Is(rerr, fs.ErrExist) {
			return rerr
		}
		return err
	}
	if err == nil || !errors.Is(err, fs.ErrExist) {
		return err
	}
	// NFS can repeat a request whose answer was lost: the second one then finds the name that the first one made. Nobody
	// else knows temp, so a second name of its file can only be ours.
	info, serr := f.Stat()
	if serr != nil {
		return err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Nlink == 2 {
		return nil
	}
	return err
}

// noLinks reports whether err is how a file system says that it has no hard links; EPERM is what link(2) documents.
func noLinks(err error) bool {
	return errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EOPNOTSUPP) || errors.Is(err, syscall.ENOSYS) ||
		errors.Is(err, syscall.EMLINK)
}

// MkdirAll makes the directory path and those above it that are missing, with the permissions (and set-group-ID bit) of mode
// whatever the umask is, and makes each new name durable. Directories that are there stay as they are.
// Errors: syscall.ENOTDIR when a part of path is something else.
func MkdirAll(path string, mode os.FileMode) error { return MkdirAllFor(nil, path, mode) }

// MkdirAllFor is MkdirAll of directories that belong to o, as CreateFor has it.
func MkdirAllFor(o *Owner, path string, mode os.FileMode) error {
	info, err := os.Stat(path)
	switch {
	case err == nil && info.IsDir():
		return nil
	case err == nil:
		return &fs.PathError{Op: "mkdir", Path: path, Err: syscall.ENOTDIR}
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("make directory: %w", err)
	}
	path = filepath.Clean(path)
	parent := filepath.Dir(path)
	if parent != path {
		if err := MkdirAllFor(o, parent, mode); err != nil {
			return err
		}
	}
	err = os.Mkdir(path, mode)
	if errors.Is(err, fs.ErrExist) {
		// Somebody was faster, but may not have got as far as the fsync: ours does for both.
		if info, serr := os.Stat(path); serr != nil || !info.IsDir() {
			return &fs.PathError{Op: "mkdir", Path: path, Err: syscall.ENOTDIR}
		}
		return SyncDir(parent)
	}
	if err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	if o != nil {
		_ = os.Lchown(path, o.UID, o.GID)
	}
	if err := setDirMode(path, mode); err != nil {
		return err
	}
	if err := SyncDir(parent); err != nil {
		// Who comes next and finds it takes it for durable. Where somebody was fast enough to put something into it, it stays.
		_ = os.Remove(path)
		return err
	}
	return nil
}

// setDirMode leaves a set-group-ID bit alone that the directory inherited.
func setDirMode(path string, mode os.FileMode) error {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	const bits = os.ModePerm | os.ModeSetgid
	want := mode&bits | info.Mode()&os.ModeSetgid
	if info.Mode()&bits == want {
		return nil
	}
	if err := os.Chmod(path, want); err != nil {
		return fmt.Errorf("set mode of directory: %w", err)
	}
	return nil
}

// Sync makes the file path durable that is there already, content and name, whoever made it.
// Errors: fs.ErrNotExist when it is not there.
func Sync(path string) error {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe there must not hold us up
	if err != nil {
		return fmt.Errorf("sync file: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("sync file: %w", err)
	}
	if info.Mode().IsRegular() {
		if err := f.Sync(); err != nil {
			return fmt.Errorf("sync file: %w", err)
		}
	}
	return SyncDir(filepath.Dir(path))
}

// SyncDir makes the names in the directory path durable: files created, renamed and removed in it.
func SyncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	defer d.Close()
	// Some file systems cannot sync a directory and keep its names without; PostgreSQL lets this pass too (fsync_fname_ext).
	if err := d.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) {
		return fmt.Errorf("sync directory: %w", err)
	}
	return nil
}
