package model

import (
	"context"
	"slices"

	"github.com/pgtrove/pgtrove/repo"
)

// keep is a job of the person who forgets, pins and unpins: now one snapshot, now another, and often the one that he had in mind before.
func (w *world) keep(ctx context.Context, p *process) error {
	var all []repo.Commit
	if err := p.w.repo.AllCommits(ctx, "", func(c repo.Commit) error {
		all = append(all, c)
		return nil
	}); err != nil || len(all) == 0 {
		return err
	}
	s := all[p.pick(len(all))]
	if at := slices.IndexFunc(all, func(c repo.Commit) bool { return c.ID == w.inMind }); at >= 0 && p.chance(500) {
		s = all[at]
	}
	w.inMind = s.ID
	switch oneOf(p.actor.tape, forgets, regrets, pins, unpins, narrows) {
	case forgets:
		return w.forget(ctx, p, s.ID)
	case regrets:
		if err := w.forget(ctx, p, s.ID); err != nil {
			return err
		}
		return w.pin(ctx, p, s.ID)
	case pins:
		return w.pin(ctx, p, s.ID)
	case narrows:
		w.oracle.note(func() { w.oracle.tally.Narrowed++ })
		return w.repo.Narrow(ctx, s.ID)
	}
	w.oracle.unpinning(s.ID)
	return w.repo.Unpin(ctx, s.ID)
}

// What a keeper may do with a snapshot.
const (
	forgets = iota
	regrets // forgets it, and pins it at once
	pins
	unpins
	narrows
)

func (w *world) forget(ctx context.Context, p *process, id string) error {
	forget := w.repo.Forget
	if p.chance(700) {
		forget = w.repo.ForgetLast
	}
	err := forget(ctx, id)
	if err == nil {
		w.oracle.note(func() { w.oracle.tally.Forgotten++ })
	}
	return err
}

func (w *world) pin(ctx context.Context, p *process, id string) error {
	err := w.repo.Pin(ctx, id)
	if err == nil {
		w.note(p.actor.name, "is told that "+id+" is pinned")
		w.oracle.pinned(id)
	}
	return err
}
