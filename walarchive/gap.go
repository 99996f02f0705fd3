package walarchive

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pgtrove/pgtrove/internal/pg"
)

// GapNote says that segments were given up before they came into the archive, and why: a gap that is no riddle. docs/format.md, section
// "Notes of gaps", has its form. Whether the segments are missing is for the listing to say: another host may have archived them.
type GapNote struct {
	Version int       `json:"version"` // 1
	First   string    `json:"first"`   // segments, both on one timeline
	Last    string    `json:"last"`
	Reason  GapReason `json:"reason"`
	Limit   int64     `json:"limit"`   // ReasonBacklog: bytes that were allowed to wait
	Waiting int64     `json:"waiting"` // and at most did, in bytes
	From    time.Time `json:"from"`    // when the first and the last of them was given up
	To      time.Time `json:"to"`
	Host    string    `json:"host"`
	Error   string    `json:"error"` // why they could not be archived
	// Files are those of other kinds that are lost with them, and MoreFiles says how many there are beyond these.
	Files     []string `json:"files,omitempty"`
	MoreFiles int      `json:"more_files,omitempty"`
}

// GapReason is why segments were given up.
type GapReason string

// ReasonBacklog: the storage could not be reached, or was full, and more WAL waited on the server than was allowed.
const ReasonBacklog GapReason = "backlog"

const (
	gapSuffix   = ".gap"
	gapVersion  = 1
	maxGapError = 1000 // bytes
	maxGapFiles = 100
)

// cutGapName takes the names of two segments apart.
func cutGapName(file string) (first, last string, ok bool) {
	names, ok := strings.CutSuffix(file, gapSuffix)
	if !ok {
		return "", "", false
	}
	first, last, ok = strings.Cut(names, "-")
	for _, name := range []string{first, last} {
		kind, err := pg.ClassifyWALFile(name)
		ok = ok && err == nil && kind == pg.KindSegment
	}
	return first, last, ok && first[:8] == last[:8] && first <= last
}

// gapSpan is what the name of a note means where segments have that size.
func gapSpan(file string, size pg.SegmentSize) (Span, error) {
	first, last, ok := cutGapName(file)
	if !ok || !size.Valid() {
		return Span{}, fmt.Errorf("%w: %s with segments of %d bytes", ErrInvalid, file, size)
	}
	a, err := pg.ParseSegment(first, size)
	b, err2 := pg.ParseSegment(last, size)
	if err := errors.Join(err, err2); err != nil {
		return Span{}, fmt.Errorf("%w: %s: %w", ErrInvalid, file, err)
	}
	return Span{Timeline: a.Timeline, First: a.Number, Last: b.Number}, nil
}

// PushGap stores a note. One that is there for the same segments stays, which is no error: they are known to be given up.
// ErrInvalid: First and Last are no segments of one timeline of that size.
func (a Archive) PushGap(ctx context.Context, g GapNote, size pg.SegmentSize) error {
	g.Version = gapVersion
	g.From, g.To = g.From.UTC().Truncate(time.Microsecond), g.To.UTC().Truncate(time.Microsecond)
	g.Error = strings.ToValidUTF8(g.Error[:min(len(g.Error), maxGapError)], "")
	g.MoreFiles = max(0, len(g.Files)-maxGapFiles)
	g.Files = g.Files[:len(g.Files)-g.MoreFiles]
	content, err := json.Marshal(g)
	if err != nil {
		return fmt.Errorf("note a gap: %w", err)
	}
	n, err := ParseName(g.First + "-" + g.Last + gapSuffix)
	if err != nil {
		return fmt.Errorf("note a gap: %w", err)
	}
	h := Header{Kind: Dropped, Cluster: a.Cluster, System: a.System, Timeline: n.Timeline, Name: n.File, Inline: content, Facts: Facts{SegmentSize: size}}
	_, err = a.put(ctx, n, &h, content)
	if errors.Is(err, ErrConflict) {
		return nil
	}
	return err
}

// Gap reads the note out of a header. ErrInvalid: it is of another kind, or says something else than its name.
func (h *Header) Gap() (*GapNote, error) {
	g := &GapNote{}
	if err := json.Unmarshal(h.Inline, g); err != nil || h.Kind != Dropped || g.First+"-"+g.Last+gapSuffix != h.Name || g.Version < gapVersion {
		return nil, fmt.Errorf("%w: %s is no note of a gap", ErrInvalid, h.Name)
	}
	return g, nil
}

// maxNotes is how many notes of gaps a Scan reads, the newest of each timeline first. Of the others it knows the segments.
const maxNotes = 200

// readNotes reads what the listing named. Notes that cannot be read say nothing, and Verify reports them.
func (c *Coverage) readNotes(ctx context.Context, a Archive) error {
	left := maxNotes
	for _, tli := range c.Timelines() {
		t := c.timelines[tli]
		for i := len(t.notes) - 1; i >= 0 && left > 0; i-- {
			left--
			h, err := a.Header(ctx, t.notes[i].file)
			if errors.Is(err, ErrDamaged) || errors.Is(err, ErrNotExist) {
				continue
			}
			if err != nil {
				return err
			}
			if g, err := h.Gap(); err == nil {
				t.notes[i].note = g
			}
		}
	}
	return nil
}

// note is a GapNote in a listing.
type note struct {
	file string
	span Span
	note *GapNote // nil: not read
}

// Noted returns what notes say of the segments of a gap: those that concern any of it, in order of their segments.
func (c *Coverage) Noted(s Span) []*GapNote {
	var all []*GapNote
	if t := c.timelines[s.Timeline]; t != nil {
		for _, n := range t.notes {
			if n.span.First > s.Last || n.span.Last < s.First {
				continue
			}
			if n.note == nil {
				first, last, _ := cutGapName(n.file)
				n.note = &GapNote{First: first, Last: last}
			}
			all = append(all, n.note)
		}
	}
	return all
}

// noted are the stretches of the timeline that notes give up and that are not there, ascending; they may touch or overlap.
func (c *Coverage) noted(tli pg.Timeline) (missing []Span) {
	t := c.timelines[tli]
	if t == nil {
		return nil
	}
	for _, n := range t.notes {
		next := n.span.First
		for _, s := range t.spans {
			if s.Last < next {
				continue
			}
			if s.First > n.span.Last {
				break
			}
			if s.First > next {
				missing = append(missing, Span{Timeline: tli, First: next, Last: s.First - 1})
			}
			next = s.Last + 1
		}
		if next <= n.span.Last {
			missing = append(missing, Span{Timeline: tli, First: next, Last: n.span.Last})
		}
	}
	return missing
}

// joined makes of spans of one timeline, in any order, those that neither touch nor overlap.
func joined(spans []Span) (all []Span) {
	slices.SortFunc(spans, func(a, b Span) int { return cmp.Compare(a.First, b.First) })
	for _, s := range spans {
		if k := len(all); k > 0 && s.First <= all[k-1].Last+1 {
			all[k-1].Last = max(all[k-1].Last, s.Last)
			continue
		}
		all = append(all, s)
	}
	return all
}
