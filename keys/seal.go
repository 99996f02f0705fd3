package keys

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hpke"
	"encoding/binary"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
)

// Sizes of the hybrid KEM (ML-KEM-768 with X25519), in bytes.
const (
	PublicKeySize = 1216
	enclosedSize  = 1120 // what HPKE calls enc
	// EncapsulationSize is the length of what Sealer.Encapsulation returns:
	// version, key ID, enclosed key.
	EncapsulationSize = 1 + KeyIDSize + enclosedSize
	// Overhead is what sealing a chunk adds, in bytes.
	Overhead = 16
)

const encapsulationVersion = 1

// What is bound into the session key and its use (docs/format.md, section 2).
const (
	labelSession = "pgtrove v1 keys session"
	labelExport  = "pgtrove v1 keys chunk sealing AES-256-GCM"
	labelChunk   = "pgtrove v1 keys chunk"
)

func generateKeyPair() (KeyPair, error) {
	k, err := hpke.MLKEM768X25519().GenerateKey()
	if err != nil {
		return KeyPair{}, err
	}
	seed, err := k.Bytes()
	if err != nil {
		return KeyPair{}, err
	}
	if len(seed) != SecretSize {
		return KeyPair{}, malformed("secret key of %d bytes", len(seed))
	}
	public := k.PublicKey().Bytes()
	return KeyPair{ID: keyID(public), Public: public, Secret: Secret(seed)}, nil
}

func (k *KeyPair) public() (hpke.PublicKey, error) {
	p, err := hpke.MLKEM768X25519().NewPublicKey(k.Public)
	if err != nil {
		return nil, malformed("public key: %v", err)
	}
	return p, nil
}

// private is the secret key. The library's errors speak of lengths only.
func (k *KeyPair) private() (hpke.PrivateKey, error) {
	p, err := hpke.MLKEM768X25519().NewPrivateKey(k.Secret[:])
	if err != nil {
		return nil, malformed("secret key: %v", err)
	}
	return p, nil
}

func (k *KeyPair) validate() error {
	if _, err := k.public(); err != nil {
		return err
	}
	if k.ID != keyID(k.Public) {
		return malformed("ID is not that of the public key")
	}
	if k.Secret.IsZero() {
		return nil
	}
	p, err := k.private()
	if err != nil {
		return err
	}
	if !bytes.Equal(p.PublicKey().Bytes(), k.Public) {
		return malformed("secret key is not that of the public key")
	}
	return nil
}

// Sealer seals the chunks of one writing session. Its key was made for it
// alone and is gone with it; the holder of the secret key gets it back from
// the encapsulation. Safe for concurrent use.
type Sealer struct {
	box           box
	next          atomic.Uint64
	encapsulation []byte
}

// NewSealer makes the sealer of the session sid of a repository. Only the
// public half of k is used.
func NewSealer(k KeyPair, repositoryID, sid string) (*Sealer, error) {
	public, err := k.public()
	if err != nil {
		return nil, fmt.Errorf("make sealer: %w", err)
	}
	enc, sender, err := hpke.NewSender(public, hpke.HKDFSHA256(), hpke.ExportOnly(),
		bind(labelSession, repositoryID, sid))
	if err != nil {
		return nil, fmt.Errorf("make sealer: %w", err)
	}
	key, err := sender.Export(labelExport, 32)
	if err != nil {
		return nil, fmt.Errorf("make sealer: %w", err)
	}
	s := &Sealer{}
	if err := s.box.init(key, repositoryID, sid); err != nil {
		return nil, fmt.Errorf("make sealer: %w", err)
	}
	s.encapsulation = append(s.encapsulation, encapsulationVersion)
	s.encapsulation = append(s.encapsulation, k.ID[:]...)
	s.encapsulation = append(s.encapsulation, enc...)
	return s, nil
}

func newSealer(keys []KeyPair, repositoryID, sid string) (*Sealer, error) {
	if len(keys) == 0 {
		return nil, fmt.Errorf("make sealer: %w: no key", ErrFormat)
	}
	return NewSealer(keys[len(keys)-1], repositoryID, sid)
}

// Encapsulation is what NewOpener takes to find the session's key:
// EncapsulationSize bytes. It is not to be changed.
func (s *Sealer) Encapsulation() []byte { return s.encapsulation }

// Seal encrypts plain, which is the chunk named id, appends the result to
// dst, and says which nonce opens it. The result is Overhead bytes longer
// than plain. dst must not overlap plain. It does not allocate if dst has
// room.
//
// It panics rather than use a nonce again, after 2^64-1 chunks.
func (s *Sealer) Seal(dst, plain []byte, id [32]byte) (sealed []byte, nonce uint64) {
	nonce = s.take()
	c := s.box.call(nonce, id)
	sealed = s.box.aead.Seal(dst, c.nonce[:], plain, c.aad)
	s.box.calls.Put(c)
	return sealed, nonce
}

