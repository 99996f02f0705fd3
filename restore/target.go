package restore

import (
	"fmt"
	"strconv"
	"time"

	"github.com/pgtrove/pgtrove/internal/pg"
)

// Kind is what a target is named by.
type Kind uint8

// The kinds of targets.
const (
	EndOfArchive Kind = iota // no target: everything that is archived
	AtTime
	AtLSN
	AtXID
	AtName    // a restore point
	Immediate // where the snapshot becomes consistent
)

// Target is where recovery is to end. The zero value is the end of the archive on the latest timeline.
type Target struct {
	Kind Kind
	Time time.Time
	LSN  pg.LSN
	// XID is the transaction to recover to. One below 2^32 is compared as PostgreSQL compares transaction IDs, without
	// epoch.
	XID       uint64
	Name      string
	Exclusive bool // end before the time, LSN or transaction, not behind it
	Timeline  TimelineGoal
}

// TimelineGoal is which branch of the history recovery follows. The zero value is the latest.
type TimelineGoal struct {
	Current bool        // the snapshot's own
	Number  pg.Timeline // this one; 0: the latest, unless Current
}

// ParseTimelineGoal reads recovery_target_timeline: latest, current, or a number (decimal, or hexadecimal behind 0x, as
// PostgreSQL takes it).
func ParseTimelineGoal(s string) (TimelineGoal, error) {
	switch s {
	case "latest", "":
		return TimelineGoal{}, nil
	case "current":
		return TimelineGoal{Current: true}, nil
	}
	n, err := strconv.ParseUint(s, 0, 32)
	if err != nil || n == 0 {
		return TimelineGoal{}, fmt.Errorf("timeline %q is not latest, current, or a number above 0", s)
	}
	return TimelineGoal{Number: pg.Timeline(n)}, nil
}

// String describes the target in messages.
func (t Target) String() string {
	switch t.Kind {
	case AtTime:
		return "time " + showTime(t.Time)
	case AtLSN:
		return "LSN " + t.LSN.String()
	case AtXID:
		return fmt.Sprintf("transaction %d", t.XID)
	case AtName:
		return fmt.Sprintf("restore point %q", t.Name)
	case Immediate:
		return "the end of the snapshot"
	}
	return "the end of the archive"
}

// showTime is a time in messages: UTC, as precise as PostgreSQL's.
func showTime(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05.999999Z") }

// Moment is somewhere that can be recovered to.
type Moment struct {
	Timeline pg.Timeline
	LSN      pg.LSN
	Time     time.Time
}

func (m Moment) String() string {
	return fmt.Sprintf("%s (%s on timeline %d)", showTime(m.Time), m.LSN, m.Timeline)
}

// UnreachableError says why a target cannot be reached, and what can be near it. Nothing was fetched.
type UnreachableError struct {
	Target Target
	Reason string
	// Earlier and Later are the nearest moments that can be reached; nil where there is none on that side, or where
	// the target has no place in time.
	Earlier, Later *Moment
}

func (e *UnreachableError) Error() string {
	return fmt.Sprintf("cannot recover to %s: %s", e.Target, e.Reason)
}

// Unwrap makes errors.Is(err, ErrUnreachable) true.
func (e *UnreachableError) Unwrap() error { return ErrUnreachable }

// Nearest says what can be reached instead, as half a sentence; "" if nothing is known.
func (e *UnreachableError) Nearest() string {
	switch {
	case e.Earlier != nil && e.Later != nil:
		return fmt.Sprintf("what can be reached nearby: up to %s, and from %s on", e.Earlier, e.Later)
	case e.Earlier != nil:
		return fmt.Sprintf("what can be reached ends at %s; without a target, recovery goes on to the end of the archive", e.Earlier)
	case e.Later != nil:
		return fmt.Sprintf("what can be reached begins at %s", e.Later)
	}
	return ""
}
