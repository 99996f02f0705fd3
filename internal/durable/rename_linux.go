package durable

import (
	"os"

	"golang.org/x/sys/unix"
)

// renameNew renames temp to path and fails with fs.ErrExist when path is taken.
func renameNew(temp, path string) error {
	err := unix.Renameat2(unix.AT_FDCWD, temp, unix.AT_FDCWD, path, unix.RENAME_NOREPLACE)
	if err != nil {
		return &os.LinkError{Op: "renameat2", Old: temp, New: path, Err: err}
	}
	return nil
}
