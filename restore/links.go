package restore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pgtrove/pgtrove/snapshot"
)

// linked is a file or directory that the data directory had a link to, and that is to be a link again (Options.LinkAll).
type linked struct {
	path string // in the listing
	to   string // absolute, clean
	dir  bool
	have bool // a file that is there already, with the snapshot's content
}

// findLinks finds what is to be linked, and makes sure that nothing is in its way.
func (d *destination) findLinks(ctx context.Context, c *source, o *Options) error {
	if !o.LinkAll {
		return nil
	}
	return o.Snapshot.Root.Walk(ctx, c, func(e *snapshot.Entry) error {
		rel, inside := strings.CutPrefix(e.Path, snapshot.DataRoot+"/")
		if !inside || e.Link == "" || e.Type != snapshot.Dir && e.Type != snapshot.File {
			return nil
		}
		l := linked{path: e.Path, to: e.Link, dir: e.Type == snapshot.Dir}
		if !filepath.IsAbs(l.to) {
			l.to = filepath.Join(d.dir, path.Dir(rel), l.to)
		}
		l.to = filepath.Clean(l.to)
		if err := d.checkLink(&l); err != nil {
			return err
		}
		if err := l.checkContent(ctx, c, e, d.present); err != nil {
			return err
		}
		d.links = append(d.links, l)
		return nil
	})
}

// checkLink makes sure that what is linked to is nothing else's place.
func (d *destination) checkLink(l *linked) error {
	clash := func(what string) error {
		return &RefusedError{Reason: fmt.Sprintf("%s was a link to %s, which is %s now", l.path, l.to, what), Hint: "restore without --link-all"}
	}
	real := truePath(l.to)
	overlaps := func(path string) bool { return within(real, path) || within(path, real) }
	if overlaps(d.real) {
		return clash("part of the directory that is restored into")
	}
	for _, s := range d.spaces {
		if overlaps(s.real) {
			return clash("the place of tablespace " + s.oid)
		}
	}
	for _, other := range d.links {
		if overlaps(truePath(other.to)) {
			return clash("the place of " + other.path)
		}
	}
	return nil
}

// checkContent makes sure that nothing is overwritten: a directory has to be empty or new, a file new or the snapshot's already.
// What a restore that did not finish put there is its own.
func (l *linked) checkContent(ctx context.Context, c *source, e *snapshot.Entry, p *present) error {
	if p != nil && p.left != nil && p.left.links[l.path] == l.to {
		return nil
	}
	taken := &RefusedError{
		Reason: fmt.Sprintf("%s cannot be a link to %s again: that is not empty", l.path, l.to),
		Hint:   "empty it or move it away; or restore without --link-all, which puts its content into the data directory",
	}
	if l.dir {
		_, names, err := lookAt(l.to)
		if err == nil && len(names) > 0 {
			return taken
		}
		return err
	}
	info, err := os.Lstat(l.to)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at the destination: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() != e.Size || e.Size > maxSmall {
		return taken
	}
	there, err := os.ReadFile(l.to)
	if err != nil {
		return fmt.Errorf("look at the destination: %w", err)
	}
	want, err := readFile(ctx, c, e)
	if err != nil {
		return err
	}
	if !bytes.Equal(there, want) {
		return taken
	}
	l.have = true
	return nil
}

// linkAt finds the link that an entry is, or lies below; nil if there is none. Of several the innermost counts.
func (d *destination) linkAt(listed string) *linked {
	var found *linked
	for i := range d.links {
		l := &d.links[i]
		if within(listed, l.path) && (found == nil || len(l.path) > len(found.path)) {
			found = l
		}
	}
	return found
}

// makeLinked opens the directories that links lead to, made if need be.
func (l *layout) makeLinked() error {
	for i := range l.dest.links {
		k := &l.dest.links[i]
		dir := k.to
		if !k.dir {
			dir = filepath.Dir(k.to)
		}
		root, err := makeRoot(dir)
		if err != nil {
			return err
		}
		l.linked[k.path] = root
	}
	return nil
}

// behind is the place of an entry that is linked, or lies below one that is.
func (l *layout) behind(k *linked, listed string) place {
	root := l.linked[k.path]
	if !k.dir {
		return place{root, filepath.Base(k.to)}
	}
	rel := strings.TrimPrefix(strings.TrimPrefix(listed, k.path), "/")
	return place{root, filepath.Join(".", rel)}
}

// relink makes the link of an entry that is one again. The content follows at the place that locate gives; done says that
// it is there already.
func (r *runner) relink(e *snapshot.Entry) (done bool, err error) {
	k := r.layout.dest.linkAt(e.Path)
	if k == nil || k.path != e.Path {
		return false, nil
	}
	dir, err := r.layout.locate(path.Dir(e.Path))
	if err != nil {
		return false, err
	}
	p := place{dir.root, filepath.Join(dir.rel, path.Base(e.Path))}
	r.report.Linked = append(r.report.Linked, Moved{From: filepath.Join(r.report.Dir, strings.TrimPrefix(e.Path, snapshot.DataRoot)), To: k.to})
	return k.have, r.link(e, p, e.Link)
}

// isLinked says whether an entry is a link again.
func (r *runner) isLinked(e *snapshot.Entry) bool {
	return slices.ContainsFunc(r.layout.dest.links, func(l linked) bool { return l.path == e.Path })
}
