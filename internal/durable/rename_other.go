//go:build !linux

package durable

import (
	"errors"
	"os"
)

// renameNew: only Linux has a rename that does not replace.
func renameNew(temp, path string) error {
	return &os.LinkError{Op: "rename without replacing", Old: temp, New: path, Err: errors.ErrUnsupported}
}
