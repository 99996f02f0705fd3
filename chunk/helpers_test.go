package chunk

import (
	"io"
	"math/rand/v2"
	"testing"
)

// randomBytes are n bytes that are the same in every run.
func randomBytes(seed uint64, n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)}).Read(b)
	return b
}

func randomDigests(seed uint64, n int) []Digest {
	raw := randomBytes(seed, n*DigestSize)
	out := make([]Digest, n)
	for i := range out {
		out[i] = Digest(raw[i*DigestSize:])
	}
	return out
}

func newPageCutter(t testing.TB, k Key) *PageCutter {
	t.Helper()
	c, err := NewPageCutter(k, DefaultPageParams())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// cutPages is the lengths of the chunks of a whole run.
func cutPages(c *PageCutter, d []Digest) []int {
	var out []int
	for {
		n := c.Next(d)
		if n == 0 {
			break
		}
		out = append(out, n)
		d = d[n:]
	}
	if n := c.Flush(); n > 0 {
		out = append(out, n)
	}
	return out
}

func cutStream(t testing.TB, c *StreamCutter, r io.Reader) [][]byte {
	t.Helper()
	var out [][]byte
	c.Reset(r)
	for {
		b, err := c.Next(nil)
		if err == io.EOF {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, b)
	}
}
