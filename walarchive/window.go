package walarchive

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/pgtrove/pgtrove/internal/pg"
)

// Headers reads the headers of WAL files; an Archive does, and so may a cache before it. Errors are those of
// Archive.Header.
type Headers interface {
	Header(ctx context.Context, file string) (*Header, error)
}

// maxWalk bounds how many headers are read in search of a commit time. A server that archives every minute without
// committing anything writes as many in four hours.
const maxWalk = 256

// Window is a stretch of one timeline that can be recovered to, every moment of it. It begins where a snapshot ends,
// or where the timeline begins if a snapshot of an ancestor leads there without a gap, and goes on to where the
// archive does. Windows of one timeline do not touch.
type Window struct {
	Timeline pg.Timeline
	FromLSN  pg.LSN
	// FromTime is the end of the snapshot. Where the window begins with its timeline it is the last commit known to
	// lie before that.
	FromTime time.Time
	ToLSN    pg.LSN // the end of the last record, as far as it was received
	// ToTime is the last commit's time, never before FromTime. A recovery to a time ends in front of the first commit
	// that is later, so it needs one: the last commit itself is reached by the end of the archive.
	ToTime time.Time

	Run Run // what replay reads to come to the window's end
}

// Run is a row of segments on the path to a timeline, without a gap. End is not part of it. The last one may be there only in part.
type Run struct {
	Timeline   pg.Timeline
	First, End uint64
}

// RunFrom returns what recovery from the snapshot finds on the path, and whether that makes it consistent.
func (p *Path) RunFrom(s Snapshot) (r Run, ok bool) {
	r = Run{Timeline: p.Timeline(), First: p.c.number(s.StartLSN)}
	r.End = p.RunEnd(r.First)
	return r, p.Contains(s) && r.End > r.First && p.reach(r) >= s.StopLSN
}

// keptRun is RunFrom without what still stands behind it and may go at any time.
func (p *Path) keptRun(s Snapshot, kept []Span) (r Run, ok bool) {
	r, ok = p.RunFrom(s)
	if last, found := lastOf(kept, r.First); ok && found && last < r.End {
		r.End = last + 1
	}
	return r, ok
}

// KeptRun returns what recovery from a snapshot, one of all that stay, finds on the way to the timeline, of the WAL that is kept; and whether it comes to
// where the timeline begins.
func (c *Coverage) KeptRun(s Snapshot, tli pg.Timeline, all []Snapshot) (r Run, leads bool) {
	p := c.PathTo(tli)
	r, ok := p.keptRun(s, c.needed(p.history, all))
	return r, ok && c.number(p.reach(r)) >= c.number(p.Begin())
}

// Windows returns what can be recovered to, by timeline and position, reading a bounded number of headers. It ends in front of a segment whose header cannot be read.
func (c *Coverage) Windows(ctx context.Context, headers Headers, snapshots []Snapshot) ([]Window, error) {
	timelines := c.Timelines()
	for _, s := range snapshots {
		if !slices.Contains(timelines, s.StopTimeline) {
			timelines = append(timelines, s.StopTimeline)
		}
	}
	slices.Sort(timelines)
	var all []Window
	for _, tli := range timelines {
		windows, err := c.PathTo(tli).windows(ctx, headers, snapshots)
		if err != nil {
			return nil, err
		}
		all = append(all, windows...)
	}
	return all, nil
}

