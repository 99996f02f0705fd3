package chunk

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"sort"

	"github.com/zeebo/blake3"
)

// Numbers of the format (docs/format.md, section 3.3).
const (
	// anchorGap is how many places behind an anchor are never one because
	// of the bytes before them: a run of one byte would make all places so,
	// and a draw costs as much as some hundred bytes.
	anchorGap = rollingWindow
	// anchorBits make one place in 2^anchorBits an anchor, of the others.
	anchorBits = 6
	// anchorReach is how many places an anchor decides about at most: its
	// own, and those behind it.
	anchorReach = 512
	// drawOne is the number below which draws are, certainty in survivals.
	drawOne = 1 << 63
)

// StreamCutter divides a byte stream into chunks by its content. Not safe for
// concurrent use.
//
// Where it cuts must not tell anything to those who see how long chunks are,
// even if they know the stream, or chose it. A rolling hash with a secret
// parameter does not do that: each cut is a linear equation about the secret.
// Nor does one that only proposes the places among which a keyed function
// then chooses: fewer equations a cut, but all of them still hold.
//
// So the hash that rolls here is public, and only divides the stream into
// stretches that are found again where the same bytes stand elsewhere. For
// each stretch a keyed BLAKE3 over the 64 bytes before it makes one draw:
// after how many bytes the stream is cut, distributed as if a coin were
// tossed behind each byte. A stretch that ends earlier is not cut. The next
// one draws anew, and since such tosses have no memory it cannot be seen
// from the lengths where stretches begin: for whoever does not have the key
// the lengths of chunks are those of tosses, whatever the bytes are, except
// that equal 64 bytes draw alike. Equality is what a store that finds
// duplicates cannot hide.
type StreamCutter struct {
	p     StreamParams
	table [256]uint64             // of the hash that rolls
	left  [anchorReach + 1]uint64 // left[k]/drawOne is the chance that k tosses all say to go on
	draws *blake3.Hasher

	r    io.Reader
	buf  []byte // what was read
	rest []byte // the part of buf not yet given out
	err  error  // what the reader said at the end
}

// NewStreamCutter makes a cutter for the repository whose secret is k that
// reads r. Making one costs far more than using it: keep it and Reset it.
func NewStreamCutter(k Key, p StreamParams, r io.Reader) (*StreamCutter, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	c := &StreamCutter{
		p: p, draws: keyedHasher(k, contextStreamCut), r: r,
		buf: make([]byte, min(p.Max, 128<<10)),
	}
	var raw [256 * 8]byte
	blake3.DeriveKey(contextAnchors, nil, raw[:])
	for i := range c.table {
		c.table[i] = binary.LittleEndian.Uint64(raw[8*i:])
	}
	c.left[0] = drawOne
	for i := range anchorReach {
		c.left[i+1] = c.left[i] - c.left[i]>>p.AverageBits
	}
	return c, nil
}

// Reset starts anew on r.
func (c *StreamCutter) Reset(r io.Reader) {
	c.r, c.rest, c.err = r, nil, nil
}

// Next returns the next chunk, in buf's storage where that is large enough
// (it needs Max bytes), else in a new slice; the length of buf does not
// matter. The chunk is the caller's. At the end of the stream it returns
// io.EOF; an empty stream has no chunks. Any other error of the reader is
// returned, wrapped, by this and every later call, and the chunk it
// interrupted is never returned. io.ErrUnexpectedEOF, with which readers
// report a truncated source, is such an error, not the end.
func (c *StreamCutter) Next(buf []byte) ([]byte, error) {
	out := buf[:0]
	s := scan{c: c}
	for {
		if len(c.rest) == 0 {
			if err := c.fill(); err != nil {
				if err == io.EOF && len(out) > 0 {
					return out, nil
				}
				return nil, err
			}
		}
		had := len(out)
		n := min(len(c.rest), c.p.Max-had)
		out = append(out, c.rest[:n]...)
		if end := s.find(out); end > 0 {
			c.rest = c.rest[end-had:]
			return out[:end], nil
		}
		c.rest = c.rest[n:]
	}
}

// fill reads until rest holds something. The error is kept: a reader need
// not repeat it.
func (c *StreamCutter) fill() error {
	const patience = 100 // as bufio: so many reads of nothing, without an error
	for range patience {
		if c.err != nil {
			return c.err
		}
		n, err := c.r.Read(c.buf)
		c.rest = c.buf[:n]
		switch {
		case err == io.EOF:
			c.err = io.EOF
		case err != nil:
			c.err, c.rest = fmt.Errorf("read stream to cut: %w", err), nil
		}
		if len(c.rest) > 0 {
			return nil
		}
	}
	c.err = fmt.Errorf("read stream to cut: %w", io.ErrNoProgress)
	return c.err
}

// scan looks for the end of one chunk. Places are counted in bytes from its
// beginning.
type scan struct {
	c     *StreamCutter
	at    int    // the place that was reached; 0: nothing was looked at
	hash  uint64 // of the bytes before it
	until int    // where the last anchor's word ends
	cut   bool   // that word was: cut there
	quiet int    // up to here no place is an anchor because of its bytes
}

// find says where the chunk ends of which b is what was read so far, at most
// Max bytes: 0 if more must be read to know. Between calls b only grows.
func (s *scan) find(b []byte) int {
	if len(b) < s.c.p.Min {
		return 0
	}
	if s.at == 0 {
		s.at = s.c.p.Min
		for _, x := range b[s.at-rollingWindow : s.at] {
			s.hash = s.hash<<1 + s.c.table[x]
		}
		s.anchor(b)
	}
	for {
		if s.cut && s.at == s.until {
			return s.at
		}
		natural := s.roll(b[:min(len(b), s.until)])
		switch {
		case s.at == s.c.p.Max:
			return s.at
		case natural, s.at == s.until && !s.cut:
			s.anchor(b)
		case s.at < s.until:
			return 0
		}
	}
}

// roll goes on to the next place that is an anchor by the bytes before it, at
// most to the end of b, and says whether it has found one.
func (s *scan) roll(b []byte) bool {
	const below = math.MaxUint64 >> anchorBits
	h, table := s.hash, &s.c.table
	if s.at < s.quiet {
		end := min(s.quiet, len(b))
		for _, x := range b[s.at:end] {
			h = h<<1 + table[x]
		}
		s.at = end
	}
	for i, x := range b[s.at:] {
		h = h<<1 + table[x]
		if h <= below {
			s.hash, s.at = h, s.at+i+1
			return true
		}
	}
	s.hash, s.at = h, len(b)
	return false
}

// anchor makes the draw of the anchor at s.at.
func (s *scan) anchor(b []byte) {
	var sum [DigestSize]byte
	h := s.c.draws
	h.Reset()
	_, _ = h.Write(b[s.at-rollingWindow : s.at])
	h.Sum(sum[:0])
	v := binary.LittleEndian.Uint64(sum[:]) % drawOne
	left := &s.c.left
	n := anchorReach
	s.cut = v >= left[anchorReach]
	if s.cut {
		n = sort.Search(anchorReach, func(k int) bool { return left[k+1] <= v })
	}
	s.until, s.quiet = s.at+n, s.at+anchorGap
}
