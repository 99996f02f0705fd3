package format

import (
	"bytes"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"golang.org/x/crypto/chacha20poly1305"
)

// These tests hold the reader to the rules of the page: each breaks one.

// cat joins bytes (byte, []byte, ID), text with its length, and numbers as uvarints (int).
func cat(parts ...any) []byte {
	var b []byte
	for _, p := range parts {
		switch p := p.(type) {
		case byte:
			b = append(b, p)
		case []byte:
			b = append(b, p...)
		case ID:
			b = append(b, p[:]...)
		case string:
			b = append(binary.AppendUvarint(b, uint64(len(p))), p...)
		case int:
			b = binary.AppendUvarint(b, uint64(p))
		default:
			panic(fmt.Sprintf("%T", p))
		}
	}
	return b
}

func long(n byte) []byte { return []byte{n | 0x80, 0} } // not the shortest form of n

// refuses expects err to be of a class.
func refuses(t *testing.T, what string, err, class error) {
	t.Helper()
	if !errors.Is(err, class) {
		t.Errorf("%s: %v", what, err)
	}
}

func accepts(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Errorf("%s: %v", what, err)
	}
}

func TestNumbersHaveOneForm(t *testing.T) {
	for value, b := range map[uint64][]byte{0: {0}, 127: {127}, 128: {0x80, 1}, 1<<64 - 1: append(bytes.Repeat([]byte{255}, 9), 1)} {
		c := cursor{b: b}
		if v := c.uvarint(); v != value || c.end("") != nil {
			t.Errorf("%x is %d, %v", b, v, c.err)
		}
	}
	for value, b := range map[int64][]byte{0: {0}, -1: {1}, 1: {2}, -2: {3}, -1 << 63: append(bytes.Repeat([]byte{255}, 9), 1)} {
		c := cursor{b: b}
		if v := c.svarint(); v != value || c.end("") != nil {
			t.Errorf("%x is %d, %v", b, v, c.err)
		}
	}
	for _, b := range [][]byte{{}, {0x80}, {0x80, 0}, {0xff, 0x80, 0}, append(bytes.Repeat([]byte{255}, 9), 2), bytes.Repeat([]byte{255}, 11)} {
		c := cursor{b: b}
		_ = c.uvarint()
		refuses(t, fmt.Sprintf("%x", b), c.err, ErrDamaged)
	}
	c := cursor{b: cat(1<<40, "a")}
	_ = c.ids("IDs", 0, 1<<63)
	refuses(t, "more IDs than bytes", c.err, ErrDamaged)
}

func TestConfigRules(t *testing.T) {
	good := `{"pgtrove_repository":1,"id":"00112233445566778899aabbccddeeff","created":"2026-03-04T05:00:07Z","params":{"pack_size":65536}}`
	object := func(line string) []byte {
		return fmt.Appendf(nil, "%s\nsha256:%x\n", line, sha256.Sum256([]byte(line)))
	}
	parse := func(b []byte) error { _, err := parseConfig(b); return err }
	accepts(t, "a config", parse(object(good)))
	accepts(t, "a member that is not known", parse(object(good[:len(good)-1]+`,"more":1}`)))
	refuses(t, "version 2", parse(object(strings.Replace(good, "1", "2", 1))), ErrVersion)
	for what, b := range map[string][]byte{
		"another checksum":         append(object(good + " ")[:len(good)], object(good)[len(good)+1:]...),
		"a checksum of other":      bytes.Replace(object(good), []byte("2026"), []byte("2027"), 1),
		"a line more":              append(object(good), '\n'),
		"no end":                   bytes.TrimSuffix(object(good), []byte("\n")),
		"nothing":                  nil,
		"a version that is second": object(`{"id":"00112233445566778899aabbccddeeff","pgtrove_repository":1,"params":{"pack_size":65536}}`),
		"an upper-case ID":         object(strings.ToUpper(good)),
		"a small pack size":        object(strings.Replace(good, "65536", "65535", 1)),
		"no JSON":                  object(good[:len(good)-1]),
	} {
		refuses(t, what, parse(b), ErrDamaged)
	}
}

// plainBundle is the JSON of a golden bundle.
func plainBundle(t *testing.T, role string) map[string]any {
	t.Helper()
	b := goldenBundle(t, role)
	keys := func(from []Key) []any {
		var out []any
		for _, k := range from {
			m := map[string]any{"id": k.ID, "algorithm": k.Algorithm, "public": k.Public}
			if k.Secret != nil {
				m["secret"] = k.Secret
			}
			out = append(out, m)
		}
		return out
	}
	return map[string]any{"version": 1, "role": b.Role, "repository": b.Repository, "name": b.Name, "created": b.Created,
		"id_key": b.IDKey, "meta_key": b.MetaKey, "data_keys": keys(b.DataKeys), "wal_keys": keys(b.WALKeys)}
}

