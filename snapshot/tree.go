package snapshot

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"slices"

	"github.com/pgtrove/pgtrove/chunk"
)

// Root points to a snapshot's listing: the meta chunks whose concatenation it is. Where the listing is large (Depth
// above 0) the chunks hold a list of chunk IDs instead, and so on, Depth times: so the manifest stays small, and one
// changed entry among a million costs one chunk on each level.
type Root struct {
	Depth  int        `json:"depth"`
	Chunks []chunk.ID `json:"chunks"`
}

const (
	maxDepth     = 8
	maxRootIDs   = 64 // more chunks than this get a level of their own
	inlineRecipe = 1024
	// recipePiece cuts long recipes. Unlike listings they are cut at fixed places: a changed recipe is a patch.
	recipePiece = 512 << 10
)

func (r Root) validate() error {
	if r.Depth < 0 || r.Depth > maxDepth || len(r.Chunks) == 0 {
		return fmt.Errorf("%w: listing root of depth %d with %d chunks", ErrInvalid, r.Depth, len(r.Chunks))
	}
	return nil
}

// MetaWriter stores one piece of metadata and returns its name.
type MetaWriter interface {
	Meta(ctx context.Context, plain []byte) (chunk.ID, error)
}

// writeTree stores the encoded entries, already in order of their paths, and returns the root.
func writeTree(ctx context.Context, w MetaWriter, key chunk.Key, entries [][]byte) (Root, error) {
	ids, err := writeStream(ctx, w, key, &slicesReader{rest: entries})
	if err != nil {
		return Root{}, err
	}
	root := Root{Chunks: ids}
	for len(root.Chunks) > maxRootIDs {
		var list []byte
		for i := range root.Chunks {
			list = append(list, root.Chunks[i][:]...)
		}
		ids, err := writeStream(ctx, w, key, &slicesReader{rest: [][]byte{list}})
		if err != nil {
			return Root{}, err
		}
		root = Root{Depth: root.Depth + 1, Chunks: ids}
	}
	return root, nil
}

func writeStream(ctx context.Context, w MetaWriter, key chunk.Key, r io.Reader) ([]chunk.ID, error) {
	cut, err := chunk.NewStreamCutter(key, chunk.ListingParams(), r)
	if err != nil {
		return nil, fmt.Errorf("cut listing: %w", err)
	}
	var ids []chunk.ID
	var buf []byte
	for {
		piece, err := cut.Next(buf)
		if err == io.EOF {
			return ids, nil
		}
		if err != nil {
			return nil, fmt.Errorf("cut listing: %w", err)
		}
		id, err := w.Meta(ctx, piece)
		if err != nil {
			return nil, fmt.Errorf("store listing: %w", err)
		}
		ids, buf = append(ids, id), piece
	}
}

// slicesReader reads a row of slices as one stream.
type slicesReader struct {
	rest [][]byte
	at   int
}

func (r *slicesReader) Read(p []byte) (int, error) {
	n := 0
	for n < len(p) && len(r.rest) > 0 {
		c := copy(p[n:], r.rest[0][r.at:])
		n, r.at = n+c, r.at+c
		if r.at == len(r.rest[0]) {
			r.rest, r.at = r.rest[1:], 0
		}
	}
	if n == 0 && len(p) > 0 {
		return 0, io.EOF
	}
	return n, nil
}

// storeRecipe keeps a short recipe inside its entry and stores a long one as meta chunks.
func storeRecipe(ctx context.Context, w MetaWriter, recipe []byte) (RecipeRef, error) {
	if len(recipe) <= inlineRecipe {
		return RecipeRef{Inline: recipe}, nil
	}
	var ref RecipeRef
	for piece := range slices.Chunk(recipe, recipePiece) {
		id, err := w.Meta(ctx, piece)
		if err != nil {
			return RecipeRef{}, fmt.Errorf("store recipe: %w", err)
		}
		ref.Chunks = append(ref.Chunks, id)
	}
	return ref, nil
}

// Expand calls each with every meta chunk that the listing consists of, upper levels first, and returns those of the
// listing itself in order. It is for those who mark what a snapshot uses.
func (r Root) Expand(ctx context.Context, f Fetcher, each func(chunk.ID) error) ([]chunk.ID, error) {
	level := r.Chunks
	for depth := r.Depth; ; depth-- {
		for _, id := range level {
			if err := each(id); err != nil {
				return nil, err
			}
		}
		if depth == 0 {
			return level, nil
		}
		var list []byte
		for _, id := range level {
			b, err := f.MetaChunk(ctx, id)
			if err != nil {
				return nil, fmt.Errorf("read listing: %w", err)
			}
			list = append(list, b...)
		}
		if len(list) == 0 || len(list)%len(chunk.ID{}) != 0 {
			return nil, fmt.Errorf("%w: list of listing chunks has %d bytes", ErrInvalid, len(list))
		}
		level = nil
		for b := range slices.Chunk(list, len(chunk.ID{})) {
			level = append(level, chunk.ID(b))
		}
	}
}

// Walk calls visit with every entry of the listing in order of path. The entry is the callee's to keep. Directories
// come before what is in them.
func (r Root) Walk(ctx context.Context, f Fetcher, visit func(*Entry) error) error {
	if err := r.validate(); err != nil {
		return err
	}
	level, err := r.Expand(ctx, f, func(chunk.ID) error { return nil })
	if err != nil {
		return err
	}
	var rest []byte
	last := ""
	for _, id := range level {
		b, err := f.MetaChunk(ctx, id)
		if err != nil {
			return fmt.Errorf("read listing: %w", err)
		}
		rest = append(rest, b...)
		for {
			n, w := binary.Uvarint(rest)
			if w < 0 || n > maxEntry {
				return fmt.Errorf("%w: listing entry of %d bytes", ErrInvalid, n)
			}
			if w == 0 || uint64(len(rest)-w) < n {
				break // continues in the next chunk
			}
			e, err := parseEntry(rest[w : w+int(n)])
			if err != nil {
				return err
			}
			if e.Path <= last {
				return fmt.Errorf("%w: listing entry %q after %q", ErrInvalid, e.Path, last)
			}
			last, rest = e.Path, rest[w+int(n):]
			if err := visit(&e); err != nil {
				return err
			}
		}
	}
	if len(rest) != 0 {
		return fmt.Errorf("%w: listing ends inside an entry", ErrInvalid)
	}
	return nil
}
