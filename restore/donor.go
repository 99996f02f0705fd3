package restore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/pgtrove/pgtrove/snapshot"
)

// maxDonorNames bounds how many files of a donor are known by their names alone; each takes about 150 bytes.
const maxDonorNames = 1 << 19

// donor is another data directory on this host, from which pages are taken that are proved to be the right ones. Its server may
// run meanwhile. It is only read.
type donor struct {
	data   *os.Root
	spaces map[string]*os.Root // by OID
	names  map[string]place    // relation files by name; nil: not looked for yet
}

// checkDonor makes sure that dir can be read, and is not the destination itself.
func (d *destination) checkDonor(dir string) error {
	there, names, err := lookAt(dir)
	switch {
	case err != nil:
		return err
	case !there || len(names) == 0:
		return &RefusedError{Reason: fmt.Sprintf("there is nothing in %s to be reused", dir)}
	case sameFile(dir, d.dir):
		return &RefusedError{
			Reason: fmt.Sprintf("%s is the directory that is restored into", dir),
			Hint:   "to use what is in it already, give --delta",
		}
	case lies(dir, d.dir) || lies(d.dir, dir):
		return &RefusedError{Reason: fmt.Sprintf("%s and %s lie one in the other: nothing can be reused", dir, d.dir)}
	}
	return nil
}

func openDonorDir(dir string) (*donor, error) {
	data, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open the directory to be reused: %w", err)
	}
	d := &donor{data: data, spaces: map[string]*os.Root{}}
	links, err := spaceLinks(dir)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open the directory to be reused: %w", err), d.close())
	}
	for oid, to := range links {
		// One that is not there has nothing to give.
		if root, err := os.OpenRoot(to); err == nil {
			d.spaces[oid] = root
		}
	}
	return d, nil
}

func (d *donor) close() error {
	err := d.data.Close()
	for _, r := range d.spaces {
		err = errors.Join(err, r.Close())
	}
	return err
}

// find returns the donor's file for a path of the listing: the one at the same place, or else, for relations, one of the same
// name elsewhere, as after a move to another tablespace; nil if there is none.
func (d *donor) find(listed string) *place {
	rel, ok := strings.CutPrefix(listed, snapshot.DataRoot+"/")
	if !ok {
		return nil
	}
	p := place{d.data, rel}
	if below, ok := strings.CutPrefix(rel, "pg_tblspc/"); ok {
		oid, inside, _ := strings.Cut(below, "/")
		if root := d.spaces[oid]; root != nil && inside != "" {
			p = place{root, inside}
		}
	}
	if info, err := p.root.Lstat(p.rel); err == nil && info.Mode().IsRegular() {
		return &p
	}
	name := path.Base(rel)
	if name == "" || name[0] < '1' || name[0] > '9' {
		return nil
	}
	if d.names == nil {
		d.learn()
	}
	if p, ok := d.names[name]; ok {
		return &p
	}
	return nil
}

// learn looks for the names of relation files, in base and in the tablespaces.
func (d *donor) learn() {
	d.names = map[string]place{}
	from := func(root *os.Root, top string) {
		_ = fs.WalkDir(root.FS(), top, func(path string, e fs.DirEntry, err error) error {
			switch {
			case err != nil && e != nil && e.IsDir():
				return fs.SkipDir // it may vanish at any time
			case err != nil || len(d.names) >= maxDonorNames:
				return fs.SkipAll
			case e.Type().IsRegular() && e.Name()[0] >= '1' && e.Name()[0] <= '9':
				d.names[e.Name()] = place{root, filepath.FromSlash(path)}
			}
			return nil
		})
	}
	from(d.data, "base")
	for _, root := range d.spaces {
		from(root, ".")
	}
}
