package walarchive

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/pgtrove/pgtrove/internal/pg"
)

// Span is a row of segments of one timeline, by number, both ends included.
type Span struct {
	Timeline    pg.Timeline
	First, Last uint64
}

// Segments is how many segments the span has.
func (s Span) Segments() uint64 { return s.Last - s.First + 1 }

// Names returns the file names of the span's segments, at most limit of them.
func (s Span) Names(size pg.SegmentSize, limit int) []string {
	var names []string
	for n := s.First; n <= s.Last && len(names) < limit; n++ {
		names = append(names, pg.Segment{Timeline: s.Timeline, Number: n}.Name(size))
	}
	return names
}

// Coverage is what an archive holds, as of one listing. It does not grow with the number of segments but with the
// number of gaps between them, and that of parts of segments that are not there in full. It is not changed after Scan, and safe for concurrent use.
type Coverage struct {
	Cluster     string
	System      pg.SystemID
	SegmentSize pg.SegmentSize
	Files       int   // objects of any kind
	Bytes       int64 // that they take in the repository

	timelines map[pg.Timeline]*timeline
	histories map[pg.Timeline]pg.History
	doubts    map[pg.Timeline]error // history files that are there and cannot be read
}

// timeline is what is there of one timeline.
type timeline struct {
	spans    []Span // ascending, never adjacent
	partials []string
	parts    map[uint64][]partName // of segments that are not there in full, by number
	notes    []note                // of gaps
	history  bool                  // its history file is there
}

// Scan lists the archive once and reads the history files. Keys that are no file of this cluster with segments of the
// given size are left out.
func (a Archive) Scan(ctx context.Context, size pg.SegmentSize) (*Coverage, error) {
	if !size.Valid() {
		return nil, fmt.Errorf("list WAL: %w: segment size %d", ErrInvalid, size)
	}
	s := NewSurvey(a.Objects)
	s.Expect(a, size)
	err := a.Objects.List(ctx, a.prefix(), func(key string, bytes int64) error { return s.Add(ctx, key, bytes) })
	if err != nil {
		return nil, fmt.Errorf("list WAL: %w", err)
	}
	all, err := s.Coverages(ctx)
	if err != nil {
		return nil, err
	}
	return all[0], nil
}

// readHistories reads those that the listing has shown. One that cannot be read is a doubt about its timeline only.
func (c *Coverage) readHistories(ctx context.Context, a Archive) error {
	for tli, t := range c.timelines {
		if !t.history {
			continue
		}
		h, err := a.history(ctx, tli)
		switch {
		case unreadable(err):
			c.doubts[tli] = err
		case err != nil:
			return err
		default:
			c.histories[tli] = h
		}
	}
	return c.readNotes(ctx, a)
}

// Doubt says why the history of a timeline cannot be read, though its file is there; nil if that is not so. It names the file's key.
func (c *Coverage) Doubt(tli pg.Timeline) error { return c.doubts[tli] }

func newCoverage(a Archive, size pg.SegmentSize) *Coverage {
	return &Coverage{
		Cluster: a.Cluster, System: a.System, SegmentSize: size,
		timelines: map[pg.Timeline]*timeline{}, histories: map[pg.Timeline]pg.History{}, doubts: map[pg.Timeline]error{},
	}
}

// history reads a timeline's history from the header of its file.
func (a Archive) history(ctx context.Context, tli pg.Timeline) (pg.History, error) {
	h, err := a.Header(ctx, tli.HistoryName())
	var parsed pg.History
	if err == nil {
		if parsed, err = pg.ParseHistory(tli, h.Inline); err != nil {
			err = fmt.Errorf("%w: %s: %w", ErrDamaged, h.Name, err)
		}
	}
	if err != nil && unreadable(err) && !errors.Is(err, ErrNotExist) {
		key := a.Key(Name{Kind: History, Timeline: tli, File: tli.HistoryName()})
		return nil, fmt.Errorf("%w; remove %s, and push the file again from a server that has it in pg_wal, with `pgtrove wal push`", err, key)
	}
	return parsed, err
}

// addWhole takes one key of the listing, unless it is a part of a segment.
func (c *Coverage) addWhole(key string) {
	if _, _, n, err := ParseKey(key); err == nil && n.Kind != PartKind {
		c.take(n)
	}
}

