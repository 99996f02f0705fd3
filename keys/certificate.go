package keys

import (
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"time"
	"unicode"
	"unicode/utf8"
)

const (
	certificateVersion = 1
	// maxCertificate bounds a certificate with its signature, in bytes.
	maxCertificate = 64 << 10
	// maxName bounds the name of a bundle, in bytes.
	maxName = 128
	// AnyCluster stands in a certificate for every cluster.
	AnyCluster = "*"
	// EntryIDSize is the length of an entry's ID, in bytes: half as many as it
	// has digits.
	EntryIDSize = 8
)

// What the signatures of the root key begin with (docs/format.md, section 2).
const (
	labelCertificate = "pgtrove v1 certificate"
	labelCertified   = "pgtrove v1 certified"
	labelBundleKeys  = "pgtrove v1 bundle keys"
)

// Certificate is what the repository's root key says of the holder of a
// bundle. It holds no secret and is not changed.
type Certificate struct {
	Repository string // ID
	Entry      string // ID of the entry: 16 hexadecimal digits
	Name       string // for people
	Role       Role
	Group      string   // "" is the first
	Clusters   []string // whose snapshots the holder may write; AnyCluster: all
	Created    time.Time
	Public     ed25519.PublicKey // what the holder signs with
	Keys       [sha256.Size]byte // of the bundle's keys
	// Recipients are digests of those that the bundle may be wrapped for; nil:
	// whichever.
	Recipients [][]byte
}

type certificateJSON struct {
	Version    int       `json:"version"`
	Repository string    `json:"repository"`
	Entry      string    `json:"entry"`
	Name       string    `json:"name"`
	Role       Role      `json:"role"`
	Group      string    `json:"group,omitempty"`
	Clusters   []string  `json:"clusters"`
	Created    time.Time `json:"created"`
	Public     []byte    `json:"public"`
	Keys       []byte    `json:"keys"`
	Recipients [][]byte  `json:"recipients,omitzero"`
}

// MayWrite says whether the holder may write snapshots of the cluster.
func (c *Certificate) MayWrite(cluster string) bool {
	return slices.Contains(c.Clusters, AnyCluster) || slices.Contains(c.Clusters, cluster)
}

// String says whose certificate it is.
func (c *Certificate) String() string {
	return fmt.Sprintf("certificate of %s %q (key %s)", c.Role, c.Name, c.Entry)
}

func (c *Certificate) validate() error {
	switch {
	case c.Repository == "":
		return malformed("certificate without a repository")
	case !validEntry(c.Entry):
		return malformed("certificate of the entry %q", c.Entry)
	case !validName(c.Name):
		return malformed("certificate of the name %q", c.Name)
	case !c.Role.Valid():
		return malformed("certificate of the role %q", string(c.Role))
	case !validGroup(c.Group):
		return malformed("certificate of the group %q", c.Group)
	case len(c.Clusters) == 0 || slices.Contains(c.Clusters, ""):
		return malformed("certificate for no cluster")
	case len(c.Public) != ed25519.PublicKeySize:
		return malformed("certificate of a key of %d bytes", len(c.Public))
	}
	return nil
}

// validEntry says whether s can be the ID of an entry.
func validEntry(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == EntryIDSize && hex.EncodeToString(b) == s
}

// validName says whether s can be a bundle's name: people must be able to see
// all of it.
func validName(s string) bool {
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return false
		}
	}
	return s != "" && len(s) <= maxName && utf8.ValidString(s) && s[0] != ' ' && s[len(s)-1] != ' '
}

// certify makes the signed form of c: its statement and the signature.
func (c *Certificate) certify(root ed25519.PrivateKey) ([]byte, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	statement, err := json.Marshal(certificateJSON{
		certificateVersion, c.Repository, c.Entry, c.Name, c.Role, c.Group, c.Clusters, c.Created.UTC(), c.Public, c.Keys[:], c.Recipients,
	})
	if err != nil {
		return nil, err
	}
	signed := signStatement(root, bind(labelCertificate), statement)
	if len(signed) > maxCertificate {
		return nil, malformed("certificate of %d bytes: too many clusters", len(signed))
	}
	return signed, nil
}

