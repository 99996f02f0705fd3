package snapshot

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Policy says which snapshots of a cluster stay; a rule of zero is none. A snapshot stays if any rule wants it.
//
// The rules that count take the newest snapshot of each hour, day, week (from Monday, as ISO 8601 has it), month or year, in UTC, and of these the last so
// many: hours and days without any do not count. A snapshot that lacks WAL, and so cannot be restored now, stays wherever it would if it
// could be, but takes the place of none that can. So does one whose time lies ahead: it would outrank all that follow until that time has come.
type Policy struct {
	Last, Hourly, Daily, Weekly, Monthly, Yearly int
	Within                                       Period // before the newest snapshot, or before now where that is earlier
	// PITR is the time before the last moment that can be recovered (or before now, where that is earlier) of which every moment stays so.
	PITR Period
}

// IsZero says whether the policy has no rule, so that it would keep next to nothing.
func (p Policy) IsZero() bool { return p == Policy{} }

// Candidate is a snapshot that a policy judges.
type Candidate struct {
	ID         string
	Time       time.Time // its retention time; one after now is wrong, and counts as now
	Ended      time.Time // by its own word, as recovery sees it; zero: not known
	Good       bool      // the WAL that it needs is there
	Flawed     bool      // pages were damaged when it was taken
	Pinned     bool
	Narrowed   bool   // of the WAL behind it nothing is kept on its behalf any more
	Unreadable bool   // only ID, Time and Pinned are known
	Held       string // why it stays whatever the policy says, besides
	Leads      string // to which timeline that may be in use, by any name: of each name the newest good one stays; "": to none that needs it
}

// Stretch is a stretch of time of which every moment can be recovered.
type Stretch struct {
	Until time.Time // the last of them
	From  []string  // IDs of the snapshots that lead into it, of narrowed ones those whose branch it is
}

// Verdict is what a policy says of a snapshot.
type Verdict struct {
	Candidate
	Reasons []string // why it stays; none: it goes
	// Narrow is true of a snapshot that stays, older than what the policy wants every moment of: of the WAL it needs only what leads to its own moment.
	Narrow bool

	ahead bool // its time was after now
	base  bool // what leads to a timeline in use
}

// Keep says whether the snapshot stays.
func (v Verdict) Keep() bool { return len(v.Reasons) > 0 }

// Judge says of each snapshot of a cluster what becomes of it, the oldest first; of equal times the later ID counts as newer. Always kept are what is pinned, what
// cannot be read, the newest that can be restored, the newest of these without damaged pages, and what leads to a timeline in use; if none can be restored, the newest.
func (p Policy) Judge(now time.Time, candidates []Candidate, stretches []Stretch) []Verdict {
	j := &judgement{now: now}
	for _, c := range candidates {
		v := &Verdict{Candidate: c, ahead: c.Time.After(now)}
		v.Time = until(c.Time, now)
		j.all = append(j.all, v)
	}
	slices.SortFunc(j.all, func(a, b *Verdict) int { return cmp.Or(b.Time.Compare(a.Time), strings.Compare(b.ID, a.ID)) })
	j.always()
	j.bases()
	readable := func(v *Verdict) bool { return !v.Unreadable }
	timed := func(v *Verdict) bool { return readable(v) && !v.ahead }
	good := func(v *Verdict) bool { return timed(v) && v.Good }
	for _, of := range []func(*Verdict) bool{readable, timed, good} {
		j.count(p, of)
	}
	j.within(p.Within, j.newest(readable))
	if !p.PITR.IsZero() {
		from, _ := p.Promised(now, candidates, stretches)
		j.window(p.PITR, from, stretches)
	}
	verdicts := make([]Verdict, 0, len(j.all))
	for _, v := range slices.Backward(j.all) {
		verdicts = append(verdicts, *v)
	}
	return verdicts
}

// judgement is one run of a policy, the newest snapshot first.
type judgement struct {
	now time.Time
	all []*Verdict
}

func (v *Verdict) keep(reason string) {
	if !slices.Contains(v.Reasons, reason) {
		v.Reasons = append(v.Reasons, reason)
	}
}

// newest returns the newest snapshot of a kind, nil if there is none.
func (j *judgement) newest(is func(*Verdict) bool) *Verdict {
	if i := slices.IndexFunc(j.all, is); i >= 0 {
		return j.all[i]
	}
	return nil
}

