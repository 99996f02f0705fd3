package restore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/snapshot"
	"github.com/pgtrove/pgtrove/walarchive"
)

// Chooser finds the snapshot from which a target can be reached. It reads the headers of WAL files, nothing else.
type Chooser struct {
	Snapshots []*snapshot.Manifest // of one cluster; those of other systems than the coverage's are left out
	Coverage  *walarchive.Coverage
	Headers   walarchive.Headers
	// Given, if set, is the only snapshot to consider.
	Given *snapshot.Manifest
}

// Choice is a snapshot and the way from it to a target.
type Choice struct {
	Snapshot *snapshot.Manifest
	Target   Target
	Timeline pg.Timeline // that recovery follows
	Path     *walarchive.Path
	Coverage *walarchive.Coverage // of the archive that Path is in
	Run      walarchive.Run       // what replay finds on the path without a gap
	Reason   string               // why this snapshot: half a sentence
	Warnings []string             // what a person should know before going on
}

// WALFiles returns what a server needs in pg_wal to come to the end of the snapshot by itself: the history files that
// there are, and the segments.
func (c *Choice) WALFiles() []string {
	names := c.Path.Histories()
	for _, s := range c.Path.Segments(c.Snapshot.Window.StartLSN, c.Snapshot.Window.StopLSN) {
		names = append(names, s.Name(c.Snapshot.Server.WALSegmentSize))
	}
	return names
}

// anchor is what WAL coverage needs to know of a snapshot.
func anchor(m *snapshot.Manifest) walarchive.Snapshot {
	return walarchive.Snapshot{
		ID: m.ID, Timeline: m.Window.Timeline, StopTimeline: m.Window.StopTimeline,
		StartLSN: m.Window.StartLSN, StopLSN: m.Window.StopLSN, StopTime: m.Window.StopTime,
	}
}

// candidate is a snapshot on the path that recovery from it would take.
type candidate struct {
	m    *snapshot.Manifest
	path *walarchive.Path
	run  walarchive.Run
	flaw string // why no target can be reached from it; "" if there is no such reason
}

// obstacle is why a target cannot be reached from one snapshot; the zero value says that it can.
type obstacle struct {
	young bool // the snapshot ends behind the target
	text  string
}

// Choose returns the newest snapshot that ends before the target and from which the WAL at hand leads there, following
// the timelines as PostgreSQL would. *UnreachableError: there is none.
func (c *Chooser) Choose(ctx context.Context, t Target) (*Choice, error) {
	t.Time = t.Time.Truncate(time.Microsecond) // PostgreSQL's precision
	all := c.candidates(t.Timeline)
	if len(all) == 0 {
		return nil, &UnreachableError{Target: t, Reason: "there is no snapshot of this cluster"}
	}
	if t.Kind == AtName {
		return c.chooseByName(ctx, t, all)
	}
	s := search{c: c, tails: map[walarchive.Run]tail{}, ended: map[walarchive.Run]obstacle{}}
	var warnings []string
	var reason string
	for _, k := range all {
		o, err := s.obstacle(ctx, t, k)
		if err != nil {
			return nil, err
		}
		if o == (obstacle{}) {
			return c.choice(t, k, whyChosen(t, c.Given), append(warnings, s.warnings...)), nil
		}
		if !o.young {
			warnings = append(warnings, fmt.Sprintf("snapshot %s was passed over: %s", k.m.ID, o.text))
			if reason == "" {
				reason = fmt.Sprintf("from snapshot %s, %s", k.m.ID, o.text)
			}
		}
	}
	if reason == "" {
		oldest := all[len(all)-1].m
		reason = fmt.Sprintf("snapshot %s, the earliest that could be used, ends behind it: %s", oldest.ID, ends(oldest))
	}
	return nil, c.unreachable(ctx, t, reason)
}

func ends(m *snapshot.Manifest) string {
	return fmt.Sprintf("at %s, LSN %s, next transaction %d", showTime(m.Window.StopTime), m.Window.StopLSN, m.Window.NextXID)
}

func whyChosen(t Target, given *snapshot.Manifest) string {
	switch {
	case given != nil:
		return "it was asked for"
	case t.Kind == EndOfArchive || t.Kind == Immediate:
		return "it is the newest"
	}
	return "it is the newest that ends before the target"
}