// take takes one file of the listing. Files come in order, so a segment nearly always continues the last span; a listing
// in another order costs time only.
func (c *Coverage) take(n Name) {
	if n.Kind == Receivers {
		return // it says nothing of what is there
	}
	t := c.timelines[n.Timeline]
	if t == nil {
		t = &timeline{}
		c.timelines[n.Timeline] = t
	}
	switch n.Kind {
	case History:
		t.history = true
	case Partial:
		t.partials = append(t.partials, n.File)
	case Dropped:
		if s, err := gapSpan(n.File, c.SegmentSize); err == nil {
			t.notes = append(t.notes, note{file: n.File, span: s})
		}
	case Segment:
		if seg, err := pg.ParseSegment(n.File, c.SegmentSize); err == nil {
			t.insert(n.Timeline, seg.Number)
		}
	case PartKind:
		seg, err := n.number(c.SegmentSize)
		if _, whole := c.find(n.Timeline, seg.Number); err != nil || whole { // a segment comes in front of its parts
			return
		}
		if p, err := parsePartName(n.File); err == nil && p.To <= int64(c.SegmentSize) {
			if t.parts == nil {
				t.parts = map[uint64][]partName{}
			}
			t.parts[seg.Number] = append(t.parts[seg.Number], p)
		}
	}
}

func (t *timeline) insert(tli pg.Timeline, n uint64) {
	if k := len(t.spans); k > 0 && t.spans[k-1].Last+1 == n {
		t.spans[k-1].Last = n
		return
	}
	// i is the first span that ends at n or behind it.
	i, _ := slices.BinarySearchFunc(t.spans, n, func(s Span, n uint64) int {
		if s.Last < n {
			return -1
		}
		return 1
	})
	if i < len(t.spans) && t.spans[i].First <= n {
		return
	}
	joinsLeft := i > 0 && t.spans[i-1].Last+1 == n
	joinsRight := i < len(t.spans) && n+1 == t.spans[i].First
	switch {
	case joinsLeft && joinsRight:
		t.spans[i-1].Last = t.spans[i].Last
		t.spans = slices.Delete(t.spans, i, i+1)
	case joinsLeft:
		t.spans[i-1].Last = n
	case joinsRight:
		t.spans[i].First = n
	default:
		t.spans = slices.Insert(t.spans, i, Span{Timeline: tli, First: n, Last: n})
	}
}

// Timelines returns every timeline of which the archive holds anything, ascending.
func (c *Coverage) Timelines() []pg.Timeline {
	var all []pg.Timeline
	for tli := range c.timelines {
		all = append(all, tli)
	}
	slices.Sort(all)
	return all
}

// Spans returns the timeline's segments, ascending, never adjacent. The slice is not to be changed.
func (c *Coverage) Spans(tli pg.Timeline) []Span {
	if t := c.timelines[tli]; t != nil {
		return t.spans
	}
	return nil
}

// Partials returns the names of the timeline's .partial files.
func (c *Coverage) Partials(tli pg.Timeline) []string {
	if t := c.timelines[tli]; t != nil {
		return t.partials
	}
	return nil
}

// History returns the way to the timeline. Where the archive lacks its history file (false) it is taken to have no
// ancestors, as PostgreSQL does (readTimeLineHistory in timeline.c). Timeline 1 needs none.
func (c *Coverage) History(tli pg.Timeline) (pg.History, bool) {
	if h, ok := c.histories[tli]; ok {
		return h, true
	}
	return pg.NewHistory(tli), tli == 1
}

// Newest is the timeline that recovery with recovery_target_timeline = 'latest' follows when it begins on start: the
// last of an unbroken row of numbers whose history files are there (findNewestTimeLine in PostgreSQL's timeline.c).
// Whether start is an ancestor of it is another question; PostgreSQL gives up where it is not.
func (c *Coverage) Newest(start pg.Timeline) pg.Timeline {
	for {
		if _, ok := c.histories[start+1]; !ok && c.doubts[start+1] == nil {
			return start
		}
		start++
	}
}

// Has says whether the segment is in the archive, in full; be it in parts.
func (c *Coverage) Has(s pg.Segment) bool {
	_, ok := c.find(s.Timeline, s.Number)
	return ok
}

// HasFile says the same of a file of pg_wal by its name: a segment, a .partial or a history file. Of others it knows nothing.
func (c *Coverage) HasFile(name string) bool {
	tli, err := pg.WALFileTimeline(name)
	if err != nil {
		return false
	}
	switch kind, _ := pg.ClassifyWALFile(name); kind {
	case pg.KindSegment:
		s, err := pg.ParseSegment(name, c.SegmentSize)
		return err == nil && c.Has(s)
	case pg.KindPartial:
		return slices.Contains(c.Partials(tli), name)
	case pg.KindHistory:
		return c.timelines[tli] != nil && c.timelines[tli].history
	}
	return false
}

