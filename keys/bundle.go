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
	bundleVersion = 1
	// maxBundle bounds a bundle in bytes, before anything is parsed. A key
	// pair takes less than 2 KiB.
	maxBundle = 1 << 20
	// algorithm is the only kind of key pair of version 1.
	algorithm = "mlkem768x25519"
)

// bundleJSON is the bundle as it is stored, inside age. The fields for
// signing are reserved: version 1 writes none and ignores what is there.
type bundleJSON struct {
	Version    int             `json:"version"`
	Role       Role            `json:"role"`
	Repository string          `json:"repository"`
	Name       string          `json:"name"`
	Created    time.Time       `json:"created"`
	ChunkKey   []byte          `json:"id_key"`
	MetaKey    []byte          `json:"meta_key"`
	DataKeys   []keyJSON       `json:"data_keys"`
	WALKeys    []keyJSON       `json:"wal_keys"`
	Signing    json.RawMessage `json:"signing,omitempty"`
}

type keyJSON struct {
	ID        string `json:"id"`
	Algorithm string `json:"algorithm"`
	Public    []byte `json:"public"`
	Secret    []byte `json:"secret,omitempty"`
}

// encodeBundle is the plain JSON of a bundle.
func encodeBundle(b *Bundle) ([]byte, error) {
	if err := b.Validate(); err != nil {
		return nil, err
	}
	return json.Marshal(bundleJSON{
		Version:    bundleVersion,
		Role:       b.Role,
		Repository: b.Repository,
		Name:       b.Name,
		Created:    b.Created.UTC(),
		ChunkKey:   b.ChunkKey[:],
		MetaKey:    b.MetaKey[:],
		DataKeys:   encodeKeys(b.DataKeys),
		WALKeys:    encodeKeys(b.WALKeys),
	})
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
	if version.Version != bundleVersion {
		return nil, fmt.Errorf("%w: bundle version %d, this program knows %d", ErrVersion, version.Version, bundleVersion)
	}
	var w bundleJSON
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&w); err != nil {
		return nil, malformed("bundle has unknown or ill-typed fields")
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, malformed("bytes behind the bundle")
	}
	return w.bundle()
}

func (w *bundleJSON) bundle() (*Bundle, error) {
	b := &Bundle{Role: w.Role, Repository: w.Repository, Name: w.Name, Created: w.Created}
	if len(w.ChunkKey) != chunk.KeySize || len(w.MetaKey) != SecretSize {
		return nil, malformed("symmetric keys of %d and %d bytes", len(w.ChunkKey), len(w.MetaKey))
	}
	copy(b.ChunkKey[:], w.ChunkKey)
	copy(b.MetaKey[:], w.MetaKey)
	var err error
	if b.DataKeys, err = decodeKeys(w.DataKeys); err != nil {
		return nil, fmt.Errorf("data keys: %w", err)
	}
	if b.WALKeys, err = decodeKeys(w.WALKeys); err != nil {
		return nil, fmt.Errorf("WAL keys: %w", err)
	}
	if err := b.Validate(); err != nil {
		return nil, err
	}
	return b, nil
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
