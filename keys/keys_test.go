package keys

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/pgtrove/pgtrove/chunk"
)

const testRepository = "0123456789abcdef0123456789abcdef"

func generate(t testing.TB) *Bundle {
	t.Helper()
	b, err := Generate(testRepository, "the owner")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func forRole(t testing.TB, b *Bundle, r Role) *Bundle {
	t.Helper()
	c, err := b.Issue(IssueOptions{Name: "a " + string(r), Role: r, Group: b.Group, Clusters: []string{AnyCluster}})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Validate(); err != nil {
		t.Fatalf("bundle of role %s: %v", r, err)
	}
	return c
}

// secrets are all secret bytes of a bundle.
func secrets(b *Bundle) [][]byte {
	out := [][]byte{b.Common[:]}
	add := func(s Secret) {
		if !s.IsZero() {
			out = append(out, s[:])
		}
	}
	for _, k := range b.DataKeys {
		add(k.Secret)
	}
	for _, g := range b.Groups() {
		out = append(out, g.ChunkKey[:])
		add(g.MetaKey)
		for _, k := range g.WALKeys {
			add(k.Secret)
		}
	}
	add(b.Signing.Secret)
	add(b.Signing.RootSecret)
	return out
}

// leaks says whether text shows any secret of b, in any usual writing.
func leaks(text string, b *Bundle) bool {
	lower := strings.ToLower(text)
	for _, s := range secrets(b) {
		for _, part := range [][]byte{s[:6], s[len(s)-6:]} {
			if strings.Contains(text, string(part)) {
				return true
			}
			decimal := strings.Trim(fmt.Sprint(part), "[]")
			for _, form := range []string{
				hex.EncodeToString(part), base64.StdEncoding.EncodeToString(part),
				decimal, strings.ReplaceAll(decimal, " ", ","), strings.ReplaceAll(decimal, " ", ", "),
			} {
				if strings.Contains(lower, strings.ToLower(form)) {
					return true
				}
			}
		}
	}
	return false
}

func TestEachRoleOpensExactlyWhatItMay(t *testing.T) {
	owner := generate(t)
	data, err := owner.DataSealer(testRepository, "s1")
	if err != nil {
		t.Fatal(err)
	}
	wal, err := owner.WALSealer(testRepository, "s1")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		role          Role
		data, wal     bool
		secretsInJSON int // how many "secret" fields the bundle has: one is the signing key
	}{
		{Owner, true, true, 3},
		{Writer, false, false, 1},
		{Standby, false, true, 2},
	} {
		b := forRole(t, owner, c.role)
		if _, err := b.DataOpener(testRepository, "s1", data.Encapsulation()); (err == nil) != c.data {
			t.Errorf("%s opens data: %v", c.role, err)
		} else if !c.data && !errors.Is(err, ErrRole) {
			t.Errorf("%s: data refused with %v", c.role, err)
		}
		if _, err := b.WALOpener(testRepository, "s1", wal.Encapsulation()); (err == nil) != c.wal {
			t.Errorf("%s opens WAL: %v", c.role, err)
		} else if !c.wal && !errors.Is(err, ErrRole) {
			t.Errorf("%s: WAL refused with %v", c.role, err)
		}
		// What every role may: name chunks, read metadata, seal both.
		if b.IDKey() != owner.IDKey() || b.MetaKey != owner.MetaKey {
			t.Errorf("%s has other symmetric keys", c.role)
		}
		if _, err := b.Meta(); err != nil {
			t.Errorf("%s: %v", c.role, err)
		}
		for _, sealer := range []func(string, string) (*Sealer, error){b.DataSealer, b.WALSealer} {
			if _, err := sealer(testRepository, "s2"); err != nil {
				t.Errorf("%s cannot seal: %v", c.role, err)
			}
		}
		plain, err := encodeBundle(b)
		if err != nil {
			t.Fatal(err)
		}
		if n := bytes.Count(plain, []byte(`"secret"`)); n != c.secretsInJSON {
			t.Errorf("%s: %d secrets in the stored bundle, want %d", c.role, n, c.secretsInJSON)
		}
	}
}

func TestOnlyAnOwnerIssuesBundles(t *testing.T) {
	owner := generate(t)
	for _, from := range []Role{Writer, Standby} {
		b := forRole(t, owner, from)
		for _, to := range []Role{Owner, Writer, Standby} {
			if _, err := b.Issue(IssueOptions{Name: "x", Role: to, Clusters: []string{AnyCluster}}); !errors.Is(err, ErrRole) {
				t.Errorf("%s to %s: %v", from, to, err)
			}
		}
		if _, err := b.AddGroup("x"); !errors.Is(err, ErrRole) {
			t.Errorf("%s adds a group: %v", from, err)
		}
		if _, err := b.RotateData(); !errors.Is(err, ErrRole) {
			t.Errorf("%s rotates: %v", from, err)
		}
		if _, err := b.Certify("entry", nil); !errors.Is(err, ErrRole) {
			t.Errorf("%s certifies: %v", from, err)
		}
	}
	if err := owner.Validate(); err != nil {
		t.Errorf("making bundles of other roles changed the owner's: %v", err)
	}
}

