package main

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"filippo.io/age"

	"github.com/pgtrove/pgtrove/internal/durable"
)

// unlockedIdentity is a passphrase that remembers, in a file of mode 0600, the key it found in a bundle. Deriving
// it again takes a second and 256 MiB by design, and archive_command runs once per WAL segment. Only wal push and wal
// fetch use it. A repository may have bundles of other passphrases, which cost the same to try: that ours does not open one is remembered
// as well, for a day.
//
// The files give nothing to anybody who could not read the passphrase as well. They hold sixteen bits of a hash of the
// passphrase, so that a changed one is noticed and the file is no help in guessing it.
type unlockedIdentity struct {
	passphrase secret
	inner      age.Identity
	dir        string
	now        func() time.Time
}

// notOurs is for how long it is believed that a passphrase does not open a bundle. Of 65,536 passphrases one is taken for another by these files; that a new
// one should be the one that a former one, that was wrong, passes for, must not lock anybody out for good.
const notOurs = 24 * time.Hour

const (
	unlockedSalt  = 32
	unlockedCheck = 2
	unlockedKey   = 16 // an age file key
	unlockedSum   = 8  // a plain hash of the above: a rotten file must not make a bundle look damaged
)

// Unwrap implements age.Identity.
func (u unlockedIdentity) Unwrap(stanzas []*age.Stanza) ([]byte, error) {
	path := filepath.Join(u.dir, u.name(stanzas))
	if !slices.ContainsFunc(stanzas, func(s *age.Stanza) bool { return s.Type == "scrypt" }) {
		return u.inner.Unwrap(stanzas) // that is no passphrase's, and costs nothing
	}
	if key, _ := u.read(path, unlockedKey); key != nil {
		return key, nil
	}
	if key, written := u.read(path+notOursSuffix, 0); key != nil {
		if age := u.now().Sub(written); age >= 0 && age < notOurs {
			return nil, errNotOurs
		}
	}
	key, err := u.inner.Unwrap(stanzas)
	switch {
	case err == nil && len(key) == unlockedKey:
		u.write(path, key)
	case errors.Is(err, age.ErrIncorrectIdentity):
		u.write(path+notOursSuffix, nil)
	}
	return key, err
}

// notOursSuffix is that of the files about bundles that the passphrase does not open. They hold no key.
const notOursSuffix = ".not"

// errNotOurs says that the passphrase did not open the bundle when it was tried.
var errNotOurs = fmt.Errorf("%w, as it was found before", age.ErrIncorrectIdentity)

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

// read returns the key of size bytes, or nil where there is none to rely on, and when it was written.
func (u unlockedIdentity) read(path string, size int) (key []byte, written time.Time) {
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0 {
		return nil, written
	}
	b, err := os.ReadFile(path)
	if err != nil || len(b) != unlockedSalt+unlockedCheck+size+unlockedSum {
		return nil, written
	}
	content, sum := b[:len(b)-unlockedSum], b[len(b)-unlockedSum:]
	salt, check := content[:unlockedSalt], content[unlockedSalt:unlockedSalt+unlockedCheck]
	if !bytes.Equal(sum, unlockedDigest(content)) || !hmac.Equal(check, u.check(salt)) {
		return nil, written
	}
	return content[unlockedSalt+unlockedCheck:], info.ModTime()
}

func unlockedDigest(content []byte) []byte {
	sum := sha256.Sum256(content)
	return sum[:unlockedSum]
}

// write keeps the key, or that there is none. Where that fails the next call is slow, which is no reason to fail this one.
func (u unlockedIdentity) write(path string, key []byte) {
	salt := make([]byte, unlockedSalt)
	_, _ = rand.Read(salt) // never fails (crypto/rand)
	b := append(append(salt, u.check(salt)...), key...)
	b = append(b, unlockedDigest(b)...)
	if os.MkdirAll(u.dir, 0o700) == nil && durable.Replace(path, 0o600, b) == nil {
		_ = os.Chtimes(path, u.now(), u.now()) // a file server has a clock of its own
	}
}
