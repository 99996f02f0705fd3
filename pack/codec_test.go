package pack

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing"

	"github.com/klauspost/compress/zstd"
)

func newCompressor(t testing.TB, l Level) *Compressor {
	t.Helper()
	c, err := NewCompressor(l)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func newDecompressor(t testing.TB) *Decompressor {
	t.Helper()
	d, err := NewDecompressor(1)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestCompressedChunkIsReadBack(t *testing.T) {
	d := newDecompressor(t)
	for _, l := range []Level{Fastest, Default, Better} {
		c := newCompressor(t, l)
		for name, data := range map[string]func(int) []byte{
			"pgbench": pgbenchPages, "text": textPages, "float8": floatPages, "random": randomBytes,
		} {
			for _, n := range []int{8192, 128 << 10, 1 << 20} {
				plain := data(n)
				out, enc, err := c.Compress([]byte("before"), plain)
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.HasPrefix(out, []byte("before")) {
					t.Fatal("dst was not appended to")
				}
				if (enc == Raw) != (name == "random") {
					t.Errorf("%d bytes of %s are %s", n, name, enc)
				}
				if len(out)-6 > n {
					t.Errorf("%d bytes of %s became %d", n, name, len(out)-6)
				}
				back, err := d.Decompress([]byte("ahead"), out[6:], enc, n)
				if err != nil || !bytes.Equal(back[5:], plain) || string(back[:5]) != "ahead" {
					t.Errorf("%d bytes of %s, level %d: %v", n, name, l, err)
				}
			}
		}
		if c.Faults() != 0 {
			t.Errorf("level %d: %d faults", l, c.Faults())
		}
	}
	if _, err := NewCompressor(3); err == nil {
		t.Error("the best level is offered")
	}
}

func TestSmallChunksAreReadBack(t *testing.T) {
	c, d := newCompressor(t, Fastest), newDecompressor(t)
	for n := 1; n < 300; n++ {
		for _, plain := range [][]byte{make([]byte, n), randomBytes(n), bytes.Repeat([]byte("ab "), n)[:n]} {
			out, enc, err := c.Compress(nil, plain)
			if err != nil || len(out) > n {
				t.Fatalf("%d bytes became %d: %v", n, len(out), err)
			}
			back, err := d.Decompress(nil, out, enc, n)
			if err != nil || !bytes.Equal(back, plain) {
				t.Fatalf("%d bytes: %v", n, err)
			}
		}
	}
}

func TestChunksOutOfBoundsAreNotCompressed(t *testing.T) {
	c := newCompressor(t, Fastest)
	for _, n := range []int{0, MaxPlain + 1} {
		if _, _, err := c.Compress(nil, make([]byte, n)); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	out, enc, err := c.Compress(nil, make([]byte, MaxPlain))
	if err != nil || enc != Zstd {
		t.Fatalf("%d bytes of zeros: %s, %v", MaxPlain, enc, err)
	}
	if _, err := newDecompressor(t).Decompress(nil, out, enc, MaxPlain); err != nil {
		t.Error(err)
	}
}

// brokenEncoder spoils what a good one makes.
type brokenEncoder struct {
	good  encoder
	spoil func(dst, out []byte) []byte
}

func (b *brokenEncoder) EncodeAll(src, dst []byte) []byte {
	return b.spoil(dst, b.good.EncodeAll(src, dst))
}

func TestBrokenEncoderCostsSpaceAndNothingElse(t *testing.T) {
	plain := textPages(128 << 10)
	other, _, err := newCompressor(t, Fastest).Compress(nil, textPages(64<<10))
	if err != nil {
		t.Fatal(err)
	}
	wrong := bytes.Clone(plain)
	wrong[70_000] ^= 1
	sameLength, _, err := newCompressor(t, Fastest).Compress(nil, wrong)
	if err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(dst, out []byte) []byte{
		"a flipped bit":        func(_, out []byte) []byte { out[len(out)/2] ^= 8; return out },
		"cut off":              func(_, out []byte) []byte { return out[:len(out)-1] },
		"nothing":              func(dst, _ []byte) []byte { return dst },
		"less than nothing":    func(_, _ []byte) []byte { return nil },
		"another chunk":        func(dst, _ []byte) []byte { return append(dst, other...) },
		"one bit of the plain": func(dst, _ []byte) []byte { return append(dst, sameLength...) },
		"twice":                func(dst, out []byte) []byte { return append(out, out[len(dst):]...) },
		"panic":                func(_, _ []byte) []byte { panic("internal error") },
	} {
		c := newCompressor(t, Fastest)
		c.enc = &brokenEncoder{good: c.enc, spoil: spoil}
		out, enc, err := c.Compress([]byte("before"), plain)
		if err != nil || enc != Raw || !bytes.Equal(out, append([]byte("before"), plain...)) {
			t.Errorf("%s: %d bytes, %s, %v", name, len(out), enc, err)
		}
		if c.Faults() != 1 {
			t.Errorf("%s: %d faults", name, c.Faults())
		}
		c.enc = newCompressor(t, Fastest).enc
		if _, enc, err = c.Compress(nil, plain); err != nil || enc != Zstd || c.Faults() != 1 {
			t.Errorf("afterwards: %s, %v, %d faults", enc, err, c.Faults())
		}
	}
}

func TestPanickingEncoderIsReplaced(t *testing.T) {
	c := newCompressor(t, Fastest)
	c.enc = &brokenEncoder{good: c.enc, spoil: func(_, _ []byte) []byte { panic("internal error") }}
	for want := Raw; want <= Zstd; want++ {
		if _, enc, err := c.Compress(nil, textPages(64<<10)); err != nil || enc != want {
			t.Errorf("%s, want %s: %v", enc, want, err)
		}
	}
}

func TestDecompressIsBoundedByThePlainLength(t *testing.T) {
	d := newDecompressor(t)
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		t.Fatal(err)
	}
	bomb := enc.EncodeAll(make([]byte, 100<<20), nil)
	// The same without the size in its header, as a stream has it.
	var stream bytes.Buffer
	enc.Reset(&stream)
	zeros := make([]byte, 1<<20)
	for range 100 {
		if _, err := enc.Write(zeros); err != nil {
			t.Fatal(err)
		}
	}
	if err := enc.Close(); err != nil {
		t.Fatal(err)
	}
	frame := enc.EncodeAll(make([]byte, 1000), nil)
	for name, c := range map[string]struct {
		src []byte
		n   int
	}{
		"bomb": {bomb, 8192}, "stream": {stream.Bytes(), 8192}, "many frames": {bytes.Repeat(frame, 100_000), 8192},
		"a byte too many": {frame, 999}, "a byte too few": {frame, 1001}, "within the slack": {frame, 990},
		"two frames": {bytes.Repeat(frame, 2), 1000}, "cut off": {frame[:len(frame)-1], 1000}, "empty": {nil, 1000},
		"garbage behind": {append(bytes.Clone(frame), "garbage"...), 1000}, "no frame": {[]byte("no frame at all"), 1000},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		out, err := d.Decompress(make([]byte, 0, c.n), c.src, Zstd, c.n)
		runtime.ReadMemStats(&after)
		if !errors.Is(err, ErrEncoding) || out != nil {
			t.Errorf("%s: %d bytes, %v", name, len(out), err)
		}
		if used := after.TotalAlloc - before.TotalAlloc; used > 1<<20 {
			t.Errorf("%s: %d bytes allocated for %d", name, used, c.n)
		}
	}
	for name, c := range map[string]struct {
		src []byte
		enc Encoding
		n   int
	}{
		"raw too short": {[]byte("ab"), Raw, 3}, "raw too long": {[]byte("abcd"), Raw, 3}, "reserved": {[]byte("abc"), 2, 3},
		"nothing": {nil, Raw, 0}, "negative": {nil, Zstd, -1}, "too large": {frame, Zstd, MaxPlain + 1},
	} {
		if _, err := d.Decompress(nil, c.src, c.enc, c.n); !errors.Is(err, ErrEncoding) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDecompressorServesManyAtOnce(t *testing.T) {
	d, err := NewDecompressor(2)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			c, err := NewCompressor(Fastest)
			if err != nil {
				t.Error(err)
				return
			}
			var out, back []byte
			for i := range 20 {
				plain := bytes.Repeat(fmt.Appendf(nil, "worker %d, round %d;", w, i), 1000)
				var enc Encoding
				if out, enc, err = c.Compress(out[:0], plain); err != nil {
					t.Error(err)
					return
				}
				if back, err = d.Decompress(back[:0], out, enc, len(plain)); err != nil || !bytes.Equal(back, plain) {
					t.Errorf("worker %d: %v", w, err)
				}
			}
		})
	}
	wg.Wait()
}

func TestCompressionDoesNotAllocate(t *testing.T) {
	limit := 1.0 // a collection between two calls may empty a pool: not each time
	if raceDetector {
		limit = 10 // it makes pools forget at random
	}
	for name, plain := range map[string][]byte{
		"pgbench": pgbenchPages(128 << 10), "float8": floatPages(128 << 10), "random": randomBytes(128 << 10),
	} {
		c := newCompressor(t, Fastest)
		out := make([]byte, 0, len(plain)+1024)
		var enc Encoding
		if n := testing.AllocsPerRun(100, func() {
			var err error
			if out, enc, err = c.Compress(out[:0], plain); err != nil {
				t.Error(err)
			}
		}); n >= limit {
			t.Errorf("compressing %s allocates %v times", name, n)
		}
		back := make([]byte, 0, len(plain)+decodeSlack)
		at := &back[:1][0]
		if n := testing.AllocsPerRun(100, func() {
			var err error
			if back, err = c.dec.Decompress(back[:0], out, enc, len(plain)); err != nil {
				t.Error(err)
			}
		}); n >= limit || &back[0] != at || cap(back) != len(plain)+decodeSlack {
			t.Errorf("decompressing %s allocates %v times, room for %d", name, n, cap(back))
		}
	}
}

func FuzzDecompress(f *testing.F) {
	c := newCompressor(f, Fastest)
	for _, plain := range [][]byte{pgbenchPages(8192), []byte("text text text text"), make([]byte, 300)} {
		out, _, err := c.Compress(nil, plain)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(out, len(plain))
	}
	d := newDecompressor(f)
	f.Fuzz(func(t *testing.T, src []byte, n int) {
		if n > 1<<20 {
			return
		}
		out, err := d.Decompress(nil, src, Zstd, n)
		if err == nil && len(out) != n {
			t.Errorf("%d bytes, want %d", len(out), n)
		}
		if err != nil && !errors.Is(err, ErrEncoding) {
			t.Errorf("error of no kind: %v", err)
		}
	})
}

func FuzzCompress(f *testing.F) {
	f.Add([]byte("text text text text text"), uint16(7))
	f.Add([]byte{0}, uint16(8191))
	c, d := newCompressor(f, Fastest), newDecompressor(f)
	f.Fuzz(func(t *testing.T, b []byte, times uint16) {
		plain := bytes.Repeat(b, 1+int(times)/64)
		if len(plain) == 0 {
			return
		}
		out, enc, err := c.Compress(nil, plain)
		if err != nil || len(out) > len(plain) {
			t.Fatalf("%d bytes became %d: %v", len(plain), len(out), err)
		}
		back, err := d.Decompress(nil, out, enc, len(plain))
		if err != nil || !bytes.Equal(back, plain) {
			t.Errorf("%d bytes: %v", len(plain), err)
		}
		if c.Faults() > 0 {
			t.Error("the encoder is broken")
		}
	})
}