func TestBundleRules(t *testing.T) {
	parse := func(members map[string]any) error {
		text, err := json.Marshal(members)
		if err != nil {
			t.Fatal(err)
		}
		_, err = parseBundle(text)
		return err
	}
	for _, role := range []string{"owner", "standby", "writer"} {
		accepts(t, role, parse(plainBundle(t, role)))
	}
	first := func(m map[string]any, keys string) map[string]any { return m[keys].([]any)[0].(map[string]any) }
	for what, change := range map[string]func(m map[string]any){
		"an unknown member":        func(m map[string]any) { m["more"] = 1 },
		"an unknown role":          func(m map[string]any) { m["role"] = "reader" },
		"secrets above the role":   func(m map[string]any) { m["role"] = "standby" },
		"a secret that is missing": func(m map[string]any) { delete(first(m, "data_keys"), "secret") },
		"a short K_id":             func(m map[string]any) { m["id_key"] = make([]byte, 31) },
		"a long K_meta":            func(m map[string]any) { m["meta_key"] = make([]byte, 33) },
		"no WAL keys":              func(m map[string]any) { m["wal_keys"] = []any{} },
		"another key ID":           func(m map[string]any) { first(m, "wal_keys")["id"] = "0011223344556677" },
		"another algorithm":        func(m map[string]any) { first(m, "wal_keys")["algorithm"] = "x25519" },
		"another's secret":         func(m map[string]any) { first(m, "wal_keys")["secret"] = first(m, "data_keys")["secret"] },
		"a short secret":           func(m map[string]any) { first(m, "wal_keys")["secret"] = []byte{1} },
		"a short public half":      func(m map[string]any) { first(m, "wal_keys")["public"] = []byte{1} },
	} {
		m := plainBundle(t, "owner")
		change(m)
		refuses(t, what, parse(m), ErrDamaged)
	}
	m := plainBundle(t, "owner")
	m["signing"] = []int{1}
	accepts(t, "the reserved member", parse(m))
	m["version"], m["more"] = 3, 1
	refuses(t, "version 3", parse(m), ErrVersion)
	m = plainBundle(t, "owner")
	m["repository"] = strings.Repeat("0", 32)
	accepts(t, "a bundle of another repository", parse(m)) // Open refuses it
}

// sealMeta is the inverse of openMeta.
func (b *Bundle) sealMeta(t *testing.T, plain []byte, aad string) []byte {
	t.Helper()
	key, err := hkdf.Key(sha256.New, b.MetaKey, nil, "pgtrove v1 keys metadata sealing XChaCha20-Poly1305", 32)
	if err != nil {
		t.Fatal(err)
	}
	a, err := chacha20poly1305.NewX(key)
	if err != nil {
		t.Fatal(err)
	}
	nonce := make([]byte, 24)
	_, _ = rand.Read(nonce)
	return a.Seal(nonce, nonce, plain, []byte(aad))
}

func TestSealedObjectRules(t *testing.T) {
	r := openGolden(t, "writer")
	names := r.Names("sessions/")
	object, err := r.Object(names[0])
	if err != nil {
		t.Fatal(err)
	}
	open := func(kind, name string, object []byte) error {
		_, err := r.Bundle.openSealed(kind, name, object)
		return err
	}
	changed := func(at int, to byte) []byte {
		b := slices.Clone(object)
		b[at] = to
		return b
	}
	accepts(t, "a session", open("pgtsess", names[0], object))
	refuses(t, "version 3", open("pgtsess", names[0], changed(7, 3)), ErrVersion)
	refuses(t, "version 2, where there is no root key", open("pgtsess", names[0], changed(7, 2)), ErrDamaged)
	refuses(t, "another kind", open("pgtsnap", names[0], object), ErrDamaged)
	refuses(t, "another name", open("pgtsess", names[1], object), ErrDamaged)
	refuses(t, "no magic", open("pgtsess", names[0], changed(0, 'P')), ErrDamaged)
	refuses(t, "a changed byte", open("pgtsess", names[0], changed(len(object)-1, object[len(object)-1]+1)), ErrDamaged)
	for n := range 48 {
		refuses(t, fmt.Sprintf("%d bytes", n), open("pgtsess", names[0], object[:n]), ErrDamaged)
	}
	other := *r.Bundle
	other.Repository = strings.Repeat("0", 32)
	_, err = other.openSealed("pgtsess", names[0], object)
	refuses(t, "another repository", err, ErrDamaged)
}

