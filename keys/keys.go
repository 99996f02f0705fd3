// Package keys holds the secrets of a repository: bundles of keys for roles
// and trust groups, certified by the repository's root key, their wrapping
// for a person, and the sealing, opening and signing of what the other
// packages store.
//
// It does not know what it seals, does no I/O (but for the plugins of age,
// which are programs), and puts no secret into an error or a String. repo
// opens a bundle with it and takes sealers and openers from the bundle; cmd
// makes identities and reads passphrases.
//
// The formats and derivations are in docs/format.md, sections 2 and 5.
package keys

import (
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
	// ErrOrigin says that the repository's root key does not stand behind
	// this, or that whoever it names has not signed it.
	ErrOrigin = errors.New("not of certified origin")
	// ErrForeign says that this belongs to a trust group whose keys the bundle
	// does not hold.
	ErrForeign = errors.New("of another trust group")
	// ErrPlugin says that an identity or a recipient needs a plugin of age that
	// is not installed.
	ErrPlugin = errors.New("plugin of age not found")
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
//
// A bundle of format version 1 has no Signing, its Common is its MetaKey, and
// its group is the only one.
type Bundle struct {
	Role       Role
	Repository string // the repository's ID
	Name       string // for people: who has this bundle
	Created    time.Time
	Group      string    // the holder's trust group; "" is the first
	ChunkKey   chunk.Key // K_id of the group
	MetaKey    Secret    // K_meta of the group
	Common     Secret    // K_common, which seals what all groups must read
	DataKeys   []KeyPair // of the repository, oldest first; the last is sealed to
	WALKeys    []KeyPair // of the group, oldest first; the last is sealed to
	Others     []Group   // the other groups; Owner only
	Signing    Signing
}

// IDKey is K_id of the bundle's own group, from which package chunk derives its keys.
func (b *Bundle) IDKey() chunk.Key { return b.ChunkKey }

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

// WALOpener opens what a WALSealer of the same repository and session, and
// of any group of the bundle, sealed. Errors are those of NewOpener.
func (b *Bundle) WALOpener(repositoryID, sid string, encapsulation []byte) (*Opener, error) {
	keys := b.WALKeys
	if len(b.Others) > 0 {
		keys = append([]KeyPair(nil), keys...)
		for i := range b.Others {
			keys = append(keys, b.Others[i].WALKeys...)
		}
	}
	return NewOpener(keys, repositoryID, sid, encapsulation)
}

// String says whose bundle it is, without a secret.
func (b *Bundle) String() string {
	return fmt.Sprintf("%s bundle %q of repository %s", b.Role, b.Name, b.Repository)
}

// MarshalJSON fails: only Wrap writes a bundle.
func (*Bundle) MarshalJSON() ([]byte, error) {
	return nil, errors.New("keys: a bundle is written only by Wrap")
}

// Validate checks the rules of the format: that the role has exactly the
// secrets it may have, that IDs, public keys and secrets belong together, and
// that the certificate is of this bundle. It wraps ErrFormat, and ErrOrigin
// where the certificate is at fault.
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
	case b.Common.IsZero():
		return malformed("no common key")
	}
	if err := validateKeys("data", b.DataKeys, b.Role.opensData()); err != nil {
		return err
	}
	if err := validateKeys("WAL", b.WALKeys, b.Role.opensWAL()); err != nil {
		return err
	}
	if err := b.validateGroups(); err != nil {
		return err
	}
	return b.validateSigning()
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
