package keys

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/pgtrove/pgtrove/chunk"
)

const (
	// bundleVersion is that of bundles with a root key; those without have
	// unsignedVersion, and stay so.
	bundleVersion   = 2
	unsignedVersion = 1
	// maxBundle bounds a bundle in bytes, before anything is parsed. A key
	// pair takes less than 2 KiB.
	maxBundle = 1 << 20
	// algorithm is the only kind of key pair.
	algorithm = "mlkem768x25519"
)

// bundleJSON is the bundle as it is stored, inside age. What signing holds
// depends on the version: version 1 reserved it, writes none, and ignores
// what is there.
type bundleJSON struct {
	Version    int             `json:"version"`
	Role       Role            `json:"role"`
	Repository string          `json:"repository"`
	Name       string          `json:"name"`
	Created    time.Time       `json:"created"`
	Group      string          `json:"group,omitempty"`
	ChunkKey   []byte          `json:"id_key"`
	MetaKey    []byte          `json:"meta_key"`
	Common     []byte          `json:"common_key,omitempty"`
	DataKeys   []keyJSON       `json:"data_keys"`
	WALKeys    []keyJSON       `json:"wal_keys"`
	Others     []groupJSON     `json:"groups,omitempty"`
	Signing    json.RawMessage `json:"signing,omitempty"`
}

type keyJSON struct {
	ID        string `json:"id"`
	Algorithm string `json:"algorithm"`
	Public    []byte `json:"public"`
	Secret    []byte `json:"secret,omitempty"`
}

type groupJSON struct {
	Name     string    `json:"name"`
	ChunkKey []byte    `json:"id_key"`
	MetaKey  []byte    `json:"meta_key"`
	WALKeys  []keyJSON `json:"wal_keys"`
}

type signingJSON struct {
	Root        []byte `json:"root"`
	RootSecret  []byte `json:"root_secret,omitempty"`
	Secret      []byte `json:"secret"`
	Certificate []byte `json:"certificate"`
}

// encodeBundle is the plain JSON of a bundle.
func encodeBundle(b *Bundle) ([]byte, error) {
	if err := b.Validate(); err != nil {
		return nil, err
	}
	w := bundleJSON{
		Version:    unsignedVersion,
		Role:       b.Role,
		Repository: b.Repository,
		Name:       b.Name,
		Created:    b.Created.UTC(),
		ChunkKey:   b.ChunkKey[:],
		MetaKey:    b.MetaKey[:],
		DataKeys:   encodeKeys(b.DataKeys),
		WALKeys:    encodeKeys(b.WALKeys),
	}
	if b.signed() {
		w.Version, w.Group, w.Common = bundleVersion, b.Group, b.Common[:]
		for i := range b.Others {
			g := &b.Others[i]
			w.Others = append(w.Others, groupJSON{g.Name, g.ChunkKey[:], g.MetaKey[:], encodeKeys(g.WALKeys)})
		}
		s := signingJSON{Root: b.Signing.Root, Secret: b.Signing.Secret[:], Certificate: b.Signing.Certificate}
		if !b.Signing.RootSecret.IsZero() {
			s.RootSecret = b.Signing.RootSecret[:]
		}
		var err error
		if w.Signing, err = json.Marshal(s); err != nil {
			return nil, err
		}
	}
	out, err := json.Marshal(w)
	if err == nil && len(out) > maxBundle {
		return nil, malformed("bundle of more than %d bytes", maxBundle)
	}
	return out, err
}

func encodeKeys(keys []KeyPair) []keyJSON {
	var out []keyJSON
	for i := range keys {
		k := keyJSON{ID: keys[i].ID.String(), Algorithm: algorithm, Public: keys[i].Public}
		if !keys[i].Secret.IsZero() {
			k.Secret = keys[i].Secret[:]
		}
		out = append(out, k)
	}
	return out
}

