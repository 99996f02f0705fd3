package format

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"testing"
)

// The files under testdata were made by format version 1 and are only read.
// identity.txt opens owner.age, standby.age and writer.age, the bundles of
// one repository; packs.json says what its three packs hold.

type goldenChunk struct {
	ID          string
	Form        int
	Encoding    int
	Session     string
	PlainLen    int
	PlainSHA256 string
	Pages       []string // the first 8 bytes of each page's digest
}

type goldenPack struct {
	File, Key, Kind, Header string
	Chunks                  []goldenChunk
}

type golden struct {
	Repository string
	Packs      []goldenPack
}

func readFile(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func readJSON(t *testing.T, name string, to any) {
	t.Helper()
	dec := json.NewDecoder(bytes.NewReader(readFile(t, name)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(to); err != nil {
		t.Fatal(err)
	}
}

func readGolden(t *testing.T) golden {
	t.Helper()
	var g golden
	readJSON(t, "packs.json", &g)
	if len(g.Packs) != 3 {
		t.Fatalf("%d golden packs", len(g.Packs))
	}
	return g
}

// check compares a chunk that was opened with what packs.json says.
func (c *goldenChunk) check(t *testing.T, file string, plain []byte) {
	t.Helper()
	sum := sha256.Sum256(plain)
	if len(plain) != c.PlainLen || hex.EncodeToString(sum[:]) != c.PlainSHA256 {
		t.Errorf("%s: chunk %.16s opens as %d bytes with SHA-256 %x", file, c.ID, len(plain), sum)
	}
}
