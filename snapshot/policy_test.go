package snapshot

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// at is a moment of November 2026, of which the 1st is a Sunday.
func at(day, hour int) time.Time { return time.Date(2026, 11, day, hour, 0, 0, 0, time.UTC) }

// nights are good snapshots at 2:15 of the days from to to, called by their day.
func nights(from, to int) (all []Candidate) {
	for d := from; d <= to; d++ {
		all = append(all, Candidate{ID: fmt.Sprintf("%02d", d), Time: at(d, 2).Add(15 * time.Minute), Good: true})
	}
	return all
}

// but changes snapshots of those by their IDs.
func but(all []Candidate, change func(*Candidate), ids ...string) []Candidate {
	all = slices.Clone(all)
	for i := range all {
		if slices.Contains(ids, all[i].ID) {
			change(&all[i])
		}
	}
	return all
}

func lacksWAL(c *Candidate)  { c.Good = false }
func isPinned(c *Candidate)  { c.Pinned = true }
func isFlawed(c *Candidate)  { c.Flawed = true }
func isDamaged(c *Candidate) { c.Good, c.Unreadable = false, true }
func isNarrow(c *Candidate)  { c.Narrowed = true }
func isHeld(c *Candidate)    { c.Held = "held" }
func leads(c *Candidate)     { c.Leads = "2" }
func isAhead(c *Candidate)   { c.Time = c.Time.AddDate(1, 0, 0) }

