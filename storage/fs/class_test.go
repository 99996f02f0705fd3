package fs

import (
	"errors"
	"io"
	"os"
	"syscall"
	"testing"

	"github.com/pgtrove/pgtrove/storage"
)

// Errors that no test can have from a real file system here: a dead disk, a lost server.
func TestErrorsHaveAClass(t *testing.T) {
	for errno, want := range map[error]error{
		syscall.ENOENT: storage.ErrNotExist, syscall.ENOTDIR: storage.ErrNotExist,
		syscall.EACCES: storage.ErrDenied, syscall.EPERM: storage.ErrDenied,
		syscall.ENOSPC: storage.ErrFull, syscall.EDQUOT: storage.ErrFull, syscall.EFBIG: storage.ErrFull,
		syscall.EROFS: storage.ErrReadOnly,
		syscall.EIO:   storage.ErrUnreachable, syscall.ESTALE: storage.ErrUnreachable,
		syscall.ENOTCONN: storage.ErrUnreachable, syscall.EHOSTDOWN: storage.ErrUnreachable,
		syscall.ETIMEDOUT: storage.ErrUnreachable, io.EOF: storage.ErrUnreachable,
	} {
		err := wrap("get", "some/key", &os.PathError{Op: "read", Path: "/repo/some/key", Err: errno})
		if !errors.Is(err, want) {
			t.Errorf("%v: %v, want %v", errno, err, want)
		}
		if !errors.Is(err, errno) {
			t.Errorf("%v is not in %v", errno, err)
		}
		for _, other := range []error{storage.ErrNotExist, storage.ErrExist, storage.ErrDenied, storage.ErrFull,
			storage.ErrReadOnly, storage.ErrUnreachable} {
			if other != want && errors.Is(err, other) {
				t.Errorf("%v is %v too", errno, other)
			}
		}
	}
	if err := wrap("get", "k", syscall.EINVAL); !errors.Is(err, syscall.EINVAL) || err.Error() != "get k: invalid argument" {
		t.Errorf("an error without a class: %v", err)
	}
}
