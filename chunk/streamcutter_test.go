package chunk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"testing/iotest"

	"github.com/zeebo/blake3"
)

func newStreamCutter(t testing.TB, k Key, p StreamParams) *StreamCutter {
	t.Helper()
	c, err := NewStreamCutter(k, p, bytes.NewReader(nil))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func lengths(chunks [][]byte) []int {
	var out []int
	for _, c := range chunks {
		out = append(out, len(c))
	}
	return out
}

func TestStreamChunksAreTheStream(t *testing.T) {
	for name, p := range map[string]StreamParams{"files": DefaultStreamParams(), "listings": ListingParams()} {
		c := newStreamCutter(t, Key{1}, p)
		for _, n := range []int{0, 1, p.Min - 1, p.Min, p.Min + 1, p.Max, p.Max + 1, 3*p.Max + 12345} {
			data := randomBytes(uint64(n), n)
			chunks := cutStream(t, c, bytes.NewReader(data))
			if !bytes.Equal(bytes.Join(chunks, nil), data) {
				t.Errorf("%s: chunks of %d bytes are not these bytes", name, n)
			}
			for i, b := range chunks {
				if len(b) == 0 || len(b) > p.Max || len(b) < p.Min && i < len(chunks)-1 {
					t.Errorf("%s: chunk %d of %d has %d bytes", name, i, len(chunks), len(b))
				}
			}
		}
	}
}

func TestStreamChunksAreOfTheMeanSize(t *testing.T) {
	p := ListingParams()
	chunks := cutStream(t, newStreamCutter(t, Key{1}, p), bytes.NewReader(randomBytes(1, 16<<20)))
	want := float64(p.Min + 1<<p.AverageBits)
	if mean := float64(16<<20) / float64(len(chunks)); mean < 0.9*want || mean > 1.1*want {
		t.Errorf("mean of %.0f bytes, want about %.0f", mean, want)
	}
}

func TestStreamCutsDoNotDependOnTheReader(t *testing.T) {
	c := newStreamCutter(t, Key{1}, ListingParams())
	data := randomBytes(1, 300_000)
	want := lengths(cutStream(t, c, bytes.NewReader(data)))
	for name, r := range map[string]io.Reader{
		"one byte":       iotest.OneByteReader(bytes.NewReader(data)),
		"half":           iotest.HalfReader(bytes.NewReader(data)),
		"data with EOF":  iotest.DataErrReader(bytes.NewReader(data)),
		"buffer":         bytes.NewBuffer(bytes.Clone(data)),
		"nothing at all": io.MultiReader(bytes.NewReader(nil), &idleReader{r: bytes.NewReader(data)}),
	} {
		if got := lengths(cutStream(t, c, r)); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
}

// idleReader answers every second call with nothing.
type idleReader struct {
	r    io.Reader
	idle bool
}

func (r *idleReader) Read(p []byte) (int, error) {
	r.idle = !r.idle
	if r.idle {
		return 0, nil
	}
	return r.r.Read(p)
}

func TestChangedListingChangesOnlyChunksNearby(t *testing.T) {
	c, h := newStreamCutter(t, Key{1}, ListingParams()), NewHasher(Key{1})
	listing := func(changed int) []byte {
		var b bytes.Buffer
		for i := range 100_000 {
			size := 8192 * (i % 100)
			if i == changed {
				size++
			}
			fmt.Fprintf(&b, "base/5/%d %d\n", 16384+i, size)
		}
		return b.Bytes()
	}
	before := map[ID]bool{}
	for _, b := range cutStream(t, c, bytes.NewReader(listing(-1))) {
		before[h.MetaID(b)] = true
	}
	for _, at := range []int{0, 50_000, 99_999} {
		added := 0
		for _, b := range cutStream(t, c, bytes.NewReader(listing(at))) {
			if !before[h.MetaID(b)] {
				added++
			}
		}
		if added < 1 || added > 3 {
			t.Errorf("entry %d changed: %d new chunks of %d", at, added, len(before))
		}
	}
}

func TestReaderErrorIsNeverTakenForTheEnd(t *testing.T) {
	broken := errors.New("the disk is gone")
	for _, want := range []error{broken, io.ErrUnexpectedEOF, io.ErrClosedPipe} {
		for _, n := range []int{0, 1, 1000, 100_000} {
			data := randomBytes(1, n)
			for name, r := range map[string]io.Reader{
				"error after data": io.MultiReader(bytes.NewReader(data), iotest.ErrReader(want)),
				"error with data":  &lastError{r: bytes.NewReader(data), err: want},
			} {
				c := newStreamCutter(t, Key{1}, ListingParams())
				c.Reset(r)
				got := 0
				var err error
				for err == nil {
					var b []byte
					b, err = c.Next(nil)
					got += len(b)
				}
				if !errors.Is(err, want) {
					t.Errorf("%s, %d bytes, %v: %v", name, n, want, err)
				}
				if got > n {
					t.Errorf("%s: %d of %d bytes", name, got, n)
				}
				if b, again := c.Next(nil); !errors.Is(again, want) || len(b) > 0 {
					t.Errorf("%s: the next call gives %d bytes, %v", name, len(b), again)
				}
			}
		}
	}
}

// lastError gives its error together with the last bytes.
type lastError struct {
	r   *bytes.Reader
	err error
}

func (r *lastError) Read(p []byte) (int, error) {
	n, _ := r.r.Read(p)
	if r.r.Len() == 0 {
		return n, r.err
	}
	return n, nil
}

func TestReaderThatNeverEndsIsGivenUp(t *testing.T) {
	c := newStreamCutter(t, Key{1}, ListingParams())
	c.Reset(readNothing{})
	if _, err := c.Next(nil); !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("error %v", err)
	}
}

type readNothing struct{}

func (readNothing) Read([]byte) (int, error) { return 0, nil }

func TestStreamCutterUsesTheCallersBuffer(t *testing.T) {
	p := ListingParams()
	c := newStreamCutter(t, Key{1}, p)
	data := randomBytes(1, 200_000)
	r := bytes.NewReader(data)
	buf := make([]byte, 0, p.Max)
	if n := testing.AllocsPerRun(10, func() {
		r.Reset(data)
		c.Reset(r)
		for {
			b, err := c.Next(buf)
			if err == io.EOF {
				return
			}
			if err != nil || &b[0] != &buf[:1][0] {
				t.Fatalf("not in the buffer, or %v", err)
			}
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestStreamCutterForgetsAStreamLeftHalfway(t *testing.T) {
	c := newStreamCutter(t, Key{1}, ListingParams())
	data := randomBytes(1, 200_000)
	want := lengths(cutStream(t, c, bytes.NewReader(data)))
	// One left after a cut, one that broke off inside a chunk, one at its end.
	for _, r := range []io.Reader{
		bytes.NewReader(randomBytes(2, 200_000)),
		io.MultiReader(bytes.NewReader(randomBytes(3, 1000)), iotest.ErrReader(io.ErrClosedPipe)),
		bytes.NewReader(randomBytes(4, 1000)),
	} {
		c.Reset(r)
		for range 3 {
			if _, err := c.Next(nil); err != nil {
				break
			}
		}
		if got := lengths(cutStream(t, c, bytes.NewReader(data))); !slices.Equal(got, want) {
			t.Errorf("cuts %v, want %v", got, want)
		}
	}
}

// cutByThePage is docs/format.md, section 3.3, as it stands there: for each
// place everything anew.
func cutByThePage(k Key, p StreamParams, data []byte) (out []int) {
	var table [2048]byte
	blake3.DeriveKey("pgtrove v1 2026 chunk stream cutter anchors", nil, table[:])
	draws := keyedHasher(k, "pgtrove v1 2026 chunk stream cutter draws")
	natural := func(window []byte) bool {
		sum := uint64(0)
		for i, b := range window { // b is that of i+1 on the page
			sum += binary.LittleEndian.Uint64(table[8*int(b):]) << (63 - i)
		}
		return sum>>58 == 0
	}
	offset := func(window []byte) int { // 512: none
		draws.Reset()
		_, _ = draws.Write(window)
		v := binary.LittleEndian.Uint64(draws.Sum(nil)) &^ (1 << 63)
		l := uint64(1) << 63
		for k := range 512 {
			next := l - l/(1<<p.AverageBits)
			if next <= v && v < l {
				return k
			}
			l = next
		}
		return 512
	}
	for start := 0; start < len(data); {
		rest := data[start:]
		end, anchor, at := len(rest), 0, 0
		for x := p.Min; x < len(rest); x++ {
			window := rest[x-64 : x]
			if x == p.Min || x == anchor+512 || x > anchor+64 && natural(window) {
				anchor, at = x, x+offset(window)
			}
			if at == x && at < anchor+512 || x == p.Max {
				end = x
				break
			}
		}
		out = append(out, end)
		start += end
	}
	return out
}

func TestStreamCutsAreThoseOfThePage(t *testing.T) {
	for _, p := range []StreamParams{{Min: 64, AverageBits: 6, Max: 300}, {Min: 100, AverageBits: 10, Max: 5000}, {Min: 2048, AverageBits: 12, Max: 8192}} {
		for name, data := range map[string][]byte{
			"noise":   randomBytes(1, 60_000),
			"text":    bytes.Repeat([]byte("base/5/16384 8192\nbase/5/16385 0\n"), 2000),
			"runs":    bytes.Join([][]byte{make([]byte, 20_000), randomBytes(2, 500), bytes.Repeat([]byte{0xff}, 20_000)}, nil),
			"nothing": nil,
		} {
			got := lengths(cutStream(t, newStreamCutter(t, Key{7}, p), bytes.NewReader(data)))
			if want := cutByThePage(Key{7}, p, data); !slices.Equal(got, want) {
				t.Errorf("%s, %+v: cut %v, by the page %v", name, p, got, want)
			}
		}
	}
}

func FuzzStreamCutter(f *testing.F) {
	f.Add([]byte("some text"), uint16(7))
	f.Add(bytes.Repeat([]byte{0}, 5000), uint16(1))
	p := StreamParams{Min: 64, AverageBits: 6, Max: 512}
	c, err := NewStreamCutter(Key{1}, p, nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte, step uint16) {
		want := cutStream(t, c, bytes.NewReader(data))
		if !bytes.Equal(bytes.Join(want, nil), data) {
			t.Fatal("chunks are not the stream")
		}
		got := cutStream(t, c, &stepReader{b: data, n: 1 + int(step)})
		if !slices.EqualFunc(got, want, bytes.Equal) {
			t.Fatal("cuts depend on the reader")
		}
	})
}

type stepReader struct {
	b []byte
	n int
}

func (r *stepReader) Read(p []byte) (int, error) {
	if len(r.b) == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.b[:min(r.n, len(r.b))])
	r.b = r.b[n:]
	return n, nil
}
