package pack

import (
	"bytes"
	"crypto/rand"
	"errors"
	"math/big"
	"testing"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/pgtrove/pgtrove/chunk"
)

// testSealer seals as the metadata key does: a random nonce, then
// XChaCha20-Poly1305.
type testSealer [32]byte

var errOpen = errors.New("does not open")

func (s testSealer) Seal(dst, plain, aad []byte) []byte {
	a, err := chacha20poly1305.NewX(s[:])
	if err != nil {
		panic(err)
	}
	nonce := make([]byte, a.NonceSize())
	_, _ = rand.Read(nonce)
	return a.Seal(append(dst, nonce...), nonce, plain, aad)
}

func (s testSealer) Open(dst, sealed, aad []byte) ([]byte, error) {
	a, err := chacha20poly1305.NewX(s[:])
	if err != nil {
		return nil, err
	}
	if len(sealed) < a.NonceSize() {
		return nil, errOpen
	}
	out, err := a.Open(dst, sealed[:a.NonceSize()], sealed[a.NonceSize():], aad)
	if err != nil {
		return nil, errOpen
	}
	return out, nil
}

// plainSealer seals nothing, so that a fuzzer gets past it.
type plainSealer struct{}

func (plainSealer) Seal(dst, plain, _ []byte) []byte           { return append(dst, plain...) }
func (plainSealer) Open(dst, sealed, _ []byte) ([]byte, error) { return append(dst, sealed...), nil }

var testAAD = []byte("repository r, pack p")

func randomID(t testing.TB) (id chunk.ID) {
	t.Helper()
	if _, err := rand.Read(id[:]); err != nil {
		t.Fatal(err)
	}
	return id
}

func randomInt(t testing.TB, limit int64) int {
	t.Helper()
	n, err := rand.Int(rand.Reader, big.NewInt(limit))
	if err != nil {
		t.Fatal(err)
	}
	return int(n.Int64())
}

// filled is a builder with three chunks: a run of pages, a stream, another
// run; in a Meta pack three streams. The chunks' bytes are not really sealed.
func filled(t testing.TB, kind Kind, s Sealer) (*Builder, [][]byte, [][]chunk.Digest) {
	t.Helper()
	b := NewBuilder(kind, s, testAAD)
	var session uint16
	if kind != Meta {
		for _, sid := range []string{"20260102T030405Z-00", "20260102T030405Z-01"} {
			var err error
			if session, err = b.AddSession(Session{SID: sid, Encapsulation: bytes.Repeat([]byte{7}, 1129)}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if kind == Archive {
		if err := b.SetHeader([]byte("header of the archive")); err != nil {
			t.Fatal(err)
		}
	}
	var sealed [][]byte
	var digests [][]chunk.Digest
	for i := range 3 {
		e := Entry{ID: randomID(t), Plain: 3 * 8192, Encoding: Zstd, Session: session, Nonce: uint64(1000 * i)}
		var d []chunk.Digest
		if i != 1 && kind != Meta {
			e.Form = 13
			for range 3 {
				d = append(d, chunk.Digest(randomID(t)))
			}
		}
		if kind == Meta {
			e.Session, e.Nonce = 0, 0
		}
		data := make([]byte, 1000+i)
		_, _ = rand.Read(data)
		if err := b.Add(e, data, d); err != nil {
			t.Fatal(err)
		}
		sealed, digests = append(sealed, data), append(digests, d)
	}
	return b, sealed, digests
}
