package keys

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

func issue(t testing.TB, owner *Bundle, o IssueOptions) *Bundle {
	t.Helper()
	if o.Clusters == nil {
		o.Clusters = []string{AnyCluster}
	}
	b, err := owner.Issue(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Validate(); err != nil {
		t.Fatal(err)
	}
	return b
}

func withGroup(t testing.TB, owner *Bundle, name string) *Bundle {
	t.Helper()
	b, err := owner.AddGroup(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Validate(); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestSignedPayloadTellsWhoSignedIt(t *testing.T) {
	owner := withGroup(t, generate(t), "b")
	created := time.Date(2026, 1, 2, 3, 4, 5, 678, time.UTC)
	w := issue(t, owner, IssueOptions{Entry: "00112233445566ff", Name: "db1", Role: Writer, Clusters: []string{"main", "test"}, Created: created})
	other := issue(t, owner, IssueOptions{Name: "db2", Role: Standby, Group: "b"})
	signed := w.Sign([]byte("before"), []byte("aad"), []byte("payload"))
	if !bytes.HasPrefix(signed, []byte("before")) {
		t.Fatal("dst is not kept")
	}
	for _, reader := range []*Bundle{owner, w, other} {
		c, payload, err := reader.OpenSigned([]byte("aad"), signed[6:])
		if err != nil || string(payload) != "payload" {
			t.Fatalf("%s: %q, %v", reader, payload, err)
		}
		if c.Entry != "00112233445566ff" || c.Name != "db1" || c.Role != Writer || c.Group != "" || c.Repository != testRepository ||
			!slices.Equal(c.Clusters, []string{"main", "test"}) || !c.Created.Equal(created.Truncate(time.Second)) {
			t.Errorf("%+v", c)
		}
		if !c.MayWrite("main") || !c.MayWrite("test") || c.MayWrite("mai") || c.MayWrite("") || c.MayWrite(AnyCluster) {
			t.Error("the certificate's clusters")
		}
	}
	if c := other.Certificate(); c.Group != "b" || c.Role != Standby || c.Name != "db2" || !c.MayWrite("anything") || !validEntry(c.Entry) {
		t.Errorf("%+v", c)
	}
	if c := owner.Certificate(); c.Role != Owner || c.Name != "the owner" || !c.MayWrite("anything") {
		t.Errorf("%+v", c)
	}
	empty := owner.Sign(nil, nil, nil)
	if _, payload, err := w.OpenSigned(nil, empty); err != nil || len(payload) != 0 {
		t.Errorf("nothing signed: %q, %v", payload, err)
	}
}

func TestWhatWasNotSignedLikeThisIsRefused(t *testing.T) {
	owner := generate(t)
	w := issue(t, owner, IssueOptions{Name: "db1", Role: Writer})
	v := issue(t, owner, IssueOptions{Name: "db2", Role: Writer})
	aad, payload := []byte("aad"), []byte("payload")
	signed := w.Sign(nil, aad, payload)
	for at := range signed {
		bad := bytes.Clone(signed)
		bad[at] ^= 1
		if _, _, err := owner.OpenSigned(aad, bad); !errors.Is(err, ErrOrigin) {
			t.Fatalf("byte %d of %d flipped: %v", at, len(signed), err)
		}
	}
	for n := range signed {
		if _, _, err := owner.OpenSigned(aad, signed[:n]); !errors.Is(err, ErrOrigin) {
			t.Fatalf("cut to %d of %d bytes: %v", n, len(signed), err)
		}
	}
	forge := func(certificate []byte, secret Secret, aad, payload []byte) []byte {
		out := binary.AppendUvarint(nil, uint64(len(certificate)))
		out = append(out, certificate...)
		out = append(out, ed25519.Sign(secret.private(), originMessage(aad, payload))...)
		return append(out, payload...)
	}
	n := uint64(len(w.Signing.Certificate))
	other := generate(t)
	for name, c := range map[string]struct{ aad, signed []byte }{
		"another place":               {[]byte("aae"), signed},
		"no place":                    {nil, signed},
		"border moved":                {[]byte("aad\x00"), forge(w.Signing.Certificate, w.Signing.Secret, []byte("aad"), []byte("\x00payload"))},
		"bytes behind":                {aad, append(bytes.Clone(signed), 0)},
		"another's certificate":       {aad, forge(v.Signing.Certificate, w.Signing.Secret, aad, payload)},
		"another's key":               {aad, forge(w.Signing.Certificate, v.Signing.Secret, aad, payload)},
		"another repository's writer": {aad, other.Sign(nil, aad, payload)},
		"its own root key":            {aad, forge(recertify(t, w, newSecret()).Signing.Certificate, w.Signing.Secret, aad, payload)},
		"no certificate":              {aad, forge(nil, w.Signing.Secret, aad, payload)},
		"long number":                 {aad, append([]byte{byte(n) | 0x80, byte(n>>7) | 0x80, 0}, signed[2:]...)},
		"huge certificate":            {aad, binary.AppendUvarint(nil, 1<<63)},
		"unsigned payload":            {aad, payload},
		"statement of the root key":   {aad, forge(certified(t, owner, "certificate", []byte("{}")), w.Signing.Secret, aad, payload)},
	} {
		if _, _, err := owner.OpenSigned(c.aad, c.signed); !errors.Is(err, ErrOrigin) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n < 1<<7 || n >= 1<<14 {
		t.Errorf("certificate of %d bytes: this test expects a length of two bytes", n)
	}
}

// recertify signs the bundle's certificate with another root key.
func recertify(t testing.TB, b *Bundle, root Secret) *Bundle {
	t.Helper()
	c := *b
	old := b.Certificate()
	var err error
	if c.Signing.Certificate, err = old.certify(root.private()); err != nil {
		t.Fatal(err)
	}
	return &c
}

func certified(t testing.TB, b *Bundle, kind string, statement []byte) []byte {
	t.Helper()
	signed, err := b.Certify(kind, statement)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

func TestBundleWithoutARootKeySignsNothing(t *testing.T) {
	b := unsigned(t)
	if b.Certificate() != nil {
		t.Error("a certificate")
	}
	for name, f := range map[string]func() error{
		"issue": func() error {
			_, err := b.Issue(IssueOptions{Name: "x", Role: Writer, Clusters: []string{"*"}})
			return err
		},
		"add group": func() error { _, err := b.AddGroup("x"); return err },
		"rotate":    func() error { _, err := b.RotateData(); return err },
		"certify":   func() error { _, err := b.Certify("x", nil); return err },
	} {
		if err := f(); !errors.Is(err, ErrRole) {
			t.Errorf("%s: %v", name, err)
		}
	}
	signed := generate(t).Sign(nil, nil, nil)
	if _, _, err := b.OpenSigned(nil, signed); !errors.Is(err, ErrOrigin) {
		t.Errorf("open: %v", err)
	}
	if _, err := b.Certified("x", make([]byte, 100)); !errors.Is(err, ErrOrigin) {
		t.Errorf("certified: %v", err)
	}
	defer func() {
		if recover() == nil {
			t.Error("signed with no key")
		}
	}()
	b.Sign(nil, nil, nil)
}

func TestRootKeysStatementsAreReadAsWhatTheyWere(t *testing.T) {
	owner, other := generate(t), generate(t)
	w := issue(t, owner, IssueOptions{Name: "db1", Role: Writer})
	signed := certified(t, owner, "entry", []byte("statement"))
	got, err := w.Certified("entry", signed)
	if err != nil || string(got) != "statement" {
		t.Fatalf("%q, %v", got, err)
	}
	flipped := bytes.Clone(signed)
	flipped[0] ^= 1
	for name, c := range map[string]struct {
		reader *Bundle
		kind   string
		signed []byte
	}{
		"another kind":          {w, "removed", signed},
		"another repository":    {other, "entry", signed},
		"changed":               {w, "entry", flipped},
		"cut off":               {w, "entry", signed[:len(signed)-1]},
		"bytes behind":          {w, "entry", append(bytes.Clone(signed), 0)},
		"too short":             {w, "entry", signed[:10]},
		"nothing":               {w, "entry", nil},
		"a certificate":         {w, "entry", w.Signing.Certificate},
		"certificate as itself": {w, labelCertificate, w.Signing.Certificate},
	} {
		if _, err := c.reader.Certified(c.kind, c.signed); !errors.Is(err, ErrOrigin) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := owner.OpenCertificate(certified(t, owner, "certificate", w.Signing.Certificate)); !errors.Is(err, ErrOrigin) {
		t.Errorf("a statement taken for a certificate: %v", err)
	}
	sameRoot := *owner
	sameRoot.Repository = "another"
	if _, err := sameRoot.OpenCertificate(w.Signing.Certificate); !errors.Is(err, ErrOrigin) {
		t.Errorf("certificate of another repository: %v", err)
	}
	if _, err := sameRoot.Certified("entry", signed); !errors.Is(err, ErrOrigin) {
		t.Errorf("statement of another repository: %v", err)
	}
}

// TestForgedBundleIsFound: an attacker can wrap any bundle for a recipient,
// and knows the keys and the certificate of a stolen writer.
func TestForgedBundleIsFound(t *testing.T) {
	owner := withGroup(t, generate(t), "b")
	stolen := issue(t, owner, IssueOptions{Name: "db1", Role: Writer})
	standby := issue(t, owner, IssueOptions{Name: "db2", Role: Standby})
	inB := issue(t, owner, IssueOptions{Name: "db1", Role: Writer, Group: "b"})
	mallory := generate(t)
	for name, forge := range map[string]func(b *Bundle){
		"keys of his own":           func(b *Bundle) { b.setGroup(mallory.Groups()[0]); b.WALKeys = copyKeys(b.WALKeys, false) },
		"a data key of his own":     func(b *Bundle) { b.DataKeys = copyKeys(mallory.DataKeys, false) },
		"a data key more":           func(b *Bundle) { b.DataKeys = append(slices.Clone(b.DataKeys), copyKeys(mallory.DataKeys, false)...) },
		"a WAL key more":            func(b *Bundle) { b.WALKeys = append(slices.Clone(b.WALKeys), copyKeys(mallory.WALKeys, false)...) },
		"a common key of his own":   func(b *Bundle) { b.Common = mallory.Common },
		"a chunk key of his own":    func(b *Bundle) { b.ChunkKey = mallory.ChunkKey },
		"the keys of another group": func(b *Bundle) { b.setGroup(inB.Groups()[0]); b.Group = "" },
		"another group's name":      func(b *Bundle) { b.Group = "b" },
		"another name":              func(b *Bundle) { b.Name = "db2" },
		"another repository":        func(b *Bundle) { b.Repository = "another" },
		"another time":              func(b *Bundle) { b.Created = b.Created.Add(time.Second) },
		"a signing key of his own":  func(b *Bundle) { b.Signing.Secret = newSecret() },
		"a writer's as a standby's": func(b *Bundle) { b.Role = Standby; b.WALKeys = standby.WALKeys },
		"another's certificate":     func(b *Bundle) { b.Signing.Certificate = standby.Signing.Certificate },
		"no certificate":            func(b *Bundle) { b.Signing.Certificate = nil },
		"a root key of his own":     func(b *Bundle) { b.Signing.Root = mallory.Signing.Root },
		"his own certificate":       func(b *Bundle) { *b = *recertify(t, b, mallory.Signing.RootSecret) },
	} {
		b := *stolen
		forge(&b)
		if err := b.Validate(); !errors.Is(err, ErrOrigin) {
			t.Errorf("%s: %v", name, err)
		} else if leaks(err.Error(), stolen) || leaks(err.Error(), mallory) {
			t.Errorf("%s: the error shows a secret", name)
		}
	}
	// Other things are wrong with these.
	for name, forge := range map[string]func(b *Bundle){
		"a writer's as an owner's":       func(b *Bundle) { b.Role = Owner; b.DataKeys = mallory.DataKeys; b.WALKeys = mallory.WALKeys },
		"the secret of another root key": func(b *Bundle) { *b = *owner; b.Signing.RootSecret = mallory.Signing.RootSecret },
		"a root key's secret":            func(b *Bundle) { b.Signing.RootSecret = mallory.Signing.RootSecret },
		"no signing key":                 func(b *Bundle) { b.Signing.Secret = Secret{} },
		"a short root key":               func(b *Bundle) { b.Signing.Root = b.Signing.Root[1:] },
		"no root key":                    func(b *Bundle) { b.Signing.Root = nil },
		"groups without a root key":      func(b *Bundle) { *b = *owner; b.Signing = Signing{} },
		"a common key without a root":    func(b *Bundle) { b.Signing = Signing{} },
		"other groups for a writer":      func(b *Bundle) { g := owner.Others[0]; g.WALKeys = copyKeys(g.WALKeys, false); b.Others = []Group{g} },
		"no common key":                  func(b *Bundle) { b.Common = Secret{} },
		"one key for group and all":      func(b *Bundle) { b.Common = b.MetaKey },
		"the same group twice":           func(b *Bundle) { *b = *owner; b.Others = append(slices.Clone(b.Others), b.Groups()[0]) },
		"two groups with a name":         func(b *Bundle) { *b = *owner; b.Others = slices.Clone(b.Others); b.Others[0].Name = "" },
		"two groups with a WAL key": func(b *Bundle) {
			*b = *owner
			b.Others = slices.Clone(b.Others)
			b.Others[0].WALKeys = b.WALKeys
		},
		"no WAL key in a group": func(b *Bundle) { *b = *owner; b.Others = slices.Clone(b.Others); b.Others[0].WALKeys = nil },
	} {
		b := *stolen
		forge(&b)
		if err := b.Validate(); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
	whole := *owner
	whole.Others = nil
	if err := whole.Validate(); !errors.Is(err, ErrOrigin) {
		t.Errorf("an owner's bundle without a group: %v", err)
	}
}

func TestCertificateOfAnotherGroupIsRefused(t *testing.T) {
	// No owner makes one that contradicts itself; if one did, what it says of
	// the group would not be that of the keys.
	owner := withGroup(t, generate(t), "b")
	w := *issue(t, owner, IssueOptions{Name: "db1", Role: Writer})
	c := w.Certificate()
	c.Group = "b"
	var err error
	if w.Signing.Certificate, err = c.certify(owner.Signing.RootSecret.private()); err != nil {
		t.Fatal(err)
	}
	if err := w.Validate(); !errors.Is(err, ErrOrigin) {
		t.Errorf("error %v", err)
	}
}

func TestBundleOfAnotherRootKeyIsFound(t *testing.T) {
	// The forged bundle is sound in itself: only who knows the root key can tell.
	mine, forged := generate(t), generate(t)
	if err := forged.Validate(); err != nil {
		t.Fatal(err)
	}
	if err := mine.CheckRoot(mine.Signing.Root); err != nil {
		t.Error(err)
	}
	if err := forged.CheckRoot(nil); err != nil {
		t.Errorf("nothing is known: %v", err)
	}
	for name, b := range map[string]*Bundle{"forged": forged, "of version 1": unsigned(t)} {
		if err := b.CheckRoot(mine.Signing.Root); !errors.Is(err, ErrOrigin) {
			t.Errorf("bundle %s: %v", name, err)
		}
	}
}

func TestForgedBundleIsNotUnwrapped(t *testing.T) {
	id, recipient := newIdentity(t)
	owner := generate(t)
	w := issue(t, owner, IssueOptions{Name: "db1", Role: Writer})
	if _, err := Unwrap(wrap(t, w, recipient), id); err != nil {
		t.Fatal(err)
	}
	plain, err := encodeBundle(w)
	if err != nil {
		t.Fatal(err)
	}
	forged := edit(t, plain, func(m map[string]any) { m["name"] = "db2" })
	if _, err := decodeBundle(forged); !errors.Is(err, ErrOrigin) {
		t.Errorf("error %v", err)
	}
}

func TestCertificatesThatCannotBeAreNotMade(t *testing.T) {
	owner := generate(t)
	long := make([]string, 2000)
	for i := range long {
		long[i] = strings.Repeat("c", 40)
	}
	good := IssueOptions{Name: "db1", Role: Writer, Clusters: []string{"main"}}
	for name, spoil := range map[string]func(*IssueOptions){
		"no name":         func(o *IssueOptions) { o.Name = "" },
		"line break":      func(o *IssueOptions) { o.Name = "db1\ndb2" },
		"space ahead":     func(o *IssueOptions) { o.Name = " db1" },
		"space behind":    func(o *IssueOptions) { o.Name = "db1 " },
		"right to left":   func(o *IssueOptions) { o.Name = "db\u202e1" },
		"no UTF-8":        func(o *IssueOptions) { o.Name = "db\xff" },
		"long name":       func(o *IssueOptions) { o.Name = strings.Repeat("a", maxName+1) },
		"no role":         func(o *IssueOptions) { o.Role = "" },
		"unknown group":   func(o *IssueOptions) { o.Group = "b" },
		"no clusters":     func(o *IssueOptions) { o.Clusters = nil },
		"empty cluster":   func(o *IssueOptions) { o.Clusters = []string{"main", ""} },
		"many clusters":   func(o *IssueOptions) { o.Clusters = long },
		"short entry":     func(o *IssueOptions) { o.Entry = "0011" },
		"upper-case":      func(o *IssueOptions) { o.Entry = "00112233445566FF" },
		"entry of a path": func(o *IssueOptions) { o.Entry = "../2233445566ff" },
	} {
		o := good
		spoil(&o)
		if _, err := owner.Issue(o); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{"", "a\x00b"} {
		if _, err := Generate(testRepository, name); !errors.Is(err, ErrFormat) {
			t.Errorf("owner %q: %v", name, err)
		}
	}
}

func TestCertificateOfANewerProgramIsToldAsThat(t *testing.T) {
	owner := generate(t)
	statement, _ := json.Marshal(map[string]any{"version": 2})
	newer := signStatement(owner.Signing.RootSecret.private(), bind(labelCertificate), statement)
	if _, err := owner.OpenCertificate(newer); !errors.Is(err, ErrVersion) {
		t.Errorf("error %v", err)
	}
	for _, text := range []string{"", "{", `{"version":1}`, `{"version":1,"keys":""}`, `[]`} {
		bad := signStatement(owner.Signing.RootSecret.private(), bind(labelCertificate), []byte(text))
		if _, err := owner.OpenCertificate(bad); !errors.Is(err, ErrFormat) && !errors.Is(err, ErrVersion) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func FuzzOpenSigned(f *testing.F) {
	owner := generate(f)
	f.Add(owner.Sign(nil, []byte("aad"), []byte("payload")))
	f.Add([]byte{0})
	f.Fuzz(func(t *testing.T, signed []byte) {
		c, payload, err := owner.OpenSigned([]byte("aad"), signed)
		if err == nil && (c == nil || string(payload) != "payload") {
			t.Errorf("a forged payload %q", payload)
		}
		if err != nil && !errors.Is(err, ErrOrigin) {
			t.Errorf("error of no kind: %v", err)
		}
	})
}

func FuzzParseCertificate(f *testing.F) {
	// The root key has signed it: what is wrong must be seen all the same.
	owner := generate(f)
	c := owner.Signing.Certificate
	f.Add(c[:len(c)-ed25519.SignatureSize])
	f.Fuzz(func(t *testing.T, statement []byte) {
		c, err := parseCertificate(owner.Signing.Root, signStatement(owner.Signing.RootSecret.private(), bind(labelCertificate), statement))
		if err != nil {
			if !errors.Is(err, ErrFormat) && !errors.Is(err, ErrVersion) && !errors.Is(err, ErrOrigin) {
				t.Errorf("error of no kind: %v", err)
			}
			return
		}
		if err := c.validate(); err != nil {
			t.Errorf("an invalid certificate was read: %v", err)
		}
	})
}
