package main

import (
	"fmt"
	"time"

	"github.com/pgtrove/pgtrove/test/pgtest"
)

func measureMetadata(b *bench) *report {
	k := b.cluster()
	s := k.copyTo(b, "metadata-cluster")
	s.Start(b)
	defer b.discard(s.Dir)
	defer s.Stop(b, pgtest.Fast)
	t := newTrove(b, s, "metadata-pgtrove")
	defer b.discard(t.dir)
	t.backup()
	var row []taken
	for round := range b.o.snapshots {
		k.churn(b, s, round+1, 4)
		settle(b, s)
		x := t.backup()
		b.note("  snapshot %d: %s, read %s, stored %s, of it metadata %s", round+1, seconds(x.wall), size(x.Read), size(x.growth), size(x.stored.metadata()))
		row = append(row, x)
	}
	t.verify()
	r := &report{head: []string{"snapshots after the first", "time, median", "stored, each", "of it metadata", "share", "asked"}}
	line := func(name string, part []taken, asks bool) {
		var stored, meta int64
		for _, x := range part {
			stored += x.growth
			meta += x.stored.metadata()
		}
		n := int64(len(part))
		share := 100 * float64(meta) / float64(stored)
		want := ""
		if asks {
			want = map[bool]string{true: "under 5 %: met", false: "under 5 %: **missed**"}[share < 5]
		}
		r.row(name, seconds(median(column(part, func(x taken) time.Duration { return x.wall }))), size(stored/n), size(meta/n), fmt.Sprintf("%.2f %%", share), want)
	}
	for from := 0; from < len(row); from += 10 {
		to := min(from+10, len(row))
		line(fmt.Sprintf("%d to %d", from+1, to), row[from:to], false)
	}
	line("**all**", row, true)
	r.notef("The workload of the increments, %d times over. Metadata is everything that is stored but packs of data: recipes, listings, the index, manifests.", len(row))
	r.circumstances("PostgreSQL "+s.Query(b, "SHOW server_version"), t.version())
	return r
}