func TestBundleShowsNoSecret(t *testing.T) {
	b := generate(t)
	if !leaks(fmt.Sprintf("%x", [32]byte(b.MetaKey)), b) || !leaks(fmt.Sprint([32]byte(b.ChunkKey)), b) {
		t.Fatal("this test would not see a secret")
	}
	// %p of a value, which fmt lets no type answer and vet refuses, is left out.
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t"} {
		for _, v := range []any{
			b, *b, b.DataKeys, b.DataKeys[0], &b.DataKeys[0], b.MetaKey, &b.MetaKey, b.ChunkKey,
			b.Signing, &b.Signing, b.Groups(), b.Groups()[0], b.Certificate(), *b.Certificate(),
		} {
			if leaks(fmt.Sprintf(format, v), b) {
				t.Errorf("%s of %T shows a secret", format, v)
			}
		}
	}
	for _, v := range []any{b, *b, b.DataKeys[0], b.MetaKey, b.ChunkKey, b.Signing, b.Groups()} {
		if text, err := json.Marshal(v); err == nil {
			t.Errorf("%T has a JSON form: %d bytes", v, len(text))
		}
	}
	if got := b.String(); !strings.Contains(got, testRepository) || !strings.Contains(got, "owner") {
		t.Errorf("String() = %s", got)
	}
}

func TestGeneratedKeysAreNeverTheSame(t *testing.T) {
	one, two := generate(t), generate(t)
	seen := map[string]bool{}
	for _, s := range append(secrets(one), secrets(two)...) {
		if seen[string(s)] {
			t.Fatal("a secret was made twice")
		}
		seen[string(s)] = true
	}
	if len(seen) != 14 {
		t.Errorf("%d secrets in two bundles", len(seen))
	}
	if _, err := Generate("", "owner"); !errors.Is(err, ErrFormat) {
		t.Errorf("bundle without a repository: %v", err)
	}
}

func TestValidateRefusesBundlesThatDoNotFitTogether(t *testing.T) {
	owner, other := generate(t), generate(t)
	for name, spoil := range map[string]func(*Bundle){
		"no role":             func(b *Bundle) { b.Role = "" },
		"no repository":       func(b *Bundle) { b.Repository = "" },
		"no chunk key":        func(b *Bundle) { b.ChunkKey = chunk.Key{} },
		"no metadata key":     func(b *Bundle) { b.MetaKey = Secret{} },
		"no data key":         func(b *Bundle) { b.DataKeys = nil },
		"no WAL key":          func(b *Bundle) { b.WALKeys = nil },
		"owner without data":  func(b *Bundle) { b.DataKeys[0].Secret = Secret{} },
		"owner without WAL":   func(b *Bundle) { b.WALKeys[0].Secret = Secret{} },
		"writer with secrets": func(b *Bundle) { b.Role = Writer },
		"standby with data":   func(b *Bundle) { b.Role = Standby },
		"another ID":          func(b *Bundle) { b.DataKeys[0].ID = other.DataKeys[0].ID },
		"another public key":  func(b *Bundle) { b.DataKeys[0].Public = other.DataKeys[0].Public },
		"another secret":      func(b *Bundle) { b.WALKeys[0].Secret = other.WALKeys[0].Secret },
		"short public key":    func(b *Bundle) { b.WALKeys[0].Public = b.WALKeys[0].Public[1:] },
		"the same key twice":  func(b *Bundle) { b.WALKeys = append(b.WALKeys, b.WALKeys[0]) },
	} {
		b := forRole(t, owner, Owner)
		spoil(b)
		err := b.Validate()
		if !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", name, err)
		} else if leaks(err.Error(), owner) {
			t.Errorf("%s: the error shows a secret", name)
		}
		if _, err := encodeBundle(b); err == nil {
			t.Errorf("%s: can be stored", name)
		}
	}
}

func TestAfterRotationTheNewestKeySealsAndAllOpen(t *testing.T) {
	b := generate(t)
	old, err := b.DataSealer(testRepository, "old")
	if err != nil {
		t.Fatal(err)
	}
	if b, err = b.RotateData(); err != nil {
		t.Fatal(err)
	}
	if err := b.Validate(); err != nil {
		t.Fatal(err)
	}
	fresh := b.DataKeys[1]
	s, err := b.DataSealer(testRepository, "new")
	if err != nil {
		t.Fatal(err)
	}
	if got := s.Encapsulation()[1 : 1+KeyIDSize]; !bytes.Equal(got, fresh.ID[:]) {
		t.Errorf("sealed to key %x, want %s", got, fresh.ID)
	}
	for sid, e := range map[string][]byte{"old": old.Encapsulation(), "new": s.Encapsulation()} {
		if _, err := b.DataOpener(testRepository, sid, e); err != nil {
			t.Errorf("%s session: %v", sid, err)
		}
	}
}
