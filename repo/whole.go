package repo

import (
	"context"
	"errors"
	"fmt"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/index"
	"github.com/pgtrove/pgtrove/storage"
)

// Whole says of each of the snapshots whether all that it needs stands in packs that are there and were not given up, as a prune looks at them: it reads
// metadata, and no pack's own word. The first pass looks at all of them together, which finds nothing missing as a rule; only if it does they are looked
// at one by one. A part of the index that cannot be read is an *IndexError, since then nobody knows. cacheDir is as for OpenView.
func (r *Repo) Whole(ctx context.Context, cacheDir string, snapshots []Commit, mark Marker) ([]bool, error) {
	for {
		whole, run, err := r.wholeBy(ctx, cacheDir, snapshots, mark)
		if err != nil {
			return nil, err
		}
		newest, err := r.newestNumber(ctx)
		if err != nil {
			return nil, err
		}
		if newest == run { // else a prune may have moved what was missed
			return whole, nil
		}
	}
}

// wholeBy is Whole by the index of one run, which it returns.
func (r *Repo) wholeBy(ctx context.Context, cacheDir string, snapshots []Commit, mark Marker) (whole []bool, run uint64, err error) {
	v, l, err := r.openView(ctx, cacheDir, pruneCluster, forReading)
	if err != nil {
		return nil, 0, err
	}
	defer func() { err = errors.Join(err, v.Close()) }()
	if err := v.unreadableIndex(); err != nil {
		return nil, 0, err
	}
	groups, err := r.groups()
	if err != nil {
		return nil, 0, err
	}
	whole = make([]bool, len(snapshots))
	for _, g := range groups {
		if err := v.in(g.name).whole(ctx, g.name, snapshots, whole, mark); err != nil {
			return nil, 0, err
		}
	}
	return whole, l.run.Number, nil
}

// whole finds it out for the snapshots of one trust group.
func (v *View) whole(ctx context.Context, group string, snapshots []Commit, whole []bool, mark Marker) error {
	var readable []Commit
	for i, c := range snapshots {
		if c.Err == nil && c.Group == group {
			whole[i] = true
			readable = append(readable, c)
		}
	}
	placed, err := v.placed(ctx)
	if err != nil {
		return err
	}
	lacks := func(some []Commit) (bool, error) {
		missing := false
		err := mark(ctx, v, some, func(id chunk.ID) { missing = missing || !placed.Has(id) })
		if err != nil && !errors.As(err, new(*LossError)) {
			return false, fmt.Errorf("find out what is needed: %w", err)
		}
		return missing || err != nil, nil
	}
	any, err := lacks(readable)
	for i, c := range snapshots {
		if err == nil && any && whole[i] && c.Group == group {
			var lost bool
			lost, err = lacks([]Commit{c})
			whole[i] = !lost
		}
	}
	return err
}

// placed gives the chunks that stand in a pack that is there and was not given up.
func (v *View) placed(ctx context.Context) (*index.Set, error) {
	sizes := map[string]int64{}
	if err := v.repo.store.List(ctx, packsPrefix, func(i storage.Info) error { sizes[i.Key] = i.Size; return nil }); err != nil {
		return nil, fmt.Errorf("list packs: %w", err)
	}
	sound, chunks := map[uint32]bool{}, 0
	if err := v.cache.Packs(v.counts, func(h index.Held) error {
		size, there := sizes[h.Key]
		sound[h.Number] = there && size == h.Size && !v.isExcepted(h.Key)
		chunks += h.Chunks
		return nil
	}); err != nil {
		return nil, err
	}
	placed := index.NewSet(chunks)
	return placed, v.cache.Survey(v.counts, func(id chunk.ID, places []index.Place) error {
		for _, p := range places {
			if sound[p.Pack] {
				placed.Add(id)
				break
			}
		}
		return nil
	})
}
