// Command bench measures what docs/performance.md says: pgtrove on real and
// simulated clusters, with other programs' figures beside it, taken in turn on
// the same state of the same cluster: A B, B A. The clusters are kept in the
// cache directory of the tests between runs. See make bench.
//
// Like with like: all read a running, quiet PostgreSQL with checksums from a
// warm page cache and write into a repository on the same disk; pgtrove and
// pgBackRest with as many workers and zstd at its fastest level, both verify
// page checksums and fsync what they store; neither waits for WAL
// (archive_command is true; --wal none, archive-check=n). pgtrove encrypts,
// pgBackRest here does not.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
)

// options are the command line.
type options struct {
	pgtrove   string
	only      string
	rounds    int
	snapshots int
	jobs      int
	segments  int64
	profile   string
	quick     bool
	docs      string
}

// section is one part of the page.
type section struct {
	name  string
	about string
	run   func(*bench) *report
}

func sections() []section {
	return []section{
		{"first", "first backup, beside pgBackRest's full", measureFirst},
		{"increment", "increment, beside pgBackRest's incremental and restic", measureIncrement},
		{"summaries", "increment with and without WAL summaries", measureSummaries},
		{"remote", "the same over S3, and the requests", measureRemote},
		{"restore", "restore, whole and of what is damaged, beside pgBackRest and plain writing", measureRestore},
		{"wal", "pushing and fetching WAL, beside pgBackRest asynchronously", measureWAL},
		{"metadata", "metadata of a row of snapshots", measureMetadata},
		{"scale", "a simulated cluster of 1 TB", measureScale},
		{"prune", "prune of 200 snapshots of a simulated cluster of 1 TB", measurePrune},
		{"retention", "what forgetting frees", measureRetention},
		{"profile", "where the processor's time goes", measureProfile},
		{"sealing", "what sealing and opening cost", measureSealing},
	}
}

func main() {
	var o options
	var f scaleFlags
	flag.StringVar(&o.pgtrove, "pgtrove", "bin/pgtrove", "the `binary` to measure")
	flag.StringVar(&o.only, "only", "", "sections, `names` with commas between them (default all)")
	flag.IntVar(&o.rounds, "rounds", 5, "measured rounds; one more warms up where it matters")
	flag.IntVar(&o.snapshots, "snapshots", 50, "length of the row in section metadata")
	flag.IntVar(&o.jobs, "jobs", 2, "workers of pgtrove and of pgBackRest")
	flag.Int64Var(&o.segments, "segments", 1024, "size of the simulated cluster, in segments of 1 GiB")
	flag.BoolVar(&o.quick, "quick", false, "small clusters and few rounds: tries this program, measures nothing")
	flag.StringVar(&o.docs, "docs", "", "write the tables into this `page`")
	flag.StringVar(&o.profile, "cpuprofile", "", "sections profile and sealing: keep the profiles as `FILE`.first and so on")
	flag.StringVar(&f.phase, "scale-phase", "", "internal: run one phase of section scale")
	flag.StringVar(&f.dir, "scale-dir", "", "internal: in this directory")
	flag.Parse()
	if f.phase != "" {
		os.Exit(f.main(o))
	}
	if o.quick {
		o.rounds, o.snapshots, o.segments, o.docs = min(o.rounds, 2), min(o.snapshots, 5), min(o.segments, 4), ""
	}
	os.Exit(run(o))
}

// run returns the exit code. A failure anywhere below is a panic with the
// value failed.
func run(o options) (code int) {
	todo, err := choose(o.only)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 2
	}
	b := &bench{o: o}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-signals
		b.cleanup()
		os.Exit(130)
	}()
	defer b.cleanup()
	defer func() {
		switch r := recover(); r {
		case nil:
		case failed:
			code = 1
		default:
			panic(r)
		}
	}()
	b.prepare()
	for _, s := range todo {
		b.note("%s: %s", s.name, s.about)
		text := s.run(b).markdown()
		fmt.Printf("## %s: %s\n\n%s\n", s.name, s.about, text)
		if o.docs != "" {
			b.must(fillIn(o.docs, s.name, text))
		}
	}
	return 0
}

func choose(only string) ([]section, error) {
	if only == "" {
		return sections(), nil
	}
	names := strings.Split(only, ",")
	var chosen []section
	for _, s := range sections() {
		if i := slices.Index(names, s.name); i >= 0 {
			chosen, names = append(chosen, s), slices.Delete(names, i, i+1)
		}
	}
	if len(names) > 0 {
		return nil, fmt.Errorf("no section %q", names[0])
	}
	return chosen, nil
}

// cluster is the one that most sections use.
func (b *bench) cluster() kept {
	if b.o.quick {
		return kept{"15", 4}
	}
	return kept{"15", 100}
}
