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
)

// labelMeta is HKDF's info for the key that seals metadata.
const labelMeta = "pgtrove v1 keys metadata sealing XChaCha20-Poly1305"

// Meta seals and opens metadata with a key derived from K_meta. Safe for
// concurrent use.
type Meta struct {
	aead cipher.AEAD
}

func newMeta(k Secret) (*Meta, error) {
	if k.IsZero() {
		return nil, fmt.Errorf("make metadata sealer: %w: no key", ErrFormat)
	}
	key, err := hkdf.Key(sha256.New, k[:], nil, labelMeta, chacha20poly1305.KeySize)
	if err != nil {
		return nil, fmt.Errorf("make metadata sealer: %w", err)
	}
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		return nil, fmt.Errorf("make metadata sealer: %w", err)
	}
	return &Meta{aead: aead}, nil
}

// Seal encrypts plain, binds aad, and appends a random nonce and the result
// to dst: MetaOverhead bytes more than plain. dst must not overlap plain.
// The caller begins aad with a label of what this is, so that nothing sealed
// here can be taken for something else sealed here.
func (m *Meta) Seal(dst, plain, aad []byte) []byte {
	start := len(dst)
	var nonce [metaNonceSize]byte
	_, _ = rand.Read(nonce[:]) // never fails: crypto/rand
	dst = append(dst, nonce[:]...)
	return m.aead.Seal(dst, dst[start:start+metaNonceSize], plain, aad)
}

// Open decrypts what Seal appended and appends it to dst, which must not
// overlap sealed. It wraps ErrDamaged if sealed or aad are not those of Seal.
func (m *Meta) Open(dst, sealed, aad []byte) ([]byte, error) {
	if len(sealed) < MetaOverhead {
		return nil, fmt.Errorf("open metadata: %w: %d bytes", ErrDamaged, len(sealed))
	}
	plain, err := m.aead.Open(dst, sealed[:metaNonceSize], sealed[metaNonceSize:], aad)
	if err != nil {
		return nil, fmt.Errorf("open metadata: %w", ErrDamaged)
	}
	return plain, nil
}