// candidates returns the snapshots, the newest first, each with its path.
func (c *Chooser) candidates(goal TimelineGoal) []candidate {
	var all []candidate
	for _, m := range c.Snapshots {
		if m.Server.SystemID == c.Coverage.System && (c.Given == nil || c.Given.ID == m.ID) {
			all = append(all, c.candidate(m, goal))
		}
	}
	slices.SortStableFunc(all, func(a, b candidate) int { return b.m.Window.StopTime.Compare(a.m.Window.StopTime) })
	return all
}

func (c *Chooser) candidate(m *snapshot.Manifest, goal TimelineGoal) candidate {
	tli := m.Window.StopTimeline
	switch {
	case goal.Number != 0:
		tli = goal.Number
	case !goal.Current:
		tli = c.Coverage.Newest(tli)
	}
	k := candidate{m: m, path: c.Coverage.PathTo(tli)}
	run, ok := k.path.RunFrom(anchor(m))
	k.run = run
	_, known := c.Coverage.History(tli)
	switch doubt := c.Coverage.Doubt(tli); {
	case tli != m.Window.StopTimeline && doubt != nil:
		k.flaw = fmt.Sprintf("timeline %d cannot be followed, its history cannot be read: %v; the snapshot's own can, with --target-timeline current", tli, doubt)
	case tli != m.Window.StopTimeline && !known:
		k.flaw = fmt.Sprintf("timeline %d cannot be followed: the archive does not know it", tli)
	case !k.path.Contains(anchor(m)):
		k.flaw = fmt.Sprintf("timeline %d cannot be followed: its history does not go through timeline %d at %s, where the snapshot ends; "+
			"the snapshot's own can, with --target-timeline current", tli, m.Window.StopTimeline, m.Window.StopLSN)
	case !ok:
		missing := k.path.Missing(m.Window.StartLSN, m.Window.StopLSN)
		k.flaw = "the archive lacks WAL that the snapshot needs to become consistent, the first segment is " +
			missing[0].Names(c.Coverage.SegmentSize, 1)[0]
	}
	return k
}

func (c *Chooser) choice(t Target, k candidate, reason string, warnings []string) *Choice {
	if behind, ok := k.path.Resumes(k.run.End); ok && t.Kind == EndOfArchive {
		where := "in front of " + k.path.Segment(k.run.End).Name(c.Coverage.SegmentSize)
		if to, ok := k.path.ReceivedTo(k.run); ok {
			where = fmt.Sprintf("at %s, up to where %s was received", to, k.path.Segment(k.run.End-1).Name(c.Coverage.SegmentSize))
		}
		warnings = append(warnings, fmt.Sprintf("the archive has a gap: recovery ends %s, WAL from %s on is not used",
			where, k.path.Segment(behind).Name(c.Coverage.SegmentSize)))
	}
	return &Choice{
		Snapshot: k.m, Target: t, Timeline: k.path.Timeline(), Path: k.path, Coverage: c.Coverage, Run: k.run, Reason: reason,
		Warnings: warnings,
	}
}

// unreachable adds the moments nearest to the target. Whatever hinders finding them is not worth hiding the reason.
func (c *Chooser) unreachable(ctx context.Context, t Target, reason string) error {
	e := &UnreachableError{Target: t, Reason: reason}
	var anchors []walarchive.Snapshot
	for _, m := range c.Snapshots {
		if m.Server.SystemID == c.Coverage.System {
			anchors = append(anchors, anchor(m))
		}
	}
	windows, err := c.Coverage.Windows(ctx, c.Headers, anchors)
	if err != nil {
		return errors.Join(e, err)
	}
	for _, w := range windows {
		from := Moment{w.Timeline, w.FromLSN, w.FromTime}
		to := Moment{w.Timeline, w.ToLSN, w.ToTime}
		e.consider(from)
		e.consider(to)
	}
	return e
}

// consider keeps m if it is the nearest moment on its side of the target.
func (e *UnreachableError) consider(m Moment) {
	var before bool // m lies before the target
	var order func(a, b Moment) int
	switch e.Target.Kind {
	case AtTime:
		before = !m.Time.After(e.Target.Time)
		order = func(a, b Moment) int { return a.Time.Compare(b.Time) }
	case AtLSN:
		before = m.LSN <= e.Target.LSN
		order = func(a, b Moment) int { return cmp.Compare(a.LSN, b.LSN) }
	default:
		// These have no place in time: what can be reached at all is all there is to say.
		if e.Later == nil || m.Time.Before(e.Later.Time) {
			e.Later = &m
		}
		return
	}
	if before && (e.Earlier == nil || order(m, *e.Earlier) > 0) {
		e.Earlier = &m
	}
	if !before && (e.Later == nil || order(m, *e.Later) < 0) {
		e.Later = &m
	}
}