// windows returns those on the path's last timeline. Runs that end at the same place are one stretch, whatever
// snapshot they begin with.
func (p *Path) windows(ctx context.Context, headers Headers, snapshots []Snapshot) ([]Window, error) {
	headers = &heldHeaders{headers, map[string]*Header{}}
	begin := p.Begin()
	leads, err := p.leads(ctx, headers, snapshots)
	if err != nil {
		return nil, err
	}
	var all []Window
	for _, l := range leads {
		s, r := l.snapshot, l.run
		w := Window{Timeline: p.Timeline(), FromLSN: s.StopLSN, FromTime: s.StopTime, Run: r}
		if s.StopLSN < begin {
			_, last, err := p.Tail(ctx, headers, Run{Timeline: r.Timeline, First: r.First, End: p.c.numberBefore(begin)})
			if errors.As(err, new(*brokenSegment)) {
				continue // nobody comes past it
			}
			if err != nil {
				return nil, err
			}
			w.FromLSN, w.FromTime = begin, later(s.StopTime, last)
		}
		all = append(all, w)
	}
	slices.SortFunc(all, func(a, b Window) int {
		return cmp.Or(cmp.Compare(a.Run.End, b.Run.End), cmp.Compare(a.FromLSN, b.FromLSN), a.FromTime.Compare(b.FromTime))
	})
	all = slices.CompactFunc(all, func(a, b Window) bool { return a.Run.End == b.Run.End })
	for i := range all {
		if err := p.finish(ctx, headers, &all[i]); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// lead is a snapshot, and what recovery from it finds on a path.
type lead struct {
	snapshot Snapshot
	run      Run
}

// leads are the snapshots that lead to the path's last timeline. A run ends in front of a segment that turns out to be damaged; those that begin behind it
// do not come past it.
func (p *Path) leads(ctx context.Context, headers Headers, snapshots []Snapshot) ([]lead, error) {
	kept := p.c.needed(p.history, snapshots)
	var all []lead
	for _, s := range snapshots {
		if r, ok := p.keptRun(s, kept); ok {
			all = append(all, lead{s, r})
		}
	}
	for i := 0; i < len(all); {
		longest := all[i].run
		for _, l := range all {
			if l.run.End == longest.End {
				longest.First = min(longest.First, l.run.First)
			}
		}
		_, _, err := p.Tail(ctx, headers, longest)
		var broken *brokenSegment
		switch {
		case errors.As(err, &broken):
			for k := range all {
				if r := &all[k].run; r.End == longest.End && r.First <= broken.number {
					r.End = broken.number
				}
			}
		case err != nil:
			return nil, err
		default:
			i++
		}
	}
	return slices.DeleteFunc(all, func(l lead) bool {
		end := p.reach(l.run)
		return l.run.End <= l.run.First || end < l.snapshot.StopLSN || end <= p.Begin()
	}), nil
}

// brokenSegment is a segment of which the header cannot be read.
type brokenSegment struct {
	number uint64
	err    error
}

func (b *brokenSegment) Error() string { return b.err.Error() }
func (b *brokenSegment) Unwrap() error { return b.err }

// heldHeaders reads each header once.
type heldHeaders struct {
	Headers
	seen map[string]*Header
}

// Header implements Headers.
func (s *heldHeaders) Header(ctx context.Context, file string) (*Header, error) {
	if h := s.seen[file]; h != nil {
		return h, nil
	}
	h, err := s.Headers.Header(ctx, file)
	if err == nil {
		s.seen[file] = h
	}
	return h, err
}

// finish finds where a window ends.
func (p *Path) finish(ctx context.Context, headers Headers, w *Window) error {
	end, last, err := p.Tail(ctx, headers, w.Run)
	if err != nil {
		return err
	}
	w.ToLSN, w.ToTime = max(w.FromLSN, end), later(w.FromTime, last)
	return nil
}

// Tail reads headers from the run's end backwards: where its last record ends, and the time of its last commit or
// abort. Each is zero if the run has none, or none was found within some hundred segments.
func (p *Path) Tail(ctx context.Context, headers Headers, r Run) (end pg.LSN, last time.Time, err error) {
	for n := r.End; n > r.First && r.End-n < maxWalk; n-- {
		h, err := p.Header(ctx, headers, n-1)
		if unreadable(err) {
			return 0, time.Time{}, &brokenSegment{n - 1, err}
		}
		if err != nil {
			return 0, time.Time{}, err
		}
		if end == 0 {
			end = h.End
		}
		if end != 0 && !h.LastCommit.IsZero() {
			return end, h.LastCommit, nil
		}
	}
	return end, time.Time{}, nil
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
