package main

import (
	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/snapshot"
	"github.com/pgtrove/pgtrove/walarchive"
)

// live are the newest timelines of the archives that seem to be in use: that of the newest snapshot, and that of the last commit.
func (p *clusterPlan) live() map[archiveKey]pg.Timeline {
	var newest string // snapshot's ID
	for id := range p.manifests {
		if before, ok := p.ages[newest]; !ok || p.ages[id].Since.After(before.Since) {
			newest = id
		}
	}
	var last systemWindow
	for _, w := range p.before {
		if w.ToTime.After(last.ToTime) {
			last = w
		}
	}
	live := map[archiveKey]pg.Timeline{}
	for id, m := range p.manifests {
		if k := archiveOf(m); id == newest || k.system.String() == last.system {
			for _, tli := range append(p.archives[k].Timelines(), m.Window.StopTimeline) {
				live[k] = max(live[k], tli)
			}
		}
	}
	return live
}

// passBroken takes the WAL of snapshots that need a segment which turned out to be damaged for missing.
func (p *clusterPlan) passBroken() {
	for id, m := range p.manifests {
		archive := p.archives[archiveOf(m)]
		if len(archive.headers.broken) == 0 {
			continue
		}
		for _, s := range archive.PathTo(m.Window.StopTimeline).Segments(m.Window.StartLSN, m.Window.StopLSN) {
			if archive.headers.broken[s.Name(archive.SegmentSize)] != nil {
				p.states[id] = snapshot.WALMissing
			}
		}
	}
}

// leads names the live timeline that recovery from the snapshot comes to, if that has no good snapshot itself. Where its history cannot be read each
// snapshot may be the one, so each gets a name for itself.
func (p *clusterPlan) leads(m *snapshot.Manifest, live map[archiveKey]pg.Timeline) string {
	k := archiveOf(m)
	tli, ok := live[k]
	if !ok {
		return ""
	}
	for id, other := range p.manifests {
		if archiveOf(other) == k && other.Window.StopTimeline == tli && p.good(id) {
			return ""
		}
	}
	if _, known := p.archives[k].History(tli); !known {
		return m.ID
	}
	if _, ok := p.archives[k].KeptRun(p.walSnapshot(m), tli, p.walSnapshots(k)); !ok {
		return ""
	}
	return k.system.String()
}

// walSnapshot is what walarchive needs to know of a snapshot of the plan, as it is now.
func (p *clusterPlan) walSnapshot(m *snapshot.Manifest) walarchive.Snapshot {
	s := walSnapshot(m)
	s.Narrow = p.commits[m.ID].Narrowed
	return s
}

func (p *clusterPlan) walSnapshots(k archiveKey) (all []walarchive.Snapshot) {
	for _, m := range p.manifests {
		if archiveOf(m) == k {
			all = append(all, p.walSnapshot(m))
		}
	}
	return all
}

// lostLive is the last window of a live timeline if the plan takes away what it ends with, otherwise nil.
func (p *clusterPlan) lostLive(live map[archiveKey]pg.Timeline) *systemWindow {
	for k, tli := range live {
		last := func(windows []systemWindow) (last *systemWindow) {
			for i, w := range windows {
				if w.system == k.system.String() && w.Timeline == tli && (last == nil || w.ToLSN > last.ToLSN) {
					last = &windows[i]
				}
			}
			return last
		}
		before, after := last(p.before), last(p.after)
		if before != nil && (after == nil || after.ToLSN < before.ToLSN) {
			return before
		}
	}
	return nil
}

// stretches are the windows of now, with the snapshots that lead into each.
func (p *clusterPlan) stretches() (all []snapshot.Stretch) {
	snapshots := map[archiveKey][]walarchive.Snapshot{}
	for k := range p.archives {
		snapshots[k] = p.walSnapshots(k)
	}
	for _, w := range p.before {
		stretch := snapshot.Stretch{Until: w.ToTime}
		for id, m := range p.manifests {
			k := archiveOf(m)
			if k.system.String() != w.system || p.commits[id].Narrowed && m.Window.StopTimeline == w.Timeline {
				continue
			}
			if run, ok := p.archives[k].KeptRun(p.walSnapshot(m), w.Timeline, snapshots[k]); ok && run.End == w.Run.End {
				stretch.From = append(stretch.From, id)
				if t := p.ages[id].Since; t.After(stretch.Until) && !p.commits[id].Narrowed { // the last commit may lie far back
					stretch.Until = t
				}
			}
		}
		all = append(all, stretch)
	}
	return all
}
