package restore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/pgtrove/pgtrove/internal/durable"
	"github.com/pgtrove/pgtrove/snapshot"
)

// layout turns paths of a listing into places on disk. Each place is a root and a path that cannot leave it, not even
// through a link.
type layout struct {
	dest   *destination
	data   *os.Root
	spaces map[string]*os.Root // by OID
	linked map[string]*os.Root // by path in the listing: what Options.LinkAll links to, of files the directory
	own    ownership
	marker *os.File // locked
}

// place is a file or directory on disk.
type place struct {
	root *os.Root
	rel  string
}

func (p place) path() string { return filepath.Join(p.root.Name(), p.rel) }

// make creates the destination's directories and the marker. From then on no server can start in it.
func (d *destination) make(o *Options) (*layout, error) {
	l := &layout{dest: d, spaces: map[string]*os.Root{}, linked: map[string]*os.Root{}, own: newOwnership()}
	var err error
	if l.data, err = makeRoot(d.dir); err != nil {
		return nil, err
	}
	if l.marker, err = d.claim(o); err != nil {
		return nil, errors.Join(err, l.close())
	}
	begin := d.stillEmpty
	if d.present != nil {
		begin = func() error { return d.disarm(l.data) }
	}
	if err := begin(); err != nil {
		return nil, errors.Join(err, l.close())
	}
	for _, s := range d.spaces {
		if l.spaces[s.oid], err = makeRoot(s.new); err != nil {
			return nil, errors.Join(err, l.close())
		}
	}
	if err := l.makeLinked(); err != nil {
		return nil, errors.Join(err, l.close())
	}
	return l, nil
}

func makeRoot(dir string) (*os.Root, error) {
	if err := durable.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return nil, fmt.Errorf("make %s: %w", filepath.Dir(dir), err)
	}
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make %s: %w", dir, err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", dir, err)
	}
	return root, nil
}

func (l *layout) close() error {
	var err error
	if l.data != nil {
		err = l.data.Close()
	}
	if l.marker != nil {
		err = errors.Join(err, l.marker.Close())
	}
	for _, roots := range []map[string]*os.Root{l.spaces, l.linked} {
		for _, r := range roots {
			if r != nil {
				err = errors.Join(err, r.Close())
			}
		}
	}
	return err
}

// locate says where an entry of the listing goes.
func (l *layout) locate(path string) (place, error) {
	if rest, ok := strings.CutPrefix(path, snapshot.ConfigRoot); ok && (rest == "" || rest[0] == '/') {
		return place{l.data, l.dest.config + rest}, nil
	}
	if path == snapshot.DataRoot {
		return place{l.data, "."}, nil
	}
	if k := l.dest.linkAt(path); k != nil {
		return l.behind(k, path), nil
	}
	rel, ok := strings.CutPrefix(path, snapshot.DataRoot+"/")
	if !ok {
		return place{}, fmt.Errorf("%w: path %q", ErrMismatch, path)
	}
	if below, ok := strings.CutPrefix(rel, "pg_tblspc/"); ok {
		oid, inside, deeper := strings.Cut(below, "/")
		if root := l.spaces[oid]; root != nil && deeper {
			return place{root, inside}, nil
		}
	}
	return place{l.data, rel}, nil
}

// shown is where an entry of the listing goes, also where nothing is made yet.
func (l *layout) shown(path string) string {
	if rest, ok := strings.CutPrefix(path, snapshot.ConfigRoot); ok && (rest == "" || rest[0] == '/') {
		return filepath.Join(l.dest.dir, l.dest.config, rest)
	}
	if k := l.dest.linkAt(path); k != nil {
		return filepath.Join(k.to, strings.TrimPrefix(path, k.path))
	}
	rel := strings.TrimPrefix(strings.TrimPrefix(path, snapshot.DataRoot), "/")
	if below, ok := strings.CutPrefix(rel, "pg_tblspc/"); ok {
		oid, inside, deeper := strings.Cut(below, "/")
		if s, ok := l.dest.space(oid); ok && deeper {
			return filepath.Join(s.new, inside)
		}
	}
	return filepath.Join(l.dest.dir, rel)
}

// mkdir makes a directory that may be there already: inside the data directory there are tablespaces' directories.
func (p place) mkdir() error {
	err := p.root.Mkdir(p.rel, 0o700)
	if errors.Is(err, fs.ErrExist) {
		if info, statErr := p.root.Lstat(p.rel); statErr == nil && info.IsDir() {
			return nil
		}
	}
	return err
}

// ownership finds out who restored files belong to: as root their former owners, by name where this host knows it;
// otherwise whoever runs the restore.
type ownership struct {
	root  bool
	known map[snapshot.Owner]ids
}

type ids struct{ uid, gid int }

func newOwnership() ownership {
	return ownership{root: os.Geteuid() == 0, known: map[snapshot.Owner]ids{}}
}

// of must not be called from several goroutines.
func (o *ownership) of(w snapshot.Owner) ids {
	if !o.root {
		return ids{-1, -1}
	}
	if i, ok := o.known[w]; ok {
		return i
	}
	i := ids{int(w.UID), int(w.GID)}
	if u, err := user.Lookup(w.User); w.User != "" && err == nil {
		if n, err := strconv.Atoi(u.Uid); err == nil {
			i.uid = n
		}
	}
	if g, err := user.LookupGroup(w.Group); w.Group != "" && err == nil {
		if n, err := strconv.Atoi(g.Gid); err == nil {
			i.gid = n
		}
	}
	o.known[w] = i
	return i
}

// attributes are what a file or directory gets at the end.
type attributes struct {
	mode  os.FileMode
	owner ids
	mtime time.Time
}

func (l *layout) attributes(e *snapshot.Entry) attributes {
	return attributes{mode: fileMode(e.Mode), owner: l.own.of(e.Owner), mtime: time.Unix(0, e.Stat.ModTime)}
}

// apply sets the attributes of f, which is open at p. The owner comes first: changing it clears set-user-ID bits.
func (a attributes) apply(p place, f *os.File) error {
	if a.owner.uid >= 0 {
		if err := f.Chown(a.owner.uid, a.owner.gid); err != nil {
			return err
		}
	}
	if err := f.Chmod(a.mode); err != nil {
		return err
	}
	return p.root.Chtimes(p.rel, a.mtime, a.mtime)
}
