package keys

import (
	"bytes"
	"encoding/json"
	"slices"
	"testing"
	"time"
)

// The files with a 2, and paper.txt, were made by bundle version 2 and are
// only read: bundle2.json is an owner's of two groups, standby2.age a
// standby's of group b that identity.txt opens, signed2.json what that one
// signed and sealed, paper.txt the paper copy of identity.txt.

func goldenOwner2(t *testing.T) *Bundle {
	t.Helper()
	b, err := decodeBundle(readFile(t, "bundle2.json"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func goldenStandby2(t *testing.T) *Bundle {
	t.Helper()
	file, err := ParseIdentityFile(readFile(t, "paper.txt"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := Unwrap(readFile(t, "standby2.age"), file.Identities...)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.CheckRoot(file.Root); err != nil || file.Root == nil {
		t.Errorf("root key of the paper copy: %v", err)
	}
	return b
}

func TestGoldenBundlesOfVersion2AreRead(t *testing.T) {
	owner, standby := goldenOwner2(t), goldenStandby2(t)
	if c := owner.Certificate(); c.Role != Owner || c.Name != "golden owner" || c.Entry != "00112233445566ff" || c.Group != "" ||
		!c.Created.Equal(time.Date(2026, 5, 6, 7, 8, 9, 0, time.UTC)) || c.Recipients != nil || len(owner.DataKeys) != 2 {
		t.Errorf("%s: %+v", owner, c)
	}
	if g := owner.Groups(); len(g) != 2 || g[1].Name != "b" || len(g[0].WALKeys) != 2 || len(g[1].WALKeys) != 1 {
		t.Errorf("groups %v", g)
	}
	if c := standby.Certificate(); c.Role != Standby || c.Name != "db1.example" || c.Entry != "8899aabbccddee00" || c.Group != "b" ||
		!slices.Equal(c.Clusters, []string{"main", "test"}) || len(c.Recipients) != 1 {
		t.Errorf("%s: %+v", standby, c)
	}
	if !standby.Signing.Root.Equal(owner.Signing.Root) || standby.Common != owner.Common || standby.MetaKey != owner.Others[0].MetaKey {
		t.Error("the bundles are not of one repository")
	}
	got, err := encodeBundle(owner)
	if err != nil {
		t.Fatal(err)
	}
	var want bytes.Buffer
	if err := json.Compact(&want, readFile(t, "bundle2.json")); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want.Bytes()) {
		t.Error("the bundle is written differently today")
	}
}

func TestGoldenSignedAndSealedBytesAreOpened(t *testing.T) {
	type sealedBytes struct{ Tag, Plain, Sealed hexBytes }
	var g struct {
		Origin    struct{ AAD, Payload, Signed hexBytes }
		Certified struct {
			Kind              string
			Statement, Signed hexBytes
		}
		Group, Common sealedBytes
		WAL           struct {
			SID                              string
			Encapsulation, ID, Plain, Sealed hexBytes
			Nonce                            uint64
		}
	}
	dec := json.NewDecoder(bytes.NewReader(readFile(t, "signed2.json")))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&g); err != nil {
		t.Fatal(err)
	}
	owner, standby := goldenOwner2(t), goldenStandby2(t)
	if got := standby.Sign(nil, g.Origin.AAD, g.Origin.Payload); !bytes.Equal(got, g.Origin.Signed) {
		t.Error("a payload is signed differently today")
	}
	if got, err := owner.Certify(g.Certified.Kind, g.Certified.Statement); err != nil || !bytes.Equal(got, g.Certified.Signed) {
		t.Errorf("a statement is certified differently today: %v", err)
	}
	for _, b := range []*Bundle{owner, standby} {
		c, payload, err := b.OpenSigned(g.Origin.AAD, g.Origin.Signed)
		if err != nil || c.Name != "db1.example" || !bytes.Equal(payload, g.Origin.Payload) || len(payload) == 0 {
			t.Errorf("%s: %v, %q, %v", b, c, payload, err)
		}
		statement, err := b.Certified(g.Certified.Kind, g.Certified.Signed)
		if err != nil || !bytes.Equal(statement, g.Certified.Statement) || len(statement) == 0 {
			t.Errorf("%s: %q, %v", b, statement, err)
		}
		m := metaOf(t, b)
		for what, s := range map[string]sealedBytes{"b": g.Group, "": g.Common} {
			got, group, common, err := m.OpenTagged(nil, [TagSize]byte(s.Tag), s.Sealed, g.Origin.AAD)
			if err != nil || !bytes.Equal(got, s.Plain) || group != what || common != (what == "") || len(got) == 0 {
				t.Errorf("%s: %q of %q, %t, %v", b, got, group, common, err)
			}
		}
		o, err := b.WALOpener(b.Repository, g.WAL.SID, g.WAL.Encapsulation)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := o.Open(nil, g.WAL.Sealed, [32]byte(g.WAL.ID), g.WAL.Nonce); err != nil || !bytes.Equal(got, g.WAL.Plain) || len(got) == 0 {
			t.Errorf("%s: %q, %v", b, got, err)
		}
	}
}

func TestGoldenPaperIsTheIdentity(t *testing.T) {
	paper, text := readFile(t, "paper.txt"), readFile(t, "identity.txt")
	file, err := ParseIdentityFile(paper)
	if err != nil {
		t.Fatal(err)
	}
	same(t, PinRoot(text, file.Root), string(paper))
}
