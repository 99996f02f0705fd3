package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pgtrove/pgtrove/test/pgtest"
)

// backlogCluster is a server that is stopped with WAL that nobody archived.
type backlogCluster struct {
	*pgtest.Server
	waiting []string // segments, in order
}

// makeBacklog writes WAL until n whole segments wait: three fifths from
// updates, the rest from new rows, as pgbench makes them.
func makeBacklog(b *bench, n int) *backlogCluster {
	s := pgtest.New(b, "15", pgtest.Options{Conf: map[string]string{
		"archive_mode": "on", "archive_command": "", "synchronous_commit": "off", "shared_buffers": "256MB", "max_wal_size": "8GB", "autovacuum": "off",
	}})
	s.Start(b)
	s.Pgbench(b, "-i", "-q", "-s", "5")
	c := &backlogCluster{Server: s}
	for len(c.waiting) < n {
		s.Pgbench(b, "-n", "-c", "4", "-t", "2000")
		s.Exec(b, "UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid % 5 < 3; CREATE TABLE IF NOT EXISTS copies AS SELECT * FROM pgbench_history; INSERT INTO copies SELECT * FROM pgbench_history")
		c.waiting = c.ready(b)
	}
	s.Stop(b, pgtest.Fast)
	c.waiting = c.ready(b)[:n]
	return c
}

func (c *backlogCluster) status(name, state string) string {
	return filepath.Join(c.Dir, "pg_wal", "archive_status", name+"."+state)
}

