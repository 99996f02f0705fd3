package repo

import (
	"fmt"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/pack"
)

// Locations lists the places of a chunk, the newest last; none if no current segment names it, or only packs that are lost.
func (v *View) Locations(id chunk.ID) ([]pack.Location, error) {
	all, err := v.cache.Locations(id, v.counts, v.excepted())
	if err != nil {
		return nil, fmt.Errorf("look up chunk %s: %w", id.Short(), err)
	}
	return all, nil
}
