package restore

import (
	"errors"
	"io/fs"
	"os"
	"syscall"

	"github.com/pgtrove/pgtrove/snapshot"
)

// mkdir makes a directory of the snapshot. What stands in its place and is none goes; of a link what it leads to stays.
func (r *runner) mkdir(p place) error {
	if r.sweep != nil && p.root != nil {
		if err := r.clear(p); err != nil {
			return err
		}
	}
	if r.dry != nil {
		return nil
	}
	return p.mkdir()
}

func (r *runner) clear(p place) error {
	info, err := p.root.Lstat(p.rel)
	if errors.Is(err, fs.ErrNotExist) || err != nil && r.dry != nil { // a dry run may be behind a link
		return nil
	}
	if err != nil {
		return err
	}
	if info.IsDir() {
		// Whoever may not look into it could not know what to remove.
		if info.Mode().Perm()&0o700 != 0o700 && r.dry == nil {
			return p.root.Chmod(p.rel, 0o700)
		}
		return nil
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		r.report.Replaced = append(r.report.Replaced, p.path())
	}
	if r.dry != nil {
		return nil
	}
	return p.root.Remove(p.rel)
}

// enter makes the sweeper look at what is in a directory.
func (r *runner) enter(e *snapshot.Entry, p place) error {
	if r.sweep == nil || p.root == nil {
		return nil
	}
	if r.dry != nil {
		if info, err := p.root.Lstat(p.rel); err != nil || !info.IsDir() {
			return nil // it is not there yet, or would be made in the place of a link
		}
	}
	return r.sweep.enter(e, p)
}

// adopt makes a file that is there, with its content, one of the snapshot's, at its size. fresh says that there is none, or none
// any more: what may not be gone on from goes.
func (p place) adopt(size int64) (fresh bool, err error) {
	info, err := p.root.Lstat(p.rel)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	if !adoptable(info) {
		_, err := removeAll(p)
		return true, err
	}
	if info.Mode().Perm()&0o600 != 0o600 {
		if err := p.root.Chmod(p.rel, 0o600); err != nil {
			return false, err
		}
	}
	if info.Size() == size {
		return false, nil
	}
	f, err := p.root.OpenFile(p.rel, os.O_WRONLY, 0)
	if err != nil {
		return false, err
	}
	return false, errors.Join(f.Truncate(size), f.Close())
}

// adoptable says whether a restore may go on from a file: an ordinary one, with no other name (hard link), under which what is
// written to it would show, too, and not of another account, who alone may change its mode.
func adoptable(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return info.Mode().IsRegular() && (!ok || st.Nlink == 1 && (os.Geteuid() == 0 || int(st.Uid) == os.Geteuid()))
}