// take gives each nonce once and never wraps around.
func (s *Sealer) take() uint64 {
	for {
		n := s.next.Load()
		if n == math.MaxUint64 {
			panic("keys: the sealer has used all its nonces")
		}
		if s.next.CompareAndSwap(n, n+1) {
			return n
		}
	}
}

// Opener opens the chunks of one writing session. Safe for concurrent use.
type Opener struct {
	box box
}

// NewOpener finds the key of the session sid of a repository from its
// encapsulation. It wraps ErrRole if the keys have the public half only,
// ErrLocked if none of them is the one sealed to, ErrFormat or ErrVersion if
// this is no encapsulation, and ErrDamaged if it cannot be opened. A wrong
// repository or session is found only by Open.
func NewOpener(keys []KeyPair, repositoryID, sid string, encapsulation []byte) (*Opener, error) {
	k, enc, err := findKey(keys, encapsulation)
	if err != nil {
		return nil, fmt.Errorf("open session %s: %w", sid, err)
	}
	private, err := k.private()
	if err != nil {
		return nil, fmt.Errorf("open session %s: %w", sid, err)
	}
	recipient, err := hpke.NewRecipient(enc, private, hpke.HKDFSHA256(), hpke.ExportOnly(),
		bind(labelSession, repositoryID, sid))
	if err != nil {
		return nil, fmt.Errorf("open session %s: %w: %w", sid, ErrDamaged, err)
	}
	key, err := recipient.Export(labelExport, 32)
	if err != nil {
		return nil, fmt.Errorf("open session %s: %w", sid, err)
	}
	o := &Opener{}
	if err := o.box.init(key, repositoryID, sid); err != nil {
		return nil, fmt.Errorf("open session %s: %w", sid, err)
	}
	return o, nil
}

func findKey(keys []KeyPair, encapsulation []byte) (*KeyPair, []byte, error) {
	if len(encapsulation) == 0 {
		return nil, nil, malformed("no encapsulation")
	}
	if v := encapsulation[0]; v != encapsulationVersion {
		return nil, nil, fmt.Errorf("%w: encapsulation version %d, this program knows %d", ErrVersion, v, encapsulationVersion)
	}
	if len(encapsulation) != EncapsulationSize {
		return nil, nil, malformed("encapsulation of %d bytes, want %d", len(encapsulation), EncapsulationSize)
	}
	id := KeyID(encapsulation[1 : 1+KeyIDSize])
	for i := range keys {
		if keys[i].ID != id {
			continue
		}
		if keys[i].Secret.IsZero() {
			return nil, nil, fmt.Errorf("key %s: %w", id, ErrRole)
		}
		return &keys[i], encapsulation[1+KeyIDSize:], nil
	}
	return nil, nil, fmt.Errorf("key %s is not in the bundle: %w", id, ErrLocked)
}

// Open decrypts what Seal made of the chunk named id under the nonce and
// appends it to dst, which must not overlap sealed. It wraps ErrDamaged if
// anything differs from what was sealed, and then dst holds nothing of it.
func (o *Opener) Open(dst, sealed []byte, id [32]byte, nonce uint64) ([]byte, error) {
	c := o.box.call(nonce, id)
	plain, err := o.box.aead.Open(dst, c.nonce[:], sealed, c.aad)
	o.box.calls.Put(c)
	if err != nil {
		return nil, fmt.Errorf("open chunk: %w", ErrDamaged)
	}
	return plain, nil
}

// box is a session's key and what is bound to every chunk sealed by it.
type box struct {
	aead   cipher.AEAD
	prefix []byte    // of the additional data: all but the chunk's ID
	calls  sync.Pool // of *boxCall
}

// boxCall is what one call needs on the heap: the AEAD is an interface, so
// its arguments escape.
type boxCall struct {
	nonce [12]byte
	aad   []byte
}

func (b *box) init(key []byte, repositoryID, sid string) error {
	block, err := aes.NewCipher(key)
	if err != nil {
		return err
	}
	if b.aead, err = cipher.NewGCM(block); err != nil {
		return err
	}
	b.prefix = bind(labelChunk, repositoryID, sid)
	return nil
}

func (b *box) call(nonce uint64, id [32]byte) *boxCall {
	c, ok := b.calls.Get().(*boxCall)
	if !ok {
		c = &boxCall{aad: append([]byte(nil), b.prefix...)}
	}
	binary.BigEndian.PutUint64(c.nonce[4:], nonce)
	c.aad = append(c.aad[:len(b.prefix)], id[:]...)
	return c
}

// bind is a label and values, each behind its length, so that no two
// different lists have the same bytes.
func bind(label string, values ...string) []byte {
	out := append([]byte(label), 0)
	for _, v := range values {
		out = binary.BigEndian.AppendUint32(out, uint32(len(v)))
		out = append(out, v...)
	}
	return out
}
