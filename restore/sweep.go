package restore

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/pgtrove/pgtrove/internal/durable"
	"github.com/pgtrove/pgtrove/snapshot"
)

// sweeper finds what a directory holds beside the snapshot's files, while the listing is walked. What it knows at a time
// are the names in the directories that the walk is inside of.
type sweeper struct {
	major  int // of the snapshot's server
	dest   *destination
	remove func(dir string, p place) error // of something that the snapshot has not; dir is that of the listing it is in
	open   []*sweptDir
	config bool // the snapshot has files from elsewhere
}

// sweptDir is a directory of the listing, and what was in its place.
type sweptDir struct {
	path  string
	place place
	names map[string]bool // not in the listing as far as it was walked
}

// entry takes the next entry of the listing, in order of path. It comes before the entry's own place is changed.
func (s *sweeper) entry(e *snapshot.Entry) error {
	if err := s.leave(e.Path); err != nil {
		return err
	}
	dir, name := path.Split(e.Path)
	dir = strings.TrimSuffix(dir, "/")
	for _, d := range s.open {
		if d.path == dir {
			delete(d.names, name)
		}
	}
	s.config = s.config || e.Path == snapshot.ConfigRoot
	return nil
}

// enter takes a directory that the snapshot has, at its place. Of a tablespace's only the directory of the snapshot's
// version is the cluster's; the rest is nobody's or another's.
func (s *sweeper) enter(e *snapshot.Entry, p place) error {
	f, err := p.root.Open(p.rel)
	if err != nil {
		return err
	}
	defer f.Close() // only read
	all, err := f.Readdirnames(-1)
	if err != nil {
		return err
	}
	d := &sweptDir{path: e.Path, place: p, names: make(map[string]bool, len(all))}
	for _, name := range all {
		if e.Type == snapshot.Tablespace && !versionDir(name, s.major) {
			continue
		}
		d.names[name] = true
	}
	s.open = append(s.open, d)
	return nil
}

// leave ends the directories below which nothing comes at or behind path: all that is in one lies, as bytes are compared,
// between its path with a slash and its path with the byte behind the slash.
func (s *sweeper) leave(path string) error {
	for i := len(s.open) - 1; i >= 0; i-- {
		d := s.open[i]
		if path != "" && path < d.path+"0" {
			continue
		}
		s.open = slices.Delete(s.open, i, i+1)
		// In order: in pg_wal the segments are judged before archive_status goes, which tells of them.
		for _, name := range slices.Sorted(maps.Keys(d.names)) {
			if s.keeps(d, name) {
				continue
			}
			if err := s.remove(d.path, place{d.place.root, filepath.Join(d.place.rel, name)}); err != nil {
				return fmt.Errorf("remove %s: %w", filepath.Join(d.place.path(), name), err)
			}
		}
	}
	return nil
}

// end is for the end of the listing.
func (s *sweeper) end() error { return s.leave("") }

// keeps says what stays though the snapshot has it not: what the restore itself needs or has put there, what is the file
// system's or another file system, and tablespaces inside the data directory, which are swept where the listing has them.
func (s *sweeper) keeps(d *sweptDir, name string) bool {
	if d.path != snapshot.DataRoot && !strings.HasPrefix(d.path, snapshot.DataRoot+"/") {
		return false
	}
	if d.path == snapshot.DataRoot {
		switch name {
		case Marker, snapshot.UnarchivedDir:
			return true
		case s.dest.config:
			return s.config
		}
	}
	if name == lostFound || mountPoint(filepath.Join(d.place.path(), name)) {
		return true
	}
	if d.place.root.Name() != s.dest.dir {
		return false // in a tablespace
	}
	rel := filepath.Join(d.place.rel, name)
	path, real := filepath.Join(s.dest.dir, rel), filepath.Join(s.dest.real, rel)
	for _, space := range s.dest.spaces {
		if within(space.new, path) || within(path, space.new) || within(space.real, real) || within(real, space.real) {
			return true
		}
	}
	return false
}

// mountPoint says whether another file system begins at path. The device tells that of directories only: on overlayfs a file can have
// another than the directory that it is in.
func mountPoint(path string) bool {
	info, err := os.Lstat(path)
	above, err2 := os.Lstat(filepath.Dir(path))
	if err != nil || err2 != nil {
		return false
	}
	x, ok := info.Sys().(*syscall.Stat_t)
	y, ok2 := above.Sys().(*syscall.Stat_t)
	return info.IsDir() && ok && ok2 && x.Dev != y.Dev || mountRoot(path)
}

// removeAll removes a file, or a directory with all that is in it, and returns how many files that were. It follows no link, and
// removes nothing where another file system is in it.
func removeAll(p place) (files int64, err error) {
	if files, err = countFiles(p); err != nil {
		return 0, err
	}
	return files, p.root.RemoveAll(p.rel)
}

// countFiles counts what removeAll would remove.
func countFiles(p place) (files int64, err error) {
	info, err := p.root.Lstat(p.rel)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if !info.IsDir() {
		return 1, nil
	}
	err = fs.WalkDir(p.root.FS(), p.rel, func(path string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
		case !e.IsDir():
			files++
		case mountPoint(place{p.root, path}.path()):
			return fmt.Errorf("%s is a mount point: what is in it is not removed; unmount it, and run this again", place{p.root, path}.path())
		}
		return err
	})
	return files, err
}

// extra removes what the snapshot has not.
func (r *runner) extra(dir string, p place) error {
	if dir == snapshot.DataRoot+"/pg_wal" {
		if moved, err := r.rescue(p); moved || err != nil {
			return err
		}
	}
	if dir == snapshot.DataRoot+"/pg_tblspc" {
		if err := r.former(p); err != nil {
			return err
		}
	}
	return r.remove(p)
}

func (r *runner) remove(p place) error {
	do := removeAll
	if r.dry != nil {
		do = countFiles
	}
	n, err := do(p)
	r.report.Removed += n
	return err
}

// former empties a tablespace that the snapshot has not, nor another one there: what servers of this version have in it. Recovery
// may make the tablespace again, and would take what it finds for its own.
func (r *runner) former(link place) error {
	to, ok := r.layout.dest.present.links[path.Base(filepath.ToSlash(link.rel))]
	if !ok {
		return nil
	}
	if slices.ContainsFunc(r.layout.dest.spaces, func(s tablespace) bool { return s.real == truePath(to) }) {
		return nil
	}
	if user := serverUsing(to, r.layout.dest.dir); user != "" {
		return nil // a copy's link to another's tablespace: only the link goes
	}
	root, err := os.OpenRoot(to)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer root.Close()
	names, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return err
	}
	for _, e := range names {
		if !versionDir(e.Name(), r.o.Snapshot.Server.Major()) {
			continue
		}
		if err := r.remove(place{root, e.Name()}); err != nil {
			return err
		}
	}
	if r.dry != nil {
		return nil
	}
	return durable.SyncDir(to) // no other step does, as it is not the snapshot's
}
