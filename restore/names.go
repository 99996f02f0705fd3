package restore

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/walarchive"
)

// chooseByName finds the restore point. Names need not be unique, and replay ends at the first one that it meets: so
// from each snapshot exactly one point of the name can be reached. Of all that can, the newest is chosen, and from the
// newest snapshot that reaches it.
func (c *Chooser) chooseByName(ctx context.Context, t Target, all []candidate) (*Choice, error) {
	s := search{c: c}
	var reason string
	groups := byRun(all)
	for _, k := range all {
		if k.flaw != "" && reason == "" {
			reason = fmt.Sprintf("from snapshot %s, %s", k.m.ID, k.flaw)
		}
	}
	seen := 0
	for _, group := range groups {
		found, points, err := s.point(ctx, t.Name, group)
		if err != nil {
			return nil, err
		}
		if found != nil {
			k := found.from
			why := fmt.Sprintf("%s; the restore point is at %s, made at %s", whyChosen(t, c.Given), found.at.LSN, showTime(found.at.Time))
			if len(points) > 1 {
				s.warnings = append(s.warnings, fmt.Sprintf(
					"more than one restore point has this name: recovery ends at the one at %s, the newest that can be reached", found.at.LSN))
			}
			return c.choice(t, k, why, s.warnings), nil
		}
		seen += len(points)
	}
	switch {
	case seen > 0:
		reason = "it lies before the end of every snapshot that could be used"
		if c.Given != nil {
			reason = fmt.Sprintf("the first one that recovery from snapshot %s meets lies before the snapshot's end, %s", c.Given.ID, ends(c.Given))
		}
	case len(groups) > 0:
		reason = "no archived WAL that a snapshot leads to holds a restore point of that name"
	}
	return nil, c.unreachable(ctx, t, reason)
}

// byRun groups the candidates that can be used by where their WAL ends, the furthest first. Within a group the first
// begins last.
func byRun(all []candidate) [][]candidate {
	groups := map[walarchive.Run][]candidate{}
	var order []walarchive.Run
	for _, k := range all {
		if k.flaw != "" {
			continue
		}
		key := sameEnd(k.run)
		if groups[key] == nil {
			order = append(order, key)
		}
		groups[key] = append(groups[key], k)
	}
	slices.SortStableFunc(order, func(a, b walarchive.Run) int { return cmp.Compare(b.End, a.End) })
	out := make([][]candidate, 0, len(order))
	for _, key := range order {
		g := groups[key]
		slices.SortStableFunc(g, func(a, b candidate) int { return cmp.Compare(b.m.Window.StartLSN, a.m.Window.StartLSN) })
		out = append(out, g)
	}
	return out
}

// reached is a restore point and the snapshot whose replay ends there.
type reached struct {
	at   walarchive.RestorePoint
	from candidate
}

// point searches the group's WAL backwards, and no further than needed to be sure.
func (s *search) point(ctx context.Context, name string, group []candidate) (*reached, []walarchive.RestorePoint, error) {
	first := group[0].run.First
	for _, k := range group {
		first = min(first, k.run.First)
	}
	var points []walarchive.RestorePoint // the newest first
	var found *reached
	p := group[0].path
	err := s.headers(ctx, p, group[0].run.End, first, func(h *walarchive.Header) bool {
		for _, r := range slices.Backward(h.RestorePoints) {
			if r.Name == name {
				points = append(points, r)
			}
		}
		seg, err := pg.ParseSegment(h.Name, h.SegmentSize)
		found = decide(points, group)
		// A point further back still changes the answer if the snapshot's replay meets it first.
		return err == nil && found != nil && found.from.m.Window.StartLSN >= seg.Start(h.SegmentSize)
	})
	return found, points, err
}

// decide returns the newest of points, which come newest first, at which the replay of a snapshot ends; nil if there
// is none.
func decide(points []walarchive.RestorePoint, group []candidate) *reached {
	for i, at := range points {
		for _, k := range group {
			w := k.m.Window
			if w.StopLSN > at.LSN {
				continue
			}
			// What replay from k meets before at is the next point back, if k begins before it.
			if i+1 < len(points) && points[i+1].LSN > w.StartLSN {
				break // and the older snapshots of the group meet it as well
			}
			return &reached{at: at, from: k}
		}
	}
	return nil
}
