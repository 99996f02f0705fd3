package format

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hpke"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"time"

	"filippo.io/age"
)

// Bundle is the key bundle of section 5.
type Bundle struct {
	Version    int
	Role       string
	Repository string
	Name       string
	Created    time.Time
	Group      string
	IDKey      []byte          `json:"id_key"`
	MetaKey    []byte          `json:"meta_key"`
	Common     []byte          `json:"common_key"`
	DataKeys   []Key           `json:"data_keys"`
	WALKeys    []Key           `json:"wal_keys"`
	Groups     []Group         // the other ones
	Signing    json.RawMessage `json:"signing"`

	Root        ed25519.PublicKey `json:"-"` // nil: version 1
	Certificate Certificate       `json:"-"`
}

// Group is the keys of a trust group.
type Group struct {
	Name    string
	IDKey   []byte `json:"id_key"`
	MetaKey []byte `json:"meta_key"`
	WALKeys []Key  `json:"wal_keys"`
}

// Key is a key pair of a bundle; Secret is nil where the role has none.
type Key struct {
	ID        string
	Algorithm string
	Public    []byte
	Secret    []byte
}

// OpenBundle opens the age file of a bundle with the first identity that does.
func OpenBundle(file []byte, identities ...age.Identity) (b *Bundle, err error) {
	for _, id := range identities {
		var other *age.NoIdentityMatchError
		if b, err = openBundle(file, id); !errors.As(err, &other) {
			return b, err
		}
	}
	return nil, err
}

func openBundle(file []byte, id age.Identity) (*Bundle, error) {
	r, err := age.Decrypt(bytes.NewReader(file), id)
	if err != nil {
		return nil, err
	}
	const most = 1 << 20
	plain, err := io.ReadAll(io.LimitReader(r, most+1))
	if err != nil {
		return nil, damaged("bundle: %v", err)
	}
	if len(plain) > most {
		return nil, damaged("bundle of more than %d bytes", most)
	}
	b, err := parseBundle(plain)
	if err != nil {
		return nil, err
	}
	return b, b.Certificate.allows(id)
}

func parseBundle(plain []byte) (*Bundle, error) {
	b := new(Bundle)
	if err := strict(plain, "version", 2, b); err != nil {
		return nil, fmt.Errorf("bundle: %w", err)
	}
	opens := map[string]struct{ data, wal bool }{"owner": {true, true}, "standby": {false, true}, "writer": {}}
	can, known := opens[b.Role]
	if !known {
		return nil, damaged("bundle with the role %q", b.Role)
	}
	if len(b.IDKey) != 32 || len(b.MetaKey) != 32 {
		return nil, damaged("bundle with keys of %d and %d bytes", len(b.IDKey), len(b.MetaKey))
	}
	if err := checkKeys(b.DataKeys, can.data); err != nil {
		return nil, fmt.Errorf("data_keys: %w", err)
	}
	if err := checkKeys(b.WALKeys, can.wal); err != nil {
		return nil, fmt.Errorf("wal_keys: %w", err)
	}
	if b.Version == 1 {
		if b.Group != "" || b.Common != nil || b.Groups != nil {
			return nil, damaged("groups in a bundle of version 1")
		}
		b.Common = b.MetaKey
		return b, nil
	}
	if len(b.Common) != 32 || len(b.Groups) > 0 && b.Role != "owner" {
		return nil, damaged("common key of %d bytes, %d groups in the bundle of a %s", len(b.Common), len(b.Groups), b.Role)
	}
	if err := b.checkGroups(can.wal); err != nil {
		return nil, err
	}
	return b, b.checkSigning()
}

func (b *Bundle) checkGroups(wal bool) error {
	seen := map[string]bool{string(b.Common): true}
	first := func(what, key string) bool {
		defer func() { seen[what+key] = true }()
		return !seen[what+key]
	}
	for i, g := range b.groups() {
		if len(g.IDKey) != 32 || len(g.MetaKey) != 32 {
			return damaged("group with keys of %d and %d bytes", len(g.IDKey), len(g.MetaKey))
		}
		if !regexp.MustCompile(`^[a-z0-9_-]{0,63}$`).MatchString(g.Name) || g.Name == "main" {
			return damaged("a group of the name %q", g.Name)
		}
		once := first("name ", g.Name) && first("", string(g.IDKey)) && first("", string(g.MetaKey))
		for _, k := range g.WALKeys {
			once = once && first("key ", k.ID)
		}
		if !once {
			return damaged("group %q has something of another", g.Name)
		}
		if err := checkKeys(g.WALKeys, wal); i > 0 && err != nil {
			return fmt.Errorf("group %q: %w", g.Name, err)
		}
	}
	return nil
}

// groups are those whose keys the bundle has, its holder's first.
func (b *Bundle) groups() []Group {
	return append([]Group{{b.Group, b.IDKey, b.MetaKey, b.WALKeys}}, b.Groups...)
}

// of is the bundle with the keys of g in the place of those of its holder's group.
func (b *Bundle) of(g Group) *Bundle {
	o := *b
	o.Group, o.IDKey, o.MetaKey, o.WALKeys, o.Groups = g.Name, g.IDKey, g.MetaKey, g.WALKeys, nil
	return &o
}

func checkKeys(keys []Key, secrets bool) error {
	if len(keys) == 0 {
		return damaged("no keys")
	}
	for _, k := range keys {
		sum := sha256.Sum256(k.Public)
		switch {
		case k.Algorithm != "mlkem768x25519":
			return damaged("key with the algorithm %q", k.Algorithm)
		case len(k.Public) != 1216:
			return damaged("public key of %d bytes", len(k.Public))
		case hex.EncodeToString(sum[:8]) != k.ID:
			return damaged("key %s has the ID %x", k.ID, sum[:8])
		case (k.Secret != nil) != secrets:
			return damaged("key %s has or lacks a secret against its role", k.ID)
		case !secrets:
			continue
		}
		secret, err := hpke.MLKEM768X25519().NewPrivateKey(k.Secret)
		if err != nil {
			return damaged("key %s: %v", k.ID, err)
		}
		if !bytes.Equal(secret.PublicKey().Bytes(), k.Public) {
			return damaged("the halves of key %s do not belong together", k.ID)
		}
	}
	return nil
}
