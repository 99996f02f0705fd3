package format

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/storage/fs"
)

// ring is a copy of the golden repository with several keys, to be tampered with.
type ring struct {
	dir   string
	want  ExpectedKeyed
	owner *Repository
	root  ed25519.PrivateKey
	own   ed25519.PrivateKey // with which the owner signs
}

func newRing(t *testing.T) *ring {
	t.Helper()
	g := &ring{dir: filepath.Join(t.TempDir(), "repo")}
	if err := os.CopyFS(g.dir, os.DirFS("testdata/keyed")); err != nil {
		t.Fatal(err)
	}
	readJSON(t, "keyed.json", &g.want)
	g.openOwner(t)
	return g
}

// openOwner takes the owner's keys.
func (g *ring) openOwner(t *testing.T) {
	t.Helper()
	g.owner = g.open(t, "owner")
	var s struct {
		RootSecret []byte `json:"root_secret"`
		Secret     []byte
	}
	if err := json.Unmarshal(g.owner.Bundle.Signing, &s); err != nil {
		t.Fatal(err)
	}
	g.root, g.own = ed25519.NewKeyFromSeed(s.RootSecret), ed25519.NewKeyFromSeed(s.Secret)
}

func (g *ring) identity(t *testing.T, who string) age.Identity {
	t.Helper()
	id, err := age.ParseHybridIdentity(g.want.Identities[who])
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func (g *ring) open(t *testing.T, who string) *Repository {
	t.Helper()
	r, err := Open(os.DirFS(g.dir), g.identity(t, who))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// name is the object of the snapshot that is called so.
func (g *ring) name(t *testing.T, what string) string {
	t.Helper()
	for name, called := range g.want.Names {
		if called == what {
			return name
		}
	}
	t.Fatalf("no snapshot %s", what)
	return ""
}

// signed is what an object of the repository holds, origin and payload, and the object's first 16 bytes.
func (g *ring) signed(t *testing.T, name string) (head, certificate, signature, payload []byte) {
	t.Helper()
	object, err := g.owner.Object(name)
	if err != nil {
		t.Fatal(err)
	}
	plain, _, err := g.owner.Bundle.openTagged(object[8:16], object[16:], g.aad(object[:16], name))
	if err != nil {
		t.Fatal(err)
	}
	c := cursor{b: plain}
	certificate, signature = c.bytes("certificate", 0, 1<<16), c.take(64)
	return object[:16], certificate, signature, c.b
}

func (g *ring) aad(head []byte, name string) string {
	return strings.Join([]string{"pgtrove object", string(head), g.owner.Bundle.Repository, name}, "\x00")
}

// seal is an object of what stands behind head.
func (g *ring) seal(t *testing.T, secret, head []byte, name string, plain ...[]byte) []byte {
	t.Helper()
	b := Bundle{MetaKey: secret}
	return append(slices.Clone(head), b.sealMeta(t, bytes.Join(plain, nil), g.aad(head, name))...)
}

func sized(certificate []byte) []byte {
	return append(binary.AppendUvarint(nil, uint64(len(certificate))), certificate...)
}

func flipped(b []byte, at int) []byte {
	b = slices.Clone(b)
	b[(at+len(b))%len(b)] ^= 1
	return b
}

// certify signs a certificate after it was changed.
func certify(t *testing.T, by ed25519.PrivateKey, certificate []byte, change func(m map[string]any)) []byte {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal(certificate[:len(certificate)-64], &m); err != nil {
		t.Fatal(err)
	}
	change(m)
	statement, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return append(statement, ed25519.Sign(by, append([]byte("pgtrove v1 certificate\x00"), statement...))...)
}

func (g *ring) put(t *testing.T, name string, object []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(g.dir, name), object, 0o600); err != nil {
		t.Fatal(err)
	}
}

// judge puts the object in the place of the snapshot's, and says by which rule the reader refuses it; "": by none. The program of today must say the same.
func (g *ring) judge(t *testing.T, name string, object []byte) string {
	t.Helper()
	g.put(t, name, object)
	_, refused, err := g.open(t, "owner").Judged()
	if err != nil {
		t.Fatal(err)
	}
	store, err := fs.Open(g.dir)
	if err != nil {
		t.Fatal(err)
	}
	r, err := repo.Open(t.Context(), store, g.identity(t, "owner"))
	if err != nil {
		t.Fatal(err)
	}
	found := false
	if err := r.Commits(t.Context(), "", func(c repo.Commit) error {
		if "snapshots/"+c.Cluster+"/"+c.ID == name {
			found = true
			if c.Refused() != (refused[name] != "") || c.Err != nil && !c.Refused() {
				t.Errorf("the reader says %q, the program %v", refused[name], c.Err)
			}
		}
		return nil
	}); err != nil || !found {
		t.Fatalf("found %v, %v", found, err)
	}
	return refused[name]
}

func TestSnapshotsOfUnknownOriginAreRefused(t *testing.T) {
	g := newRing(t)
	name, b := g.name(t, "of the key itself"), g.owner.Bundle
	head, certificate, signature, payload := g.signed(t, name)
	ownersHead, ownersCertificate, _, _ := g.signed(t, g.name(t, "an owner's"))
	_, _, _, others := g.signed(t, g.name(t, "claims a key's name"))
	sign := func(head, payload []byte) []byte {
		return ed25519.Sign(g.own, append(labelled("pgtrove v1 origin", g.aad(head, name)), sha256Of(payload)...))
	}
	common, err := tagOf(b.Common)
	if err != nil {
		t.Fatal(err)
	}
	forAll := append(slices.Clone(head[:8]), common...)
	forger := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, 32))
	mine := func(m map[string]any) { m["public"] = base64.StdEncoding.EncodeToString(forger[32:]) }
	forged := ed25519.Sign(forger, append(labelled("pgtrove v1 origin", g.aad(head, name)), sha256Of(payload)...))
	byOwner := func(change func(m map[string]any)) [][]byte {
		return [][]byte{sized(certify(t, g.root, ownersCertificate, change)), sign(head, payload), payload}
	}
	for what, c := range map[string]struct {
		want  string
		plain [][]byte
	}{
		"as it was":                      {"", [][]byte{sized(certificate), signature, payload}},
		"signed by an owner":             {"", byOwner(func(map[string]any) {})},
		"a changed signature":            {"origin", [][]byte{sized(certificate), flipped(signature, 0), payload}},
		"another payload":                {"origin", [][]byte{sized(certificate), signature, others}},
		"another's certificate":          {"origin", [][]byte{sized(ownersCertificate), signature, payload}},
		"a changed certificate":          {"origin", [][]byte{sized(bytes.Replace(certificate, []byte("db1"), []byte("db2"), 1)), signature, payload}},
		"a changed certificate's end":    {"origin", [][]byte{sized(flipped(certificate, -1)), signature, payload}},
		"certified by who is no owner":   {"origin", [][]byte{sized(certify(t, forger, certificate, mine)), forged, payload}},
		"a key that nobody has":          {"origin", [][]byte{sized(certificate), forged, payload}},
		"of another repository":          {"origin", byOwner(func(m map[string]any) { m["repository"] = strings.Repeat("0", 32) })},
		"a certificate of another size":  {"origin", [][]byte{long(byte(len(certificate))), certificate, signature, payload}},
		"no certificate":                 {"origin", [][]byte{sized(nil), signature, payload}},
		"nothing but a part of its name": {"origin", [][]byte{sized(certificate)[:90]}},
		"unsigned":                       {"origin", [][]byte{payload}},
		"signed for another cluster": {"cluster", byOwner(func(m map[string]any) {
			m["clusters"] = []string{"other"}
		})},
		"of a writer of another group": {"group", byOwner(func(m map[string]any) { m["role"], m["group"] = "writer", "b" })},
		"of a host for which there is another key": {"host", byOwner(func(m map[string]any) {
			m["role"], m["name"] = "writer", "fleet"
		})},
		"of its own host, spelled otherwise": {"", byOwner(func(m map[string]any) { m["role"], m["name"] = "writer", "DB1." })},
	} {
		if got := g.judge(t, name, g.seal(t, b.MetaKey, head, name, c.plain...)); got != c.want {
			t.Errorf("%s: refused by %q, not %q", what, got, c.want)
		}
	}
	// What is signed for one place is nothing in another.
	other := g.name(t, "an owner's")
	if got := g.judge(t, other, g.seal(t, b.MetaKey, ownersHead, other, sized(certificate), signature, payload)); got != "origin" {
		t.Errorf("under another name: refused by %q", got)
	}
	if got := g.judge(t, name, g.seal(t, b.MetaKey, []byte("pgtsnap\x01"), name, payload)); got != "origin" {
		t.Errorf("of version 1: refused by %q", got)
	}
	if got := g.judge(t, name, g.seal(t, b.Common, forAll, name, sized(ownersCertificate), sign(forAll, payload), payload)); got != "" {
		t.Errorf("an owner's, for all groups: refused by %q", got)
	}
	writers := certify(t, g.root, ownersCertificate, func(m map[string]any) { m["role"], m["name"] = "writer", "db1" })
	if got := g.judge(t, name, g.seal(t, b.Common, forAll, name, sized(writers), sign(forAll, payload), payload)); got != "group" {
		t.Errorf("a writer's, for all groups: refused by %q", got)
	}
}

