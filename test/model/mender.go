package model

import (
	"context"
	"errors"

	"github.com/pgtrove/pgtrove/repo"
)

// remake is a job: the index is made anew, though nothing is wrong with it.
func (w *world) remake(ctx context.Context, p *process) error {
	o := repo.RebuildOptions{Host: p.actor.name, Now: p.now, FenceAfter: day, DryRun: p.chance(w.dry)}
	p.dry = o.DryRun
	report, err := w.repo.Rebuild(ctx, o)
	var vanished *repo.VanishedError
	switch {
	case errors.As(err, &vanished):
		w.oracle.violated("%s misses snapshots that nobody took away: %v", p.actor.name, err)
	case err != nil:
		return err
	case len(report.Unreadable) > 0 && !report.Stopped:
		w.oracle.violated("%s finds a pack damaged: %v", p.actor.name, report.Unreadable[0].Err)
	case !o.DryRun:
		w.oracle.note(func() { w.oracle.tally.Rebuilt++ })
	}
	return err
}

// giveUp is a job: a pack is called damaged, though it is sound, so that everything in it is copied and prunes remove it.
func (w *world) giveUp(ctx context.Context, p *process) (err error) {
	var packs []string
	if err := w.repo.List(ctx, "packs/", func(key string, _ int64) error {
		packs = append(packs, key)
		return nil
	}); err != nil || len(packs) == 0 {
		return err
	}
	v, err := w.repo.OpenView(ctx, "", "")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, v.Close()) }()
	_, err = w.repo.Repair(ctx, v, repo.RepairOptions{Host: p.actor.name, Now: p.now, Packs: []string{packs[p.pick(len(packs))]}})
	if err == nil {
		w.oracle.note(func() { w.oracle.tally.Repaired++ })
	}
	return err
}