func (c *backlogCluster) ready(b *bench) (names []string) {
	found, err := filepath.Glob(c.status("*", "ready"))
	b.must(err)
	for _, f := range found {
		if name := strings.TrimSuffix(filepath.Base(f), ".ready"); len(name) == 24 {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// wait marks all segments as waiting again.
func (c *backlogCluster) wait(b *bench) {
	for _, name := range c.waiting {
		if err := os.Rename(c.status(name, "done"), c.status(name, "ready")); !os.IsNotExist(err) {
			b.must(err)
		}
	}
}

// calls runs a command for each segment, one after the other as the server
// does, and returns the time of all and the processor time of each.
func (c *backlogCluster) calls(b *bench, command func(name string) *exec.Cmd, done func(name string)) (all measurement, each []time.Duration) {
	busy, start := machineCPU(b), time.Now()
	for _, name := range c.waiting {
		cmd := command(name)
		cmd.Dir = c.Dir
		out, err := cmd.CombinedOutput()
		if err != nil {
			b.Fatalf("%s: %v\n%s", strings.Join(cmd.Args, " "), err, out)
		}
		each = append(each, cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime())
		done(name)
	}
	all.wall = time.Since(start)
	all.cpu = machineCPU(b) - busy // what works behind the calls is no child of theirs
	return all, each
}

// push archives everything that waits.
func (c *backlogCluster) push(b *bench, command func(name string) *exec.Cmd) (measurement, []time.Duration) {
	c.wait(b)
	return c.calls(b, command, func(name string) { b.must(os.Rename(c.status(name, "ready"), c.status(name, "done"))) })
}

// fetch brings back every segment, in order, and compares it.
func (c *backlogCluster) fetch(b *bench, command func(name string) *exec.Cmd) (measurement, []time.Duration) {
	to := filepath.Join(c.Dir, "pg_wal", "RECOVERYXLOG")
	kept := filepath.Join(b.scratch, "fetched")
	b.must(os.MkdirAll(kept, 0o755))
	m, each := c.calls(b, command, func(name string) { b.must(os.Rename(to, filepath.Join(kept, name))) })
	for _, name := range c.waiting {
		if out, err := exec.Command("cmp", filepath.Join(kept, name), filepath.Join(c.Dir, "pg_wal", name)).CombinedOutput(); err != nil {
			b.Fatalf("fetched %s: %s", name, out)
		}
	}
	b.discard(kept)
	return m, each
}

// asynchronous is pgBackRest that pushes and fetches ahead.
func asynchronous(b *bench, s *pgtest.Server, name string) pgbackrest {
	p := configurePgbackrest(b, s, name, "archive-async=y\narchive-get-queue-max=128MiB\n")
	pgtest.MustRun(b, p.command("stanza-create", "--no-online"))
	return p
}

// settle lets what was written before come to disk, and reads the
// segments into the page cache.
func (c *backlogCluster) settle(b *bench) {
	settle(b, c.Server)
	for _, name := range c.waiting {
		_, err := os.ReadFile(filepath.Join(c.Dir, "pg_wal", name))
		b.must(err)
	}
}

func measureWAL(b *bench) *report {
	n := 64
	if b.o.quick {
		n = 32
	}
	c := makeBacklog(b, n)
	var push, fetch []pair
	var quick []time.Duration
	var versions [2]string
	jobs := strconv.Itoa(b.o.jobs)
	for round := range b.o.rounds + 1 {
		ours, theirs := newTrove(b, c.Server, "wal-pgtrove"), asynchronous(b, c.Server, "wal-pgbackrest")
		versions = [2]string{ours.version(), theirs.version()}
		var up, down pair
		var each []time.Duration
		inTurn(round, func() {
			c.settle(b)
			up.ours, each = c.push(b, func(name string) *exec.Cmd { return ours.command("wal", "push", "--jobs", jobs, "pg_wal/"+name) })
		}, func() {
			c.settle(b)
			up.theirs, _ = c.push(b, func(name string) *exec.Cmd { return theirs.command("archive-push", "pg_wal/"+name) })
		})
		inTurn(round, func() {
			c.settle(b)
			down.ours, _ = c.fetch(b, func(name string) *exec.Cmd {
				return ours.command("wal", "fetch", "--jobs", jobs, name, "pg_wal/RECOVERYXLOG")
			})
			pgtest.WaitNoPgtrove(b, ours.dir)
		}, func() {
			c.settle(b)
			down.theirs, _ = c.fetch(b, func(name string) *exec.Cmd { return theirs.command("archive-get", name, "pg_wal/RECOVERYXLOG") })
		})
		b.note("  round %d, push %.2f, fetch %.2f: %s / %s, %s / %s", round, up.ratio(), down.ratio(),
			seconds(up.ours.wall), seconds(up.theirs.wall), seconds(down.ours.wall), seconds(down.theirs.wall))
		if round > 0 {
			push, fetch, quick = append(push, up), append(fetch, down), append(quick, each...)
		}
		b.discard(ours.dir, theirs.dir)
	}
	return walReport(n, push, fetch, quick, versions)
}

func walReport(n int, push, fetch []pair, quick []time.Duration, versions [2]string) *report {
	r := &report{head: []string{"", "pgtrove", "pgBackRest, asynchronous", "ratio of times, pair by pair", "asked"}}
	for _, row := range []struct {
		name  string
		pairs []pair
		most  float64
	}{{fmt.Sprintf("push %d segments", n), push, 0.8}, {fmt.Sprintf("fetch %d segments", n), fetch, 0.5}} {
		ours, theirs := medians(row.pairs)
		ratios := column(row.pairs, pair.ratio)
		r.row(row.name, seconds(ours.wall), seconds(theirs.wall), spread(ratios), asked(median(ratios), row.most))
		r.row("processors busy meanwhile", seconds(ours.cpu), seconds(theirs.cpu))
	}
	ms := float64(median(quick).Microseconds()) / 1000
	r.row("processor time of a call whose segment is up", fmt.Sprintf("%.1f ms", ms), "", "", asked(ms, 15)+" (ms)")
	r.notef("Medians of %d rounds in turn after one to warm up, on PostgreSQL 15 with segments of 16 MiB that wait with their .ready files. The commands run one after the other, as "+
		"the server runs them, which is not running itself: replay between two fetches, which gives either program more time, is left out. Both with as many workers, zstd at its fastest, and 128 MiB ahead of recovery; "+
		"pgtrove encrypts, and syncs what it fetches. Of %d pushes more than nine in ten find their segment up; the median is that of such a call.", len(push), n)
	r.circumstances(versions[0], versions[1])
	return r
}
