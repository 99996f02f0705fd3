package repo

import (
	"fmt"
	"slices"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/pack"
)

// Locations lists the places of a chunk, the one to be preferred last; none if no current segment names it, or only packs that are lost.
func (v *View) Locations(id chunk.ID) ([]pack.Location, error) {
	all, err := v.cache.Locations(id, v.counts, v.excepted())
	if last := v.lastResort(); err == nil && last != nil {
		var damaged []pack.Location
		if damaged, err = v.cache.Locations(id, v.counts, last); err == nil {
			damaged = slices.DeleteFunc(damaged, func(l pack.Location) bool { return !v.saidDamaged(l.Pack) })
			all = append(damaged, all...)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("look up chunk %s: %w", id.Short(), err)
	}
	return all, nil
}

// lastResort is excepted for what no other pack has: who reads then tries those too that are said to be damaged, for in a pack many
// chunks may be sound. Nil: there are none, or a session asks, which stores such chunks again.
func (v *View) lastResort() func(key string) bool {
	v.mu.RLock()
	defer v.mu.RUnlock()
	if len(v.damaged) == 0 || v.who == forWriting {
		return nil
	}
	return func(key string) bool {
		v.mu.RLock()
		defer v.mu.RUnlock()
		return v.barred[key] || v.lost[key]
	}
}

func (v *View) saidDamaged(key string) bool {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.damaged[key]
}

// noPack is the error for a chunk that is in no pack.
func (v *View) noPack(id chunk.ID) error {
	err := fmt.Errorf("%w: chunk %s is in no pack", ErrMissing, id.Short())
	if broken := v.unreadableIndex(); broken != nil {
		return fmt.Errorf("%w that what can be read of the index names: %w", err, broken)
	}
	return err
}
