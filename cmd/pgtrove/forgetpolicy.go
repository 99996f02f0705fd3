package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/snapshot"
	"github.com/pgtrove/pgtrove/walarchive"
)

// forgetPlan is what rules make of the snapshots of some clusters.
type forgetPlan struct {
	clusters []*clusterPlan
	space    spaceGain
}

// clusterPlan is what they make of one.
type clusterPlan struct {
	cluster   string
	commits   map[string]repo.Commit        // by ID, as the others
	manifests map[string]*snapshot.Manifest // of those that can be read
	states    map[string]snapshot.WALState  // likewise
	ages      map[string]repo.Retained      //
	lacking   map[string]bool               // that lack something which is gone or damaged
	verdicts  []snapshot.Verdict            // the oldest first
	before    []systemWindow                // what can be recovered now
	after     []systemWindow                // and what when the plan was carried out
	live      []liveTimeline                // that may be in use
	promised  interval                      // by --pitr-window; else zero
	archives  map[archiveKey]*plannedArchive
}

type systemWindow struct {
	system string
	walarchive.Window
}

// plannedArchive is a system's WAL, which is scanned once.
type plannedArchive struct {
	*walarchive.Coverage
	headers *seenHeaders
}

// interval of time; the end is part of it.
type interval struct{ from, to time.Time }

// forgetByPolicy shows what the rules make of the snapshots, and then does it. What cannot be read is returned as damage; it keeps nothing from being
// done.
func (a *app) forgetByPolicy(ctx context.Context, r *repo.Repo, now time.Time, o forgetOptions) (damage, err error) {
	cluster := a.settings.clusterName()
	if o.allClusters {
		cluster = ""
	}
	c, err := loadCatalog(ctx, r, cluster)
	if err != nil {
		return nil, err
	}
	plan, err := a.planForget(ctx, r, c, now, o)
	if err != nil {
		return nil, err
	}
	for _, p := range plan.clusters {
		for _, archive := range p.archives {
			a.tellDoubts(archive.Coverage, archive.headers)
		}
	}
	if len(plan.clusters) == 0 {
		a.out.info("no snapshots%s yet", ofCluster(cluster))
	}
	if a.settings.JSON || !a.settings.Quiet { // it takes as long as a prune
		if plan.space, err = a.gain(ctx, r, plan, o); err != nil {
			return nil, err
		}
	}
	if err := a.showPlan(plan, o.dryRun); err != nil {
		return nil, err
	}
	a.warnRefused(c)
	if !o.dryRun {
		if err := a.carryOut(ctx, r, plan); err != nil {
			return nil, err
		}
	}
	return errors.Join(c.damage(a), plan.damage()), nil
}

// damage says which snapshots lack something: the rules took none of these for a good one.
func (plan *forgetPlan) damage() error {
	var which []string
	for _, p := range plan.clusters {
		for _, v := range p.verdicts {
			if p.lacking[v.ID] && p.manifests[v.ID] != nil {
				which = append(which, v.ID)
			}
		}
	}
	if len(which) == 0 {
		return nil
	}
	err := fmt.Errorf("forget: %s what is gone or damaged, so no rule took the place of a good one for it: %s",
		showCount(int64(len(which)), "snapshot lacks", "snapshots lack"), strings.Join(which, ", "))
	return withHint(classified{err, repo.ErrDamaged}, "`pgtrove verify` says what is concerned; a backup may store it again, and `pgtrove forget ID` gives up what is lost")
}

// forgets says whether a request is to be made.
func (p *clusterPlan) forgets(v snapshot.Verdict) bool { return !v.Keep() }

// narrows says whether a request is to be made: not again where there was one.
func (p *clusterPlan) narrows(v snapshot.Verdict) bool {
	return v.Narrow && !p.commits[v.ID].Narrowed && !p.ages[v.ID].Shared
}

