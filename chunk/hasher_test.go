package chunk

import (
	"bytes"
	"testing"
)

func TestNamesOfDifferentKindsNeverMeet(t *testing.T) {
	h := NewHasher(Key{1})
	b := randomBytes(1, 8192)
	digest := h.PageDigest(b)
	names := map[[32]byte]string{}
	for name, sum := range map[string][32]byte{
		"page digest":       digest,
		"run of that page":  h.RunID([]Digest{digest}),
		"stream":            h.StreamID(b),
		"metadata":          h.MetaID(b),
		"stream of digest":  h.StreamID(digest[:]),
		"metadata, digest":  h.MetaID(digest[:]),
		"other key, stream": NewHasher(Key{2}).StreamID(b),
		"other key, digest": NewHasher(Key{2}).PageDigest(b),
	} {
		if other, ok := names[sum]; ok {
			t.Errorf("%s and %s are the same", name, other)
		}
		names[sum] = name
	}
}

func TestHasherKeepsNothingBetweenCalls(t *testing.T) {
	h := NewHasher(Key{1})
	for _, n := range []int{1, 64, 1024, 8192, 8193, 100_000} {
		b := randomBytes(uint64(n), n)
		fresh := NewHasher(Key{1})
		if h.PageDigest(b) != fresh.PageDigest(b) || h.StreamID(b) != fresh.StreamID(b) || h.MetaID(b) != fresh.MetaID(b) {
			t.Errorf("%d bytes: a used hasher differs from a fresh one", n)
		}
		if h.PageDigest(b) != h.PageDigest(bytes.Clone(b)) {
			t.Errorf("%d bytes: digests of equal pages differ", n)
		}
	}
}

func TestRunIDDependsOnEveryDigestAndTheirOrder(t *testing.T) {
	h := NewHasher(Key{1})
	d := randomDigests(1, 300)
	whole := h.RunID(d)
	if h.RunID(d[:299]) == whole || h.RunID(d[1:]) == whole {
		t.Error("a page less does not matter")
	}
	d[5], d[200] = d[200], d[5]
	if h.RunID(d) == whole {
		t.Error("the order does not matter")
	}
}

func TestPageDigestsAreThoseOfEachPage(t *testing.T) {
	h := NewHasher(Key{1})
	pages := randomBytes(1, 3*4096)
	got := h.PageDigests(nil, 12, pages)
	if len(got) != 3 {
		t.Fatalf("%d digests of 3 pages", len(got))
	}
	for i, d := range got {
		if want := h.PageDigest(pages[i*4096 : (i+1)*4096]); d != want {
			t.Errorf("page %d: %s, want %s", i, d, want)
		}
	}
	if p := got[0].Prefix(); !bytes.Equal(p[:], got[0][:8]) || p.String() != got[0].String()[:16] {
		t.Errorf("prefix %s of %s", p, got[0])
	}
}

func TestVerifyAcceptsOnlyWhatWasNamed(t *testing.T) {
	h := NewHasher(Key{1})
	plain := randomBytes(1, 16*8192)
	run := h.RunID(h.PageDigests(nil, 13, plain))
	small := h.RunID(h.PageDigests(nil, 12, plain))
	stream := h.StreamID(plain)
	for _, c := range []struct {
		name  string
		id    ID
		form  Form
		plain []byte
		want  bool
	}{
		{"run", run, 13, plain, true},
		{"run of smaller pages", small, 12, plain, true},
		{"stream", stream, FormBytes, plain, true},
		{"run as stream", run, FormBytes, plain, false},
		{"stream as run", stream, 13, plain, false},
		{"metadata as stream", h.MetaID(plain), FormBytes, plain, false},
		{"wrong page size", run, 12, plain, false},
		{"page missing", run, 13, plain[8192:], false},
		{"part of a page", run, 13, plain[:len(plain)-1], false},
		{"part of a stream", stream, FormBytes, plain[1:], false},
		{"empty", h.RunID(nil), 13, nil, false},
		{"empty stream", h.StreamID(nil), FormBytes, nil, false},
		{"unknown form", run, 9, plain, false},
		{"unknown form", stream, 17, plain, false},
	} {
		if got := h.Verify(c.id, c.form, c.plain); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
	for _, at := range []int{0, 8191, 8192, len(plain) - 1} {
		bad := bytes.Clone(plain)
		bad[at] ^= 0x10
		if h.Verify(run, 13, bad) || h.Verify(stream, FormBytes, bad) {
			t.Errorf("a flipped bit in byte %d is not seen", at)
		}
	}
}

func TestHashingDoesNotAllocate(t *testing.T) {
	h := NewHasher(Key{1})
	plain := randomBytes(1, 16*8192)
	digests := h.PageDigests(nil, 13, plain)
	id := h.RunID(digests)
	buf := make([]Digest, 0, 16)
	for name, f := range map[string]func(){
		"PageDigest":  func() { h.PageDigest(plain[:8192]) },
		"PageDigests": func() { buf = h.PageDigests(buf[:0], 13, plain) },
		"RunID":       func() { h.RunID(digests) },
		"StreamID":    func() { h.StreamID(plain) },
		"MetaID":      func() { h.MetaID(plain) },
		"Verify":      func() { h.Verify(id, 13, plain) },
	} {
		if n := testing.AllocsPerRun(20, f); n != 0 {
			t.Errorf("%s allocates %v times", name, n)
		}
	}
}
