package walarchive

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/pgtrove/pgtrove/internal/pg"
)

// Received is a segment of which only parts are there, from its first byte on.
type Received struct {
	pg.Segment
	To    pg.LSN // up to where; the records may end before
	Parts int    // objects that it takes to read it
}

// Received returns the timeline's segments that are there only in part, ascending. Recovery goes through each up to where it ends, and no further.
func (c *Coverage) Received(tli pg.Timeline) (all []Received) {
	t := c.timelines[tli]
	if t == nil {
		return nil
	}
	for _, n := range slices.Sorted(maps.Keys(t.parts)) {
		if covers := coversOf(t.parts[n]); covers[0].reach() < int64(c.SegmentSize) {
			all = append(all, Received{pg.Segment{Timeline: tli, Number: n}, c.startOf(n) + pg.LSN(covers[0].reach()), len(covers[0])})
		}
	}
	return all
}

// settleParts forgets parts that lead nowhere, and takes a segment for one that is there where its parts are all of it.
func (c *Coverage) settleParts() {
	for tli, t := range c.timelines {
		for n, parts := range t.parts {
			covers := coversOf(parts)
			_, whole := c.find(tli, n)
			if whole || len(covers) == 0 {
				delete(t.parts, n)
			} else if covers[0].reach() == int64(c.SegmentSize) {
				t.insert(tli, n)
			}
		}
	}
}

// receivedTo is up to where segment n of the timeline is there in parts, and not in full; false: it is not.
func (c *Coverage) receivedTo(tli pg.Timeline, n uint64) (to pg.LSN, ok bool) {
	t := c.timelines[tli]
	if t == nil || len(t.parts[n]) == 0 {
		return 0, false
	}
	if _, whole := c.find(tli, n); whole {
		return 0, false
	}
	return c.startOf(n) + pg.LSN(coversOf(t.parts[n])[0].reach()), true
}

// HasItself says whether the segment is in the archive as one object, and not only in parts.
func (c *Coverage) HasItself(s pg.Segment) bool {
	t := c.timelines[s.Timeline]
	return c.Has(s) && len(t.parts[s.Number]) == 0
}

// NewestReceived is the last segment of the timeline if it is there only in part; false: it is not.
func (c *Coverage) NewestReceived(tli pg.Timeline) (r Received, ok bool) {
	all, spans := c.Received(tli), c.Spans(tli)
	if len(all) == 0 {
		return r, false
	}
	r = all[len(all)-1]
	return r, len(spans) == 0 || spans[len(spans)-1].Last < r.Number
}

// ReceivedTo says up to where the last segment of a run is there; false: in full.
func (p *Path) ReceivedTo(r Run) (to pg.LSN, ok bool) {
	if r.End <= r.First {
		return 0, false
	}
	return p.c.receivedTo(p.history[p.at(r.End-1)].Timeline, r.End-1)
}

// reach is how far the run's bytes go.
func (p *Path) reach(r Run) pg.LSN {
	if to, ok := p.ReceivedTo(r); ok {
		return to
	}
	return p.c.startOf(r.End)
}

// Header reads the header of the path's segment n; of one that is there in parts, the header of the part that reaches farthest and can be read.
// Errors are those of Archive.Header.
func (p *Path) Header(ctx context.Context, headers Headers, n uint64) (*Header, error) {
	s := p.Segment(n)
	name := s.Name(p.c.SegmentSize)
	t := p.c.timelines[s.Timeline]
	if t == nil || len(t.parts[n]) == 0 {
		return headers.Header(ctx, name)
	}
	parts := slices.Clone(t.parts[n])
	var first error
	for {
		covers := coversOf(parts)
		if len(covers) == 0 {
			return nil, first
		}
		last := covers[0][len(covers[0])-1]
		h, err := headers.Header(ctx, last.file())
		if errors.Is(err, ErrNotExist) { // the segment may be there by now
			if h, err := headers.Header(ctx, name); !errors.Is(err, ErrNotExist) {
				return h, err
			}
		}
		if !unreadable(err) {
			return h, err
		}
		first = cmp.Or(first, err)
		parts = slices.DeleteFunc(parts, func(q partName) bool { return q == last })
	}
}
