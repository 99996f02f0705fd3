package fs

import (
	"context"
	"errors"
	"os"
	"strings"
	"time"

	"github.com/pgtrove/pgtrove/internal/durable"
	"github.com/pgtrove/pgtrove/storage"
)

// Tidy implements storage.Tidier: it removes the temporary files of processes that were killed while they wrote. It also removes
// directories that are empty, but never those right under the root.
func (s *Store) Tidy(ctx context.Context, before time.Time) (files int, bytes int64, err error) {
	t := tidying{s: s, before: before}
	if err := t.dir(ctx, ""); err != nil {
		return t.files, t.bytes, &storage.Error{Op: "tidy", Key: "", Err: err}
	}
	return t.files, t.bytes, nil
}

type tidying struct {
	s      *Store
	before time.Time
	files  int
	bytes  int64
}

// dir tidies the directory under, which is empty or ends in a slash.
func (t *tidying) dir(ctx context.Context, under string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if len(under) > storage.MaxKey {
		return errTooDeep
	}
	path := t.s.path(under)
	entries, err := os.ReadDir(path)
	if absent(err) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		switch name := e.Name(); {
		case strings.HasPrefix(name, durable.TempPrefix):
			err = t.file(path + name)
		case storage.CheckPart(name) == nil && isDir(path+name):
			err = t.dir(ctx, under+name+"/")
		}
		if err != nil {
			return err
		}
	}
	if strings.Count(under, "/") > 1 {
		_ = os.Remove(path) // only if it is empty; a Put that needs it makes it again
	}
	return nil
}

// file removes a temporary file that nobody writes any more. Where it is the second name of an object, only that name goes.
func (t *tidying) file(path string) error {
	info, err := os.Lstat(path)
	switch {
	case absent(err):
		return nil
	case err != nil:
		return err
	case !info.Mode().IsRegular() || !info.ModTime().Before(t.before):
		return nil
	}
	err = os.Remove(path)
	if errors.Is(err, os.ErrPermission) || absent(err) {
		return nil // another account's, or another prune's
	}
	if err != nil {
		return err
	}
	t.files++
	t.bytes += info.Size()
	return nil
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}
