package format

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"filippo.io/age"
)

// Certificate is section 5.2.
type Certificate struct {
	Version    int
	Repository string
	Entry      string
	Role       string
	Name       string
	Group      string
	Clusters   []string
	Created    time.Time
	Public     ed25519.PublicKey
	Keys       []byte
	Recipients [][]byte
}

// certified is the statement of a signed form (section 2.5) of which label is what the root key signs before it.
func (b *Bundle) certified(label, signed []byte) ([]byte, error) {
	n := len(signed) - 64
	if n < 0 || !ed25519.Verify(b.Root, append(slices.Clone(label), signed[:n]...), signed[n:]) {
		return nil, fmt.Errorf("%w: the root key has not signed it", ErrOrigin)
	}
	return signed[:n], nil
}

func (b *Bundle) certificate(signed []byte) (*Certificate, error) {
	if len(signed) > 65_536 {
		return nil, fmt.Errorf("%w: certificate of %d bytes", ErrOrigin, len(signed))
	}
	statement, err := b.certified([]byte("pgtrove v1 certificate\x00"), signed)
	if err != nil {
		return nil, err
	}
	c := new(Certificate)
	if err := versioned(statement, "version", c); err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	switch {
	case c.Repository != b.Repository:
		return nil, fmt.Errorf("%w: certificate of the repository %s", ErrOrigin, c.Repository)
	case !isEntry(c.Entry) || c.Name == "" || len(c.Clusters) == 0 || len(c.Public) != ed25519.PublicKeySize:
		return nil, damaged("certificate of the entry %q, %q", c.Entry, c.Name)
	}
	return c, nil
}

// allows says whether a bundle of the certificate may be encrypted to who has id, as far as its recipient is known.
func (c *Certificate) allows(id age.Identity) error {
	var recipient string
	switch id := id.(type) {
	case *age.HybridIdentity:
		recipient = id.Recipient().String()
	case *age.X25519Identity:
		recipient = id.Recipient().String()
	}
	if c.Recipients == nil || recipient == "" {
		return nil
	}
	sum := sha256.Sum256(labelled("pgtrove v1 recipient", recipient))
	if !slices.ContainsFunc(c.Recipients, func(r []byte) bool { return bytes.Equal(r, sum[:16]) }) {
		return fmt.Errorf("%w: the bundle of %s is encrypted to somebody else", ErrOrigin, c.Entry)
	}
	return nil
}

// openSigned takes the signed form of a payload apart.
func (b *Bundle) openSigned(signed []byte, aad string) (*Certificate, []byte, error) {
	c := cursor{b: signed}
	text, signature := c.bytes("certificate", 0, 65_536), c.take(64)
	if c.err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrOrigin, c.err)
	}
	by, err := b.certificate(text)
	if err != nil {
		return nil, nil, err
	}
	sum := sha256.Sum256(c.b)
	if !ed25519.Verify(by.Public, append(labelled("pgtrove v1 origin", aad), sum[:]...), signature) {
		return nil, nil, fmt.Errorf("%w: %s has not signed it", ErrOrigin, by.Entry)
	}
	return by, c.b, nil
}

// checkSigning is what section 5 says of the signing keys of a bundle.
func (b *Bundle) checkSigning() error {
	var s struct {
		Root        ed25519.PublicKey
		RootSecret  []byte `json:"root_secret"`
		Secret      []byte
		Certificate []byte
	}
	if err := only(b.Signing, &s); err != nil {
		return fmt.Errorf("signing: %w", err)
	}
	if len(s.Root) != 32 || len(s.Secret) != 32 || (s.RootSecret != nil) != (b.Role == "owner") {
		return damaged("signing keys of %d and %d bytes", len(s.Root), len(s.Secret))
	}
	public := func(seed []byte) ed25519.PublicKey { return ed25519.PublicKey(ed25519.NewKeyFromSeed(seed)[32:]) }
	if s.RootSecret != nil && (len(s.RootSecret) != 32 || !public(s.RootSecret).Equal(s.Root)) {
		return damaged("the halves of the root key do not belong together")
	}
	b.Root = s.Root
	c, err := b.certificate(s.Certificate)
	if err != nil {
		return err
	}
	b.Certificate = *c
	if c.Role != b.Role || c.Name != b.Name || c.Group != b.Group || !c.Created.Equal(b.Created) || !c.Public.Equal(public(s.Secret)) || !bytes.Equal(c.Keys, b.keysDigest()) {
		return fmt.Errorf("%w: the certificate is of another bundle", ErrOrigin)
	}
	return nil
}

// keysDigest is the digest of the keys of section 5.2.
func (b *Bundle) keysDigest() []byte {
	all := append([]byte("pgtrove v1 bundle keys\x00"), b.Common...)
	pairs := func(keys []Key) {
		all = binary.BigEndian.AppendUint32(all, uint32(len(keys)))
		for _, k := range keys {
			all = append(all, k.Public...)
		}
	}
	pairs(b.DataKeys)
	groups := b.groups()
	all = binary.BigEndian.AppendUint32(all, uint32(len(groups)))
	for _, g := range groups {
		all = binary.BigEndian.AppendUint32(all, uint32(len(g.Name)))
		all = append(append(append(all, g.Name...), g.IDKey...), g.MetaKey...)
		pairs(g.WALKeys)
	}
	sum := sha256.Sum256(all)
	return sum[:]
}

// KeyRecord is what an owner says of an entry (section 6.3).
type KeyRecord struct {
	Version  int
	Entry    string
	Name     string
	Number   int
	Owners   bool
	Claimed  []KnownSnapshot
	Accepted []KnownSnapshot
}

