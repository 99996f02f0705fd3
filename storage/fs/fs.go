// Package fs is a Store in a directory: keys are paths, objects are files.
//
// It never overwrites a file, shows no file before its content is durable, and never takes a storage that is gone (an
// unmounted network share) for an empty one. It cannot enforce anything against the user it runs as: whoever may create
// files here may remove them. repo uses it for every repository that is a directory.
package fs

import (
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/pgtrove/pgtrove/internal/durable"
	"github.com/pgtrove/pgtrove/storage"
)

// Store is a directory. Use Open or Create.
type Store struct {
	root     string
	dirMode  os.FileMode
	fileMode os.FileMode
	owner    *durable.Owner // of what is made; nil: whoever makes it
	// founding is set by Create until config is there: only then may the root lack it.
	founding atomic.Bool
}

// Open returns the store in the directory root. It does not look whether root holds a repository: reading
// storage.ConfigKey tells, with ErrNotExist.
//
// Files are made with mode 0600 and directories with 0700 whatever the umask is; where root grants its group
// access, the group may read files, and directories have root's group bits, as PostgreSQL does in a data
// directory with group access.
// Errors: storage.ErrNotExist when root is not there, storage.ErrDenied.
func Open(root string) (*Store, error) {
	abs, err := filepath.Abs(root)
	if err != nil {
		return nil, fmt.Errorf("open directory %s: %w", root, err)
	}
	info, err := os.Stat(abs)
	if err != nil {
		return nil, wrap("open", "directory", err)
	}
	if !info.IsDir() {
		return nil, &storage.Error{Op: "open", Key: abs, Class: storage.ErrNotExist, Err: errNotDir}
	}
	s := &Store{root: abs, dirMode: 0o700, fileMode: 0o600}
	if group := info.Mode() & 0o070; group != 0 {
		s.dirMode |= group | info.Mode()&os.ModeSetgid
		s.fileMode |= 0o040
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && os.Geteuid() == 0 && (st.Uid != 0 || st.Gid != 0) {
		s.owner = &durable.Owner{UID: int(st.Uid), GID: int(st.Gid)}
	}
	return s, nil
}

// Create returns the store in root for a new repository: root is made if it is missing, its parents too. Until the first
// Put of storage.ConfigKey through it, this Store works without one.
// Errors: storage.ErrExist when root holds a config, storage.ErrNotEmpty when it holds anything else (but
// lost+found), then nothing was changed.
func Create(root string) (*Store, error) {
	entries, err := os.ReadDir(root)
	switch {
	case errors.Is(err, iofs.ErrNotExist):
		if err := durable.MkdirAll(root, 0o700); err != nil {
			return nil, wrap("create", root, err)
		}
	case err != nil:
		return nil, wrap("create", root, err)
	}
	var other bool
	for _, e := range entries {
		if e.Name() == storage.ConfigKey {
			return nil, &storage.Error{Op: "create", Key: root, Class: storage.ErrExist}
		}
		other = other || e.Name() != "lost+found"
	}
	if other {
		return nil, &storage.Error{Op: "create", Key: root, Class: storage.ErrNotEmpty}
	}
	s, err := Open(root)
	if err != nil {
		return nil, err
	}
	s.founding.Store(true)
	return s, nil
}

var (
	errNotDir   = errors.New("not a directory")
	errNested   = errors.New("one object's key is a directory of another's")
	errDangling = errors.New("a link in it leads nowhere (is a file system not mounted?)")
	errNoConfig = errors.New("the directory has no config any more (is a file system not mounted?)")
)

func (s *Store) path(key string) string { return s.root + "/" + key }

// present makes sure that the repository is still under root. Callers ask it before they believe in an absence.
func (s *Store) present(op, key string) error {
	if s.founding.Load() || key == storage.ConfigKey {
		return nil
	}
	_, err := os.Lstat(s.path(storage.ConfigKey))
	if absent(err) {
		return s.unreachable(op, key, errNoConfig)
	}
	if err != nil {
		return wrap(op, key, err)
	}
	for i := range len(key) {
		if key[i] == '/' && dangling(s.path(key[:i])) {
			return s.unreachable(op, key, errDangling)
		}
	}
	return nil
}

func (s *Store) unreachable(op, key string, err error) error {
	return &storage.Error{Op: op, Key: key, Class: storage.ErrUnreachable, Err: fmt.Errorf("%s: %w", s.root, err)}
}

// dangling reports whether path is a link to nothing: a person may have moved a directory to another disk, which is gone.
func dangling(path string) bool {
	info, err := os.Lstat(path)
	if err != nil || info.Mode()&os.ModeSymlink == 0 {
		return false
	}
	_, err = os.Stat(path)
	return absent(err)
}

// readStep is how much Get reads between two looks at the context.
const readStep = 4 << 20

// Get implements storage.Store. dst grows at most once, to the exact size.
func (s *Store) Get(ctx context.Context, key string, r storage.Range, dst []byte) ([]byte, error) {
	if err := begin(ctx, "get", key, storage.CheckKey); err != nil {
		return nil, err
	}
	f, err := os.Open(s.path(key))
	if absent(err) {
		return nil, s.notExist("get", key)
	}
	if err != nil {
		return nil, wrap("get", key, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, wrap("get", key, err)
	}
	if !info.Mode().IsRegular() {
		return nil, s.notExist("get", key)
	}
	off, n := r.Resolve(info.Size())
	out := dst
	if int64(cap(dst)-len(dst)) < n {
		out = make([]byte, len(dst), int64(len(dst))+n)
		copy(out, dst)
	}
	for n > 0 {
		if err := ctx.Err(); err != nil {
			return nil, &storage.Error{Op: "get", Key: key, Err: err}
		}
		part := out[len(out) : int64(len(out))+min(n, readStep)]
		if _, err := f.ReadAt(part, off); err != nil {
			return nil, wrap("get", key, err)
		}
		out = out[:len(out)+len(part)]
		off += int64(len(part))
		n -= int64(len(part))
	}
	return out, nil
}

func (s *Store) notExist(op, key string) error {
	if err := s.present(op, key); err != nil {
		return err
	}
	return &storage.Error{Op: op, Key: key, Class: storage.ErrNotExist}
}

// putTries bounds how often Put makes a directory anew that a Delete beside it removed as empty.
const putTries = 100

// Put implements storage.Store. An object whose name could not be made durable stays: another writer may have made it so, and told success.
func (s *Store) Put(ctx context.Context, key string, data []byte) error {
	err := s.put(ctx, key, data)
	// Between us and the files no answers are lost. So what a caller can read after another error is what somebody has not synced, or not yet.
	if e := (*storage.Error)(nil); errors.As(err, &e) && !errors.Is(err, storage.ErrExist) {
		e.NotDurable = true
	}
	return err
}

func (s *Store) put(ctx context.Context, key string, data []byte) error {
	if err := begin(ctx, "put", key, storage.CheckKey); err != nil {
		return err
	}
	if err := s.present("put", key); err != nil {
		return err
	}
	path := s.path(key)
	info, err := os.Lstat(path)
	switch {
	case err == nil && info.IsDir():
		return &storage.Error{Op: "put", Key: key, Class: storage.ErrKey, Err: errNested}
	case err == nil:
		return s.taken(key)
	case !absent(err):
		return wrap("put", key, err)
	}
	for range putTries {
		err = durable.CreateFor(s.owner, path, s.fileMode, data)
		if !errors.Is(err, iofs.ErrNotExist) {
			break
		}
		if err := ctx.Err(); err != nil {
			return &storage.Error{Op: "put", Key: key, Err: err}
		}
		// Only now: a directory made under an unmounted mount point would hide there once it is mounted.
		if err := s.present("put", key); err != nil {
			return err
		}
		if err = durable.MkdirAllFor(s.owner, filepath.Dir(path), s.dirMode); err != nil && !errors.Is(err, iofs.ErrNotExist) {
			break
		}
	}
	switch {
	case errors.Is(err, iofs.ErrExist):
		return s.taken(key)
	case errors.Is(err, syscall.ENOTDIR):
		return &storage.Error{Op: "put", Key: key, Class: storage.ErrKey, Err: errNested}
	case err != nil:
		return wrap("put", key, err)
	}
	if key == storage.ConfigKey {
		s.founding.Store(false)
	}
	return nil
}

// taken answers ErrExist. The other writer may not have got as far as the fsync of the directory, or failed in it, and our
// caller may take "exists" for "stored".
func (s *Store) taken(key string) error {
	if err := durable.Sync(s.path(key)); err != nil && !absent(err) {
		return wrap("put", key, err)
	}
	return &storage.Error{Op: "put", Key: key, Class: storage.ErrExist}
}

// Delete implements storage.Store. It also removes directories that it leaves empty, but never those right under the root.
func (s *Store) Delete(ctx context.Context, key string) error {
	if err := begin(ctx, "delete", key, storage.CheckKey); err != nil {
		return err
	}
	// Not os.Remove, which would take an empty directory for an object.
	err := syscall.Unlink(s.path(key))
	gone := absent(err) || errors.Is(err, syscall.EISDIR)
	if err != nil && !gone {
		return wrap("delete", key, err)
	}
	// Also where it is gone already: who removed it may have died before it was durable.
	dir := filepath.Dir(s.path(key))
	if err := durable.SyncDir(dir); err != nil && !absent(err) {
		return wrap("delete", key, err)
	}
	if gone {
		return s.present("delete", key)
	}
	for strings.Count(dir[len(s.root):], "/") > 1 && syscall.Rmdir(dir) == nil {
		dir = filepath.Dir(dir)
	}
	return nil
}

func begin(ctx context.Context, op, key string, check func(string) error) error {
	if err := ctx.Err(); err != nil {
		return &storage.Error{Op: op, Key: key, Err: err}
	}
	if err := check(key); err != nil {
		return &storage.Error{Op: op, Key: key, Err: err}
	}
	return nil
}

// absent reports whether err says that a path is not there.
func absent(err error) bool {
	return errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ENOTDIR)
}

// wrap gives an error of the operating system its class.
func wrap(op, key string, err error) error {
	e := &storage.Error{Op: op, Key: key, Err: err}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		// Objects do not shrink: the file system gave less than its own fstat promised.
		e.Class = storage.ErrUnreachable
		return e
	}
	var no syscall.Errno
	if !errors.As(err, &no) {
		return e
	}
	switch no {
	case syscall.ENOENT, syscall.ENOTDIR:
		e.Class = storage.ErrNotExist
	case syscall.EACCES, syscall.EPERM:
		e.Class = storage.ErrDenied
	case syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG:
		// EFBIG: the process's own file size limit (ulimit -f), or the file system's.
		e.Class = storage.ErrFull
		e.Err = no // the name of a temporary file helps nobody
	case syscall.EROFS:
		e.Class = storage.ErrReadOnly
	case syscall.EIO, syscall.ESTALE, syscall.ENOTCONN, syscall.ENODEV, syscall.ENXIO, syscall.ETIMEDOUT,
		syscall.EHOSTDOWN, syscall.EHOSTUNREACH, syscall.ENETDOWN, syscall.ENETUNREACH, syscall.ESHUTDOWN:
		e.Class = storage.ErrUnreachable
	}
	return e
}
