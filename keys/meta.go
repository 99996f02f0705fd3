package keys

import (
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"fmt"

	"golang.org/x/crypto/chacha20poly1305"
)

const (
	metaNonceSize = chacha20poly1305.NonceSizeX
	// MetaOverhead is what sealing metadata adds, in bytes.
	MetaOverhead = metaNonceSize + chacha20poly1305.Overhead
	// TagSize is the length of what names the key of sealed metadata, in bytes.
	TagSize = 8
)

// HKDF's info for what is derived from K_meta and K_common.
const (
	labelMeta = "pgtrove v1 keys metadata sealing XChaCha20-Poly1305"
	labelTag  = "pgtrove v1 keys group tag"
)

// Meta seals and opens metadata with keys derived from K_meta of the groups
// that a bundle holds and from K_common. Every role has it. Safe for
// concurrent use.
type Meta struct {
	// keys are those to open with: the one that Seal uses first, then the
	// common one (which is the same in a bundle of version 1), then others.
	keys   []metaKey
	common int // index of the common one
}

type metaKey struct {
	aead  cipher.AEAD
	tag   [TagSize]byte
	group string
}

// Meta makes the sealer and opener of metadata. It wraps ErrFormat if a key
// is missing.
func (b *Bundle) Meta() (*Meta, error) {
	m := &Meta{}
	add := func(k Secret, group string) error {
		key, err := newMetaKey(k, group)
		m.keys = append(m.keys, key)
		return err
	}
	if err := add(b.MetaKey, b.Group); err != nil {
		return nil, err
	}
	if b.Common != b.MetaKey {
		m.common = 1
		if err := add(b.Common, ""); err != nil {
			return nil, err
		}
	}
	for i := range b.Others {
		if err := add(b.Others[i].MetaKey, b.Others[i].Name); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func newMetaKey(k Secret, group string) (metaKey, error) {
	if k.IsZero() {
		return metaKey{}, fmt.Errorf("make metadata sealer: %w: no key", ErrFormat)
	}
	key, err := hkdf.Key(sha256.New, k[:], nil, labelMeta, chacha20poly1305.KeySize)
	if err != nil {
		return metaKey{}, fmt.Errorf("make metadata sealer: %w", err)
	}
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		return metaKey{}, fmt.Errorf("make metadata sealer: %w", err)
	}
	tag, err := hkdf.Key(sha256.New, k[:], nil, labelTag, TagSize)
	if err != nil {
		return metaKey{}, fmt.Errorf("make metadata sealer: %w", err)
	}
	return metaKey{aead: aead, tag: [TagSize]byte(tag), group: group}, nil
}

// Tag names the key of Seal. Only who has the key can tell whose tag it is.
func (m *Meta) Tag() [TagSize]byte { return m.keys[0].tag }

// CommonTag names the key of SealCommon.
func (m *Meta) CommonTag() [TagSize]byte { return m.keys[m.common].tag }

// Seal encrypts plain for the group, binds aad, and appends a random nonce
// and the result to dst: MetaOverhead bytes more than plain. dst must not
// overlap plain. The caller begins aad with a label of what this is, so that
// nothing sealed here can be taken for something else sealed here.
func (m *Meta) Seal(dst, plain, aad []byte) []byte { return m.keys[0].seal(dst, plain, aad) }

// SealCommon is Seal for all groups.
func (m *Meta) SealCommon(dst, plain, aad []byte) []byte {
	return m.keys[m.common].seal(dst, plain, aad)
}

func (k *metaKey) seal(dst, plain, aad []byte) []byte {
	start := len(dst)
	var nonce [metaNonceSize]byte
	_, _ = rand.Read(nonce[:]) // never fails: crypto/rand
	dst = append(dst, nonce[:]...)
	return k.aead.Seal(dst, dst[start:start+metaNonceSize], plain, aad)
}

// Open decrypts what Seal or SealCommon appended, for whichever group of the
// bundle, and appends it to dst, which must not overlap sealed. It wraps
// ErrDamaged if sealed or aad are not those of Seal, or the bundle does not
// hold the group's key.
func (m *Meta) Open(dst, sealed, aad []byte) ([]byte, error) {
	if len(sealed) < MetaOverhead {
		return nil, fmt.Errorf("open metadata: %w: %d bytes", ErrDamaged, len(sealed))
	}
	for i := range m.keys {
		if plain, err := m.keys[i].open(dst, sealed, aad); err == nil {
			return plain, nil
		}
	}
	return nil, fmt.Errorf("open metadata: %w", ErrDamaged)
}

func (k *metaKey) open(dst, sealed, aad []byte) ([]byte, error) {
	return k.aead.Open(dst, sealed[:metaNonceSize], sealed[metaNonceSize:], aad)
}

// OpenTagged is Open of what was sealed with the key that tag names, and says
// whose key it was: common, or that of a group. It wraps ErrForeign if the
// bundle has no such key, and ErrDamaged as Open does.
func (m *Meta) OpenTagged(dst []byte, tag [TagSize]byte, sealed, aad []byte) (plain []byte, group string, common bool, err error) {
	for i := range m.keys {
		k := &m.keys[i]
		if k.tag != tag {
			continue
		}
		if len(sealed) < MetaOverhead {
			return nil, "", false, fmt.Errorf("open metadata: %w: %d bytes", ErrDamaged, len(sealed))
		}
		if plain, err = k.open(dst, sealed, aad); err != nil {
			return nil, "", false, fmt.Errorf("open metadata: %w", ErrDamaged)
		}
		return plain, k.group, i == m.common, nil
	}
	return nil, "", false, fmt.Errorf("open metadata: %w", ErrForeign)
}
