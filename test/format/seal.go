package format

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hpke"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"

	"github.com/zeebo/blake3"
	"golang.org/x/crypto/chacha20poly1305"
)

// ID is the name of a chunk.
type ID [32]byte

func (id ID) String() string { return hex.EncodeToString(id[:]) }

// MarshalText is what UnmarshalText reads.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads the 64 digits of an ID.
func (id *ID) UnmarshalText(text []byte) error {
	if len(text) != 64 || !isHex(string(text)) {
		return damaged("%q is no ID", text)
	}
	_, err := hex.Decode(id[:], text)
	return err
}

func isHex(s string) bool {
	for _, r := range s {
		if (r < '0' || r > '9') && (r < 'a' || r > 'f') {
			return false
		}
	}
	return true
}

// keyed is BLAKE3 with a key derived from K_id (section 2.2).
func (b *Bundle) keyed(use string, data []byte) (sum ID) {
	var key [32]byte
	blake3.DeriveKey("pgtrove v1 2026 chunk "+use, b.IDKey, key[:])
	h, err := blake3.NewKeyed(key[:])
	if err != nil {
		panic(err) // the key has 32 bytes
	}
	_, _ = h.Write(data)
	h.Sum(sum[:0])
	return sum
}

// name is the ID of a chunk, and the digests of its pages if it has any
// (section 3.2).
func (b *Bundle) name(kind, form byte, plain []byte) (ID, []ID) {
	switch {
	case kind == kindMeta:
		return b.keyed("metadata ID", plain), nil
	case form == 0:
		return b.keyed("byte stream ID", plain), nil
	}
	var pages []ID
	var all []byte
	for size := 1 << form; len(plain) > 0; plain = plain[size:] {
		d := b.keyed("page digest", plain[:size])
		pages, all = append(pages, d), append(all, d[:]...)
	}
	return b.keyed("run of pages ID", all), pages
}

// openMeta opens what K_meta of the bundle's group seals (section 2.3).
func (b *Bundle) openMeta(sealed []byte, aad string) ([]byte, error) {
	return openWith(b.MetaKey, sealed, aad)
}

// allGroups stands for a group where something is sealed with K_common.
const allGroups = "*"

// openTagged opens what the key seals that the tag is of, and says whose that is.
func (b *Bundle) openTagged(tag, sealed []byte, aad string) (plain []byte, group string, err error) {
	for _, g := range append([]Group{{Name: allGroups, MetaKey: b.Common}}, b.groups()...) {
		own, err := tagOf(g.MetaKey)
		if err != nil {
			return nil, "", err
		}
		if string(own) == string(tag) {
			plain, err = openWith(g.MetaKey, sealed, aad)
			return plain, g.Name, err
		}
	}
	if b.Role == "owner" {
		return nil, "", damaged("the tag %x is that of no key", tag)
	}
	return nil, "", ErrForeign
}

// tagOf is the tag of K_meta of a group, or of K_common.
func tagOf(secret []byte) ([]byte, error) {
	return hkdf.Key(sha256.New, secret, nil, "pgtrove v1 keys group tag", 8)
}

func openWith(secret, sealed []byte, aad string) ([]byte, error) {
	key, err := hkdf.Key(sha256.New, secret, nil, "pgtrove v1 keys metadata sealing XChaCha20-Poly1305", 32)
	if err != nil {
		return nil, err
	}
	a, err := chacha20poly1305.NewX(key)
	if err != nil {
		return nil, err
	}
	if len(sealed) < 40 {
		return nil, damaged("%d sealed bytes", len(sealed))
	}
	plain, err := a.Open(nil, sealed[:24], sealed[24:], []byte(aad))
	if err != nil {
		return nil, damaged("does not open: %v", err)
	}
	return plain, nil
}

// labelled is L of section 1.
func labelled(label string, values ...string) []byte {
	b := append([]byte(label), 0)
	for _, v := range values {
		b = binary.BigEndian.AppendUint32(b, uint32(len(v)))
		b = append(b, v...)
	}
	return b
}

// openContent opens a chunk that is sealed by a session's key (section 2.4);
// keys are those that the kind of the pack asks for.
func (b *Bundle) openContent(keys []Key, s packSession, id ID, counter uint64, sealed []byte) ([]byte, error) {
	c := cursor{b: s.encapsulation}
	c.version("encapsulation")
	keyID, enc := hex.EncodeToString(c.take(8)), c.take(1120)
	if err := c.end("encapsulation"); err != nil {
		return nil, err
	}
	for _, k := range keys {
		if k.ID != keyID {
			continue
		}
		if k.Secret == nil {
			return nil, ErrRole
		}
		secret, err := hpke.MLKEM768X25519().NewPrivateKey(k.Secret)
		if err != nil {
			return nil, damaged("key %s: %v", k.ID, err)
		}
		r, err := hpke.NewRecipient(enc, secret, hpke.HKDFSHA256(), hpke.ExportOnly(),
			labelled("pgtrove v1 keys session", b.Repository, s.sid))
		if err != nil {
			return nil, damaged("encapsulation: %v", err)
		}
		key, err := r.Export("pgtrove v1 keys chunk sealing AES-256-GCM", 32)
		if err != nil {
			return nil, err
		}
		block, err := aes.NewCipher(key)
		if err != nil {
			return nil, err
		}
		a, err := cipher.NewGCM(block)
		if err != nil {
			return nil, err
		}
		aad := append(labelled("pgtrove v1 keys chunk", b.Repository, s.sid), id[:]...)
		plain, err := a.Open(nil, binary.BigEndian.AppendUint64(make([]byte, 4), counter), sealed, aad)
		if err != nil {
			return nil, damaged("does not open: %v", err)
		}
		return plain, nil
	}
	return nil, damaged("no key %s in the bundle", keyID)
}