// KnownSnapshot is one that an owner has looked at.
type KnownSnapshot struct {
	Cluster string
	ID      string
	SHA256  []byte
}

func isEntry(s string) bool { return len(s) == 16 && isHex(s) }

// record reads what an owner says; nil: nobody has said that.
func (r *Repository) record(name, kind string) (*KeyRecord, error) {
	if !r.has(name) || r.Bundle.Root == nil {
		return nil, nil
	}
	signed, err := r.payload("pgtkeys", name)
	if errors.Is(err, ErrDamaged) || errors.Is(err, ErrForeign) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	statement, err := r.Bundle.certified(labelled("pgtrove v1 certified", r.Bundle.Repository, kind), signed)
	if err != nil {
		return nil, nil
	}
	k := new(KeyRecord)
	if err := versioned(statement, "version", k); err != nil {
		return nil, err
	}
	if kind == "generation" && name != fmt.Sprintf("keys/generation.%d", k.Number) || kind != "generation" && name != "keys/"+k.Entry+"."+kind {
		return nil, nil
	}
	return k, nil
}

// readKeys reads who has the keys, or had them, and which are removed.
func (r *Repository) readKeys() (err error) {
	r.holders, r.removed = map[string]*KeyRecord{}, map[string]*KeyRecord{}
	for _, name := range r.Names("keys/") {
		entry, kind, _ := strings.Cut(path.Base(name), ".")
		of := map[string]map[string]*KeyRecord{"entry": r.holders, "removed": r.removed}[kind]
		if of == nil {
			continue
		}
		k, err := r.record(name, kind)
		if err != nil {
			return err
		}
		if k != nil {
			of[entry] = k
		}
	}
	return nil
}

// openBundle is section 6.2. root is the public half of the root key, nil if that is not known.
func (r *Repository) openBundle(root ed25519.PublicKey, identities []age.Identity) error {
	bad := errors.New("no bundle that the identities open")
	rank := map[string]int{"writer": 1, "standby": 2, "owner": 3}
	best, number := (*Bundle)(nil), map[string]int{}
	for _, name := range r.Names("keys/") {
		entry, n, _ := strings.Cut(path.Base(name), ".")
		at, err := strconv.Atoi(n)
		if n == "" {
			at, err = 1, nil
		}
		if err != nil || !isEntry(entry) {
			continue
		}
		file, err := r.Object(name)
		if err != nil {
			return err
		}
		b, err := OpenBundle(file, identities...)
		var other *age.NoIdentityMatchError
		if errors.As(err, &other) || err == nil && b.Repository != r.Config.ID {
			continue
		}
		if err == nil && root != nil && !root.Equal(b.Root) {
			err = fmt.Errorf("%w: another root key", ErrOrigin)
		}
		if err != nil {
			bad = fmt.Errorf("%s: %w", name, err)
			continue
		}
		r.Bundle = b
		if use, err := r.inUse(entry, at); err != nil || !use {
			if err != nil {
				return err
			}
			continue
		}
		if best != nil && !b.Root.Equal(best.Root) {
			return fmt.Errorf("%w: bundles of two root keys", ErrOrigin)
		}
		if best == nil || rank[b.Role] > rank[best.Role] || b.Root != nil && b.Certificate.Entry == best.Certificate.Entry && at > number[entry] {
			best, number[entry] = b, at
		}
	}
	if r.Bundle = best; best == nil {
		return bad
	}
	return nil
}

// inUse says whether the bundle that is open is one to use.
func (r *Repository) inUse(entry string, number int) (bool, error) {
	if r.Bundle.Root == nil {
		return true, nil
	}
	if r.Bundle.Certificate.Entry != entry {
		return false, nil
	}
	gone, err := r.record("keys/"+entry+".removed", "removed")
	if err != nil || gone != nil || number == 1 {
		return gone == nil, err
	}
	active, err := r.record(fmt.Sprintf("keys/generation.%d", number), "generation")
	return active != nil && (!active.Owners || r.Bundle.Role == "owner"), err
}

// refuses says by which rule of section 7.3 a snapshot is refused; "": by none.
func (r *Repository) refuses(name string, o *Outcome) string {
	if o.by == nil {
		return ""
	}
	known := func(all []KnownSnapshot) bool {
		return slices.ContainsFunc(all, func(k KnownSnapshot) bool {
			return path.Join("snapshots", k.Cluster, k.ID) == name && (len(k.SHA256) == 0 || bytes.Equal(k.SHA256, o.sum[:]))
		})
	}
	if gone := r.removed[o.by.Entry]; gone != nil {
		if known(gone.Accepted) {
			return ""
		}
		return "removed"
	}
	if o.by.Role != "owner" && o.by.Group != o.group {
		return "group"
	}
	if !slices.Contains(o.by.Clusters, "*") && !slices.Contains(o.by.Clusters, path.Base(path.Dir(name))) {
		return "cluster"
	}
	host := plainName(o.Manifest.Origin.Host)
	if o.by.Role == "owner" || host != "" && host == plainName(o.by.Name) {
		return ""
	}
	if host == "" {
		return "host"
	}
	for _, k := range r.holders {
		if plainName(k.Name) == host && !known(k.Claimed) {
			return "host"
		}
	}
	return ""
}

// plainName is a host's name as names are compared.
func plainName(s string) string { return strings.ToLower(strings.Trim(s, ". \t\r\n")) }