// parseCertificate reads what certify made. It wraps ErrOrigin if the root
// key has not signed it.
func parseCertificate(root ed25519.PublicKey, signed []byte) (*Certificate, error) {
	if len(signed) > maxCertificate {
		return nil, fmt.Errorf("%w: certificate of %d bytes", ErrOrigin, len(signed))
	}
	statement, err := openStatement(root, bind(labelCertificate), signed)
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	return decodeCertificate(statement)
}

func decodeCertificate(statement []byte) (*Certificate, error) {
	var w certificateJSON
	if err := json.Unmarshal(statement, &w); err != nil {
		return nil, malformed("certificate is no JSON object of its kind")
	}
	if w.Version != certificateVersion {
		return nil, fmt.Errorf("%w: certificate version %d, this program knows %d", ErrVersion, w.Version, certificateVersion)
	}
	if len(w.Keys) != sha256.Size {
		return nil, malformed("certificate with a digest of %d bytes", len(w.Keys))
	}
	c := &Certificate{w.Repository, w.Entry, w.Name, w.Role, w.Group, w.Clusters, w.Created, w.Public, [sha256.Size]byte(w.Keys), w.Recipients}
	return c, c.validate()
}

// signStatement is statement and behind it its signature, which binds label.
func signStatement(root ed25519.PrivateKey, label, statement []byte) []byte {
	return append(slices.Clone(statement), ed25519.Sign(root, slices.Concat(label, statement))...)
}

// openStatement returns the statement of what signStatement made: a part of
// signed. It wraps ErrOrigin.
func openStatement(root ed25519.PublicKey, label, signed []byte) ([]byte, error) {
	n := len(signed) - ed25519.SignatureSize
	if n < 0 || len(root) != ed25519.PublicKeySize || !ed25519.Verify(root, slices.Concat(label, signed[:n]), signed[n:]) {
		return nil, fmt.Errorf("%w: the repository's root key has not signed it", ErrOrigin)
	}
	return signed[:n:n], nil
}

// keysDigest is what a certificate says of the keys of its bundle, so that
// nobody can put other keys under it.
func (b *Bundle) keysDigest() [sha256.Size]byte {
	h := sha256.New()
	h.Write(bind(labelBundleKeys))
	h.Write(b.Common[:])
	number := func(n int) { h.Write(binary.BigEndian.AppendUint32(nil, uint32(n))) }
	pairs := func(keys []KeyPair) {
		number(len(keys))
		for i := range keys {
			h.Write(keys[i].Public)
		}
	}
	pairs(b.DataKeys)
	groups := b.Groups()
	number(len(groups))
	for i := range groups {
		g := &groups[i]
		number(len(g.Name))
		h.Write([]byte(g.Name))
		h.Write(g.ChunkKey[:])
		h.Write(g.MetaKey[:])
		pairs(g.WALKeys)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// matches says what the certificate does not have in common with the bundle.
func (c *Certificate) matches(b *Bundle, public ed25519.PublicKey) error {
	digest := b.keysDigest()
	switch {
	case c.Repository != b.Repository:
		return fmt.Errorf("%w: the certificate is for repository %q", ErrOrigin, c.Repository)
	case c.Role != b.Role:
		return fmt.Errorf("%w: the certificate is for the role %s", ErrOrigin, c.Role)
	case c.Group != b.Group:
		return fmt.Errorf("%w: the certificate is for the group %s", ErrOrigin, ShowGroup(c.Group))
	case c.Name != b.Name:
		return fmt.Errorf("%w: the certificate is for %q", ErrOrigin, c.Name)
	case !c.Created.Equal(b.Created):
		return fmt.Errorf("%w: the certificate is for a bundle of another time", ErrOrigin)
	case !c.Public.Equal(public):
		return fmt.Errorf("%w: the certificate is for another signing key", ErrOrigin)
	case subtle.ConstantTimeCompare(c.Keys[:], digest[:]) != 1:
		return fmt.Errorf("%w: the certificate is for other keys", ErrOrigin)
	}
	return nil
}
