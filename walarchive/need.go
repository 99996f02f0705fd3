package walarchive

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/pgtrove/pgtrove/internal/pg"
)

// Use says what an archived file is for.
type Use uint8

// What files are for.
const (
	// Needed by a snapshot that stays. It is also said of all of which nothing better is known, and of history files.
	Needed Use = iota
	// Parting files are needed by snapshots that leave, and by none that stays.
	Parting
	// Unneeded by any snapshot of their cluster.
	Unneeded
	// Unclaimed files are of a cluster and system that no snapshot belongs to. Whether one did they do not tell.
	Unclaimed
	// Replaced are the parts of a segment that is there in full. Nobody needs them, whatever snapshots there are.
	Replaced
)

// Judge tells of each file in the archives of a repository what it is for. It holds no more than the snapshots and one timeline at
// a time, and is not safe for concurrent use.
type Judge struct {
	objects Objects
	keys    keyReader
	claims  map[lineage]*claims
	spared  map[string]bool
	doubts  []error

	// Of the keys before: a timeline's history file stands right in front of the timeline's files.
	at      place
	segment uint64 // of the last key in at
	whole   string // what the keys of the parts of the last full segment begin with
	apart   bool   // the last key was a part of it, which goes, and what else belongs to the segment may stay
	stay    []Span
	leave   []Span
	history place // whose history file was the last
}

type lineage struct {
	cluster string
	system  pg.SystemID
}

type place struct {
	lineage
	timeline pg.Timeline
}

// claims are the snapshots of a lineage.
type claims struct {
	size        pg.SegmentSize
	unsure      bool // one does not say where it began, or they differ in the size of segments, so that names say nothing
	stay, leave []Snapshot
	family      *family // once it was read
}

// NewJudge returns a judge that knows of no snapshots yet. It reads history files from objects.
func NewJudge(objects Objects) *Judge {
	return &Judge{objects: objects, claims: map[lineage]*claims{}, spared: map[string]bool{}}
}

// Add makes a snapshot known, with the size of its server's segments: one that stays, or one that leaves.
func (j *Judge) Add(cluster string, system pg.SystemID, size pg.SegmentSize, s Snapshot, stays bool) {
	l := lineage{cluster, system}
	c := j.claims[l]
	if c == nil {
		c = &claims{size: size}
		j.claims[l] = c
	}
	c.unsure = c.unsure || size != c.size || !size.Valid() || s.Timeline == 0 || s.StopTimeline == 0
	if stays {
		c.stay = append(c.stay, s)
	} else {
		c.leave = append(c.leave, s)
	}
}

// Spare says that what snapshots of the cluster need is not all known, so that all of its files count as needed.
func (j *Judge) Spare(cluster string) { j.spared[cluster] = true }

// Doubts are the timelines of which everything counts as needed because their history could not be read.
func (j *Judge) Doubts() []error { return j.doubts }

// Use says what the file under key is for, and whether it follows the file before: no segment stands between them that is not archived yet. Of
// unclaimed files that means nothing. Keys must come in ascending order. It fails only where the storage does.
//
// In that order there stand in a row: a segment, notes of gaps that begin with it, its backup files, its parts, and its .partial.
func (j *Judge) Use(ctx context.Context, key string) (use Use, follows bool, err error) {
	p, n, ok := j.keys.read(key)
	if !ok {
		return Needed, false, nil // no file of an archive
	}
	switch n.Kind {
	case History:
		j.history = p
		return Needed, false, nil
	case Receivers:
		return Needed, false, nil
	case Segment:
		j.whole = key + partSuffix
	}
	replaced := n.Kind == PartKind && strings.HasPrefix(key, j.whole) && j.whole != ""
	c := j.claims[p.lineage]
	switch {
	case j.spared[p.cluster]:
		return Needed, false, nil
	case c == nil:
		follows, j.apart = replaced || !j.apart, replaced
		if replaced {
			return Replaced, follows, nil
		}
		return Unclaimed, follows, nil
	case c.unsure:
		return Needed, false, nil
	}
	segment, err := n.number(c.size)
	if err != nil {
		return Needed, false, nil // of another size
	}
	last := segment.Number // that the file concerns
	if n.Kind == Dropped {
		span, err := gapSpan(n.File, c.size)
		if err != nil {
			return Needed, false, nil
		}
		last = span.Last
	}
	if j.at != p {
		if err := j.turn(ctx, p, c, segment.Number); err != nil {
			return Needed, false, err
		}
		follows = true
	}
	// What belongs to a segment comes behind it: where such a file is the first, the segment is not archived yet and would stand in between.
	follows = follows || segment.Number <= j.segment || segment.Number == j.segment+1 && n.Kind == Segment && !j.apart
	j.segment = segment.Number
	use = j.need(segment.Number, last)
	j.apart = replaced && use != Unneeded
	if replaced {
		use = Replaced
	}
	return use, follows, nil
}

// need says who needs any of the segments of the timeline.
func (j *Judge) need(first, last uint64) Use {
	switch {
	case anyIn(j.stay, first, last):
		return Needed
	case anyIn(j.leave, first, last):
		return Parting
	}
	return Unneeded
}

