package pgsource

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/snapshot"
)

// Files lists all that a snapshot of the cluster holds, sorted by path: the data directory and its tablespaces below "data", the
// configuration files from elsewhere below "config". What PostgreSQL leaves out of base backups is left out.
//
// Files that come and go meanwhile may be in the list or not; recovery makes up for either. A directory that cannot be read is
// an error that names it.
func (b *Backup) Files(ctx context.Context) ([]File, error) {
	w, err := b.newWalker()
	if err != nil {
		return nil, fmt.Errorf("list data directory: %w", err)
	}
	if err := w.data(ctx); err != nil {
		return nil, fmt.Errorf("list data directory: %w", err)
	}
	if err := w.config(b.c.info.Config, b.c.info.Major()); err != nil {
		return nil, fmt.Errorf("list configuration files: %w", err)
	}
	slices.SortFunc(w.files, func(a, b File) int { return cmp.Compare(a.Entry.Path, b.Entry.Path) })
	return w.files, nil
}

// walker collects the list.
type walker struct {
	root       string // the data directory, links resolved
	rootStat   *unix.Stat_t
	versionDir string // the directory of this server in a tablespace, PG_15_202209061
	statsTemp  string // relative
	relSegSize uint32
	skipped    func(path, why string)

	owners owners
	// tablespaces are the version directories of tablespaces that pg_tblspc links to. One that lies inside the data directory is
	// not listed there as well.
	tablespaces map[identity]bool
	following   []identity // directories outside that links have led into, innermost last
	files       []File
}

func (b *Backup) newWalker() (*walker, error) {
	control, err := pg.ReadControl(b.c.root)
	if err != nil {
		return nil, err
	}
	info := &b.c.info
	w := &walker{
		root:        b.c.root,
		versionDir:  fmt.Sprintf("PG_%d_%d", info.Major(), control.CatalogVersion), // TABLESPACE_VERSION_DIRECTORY in relpath.h
		statsTemp:   relativeStatsTemp(info.statsTemp, b.c.root, info.DataDirectory),
		relSegSize:  info.Layout.RelSegSize,
		skipped:     b.c.events.Skipped,
		owners:      newOwners(),
		tablespaces: make(map[identity]bool),
	}
	if w.skipped == nil {
		w.skipped = func(string, string) {}
	}
	if w.rootStat, err = stat(w.root); err != nil {
		return nil, err
	}
	return w, nil
}

func (w *walker) data(ctx context.Context) error {
	if err := w.findTablespaces(); err != nil {
		return err
	}
	w.files = append(w.files, File{Entry: w.owners.entry(snapshot.DataRoot, snapshot.Dir, w.rootStat), Disk: w.root})
	return w.dir(ctx, w.root, "")
}

func (w *walker) findTablespaces() error {
	dir := filepath.Join(w.root, "pg_tblspc")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Type() != fs.ModeSymlink || !isNumber(e.Name()) {
			continue
		}
		st, err := stat(filepath.Join(dir, e.Name(), w.versionDir))
		if gone(err) {
			continue
		}
		if err != nil {
			return err
		}
		w.tablespaces[identityOf(st)] = true
	}
	return nil
}

func isNumber(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}

// gone reports whether something is not there: it vanished since it was listed, or a link leads nowhere.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR)
}

// dir lists the contents of the directory at disk, rel being its path in the data directory ("" for that itself).
func (w *walker) dir(ctx context.Context, disk, rel string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	entries, err := os.ReadDir(disk)
	if gone(err) && rel != "" {
		return nil
	}
	if err != nil {
		return err
	}
	prefix := rel
	if rel != "" {
		prefix += "/"
	}
	unlogged := unloggedIn(prefix, entries)
	for _, e := range entries {
		path := prefix + e.Name()
		if excluded(path, e.Name()) {
			continue
		}
		relation, isRelation := pg.ParseRelPath(path)
		if isRelation && (relation.Temp || relation.Fork != pg.ForkInit && unlogged[relation.Relfilenode]) {
			continue
		}
		if err := w.entry(ctx, filepath.Join(disk, e.Name()), path); err != nil {
			return err
		}
	}
	return nil
}

// unloggedIn finds the unlogged relations in a directory: those with an init fork, from which recovery makes the others. nil when
// there are none.
func unloggedIn(prefix string, entries []fs.DirEntry) map[uint32]bool {
	var found map[uint32]bool
	for _, e := range entries {
		if r, ok := pg.ParseRelPath(prefix + e.Name()); ok && r.Fork == pg.ForkInit && !r.Temp {
			if found == nil {
				found = make(map[uint32]bool)
			}
			found[r.Relfilenode] = true
		}
	}
	return found
}

// entry lists one thing and what is below it.
func (w *walker) entry(ctx context.Context, disk, rel string) error {
	st, err := lstat(disk)
	if gone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	switch kind(st) {
	case unix.S_IFREG:
		w.file(disk, rel, "", st)
	case unix.S_IFDIR:
		return w.directory(ctx, disk, rel, "", st)
	case unix.S_IFLNK:
		return w.link(ctx, disk, rel, st)
	default:
		w.skipped(disk, kindName(st))
	}
	return nil
}

func (w *walker) file(disk, rel, link string, st *unix.Stat_t) {
	f := File{Entry: w.owners.entry(snapshot.DataRoot+"/"+rel, snapshot.File, st), Disk: disk, Control: rel == pg.ControlPath}
	f.Entry.Link = link
	if relation, ok := pg.ParseRelPath(rel); ok {
		f.Relation, f.Fork, f.FirstBlock = true, relation.Fork, relation.Segment*w.relSegSize
	}
	w.files = append(w.files, f)
}

func (w *walker) directory(ctx context.Context, disk, rel, link string, st *unix.Stat_t) error {
	if w.tablespaces[identityOf(st)] && filepath.Dir(filepath.Dir(rel)) != "pg_tblspc" {
		return nil // a tablespace inside the data directory: listed below pg_tblspc
	}
	e := w.owners.entry(snapshot.DataRoot+"/"+rel, snapshot.Dir, st)
	e.Link = link
	w.files = append(w.files, File{Entry: e, Disk: disk})
	if w.emptied(rel) {
		return nil
	}
	return w.dir(ctx, disk, rel)
}
