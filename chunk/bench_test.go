package chunk

import (
	"bytes"
	"io"
	"testing"
)

func BenchmarkPageDigest8KiB(b *testing.B) {
	page := randomBytes(1, 8192)
	h := NewHasher(Key{1})
	b.SetBytes(8192)
	b.ReportAllocs()
	for b.Loop() {
		h.PageDigest(page)
	}
}

func BenchmarkRunID16Pages(b *testing.B) {
	h := NewHasher(Key{1})
	d := make([]Digest, 16)
	b.SetBytes(16 * 8192) // of the pages that are named
	b.ReportAllocs()
	for b.Loop() {
		h.RunID(d)
	}
}

func BenchmarkStreamID1MiB(b *testing.B) {
	data := randomBytes(1, 1<<20)
	h := NewHasher(Key{1})
	b.SetBytes(1 << 20)
	b.ReportAllocs()
	for b.Loop() {
		h.StreamID(data)
	}
}

func BenchmarkVerify16Pages(b *testing.B) {
	data := randomBytes(1, 16*8192)
	h := NewHasher(Key{1})
	id := h.RunID(h.PageDigests(nil, 13, data))
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if !h.Verify(id, 13, data) {
			b.Fatal("not verified")
		}
	}
}

func BenchmarkPageCutter(b *testing.B) {
	digests := randomDigests(2, 4096)
	c, err := NewPageCutter(Key{1}, DefaultPageParams())
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(4096 * 8192) // of the pages that are cut
	b.ReportAllocs()
	for b.Loop() {
		for d := digests; ; {
			n := c.Next(d)
			if n == 0 {
				c.Flush()
				break
			}
			d = d[n:]
		}
	}
}

func benchmarkStreamCutter(b *testing.B, p StreamParams) {
	data := randomBytes(3, 16<<20)
	c, err := NewStreamCutter(Key{1}, p, nil)
	if err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, p.Max)
	r := bytes.NewReader(nil)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		r.Reset(data)
		c.Reset(r)
		for {
			if _, err := c.Next(buf); err == io.EOF {
				break
			} else if err != nil {
				b.Fatal(err)
			}
		}
	}
}

func BenchmarkStreamCutterFiles(b *testing.B)    { benchmarkStreamCutter(b, DefaultStreamParams()) }
func BenchmarkStreamCutterListings(b *testing.B) { benchmarkStreamCutter(b, ListingParams()) }

func BenchmarkNewPageCutter(b *testing.B) {
	b.ReportAllocs()
	var k Key
	for b.Loop() {
		k[0]++
		if _, err := NewPageCutter(k, DefaultPageParams()); err != nil {
			b.Fatal(err)
		}
	}
}
