package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"filippo.io/age"
)

// countingIdentity stands for the slow derivation.
type countingIdentity struct{ calls int }

func (c *countingIdentity) Unwrap([]*age.Stanza) ([]byte, error) {
	c.calls++
	return bytes.Repeat([]byte{7}, unlockedKey), nil
}

type failingIdentity struct{}

func (failingIdentity) Unwrap([]*age.Stanza) ([]byte, error) { return nil, age.ErrIncorrectIdentity }

func TestAPassphraseIsDerivedOncePerBundle(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "unlocked")
	slow := &countingIdentity{}
	u := unlockedIdentity{passphrase: "right", inner: slow, dir: dir}
	bundle := []*age.Stanza{{Type: "scrypt", Args: []string{"salt", "18"}, Body: []byte("wrapped")}}
	other := []*age.Stanza{{Type: "scrypt", Args: []string{"salt", "18"}, Body: []byte("another")}}
	unwrap := func(u unlockedIdentity, s []*age.Stanza, calls int) {
		t.Helper()
		key, err := u.Unwrap(s)
		if err != nil || len(key) != unlockedKey || slow.calls != calls {
			t.Fatalf("key of %d bytes, %v, after %d derivations; want %d", len(key), err, slow.calls, calls)
		}
	}
	unwrap(u, bundle, 1)
	unwrap(u, bundle, 1)
	unwrap(u, other, 2)

	wrong := unlockedIdentity{passphrase: "wrong", inner: failingIdentity{}, dir: dir}
	if _, err := wrong.Unwrap(bundle); !errors.Is(err, age.ErrIncorrectIdentity) {
		t.Errorf("another passphrase opened it: %v", err)
	}

	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 2 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, f := range files {
		path := filepath.Join(dir, f.Name())
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, %v", f.Name(), info.Mode(), err)
		}
		if err := os.Chmod(path, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	unwrap(u, bundle, 3) // a file that others may read, and so may have put there, does not count
	unwrap(u, bundle, 3)
	for _, f := range files {
		path := filepath.Join(dir, f.Name())
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		text[unlockedSalt+unlockedCheck] ^= 1
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	unwrap(u, bundle, 4) // a rotten key is not handed out
}
