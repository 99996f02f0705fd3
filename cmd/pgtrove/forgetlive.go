package main

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/snapshot"
	"github.com/pgtrove/pgtrove/walarchive"
)

// settling is for how long a timeline counts as in use after the last sign of it, if a newer snapshot stands elsewhere: a server that writes little
// archives seldom, and a standby that did not follow to a new timeline may be what is backed up.
const settling = 24 * time.Hour

// liveTimeline is a timeline of an archive that may be in use.
type liveTimeline struct {
	archiveKey
	timeline pg.Timeline
}

// findLive finds the timelines that may be in use: all but those of which the last sign lies before the newest good snapshot. Numbers do not tell, since a
// restore that somebody tried has a higher one than production. Nor do commit times: who has just been promoted has none, and servers' clocks differ. So a sign is that something
// was stored, a snapshot or WAL. One that lies ahead shows nothing to be left.
func (p *clusterPlan) findLive(ctx context.Context, r *repo.Repo, now time.Time) error {
	var newest time.Time
	for id := range p.manifests {
		if since := p.ages[id].Since; p.good(id) && !since.After(now) && since.After(newest) {
			newest = since
		}
	}
	for k, archive := range p.archives {
		signs := map[pg.Timeline]time.Time{}
		for _, tli := range archive.Timelines() {
			signs[tli] = time.Time{}
		}
		for id, m := range p.manifests {
			if tli := m.Window.StopTimeline; archiveOf(m) == k && !p.ages[id].Since.Before(signs[tli]) {
				signs[tli] = p.ages[id].Since
			}
		}
		for tli, sign := range signs {
			if sign.Add(settling).Before(newest) {
				stored, err := r.StoredAt(ctx, lastKey(k.in(r), archive.Coverage, tli))
				if err != nil {
					return err
				}
				if !stored.IsZero() && stored.Add(settling).Before(newest) {
					continue
				}
			}
			p.live = append(p.live, liveTimeline{k, tli})
		}
	}
	slices.SortFunc(p.live, func(a, b liveTimeline) int {
		return cmp.Or(cmp.Compare(a.system, b.system), cmp.Compare(a.timeline, b.timeline))
	})
	return nil
}

// lastKey is the object of a timeline that is archived last: its history comes first.
func lastKey(a walarchive.Archive, c *walarchive.Coverage, tli pg.Timeline) string {
	n := walarchive.Name{Kind: walarchive.History, Timeline: tli, File: tli.HistoryName()}
	if spans := c.Spans(tli); len(spans) > 0 {
		last := pg.Segment{Timeline: tli, Number: spans[len(spans)-1].Last}
		n.Kind, n.File = walarchive.Segment, last.Name(c.SegmentSize)
	}
	return a.Key(n)
}

// passBroken takes the WAL of snapshots that need a segment which turned out to be damaged for missing. It says whether it was not missing before.
func (p *clusterPlan) passBroken() (changed bool) {
	for id, m := range p.manifests {
		archive := p.archives[archiveOf(m)]
		if len(archive.headers.broken) == 0 || p.states[id] == snapshot.WALMissing {
			continue
		}
		for _, s := range archive.PathTo(m.Window.StopTimeline).Segments(m.Window.StartLSN, m.Window.StopLSN) {
			if archive.headers.broken[s.Name(archive.SegmentSize)] != nil {
				p.states[id], changed = snapshot.WALMissing, true
			}
		}
	}
	return changed
}

// bases are the snapshots that have to stay, with all WAL behind them, for the timelines that may be in use: for each the newest good one from which recovery
// comes, through WAL that is kept on its own behalf, to where it does now. Where nothing is known of the way to a timeline each good snapshot may be the one. last,
// the newest of all, stays anyway.
func (p *clusterPlan) bases(last string, now time.Time) map[string]bool {
	bases := map[string]bool{}
	for _, l := range p.live {
		base := p.base(l, now)
		if base != "" && base != last {
			bases[base] = true
		}
		if _, known := p.archives[l.archiveKey].History(l.timeline); known || base != "" {
			continue
		}
		for id := range p.goodOnes() {
			if archiveOf(p.manifests[id]) == l.archiveKey {
				bases[id] = true
			}
		}
	}
	return bases
}

// base is the one for a timeline, "" if there is none.
func (p *clusterPlan) base(l liveTimeline, now time.Time) string {
	archive, all := p.archives[l.archiveKey], p.walSnapshots(l.archiveKey)
	end := lastWindow(p.before, l)
	for _, id := range p.newestFirst(now) {
		m := p.manifests[id]
		if archiveOf(m) != l.archiveKey || !p.good(id) {
			continue
		}
		s := p.walSnapshot(m)
		run, leads := archive.KeptRun(s, l.timeline, all)
		own, ownLeads := archive.KeptRun(s, l.timeline, []walarchive.Snapshot{s})
		switch {
		case end == nil && (leads || p.awaited(m, l)):
			return id
		case end != nil && leads && ownLeads && into(run, end.Run) && into(own, end.Run):
			return id
		}
	}
	return ""
}

