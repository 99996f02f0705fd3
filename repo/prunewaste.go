package repo

import (
	"cmp"
	"slices"
)

const (
	// repackBelow is the share of the bytes of a pack's chunks that must be alive, or it is repacked. Its other bytes do not count: in a
	// small pack they outweigh the chunks, and would do so in the next one.
	repackBelow = 0.5

	// unlimitedWaste is how much of what is needed may be stored beside it and not be needed, by a run whose repacking is not limited. The
	// last percents cost most: to free one of them from packs that are 97 % alive, 32 times as much is copied.
	unlimitedWaste = 0.03
)

// NoLimit as PruneOptions.MaxRepack.
const NoLimit = -1

// waste is what packs hold that nobody needs, beside what somebody does.
type waste struct {
	partly      []*surveyed // packs that hold both
	alive, dead int64       // sealed bytes of all packs that may be repacked
}

func (w *waste) add(k *surveyed) {
	w.alive += k.alive
	w.dead += k.whole - k.alive
	if k.alive < k.whole {
		w.partly = append(w.partly, k)
	}
}

// chooseRepack takes the emptiest packs first: those that are mostly dead, as far as the budget goes; and without a limit as many as it
// takes for little waste to be left.
func (p *pruner) chooseRepack(w *waste) {
	share := func(k *surveyed) float64 { return float64(k.alive) / float64(k.whole) }
	slices.SortFunc(w.partly, func(a, b *surveyed) int { return cmp.Or(cmp.Compare(share(a), share(b)), cmp.Compare(a.key, b.key)) })
	limited, left := p.o.MaxRepack != NoLimit, p.o.MaxRepack
	for _, k := range w.partly {
		if share(k) >= repackBelow && (limited || float64(w.dead) <= unlimitedWaste*float64(w.alive)) {
			break
		}
		size := p.fresh[k.key]
		if limited && size > left {
			continue
		}
		left -= size
		w.dead -= k.whole - k.alive
		p.repacked[k.key] = true
		p.report.Repacked.add(size)
		p.condemn(k.key)
	}
}