// planForget judges the snapshots of the catalog that are not forgotten.
func (a *app) planForget(ctx context.Context, r *repo.Repo, c *catalog, now time.Time, o forgetOptions) (*forgetPlan, error) {
	var shown []repo.Commit
	for _, commit := range unrefused(c.commits) { // what somebody made up must not take the place of a good one
		if !hidden(commit) {
			shown = append(shown, commit)
		}
	}
	ages, err := r.Retention(ctx, shown, repo.RetentionOptions{Now: now, Ended: endedAt, AcceptTimes: o.acceptTimes})
	if err != nil {
		return nil, err
	}
	whole, err := a.whole(ctx, r, shown)
	if err != nil {
		return nil, err
	}
	plan := &forgetPlan{}
	for i, commit := range shown {
		if ages[i].Gone {
			continue
		}
		if k := len(plan.clusters); k == 0 || plan.clusters[k-1].cluster != commit.Cluster {
			plan.clusters = append(plan.clusters, &clusterPlan{
				cluster: commit.Cluster, commits: map[string]repo.Commit{}, manifests: map[string]*snapshot.Manifest{},
				states: map[string]snapshot.WALState{}, ages: map[string]repo.Retained{}, archives: map[archiveKey]*plannedArchive{},
				lacking: map[string]bool{},
			})
		}
		p := plan.clusters[len(plan.clusters)-1]
		p.commits[commit.ID], p.ages[commit.ID], p.lacking[commit.ID] = commit, ages[i], !whole[i]
		if m, err := parseCommit(commit); err == nil {
			p.manifests[commit.ID] = m
		}
	}
	for _, p := range plan.clusters {
		if err := p.judge(ctx, r, now, o.policy); err != nil {
			return nil, err
		}
	}
	return plan, nil
}

// judge applies the policy.
func (p *clusterPlan) judge(ctx context.Context, r *repo.Repo, now time.Time, policy snapshot.Policy) (err error) {
	for id, m := range p.manifests {
		k := archiveOf(m)
		if p.archives[k] == nil {
			coverage, err := k.in(r).Scan(ctx, m.Server.WALSegmentSize)
			if err != nil {
				return err
			}
			p.archives[k] = &plannedArchive{coverage, newSeenHeaders(k.in(r))}
		}
		p.states[id] = walState(m, p.archives[k].Coverage)
	}
	for again := true; again; again = p.passBroken() { // the headers that are read tell which
		all := func(string) (stays, narrow bool) { return true, false }
		if p.before, err = p.windows(ctx, all); err != nil {
			return err
		}
	}
	if err := p.findLive(ctx, r, now); err != nil {
		return err
	}
	lost := ""
	for _, bases := range []map[string]bool{p.bases(p.newestGood(now), now), p.goodOnes()} { // fewer may not do where broken ones take part in what is kept
		if err := p.apply(ctx, now, policy, bases); err != nil {
			return err
		}
		if lost = p.broken(p.after, p.outside(p.before)); lost == "" {
			return nil
		}
	}
	return withHint(refused("forget: by this plan %s; nothing was changed", lost),
		"a backup makes a new base; or `pgtrove forget ID`, which goes by no plan, gives up what `pgtrove snapshots` does not call complete")
}

// apply makes the verdicts of a policy, of which bases have to stay with all WAL behind them.
func (p *clusterPlan) apply(ctx context.Context, now time.Time, policy snapshot.Policy, bases map[string]bool) (err error) {
	candidates, stretches := p.candidates(bases), p.stretches()
	p.promised.from, p.promised.to = policy.Promised(now, candidates, stretches)
	if !policy.PITR.IsZero() {
		reaching := p.reaching(p.promised.from, now)
		for i, c := range candidates {
			if c.Held == "" && reaching[c.ID] {
				candidates[i].Held = "pitr window " + policy.PITR.String()
			}
		}
	}
	p.verdicts = policy.Judge(now, candidates, stretches)
	verdicts := map[string]snapshot.Verdict{}
	for _, v := range p.verdicts {
		verdicts[v.ID] = v
	}
	p.after, err = p.windows(ctx, func(id string) (stays, narrow bool) { return verdicts[id].Keep(), p.narrows(verdicts[id]) })
	return err
}

// unreachable is what of the promised time cannot be recovered, before as after.
func (p *clusterPlan) unreachable() []interval { return p.outside(p.after) }

