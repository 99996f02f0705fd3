package snapshot

import (
	"context"
	"fmt"
	"iter"

	"github.com/pgtrove/pgtrove/chunk"
)

// Assemble stores the listing of a snapshot whose chunks are in the repository already, and its recipes: an entry's recipe is given as
// Inline, however long it is. Entries come in ascending order of their paths, else ErrInvalid. It reads no file, so it is for who makes up
// snapshots, to measure; backups use Take.
func Assemble(ctx context.Context, w MetaWriter, key chunk.Key, entries iter.Seq[Entry]) (Root, error) {
	var encoded [][]byte
	last := ""
	for e := range entries {
		if err := e.validate(); err != nil {
			return Root{}, err
		}
		if e.Path <= last {
			return Root{}, fmt.Errorf("%w: listing entry %q after %q", ErrInvalid, e.Path, last)
		}
		last = e.Path
		if len(e.Recipe.Chunks) == 0 {
			ref, err := storeRecipe(ctx, w, e.Recipe.Inline)
			if err != nil {
				return Root{}, err
			}
			e.Recipe = ref
		}
		encoded = append(encoded, appendEntry(nil, &e))
	}
	return writeTree(ctx, w, key, encoded)
}
