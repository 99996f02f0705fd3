// Package keys holds the secrets of a repository: bundles of keys and the
// roles they are cut down to, their wrapping for a person, and the sealing
// and opening of what the other packages store.
//
// It does not know what it seals, does no I/O, and puts no secret into an
// error or a String. repo opens a bundle with it and takes sealers and
// openers from the bundle; cmd makes identities and reads passphrases.
//
// The formats and derivations are in docs/format.md, sections 2 and 5.
package keys

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/pgtrove/pgtrove/chunk"
)

var (
	// ErrLocked says that none of the given identities, or no key of the
	// bundle, fits.
	ErrLocked = errors.New("no key opens this")
	// ErrRole says that the bundle's role does not include the secret.
	ErrRole = errors.New("not allowed to this role")
	// ErrDamaged says that bytes are not what was sealed, or were sealed for
	// something else.
	ErrDamaged = errors.New("does not authenticate")
	// ErrFormat says that a bundle, an identity file or an encapsulation is
	// malformed.
	ErrFormat = errors.New("malformed key material")
	// ErrVersion says that a newer program wrote this.
	ErrVersion = errors.New("unknown version of key material")
)

// Role says what the holder of a bundle may do.
type Role string

const (
	// Owner may do everything.
	Owner Role = "owner"
	// Writer may back up, archive, deduplicate and list, but open neither
	// chunks nor WAL.
	Writer Role = "writer"
	// Standby is a Writer who may also open WAL.
	Standby Role = "standby"
)

// Valid says whether the role is known.
func (r Role) Valid() bool { return r == Owner || r == Writer || r == Standby }

// opensData and opensWAL are the table of roles.
func (r Role) opensData() bool { return r == Owner }
func (r Role) opensWAL() bool  { return r == Owner || r == Standby }

// SecretSize is the length of every secret of a bundle, in bytes: K_id and
// K_meta, and the seeds of the key pairs.
const SecretSize = 32

// Secret is a symmetric key or the seed of a key pair. The zero value is
// none.
type Secret [SecretSize]byte

// IsZero says whether there is no secret.
func (s Secret) IsZero() bool { return s == Secret{} }

// String hides the secret, so that a stray %v prints none.
func (Secret) String() string { return "keys.Secret" }

// GoString hides the secret from %#v.
func (Secret) GoString() string { return "keys.Secret" }

// Format hides the secret from every other verb.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(s.String())) }

// MarshalText fails: only Wrap writes secrets.
func (Secret) MarshalText() ([]byte, error) {
	return nil, errors.New("keys: a secret is written only by Wrap")
}

// KeyIDSize is the length of a key's ID in bytes.
const KeyIDSize = 8

// KeyID names a key pair: the first bytes of the SHA-256 of its public key.
type KeyID [KeyIDSize]byte

// String is the ID as 16 hexadecimal digits.
func (id KeyID) String() string { return hex.EncodeToString(id[:]) }

func keyID(public []byte) KeyID {
	sum := sha256.Sum256(public)
	return KeyID(sum[:KeyIDSize])
}

// KeyPair seals to Public and, where Secret is there, opens.
type KeyPair struct {
	ID     KeyID
	Public []byte // PublicKeySize bytes
	Secret Secret // zero where the role has none
}

// Bundle is the secrets of a repository, or what a role has of them. It is
// not changed after it was made. It has no JSON form: Wrap writes it.
type Bundle struct {
	Role       Role
	Repository string // the repository's ID
	Name       string // for people: who has this bundle
	Created    time.Time
	ChunkKey   chunk.Key // K_id
	MetaKey    Secret    // K_meta
	DataKeys   []KeyPair // oldest first; the last is sealed to
	WALKeys    []KeyPair // oldest first; the last is sealed to
}

// Generate makes the keys of a new repository: an Owner's bundle.
func Generate(repositoryID string) (*Bundle, error) {
	if repositoryID == "" {
		return nil, fmt.Errorf("generate keys: %w: no repository ID", ErrFormat)
	}
	b := &Bundle{Role: Owner, Repository: repositoryID, Created: time.Now().UTC().Truncate(time.Second)}
	_, _ = rand.Read(b.ChunkKey[:]) // never fails: crypto/rand
	_, _ = rand.Read(b.MetaKey[:])
	data, err := generateKeyPair()
	if err != nil {
		return nil, fmt.Errorf("generate data key: %w", err)
	}
	wal, err := generateKeyPair()
	if err != nil {
		return nil, fmt.Errorf("generate WAL key: %w", err)
	}
	b.DataKeys, b.WALKeys = []KeyPair{data}, []KeyPair{wal}
	return b, nil
}