// anyIn says whether any of the segments from first to last is in one of the spans, which are ascending.
func anyIn(spans []Span, first, last uint64) bool {
	i, _ := slices.BinarySearchFunc(spans, first, func(s Span, n uint64) int { return cmp.Compare(s.Last, n) })
	return i < len(spans) && spans[i].First <= last
}

// turn looks at the next timeline, of which the first segment that is there is known.
func (j *Judge) turn(ctx context.Context, p place, c *claims, first uint64) error {
	h, err := j.historyOf(ctx, p)
	if unreadable(err) {
		j.doubts = append(j.doubts, fmt.Errorf("timeline %d of cluster %s, system %s: all of its WAL is kept, because its history is not known: %w",
			uint32(p.timeline), p.cluster, p.system, err))
		j.at, j.stay, j.leave = p, []Span{{p.timeline, 0, math.MaxUint64}}, nil
		return nil
	}
	if err != nil {
		return err
	}
	if c.family == nil {
		if c.family, err = j.familyOf(ctx, p.lineage, c); err != nil {
			return err
		}
	}
	c.family.histories[p.timeline] = h
	if err := j.complete(ctx, p.lineage, c); err != nil {
		return err
	}
	begun := first <= beginning(h, c.size)
	j.at, j.stay, j.leave = p, c.family.needed(h, c.stay, begun), c.family.needed(h, c.leave, begun)
	return nil
}

func (j *Judge) historyOf(ctx context.Context, p place) (pg.History, error) {
	switch {
	case j.history == p:
		return Archive{Objects: j.objects, Cluster: p.cluster, System: p.system}.history(ctx, p.timeline)
	case p.timeline == 1:
		return pg.NewHistory(1), nil
	}
	return nil, fmt.Errorf("%s: %w", p.timeline.HistoryName(), ErrNotExist)
}

// needed are the segments of a timeline, to which h leads, that recovery from the snapshots may ask for: ascending, and never adjacent. From a
// snapshot's start on that is everything on its own timeline and on those that descend from there; of one that is narrow, no more than
// comes up to its stop, and its branches. Which of the timelines a recovery takes there does not matter: it finds the segment on each. Nobody comes
// to a branch whose first segment is gone (begun).
func (f family) needed(h pg.History, snapshots []Snapshot, begun bool) []Span {
	tli, size := h.Timeline(), uint64(f.size)
	var all []Span
	for _, s := range snapshots {
		if tli != s.Timeline && tli != s.StopTimeline && !h.Contains(s.Timeline, s.StartLSN) {
			continue
		}
		span := Span{Timeline: tli, First: uint64(s.StartLSN) / size, Last: math.MaxUint64}
		if s.Narrow {
			span.Last = span.First
			if s.StopLSN > 0 {
				span.Last = max(span.First, uint64(s.StopLSN-1)/size)
			}
		}
		all = append(all, span)
	}
	if from, ok := f.branches(snapshots)[tli]; ok && begun {
		all = append(all, Span{Timeline: tli, First: uint64(from) / size, Last: math.MaxUint64})
	}
	slices.SortFunc(all, func(a, b Span) int { return cmp.Compare(a.First, b.First) })
	var merged []Span
	for _, s := range all {
		if k := len(merged) - 1; k >= 0 && (merged[k].Last == math.MaxUint64 || s.First <= merged[k].Last+1) {
			merged[k].Last = max(merged[k].Last, s.Last)
			continue
		}
		merged = append(merged, s)
	}
	return merged
}

// lastOf gives the end of the span, of some that are ascending, that has segment n.
func lastOf(spans []Span, n uint64) (last uint64, ok bool) {
	i, found := slices.BinarySearchFunc(spans, n, func(s Span, n uint64) int {
		switch {
		case s.Last < n:
			return -1
		case s.First > n:
			return 1
		}
		return 0
	})
	if !found {
		return 0, false
	}
	return spans[i].Last, true
}

// needed says the same as a Judge does.
func (c *Coverage) needed(h pg.History, snapshots []Snapshot) []Span {
	f := family{size: c.SegmentSize, histories: c.histories, unsure: c.unsure()}
	_, begun := c.find(h.Timeline(), beginning(h, c.SegmentSize))
	if _, ok := c.receivedTo(h.Timeline(), beginning(h, c.SegmentSize)); ok {
		begun = true
	}
	return f.needed(h, snapshots, begun)
}

// NeededGaps is Gaps, as far as recovery from one of the snapshots needs what is missing: what was removed because nothing needs it is
// no gap.
func (c *Coverage) NeededGaps(tli pg.Timeline, snapshots []Snapshot) []Gap {
	h, _ := c.History(tli)
	want := c.needed(h, snapshots)
	var gaps []Gap
	for _, g := range c.Gaps(tli) {
		for _, w := range want {
			if first, last := max(g.First, w.First), min(g.Last, w.Last); first <= last {
				s := Span{Timeline: tli, First: first, Last: last}
				gaps = append(gaps, c.gap(s))
			}
		}
	}
	return gaps
}