func TestIndexSegmentsOfUnknownOriginAreNone(t *testing.T) {
	g := newGroups(t)
	b, name := g.owner.Bundle, g.owner.Names("index/")
	head, certificate, signature, payload := g.signed(t, name[0])
	secret := b.MetaKey
	for _, each := range b.groups() {
		if tag, err := tagOf(each.MetaKey); err == nil && bytes.Equal(tag, head[8:]) {
			secret = each.MetaKey
		}
	}
	read := func(secret, head []byte, plain ...[]byte) error {
		_, err := b.openSealed("pgtindx", name[0], g.seal(t, secret, head, name[0], plain...))
		return err
	}
	accepts(t, "as it was", read(secret, head, sized(certificate), signature, payload))
	refuses(t, "a changed signature", read(secret, head, sized(certificate), flipped(signature, 9), payload), ErrOrigin)
	refuses(t, "a changed certificate", read(secret, head, sized(flipped(certificate, 9)), signature, payload), ErrOrigin)
	refuses(t, "another payload", read(secret, head, sized(certificate), signature, append(payload, 0)), ErrOrigin)
	refuses(t, "version 1", read(secret, []byte("pgtindx\x01"), payload), ErrOrigin)
	common, err := tagOf(b.Common)
	if err != nil {
		t.Fatal(err)
	}
	forAll := append(slices.Clone(head[:8]), common...)
	own := ed25519.Sign(g.own, append(labelled("pgtrove v1 origin", g.aad(forAll, name[0])), sha256Of(payload)...))
	refuses(t, "sealed for all", read(b.Common, forAll, sized(b.certificateBytes(t)), own, payload), ErrDamaged)
	refuses(t, "the tag of no key", read(secret, flipped(head, -1), sized(certificate), signature, payload), ErrDamaged)
	_, err = g.open(t, "of-main").Bundle.openSealed("pgtindx", name[0], g.seal(t, secret, flipped(head, -1), name[0], payload))
	refuses(t, "the tag of no key, to a writer", err, ErrForeign)

	for what, object := range map[string][]byte{
		"of unknown origin": g.seal(t, secret, head, name[0], sized(certificate), flipped(signature, 9), payload),
		"sealed for all":    g.seal(t, b.Common, forAll, name[0], sized(b.certificateBytes(t)), own, payload),
	} {
		g.put(t, name[0], object)
		r := g.open(t, "owner")
		found, err := r.Snapshots()
		if err != nil || len(found) != 2 {
			t.Fatalf("%s: %d snapshots, %v", what, len(found), err)
		}
		for _, m := range found {
			if _, err := r.Of(m).Listing(m); errors.Is(err, ErrDamaged) != (path.Base(path.Dir(name[0])) == m.ID) {
				t.Errorf("a segment %s: listing of %s: %v", what, m.Cluster, err)
			}
		}
	}
}

