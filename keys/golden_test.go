package keys

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"os"
	"testing"
	"time"
)

// The files under testdata were made by format version 1 and are only read:
// bundle.json is what Wrap encrypts, writer.age a wrapped bundle that
// identity.txt opens, sealed.json what the bundle's keys sealed.

type hexBytes []byte

func (h *hexBytes) UnmarshalText(b []byte) (err error) {
	*h, err = hex.DecodeString(string(b))
	return err
}

type goldenSession struct {
	SID           string
	Encapsulation hexBytes
	Chunks        []struct {
		ID, Plain, Sealed hexBytes
		Nonce             uint64
	}
}

func readFile(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func goldenBundle(t *testing.T) *Bundle {
	t.Helper()
	b, err := decodeBundle(readFile(t, "bundle.json"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestGoldenBundleIsRead(t *testing.T) {
	b := goldenBundle(t)
	if b.Role != Owner || b.Name != "golden" || b.Repository != testRepository || len(b.DataKeys) != 2 || len(b.WALKeys) != 1 ||
		!b.Created.Equal(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)) {
		t.Errorf("%s, created %s, %d and %d keys", b, b.Created, len(b.DataKeys), len(b.WALKeys))
	}
	got, err := encodeBundle(b)
	if err != nil {
		t.Fatal(err)
	}
	var want bytes.Buffer
	if err := json.Compact(&want, readFile(t, "bundle.json")); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want.Bytes()) {
		t.Error("the bundle is written differently today")
	}
}

func TestGoldenAgeFileIsOpened(t *testing.T) {
	ids, err := ParseIdentityFile(readFile(t, "identity.txt"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := Unwrap(readFile(t, "writer.age"), ids.Identities...)
	if err != nil {
		t.Fatal(err)
	}
	owner := goldenBundle(t)
	if got.Role != Writer || got.MetaKey != owner.MetaKey || got.ChunkKey != owner.ChunkKey || got.DataKeys[1].ID != owner.DataKeys[1].ID {
		t.Errorf("another bundle: %s", got)
	}
}

func TestGoldenSealedBytesAreOpened(t *testing.T) {
	var g struct {
		Meta      struct{ AAD, Plain, Sealed hexBytes }
		Data, WAL goldenSession
	}
	dec := json.NewDecoder(bytes.NewReader(readFile(t, "sealed.json")))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&g); err != nil {
		t.Fatal(err)
	}
	b := goldenBundle(t)
	m, err := b.Meta()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := m.Open(nil, g.Meta.Sealed, g.Meta.AAD); err != nil || !bytes.Equal(got, g.Meta.Plain) || len(got) == 0 {
		t.Errorf("metadata: %q, %v", got, err)
	}
	for name, s := range map[string]struct {
		goldenSession
		open func(string, string, []byte) (*Opener, error)
	}{"data": {g.Data, b.DataOpener}, "WAL": {g.WAL, b.WALOpener}} {
		o, err := s.open(b.Repository, s.SID, s.Encapsulation)
		if err != nil {
			t.Fatal(err)
		}
		if len(s.Chunks) != 3 {
			t.Errorf("%d golden chunks of %s", len(s.Chunks), name)
		}
		for _, c := range s.Chunks {
			got, err := o.Open(nil, c.Sealed, [32]byte(c.ID), c.Nonce)
			if err != nil || !bytes.Equal(got, c.Plain) {
				t.Errorf("%s chunk %d: %q, %v", name, c.Nonce, got, err)
			}
		}
	}
}
