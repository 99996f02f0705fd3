package repo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/index"
)

// stay lists a snapshot as valid.
func (p *pruner) stay(j *judged) {
	k := kept{named{j.Cluster, j.ID}, p.keptSince(j), p.isRefused(j)}
	p.run.Valid = append(p.run.Valid, k)
	if j.Err != nil && !k.Refused { // what is refused needs nothing, and stays until a person forgets it
		p.report.Damage = append(p.report.Damage, fmt.Errorf("snapshot %s of cluster %s: %w", j.ID, j.Cluster, j.Err))
	}
	p.staying = append(p.staying, j.Commit)
}

// isRefused says whether a snapshot is one that never counted. What no key has signed, or stands where an earlier run saw a snapshot that was not refused, is
// damage instead: whoever may overwrite objects could have what it needs deleted otherwise.
func (p *pruner) isRefused(j *judged) bool {
	if !j.Refused() || j.Manifest == nil {
		return false
	}
	was := slices.IndexFunc(p.last.Valid, func(k kept) bool { return k.named == named{j.Cluster, j.ID} })
	return was < 0 || p.last.Valid[was].Refused
}

// part lets go of the snapshots that somebody forgot, but of the last one that a cluster has only if it was said that this is meant: who forgets looks
// at what is left first, but two who do so at the same time each count on what the other forgets.
func (p *pruner) part() {
	if len(p.parting) == 0 {
		return
	}
	spoken := map[string]bool{} // clusters of which enough is left, or need not be
	for _, c := range p.staying {
		spoken[c.Cluster] = spoken[c.Cluster] || c.Err == nil
	}
	for _, j := range p.parting {
		spoken[j.Cluster] = spoken[j.Cluster] || p.marks.last[j.ID]
	}
	last := map[string]*judged{}
	for _, j := range p.parting {
		if was := last[j.Cluster]; !spoken[j.Cluster] && j.Err == nil && (was == nil || j.ID > was.ID) {
			last[j.Cluster] = j
		}
	}
	p.parting = slices.DeleteFunc(p.parting, func(j *judged) bool {
		if last[j.Cluster] != j {
			return false
		}
		p.stay(j)
		p.lasting = append(p.lasting, j)
		p.report.Last = append(p.report.Last, j.Commit)
		return true
	})
	p.leave()
}

// giveWay lets go of the last snapshot of a cluster which lacks something, where the cluster has one after all, forgotten like it, that does not.
func (p *pruner) giveWay(sound map[string]bool) {
	p.lasting = slices.DeleteFunc(p.lasting, func(j *judged) bool {
		if sound[j.key] || !slices.ContainsFunc(p.parting, func(other *judged) bool { return other.Cluster == j.Cluster && sound[other.key] }) {
			return false
		}
		is := func(c Commit) bool { return c.Cluster == j.Cluster && c.ID == j.ID }
		p.run.Valid = slices.DeleteFunc(p.run.Valid, func(k kept) bool { return k.key() == j.key })
		p.staying, p.report.Last = slices.DeleteFunc(p.staying, is), slices.DeleteFunc(p.report.Last, is)
		p.parting = append(p.parting, j)
		return true
	})
}

// leave lists what is parting as expired.
func (p *pruner) leave() {
	p.run.Expired, p.leaving, p.report.Expired = []named{}, nil, nil
	for _, j := range p.parting {
		p.run.Expired = append(p.run.Expired, named{j.Cluster, j.ID})
		p.leaving = append(p.leaving, j.Commit)
		p.report.Expired = append(p.report.Expired, j.Commit)
	}
}

// holdBack removes no sound snapshot from a repository in which something is damaged that stays: it may be all that is left to restore. What was to
// expire stays valid, and what an earlier run has expired stays where a pin finds it. Snapshots that lack something themselves expire, or damage would
// never end. Each is looked at by itself: that takes long, but is rare.
func (p *pruner) holdBack(ctx context.Context) error {
	if len(p.report.Damage) == 0 || p.o.Assume != nil {
		return nil
	}
	sound, err := p.soundLeaving(ctx)
	if err != nil {
		return err
	}
	p.giveWay(sound)
	p.parting = slices.DeleteFunc(p.parting, func(j *judged) bool {
		if !sound[j.key] {
			return false
		}
		p.stay(j)
		p.report.Held = append(p.report.Held, j.Commit)
		return true
	})
	p.leave()
	p.run.Expired = append(p.run.Expired, p.parted...)
	p.void = slices.DeleteFunc(p.void, func(key string) bool {
		return slices.ContainsFunc(p.parted, func(n named) bool { return n.key() == key })
	})
	slices.SortFunc(p.run.Valid, func(a, b kept) int { return strings.Compare(a.key(), b.key()) })
	p.run.index()
	p.report.Valid = len(p.run.Valid)
	p.spare()
	return p.timesAgree()
}

// soundLeaving gives the keys of those snapshots that are to leave and lack nothing.
func (p *pruner) soundLeaving(ctx context.Context) (map[string]bool, error) {
	sound := map[string]bool{}
	if len(p.parting) == 0 {
		return sound, nil
	}
	for _, part := range p.parts {
		if err := p.soundOf(ctx, part, sound); err != nil {
			return nil, err
		}
	}
	return sound, nil
}

// soundOf finds out which of them are so in one trust group.
func (p *pruner) soundOf(ctx context.Context, m *part, sound map[string]bool) error {
	placed := index.NewSet(m.chunks)
	if err := m.view.cache.Survey(m.view.counts, func(id chunk.ID, places []index.Place) error {
		if k, _ := m.choose(places); k != nil && !k.lost {
			placed.Add(id)
		}
		return nil
	}); err != nil {
		return err
	}
	for _, j := range slices.Concat(p.parting, p.lasting) {
		if j.Err != nil || j.Group != m.group {
			continue
		}
		whole := true
		err := p.o.Mark(ctx, m.view, []Commit{j.Commit}, func(id chunk.ID) { whole = whole && placed.Has(id) })
		if err != nil && !errors.As(err, new(*LossError)) {
			return fmt.Errorf("mark what leaves: %w", err)
		}
		sound[j.key] = whole && err == nil
	}
	return nil
}
