package main

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"

	"filippo.io/age"

	"github.com/pgtrove/pgtrove/internal/durable"
)

// unlockedIdentity is a passphrase that remembers, in a file of mode 0600, the key it found in a bundle. Deriving
// it again takes a second and 256 MiB by design, and archive_command runs once per WAL segment. Only wal push and wal
// fetch use it.
//
// The file gives nothing to anybody who could not read the passphrase as well. It holds sixteen bits of a hash of the
// passphrase, so that a changed one is noticed and the file is no help in guessing it.
type unlockedIdentity struct {
	passphrase secret
	inner      age.Identity
	dir        string
}

const (
	unlockedSalt  = 32
	unlockedCheck = 2
	unlockedKey   = 16 // an age file key
	unlockedSum   = 8  // a plain hash of the above: a rotten file must not make a bundle look damaged
)

// Unwrap implements age.Identity.
func (u unlockedIdentity) Unwrap(stanzas []*age.Stanza) ([]byte, error) {
	path := filepath.Join(u.dir, u.name(stanzas))
	if key := u.read(path); key != nil {
		return key, nil
	}
	key, err := u.inner.Unwrap(stanzas)
	if err == nil && len(key) == unlockedKey {
		u.write(path, key)
	}
	return key, err
}

// name binds the file to one bundle: the stanzas hold its salt and its wrapped key.
func (u unlockedIdentity) name(stanzas []*age.Stanza) string {
	h := sha256.New()
	for _, s := range stanzas {
		_, _ = fmt.Fprintf(h, "%q %q %d ", s.Type, s.Args, len(s.Body))
		h.Write(s.Body)
	}
	return hex.EncodeToString(h.Sum(nil))
}

func (u unlockedIdentity) check(salt []byte) []byte {
	m := hmac.New(sha256.New, salt)
	m.Write([]byte(u.passphrase))
	return m.Sum(nil)[:unlockedCheck]
}

// read returns the key, or nil where there is none to rely on.
func (u unlockedIdentity) read(path string) []byte {
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0 {
		return nil
	}
	b, err := os.ReadFile(path)
	if err != nil || len(b) != unlockedSalt+unlockedCheck+unlockedKey+unlockedSum {
		return nil
	}
	content, sum := b[:len(b)-unlockedSum], b[len(b)-unlockedSum:]
	salt, check, key := content[:unlockedSalt], content[unlockedSalt:unlockedSalt+unlockedCheck], content[unlockedSalt+unlockedCheck:]
	if !bytes.Equal(sum, unlockedDigest(content)) || !hmac.Equal(check, u.check(salt)) {
		return nil
	}
	return key
}

func unlockedDigest(content []byte) []byte {
	sum := sha256.Sum256(content)
	return sum[:unlockedSum]
}

// write keeps the key. Where that fails the next call is slow, which is no reason to fail this one.
func (u unlockedIdentity) write(path string, key []byte) {
	salt := make([]byte, unlockedSalt)
	_, _ = rand.Read(salt) // never fails (crypto/rand)
	b := append(append(salt, u.check(salt)...), key...)
	b = append(b, unlockedDigest(b)...)
	if os.MkdirAll(u.dir, 0o700) == nil {
		_ = durable.Replace(path, 0o600, b)
	}
}
