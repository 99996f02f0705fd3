package main

import (
	"context"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/snapshot"
)

// spaceGain is the room that a plan gives back, by an estimate; unknown says why there is none.
type spaceGain struct {
	repo.Gain
	wal     int64
	unknown string
}

// gain asks a dry run of prune.
func (a *app) gain(ctx context.Context, r *repo.Repo, plan *forgetPlan, o forgetOptions) (g spaceGain, err error) {
	assumed := &repo.Assumption{Forgotten: map[string]bool{}, Narrowed: map[string]bool{}}
	for _, c := range plan.clusters {
		for _, v := range c.verdicts {
			switch {
			case c.forgets(v):
				assumed.Forgotten[v.ID] = true
			case c.narrows(v):
				assumed.Narrowed[v.ID] = true
			}
		}
	}
	if len(assumed.Forgotten)+len(assumed.Narrowed) == 0 {
		return g, nil
	}
	defer debug.SetGCPercent(debug.SetGCPercent(50)) // as prune does
	p := &pruneRun{app: a, repo: r, o: defaultPruneOptions(), begun: time.Now()}
	p.o.dryRun, p.o.acceptTimes, p.o.maxDelete = true, o.acceptTimes, 1
	options := p.options()
	options.Assume = assumed
	report, err := r.Prune(ctx, options)
	switch {
	case ctx.Err() != nil:
		return g, err
	case err != nil:
		g.unknown = oneLine(p.explain(err).Error())
	case len(report.Damage) > 0:
		g.unknown = "something is damaged, so that a prune would delete nothing"
	default:
		g.Gain, g.wal = report.Gain, repo.WALAmount(report.WALCondemned).Bytes
	}
	return g, nil
}

// plannedJSON is a snapshot of a plan.
type plannedJSON struct {
	Type     string            `json:"type"`
	ID       string            `json:"id"`
	Cluster  string            `json:"cluster"`
	SystemID string            `json:"system_id,omitempty"` // as WAL: unknown if it cannot be read
	Time     jsonTime          `json:"time"`                // its age
	WAL      snapshot.WALState `json:"wal,omitempty"`
	Keep     bool              `json:"keep"`
	Reasons  []string          `json:"reasons"`
	Lacking  bool              `json:"lacking"` // it needs what is gone or damaged, so no rule takes it for a good one
	Narrow   bool              `json:"narrow"`  // it stays, and of the WAL only its own on its behalf
	Already  bool              `json:"already"`
	DryRun   bool              `json:"dry_run"`
}

// planJSON sums a plan up.
type planJSON struct {
	Type     string            `json:"type"`
	DryRun   bool              `json:"dry_run"`
	Kept     int               `json:"kept"`
	Removed  int               `json:"removed"`
	Narrowed int               `json:"narrowed"`
	Clusters []planClusterJSON `json:"clusters"`
	// Estimates; null where SpaceUnknown says why.
	BytesFree    *int64 `json:"bytes_free"`       // of packs, with the next prunes
	BytesLater   *int64 `json:"bytes_free_later"` // of packs that are mostly needed
	WALBytesFree *int64 `json:"wal_bytes_free"`
	SpaceUnknown string `json:"space_unknown,omitempty"`
}

type planClusterJSON struct {
	Cluster       string           `json:"cluster"`
	Kept          int              `json:"kept"`
	Removed       int              `json:"removed"`
	Narrowed      int              `json:"narrowed"`
	WindowsBefore []planWindowJSON `json:"windows_before"`
	WindowsAfter  []planWindowJSON `json:"windows_after"`
	Unreachable   []intervalJSON   `json:"unreachable"` // inside --pitr-window, before as after
}

type planWindowJSON struct {
	SystemID string `json:"system_id"`
	windowJSON
}

type intervalJSON struct {
	FromTime jsonTime `json:"from_time"`
	ToTime   jsonTime `json:"to_time"`
}

func planResult(plan *forgetPlan, dryRun bool) planJSON {
	j := planJSON{Type: "plan", DryRun: dryRun, Clusters: []planClusterJSON{}, SpaceUnknown: plan.space.unknown}
	for _, p := range plan.clusters {
		c := planClusterJSON{Cluster: p.cluster, WindowsBefore: windowResults(p.before), WindowsAfter: windowResults(p.after), Unreachable: []intervalJSON{}}
		for _, v := range p.verdicts {
			switch {
			case !v.Keep():
				c.Removed++
			case v.Narrow || v.Narrowed:
				c.Narrowed++
			}
		}
		c.Kept = len(p.verdicts) - c.Removed
		for _, i := range p.unreachable() {
			c.Unreachable = append(c.Unreachable, intervalJSON{jsonTime(i.from), jsonTime(i.to)})
		}
		j.Kept, j.Removed, j.Narrowed = j.Kept+c.Kept, j.Removed+c.Removed, j.Narrowed+c.Narrowed
		j.Clusters = append(j.Clusters, c)
	}
	if g := plan.space; g.unknown == "" {
		j.BytesFree, j.BytesLater, j.WALBytesFree = &g.Bytes, &g.Later, &g.wal
	}
	return j
}

