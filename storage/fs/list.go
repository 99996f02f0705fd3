package fs

import (
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"slices"
	"strings"

	"github.com/pgtrove/pgtrove/storage"
)

// List implements storage.Store. It holds the names of one directory per level in memory, not those of the
// whole tree. Names that cannot be keys (temporary files, lost+found) are not objects and not shown.
func (s *Store) List(ctx context.Context, prefix string, fn func(storage.Info) error) error {
	if err := begin(ctx, "list", prefix, storage.CheckPrefix); err != nil {
		return err
	}
	if err := s.present("list", prefix); err != nil {
		return err
	}
	dir := prefix[:strings.LastIndexByte(prefix, '/')+1]
	w := walk{s: s, prefix: prefix, fn: fn}
	if err := w.dir(ctx, dir); err != nil {
		return err
	}
	// When the file system went away in between, its directories looked empty: this must not pass for the end.
	return s.present("list", prefix)
}

type walk struct {
	s      *Store
	prefix string
	fn     func(storage.Info) error
}

// dir walks the directory whose keys begin with under, which is empty or ends in a slash.
func (w *walk) dir(ctx context.Context, under string) error {
	if len(under) > storage.MaxKey {
		return w.fail(under, errTooDeep)
	}
	entries, err := os.ReadDir(w.s.root + "/" + under)
	if absent(err) {
		return nil
	}
	if err != nil {
		return w.fail(under, err)
	}
	names := make([]string, 0, len(entries)) // a directory's ends in a slash
	for _, e := range entries {
		if storage.CheckPart(e.Name()) != nil || !overlap(under+e.Name(), w.prefix) {
			continue
		}
		name, err := w.name(under, e)
		if absent(err) && dangling(w.s.path(under+e.Name())) {
			return w.s.unreachable("list", w.prefix, errDangling)
		}
		if absent(err) {
			continue
		}
		if err != nil {
			return w.fail(under+e.Name(), err)
		}
		names = append(names, name)
	}
	// As keys sort: everything in the directory "a" begins with "a/", which comes after "a-b" and before "a0".
	slices.Sort(names)
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return &storage.Error{Op: "list", Key: w.prefix, Err: err}
		}
		if strings.HasSuffix(name, "/") {
			err = w.dir(ctx, under+name)
		} else {
			err = w.file(under + name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

var errTooDeep = errors.New("directories nest too deep (a link in a circle?)")

// name gives the entry's, with a slash if it is a directory or a link to one.
func (w *walk) name(under string, e iofs.DirEntry) (string, error) {
	isDir := e.IsDir()
	if e.Type()&iofs.ModeSymlink != 0 {
		info, err := os.Stat(w.s.path(under + e.Name()))
		if err != nil {
			return "", err
		}
		isDir = info.IsDir()
	}
	if isDir {
		return e.Name() + "/", nil
	}
	return e.Name(), nil
}

func (w *walk) file(key string) error {
	info, err := os.Stat(w.s.path(key))
	switch {
	case absent(err):
		return nil // deleted since the directory was read
	case err != nil:
		return w.fail(key, err)
	case !info.Mode().IsRegular() || !strings.HasPrefix(key, w.prefix):
		return nil
	}
	return w.fn(storage.Info{Key: key, Size: info.Size(), ModTime: info.ModTime()})
}

func (w *walk) fail(key string, err error) error {
	return wrap("list", w.prefix, fmt.Errorf("at %q: %w", key, err))
}

// overlap reports whether key or something below it can begin with prefix.
func overlap(key, prefix string) bool {
	if len(key) < len(prefix) {
		return strings.HasPrefix(prefix, key+"/")
	}
	return strings.HasPrefix(key, prefix)
}
