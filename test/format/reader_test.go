package format

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hpke"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"
	"github.com/zeebo/blake3"
	"golang.org/x/crypto/chacha20poly1305"
)

// This file reads the golden files with nothing but what docs/format.md says:
// it imports no package of the project. It is as plain as it can be, and
// panics where bytes are not what the page promises.

// bundle is section 5.
type bundle struct {
	Repository string
	IDKey      []byte `json:"id_key"`
	MetaKey    []byte `json:"meta_key"`
	DataKeys   []pair `json:"data_keys"`
	WALKeys    []pair `json:"wal_keys"`
}

type pair struct {
	ID             string
	Public, Secret []byte
}

func readBundle(t *testing.T) bundle {
	t.Helper()
	ids, err := age.ParseIdentities(bytes.NewReader(readFile(t, "identity.txt")))
	if err != nil {
		t.Fatal(err)
	}
	r, err := age.Decrypt(bytes.NewReader(readFile(t, "owner.age")), ids...)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	var b bundle
	if err := json.Unmarshal(plain, &b); err != nil {
		t.Fatal(err)
	}
	for _, k := range append(append([]pair(nil), b.DataKeys...), b.WALKeys...) {
		sum := sha256.Sum256(k.Public)
		if hex.EncodeToString(sum[:8]) != k.ID {
			t.Errorf("key %s has the ID %x", k.ID, sum[:8])
		}
	}
	return b
}

// openMeta is section 2.3.
func openMeta(metaKey, sealed, aad []byte) ([]byte, error) {
	key, err := hkdf.Key(sha256.New, metaKey, nil, "pgtrove v1 keys metadata sealing XChaCha20-Poly1305", 32)
	if err != nil {
		return nil, err
	}
	a, err := chacha20poly1305.NewX(key)
	if err != nil {
		return nil, err
	}
	return a.Open(nil, sealed[:24], sealed[24:], aad)
}

// list is the length-prefixed list of section 2.
func list(label string, values ...string) []byte {
	b := append([]byte(label), 0)
	for _, v := range values {
		b = binary.BigEndian.AppendUint32(b, uint32(len(v)))
		b = append(b, v...)
	}
	return b
}

// openSealed is section 2.4.
func openSealed(keys []pair, repository, sid string, encapsulation []byte, id []byte, nonce uint64, sealed []byte) ([]byte, error) {
	if len(encapsulation) != 1129 || encapsulation[0] != 1 {
		return nil, fmt.Errorf("encapsulation of %d bytes", len(encapsulation))
	}
	for _, k := range keys {
		if k.ID != hex.EncodeToString(encapsulation[1:9]) {
			continue
		}
		private, err := hpke.MLKEM768X25519().NewPrivateKey(k.Secret)
		if err != nil {
			return nil, err
		}
		r, err := hpke.NewRecipient(encapsulation[9:], private, hpke.HKDFSHA256(), hpke.ExportOnly(),
			list("pgtrove v1 keys session", repository, sid))
		if err != nil {
			return nil, err
		}
		key, err := r.Export("pgtrove v1 keys chunk sealing AES-256-GCM", 32)
		if err != nil {
			return nil, err
		}
		block, err := aes.NewCipher(key)
		if err != nil {
			return nil, err
		}
		a, err := cipher.NewGCM(block)
		if err != nil {
			return nil, err
		}
		aad := append(list("pgtrove v1 keys chunk", repository, sid), id...)
		return a.Open(nil, binary.BigEndian.AppendUint64(make([]byte, 4), nonce), sealed, aad)
	}
	return nil, fmt.Errorf("no key %x", encapsulation[1:9])
}

// keyed is BLAKE3 with a key derived from K_id (sections 2.2 and 3).
func keyed(idKey []byte, context string, b []byte) []byte {
	var key [32]byte
	blake3.DeriveKey(context, idKey, key[:])
	h, err := blake3.NewKeyed(key[:])
	if err != nil {
		panic(err)
	}
	_, _ = h.Write(b)
	return h.Sum(nil)
}

// chunkName is section 3; prefixes are what section 4.3 keeps of the digests.
func chunkName(idKey []byte, kind string, form byte, plain []byte) (id string, prefixes []string) {
	switch {
	case kind == "meta":
		return hex.EncodeToString(keyed(idKey, "pgtrove v1 2026 chunk metadata ID", plain)), nil
	case form == 0:
		return hex.EncodeToString(keyed(idKey, "pgtrove v1 2026 chunk byte stream ID", plain)), nil
	}
	var digests []byte
	for size := 1 << form; len(plain) > 0; plain = plain[size:] {
		d := keyed(idKey, "pgtrove v1 2026 chunk page digest", plain[:size])
		digests = append(digests, d...)
		prefixes = append(prefixes, hex.EncodeToString(d[:8]))
	}
	return hex.EncodeToString(keyed(idKey, "pgtrove v1 2026 chunk run of pages ID", digests)), prefixes
}

// cursor reads a directory (section 4.4).
type cursor []byte

