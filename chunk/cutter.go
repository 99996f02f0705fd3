package chunk

import (
	"errors"
	"fmt"

	"github.com/restic/chunker"
	"github.com/zeebo/blake3"
)

// ErrParams is wrapped by the error for cutting parameters that cannot work.
var ErrParams = errors.New("invalid cutting parameters")

// rollingWindow is how many bytes behind a place say whether it is one to cut
// at. It is restic/chunker's window: with a smaller minimum its counter of
// bytes to skip wraps around and it never cuts.
const rollingWindow = 64

// maxStreamChunk bounds Max of StreamParams. It is pack's bound of a chunk.
const maxStreamChunk = 64 << 20

// PageParams are the parameters of a PageCutter. All lengths are bytes of
// the sequence of page digests, DigestSize per page.
type PageParams struct {
	Min         int `json:"min"`          // no cut before so many bytes
	AverageBits int `json:"average_bits"` // the mean is about Min + 2^AverageBits
	Max         int `json:"max"`          // a cut at the latest here
}

// DefaultPageParams cut at least 32, in the mean 64, at most 128 pages. Nothing depends on short chunks, since a file can use any
// part of one; and measured on 2.5 GB of tables and indexes, 64 pages take 3 % less than 16 at the same speed of compression, and
// changed pages gathered from places far apart 6 % less.
func DefaultPageParams() PageParams {
	return PageParams{Min: 32 * DigestSize, AverageBits: 10, Max: 128 * DigestSize}
}

// Validate fails with ErrParams if no cutter can work with p.
func (p PageParams) Validate() error {
	if p.Min%DigestSize != 0 || p.Max%DigestSize != 0 {
		return fmt.Errorf("page cutter: %w: bounds %d and %d are not whole digests", ErrParams, p.Min, p.Max)
	}
	return validate("page cutter", p.Min, p.AverageBits, p.Max, 1<<20)
}

// MaxPages is the largest number of pages in a chunk.
func (p PageParams) MaxPages() int { return p.Max / DigestSize }

// StreamParams are the parameters of a StreamCutter, in bytes.
type StreamParams struct {
	Min         int `json:"min"`
	AverageBits int `json:"average_bits"` // the mean is about Min + 2^AverageBits
	Max         int `json:"max"`
}

// DefaultStreamParams are for the contents of files that are not pages.
func DefaultStreamParams() StreamParams {
	return StreamParams{Min: 256 << 10, AverageBits: 19, Max: 4 << 20}
}

// ListingParams are for sorted directory listings, where one changed entry
// should cost one small chunk.
func ListingParams() StreamParams {
	return StreamParams{Min: 2 << 10, AverageBits: 12, Max: 32 << 10}
}

// Validate fails with ErrParams if no cutter can work with p.
func (p StreamParams) Validate() error {
	return validate("stream cutter", p.Min, p.AverageBits, p.Max, maxStreamChunk)
}

func validate(what string, low, bits, high, limit int) error {
	if low < rollingWindow || high < low || high > limit {
		return fmt.Errorf("%s: %w: bounds %d and %d, want %d <= min <= max <= %d",
			what, ErrParams, low, high, rollingWindow, limit)
	}
	if bits < 1 || bits > 26 {
		return fmt.Errorf("%s: %w: %d average bits, want 1 to 26", what, ErrParams, bits)
	}
	return nil
}

// newBase makes restic's cutter with a polynomial that only owners of the key
// know. That secret is worth little: some hundred places at which known bytes
// were cut give it away (attack_test.go). So it must only ever read what is
// secret itself, as keyed digests are.
func newBase(k Key, context string, low, bits, high int) (*chunker.BaseChunker, error) {
	h := blake3.NewDeriveKey(context)
	_, _ = h.Write(k[:])
	pol, err := chunker.DerivePolynomial(h.Digest())
	if err != nil {
		return nil, fmt.Errorf("derive cutting polynomial: %w", err)
	}
	return chunker.NewBase(pol,
		chunker.WithBaseBoundaries(uint(low), uint(high)),
		chunker.WithBaseAverageBits(bits)), nil
}

// PageCutter divides a sequence of page digests into runs of pages, each of
// which becomes a chunk. Where it cuts depends only on the digests since the
// last cut, so equal sequences of pages are cut equally in whatever files
// they stand. Not safe for concurrent use. No method allocates.
type PageCutter struct {
	base  chunker.BaseChunker
	fresh chunker.BaseChunker // base before its first byte: its own Reset forgets the options
	seen  int                 // pages of the open run that base has read
}

// NewPageCutter makes a cutter for the repository whose secret is k. Making
// one costs far more than using it: keep it and Reset it.
func NewPageCutter(k Key, p PageParams) (*PageCutter, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	base, err := newBase(k, contextPagePoly, p.Min, p.AverageBits, p.Max)
	if err != nil {
		return nil, fmt.Errorf("page cutter: %w", err)
	}
	return &PageCutter{base: *base, fresh: *base}, nil
}

// Next says how many pages from the start of d form the next chunk, or 0 if
// more digests are needed to know.
//
// d starts at the last cut (or at the start of the run): after a positive n
// the caller goes on with d[n:]; after 0 it calls again with the same digests
// and more behind them, or ends the run with Flush. Digests that were seen
// are not read again. How the caller slices its input changes no cut.
//
// It panics if d has fewer digests than Next has already seen since the last
// cut: the caller has lost part of a run.
func (c *PageCutter) Next(d []Digest) int {
	if len(d) < c.seen {
		panic(fmt.Sprintf("chunk: page cutter was given %d digests after %d", len(d), c.seen))
	}
	for i := c.seen; i < len(d); i++ {
		// The cut is inside page i: it is moved behind it. The rest of the
		// digest is not read, the next chunk starts with a clean window.
		if c.base.NextSplitPoint(d[i][:]) >= 0 {
			c.seen = 0
			return i + 1
		}
	}
	c.seen = len(d)
	return 0
}

// Flush ends the run: it says how many pages Next has seen since the last
// cut, which form the last chunk (0: there is none), and starts anew. Call it
// at the end of a file and before pages that belong to no chunk (zero pages,
// or unchanged ones when only changed pages are gathered and the run should
// not go on behind them).
func (c *PageCutter) Flush() int {
	n := c.seen
	c.Reset()
	return n
}

// Reset forgets the open run.
func (c *PageCutter) Reset() {
	c.base = c.fresh
	c.seen = 0
}
