package storage

import (
	"fmt"
	"strings"
)

// ConfigKey is the one object that every repository has. Drivers that cannot tell an empty storage from an
// absent one (a directory whose network share is not mounted) look for it before they say "absent".
const ConfigKey = "config"

// Limits of a key, in bytes. A part is a file name in storage/fs; a key fits the 1024 bytes of object
// storage with room for a prefix.
const (
	MaxKey  = 700
	MaxPart = 200
)

// CheckKey reports whether key may name an object; the error is ErrKey.
//
// A key is one or more parts joined by '/'. A part has 1 to MaxPart characters of A-Z a-z 0-9 . _ - and does not
// begin with a dot: such names are free for the drivers' own temporary files. No key may be another key plus
// '/' and more: a file system cannot hold both.
func CheckKey(key string) error {
	if err := check(key); err != nil {
		return err
	}
	if strings.HasSuffix(key, "/") {
		return fmt.Errorf("%w: %q ends in a slash", ErrKey, key)
	}
	return nil
}

// CheckPrefix reports whether some valid key begins with prefix; the error is ErrKey. The empty prefix is valid.
func CheckPrefix(prefix string) error {
	if prefix == "" {
		return nil
	}
	return check(prefix)
}

// CheckPart reports whether name may stand between two slashes of a key; the error is ErrKey. For callers that
// put names from outside (a cluster's, a file's) into keys.
func CheckPart(name string) error {
	if strings.Contains(name, "/") {
		return fmt.Errorf("%w: a slash in %q", ErrKey, name)
	}
	return check(name)
}

// check allows a slash at the end, which only a prefix may have.
func check(key string) error {
	if key == "" || len(key) > MaxKey {
		return fmt.Errorf("%w: %d bytes, want 1 to %d", ErrKey, len(key), MaxKey)
	}
	start := 0
	for i := 0; i <= len(key); i++ {
		if i < len(key) && key[i] != '/' {
			if !keyByte(key[i]) {
				return fmt.Errorf("%w: character %q in %q", ErrKey, key[i], key)
			}
			continue
		}
		part := key[start:i]
		switch {
		case part == "" && i == len(key) && i > 0:
			return nil
		case part == "":
			return fmt.Errorf("%w: empty part in %q", ErrKey, key)
		case part[0] == '.':
			return fmt.Errorf("%w: part %q of %q begins with a dot", ErrKey, part, key)
		case len(part) > MaxPart:
			return fmt.Errorf("%w: a part of %q is longer than %d bytes", ErrKey, key, MaxPart)
		}
		start = i + 1
	}
	return nil
}

func keyByte(c byte) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		return true
	}
	return c == '.' || c == '_' || c == '-'
}