// For is a copy of the bundle without the secrets that the role may not
// have. It wraps ErrRole if b itself lacks what the role has.
func (b *Bundle) For(role Role) (*Bundle, error) {
	if !role.Valid() {
		return nil, fmt.Errorf("make bundle: %w: unknown role %q", ErrFormat, string(role))
	}
	if role.opensData() && !b.Role.opensData() || role.opensWAL() && !b.Role.opensWAL() {
		return nil, fmt.Errorf("make bundle of role %s from one of role %s: %w", role, b.Role, ErrRole)
	}
	c := *b
	c.Role = role
	c.DataKeys = copyKeys(b.DataKeys, role.opensData())
	c.WALKeys = copyKeys(b.WALKeys, role.opensWAL())
	return &c, nil
}

func copyKeys(keys []KeyPair, secrets bool) []KeyPair {
	out := append([]KeyPair(nil), keys...)
	if !secrets {
		for i := range out {
			out[i].Secret = Secret{}
		}
	}
	return out
}

// IDKey is K_id, from which package chunk derives its keys.
func (b *Bundle) IDKey() chunk.Key { return b.ChunkKey }

// Meta seals and opens metadata with K_meta. Every role has it.
func (b *Bundle) Meta() (*Meta, error) { return newMeta(b.MetaKey) }

// DataSealer seals the chunks of one writing session to the newest data key.
func (b *Bundle) DataSealer(repositoryID, sid string) (*Sealer, error) {
	return newSealer(b.DataKeys, repositoryID, sid)
}

// WALSealer seals the chunks of one WAL file to the newest WAL key.
func (b *Bundle) WALSealer(repositoryID, sid string) (*Sealer, error) {
	return newSealer(b.WALKeys, repositoryID, sid)
}

// DataOpener opens what a DataSealer of the same repository and session
// sealed. Errors are those of NewOpener.
func (b *Bundle) DataOpener(repositoryID, sid string, encapsulation []byte) (*Opener, error) {
	return NewOpener(b.DataKeys, repositoryID, sid, encapsulation)
}

// WALOpener opens what a WALSealer of the same repository and session
// sealed. Errors are those of NewOpener.
func (b *Bundle) WALOpener(repositoryID, sid string, encapsulation []byte) (*Opener, error) {
	return NewOpener(b.WALKeys, repositoryID, sid, encapsulation)
}

// String says whose bundle it is, without a secret.
func (b *Bundle) String() string {
	return fmt.Sprintf("%s bundle %q of repository %s", b.Role, b.Name, b.Repository)
}

// MarshalJSON fails: only Wrap writes a bundle.
func (*Bundle) MarshalJSON() ([]byte, error) {
	return nil, errors.New("keys: a bundle is written only by Wrap")
}

// Validate checks the rules of the format and wraps ErrFormat: that the role
// has exactly the secrets it may have, and that IDs, public keys and secrets
// belong together.
func (b *Bundle) Validate() error {
	switch {
	case !b.Role.Valid():
		return malformed("unknown role %q", string(b.Role))
	case b.Repository == "":
		return malformed("no repository ID")
	case b.ChunkKey == chunk.Key{}:
		return malformed("no chunk key")
	case b.MetaKey.IsZero():
		return malformed("no metadata key")
	}
	if err := validateKeys("data", b.DataKeys, b.Role.opensData()); err != nil {
		return err
	}
	return validateKeys("WAL", b.WALKeys, b.Role.opensWAL())
}

func validateKeys(what string, keys []KeyPair, secrets bool) error {
	if len(keys) == 0 {
		return malformed("no %s key", what)
	}
	for i := range keys {
		if err := keys[i].validate(); err != nil {
			return fmt.Errorf("%s key %s: %w", what, keys[i].ID, err)
		}
		if keys[i].Secret.IsZero() == secrets {
			return malformed("%s key %s: secret does not fit the role", what, keys[i].ID)
		}
		for _, other := range keys[:i] {
			if other.ID == keys[i].ID {
				return malformed("%s key %s stands twice", what, other.ID)
			}
		}
	}
	return nil
}

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrFormat}, args...)...)
}
