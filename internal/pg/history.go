package pg

import (
	"fmt"
	"strconv"
	"strings"
)

// Switch is one timeline of a history and where the history leaves it.
type Switch struct {
	Timeline Timeline
	LSN      LSN    // the first position that no longer belongs to Timeline; MaxLSN for the history's own, last timeline
	Reason   string // as the server wrote it, possibly empty
}

// History is the way to a timeline: its ancestors, oldest first, and the timeline itself as the last element with the LSN
// MaxLSN. It is never empty when it comes from ParseHistory or NewHistory.
type History []Switch

// NewHistory is the history of a timeline without a history file: timeline 1.
func NewHistory(tli Timeline) History { return History{{Timeline: tli, LSN: MaxLSN}} }

// ParseHistory reads the history file of the timeline tli. It accepts what readTimeLineHistory accepts: comments and empty lines, and
// ancestors in ascending order below tli. Errors: ErrHistory, naming the line.
func ParseHistory(tli Timeline, data []byte) (History, error) {
	var h History
	no := 0
	for line := range strings.Lines(string(data)) {
		no++
		line = strings.Trim(line, " \t\r\n\v\f")
		if line == "" || line[0] == '#' {
			continue
		}
		s, err := parseSwitch(line)
		if err != nil {
			return nil, fmt.Errorf("history of timeline %d, line %d: %w: %q", tli, no, err, clip(line))
		}
		if len(h) > 0 && s.Timeline <= h[len(h)-1].Timeline {
			return nil, fmt.Errorf("history of timeline %d, line %d: %w: timeline %d after %d",
				tli, no, ErrHistory, s.Timeline, h[len(h)-1].Timeline)
		}
		if s.Timeline >= tli {
			return nil, fmt.Errorf("history of timeline %d, line %d: %w: timeline %d is no ancestor of it", tli, no, ErrHistory, s.Timeline)
		}
		h = append(h, s)
	}
	return append(h, Switch{Timeline: tli, LSN: MaxLSN}), nil
}

// parseSwitch reads "<timeline, decimal> <LSN> <reason>". Fields are separated by tabs; sscanf takes any white space.
func parseSwitch(line string) (Switch, error) {
	end := strings.IndexAny(line, " \t")
	if end < 0 {
		return Switch{}, ErrHistory
	}
	tli, err := strconv.ParseUint(line[:end], 10, 32)
	if err != nil || tli == 0 {
		return Switch{}, ErrHistory
	}
	rest := strings.TrimLeft(line[end:], " \t")
	lsnText, reason := rest, ""
	if end := strings.IndexAny(rest, " \t"); end >= 0 {
		lsnText, reason = rest[:end], strings.TrimLeft(rest[end:], " \t")
	}
	lsn, err := ParseLSN(lsnText)
	if err != nil {
		return Switch{}, ErrHistory
	}
	return Switch{Timeline: Timeline(tli), LSN: lsn, Reason: reason}, nil
}

func clip(s string) string {
	if len(s) > 100 {
		return s[:100] + "..."
	}
	return s
}

// Timeline is the history's own timeline, 0 for an empty history.
func (h History) Timeline() Timeline {
	if len(h) == 0 {
		return 0
	}
	return h[len(h)-1].Timeline
}

// Contains reports whether the byte at lsn of the timeline tli is part of this history (tliOfPointInHistory). Positions of the
// last timeline all are, from where it began. For the end of a stretch, such as a stop position, see ContainsEnd.
func (h History) Contains(tli Timeline, lsn LSN) bool {
	begin, end, ok := h.Bounds(tli)
	return ok && begin <= lsn && lsn < end
}

// ContainsEnd reports whether WAL of the timeline tli that ends right before lsn is part of this history: the byte before lsn is. A
// backup that stops exactly where the next timeline forks off belongs to both.
func (h History) ContainsEnd(tli Timeline, lsn LSN) bool {
	return lsn > 0 && h.Contains(tli, lsn-1)
}

// Bounds is the stretch of the timeline tli in this history: from begin, up to and without end. false when it is not part of it.
func (h History) Bounds(tli Timeline) (begin, end LSN, ok bool) {
	for _, s := range h {
		if s.Timeline == tli {
			return begin, s.LSN, true
		}
		begin = s.LSN
	}
	return 0, 0, false
}

// SwitchPoint is where this history leaves the timeline tli for the next; false when tli is the last or no part of it.
func (h History) SwitchPoint(tli Timeline) (LSN, bool) {
	for i, s := range h {
		if s.Timeline == tli {
			return s.LSN, i < len(h)-1
		}
	}
	return 0, false
}

// TimelineAt is the timeline whose byte at lsn is part of this history, 0 for an empty history.
func (h History) TimelineAt(lsn LSN) Timeline {
	for _, s := range h {
		if lsn < s.LSN {
			return s.Timeline
		}
	}
	return h.Timeline()
}
