package keys

import (
	"bytes"
	"errors"
	"testing"
)

func newTestMeta(t testing.TB) *Meta {
	t.Helper()
	m, err := generate(t).Meta()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestMetadataOpensOnlyAsWhatItWas(t *testing.T) {
	m := newTestMeta(t)
	plain, aad := []byte("a listing"), []byte("tree of repository r")
	sealed := m.Seal([]byte("before"), plain, aad)
	if !bytes.HasPrefix(sealed, []byte("before")) || len(sealed) != 6+len(plain)+MetaOverhead {
		t.Fatalf("%d bytes", len(sealed))
	}
	sealed = sealed[6:]
	got, err := m.Open([]byte("ahead "), sealed, aad)
	if err != nil || string(got) != "ahead a listing" {
		t.Fatalf("%q, %v", got, err)
	}
	for name, c := range map[string]struct{ sealed, aad []byte }{
		"other data":   {sealed, []byte("tree of repository s")},
		"no data":      {sealed, nil},
		"truncated":    {sealed[:len(sealed)-1], aad},
		"only a nonce": {sealed[:24], aad},
		"empty":        {nil, aad},
	} {
		if got, err := m.Open(nil, c.sealed, c.aad); !errors.Is(err, ErrDamaged) || len(got) > 0 {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	for at := range sealed {
		bad := bytes.Clone(sealed)
		bad[at] ^= 0x80
		if _, err := m.Open(nil, bad, aad); !errors.Is(err, ErrDamaged) {
			t.Errorf("byte %d flipped: %v", at, err)
		}
	}
	if _, err := newTestMeta(t).Open(nil, sealed, aad); !errors.Is(err, ErrDamaged) {
		t.Errorf("another key: %v", err)
	}
}

func TestMetadataNoncesDiffer(t *testing.T) {
	m := newTestMeta(t)
	seen := map[string]bool{}
	for range 1000 {
		nonce := string(m.Seal(nil, nil, nil)[:metaNonceSize])
		if seen[nonce] {
			t.Fatal("a nonce was used twice")
		}
		seen[nonce] = true
	}
}

func TestMetadataNeedsAKey(t *testing.T) {
	if _, err := (&Bundle{}).Meta(); !errors.Is(err, ErrFormat) {
		t.Errorf("error %v", err)
	}
}