// always keeps what no policy removes.
func (j *judgement) always() {
	for _, v := range j.all {
		if v.Pinned {
			v.keep("pinned")
		}
		if v.Unreadable {
			v.keep("cannot be read")
		}
		if v.Held != "" {
			v.keep(v.Held)
		}
	}
	ok := func(v *Verdict) bool { return v.Good && !v.Unreadable && !v.ahead }
	good := j.newest(ok)
	if good == nil {
		ok = func(v *Verdict) bool { return v.Good && !v.Unreadable }
		good = j.newest(ok)
	}
	if good == nil {
		if v := j.newest(func(v *Verdict) bool { return !v.Unreadable }); v != nil {
			v.keep("newest")
		}
		return
	}
	good.keep("last good")
	if sound := j.newest(func(v *Verdict) bool { return ok(v) && !v.Flawed }); good.Flawed && sound != nil {
		sound.keep("last without damaged pages")
	}
}

// bases keeps the newest good snapshot that leads to each timeline that is in use and has none: the newest of all may stand on a timeline that was left.
func (j *judgement) bases() {
	done := map[string]bool{"": true}
	for _, v := range j.all {
		if v.Good && !v.Unreadable && !done[v.Leads] {
			done[v.Leads] = true
			v.base = true
			v.keep("leads to the live timeline")
		}
	}
}

// count applies the rules that count, to the snapshots of a kind.
func (j *judgement) count(p Policy, of func(*Verdict) bool) {
	n := 0
	for _, v := range j.all {
		if n < p.Last && of(v) {
			v.keep("last")
			n++
		}
	}
	for _, rule := range []struct {
		n      int
		reason func(t time.Time) string // of those that have the same only the newest counts
	}{
		{p.Hourly, func(t time.Time) string { return t.Format("hourly 2006-01-02 15h") }},
		{p.Daily, func(t time.Time) string { return t.Format("daily 2006-01-02") }},
		{p.Weekly, func(t time.Time) string {
			year, week := t.ISOWeek()
			return fmt.Sprintf("weekly %d-W%02d", year, week)
		}},
		{p.Monthly, func(t time.Time) string { return t.Format("monthly 2006-01") }},
		{p.Yearly, func(t time.Time) string { return t.Format("yearly 2006") }},
	} {
		n, before := 0, ""
		for _, v := range j.all {
			if reason := rule.reason(v.Time.UTC()); n < rule.n && of(v) && reason != before {
				v.keep(reason)
				before = reason
				n++
			}
		}
	}
}

// until is the moment from which a rule counts back: t, but not later than now. So neither a clock that runs ahead nor backups or archiving that
// stopped long ago make the last of what there is too old.
func until(t, now time.Time) time.Time {
	if t.After(now) {
		return now
	}
	return t
}

func (j *judgement) within(p Period, newest *Verdict) {
	if p.IsZero() || newest == nil {
		return
	}
	from := p.Before(until(newest.Time, j.now))
	for _, v := range j.all {
		if !v.Unreadable && !v.Time.Before(from) {
			v.keep("within " + p.String())
		}
	}
}

// Promised is the time of which every moment stays recoverable, if it is so now; it begins and ends with the zero time where the policy has no PITR.
func (p Policy) Promised(now time.Time, candidates []Candidate, stretches []Stretch) (from, to time.Time) {
	if p.PITR.IsZero() {
		return time.Time{}, time.Time{}
	}
	for _, c := range candidates {
		if c.Good && !c.Unreadable {
			to = later(to, c.Time)
		}
	}
	for _, s := range stretches {
		to = later(to, s.Until)
	}
	to = until(to, now)
	return p.PITR.Before(to), to
}

// window keeps what the time from from on needs: all snapshots in it, and where it begins, the newest before it.
func (j *judgement) window(p Period, from time.Time, stretches []Stretch) {
	anchors := j.anchors(from, stretches)
	newest := slices.IndexFunc(j.all, func(v *Verdict) bool { return anchors[v.ID] })
	for i, v := range j.all {
		switch {
		case v.Time.After(from), anchors[v.ID], i < newest, newest < 0 && !v.Narrowed:
			v.keep("pitr window " + p.String())
		case v.Keep():
			v.Narrow = !v.Unreadable && !v.base // what WAL it needs is not known
		}
	}
}

// anchors are the snapshots from which recovery to the moments after from begins: the newest one of all that is as old, and of each
// stretch that goes on after from, since the newest may stand on a timeline that leads nowhere.
func (j *judgement) anchors(from time.Time, stretches []Stretch) map[string]bool {
	anchors := map[string]bool{}
	take := func(is func(*Verdict) bool) {
		if v := j.newest(func(v *Verdict) bool {
			return v.Good && !v.Unreadable && !v.Time.After(from) && !v.Ended.After(from) && is(v)
		}); v != nil {
			anchors[v.ID] = true
		}
	}
	take(func(v *Verdict) bool { return !v.Narrowed })
	for _, s := range stretches {
		if !s.Until.Before(from) {
			take(func(v *Verdict) bool { return slices.Contains(s.From, v.ID) })
		}
	}
	return anchors
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