func TestWhatNoOwnerHasSignedOfKeysSaysNothing(t *testing.T) {
	g := newRing(t)
	entry := g.open(t, "db1").Bundle.Certificate.Entry
	name := "keys/" + entry + ".removed"
	common, err := tagOf(g.owner.Bundle.Common)
	if err != nil {
		t.Fatal(err)
	}
	head := append([]byte("pgtkeys\x02"), common...)
	statement := []byte(`{"version":1,"entry":"` + entry + `","accepted":[]}`)
	label := labelled("pgtrove v1 certified", g.owner.Bundle.Repository, "removed")
	for what, by := range map[string]ed25519.PrivateKey{"signed by a key that is no root key": g.own, "signed by the root key": g.root} {
		object := g.seal(t, g.owner.Bundle.Common, head, name, statement, ed25519.Sign(by, append(slices.Clone(label), statement...)))
		g.put(t, name, object)
		if _, err := Open(os.DirFS(g.dir), g.identity(t, "db1")); (err != nil) != by.Equal(g.root) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// bundle is the owner's, as it is in the file.
func (g *ring) bundle(t *testing.T) []byte {
	t.Helper()
	for _, name := range g.owner.Names("keys/" + g.owner.Bundle.Certificate.Entry) {
		file, err := g.owner.Object(name)
		if err != nil {
			t.Fatal(err)
		}
		if plain, err := age.Decrypt(bytes.NewReader(file), g.identity(t, "owner")); err == nil {
			text, err := io.ReadAll(plain)
			if err != nil {
				t.Fatal(err)
			}
			return text
		}
	}
	t.Fatal("no bundle of the owner's")
	return nil
}

func (b *Bundle) certificateBytes(t *testing.T) []byte {
	t.Helper()
	var s struct{ Certificate []byte }
	if err := json.Unmarshal(b.Signing, &s); err != nil {
		t.Fatal(err)
	}
	return s.Certificate
}

func TestBundlesThatTheRootKeyHasNotSignedAreRefused(t *testing.T) {
	g := newRing(t)
	text := g.bundle(t)
	parse := func(change func(m, signing map[string]any)) error {
		var m map[string]any
		if err := json.Unmarshal(text, &m); err != nil {
			t.Fatal(err)
		}
		change(m, m["signing"].(map[string]any))
		changed, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		_, err = parseBundle(changed)
		return err
	}
	accepts(t, "as it is", parse(func(_, _ map[string]any) {}))
	forger := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, 32))
	seed, public := bytes.Repeat([]byte{1}, 32), []byte(forger[32:])
	group := func(m map[string]any) map[string]any { return m["groups"].([]any)[0].(map[string]any) }
	own := g.owner.Bundle.certificateBytes(t)
	for what, change := range map[string]func(m, s map[string]any){
		"another signature":      func(_, s map[string]any) { s["certificate"] = flipped(own, -1) },
		"another certificate":    func(_, s map[string]any) { s["certificate"] = flipped(own, 20) },
		"of another repository":  func(m, _ map[string]any) { m["repository"] = strings.Repeat("0", 32) },
		"another name":           func(m, _ map[string]any) { m["name"] = "other" },
		"another group":          func(m, _ map[string]any) { m["group"] = "other" },
		"another time":           func(m, _ map[string]any) { m["created"] = "2026-01-01T00:00:00Z" },
		"another K_id":           func(m, _ map[string]any) { m["id_key"] = seed },
		"another K_meta":         func(m, _ map[string]any) { m["meta_key"] = seed },
		"another K_common":       func(m, _ map[string]any) { m["common_key"] = seed },
		"another group's K_meta": func(m, _ map[string]any) { group(m)["meta_key"] = seed },
		"another group's name":   func(m, _ map[string]any) { group(m)["name"] = "c" },
		"a data key less":        func(m, _ map[string]any) { m["data_keys"] = m["data_keys"].([]any)[:1:1] },
		"another root key":       func(_, s map[string]any) { s["root"], s["root_secret"] = public, seed },
		"another signing key":    func(_, s map[string]any) { s["secret"] = seed },
		"who certifies oneself":  func(_, s map[string]any) { s["certificate"] = certify(t, forger, own, func(map[string]any) {}) },
		"of no entry": func(_, s map[string]any) {
			s["certificate"] = certify(t, g.root, own, func(m map[string]any) { m["entry"] = "x" })
		},
		"no secret of the root": func(_, s map[string]any) { delete(s, "root_secret") },
		"another root's secret": func(_, s map[string]any) { s["root_secret"] = seed },
		"no root key":           func(_, s map[string]any) { delete(s, "root") },
		"more about signing":    func(_, s map[string]any) { s["more"] = 1 },
	} {
		if err := parse(change); !errors.Is(err, ErrOrigin) && !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for what, change := range map[string]func(m, s map[string]any){
		"a bundle of version 1":   func(m, _ map[string]any) { m["version"] = 1 },
		"no K_common":             func(m, _ map[string]any) { delete(m, "common_key") },
		"a group's K_common":      func(m, _ map[string]any) { m["common_key"] = m["meta_key"] },
		"two groups of a K_id":    func(m, _ map[string]any) { group(m)["id_key"] = m["id_key"] },
		"two groups of a WAL key": func(m, _ map[string]any) { group(m)["wal_keys"] = m["wal_keys"] },
		"two groups of a name":    func(m, _ map[string]any) { group(m)["name"] = "" },
		"a group called main":     func(m, _ map[string]any) { group(m)["name"] = "main" },
		"a long name of a group":  func(m, _ map[string]any) { group(m)["name"] = strings.Repeat("g", 64) },
	} {
		refuses(t, what, parse(change), ErrDamaged)
	}
}

func TestABundleOpensOnlyForWhomItIsMadeAndUnderItsName(t *testing.T) {
	g := newRing(t)
	owner := g.owner.Bundle
	stranger, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	var again bytes.Buffer
	w, err := age.Encrypt(&again, stranger.Recipient())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(g.bundle(t)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = OpenBundle(again.Bytes(), stranger)
	refuses(t, "encrypted to somebody else", err, ErrOrigin)

	if _, err := OpenPinned(os.DirFS(g.dir), owner.Root, g.identity(t, "owner")); err != nil {
		t.Errorf("the root key that it has: %v", err)
	}
	_, err = OpenPinned(os.DirFS(g.dir), g.owner.Bundle.Certificate.Public, g.identity(t, "owner"))
	refuses(t, "another root key", err, ErrOrigin)

	for _, name := range g.owner.Names("keys/" + owner.Certificate.Entry) {
		if err := os.Rename(filepath.Join(g.dir, name), filepath.Join(g.dir, strings.Replace(name, owner.Certificate.Entry, "0011223344556677", 1))); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Open(os.DirFS(g.dir), g.identity(t, "owner")); err == nil {
		t.Error("it opens under another entry's name")
	}
}

func sha256Of(b []byte) []byte {
	s := sha256.Sum256(b)
	return s[:]
}