func period(t *testing.T, text string) Period {
	t.Helper()
	p, err := ParsePeriod(text)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPoliciesKeepWhatTheySay(t *testing.T) {
	week, day := period(t, "7d"), period(t, "1d")
	now := at(30, 4)
	twice := append(nights(1, 30), Candidate{ID: "30b", Time: at(30, 2).Add(15 * time.Minute), Good: true})
	zone := []Candidate{ // the 2nd began at 1:00 there, which is still the 1st in UTC
		{ID: "1", Time: time.Date(2026, 11, 2, 0, 30, 0, 0, time.FixedZone("", 3600)), Good: true}, {ID: "2", Time: at(2, 0), Good: true}}
	both := []Stretch{{Until: at(20, 12), From: []string{"19", "20"}}, {Until: at(30, 3), From: []string{"21", "29", "30"}}}
	side := []Stretch{{Until: at(30, 3), From: []string{"10", "25", "30"}}, {Until: at(20, 12), From: []string{"20"}}}
	for _, c := range []struct {
		name      string
		policy    Policy
		all       []Candidate
		stretches []Stretch
		want      string // what stays, the oldest first; a dash for what is narrowed
	}{
		{"the last ones", Policy{Last: 3}, nights(1, 30), nil, "28 29 30"},
		{"more than there are", Policy{Last: 9}, nights(1, 3), nil, "01 02 03"},
		{"none", Policy{}, nights(1, 30), nil, "30"},
		{"nothing", Policy{Last: 1}, nil, nil, ""},
		{"days", Policy{Daily: 2}, twice, nil, "29 30b"},
		{"hours, of those that have a snapshot", Policy{Hourly: 2}, twice, nil, "29 30b"},
		{"weeks end with Sunday", Policy{Weekly: 3}, nights(1, 30), nil, "22 29 30"},
		{"months and years", Policy{Monthly: 2, Yearly: 2}, append(nights(1, 3), Candidate{ID: "00", Time: at(-3, 0), Good: true}), nil, "00 03"},
		{"days are those of UTC", Policy{Daily: 2}, zone, nil, "1 2"},
		{"several rules", Policy{Last: 1, Daily: 2, Weekly: 2}, nights(1, 30), nil, "29 30"},
		{"within, both ends included", Policy{Within: week}, nights(1, 30), nil, "23 24 25 26 27 28 29 30"},
		{"within, of backups that ended long ago", Policy{Within: day}, nights(1, 5), nil, "04 05"},
		{"within, by a clock that runs behind", Policy{Within: day}, nights(1, 40), nil, "30 31 32 33 34 35 36 37 38 39 40"},
		{"equal times: the later ID is newer", Policy{Last: 1}, twice, nil, "30b"},
		{"pins", Policy{Last: 1}, but(nights(1, 30), isPinned, "03", "30"), nil, "03 30"},
		{"held ones", Policy{Last: 1}, but(nights(1, 30), isHeld, "03"), nil, "03 30"},
		{"damaged ones stay and take no place", Policy{Last: 2}, but(nights(1, 30), isDamaged, "03", "30"), nil, "03 28 29 30"},
		{"what lacks WAL takes no place of what does not", Policy{Last: 2}, but(nights(1, 30), lacksWAL, "28", "30"), nil, "27 29 30"},
		{"what lacks WAL is no day's last good one", Policy{Daily: 1}, but(twice, lacksWAL, "30b"), nil, "30 30b"},
		{"the last good one is old", Policy{Last: 1}, but(nights(1, 30), lacksWAL, "27", "28", "29", "30"), nil, "26 30"},
		{"none is good", Policy{Daily: 2}, but(nights(1, 3), lacksWAL, "01", "02", "03"), nil, "02 03"},
		{"none is good, none is wanted", Policy{}, but(nights(1, 3), lacksWAL, "01", "02", "03"), nil, "03"},
		{"the last one without damaged pages", Policy{Last: 1}, but(nights(1, 30), isFlawed, "29", "30"), nil, "28 30"},
		{"what lies ahead takes no place of what does not", Policy{Last: 2, Daily: 1}, but(nights(1, 30), isAhead, "03"), nil, "29 30 03"},
		{"several lie ahead", Policy{Last: 1}, but(nights(1, 30), isAhead, "03", "04"), nil, "30 04"},
		{"all lie ahead", Policy{Last: 1}, but(nights(1, 3), isAhead, "01", "02", "03"), nil, "03"},
		{"what lies ahead is not the last good one", Policy{Weekly: 1}, but(but(nights(1, 30), isAhead, "03"), lacksWAL, "30"), nil, "29 30 03"},
		{"all have damaged pages", Policy{Last: 1}, but(nights(1, 3), isFlawed, "01", "02", "03"), nil, "03"},

		{"what leads to the live timeline", Policy{Last: 2}, but(nights(1, 30), leads, "02", "03"), nil, "03 29 30"},
		{"likewise, and none of it is good", Policy{Last: 2}, but(but(nights(1, 30), leads, "02", "03"), lacksWAL, "02", "03"), nil, "29 30"},
		{"likewise, one lacks WAL", Policy{Last: 2}, but(but(nights(1, 30), leads, "02", "03"), lacksWAL, "03"), nil, "02 29 30"},
		{"what leads to the live timeline is not narrowed", Policy{PITR: day, Last: 1}, but(nights(1, 30), leads, "02", "03"), nil, "03 29 30"},
		{"a narrowed one that the window begins with", Policy{PITR: period(t, "10d")}, but(nights(1, 30), isNarrow, "04", "05"),
			[]Stretch{{Until: at(29, 0), From: []string{"04", "05", "27"}}}, "05 20 21 22 23 24 25 26 27 28 29 30"},

		{"a window", Policy{PITR: day}, nights(1, 30), nil, "29 30"},
		{"a window and older ones, which are narrowed", Policy{PITR: day, Weekly: 3}, nights(1, 30), nil, "22- 29 30"},
		{"a window that begins before all snapshots", Policy{PITR: week, Last: 1}, nights(25, 30), nil, "25 26 27 28 29 30"},
		{"a window, in which some lack WAL", Policy{PITR: day}, but(nights(1, 30), lacksWAL, "28", "29"), nil, "27 28 29 30"},
		{"a window, and one that claims to have ended later", Policy{PITR: day}, but(nights(1, 30), func(c *Candidate) { c.Ended = at(29, 3) }, "29"), nil, "28 29 30"},
		{"a window of nothing good", Policy{PITR: day, Last: 1}, but(nights(1, 3), lacksWAL, "01", "02", "03"), nil, "01 02 03"},
		{"a window, pins behind it", Policy{PITR: day}, but(nights(1, 30), isPinned, "03"), nil, "03- 29 30"},
		{"a window, damaged ones behind it", Policy{PITR: day}, but(nights(1, 30), isDamaged, "03"), nil, "03 29 30"},
		{"a window longer than the last one asked for", Policy{PITR: week, Weekly: 3}, but(nights(1, 30), isNarrow, "22", "23", "15"), nil, "21 22 23 24 25 26 27 28 29 30"},
		{"a window, all before it narrowed", Policy{PITR: period(t, "2d"), Weekly: 3}, but(nights(1, 30), isNarrow, "15", "22", "28"), nil, "22- 27 28 29 30"},
		{"only narrowed ones are as old", Policy{PITR: week, Weekly: 2}, but(nights(20, 30), isNarrow, "20", "21", "22", "23"), nil, "24 25 26 27 28 29 30"},
		{"a window of a cluster that is backed up no more", Policy{PITR: day}, nights(1, 5), []Stretch{{Until: at(8, 0), From: []string{"05"}}}, "05"},
		{"a window of a cluster that archives no more", Policy{PITR: day, Last: 1}, but(nights(1, 30), lacksWAL, "28", "29", "30"),
			[]Stretch{{Until: at(27, 20), From: []string{"25", "26", "27"}}}, "26 27 28 29 30"},
		{"two systems, one replaced long ago", Policy{PITR: day, Last: 1}, nights(1, 30), both, "29 30"},
		{"two systems, one replaced within the window", Policy{PITR: period(t, "10d")}, nights(1, 30), both, "20 21 22 23 24 25 26 27 28 29 30"},
		{"the newest stands on a timeline that ended", Policy{PITR: period(t, "8d"), Last: 1}, []Candidate{
			{ID: "05", Time: at(5, 0), Good: true}, {ID: "10", Time: at(10, 0), Good: true}, {ID: "15", Time: at(15, 0), Good: true, Pinned: true},
			{ID: "20", Time: at(20, 0), Good: true}, {ID: "25", Time: at(25, 0), Good: true}, {ID: "30", Time: at(30, 0), Good: true}}, side, "10 15- 20 25 30"},
	} {
		var got []string
		for _, v := range c.policy.Judge(now, c.all, c.stretches) {
			if v.Keep() {
				got = append(got, v.ID+map[bool]string{true: "-"}[v.Narrow])
			} else if v.Narrow {
				t.Errorf("%s: %s goes and is narrowed", c.name, v.ID)
			}
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: %v stay, not %s", c.name, got, c.want)
		}
	}
}

func TestEverySnapshotThatStaysHasItsReasons(t *testing.T) {
	p := Policy{Last: 1, Hourly: 1, Daily: 2, Weekly: 1, Monthly: 1, Yearly: 1, Within: period(t, "1d"), PITR: period(t, "1d")}
	all := append(but(nights(27, 30), isPinned, "27"), Candidate{ID: "26", Time: at(26, 0), Unreadable: true})
	want := map[string]string{
		"26": "cannot be read", "27": "pinned", "28": "", "29": "daily 2026-11-29, within 1d, pitr window 1d",
		"30": "last good, last, hourly 2026-11-30 02h, daily 2026-11-30, weekly 2026-W49, monthly 2026-11, yearly 2026, within 1d, pitr window 1d",
	}
	for _, v := range p.Judge(at(30, 4), all, nil) {
		if got := strings.Join(v.Reasons, ", "); got != want[v.ID] {
			t.Errorf("%s stays because of %q, want %q", v.ID, got, want[v.ID])
		}
	}
}

func TestThePromisedTimeEndsWithWhatCanBeRecovered(t *testing.T) {
	p := Policy{PITR: period(t, "2d")}
	until := []Stretch{{Until: at(27, 0)}, {Until: at(29, 0)}}
	for name, c := range map[string]struct {
		policy   Policy
		now      time.Time
		all      []Candidate
		from, to time.Time
	}{
		"by the WAL":           {p, at(30, 4), nights(1, 20), at(27, 0), at(29, 0)},
		"by the last snapshot": {p, at(30, 4), but(nights(30, 31), lacksWAL, "31"), at(28, 2).Add(15 * time.Minute), at(30, 2).Add(15 * time.Minute)},
		"by the clock":         {p, at(28, 4), nights(1, 30), at(26, 4), at(28, 4)},
		"without a window":     {Policy{Last: 1}, at(28, 4), nights(1, 30), time.Time{}, time.Time{}},
	} {
		if from, to := c.policy.Promised(c.now, c.all, until); !from.Equal(c.from) || !to.Equal(c.to) {
			t.Errorf("%s: %s to %s, want %s to %s", name, from, to, c.from, c.to)
		}
	}
}

// TestWhatAPolicyKeepsItKeepsAgain: a run that ends half-way is gone on with by the next.
func TestWhatAPolicyKeepsItKeepsAgain(t *testing.T) {
	p := Policy{Last: 2, Daily: 3, Weekly: 3, Monthly: 2, PITR: period(t, "3d"), Within: period(t, "12h")}
	all := but(nights(1, 30), lacksWAL, "30", "25", "22")
	kept := func(all []Candidate) (ids []string) {
		for _, v := range p.Judge(at(30, 4), all, nil) {
			if v.Keep() {
				ids = append(ids, v.ID)
			}
		}
		return ids
	}
	want := kept(all)
	for gone := range all {
		if id := all[gone].ID; !slices.Contains(want, id) {
			if got := kept(slices.Delete(slices.Clone(all), gone, gone+1)); !slices.Equal(got, want) {
				t.Errorf("without %s: %v, not %v", id, got, want)
			}
		}
	}
}

func TestPeriodsAreThoseOfTheCalendar(t *testing.T) {
	for text, want := range map[string]string{
		"7d": "2026-03-24T12:00:00Z", "2w": "2026-03-17T12:00:00Z", "36h": "2026-03-30T00:00:00Z", "1m": "2026-02-28T12:00:00Z", "1y": "2025-03-31T12:00:00Z",
		"1m1d": "2026-02-27T12:00:00Z", "13m": "2025-02-28T12:00:00Z", "1y1m1w1d1h": "2025-02-20T11:00:00Z", "9999y": "-7973-03-31T12:00:00Z",
	} {
		p, err := ParsePeriod(text)
		if got := p.Before(time.Date(2026, 3, 31, 14, 0, 0, 0, time.FixedZone("", 7200))).Format(time.RFC3339); err != nil || got != want {
			t.Errorf("%s before is %s (%v), want %s", text, got, err, want)
		}
		if again, err := ParsePeriod(p.String()); err != nil || again != p {
			t.Errorf("%s is shown as %s", text, p)
		}
	}
	for _, text := range []string{"", "7", "d", "0d", "-1d", "1.5d", "7 d", "7D", "10000d", "1d1d", "7d,", "99999999999999999999d", "7days", "1M"} {
		if p, err := ParsePeriod(text); err == nil {
			t.Errorf("%q is taken for %s", text, p)
		}
	}
}
