package snapshot

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Period is a span of the calendar, such as a month, which is not always as long.
type Period struct{ Years, Months, Days, Hours int }

// maxPeriod bounds each number of a period: what is longer is a slip of the hand, and time.Time would not hold it.
const maxPeriod = 9999

// ParsePeriod reads a span: numbers, each with its unit, such as 7d or 1y6m. The units are h (hours), d (days), w (weeks), m (months) and y (years), each at
// most once. A number without one is refused, and so is a span of nothing.
func ParsePeriod(text string) (Period, error) {
	bad := fmt.Errorf("%q: give a time such as 12h, 7d, 2w, 3m (months) or 1y, or several together: 1y6m", text)
	if !regexp.MustCompile(`^([0-9]+[hdwmy])+$`).MatchString(text) {
		return Period{}, bad
	}
	var p Period
	seen := ""
	for _, part := range regexp.MustCompile(`[0-9]+[hdwmy]`).FindAllString(text, -1) {
		unit := part[len(part)-1:]
		n, err := strconv.Atoi(part[:len(part)-1])
		if err != nil || n > maxPeriod || strings.Contains(seen, unit) {
			return Period{}, bad
		}
		seen += unit
		switch unit {
		case "h":
			p.Hours += n
		case "d":
			p.Days += n
		case "w":
			p.Days += 7 * n
		case "m":
			p.Months += n
		case "y":
			p.Years += n
		}
	}
	if p.IsZero() {
		return Period{}, bad
	}
	return p, nil
}

// IsZero says whether the period is none.
func (p Period) IsZero() bool { return p == Period{} }

func (p Period) String() string {
	var b strings.Builder
	for _, part := range []struct {
		n    int
		unit string
	}{{p.Years, "y"}, {p.Months, "m"}, {p.Days, "d"}, {p.Hours, "h"}} {
		if part.n > 0 {
			fmt.Fprintf(&b, "%d%s", part.n, part.unit)
		}
	}
	return b.String()
}

// Before is the moment that lies the period before t, in UTC, where every day has 24 hours. A month before the 31st is the last day of a month that has
// no 31st: never later, so that nothing becomes too old by it.
func (p Period) Before(t time.Time) time.Time {
	t = t.UTC()
	day := t.Day()
	first := t.AddDate(0, 0, 1-day).AddDate(-p.Years, -p.Months, 0)
	last := first.AddDate(0, 1, -1).Day()
	return first.AddDate(0, 0, min(day, last)-1-p.Days).Add(-time.Duration(p.Hours) * time.Hour)
}
