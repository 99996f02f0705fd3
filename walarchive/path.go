package walarchive

import (
	"math"
	"time"

	"github.com/pgtrove/pgtrove/internal/pg"
)

// Snapshot is what this package needs to know of a base backup.
type Snapshot struct {
	ID           string
	Timeline     pg.Timeline // at its start
	StopTimeline pg.Timeline
	StartLSN     pg.LSN // replay begins here
	StopLSN      pg.LSN // and must come at least to here
	StopTime     time.Time
	// Narrow says that nothing behind its stop is kept on its behalf: it leads to its own moment only, and to timelines that begin there
	// and have no snapshot yet.
	Narrow bool
	// Complete says that the WAL up to its stop was archived when it was committed.
	Complete bool
}

// Path is the way that recovery takes to a timeline: through its ancestors, up to where each was left. It sees the
// archive as of the Coverage that it comes from.
type Path struct {
	c       *Coverage
	history pg.History
	// first has for each timeline of the history the segment that holds its beginning: from there on PostgreSQL asks
	// for this timeline's files first.
	first []uint64
}

// PathTo returns the way to the timeline.
func (c *Coverage) PathTo(tli pg.Timeline) *Path {
	h, _ := c.History(tli)
	p := &Path{c: c, history: h}
	begin := pg.LSN(0)
	for _, s := range h {
		p.first = append(p.first, c.number(begin))
		begin = s.LSN
	}
	return p
}

// Timeline is where the path leads to.
func (p *Path) Timeline() pg.Timeline { return p.history.Timeline() }

// Begin is where the path's last timeline begins: 0 if it has no known ancestors.
func (p *Path) Begin() pg.LSN {
	begin, _, _ := p.history.Bounds(p.Timeline())
	return begin
}

// TimelineAt is the timeline whose byte at lsn the path goes through.
func (p *Path) TimelineAt(lsn pg.LSN) pg.Timeline { return p.history.TimelineAt(lsn) }

// Contains says whether recovery from the snapshot can follow the path: PostgreSQL refuses a timeline that left the
// snapshot's before its end.
func (p *Path) Contains(s Snapshot) bool {
	return p.history.Contains(s.Timeline, s.StartLSN) && p.history.ContainsEnd(s.StopTimeline, s.StopLSN)
}

// at returns the index of the timeline whose file PostgreSQL opens for segment n: the newest one that had begun by
// then (XLogFileReadAnyTLI in xlogrecovery.c). It would go on to older ones, but their file of that number may hold
// what was written after the switch: so for this package the segment is missing then.
func (p *Path) at(n uint64) int {
	i := len(p.first) - 1
	for i > 0 && p.first[i] > n {
		i--
	}
	return i
}

// next is the first segment that is no longer looked for on timeline i of the path.
func (p *Path) next(i int) uint64 {
	if i+1 < len(p.first) {
		return p.first[i+1]
	}
	return math.MaxUint64
}

// Segment is the file that recovery needs for segment number n.
func (p *Path) Segment(n uint64) pg.Segment {
	return pg.Segment{Timeline: p.history[p.at(n)].Timeline, Number: n}
}

// RunEnd returns the number of the first segment from n on of which replay that begins in segment n finds nothing: it comes to
// the end of the one before, or to where that ends if it is there only in part (ReceivedTo), or nowhere if that is n itself.
func (p *Path) RunEnd(n uint64) uint64 {
	n = p.wholeEnd(n)
	if _, ok := p.c.receivedTo(p.history[p.at(n)].Timeline, n); ok {
		n++
	}
	return n
}

// wholeEnd is the first segment from n on that is not there in full.
func (p *Path) wholeEnd(n uint64) uint64 {
	for {
		i := p.at(n)
		span, ok := p.c.find(p.history[i].Timeline, n)
		if !ok {
			return n
		}
		limit := p.next(i)
		if span.Last+1 < limit {
			return span.Last + 1
		}
		n = limit
	}
}

// Missing returns the segments that replay from start to stop needs on this path and the archive lacks.
func (p *Path) Missing(start, stop pg.LSN) []Span {
	var missing []Span
	n, last := p.bounds(start, stop)
	for {
		n = p.wholeEnd(n)
		if n > last {
			return missing
		}
		i := p.at(n)
		tli := p.history[i].Timeline
		if to, ok := p.c.receivedTo(tli, n); ok && n == last && to >= stop {
			return missing
		}
		end := min(last, p.next(i)-1)
		if after, ok := p.c.nextSpan(tli, n); ok {
			end = min(end, after.First-1)
		}
		missing = append(missing, Span{Timeline: tli, First: n, Last: end})
		n = end + 1
	}
}

// bounds are the segments that replay from start to stop reads first and last.
func (p *Path) bounds(start, stop pg.LSN) (first, last uint64) {
	first = p.c.number(start)
	return first, max(first, p.c.numberBefore(stop))
}

// Segments returns the files that replay from start to stop needs, in order.
func (p *Path) Segments(start, stop pg.LSN) []pg.Segment {
	var all []pg.Segment
	for n, last := p.bounds(start, stop); n <= last; n++ {
		all = append(all, p.Segment(n))
	}
	return all
}

// Histories returns the names of the path's history files, as far as the archive holds them.
func (p *Path) Histories() []string {
	var names []string
	for _, s := range p.history {
		if _, ok := p.c.histories[s.Timeline]; ok {
			names = append(names, s.Timeline.HistoryName())
		}
	}
	return names
}

// Resumes returns the first segment from n on that the archive holds on this path; false if there is none.
func (p *Path) Resumes(n uint64) (uint64, bool) {
	for i := p.at(n); i < len(p.first); i++ {
		n = max(n, p.first[i])
		tli, limit := p.history[i].Timeline, p.next(i)
		if _, ok := p.c.find(tli, n); ok && n < limit {
			return n, true
		}
		if after, ok := p.c.nextSpan(tli, n); ok && after.First < limit {
			return after.First, true
		}
	}
	return 0, false
}