func (c *cursor) take(n int) []byte {
	b := (*c)[:n]
	*c = (*c)[n:]
	return b
}

func (c *cursor) number() uint64 {
	v, n := binary.Uvarint(*c)
	c.take(n)
	return v
}

func (c *cursor) bytes() []byte { return c.take(int(c.number())) }

type session struct {
	sid           string
	encapsulation []byte
}

func TestAReaderWrittenFromThePageReadsGoldenPacks(t *testing.T) {
	g, b := readGolden(t), readBundle(t)
	if b.Repository != g.Repository {
		t.Fatalf("bundle of repository %s", b.Repository)
	}
	for _, p := range g.Packs {
		readPack(t, g.Repository, b, p, readFile(t, p.File))
	}
}

func readPack(t *testing.T, repository string, b bundle, p goldenPack, object []byte) {
	t.Helper()
	const magic = "PGTPACK\x01"
	end := len(object) - 16
	if string(object[:8]) != magic || string(object[end+8:]) != magic {
		t.Fatalf("%s is no pack", p.File)
	}
	name := p.Key
	if p.Kind != "archive" {
		cut := strings.LastIndexByte(name, '-')
		if sum := sha256.Sum256(object); name[cut+1:] != hex.EncodeToString(sum[:]) {
			t.Errorf("%s: SHA-256 %x", p.File, sum)
		}
		name = name[:cut]
	}
	aad := "pgtrove pack\x00" + repository + "\x00" + name
	digestsLen, directoryLen := int(binary.BigEndian.Uint32(object[end:])), int(binary.BigEndian.Uint32(object[end+4:]))
	directory, err := openMeta(b.MetaKey, object[end-directoryLen:end], []byte("pgtrove v1 pack directory\x00"+aad))
	if err != nil {
		t.Fatalf("%s: directory: %v", p.File, err)
	}
	var digests []byte
	if digestsLen > 0 {
		at := end - directoryLen - digestsLen
		if digests, err = openMeta(b.MetaKey, object[at:at+digestsLen], []byte("pgtrove v1 pack page digests\x00"+aad)); err != nil {
			t.Fatalf("%s: page digests: %v", p.File, err)
		}
	}

	c := cursor(directory)
	if v, kind := c.take(1)[0], c.take(1)[0]; v != 1 || [...]string{"", "data", "meta", "archive"}[kind] != p.Kind {
		t.Fatalf("%s: version %d, kind %d", p.File, v, kind)
	}
	if h := c.bytes(); string(h) != p.Header {
		t.Errorf("%s: header %q", p.File, h)
	}
	var sessions []session
	for range c.number() {
		sessions = append(sessions, session{string(c.bytes()), c.bytes()})
	}
	offset := 8
	n := int(c.number())
	if n != len(p.Chunks) {
		t.Fatalf("%s: %d chunks", p.File, n)
	}
	for i := range n {
		id, form, encoding := c.take(32), c.take(1)[0], c.take(1)[0]
		offset += int(c.number())
		sealedLen, plainLen := int(c.number()), int(c.number())
		sealed := object[offset : offset+sealedLen]
		offset += sealedLen
		var encoded []byte
		if p.Kind == "meta" {
			encoded, err = openMeta(b.MetaKey, sealed, []byte("pgtrove meta chunk\x00"+repository+"\x00"+string(id)))
		} else {
			s, nonce, keys := sessions[c.number()], c.number(), b.DataKeys
			if p.Kind == "archive" {
				keys = b.WALKeys
			}
			if s.sid != p.Chunks[i].Session {
				t.Errorf("%s: chunk %d is of session %s", p.File, i, s.sid)
			}
			encoded, err = openSealed(keys, repository, s.sid, s.encapsulation, id, nonce, sealed)
		}
		if err != nil {
			t.Fatalf("%s: chunk %d: %v", p.File, i, err)
		}
		plain := decode(t, encoding, encoded)
		if len(plain) != plainLen {
			t.Errorf("%s: chunk %d has %d bytes, the directory says %d", p.File, i, len(plain), plainLen)
		}
		p.Chunks[i].check(t, p.File, plain)
		got, prefixes := chunkName(b.IDKey, p.Kind, form, plain)
		if got != hex.EncodeToString(id) || got != p.Chunks[i].ID {
			t.Errorf("%s: chunk %d has the name %s", p.File, i, got)
		}
		for j, want := range prefixes {
			if found := hex.EncodeToString(digests[:8]); found != want || want != p.Chunks[i].Pages[j] {
				t.Errorf("%s: digest of page %d of chunk %d is %s, of the page %s", p.File, j, i, found, want)
			}
			digests = digests[8:]
		}
	}
	if len(c) > 0 || len(digests) > 0 {
		t.Errorf("%s: %d bytes of directory and %d of page digests too many", p.File, len(c), len(digests))
	}
}

func decode(t *testing.T, encoding byte, b []byte) []byte {
	t.Helper()
	if encoding == 0 {
		return b
	}
	d, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	plain, err := d.DecodeAll(b, nil)
	if err != nil {
		t.Fatal(err)
	}
	return plain
}