func windowResults(windows []systemWindow) []planWindowJSON {
	all := []planWindowJSON{}
	for _, w := range windows {
		all = append(all, planWindowJSON{w.system, windowJSON{uint32(w.Timeline), w.FromLSN, jsonTime(w.FromTime), w.ToLSN, jsonTime(w.ToTime)}})
	}
	return all
}

// showPlan prints the plan, a dry run's and another's alike.
func (a *app) showPlan(plan *forgetPlan, dryRun bool) error {
	if a.settings.Quiet && !a.settings.JSON || len(plan.clusters) == 0 && !a.settings.JSON {
		return nil
	}
	t := newTable("ID", "CLUSTER", "TIME", "WAL", "PLAN", "WHY")
	for _, p := range plan.clusters {
		for _, v := range p.verdicts {
			row := p.result(v, dryRun)
			if a.settings.JSON {
				if err := a.out.object(row); err != nil {
					return err
				}
				continue
			}
			t.add(planRow(row)...)
		}
	}
	sum := planResult(plan, dryRun)
	if a.settings.JSON {
		return a.out.object(sum)
	}
	return a.out.print("%s\n%s", t, planText(plan, sum))
}

func (p *clusterPlan) result(v snapshot.Verdict, dryRun bool) plannedJSON {
	row := plannedJSON{
		Type: "forget", ID: v.ID, Cluster: p.cluster, Time: jsonTime(v.Time), WAL: p.states[v.ID], Keep: v.Keep(), Reasons: []string{},
		Lacking: p.lacking[v.ID], Narrow: v.Keep() && (v.Narrow || v.Narrowed), DryRun: dryRun,
	}
	if m := p.manifests[v.ID]; m != nil {
		row.SystemID = m.Server.SystemID.String()
	}
	row.Reasons = append(row.Reasons, v.Reasons...)
	return row
}

func planRow(j plannedJSON) []string {
	does, why := "keep", strings.Join(j.Reasons, ", ")
	switch {
	case !j.Keep:
		does, why = "forget", "no rule keeps it"
	case j.Narrow:
		does = "narrow"
	}
	if j.Lacking && j.WAL != "" {
		why += "; it lacks what is gone or damaged"
	}
	wal := string(j.WAL)
	if wal == "" {
		wal = "-"
	}
	return []string{j.ID, j.Cluster, showJSONTime(j.Time), wal, does, why}
}

// planText is what stands below the table.
func planText(plan *forgetPlan, sum planJSON) string {
	var b strings.Builder
	for i, c := range sum.Clusters {
		fmt.Fprintf(&b, "cluster %s: %s, %d to forget", c.Cluster, showCount(int64(c.Kept), "snapshot stays", "snapshots stay"), c.Removed)
		if c.Narrowed > 0 {
			fmt.Fprintf(&b, "; %d of those that stay only with the WAL to their own moment", c.Narrowed)
		}
		b.WriteString("\n")
		p := plan.clusters[i]
		if same := slices.EqualFunc(p.before, p.after, sameWindow); same {
			writeWindows(&b, "before and after", p.before)
		} else {
			writeWindows(&b, "before", p.before)
			writeWindows(&b, "after", p.after)
		}
		for _, u := range p.unreachable() {
			fmt.Fprintf(&b, "  inside --pitr-window, but recoverable neither before nor after: %s to %s\n", showTime(u.from), showTime(u.to))
		}
	}
	g := plan.space
	switch {
	case g.unknown != "":
		fmt.Fprintf(&b, "how much that frees is not known now: %s\n", g.unknown)
	case g.Bytes+g.Later+g.wal > 0:
		fmt.Fprintf(&b, "the next prunes free about %s of packs and %s of WAL", showBytes(g.Bytes), showBytes(g.wal))
		if g.Later > 0 {
			fmt.Fprintf(&b, "; about %s more stay until the packs that they are in are mostly unneeded", showBytes(g.Later))
		}
		b.WriteString("\n")
	default:
		b.WriteString("that frees nothing\n")
	}
	return b.String()
}

func sameWindow(a, b systemWindow) bool {
	return a.system == b.system && a.Timeline == b.Timeline && a.FromLSN == b.FromLSN && a.ToLSN == b.ToLSN
}

func writeWindows(b *strings.Builder, when string, windows []systemWindow) {
	if len(windows) == 0 {
		fmt.Fprintf(b, "  recoverable %s: nothing\n", when)
		return
	}
	fmt.Fprintf(b, "  recoverable %s:\n", when)
	for _, w := range windows {
		fmt.Fprintf(b, "    system %s, timeline %d: %s to %s  (%s to %s)\n", w.system, uint32(w.Timeline), w.FromLSN, w.ToLSN, showTime(w.FromTime), showTime(w.ToTime))
	}
}