func TestOutcomeRules(t *testing.T) {
	golden := openGolden(t, "writer")
	name := golden.Names("snapshots/")[0]
	plain, err := golden.payload("pgtsnap", name)
	if err != nil {
		t.Fatal(err)
	}
	outcome := func(old, now string) error {
		text := strings.Replace(string(plain), old, now, 1)
		if text == string(plain) && old != now {
			t.Fatalf("no %s in %s", old, plain)
		}
		aad := strings.Join([]string{"pgtrove object", "pgtsnap\x01", golden.Config.ID, name}, "\x00")
		object := golden.Bundle.sealMeta(t, []byte(text), aad)
		r := *golden
		r.fsys = fstest.MapFS{name: {Data: append([]byte("pgtsnap\x01"), object...)}}
		_, err := r.Outcome(name)
		return err
	}
	accepts(t, "a snapshot", outcome("", ""))
	accepts(t, "a member that is not known", outcome(`"cluster":`, `"more":[{}],"cluster":`))
	refuses(t, "version 2", outcome(`"version":1`, `"version":2`), ErrVersion)
	refuses(t, "a manifest of version 2", outcome(`"manifest":{"version":1`, `"manifest":{"version":2`), ErrVersion)
	for old, now := range map[string]string{
		`"SNAPSHOT"`:                  `"snapshot"`,
		`"manifest"`:                  `"manifesto"`,
		`"cluster":"main"`:            `"cluster":"other"`,
		`"id":"2026`:                  `"id":"2027`,
		`"block_size":8192`:           `"block_size":8000`,
		`"wal_segment_size":1048576`:  `"wal_segment_size":524288`,
		`"stop_lsn":"1/2000138"`:      `"stop_lsn":"1/1000138"`,
		`"start_lsn":"1/2000028"`:     `"start_lsn":"2000028"`,
		`"wal":"complete"`:            `"wal":"yes"`,
		`"backup_label":"`:            `"backup_label":"","more":"`,
		`"root":{"depth":1,"chunks":`: `"root":{"depth":9,"chunks":`,
		`"depth":1,"chunks":["`:       `"depth":1,"chunks":["A`,
		`"depth":1,"chunks":`:         `"depth":1,"chunks":[],"more":`,
	} {
		refuses(t, now, outcome(old, now), ErrDamaged)
	}
}

func TestPackRules(t *testing.T) {
	g, b := readGolden(t), goldenBundle(t, "owner")
	for _, golden := range g.Packs {
		object := readFile(t, golden.File)
		open := func(change func(b []byte) []byte) error {
			changed := change(slices.Clone(object))
			key := golden.Key
			if golden.Kind != "archive" { // with its right SHA-256
				key = key[:len(key)-64] + fmt.Sprintf("%x", sha256.Sum256(changed))
			}
			_, err := b.OpenPack(key, changed)
			return err
		}
		end := len(object) - 16
		n := int(binary.BigEndian.Uint32(object[end+4:]))
		set := func(at int, to ...byte) func([]byte) []byte {
			return func(b []byte) []byte { copy(b[at:], to); return b }
		}
		accepts(t, golden.File, open(func(b []byte) []byte { return b }))
		refuses(t, "version 2 of the head", open(set(7, 2)), ErrVersion)
		refuses(t, "version 2 of the trailer", open(set(end+15, 2)), ErrVersion)
		refuses(t, "another head", open(set(0, 'p')), ErrDamaged)
		refuses(t, "another trailer", open(set(end+8, 'p')), ErrDamaged)
		refuses(t, "parts longer than the object", open(set(end, 255, 255, 255, 255, 255, 255, 255, 255)), ErrDamaged)
		refuses(t, "no directory", open(set(end+4, 0, 0, 0, 0)), ErrDamaged)
		refuses(t, "a changed directory", open(set(end-1, ^object[end-1])), ErrDamaged)
		refuses(t, "a byte less", open(func(b []byte) []byte { return b[:len(b)-1] }), ErrDamaged)
		refuses(t, "a byte too many", open(func(b []byte) []byte { return append(b, 0) }), ErrDamaged)
		refuses(t, "a directory that is cut", open(func(b []byte) []byte { return slices.Delete(b, end-n, end-n+1) }), ErrDamaged)
		if golden.Kind != "archive" {
			_, err := b.OpenPack(golden.Key, append(slices.Clone(object[:20]), object[19:]...))
			refuses(t, "another SHA-256", err, ErrDamaged)
		}
		_, err := b.OpenPack(strings.Replace(golden.Key, "/", "/x", 1), object)
		refuses(t, "another name", err, ErrDamaged)

		p, err := b.OpenPack(golden.Key, object)
		if err != nil {
			t.Fatal(err)
		}
		for i, e := range p.Chunks {
			for _, at := range []uint64{e.Offset, e.Offset + e.Sealed - 1} {
				object[at] ^= 1
				_, err := p.Chunk(i)
				refuses(t, "a changed chunk", err, ErrDamaged)
				object[at] ^= 1
			}
		}
		if len(p.digests) > 0 {
			p.digests[0] ^= 1
			_, err := p.Chunk(0)
			refuses(t, "another page digest", err, ErrDamaged)
		}
	}
}

