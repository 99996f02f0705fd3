package format

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"filippo.io/age"
)

func goldenIdentities(t *testing.T, name string) []age.Identity {
	t.Helper()
	ids, err := age.ParseIdentities(bytes.NewReader(readFile(t, name)))
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

func goldenBundle(t *testing.T, role string) *Bundle {
	t.Helper()
	b, err := OpenBundle(readFile(t, role+".age"), goldenIdentities(t, "identity.txt")...)
	if err != nil {
		t.Fatal(err)
	}
	if b.Role != role {
		t.Fatalf("%s.age is the bundle of a %s", role, b.Role)
	}
	return b
}

func TestReaderReadsGoldenPacks(t *testing.T) {
	g, b := readGolden(t), goldenBundle(t, "owner")
	if b.Repository != g.Repository {
		t.Fatalf("bundle of repository %s", b.Repository)
	}
	for _, want := range g.Packs {
		p, err := b.OpenPack(want.Key, readFile(t, want.File))
		if err != nil {
			t.Fatal(err)
		}
		if kind := [...]string{"", "data", "meta", "archive"}[p.Kind]; kind != want.Kind || string(p.Header) != want.Header || len(p.Chunks) != len(want.Chunks) {
			t.Fatalf("%s: %s pack with header %q and %d chunks", want.File, kind, p.Header, len(p.Chunks))
		}
		for i, w := range want.Chunks {
			e := p.Chunks[i]
			sid := ""
			if p.Kind != kindMeta {
				sid = p.sessions[e.session].sid
			}
			if e.ID.String() != w.ID || int(e.Form) != w.Form || int(e.Encoding) != w.Encoding || sid != w.Session {
				t.Errorf("%s: chunk %d is %s, form %d, encoding %d, of session %s", want.File, i, e.ID, e.Form, e.Encoding, sid)
			}
			plain, err := p.Chunk(i)
			if err != nil {
				t.Fatal(err)
			}
			w.check(t, want.File, plain)
			_, pages := b.name(p.Kind, e.Form, plain)
			if len(pages) != len(w.Pages) {
				t.Fatalf("%s: chunk %d has %d pages", want.File, i, len(pages))
			}
			for j, digest := range pages {
				if hex.EncodeToString(digest[:8]) != w.Pages[j] {
					t.Errorf("%s: digest of page %d of chunk %d is %s", want.File, j, i, digest)
				}
			}
		}
	}
}

func TestReaderOpensWithOtherRolesLess(t *testing.T) {
	g := readGolden(t)
	for role, opens := range map[string]string{"standby": "meta archive", "writer": "meta"} {
		b := goldenBundle(t, role)
		for _, golden := range g.Packs {
			p, err := b.OpenPack(golden.Key, readFile(t, golden.File))
			if err != nil {
				t.Fatal(err)
			}
			for i := range p.Chunks {
				_, err := p.Chunk(i)
				if can := strings.Contains(opens, golden.Kind); can != (err == nil) || !can && !errors.Is(err, ErrRole) {
					t.Errorf("%s, chunk %d of %s: %v", role, i, golden.File, err)
				}
			}
		}
	}
}
