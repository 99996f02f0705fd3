package main

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"

	"github.com/pgtrove/pgtrove/test/pgtest"
	"github.com/pgtrove/pgtrove/test/s3test"
)

// distant is pgtrove with a repository on an S3 server of this machine, whose
// data is on the same disk. The server takes its part of the processors.
type distant struct {
	trove
	server *s3test.Server
	bucket string
}

func newDistant(b *bench, s *pgtest.Server, server *s3test.Server, name string) distant {
	d := distant{trove{program{b, s, b.mkdir(name)}, nil}, server, server.Bucket()}
	b.mkdir(name, "home")
	pgtest.MustRun(b, d.command("init"))
	return d
}

func (d distant) command(args ...string) *exec.Cmd {
	cmd := d.trove.command(args...)
	cmd.Env = append(append(cmd.Env, "PGTROVE_REPO=s3://"+d.bucket+"/bench"), d.server.Env(d.server.Root)...)
	return cmd
}

// data is where the server keeps the objects.
func (d distant) data() string { return filepath.Join(d.server.Dir, "data", d.bucket) }

// asked runs cmd and counts the requests that the server got meanwhile.
func (d distant) asked(cmd *exec.Cmd, codes ...int) (m measurement, requests int) {
	before := d.server.Requests()
	m = measure(d.b, cmd, d.data(), codes...)
	return m, d.server.Requests() - before
}

// overNetwork is one kind of work, done with both repositories.
type overNetwork struct {
	name     string
	pairs    []pair // ours is over S3, theirs on the local directory
	requests []int
}

func measureRemote(b *bench) *report {
	k := b.cluster()
	s := k.copyTo(b, "remote-cluster")
	s.Start(b)
	defer b.discard(s.Dir)
	defer s.Stop(b, pgtest.Fast)
	server := s3test.New(b, s3test.Options{Log: true})
	first, increment, restore := overNetwork{name: "first backup"}, overNetwork{name: "increment"}, overNetwork{name: "restore"}
	var version string
	for round := range b.o.rounds + 1 {
		near, far := newTrove(b, s, "remote-near"), newDistant(b, s, server, "remote-far")
		version = near.version()
		first.measure(b, s, near, far, round, func(p program, command func(...string) *exec.Cmd) *exec.Cmd { return backupCommand(b, command) })
		k.churn(b, s, round+1, 4)
		increment.measure(b, s, near, far, round, func(p program, command func(...string) *exec.Cmd) *exec.Cmd { return backupCommand(b, command) })
		restore.measure(b, s, near, far, round, func(p program, command func(...string) *exec.Cmd) *exec.Cmd {
			return command("restore", "latest", "--to", filepath.Join(p.dir, "restored"), "--no-recovery", "--jobs", strconv.Itoa(b.o.jobs), "-q")
		})
		b.discard(near.dir, far.dir, far.data())
	}
	r := &report{head: []string{"", "over S3", "local directory", "ratio of times, pair by pair", "asked", "requests", "asked"}}
	for _, w := range []overNetwork{first, increment, restore} {
		w.show(r, dirSize(b, s.Dir))
	}
	r.notef("Medians of %d rounds in turn after one to warm up. The cluster has %s. The S3 server (versitygw, plain HTTP) runs on the same two processors "+
		"and keeps its objects on the same disk; requests are those that it counted.", b.o.rounds, size(dirSize(b, s.Dir)))
	segmentRequests(b, s, server, r)
	r.circumstances("PostgreSQL "+s.Query(b, "SHOW server_version"), version)
	return r
}

func backupCommand(b *bench, command func(...string) *exec.Cmd) *exec.Cmd {
	return command("backup", "--wal", "include", "--checkpoint", "fast", "--jobs", strconv.Itoa(b.o.jobs), "-q")
}

// measure does the work on both.
func (w *overNetwork) measure(b *bench, s *pgtest.Server, near trove, far distant, round int, work func(program, func(...string) *exec.Cmd) *exec.Cmd) {
	var p pair
	requests := 0
	inTurn(round, func() {
		settle(b, s)
		p.ours, requests = far.asked(work(far.program, far.command), 0)
	}, func() {
		settle(b, s)
		p.theirs = measure(b, work(near.program, near.command), near.repository(), 0)
	})
	b.note("  round %d, %s: %s, %d requests", round, w.name, p, requests)
	if round > 0 {
		w.pairs, w.requests = append(w.pairs, p), append(w.requests, requests)
	}
}

func (w *overNetwork) show(r *report, cluster int64) {
	ours, theirs := medians(w.pairs)
	ratios := column(w.pairs, pair.ratio)
	n := median(column(w.requests, func(n int) int64 { return int64(n) }))
	perGB, want := "", ""
	if w.name == "first backup" {
		v := float64(n) / (float64(cluster) / 1e9)
		perGB, want = fmt.Sprintf(", %.0f for each GB", v), asked(v, 60)
	}
	r.row(w.name, seconds(ours.wall), seconds(theirs.wall), spread(ratios), asked(median(ratios), 1.3), fmt.Sprintf("%d%s", n, perGB), want)
}

// finished makes two segments of WAL that are complete and returns their names.
func finished(b *bench, s *pgtest.Server) (names [2]string) {
	for i := range names {
		s.Exec(b, "SELECT txid_current()") // or there is nothing to switch from
		names[i] = s.Query(b, "SELECT pg_walfile_name(pg_switch_wal())")
	}
	return names
}

// segmentRequests counts what a WAL file costs once the repository has been
// opened by an earlier command.
func segmentRequests(b *bench, s *pgtest.Server, server *s3test.Server, r *report) {
	d := newDistant(b, s, server, "remote-wal")
	defer b.discard(d.dir)
	segments := finished(b, s)
	inData := func(args ...string) *exec.Cmd {
		cmd := d.command(args...)
		cmd.Dir = s.Dir // as the server runs it
		return cmd
	}
	to := filepath.Join(d.dir, "fetched")
	pgtest.MustRun(b, inData("wal", "push", "pg_wal/"+segments[0]))
	one := func(want int, codes []int, args ...string) string {
		_, n := d.asked(inData(args...), codes...)
		return fmt.Sprintf("%d (%s)", n, asked(float64(n), float64(want)))
	}
	push := one(2, []int{0}, "wal", "push", "pg_wal/"+segments[1])
	again := one(2, []int{0}, "wal", "push", "pg_wal/"+segments[1])
	fetch := one(1, []int{0}, "wal", "fetch", segments[1], to)
	d.asked(inData("wal", "fetch", "0000000100000FFF000000FF", to), 4) // which finds out that nobody receives WAL here
	absent := one(1, []int{4}, "wal", "fetch", "0000000100000FFF000000FF", to)
	r.notef("Requests for a WAL file within a minute of another: a push %s, of a segment that is there already %s, a fetch %s, of an absent one %s. "+
		"Once a minute there is one more, for a look at config, and for an absent segment another, to see whether anybody receives WAL.", push, again, fetch, absent)
}
