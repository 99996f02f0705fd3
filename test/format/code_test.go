package format

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/keys"
	"github.com/pgtrove/pgtrove/pack"
)

func unwrap(t *testing.T, name string) *keys.Bundle {
	t.Helper()
	ids, err := keys.ParseIdentityFile(readFile(t, "identity.txt"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := keys.Unwrap(readFile(t, name), ids.Identities...)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// packName is the part of a pack's key that was known when it was sealed.
func packName(p goldenPack) string {
	if p.Kind == "archive" {
		return p.Key
	}
	return p.Key[:strings.LastIndexByte(p.Key, '-')]
}

func TestTodaysCodeReadsGoldenPacks(t *testing.T) {
	g, b := readGolden(t), unwrap(t, "owner.age")
	meta, err := b.Meta()
	if err != nil {
		t.Fatal(err)
	}
	hasher := chunk.NewHasher(b.IDKey())
	decompressor, err := pack.NewDecompressor(1)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range g.Packs {
		object := readFile(t, p.File)
		aad := fmt.Appendf(nil, "pgtrove pack\x00%s\x00%s", g.Repository, packName(p))
		d, err := pack.OpenDirectory(object, int64(len(object)), meta, aad)
		if err != nil {
			t.Fatal(err)
		}
		if d.Kind.String() != p.Kind || string(d.Header) != p.Header || len(d.Entries) != len(p.Chunks) {
			t.Fatalf("%s: %s pack with header %q and %d chunks", p.File, d.Kind, d.Header, len(d.Entries))
		}
		trailer, err := pack.ParseTrailer(object, int64(len(object)))
		if err != nil {
			t.Fatal(err)
		}
		at, n := trailer.DigestsAt()
		digests, err := pack.OpenDigests(object[at:at+n], d, meta, aad)
		if err != nil {
			t.Fatal(err)
		}
		for i, want := range p.Chunks {
			l := d.Location(p.Key, i)
			if l.ID.String() != want.ID || int(l.Form) != want.Form || int(l.Encoding) != want.Encoding || l.SID != want.Session {
				t.Errorf("%s: chunk %d is %s, %s, %s, of session %s", p.File, i, l.ID, l.Form, l.Encoding, l.SID)
			}
			sealed := object[l.Offset:l.End()]
			encoded, err := openChunk(b, meta, g.Repository, l, sealed)
			if err != nil {
				t.Fatalf("%s: chunk %d: %v", p.File, i, err)
			}
			plain, err := decompressor.Decompress(nil, encoded, l.Encoding, int(l.Plain))
			if err != nil {
				t.Fatalf("%s: chunk %d: %v", p.File, i, err)
			}
			want.check(t, p.File, plain)
			if l.Kind == pack.Meta {
				if hasher.MetaID(plain) != l.ID {
					t.Errorf("%s: chunk %d has another name today", p.File, i)
				}
			} else if !hasher.Verify(l.ID, l.Form, plain) {
				t.Errorf("%s: chunk %d has another name today", p.File, i)
			}
			if len(digests[i]) != len(want.Pages) {
				t.Fatalf("%s: chunk %d has %d page digests", p.File, i, len(digests[i]))
			}
			for j, prefix := range digests[i] {
				if prefix.String() != want.Pages[j] {
					t.Errorf("%s: digest of page %d of chunk %d is %s", p.File, j, i, prefix)
				}
			}
		}
		if sum := sha256.Sum256(object); p.Kind != "archive" && !strings.HasSuffix(p.Key, hex.EncodeToString(sum[:])) {
			t.Errorf("%s is not what its name says", p.File)
		}
	}
}

func openChunk(b *keys.Bundle, meta *keys.Meta, repository string, l pack.Location, sealed []byte) ([]byte, error) {
	if l.Kind == pack.Meta {
		return meta.Open(nil, sealed, fmt.Appendf(nil, "pgtrove meta chunk\x00%s\x00%s", repository, l.ID[:]))
	}
	open := b.DataOpener
	if l.Kind == pack.Archive {
		open = b.WALOpener
	}
	o, err := open(repository, l.SID, l.Encapsulation)
	if err != nil {
		return nil, err
	}
	return o.Open(nil, sealed, l.ID, l.Nonce)
}

func TestGoldenBundlesOfOtherRolesOpenLess(t *testing.T) {
	g := readGolden(t)
	for name, opens := range map[string]string{"owner.age": "data archive", "standby.age": "archive", "writer.age": ""} {
		b := unwrap(t, name)
		if b.Repository != g.Repository || string(b.Role)+".age" != name {
			t.Fatalf("%s is a %s", name, b)
		}
		meta, err := b.Meta()
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range g.Packs {
			object := readFile(t, p.File)
			aad := fmt.Appendf(nil, "pgtrove pack\x00%s\x00%s", g.Repository, packName(p))
			d, err := pack.OpenDirectory(object, int64(len(object)), meta, aad)
			if err != nil {
				t.Fatalf("%s cannot read the directory of %s: %v", name, p.File, err)
			}
			for i := range d.Entries {
				l := d.Location(p.Key, i)
				_, err := openChunk(b, meta, g.Repository, l, object[l.Offset:l.End()])
				if want := p.Kind == "meta" || strings.Contains(opens, p.Kind); (err == nil) != want {
					t.Errorf("%s, chunk %d of %s: %v", name, i, p.File, err)
				} else if !want && !errors.Is(err, keys.ErrRole) {
					t.Errorf("%s, chunk %d of %s: refused with %v", name, i, p.File, err)
				}
			}
		}
	}
}
