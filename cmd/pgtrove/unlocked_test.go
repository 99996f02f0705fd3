package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"filippo.io/age"
)

// countingIdentity stands for the slow derivation.
type countingIdentity struct{ calls int }

func (c *countingIdentity) Unwrap([]*age.Stanza) ([]byte, error) {
	c.calls++
	return bytes.Repeat([]byte{7}, unlockedKey), nil
}

type failingIdentity struct{ calls *int }

func (f failingIdentity) Unwrap([]*age.Stanza) ([]byte, error) {
	if f.calls != nil {
		*f.calls++
	}
	return nil, age.ErrIncorrectIdentity
}

func TestAPassphraseIsDerivedOncePerBundle(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "unlocked")
	slow := &countingIdentity{}
	u := unlockedIdentity{passphrase: "right", inner: slow, dir: dir, now: time.Now}
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

	wrong := unlockedIdentity{passphrase: "wrong", inner: failingIdentity{}, dir: dir, now: time.Now}
	if _, err := wrong.Unwrap(bundle); !errors.Is(err, age.ErrIncorrectIdentity) {
		t.Errorf("another passphrase opened it: %v", err)
	}

	if err := os.Remove(filepath.Join(dir, wrong.name(bundle)+notOursSuffix)); err != nil {
		t.Errorf("that it did not is not remembered: %v", err)
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

func TestAPassphraseIsTriedOnABundleOfAnotherOnceADay(t *testing.T) {
	calls, now := 0, time.Now()
	clock := func() time.Time { return now }
	u := unlockedIdentity{passphrase: "ours", inner: failingIdentity{&calls}, dir: t.TempDir(), now: clock}
	theirs := []*age.Stanza{{Type: "scrypt", Args: []string{"salt", "18"}, Body: []byte("wrapped")}}
	try := func(u unlockedIdentity, s []*age.Stanza, want int) {
		t.Helper()
		if _, err := u.Unwrap(s); !errors.Is(err, age.ErrIncorrectIdentity) || calls != want {
			t.Errorf("%v, after %d derivations, want %d", err, calls, want)
		}
	}
	try(u, theirs, 1)
	try(u, theirs, 1)
	other := u
	other.passphrase = "changed"
	try(other, theirs, 2)
	try(u, theirs, 3) // which the other's file has taken the place of
	now = now.Add(notOurs + time.Minute)
	try(u, theirs, 4)
	now = now.Add(-2 * notOurs)
	try(u, theirs, 5) // a clock that was set back believes nothing

	files, err := os.ReadDir(u.dir)
	if err != nil || len(files) != 1 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	identity := []*age.Stanza{{Type: "X25519", Args: []string{"share"}, Body: []byte("wrapped")}}
	if _, err := u.Unwrap(identity); !errors.Is(err, age.ErrIncorrectIdentity) {
		t.Error(err)
	}
	if files, err = os.ReadDir(u.dir); err != nil || len(files) != 1 {
		t.Errorf("%d files after a bundle that no passphrase opens, %v", len(files), err)
	}
}
