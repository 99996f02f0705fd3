package restore

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/pack"
)

// moving is a memRepo whose packs a prune moves, seen through an index that knows only what was there when it was loaded.
type moving struct {
	*memRepo
	mu      sync.Mutex
	places  map[chunk.ID][]pack.Location // what there is
	known   map[chunk.ID][]pack.Location // what the index knows
	reloads int
	down    error // returned by Reload
	reads   int
	at      int    // the number of the read before which something happens
	happen  func() // nil: nothing
}

func newMoving(m *memRepo) *moving {
	v := &moving{memRepo: m, places: map[chunk.ID][]pack.Location{}}
	for id, loc := range m.index {
		v.places[id] = []pack.Location{loc}
	}
	v.known = maps.Clone(v.places)
	return v
}

func (v *moving) Reload(context.Context) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.reloads++
	if v.down != nil {
		return v.down
	}
	v.known = maps.Clone(v.places)
	return nil
}

func (v *moving) Locations(id chunk.ID) ([]pack.Location, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.known[id], nil
}

func (v *moving) Locate(id chunk.ID) (pack.Location, error) {
	all, _ := v.Locations(id)
	if len(all) == 0 {
		return pack.Location{}, fmt.Errorf("chunk %s: %w", id.Short(), errBroken)
	}
	return all[len(all)-1], nil
}

// tick counts reads.
func (v *moving) tick() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.reads++; v.reads == v.at && v.happen != nil {
		v.happen()
	}
}

func (v *moving) ReadPack(ctx context.Context, key string, off, n int64, dst []byte) ([]byte, error) {
	v.tick()
	return v.memRepo.ReadPack(ctx, key, off, n, dst)
}

func (v *moving) MetaChunk(_ context.Context, id chunk.ID) ([]byte, error) {
	v.tick()
	all, _ := v.Locations(id)
	for _, loc := range slices.Backward(all) {
		v.memRepo.mu.Lock()
		b, ok := v.packs[loc.Pack]
		v.memRepo.mu.Unlock()
		if ok {
			return v.OpenChunk(nil, loc, b[loc.Offset:loc.End()])
		}
	}
	return nil, fmt.Errorf("chunk %s: %w", id.Short(), errBroken)
}

// repack copies the chunks of a pack into a new one, in another order.
func (v *moving) repack(key string) {
	m := v.memRepo
	m.mu.Lock()
	defer m.mu.Unlock()
	old, dir := m.packs[key], m.dirs[key]
	b := make([]byte, 8)
	moved := *dir
	moved.Entries = slices.Clone(dir.Entries)
	slices.Reverse(moved.Entries)
	for i := range moved.Entries {
		e := &moved.Entries[i]
		sealed := old[e.Offset : e.Offset+e.Sealed]
		e.Offset = uint32(len(b))
		b = append(b, sealed...)
	}
	b = append(b, make([]byte, 84)...)
	b = append(b, trailer...)
	name := fmt.Sprintf("packs/moved/%d-%x", len(m.packs), sha256.Sum256(b))
	m.packs[name], m.dirs[name] = b, &moved
	for i := range moved.Entries {
		id := moved.Entries[i].ID
		v.places[id] = append(slices.Clone(v.places[id]), moved.Location(name, i))
	}
}

// remove deletes a pack.
func (v *moving) remove(key string) {
	v.memRepo.mu.Lock()
	defer v.memRepo.mu.Unlock()
	delete(v.packs, key)
	for id, all := range v.places {
		v.places[id] = slices.DeleteFunc(slices.Clone(all), func(l pack.Location) bool { return l.Pack == key })
	}
}

// drop takes a pack away and leaves its place in the index.
func (v *moving) drop(key string) {
	v.memRepo.mu.Lock()
	defer v.memRepo.mu.Unlock()
	delete(v.packs, key)
}

// move is what two prunes do to a pack that is mostly dead.
func (v *moving) move(keys ...string) {
	for _, key := range keys {
		v.repack(key)
		v.remove(key)
	}
}

func (v *moving) keys(kinds ...pack.Kind) []string {
	v.memRepo.mu.Lock()
	defer v.memRepo.mu.Unlock()
	var keys []string
	for key, dir := range v.dirs {
		if slices.Contains(kinds, dir.Kind) && v.packs[key] != nil {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

func isBroken(err error) bool { return errors.Is(err, errBroken) }
