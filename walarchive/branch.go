package walarchive

import (
	"context"
	"errors"

	"github.com/pgtrove/pgtrove/internal/pg"
)

// family is what is known of the timelines of an archive.
type family struct {
	size      pg.SegmentSize
	histories map[pg.Timeline]pg.History
	unsure    bool // there are timelines whose history cannot be read
	whole     bool // the histories of all timelines of which there is anything were looked for
}

// branches are the timelines that are needed as a whole, each with the start of the oldest snapshot that needs it. A server that was restored from a narrow
// snapshot is promoted where that one's WAL ends, and goes on on a timeline of its own, which nothing else leads to. So such a timeline,
// and those that lead to it, are needed until it is given over to a snapshot of its own.
func (f family) branches(snapshots []Snapshot) map[pg.Timeline]pg.LSN {
	all := map[pg.Timeline]pg.LSN{}
	for _, s := range snapshots {
		if !s.Narrow {
			continue
		}
		for _, h := range f.histories {
			if !f.leaves(h, s) || !f.unsure && givenOver(h, s, snapshots) {
				continue
			}
			for _, on := range h {
				if from, ok := all[on.Timeline]; on.Timeline > s.StopTimeline && (!ok || s.StartLSN < from) {
					all[on.Timeline] = s.StartLSN
				}
			}
		}
	}
	return all
}

// leaves says whether h goes through the snapshot and then leaves its timeline inside the WAL that is kept of a narrow one: whole segments, and
// where the last of them ends.
func (f family) leaves(h pg.History, s Snapshot) bool {
	exit, ok := h.SwitchPoint(s.StopTimeline)
	return ok && s.StopLSN > 0 && through(h, s) && uint64(exit-1)/uint64(f.size) <= uint64(s.StopLSN-1)/uint64(f.size)
}

func through(h pg.History, s Snapshot) bool {
	return h.Contains(s.Timeline, s.StartLSN) && h.ContainsEnd(s.StopTimeline, s.StopLSN)
}

// givenOver says whether what lies on the timeline that h leads to in front of the first snapshot there is not needed any more. That is so if one there is
// narrow itself, so that somebody gave up what surrounds it; or if it is the oldest that is not narrow: of the time before it nobody wants every
// moment.
func givenOver(h pg.History, narrow Snapshot, snapshots []Snapshot) bool {
	for _, s := range snapshots {
		if s.Complete && s.StopTimeline > narrow.StopTimeline && through(h, s) && (s.Narrow || oldestWide(s, snapshots)) {
			return true
		}
	}
	return false
}

func oldestWide(s Snapshot, snapshots []Snapshot) bool {
	for _, other := range snapshots {
		if !other.Narrow && other.StopTime.Before(s.StopTime) {
			return false
		}
	}
	return true
}

// beginning is the first segment of the timeline that h leads to.
func beginning(h pg.History, size pg.SegmentSize) uint64 {
	begin, _, _ := h.Bounds(h.Timeline())
	return uint64(begin) / uint64(size)
}

// familyOf reads the histories of the timelines that servers began behind the snapshots: numbers follow each other, since PostgreSQL looks for the last one in
// the archive, too. Where none is narrow nobody asks. What stands behind a gap in the numbers complete finds.
func (j *Judge) familyOf(ctx context.Context, l lineage, c *claims) (*family, error) {
	f := &family{size: c.size, histories: map[pg.Timeline]pg.History{}}
	all := append(append([]Snapshot{}, c.stay...), c.leave...)
	narrow := false
	for _, s := range all {
		narrow = narrow || s.Narrow
	}
	if !narrow {
		return f, nil
	}
	a := Archive{Objects: j.objects, Cluster: l.cluster, System: l.system}
	asked := map[pg.Timeline]bool{}
	for _, s := range all {
		for _, tli := range []pg.Timeline{s.StopTimeline, s.StopTimeline + 1} { // and so on
			for ; tli > 1 && !asked[tli]; tli++ {
				asked[tli] = true
				h, err := a.history(ctx, tli)
				if errors.Is(err, ErrNotExist) {
					break
				}
				if unreadable(err) {
					f.unsure = true
					continue
				}
				if err != nil {
					return nil, err
				}
				f.histories[tli] = h
			}
		}
	}
	return f, nil
}

// givesOver says whether there is a branch that needs no timeline of its own any more.
func (f family) givesOver(snapshots []Snapshot) bool {
	for _, s := range snapshots {
		for _, h := range f.histories {
			if s.Narrow && f.leaves(h, s) && givenOver(h, s, snapshots) {
				return true
			}
		}
	}
	return false
}

// complete finds the timelines behind gaps in the numbers, where somebody has removed a history: before anything is given over, for a branch needs all that leads to it,
// and the keys of the branch may come last. It lists the archive once more, at most.
func (j *Judge) complete(ctx context.Context, l lineage, c *claims) error {
	f := c.family
	if f.whole || f.unsure || !f.givesOver(c.stay) && !f.givesOver(c.leave) {
		return nil
	}
	f.whole = true
	a := Archive{Objects: j.objects, Cluster: l.cluster, System: l.system}
	var keys keyReader
	there := map[pg.Timeline]bool{} // whether its history is
	if err := j.objects.List(ctx, a.prefix(), func(key string, _ int64) error {
		if p, n, ok := keys.read(key); ok {
			there[p.timeline] = there[p.timeline] || n.Kind == History
		}
		return nil
	}); err != nil {
		return err
	}
	for tli, known := range there {
		if _, read := f.histories[tli]; read {
			continue
		}
		if !known {
			f.unsure = f.unsure || tli > 1
			continue
		}
		h, err := a.history(ctx, tli)
		switch {
		case unreadable(err):
			f.unsure = true
		case err != nil:
			return err
		default:
			f.histories[tli] = h
		}
	}
	return nil
}

// unsure says whether there are timelines whose history is damaged or gone.
func (c *Coverage) unsure() bool {
	for tli := range c.timelines {
		if _, known := c.History(tli); !known {
			return true
		}
	}
	return false
}

// unreadable tells what is wrong with an object from what is wrong with the storage.
func unreadable(err error) bool {
	return errors.Is(err, ErrNotExist) || errors.Is(err, ErrDamaged) || errors.Is(err, ErrInvalid)
}
