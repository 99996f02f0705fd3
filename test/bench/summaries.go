package main

import (
	"path/filepath"
	"strconv"
	"strings"

	"github.com/pgtrove/pgtrove/test/pgtest"
)

// measureSummaries takes two copies of one cluster, one with WAL summaries and
// one without, through the same rounds. The servers are built for size, not
// speed: only the ratio means something.
func measureSummaries(b *bench) *report {
	k := kept{"17", 100}
	if b.o.quick {
		k.scale = 4
	}
	with, without := newSummarized(b, k, "on"), newSummarized(b, k, "off")
	defer with.close()
	defer without.close()
	var pairs []pair
	var ours, theirs []taken
	for round := range b.o.rounds {
		with.churn(k, round+1)
		without.churn(k, round+1)
		var a, z taken
		inTurn(round, func() { a = with.backup() }, func() { z = without.backup() })
		p := pair{a.measurement, z.measurement}
		b.note("  round %d: %s; read %s | %s", round+1, p, size(a.Read), size(z.Read))
		pairs, ours, theirs = append(pairs, p), append(ours, a), append(theirs, z)
	}
	unchanged, read := with.watched(k, b.o.rounds+1)
	with.t.verify()
	without.t.verify()

	r := &report{head: []string{"", "with summaries", "without", "asked"}}
	r.compare(pairs)
	of := func(name string, value func(taken) int64) {
		r.row(name, orNone(median(column(ours, value))), orNone(median(column(theirs, value))))
	}
	of("read from the cluster", func(x taken) int64 { return x.Read })
	of("skipped, whole files", func(x taken) int64 { return x.SkippedFiles })
	of("skipped, blocks by summaries", func(x taken) int64 { return x.SkippedPages })
	of("stored", func(x taken) int64 { return x.growth })
	ratios := column(pairs, pair.ratio)
	r.row("**ratio of times, pair by pair**", spread(ratios), "1", asked(median(ratios), 0.5))
	r.notef("Medians of %d rounds in turn, on two copies of a cluster of %s (pgbench scale %d and in proportion) that went through the same rounds.",
		len(pairs), size(dirSize(b, with.s.Dir)), k.scale)
	r.notef("In a further round every read was watched (inotify): of %d main forks that had not changed, %d were read "+
		"(catalogs that the server itself reads meanwhile are left out).", unchanged, read)
	r.others(pairs)
	r.circumstances("PostgreSQL "+with.s.Query(b, "SHOW server_version")+" built for size", with.t.version())
	return r
}

// summarized is a cluster with its repository.
type summarized struct {
	b *bench
	s *pgtest.Server
	t trove
}

func newSummarized(b *bench, k kept, setting string) *summarized {
	s := k.copyTo(b, "summaries-"+setting+"-cluster")
	s.Configure(b, map[string]string{"summarize_wal": setting})
	s.Start(b)
	c := &summarized{b: b, s: s, t: newTrove(b, s, "summaries-"+setting+"-pgtrove")}
	s.Exec(b, "CHECKPOINT")
	c.t.backup()
	return c
}

func (c *summarized) close() {
	c.s.Stop(c.b, pgtest.Fast)
	c.b.discard(c.s.Dir, c.t.dir)
}

// churn uses one client: so both clusters get the same rows.
func (c *summarized) churn(k kept, round int) { k.churn(c.b, c.s, round, 1) }

func (c *summarized) backup() taken {
	settle(c.b, c.s)
	return c.t.backup()
}

// watched makes one more round, and says how many main forks had not changed
// since the last snapshot and how many of those the backup read.
func (c *summarized) watched(k kept, round int) (unchanged, read int) {
	state := readPages(c.b, c.s.Dir)
	c.churn(k, round)
	d := state.advance(c.b, c.s.Dir)
	w := startWatch(c.b, c.s.Dir)
	c.t.backup()
	accessed := w.stop()
	catalogs := c.catalogs()
	for path := range d.unchanged {
		if catalogs(path) {
			continue
		}
		unchanged++
		if accessed[path] {
			if read++; read <= 3 {
				c.b.note("  read although unchanged: %s", path)
			}
		}
	}
	return unchanged, read
}

// catalogs tells the files that the server itself may read while it serves a
// backup: the catalogs of the database that pgtrove connects to, and the
// shared ones.
func (c *summarized) catalogs() func(path string) bool {
	connected := "base/" + c.s.Query(c.b, "SELECT oid FROM pg_database WHERE datname = current_database()")
	return func(path string) bool {
		dir, name := filepath.Split(path)
		number, _, _ := strings.Cut(name, ".")
		n, err := strconv.Atoi(number)
		c.b.must(err)
		return n < 16384 && (filepath.Clean(dir) == connected || filepath.Clean(dir) == "global") // FirstNormalObjectId in transam.h
	}
}
