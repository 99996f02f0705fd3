package main

import (
	"fmt"

	"github.com/pgtrove/pgtrove/test/pgtest"
)

// increment is one round.
type increment struct {
	pair
	taken taken
	d     difference
}

func (i increment) overBest() float64 { return float64(i.taken.growth) / float64(i.d.best) }

func measureIncrement(b *bench) *report {
	k := b.cluster()
	s := k.copyTo(b, "increment-cluster")
	s.Start(b)
	s.Exec(b, "CHECKPOINT")
	defer b.discard(s.Dir)
	defer s.Stop(b, pgtest.Fast)
	t, p, f := newTrove(b, s, "increment-pgtrove"), newPgbackrest(b, s, "increment-pgbackrest"), newRestic(b, s, "increment-restic")
	defer b.discard(t.dir, p.dir, f.dir)
	settle(b, s)
	t.backup()
	state := readPages(b, s.Dir) // before the others connect: that sets hint bits in catalogs
	p.backup("full")
	f.backup()
	var rounds []increment
	var byRestic measurement
	for round := range b.o.rounds {
		k.churn(b, s, round+1, 4)
		var i increment
		settle(b, s)
		inTurn(round, func() {
			i.d = state.advance(b, s.Dir) // not sooner: the other's checkpoint writes a few pages of catalogs
			i.taken = t.backup()
		}, func() { i.theirs = p.backup("incr") })
		i.ours = i.taken.measurement
		b.note("  round %d: %s; %d pages (it counts %d), best %s, ratio %.3f", round+1, i, i.d.changed, i.taken.ChangedPages, size(i.d.best), i.overBest())
		if round == 0 {
			byRestic = f.backup()
		}
		rounds = append(rounds, i)
	}
	t.verify()
	return incrementReport(b, s, rounds, byRestic, t.version(), p.version(), f.version())
}

func incrementReport(b *bench, s *pgtest.Server, rounds []increment, byRestic measurement, versions ...string) *report {
	pairs := column(rounds, func(i increment) pair { return i.pair })
	middle := func(of func(increment) int64) int64 { return median(column(rounds, of)) }
	ours, theirs := medians(pairs)
	best := middle(func(i increment) int64 { return i.d.best })
	r := &report{head: []string{"", "pgtrove", "pgBackRest, incremental", "restic", "asked"}}
	r.compare(pairs)
	for i := range r.rows { // "asked" stands one column further here
		if row := r.rows[i]; len(row) > 3 {
			r.rows[i] = append(row[:3:3], "", row[3])
		}
	}
	r.row("read from the cluster", size(middle(func(i increment) int64 { return i.taken.Read })))
	r.row("stored", size(ours.growth), size(theirs.growth), size(byRestic.growth))
	r.row("of it metadata", size(middle(func(i increment) int64 { return i.taken.stored.metadata() })))
	over := column(rounds, increment.overBest)
	r.row("stored, over the best possible", fmt.Sprintf("%.3f", median(over)), ratioText(theirs.growth, best), ratioText(byRestic.growth, best), asked(median(over), 1.10))
	ratios := column(pairs, pair.ratio)
	r.row("**ratio of times, pair by pair**", spread(ratios), "1", "", asked(median(ratios), 0.3))
	r.notef("Medians of %d rounds in turn (restic: the first round). Between two snapshots %d pages change; compressed as one zstd stream at the same level they have %s, "+
		"which is the best possible here. Stored is what the repository grew by on disk, metadata, index and manifest included.",
		len(rounds), middle(func(i increment) int64 { return i.d.changed }), size(best))
	r.notef("Every 64 changed pages of a file compressed on their own, as chunks are, have %s, %.2f of that.",
		size(middle(func(i increment) int64 { return i.d.apart })), median(column(rounds, func(i increment) float64 { return float64(i.d.apart) / float64(i.d.best) })))
	for n, i := range rounds {
		if i.taken.ChangedPages != i.d.changed {
			r.notef("In round %d pgtrove counted %d changed pages, which are %d.", n+1, i.taken.ChangedPages, i.d.changed)
		}
	}
	r.others(pairs)
	if b.cluster().scale == 100 {
		r.notef("For the same workload elsewhere, one run each: WAL-G's page delta 21 MB, the newest pgBackRest's block incremental 97 MB.")
	}
	r.circumstances(append([]string{"PostgreSQL " + s.Query(b, "SHOW server_version")}, versions...)...)
	return r
}

func orNone(n int64) string {
	if n == 0 {
		return "-"
	}
	return size(n)
}

func ratioText(a, b int64) string { return fmt.Sprintf("%.1f", float64(a)/float64(b)) }
