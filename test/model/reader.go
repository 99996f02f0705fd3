package model

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/repo"
)

// loads is how often a restore loads the index anew after a missing pack: oftener than there can be prunes.
const loads = 20

// restore is a job: one of the snapshots, bit by bit.
func (w *world) restore(ctx context.Context, p *process) error {
	var all []repo.Commit
	if err := p.w.repo.Commits(ctx, "", func(c repo.Commit) error {
		all = append(all, c)
		return nil
	}); err != nil || len(all) == 0 {
		return err
	}
	s := all[p.pick(len(all))]
	w.note(p.actor.name, "restores "+s.ID)
	err := w.readAll(ctx, s)
	if err == nil {
		w.oracle.note(func() { w.oracle.tally.Restored++ })
	}
	if err != nil && !errors.Is(err, errFault) && !p.dead.Load() && w.oracle.mustRead(s.ID) {
		w.oracle.violated("snapshot %s cannot be restored: %v", s.ID, err)
	}
	return err
}

// readAll restores a snapshot through a view of the index, which it loads anew where a pack is missing.
func (w *world) readAll(ctx context.Context, s repo.Commit) (err error) {
	v, err := w.repo.OpenView(ctx, "", s.Cluster)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, v.Close()) }()
	for range loads {
		if err = w.readOnce(ctx, v, s); !errors.Is(err, repo.ErrMissing) {
			return err
		}
		if err := v.Reload(ctx); err != nil {
			return err
		}
	}
	return err
}

func (w *world) readOnce(ctx context.Context, v *repo.View, s repo.Commit) error {
	ids, err := needs(ctx, v, s)
	if err != nil {
		return err
	}
	for _, id := range ids[1:] {
		if err := w.readChunk(ctx, v, id); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) readChunk(ctx context.Context, v *repo.View, id chunk.ID) error {
	loc, err := v.Locate(id)
	if err != nil {
		return err
	}
	sealed, err := v.ReadPack(ctx, loc.Pack, int64(loc.Offset), int64(loc.Sealed), nil)
	if err != nil {
		return err
	}
	b, err := v.OpenChunk(nil, loc, sealed)
	if err != nil {
		return err
	}
	if i := w.image.piece(id); i < 0 || !bytes.Equal(b, w.image.pieces[i]) {
		return fmt.Errorf("chunk %s is not what was backed up", id.Short())
	}
	return nil
}