func TestArchivedFileIsTheOneAskedFor(t *testing.T) {
	r := openGolden(t, "owner")
	name := r.Names("wal/main/")[0]
	object, err := r.Object(name)
	if err != nil {
		t.Fatal(err)
	}
	open := func(key string, change func(p *Pack)) error {
		p, err := r.Bundle.OpenPack(name, object)
		if err != nil {
			t.Fatal(err)
		}
		p.Key = key
		change(p)
		_, _, err = p.wal()
		return err
	}
	accepts(t, name, open(name, func(*Pack) {}))
	refuses(t, "another cluster", open(strings.Replace(name, "main", "other", 1), func(*Pack) {}), ErrDamaged)
	refuses(t, "another system", open(strings.Replace(name, "/7", "/8", 1), func(*Pack) {}), ErrDamaged)
	refuses(t, "another file", open(name+".partial", func(*Pack) {}), ErrDamaged)
	refuses(t, "version 3", open(name, func(p *Pack) { p.Header[0] = 3 }), ErrVersion)
	refuses(t, "the digest of another version", open(name, func(p *Pack) { p.Header[0] = 2 }), ErrDamaged)
	refuses(t, "another digest", open(name, func(p *Pack) { p.Header[1] ^= 1 }), ErrDamaged)
	refuses(t, "another length", open(name, func(p *Pack) { p.Header[33] ^= 1 }), ErrDamaged)
	refuses(t, "a chunk less", open(name, func(p *Pack) { p.Chunks = nil }), ErrDamaged)
	refuses(t, "another kind of pack", open(name, func(p *Pack) { p.Kind = kindData }), ErrDamaged)
	refuses(t, "another session", open(name, func(p *Pack) { p.sessions[0].sid = path.Base(name) }), ErrDamaged)
	_, err = r.Bundle.OpenPack(strings.Replace(name, "main", "other", 1), object)
	refuses(t, "an object in another's place", err, ErrDamaged)
}

func TestNames(t *testing.T) {
	for _, name := range []string{"config", "a/B/0._-", strings.Repeat("x", 200), strings.Repeat("x/", 349) + "yy"} {
		if !isName(name) {
			t.Errorf("%.40q is a name", name)
		}
	}
	for _, name := range []string{"", "/a", "a/", "a//b", ".a", "a/.b", "a b", "ä", "a\x00", strings.Repeat("x", 201), strings.Repeat("x/", 350) + "y"} {
		if isName(name) {
			t.Errorf("%.40q is no name", name)
		}
	}
}

func TestEncodings(t *testing.T) {
	plain := bytes.Repeat([]byte("abc"), 100)
	frame, err := hex.DecodeString("28b52ffd" + "00" + "58" + "290000" + "6162636465") // one raw block of 5 bytes
	if err != nil {
		t.Fatal(err)
	}
	b, err := decode(0, plain, 300)
	if err != nil || !bytes.Equal(b, plain) {
		t.Error(err)
	}
	if b, err = decode(1, frame[:len(frame):len(frame)], 5); err != nil || string(b) != "abcde" {
		t.Errorf("%q, %v", b, err)
	}
	for what, err := range map[string]error{
		"fewer plain bytes": second(decode(0, plain, 301)), "more plain bytes": second(decode(0, plain, 299)),
		"a frame of more": second(decode(1, frame, 4)), "a frame of less": second(decode(1, frame, 6)),
		"no frame": second(decode(1, plain, 300)), "half a frame": second(decode(1, frame[:8], 5)),
	} {
		refuses(t, what, err, ErrDamaged)
	}
}

func second(_ []byte, err error) error { return err }