func (c *Coverage) find(tli pg.Timeline, n uint64) (Span, bool) {
	spans := c.Spans(tli)
	i, _ := slices.BinarySearchFunc(spans, n, func(s Span, n uint64) int {
		if s.Last < n {
			return -1
		}
		return 1
	})
	if i < len(spans) && spans[i].First <= n {
		return spans[i], true
	}
	return Span{}, false
}

// Gap is a row of segments that the archive lacks between others that it holds, or that a GapNote gives up.
type Gap struct {
	Span
	From, To pg.LSN     // To is the start of the first segment behind the gap
	Received pg.LSN     // of the first segment parts are there, up to here; 0: none
	Notes    []*GapNote // what is known of it; none: nobody said why
}

// Gaps returns what is missing inside a timeline, ascending; from its beginning, if the archive holds segments of the
// timeline that it came from; and what notes give up, wherever it is.
func (c *Coverage) Gaps(tli pg.Timeline) []Gap {
	spans, missing := c.Spans(tli), c.noted(tli)
	if r, ok := c.NewestReceived(tli); ok { // which is the end, and no gap
		spans = append(slices.Clip(spans), Span{Timeline: tli, First: r.Number, Last: r.Number})
	}
	add := func(first, last uint64) { missing = append(missing, Span{Timeline: tli, First: first, Last: last}) }
	if h := c.histories[tli]; len(h) > 1 && len(spans) > 0 {
		from := h[len(h)-2]
		if first := c.number(from.LSN); first < spans[0].First && len(c.Spans(from.Timeline)) > 0 {
			add(first, spans[0].First-1)
		}
	}
	for i := 1; i < len(spans); i++ {
		if first, last := spans[i-1].Last+1, spans[i].First-1; first <= last {
			add(first, last)
		}
	}
	var gaps []Gap
	for _, s := range joined(missing) {
		gaps = append(gaps, c.gap(s))
	}
	return gaps
}

func (c *Coverage) gap(s Span) Gap {
	g := Gap{Span: s, From: c.startOf(s.First), To: c.startOf(s.Last + 1), Notes: c.Noted(s)}
	g.Received, _ = c.receivedTo(s.Timeline, s.First)
	return g
}

// number is the segment that holds the byte at lsn.
func (c *Coverage) number(lsn pg.LSN) uint64 { return uint64(lsn) / uint64(c.SegmentSize) }

func (c *Coverage) startOf(n uint64) pg.LSN { return pg.LSN(n * uint64(c.SegmentSize)) }

// numberBefore is the segment that holds the byte before lsn: the last one that replay up to lsn needs.
func (c *Coverage) numberBefore(lsn pg.LSN) uint64 {
	if lsn == 0 {
		return 0
	}
	return c.number(lsn - 1)
}

// nextSpan is the first span of the timeline behind segment n.
func (c *Coverage) nextSpan(tli pg.Timeline, n uint64) (Span, bool) {
	spans := c.Spans(tli)
	i, _ := slices.BinarySearchFunc(spans, n, func(s Span, n uint64) int {
		if s.First <= n {
			return -1
		}
		return 1
	})
	if i < len(spans) {
		return spans[i], true
	}
	return Span{}, false
}

// Missing returns the segments that replay from start to stop needs and the archive lacks, on the way that leads to
// tli: none means that the stretch is complete. A stop on a segment's boundary needs the segment before. Of the last one it takes no
// more than what comes before the stop.
func (c *Coverage) Missing(start, stop pg.LSN, tli pg.Timeline) []Span {
	return c.PathTo(tli).Missing(start, stop)
}

// MissingOf is Missing for a snapshot. Where its own timeline lacks a segment, a later timeline may hold it: the one
// in which a server was promoted contains what the parent had written into it. Replay goes through the first timeline
// on which all is there.
func (c *Coverage) MissingOf(s Snapshot) []Span {
	own := c.Missing(s.StartLSN, s.StopLSN, s.StopTimeline)
	if len(own) == 0 {
		return nil
	}
	for _, tli := range c.Timelines() {
		if tli <= s.StopTimeline {
			continue
		}
		if p := c.PathTo(tli); p.Contains(s) && len(p.Missing(s.StartLSN, s.StopLSN)) == 0 {
			return nil
		}
	}
	return own
}
