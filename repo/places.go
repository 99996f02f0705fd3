package repo

import (
	"fmt"
	"slices"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/pack"
)

// Locations lists the places of a chunk, the one to be preferred last; none if no current segment names it.
func (v *View) Locations(id chunk.ID) ([]pack.Location, error) {
	all, err := v.cache.Locations(id, v.counts, v.excepted())
	if err == nil && v.hasLastResort() {
		var bad []pack.Location
		if bad, err = v.cache.Locations(id, v.counts, nil); err == nil {
			bad = slices.DeleteFunc(bad, func(l pack.Location) bool { return !v.isExcepted(l.Pack) })
			all = append(bad, all...)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("look up chunk %s: %w", id.Short(), err)
	}
	return all, nil
}

// hasLastResort says whether there are packs that who reads tries for what no other has: those that are damaged, by what somebody said or by what this
// view found, for many of their chunks may be sound. A session does not: it stores such chunks again.
func (v *View) hasLastResort() bool {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.who == forReading && len(v.lost)+len(v.damaged) > 0
}

// noPack is the error for a chunk that is in no pack.
func (v *View) noPack(id chunk.ID) error { return &noPackError{id, v.unreadableIndex()} }

// noPackError wraps ErrMissing, ErrNotIndexed, and the *IndexError if there is one.
type noPackError struct {
	id     chunk.ID
	broken error
}

func (e *noPackError) Error() string {
	text := fmt.Sprintf("%v: chunk %s is in no pack", ErrMissing, e.id.Short())
	if e.broken != nil {
		text += ", as far as the index can be read"
	}
	return text
}

func (e *noPackError) Unwrap() []error {
	all := []error{ErrMissing, ErrNotIndexed}
	if e.broken != nil {
		all = append(all, e.broken)
	}
	return all
}