// decodeBundle reads what encodeBundle wrote. Errors of the JSON library are
// not passed on: they can quote their input.
func decodeBundle(data []byte) (*Bundle, error) {
	if len(data) > maxBundle {
		return nil, malformed("bundle of more than %d bytes", maxBundle)
	}
	var version struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(data, &version); err != nil {
		return nil, malformed("bundle is no JSON object")
	}
	if version.Version != bundleVersion && version.Version != unsignedVersion {
		return nil, fmt.Errorf("%w: bundle version %d, this program knows %d", ErrVersion, version.Version, bundleVersion)
	}
	var w bundleJSON
	if err := decodeStrictly(data, &w); err != nil {
		return nil, fmt.Errorf("bundle: %w", err)
	}
	b, err := w.bundle()
	if err != nil {
		return nil, err
	}
	if err := b.Validate(); err != nil {
		return nil, err
	}
	return b, nil
}

// decodeStrictly reads one JSON object that has no other fields than v.
func decodeStrictly(data []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return malformed("unknown or ill-typed fields")
	}
	if _, err := dec.Token(); err != io.EOF {
		return malformed("bytes behind the object")
	}
	return nil
}

func (w *bundleJSON) bundle() (*Bundle, error) {
	b := &Bundle{Role: w.Role, Repository: w.Repository, Name: w.Name, Created: w.Created}
	g, err := (&groupJSON{w.Group, w.ChunkKey, w.MetaKey, w.WALKeys}).group()
	if err != nil {
		return nil, err
	}
	b.setGroup(g)
	if b.DataKeys, err = decodeKeys(w.DataKeys); err != nil {
		return nil, fmt.Errorf("data keys: %w", err)
	}
	if w.Version == unsignedVersion {
		if w.Group != "" || w.Common != nil || w.Others != nil {
			return nil, malformed("groups in a bundle of version %d", unsignedVersion)
		}
		b.Common = b.MetaKey
		return b, nil
	}
	if err := setSecret(&b.Common, w.Common, "common key"); err != nil {
		return nil, err
	}
	for i := range w.Others {
		if g, err = w.Others[i].group(); err != nil {
			return nil, fmt.Errorf("group %d: %w", i, err)
		}
		b.Others = append(b.Others, g)
	}
	var s signingJSON
	if err := decodeStrictly(w.Signing, &s); err != nil {
		return nil, fmt.Errorf("signing: %w", err)
	}
	return b, b.setSigning(&s)
}

func (b *Bundle) setSigning(s *signingJSON) error {
	if s.RootSecret != nil {
		if err := setSecret(&b.Signing.RootSecret, s.RootSecret, "secret of the root key"); err != nil {
			return err
		}
	}
	b.Signing.Root, b.Signing.Certificate = s.Root, s.Certificate
	return setSecret(&b.Signing.Secret, s.Secret, "signing key")
}

func (w *groupJSON) group() (Group, error) {
	g := Group{Name: w.Name}
	if len(w.ChunkKey) != chunk.KeySize {
		return g, malformed("chunk key of %d bytes", len(w.ChunkKey))
	}
	copy(g.ChunkKey[:], w.ChunkKey)
	if err := setSecret(&g.MetaKey, w.MetaKey, "metadata key"); err != nil {
		return g, err
	}
	var err error
	if g.WALKeys, err = decodeKeys(w.WALKeys); err != nil {
		return g, fmt.Errorf("WAL keys: %w", err)
	}
	return g, nil
}

func setSecret(to *Secret, from []byte, what string) error {
	if len(from) != SecretSize {
		return malformed("%s of %d bytes", what, len(from))
	}
	copy(to[:], from)
	return nil
}

func decodeKeys(keys []keyJSON) ([]KeyPair, error) {
	var out []KeyPair
	for i := range keys {
		w := &keys[i]
		if w.Algorithm != algorithm {
			return nil, malformed("unknown algorithm of key %d", i)
		}
		k := KeyPair{Public: w.Public}
		if n, err := hex.Decode(k.ID[:], []byte(w.ID)[:min(len(w.ID), 2*KeyIDSize)]); err != nil || n != KeyIDSize || len(w.ID) != 2*KeyIDSize {
			return nil, malformed("ID of key %d", i)
		}
		switch len(w.Secret) {
		case 0:
		case SecretSize:
			copy(k.Secret[:], w.Secret)
		default:
			return nil, malformed("secret of key %d has %d bytes", i, len(w.Secret))
		}
		out = append(out, k)
	}
	return out, nil
}
