package keys

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
)

// labelOrigin begins what the holder of a bundle signs.
const labelOrigin = "pgtrove v1 origin"

// Signing is with what the holder of a bundle signs, and who vouches for it.
// The zero value is that of a bundle of version 1: nothing is signed in its
// repository.
type Signing struct {
	Root        ed25519.PublicKey // of the repository
	RootSecret  Secret            // seed of it; Owner only
	Secret      Secret            // seed of the holder's own key
	Certificate []byte            // statement and signature by the root key
}

// signed says whether the repository of the bundle has a root key.
func (b *Bundle) signed() bool { return b.Signing.Root != nil }

func (s Secret) private() ed25519.PrivateKey { return ed25519.NewKeyFromSeed(s[:]) }

func publicOf(p ed25519.PrivateKey) ed25519.PublicKey { return ed25519.PublicKey(p[ed25519.SeedSize:]) }

func (b *Bundle) validateSigning() error {
	s := &b.Signing
	if !b.signed() {
		if !s.RootSecret.IsZero() || !s.Secret.IsZero() || s.Certificate != nil {
			return malformed("a signing key, but no root key")
		}
		return nil
	}
	switch {
	case len(s.Root) != ed25519.PublicKeySize:
		return malformed("root key of %d bytes", len(s.Root))
	case s.Secret.IsZero():
		return malformed("no signing key")
	case s.RootSecret.IsZero() == (b.Role == Owner):
		return malformed("secret of the root key does not fit the role")
	case b.Role == Owner && !publicOf(s.RootSecret.private()).Equal(s.Root):
		return malformed("secret of the root key is not that of its public half")
	}
	c, err := parseCertificate(s.Root, s.Certificate)
	if err != nil {
		return err
	}
	return c.matches(b, publicOf(s.Secret.private()))
}

// Certificate is the bundle's own certificate; nil if nothing is signed in
// its repository. That the root key has signed it Validate has seen.
func (b *Bundle) Certificate() *Certificate {
	n := len(b.Signing.Certificate) - ed25519.SignatureSize
	if !b.signed() || n < 0 {
		return nil
	}
	c, err := decodeCertificate(b.Signing.Certificate[:n])
	if err != nil {
		return nil // of a bundle that Validate refuses
	}
	return c
}

// CheckRoot compares the bundle's root key with the one that somebody knows
// from elsewhere, so that a bundle that an attacker made up is found. A nil
// root says that nothing is known. It wraps ErrOrigin.
func (b *Bundle) CheckRoot(root ed25519.PublicKey) error {
	switch {
	case root == nil || b.Signing.Root.Equal(root):
		return nil
	case !b.signed():
		return fmt.Errorf("%s: %w: it has no root key, and one is expected", b, ErrOrigin)
	}
	return fmt.Errorf("%s: %w: its root key is not the expected one", b, ErrOrigin)
}

// OpenCertificate reads a certificate of this repository, in its signed form
// (Signing.Certificate). It wraps ErrOrigin if the root key has not signed
// it, or if it is one of another repository.
func (b *Bundle) OpenCertificate(signed []byte) (*Certificate, error) {
	c, err := parseCertificate(b.Signing.Root, signed)
	if err != nil {
		return nil, fmt.Errorf("read certificate: %w", err)
	}
	if c.Repository != b.Repository {
		return nil, fmt.Errorf("read certificate: %w: it is of repository %q", ErrOrigin, c.Repository)
	}
	return c, nil
}

// Sign appends to dst the origin and payload: the holder's certificate, and
// the signature of aad and payload. aad says what and where the payload is.
// It panics if nothing is signed in the bundle's repository: its Certificate
// is nil.
func (b *Bundle) Sign(dst, aad, payload []byte) []byte {
	if !b.signed() {
		panic("keys: nothing is signed in a repository without a root key")
	}
	dst = binary.AppendUvarint(dst, uint64(len(b.Signing.Certificate)))
	dst = append(dst, b.Signing.Certificate...)
	dst = append(dst, ed25519.Sign(b.Signing.Secret.private(), originMessage(aad, payload))...)
	return append(dst, payload...)
}

// OpenSigned returns who signed what Sign appended for the same aad, and the
// payload, which is a part of signed. It wraps ErrOrigin if the repository's
// root key has not certified the signer, or the signature is wrong.
func (b *Bundle) OpenSigned(aad, signed []byte) (*Certificate, []byte, error) {
	n, size := binary.Uvarint(signed)
	if size <= 0 || size != len(binary.AppendUvarint(nil, n)) || n > maxCertificate || int(n)+ed25519.SignatureSize > len(signed)-size {
		return nil, nil, fmt.Errorf("check origin: %w: it names none", ErrOrigin)
	}
	certificate, rest := signed[size:size+int(n)], signed[size+int(n):]
	signature, payload := rest[:ed25519.SignatureSize], rest[ed25519.SignatureSize:]
	c, err := b.OpenCertificate(certificate)
	if err != nil {
		return nil, nil, fmt.Errorf("check origin: %w", err)
	}
	if !ed25519.Verify(c.Public, originMessage(aad, payload), signature) {
		return nil, nil, fmt.Errorf("check origin: %w: %q (key %s) has not signed it", ErrOrigin, c.Name, c.Entry)
	}
	return c, payload, nil
}

func originMessage(aad, payload []byte) []byte {
	sum := sha256.Sum256(payload)
	return append(bind(labelOrigin, string(aad)), sum[:]...)
}

// Certify signs a statement of the given kind with the root key: the
// statement and its signature. It wraps ErrRole if the bundle is no owner's,
// or nothing is signed in its repository.
func (b *Bundle) Certify(kind string, statement []byte) ([]byte, error) {
	if b.Signing.RootSecret.IsZero() {
		return nil, fmt.Errorf("sign %s with the root key: %w", kind, ErrRole)
	}
	return signStatement(b.Signing.RootSecret.private(), bind(labelCertified, b.Repository, kind), statement), nil
}

// Certified returns the statement of what Certify made for the same kind, in
// memory of its own. It wraps ErrOrigin if the root key has not signed it.
func (b *Bundle) Certified(kind string, signed []byte) ([]byte, error) {
	statement, err := openStatement(b.Signing.Root, bind(labelCertified, b.Repository, kind), signed)
	if err != nil {
		return nil, fmt.Errorf("check %s: %w", kind, err)
	}
	return slices.Clone(statement), nil
}
