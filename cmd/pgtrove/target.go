package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/restore"
)

// targetFlags are the flags of restore that say where recovery ends.
type targetFlags struct {
	time, lsn, xid, name string
	immediate            bool
	timeline             string
	exclusive            bool
	action               string
}

func (t *targetFlags) add(f *pflag.FlagSet) {
	f.StringVar(&t.time, "target-time", "", "recover to this `time`, with its zone: 2026-05-04T12:30:00Z, '2026-05-04 14:30:00+02'")
	f.StringVar(&t.lsn, "target-lsn", "", "recover to this `LSN`")
	f.StringVar(&t.xid, "target-xid", "", "recover to the end of this `transaction`")
	f.StringVar(&t.name, "target-name", "", "recover to this restore point, made with pg_create_restore_point(`name`)")
	f.BoolVar(&t.immediate, "target-immediate", false, "recover to the end of the snapshot only")
	f.StringVar(&t.timeline, "target-timeline", "", "follow this `timeline`: a number, latest (default) or current")
	f.BoolVar(&t.exclusive, "target-exclusive", false, "end right before the target time, LSN or transaction instead of right after")
	f.StringVar(&t.action, "target-action", "", "what the server does at the target, an `action`: promote (default), pause or shutdown")
}

// parse returns the target, and what the server is to do there.
func (t *targetFlags) parse() (restore.Target, restore.Action, error) {
	target, err := t.kind()
	if err == nil {
		target.Timeline, err = restore.ParseTimelineGoal(t.timeline)
	}
	if err != nil {
		return target, "", restoreUsage(err)
	}
	target.Exclusive = t.exclusive
	switch target.Kind {
	case restore.AtTime, restore.AtLSN, restore.AtXID:
	default:
		if t.exclusive {
			return target, "", restoreUsage(errors.New("--target-exclusive needs --target-time, --target-lsn or --target-xid"))
		}
	}
	action := restore.Action(t.action)
	switch action {
	case "", restore.Promote, restore.Pause, restore.Shutdown:
	default:
		return target, "", restoreUsage(fmt.Errorf("--target-action %q: give promote, pause or shutdown", t.action))
	}
	if action != "" && target.Kind == restore.EndOfArchive {
		return target, "", restoreUsage(errors.New("--target-action needs a target; at the end of the archive PostgreSQL always promotes"))
	}
	return target, action, nil
}

func restoreUsage(err error) error { return usageError{err: err, command: "pgtrove restore"} }

// kind reads the one flag that names a target.
func (t *targetFlags) kind() (restore.Target, error) {
	var target restore.Target
	var given []string
	var err error
	if t.time != "" {
		given = append(given, "--target-time")
		target.Kind = restore.AtTime
		target.Time, err = parseTime(t.time)
	}
	if t.lsn != "" && err == nil {
		given = append(given, "--target-lsn")
		target.Kind = restore.AtLSN
		target.LSN, err = pg.ParseLSN(t.lsn)
	}
	if t.xid != "" && err == nil {
		given = append(given, "--target-xid")
		target.Kind = restore.AtXID
		if target.XID, err = strconv.ParseUint(t.xid, 10, 64); err != nil || target.XID == 0 {
			err = fmt.Errorf("--target-xid %q: give a transaction ID, as pg_current_xact_id() returns it", t.xid)
		}
	}
	if t.name != "" {
		given = append(given, "--target-name")
		target.Kind, target.Name = restore.AtName, t.name
	}
	if t.immediate {
		given = append(given, "--target-immediate")
		target.Kind = restore.Immediate
	}
	if err == nil && len(given) > 1 {
		err = fmt.Errorf("%s: give one target", strings.Join(given, " and "))
	}
	return target, err
}

// parseTime reads a time as PostgreSQL and RFC 3339 write it. It wants a zone: whoever restores a production database
// should not find out afterwards which one was meant.
func parseTime(text string) (time.Time, error) {
	s := strings.TrimSpace(text)
	if day := len("2006-01-02"); len(s) > day && s[day] == 'T' {
		s = s[:day] + " " + s[day+1:]
	}
	for _, zone := range []string{" UTC", " GMT", "Z", " Z"} {
		if before, ok := strings.CutSuffix(s, zone); ok {
			s = before + "+00"
			break
		}
	}
	for _, clock := range []string{"2006-01-02 15:04:05", "2006-01-02 15:04"} { // a fraction of a second may follow
		for _, zone := range []string{"-07", "-07:00", "-0700", " -07", " -07:00", " -0700"} {
			if t, err := time.Parse(clock+zone, s); err == nil {
				return t, nil
			}
		}
		if _, err := time.Parse(clock, s); err == nil {
			return time.Time{}, fmt.Errorf("--target-time %q has no time zone: add one, such as Z for UTC, or +02", text)
		}
	}
	return time.Time{}, fmt.Errorf("--target-time %q: give a time such as 2026-05-04T12:30:00Z or '2026-05-04 14:30:00+02'", text)
}
