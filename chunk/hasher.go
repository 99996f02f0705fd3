package chunk

import (
	"fmt"

	"github.com/zeebo/blake3"
)

// The contexts from which BLAKE3's key derivation makes this package's keys.
// They are part of the format (docs/format.md, section 2).
const (
	contextPage      = "pgtrove v1 2026 chunk page digest"
	contextRun       = "pgtrove v1 2026 chunk run of pages ID"
	contextStream    = "pgtrove v1 2026 chunk byte stream ID"
	contextMeta      = "pgtrove v1 2026 chunk metadata ID"
	contextPagePoly  = "pgtrove v1 2026 chunk page cutter polynomial"
	contextStreamCut = "pgtrove v1 2026 chunk stream cutter draws"
	// contextAnchors is the only one without the secret: its output is a
	// table that everybody may know.
	contextAnchors = "pgtrove v1 2026 chunk stream cutter anchors"
)

// Hasher computes page digests and chunk IDs. It is not safe for concurrent
// use: each worker has its own. No method allocates.
type Hasher struct {
	page, run, stream, meta *blake3.Hasher
}

// NewHasher makes a Hasher for the repository whose secret is k.
func NewHasher(k Key) *Hasher {
	return &Hasher{
		page:   keyedHasher(k, contextPage),
		run:    keyedHasher(k, contextRun),
		stream: keyedHasher(k, contextStream),
		meta:   keyedHasher(k, contextMeta),
	}
}

func keyedHasher(k Key, context string) *blake3.Hasher {
	var sub [KeySize]byte
	blake3.DeriveKey(context, k[:], sub[:])
	h, err := blake3.NewKeyed(sub[:])
	if err != nil {
		// Only for another key length than KeySize.
		panic(fmt.Sprintf("chunk: keyed BLAKE3: %v", err))
	}
	return h
}

// PageDigest is the keyed digest of one page's bytes, of whatever size.
func (h *Hasher) PageDigest(page []byte) (d Digest) {
	h.page.Reset()
	_, _ = h.page.Write(page)
	h.page.Sum(d[:0])
	return d
}

// PageDigests appends the digests of consecutive pages of form f to dst.
// len(pages) must be a multiple of the page size; a rest is left out.
func (h *Hasher) PageDigests(dst []Digest, f Form, pages []byte) []Digest {
	size := f.PageSize()
	for size > 0 && len(pages) >= size {
		dst = append(dst, h.PageDigest(pages[:size]))
		pages = pages[size:]
	}
	return dst
}

// RunID names the chunk that is the run of the pages with these digests.
func (h *Hasher) RunID(digests []Digest) (id ID) {
	h.run.Reset()
	for i := range digests {
		_, _ = h.run.Write(digests[i][:])
	}
	h.run.Sum(id[:0])
	return id
}

// StreamID names the chunk that is these bytes of a stream.
func (h *Hasher) StreamID(b []byte) (id ID) {
	h.stream.Reset()
	_, _ = h.stream.Write(b)
	h.stream.Sum(id[:0])
	return id
}

// MetaID names the metadata chunk that is these bytes: a piece of a listing
// or a recipe. It differs from the StreamID of the same bytes, since the two
// kinds are sealed to different keys and must never stand in for each other.
func (h *Hasher) MetaID(b []byte) (id ID) {
	h.meta.Reset()
	_, _ = h.meta.Write(b)
	h.meta.Sum(id[:0])
	return id
}

// Verify says whether plain is the chunk that id names. It is false for an
// unknown form, for an empty chunk and for pages that are not whole.
func (h *Hasher) Verify(id ID, form Form, plain []byte) bool {
	if len(plain) == 0 || !form.Valid() {
		return false
	}
	if form == FormBytes {
		return h.StreamID(plain) == id
	}
	size := form.PageSize()
	if len(plain)%size != 0 {
		return false
	}
	h.run.Reset()
	for ; len(plain) > 0; plain = plain[size:] {
		d := h.PageDigest(plain[:size])
		_, _ = h.run.Write(d[:])
	}
	var got ID
	h.run.Sum(got[:0])
	return got == id
}