// newestGood is the ID of the newest good snapshot, which every policy keeps: "" if there is none. One that lies ahead is none.
func (p *clusterPlan) newestGood(now time.Time) string {
	for _, id := range p.newestFirst(now) {
		if p.good(id) && !p.ages[id].Since.After(now) {
			return id
		}
	}
	return ""
}

// candidates are the snapshots for the policy.
func (p *clusterPlan) candidates(bases map[string]bool) (all []snapshot.Candidate) {
	for id, commit := range p.commits {
		c := snapshot.Candidate{ID: id, Time: p.ages[id].Since, Pinned: commit.Pinned, Narrowed: commit.Narrowed}
		if m := p.manifests[id]; m == nil {
			c.Unreadable = true
		} else {
			c.Ended, c.Good, c.Flawed = m.Window.StopTime, p.good(id), len(m.Damaged) > 0
		}
		if bases[id] {
			c.Leads = id // each of them stays
		}
		if p.ages[id].Shared {
			c.Held = "another cluster has one of the same ID"
		}
		all = append(all, c)
	}
	return all
}

// good says whether a snapshot can be restored.
func (p *clusterPlan) good(id string) bool {
	return p.states[id] == snapshot.WALComplete && !p.lacking[id]
}

// broken says which promise does not hold where windows are what can be recovered: the live timelines as far as now, and of the promised time all but lost.
func (p *clusterPlan) broken(windows []systemWindow, lost []interval) string {
	if w := p.lostLive(windows); w != nil {
		return fmt.Sprintf("timeline %d of cluster %s, system %s, which may be in use, could not be recovered to %s any more", uint32(w.Timeline), p.cluster, w.system, w.ToLSN)
	}
	if length(p.outside(windows)) > length(lost) {
		return fmt.Sprintf("of the time from %s to %s in cluster %s less could be recovered than before", showTime(p.promised.from), showTime(p.promised.to), p.cluster)
	}
	return ""
}

// length is how long intervals are together.
func length(all []interval) (sum time.Duration) {
	for _, i := range all {
		sum += i.to.Sub(i.from)
	}
	return sum
}

// windows are what can be recovered, from good snapshots, if of says which snapshots stay, and which of these are narrowed now.
func (p *clusterPlan) windows(ctx context.Context, of func(id string) (stays, narrow bool)) (all []systemWindow, err error) {
	staying, good := map[archiveKey][]walarchive.Snapshot{}, map[archiveKey][]walarchive.Snapshot{}
	for id, m := range p.manifests {
		if stays, narrow := of(id); stays {
			s, k := walSnapshot(m), archiveOf(m)
			s.Narrow = narrow || p.commits[id].Narrowed
			staying[k] = append(staying[k], s)
			if p.good(id) {
				good[k] = append(good[k], s)
			}
		}
	}
	for k, archive := range p.archives {
		windows, err := archive.Windows(ctx, archive.headers, good[k])
		if err != nil {
			return nil, err
		}
		for _, w := range windows {
			kept := func(s walarchive.Snapshot) bool { // what is broken takes part in what is kept, and may take a timeline over
				run, ok := archive.KeptRun(s, w.Timeline, staying[k])
				return ok && into(run, w.Run)
			}
			if len(good[k]) == len(staying[k]) || slices.ContainsFunc(good[k], kept) {
				all = append(all, systemWindow{k.system.String(), w})
			}
		}
	}
	slices.SortFunc(all, func(a, b systemWindow) int { return a.FromTime.Compare(b.FromTime) })
	return all, nil
}

// outside is what of the promised time lies in no window: no shorter than a second.
func (p *clusterPlan) outside(windows []systemWindow) (all []interval) {
	from, to := p.promised.from, p.promised.to
	for _, w := range windows { // by their beginnings
		if w.FromTime.After(to) {
			break
		}
		if w.FromTime.Sub(from) >= time.Second {
			all = append(all, interval{from, w.FromTime})
		}
		if w.ToTime.After(from) {
			from = w.ToTime
		}
	}
	if to.Sub(from) >= time.Second {
		all = append(all, interval{from, to})
	}
	return all
}
