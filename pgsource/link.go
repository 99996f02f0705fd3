package pgsource

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/pgtrove/pgtrove/snapshot"
)

// link lists a symbolic link of the data directory:
//   - of a tablespace: as such, with its contents below it;
//   - pg_wal and the other emptied directories: as an empty directory, the link noted;
//   - into the data directory: as a link, relative so that it stays inside wherever the snapshot is restored;
//   - to a file or directory elsewhere: as that file or directory, the link noted, see File;
//   - to nothing: as a link.
func (w *walker) link(ctx context.Context, disk, rel string, st *unix.Stat_t) error {
	target, err := os.Readlink(disk)
	if gone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if dir, name := filepath.Split(rel); dir == "pg_tblspc/" && isNumber(name) {
		return w.tablespace(ctx, disk, rel, target, st)
	}
	there, err := stat(disk)
	lost := gone(err) || errors.Is(err, unix.ELOOP)
	if err != nil && !lost {
		return err
	}
	if w.emptied(rel) {
		if lost {
			there = w.rootStat // the mode that PostgreSQL would give it
		}
		return w.directory(ctx, disk, rel, target, there)
	}
	if lost {
		w.symlink(disk, rel, target, st)
		return nil
	}
	real, err := filepath.EvalSymlinks(disk)
	if gone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if inside, ok := below(w.root, real); ok {
		if filepath.IsAbs(target) {
			if target, err = filepath.Rel(filepath.Dir(rel), inside); err != nil {
				return fmt.Errorf("link %s: %w", disk, err)
			}
		}
		w.symlink(disk, rel, target, st)
		return nil
	}
	return w.follow(ctx, disk, rel, target, real, st, there)
}

func (w *walker) symlink(disk, rel, target string, st *unix.Stat_t) {
	e := w.owners.entry(snapshot.DataRoot+"/"+rel, snapshot.Symlink, st)
	e.Link = target
	w.files = append(w.files, File{Entry: e, Disk: disk})
}

// follow lists what a link outside the data directory leads to. One that leads around in a circle stays a link.
func (w *walker) follow(ctx context.Context, disk, rel, target, real string, st, there *unix.Stat_t) error {
	switch kind(there) {
	case unix.S_IFREG:
		w.file(disk, rel, target, there)
		return nil
	case unix.S_IFDIR:
	default:
		w.skipped(disk, "link to a "+kindName(there))
		return nil
	}
	_, around := below(real, w.root)
	if around || real == w.root || slices.Contains(w.following, identityOf(there)) {
		w.symlink(disk, rel, target, st)
		return nil
	}
	w.following = append(w.following, identityOf(there))
	defer func() { w.following = w.following[:len(w.following)-1] }()
	return w.directory(ctx, disk, rel, target, there)
}

// tablespace lists a link of pg_tblspc: mode and owner are those of the location, and of what is in there only the directory of
// this server's version belongs to the cluster (sendTablespace in basebackup.c).
func (w *walker) tablespace(ctx context.Context, disk, rel, target string, st *unix.Stat_t) error {
	there, err := stat(disk)
	if err != nil && !gone(err) {
		return err
	}
	if err != nil {
		there = st
	}
	e := w.owners.entry(snapshot.DataRoot+"/"+rel, snapshot.Tablespace, there)
	e.Link = target
	w.files = append(w.files, File{Entry: e, Disk: disk})
	if err != nil {
		return nil
	}
	return w.entry(ctx, filepath.Join(disk, w.versionDir), rel+"/"+w.versionDir)
}
