package model

import (
	"context"
	"errors"
	"time"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/repo"
)

func pruneOptions(host string, now func() time.Time) repo.PruneOptions {
	return repo.PruneOptions{Host: host, Now: now, FenceAfter: day, MaxRepack: 1 << 30, MaxDelete: 1, Mark: mark, WAL: walNeed}
}

// prune is a job: a run, and where it is blocked, another.
func (w *world) prune(ctx context.Context, p *process) error {
	switch {
	case p.chance(w.rebuild):
		return w.remake(ctx, p)
	case p.chance(w.repair):
		return w.giveUp(ctx, p)
	}
	o := pruneOptions(p.actor.name, p.now)
	o.MaxRepack = []int64{o.MaxRepack, 0, repo.NoLimit}[p.pick(3)]
	o.DryRun = p.chance(w.dry)
	p.dry = o.DryRun
	var err error
	for range tries {
		var report *repo.PruneReport
		report, err = w.repo.Prune(ctx, o)
		if err == nil && !o.DryRun {
			w.oracle.pruned(p.actor.name, report)
		}
		if err == nil {
			return nil
		}
		var vanished *repo.VanishedError
		if errors.As(err, &vanished) {
			w.oracle.violated("%s misses snapshots that nobody took away: %v", p.actor.name, err)
		}
		if errors.Is(err, repo.ErrOvertaken) {
			w.oracle.note(func() { w.oracle.tally.Overtaken++ })
		}
		var blocked *repo.BlockedError
		if !errors.As(err, &blocked) {
			break
		}
		w.note(p.actor.name, err.Error())
		w.oracle.note(func() { w.oracle.tally.Blocked++ })
	}
	return err
}

// mark is the Marker of the model's snapshots.
func mark(ctx context.Context, v *repo.View, snapshots []repo.Commit, live func(chunk.ID)) error {
	var losses []error
	for _, s := range snapshots {
		ids, err := needs(ctx, v, s)
		if errors.Is(err, repo.ErrMissing) || errors.Is(err, repo.ErrDamaged) {
			losses = append(losses, err)
		} else if err != nil {
			return err
		}
		for _, id := range ids {
			live(id)
		}
	}
	if losses != nil {
		return &repo.LossError{Losses: losses}
	}
	return nil
}

// needs gives every chunk of a snapshot, its listing first; with an error, those that are known all the same.
func needs(ctx context.Context, v *repo.View, s repo.Commit) ([]chunk.ID, error) {
	listing, err := parseManifest(s.Manifest)
	if err != nil {
		return nil, err
	}
	text, err := v.MetaChunk(ctx, listing)
	if err != nil {
		return []chunk.ID{listing}, err
	}
	ids, err := parseListing(text)
	return append([]chunk.ID{listing}, ids...), err
}
