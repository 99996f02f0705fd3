package main

import (
	"fmt"
	"time"

	"github.com/pgtrove/pgtrove/test/pgtest"
)

// pair is a backup by pgtrove and one by another way, of the same state.
type pair struct{ ours, theirs measurement }

func (p pair) ratio() float64 { return p.ours.wall.Seconds() / p.theirs.wall.Seconds() }

// inTurn lets the two go first alternately.
func inTurn(round int, a, b func()) {
	if round%2 == 1 {
		a, b = b, a
	}
	a()
	b()
}

func measureFirst(b *bench) *report {
	k := b.cluster()
	s := k.copyTo(b, "first-cluster")
	s.Start(b)
	defer b.discard(s.Dir)
	defer s.Stop(b, pgtest.Fast)
	var pairs []pair
	var versions []string
	for round := range b.o.rounds + 1 {
		var p pair
		inTurn(round, func() {
			t := newTrove(b, s, "first-pgtrove")
			settle(b, s)
			p.ours = t.backup().measurement
			versions = append(versions, t.version())
			b.discard(t.dir)
		}, func() {
			r := newPgbackrest(b, s, "first-pgbackrest")
			settle(b, s)
			p.theirs = r.backup("full")
			versions = append(versions, r.version())
			b.discard(r.dir)
		})
		b.note("  round %d: %s", round, p)
		if round > 0 { // the first warms up
			pairs = append(pairs, p)
		}
	}
	ratios := column(pairs, pair.ratio)
	r := &report{head: []string{"", "pgtrove", "pgBackRest, full", "asked"}}
	r.compare(pairs)
	ours, theirs := medians(pairs)
	r.row("stored", size(ours.growth), size(theirs.growth), asked(float64(ours.growth)/float64(theirs.growth), 1))
	r.row("**ratio of times, pair by pair**", spread(ratios), "1", asked(median(ratios), 1))
	r.notef("Medians of %d rounds in turn after one to warm up. The cluster has %s.", len(pairs), size(dirSize(b, s.Dir)))
	r.others(pairs)
	r.circumstances("PostgreSQL "+s.Query(b, "SHOW server_version"), versions[0], versions[1])
	return r
}

// compare adds the rows that every comparison has.
func (r *report) compare(pairs []pair) {
	ours, theirs := medians(pairs)
	r.row("time", seconds(ours.wall), seconds(theirs.wall))
	r.row("processor time", seconds(ours.cpu), seconds(theirs.cpu))
	r.row("largest process", size(ours.peak.all), size(theirs.peak.all), fmt.Sprintf("at most 300 MB: %s", map[bool]string{true: "met", false: "**missed**"}[ours.peak.all <= 300e6]))
}

// others says how idle the machine was.
func (r *report) others(pairs []pair) {
	r.notef("Other work, the server's included, took %.1f cores beside pgtrove and %.1f beside the other.",
		median(column(pairs, func(p pair) float64 { return p.ours.others })), median(column(pairs, func(p pair) float64 { return p.theirs.others })))
}

// medians are each column's own.
func medians(pairs []pair) (ours, theirs measurement) {
	middle := func(all []measurement) measurement {
		return measurement{
			wall:   median(column(all, func(m measurement) time.Duration { return m.wall })),
			cpu:    median(column(all, func(m measurement) time.Duration { return m.cpu })),
			peak:   memory{all: median(column(all, func(m measurement) int64 { return m.peak.all }))},
			growth: median(column(all, func(m measurement) int64 { return m.growth })),
		}
	}
	return middle(column(pairs, func(p pair) measurement { return p.ours })), middle(column(pairs, func(p pair) measurement { return p.theirs }))
}

// String is one line for whoever watches.
func (p pair) String() string {
	one := func(m measurement) string {
		return fmt.Sprintf("%s, processor %s, %s, stored %s (others %.1f)", seconds(m.wall), seconds(m.cpu), size(m.peak.all), size(m.growth), m.others)
	}
	return fmt.Sprintf("%s | %s | %.2f", one(p.ours), one(p.theirs), p.ratio())
}