// goodOnes are the IDs of all snapshots that can be restored.
func (p *clusterPlan) goodOnes() map[string]bool {
	all := map[string]bool{}
	for id := range p.manifests {
		if p.good(id) {
			all[id] = true
		}
	}
	return all
}

// awaited says whether a snapshot leads to a timeline that begins inside its last segment, of which nothing is archived yet: a server that was restored to the snapshot's
// own moment is promoted there.
func (p *clusterPlan) awaited(m *snapshot.Manifest, l liveTimeline) bool {
	archive, s := p.archives[l.archiveKey], walSnapshot(m)
	path, size := archive.PathTo(l.timeline), uint64(archive.SegmentSize)
	begin := uint64(path.Begin()) / size
	return path.Contains(s) && uint64(s.StopLSN)/size >= begin && path.RunEnd(uint64(s.StartLSN)/size) >= begin
}

// newestFirst are the IDs of all snapshots that can be read, in a policy's order.
func (p *clusterPlan) newestFirst(now time.Time) []string {
	age := func(id string) time.Time {
		if t := p.ages[id].Since; t.Before(now) {
			return t
		}
		return now
	}
	return slices.SortedFunc(maps.Keys(p.manifests), func(a, b string) int {
		return cmp.Or(age(b).Compare(age(a)), strings.Compare(b, a))
	})
}

// into says whether a run comes to the end of a window's, from inside it. It may seem to go on, past a segment that is damaged.
func into(run, window walarchive.Run) bool {
	return run.End == window.End || run.First >= window.First && run.First < window.End && run.End > window.End
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

// lastWindow is what can be recovered last of a timeline, nil if nothing can.
func lastWindow(windows []systemWindow, l liveTimeline) (last *systemWindow) {
	for i, w := range windows {
		if w.system == l.system.String() && w.Timeline == l.timeline && (last == nil || w.ToLSN > last.ToLSN) {
			last = &windows[i]
		}
	}
	return last
}

// lostLive is the last window of a timeline that may be in use if other windows do not come to its end, otherwise nil.
func (p *clusterPlan) lostLive(others []systemWindow) *systemWindow {
	for _, l := range p.live {
		before, after := lastWindow(p.before, l), lastWindow(others, l)
		if before != nil && (after == nil || after.ToLSN < before.ToLSN) {
			return before
		}
	}
	return nil
}

// stretches are the windows of now, with the snapshots that lead into each. Of a narrow one's own window reaching tells.
func (p *clusterPlan) stretches() (all []snapshot.Stretch) {
	for _, w := range p.before {
		stretch := snapshot.Stretch{Until: w.ToTime}
		for _, id := range p.leading(w) {
			if p.commits[id].Narrowed && p.manifests[id].Window.StopTimeline == w.Timeline {
				continue
			}
			stretch.From = append(stretch.From, id)
			if t := p.ages[id].Since; t.After(stretch.Until) && !p.commits[id].Narrowed { // the last commit may lie far back
				stretch.Until = t
			}
		}
		all = append(all, stretch)
	}
	return all
}

// leading are the snapshots from which recovery comes to a window's end.
func (p *clusterPlan) leading(w systemWindow) (ids []string) {
	for k, archive := range p.archives {
		if k.system.String() != w.system {
			continue
		}
		all := p.walSnapshots(k)
		for id, m := range p.manifests {
			if archiveOf(m) != k {
				continue
			}
			if run, ok := archive.KeptRun(p.walSnapshot(m), w.Timeline, all); ok && into(run, w.Run) {
				ids = append(ids, id)
			}
		}
	}
	return ids
}

// reaching are the narrow snapshots that lie before a moment, and from which alone recovery comes from there to what follows: a segment or two are
// left behind each. A window that is made longer may begin among them.
func (p *clusterPlan) reaching(from time.Time, now time.Time) map[string]bool {
	reaching := map[string]bool{}
	old := func(id string) bool {
		return p.good(id) && !p.ages[id].Since.After(from) && !p.manifests[id].Window.StopTime.After(from)
	}
	for _, w := range p.before {
		if w.ToTime.Before(from) {
			continue
		}
		leading := slices.DeleteFunc(p.leading(w), func(id string) bool { return !old(id) })
		narrow := func(id string) bool {
			return p.commits[id].Narrowed && p.manifests[id].Window.StopTimeline == w.Timeline
		}
		if len(leading) == 0 || !slices.ContainsFunc(leading, narrow) || slices.ContainsFunc(leading, func(id string) bool { return !narrow(id) }) {
			continue
		}
		for _, id := range p.newestFirst(now) {
			if slices.Contains(leading, id) {
				reaching[id] = true
				break
			}
		}
	}
	return reaching
}
