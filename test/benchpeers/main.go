// Command benchpeers measures a full backup by pgtrove and by Debian's
// pgBackRest of the same 2.5 GB cluster, in turn: A B A B. The cluster is kept
// in the cache directory of the tests between runs. See make bench-peers.
//
// Like with like: both read a running, quiet PostgreSQL 15 with checksums,
// from a warm page cache, into a fresh repository on the same disk, with two
// workers and zstd, verify page checksums and fsync what they store; neither
// waits for WAL (archive_command is true; --wal none, archive-check=n).
// pgtrove encrypts, pgBackRest here does not.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/pgtrove/pgtrove/test/pgtest"
)

func main() {
	binary := flag.String("pgtrove", "bin/pgtrove", "the binary to measure")
	rounds := flag.Int("rounds", 5, "measured rounds, at least 3; one more warms up")
	jobs := flag.Int("jobs", 2, "workers of each")
	flag.Parse()
	os.Exit(run(*binary, max(*rounds, 3), *jobs))
}

// run returns the exit code. A failure anywhere below is a panic with the
// value failed: pgtest reports to a testing.TB, which must not return.
func run(binary string, rounds, jobs int) (code int) {
	b := &bench{}
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

	s := startCluster(b)
	scratch := scratchDir(b)
	exe := filepath.Join(scratch, "pgtrove")
	copyFile(b, binary, exe)
	fmt.Printf("cluster    %s on disk, PostgreSQL %s\n", gb(dirSize(b, s.Dir)), s.Query(b, "SHOW server_version"))
	fmt.Printf("pgtrove    backup --wal none --jobs %d, sealed\n", jobs)
	fmt.Printf("pgBackRest %s, full, zst level 1, process-max=%d, archive-check=n, not encrypted\n\n",
		strings.TrimPrefix(strings.TrimSpace(pgtest.MustRun(b, s.Command("pgbackrest", "version"))), "pgBackRest "), jobs)

	var results []pair
	for round := range rounds + 1 {
		p := pair{
			pgtrove: measurePgtrove(b, s, exe, filepath.Join(scratch, "a"), jobs),
			peer:    measurePgbackrest(b, s, filepath.Join(scratch, "b"), jobs),
		}
		if round == 0 {
			printHeader()
			printPair("warm-up", p)
			continue
		}
		results = append(results, p)
		printPair(strconv.Itoa(round), p)
	}
	printMedians(results)
	s.Stop(b, pgtest.Fast)
	return 0
}

// measurement is one backup. maxRSS is that of the largest process: all of
// pgtrove, but only one of pgBackRest's.
type measurement struct {
	wall, cpu time.Duration
	maxRSS    int64 // bytes
	repo      int64 // bytes
}

type pair struct{ pgtrove, peer measurement }

func (p pair) ratio() float64 { return p.pgtrove.wall.Seconds() / p.peer.wall.Seconds() }

func measurePgtrove(b *bench, s *pgtest.Server, exe, dir string, jobs int) measurement {
	fresh(b, s, dir)
	home := filepath.Join(dir, "home")
	mkdir(b, home)
	repository := filepath.Join(dir, "repository")
	command := func(args ...string) *exec.Cmd {
		cmd := s.Command(exe, args...)
		cmd.Env = append(cmd.Env, "HOME="+home, "XDG_CACHE_HOME="+home, "XDG_CONFIG_HOME="+home,
			"PGTROVE_REPO="+repository, "PGTROVE_KEY_FILE="+filepath.Join(home, "identity.txt"))
		return cmd
	}
	pgtest.MustRun(b, command("init"))
	return measure(b, command("backup", "--wal", "none", "--checkpoint", "fast", "--jobs", strconv.Itoa(jobs), "-q"), repository, 0, 3)
}

func measurePgbackrest(b *bench, s *pgtest.Server, dir string, jobs int) measurement {
	fresh(b, s, dir)
	repository := filepath.Join(dir, "repository")
	conf := filepath.Join(dir, "pgbackrest.conf")
	text := fmt.Sprintf(`[global]
repo1-path=%s
repo1-retention-full=1
log-path=%s
lock-path=%s
spool-path=%s
log-level-console=warn
log-level-file=off
compress-type=zst
compress-level=1
process-max=%d
start-fast=y
archive-check=n

[bench]
pg1-path=%s
pg1-socket-path=%s
pg1-port=%d
pg1-user=postgres
`, repository, dir, dir, dir, jobs, s.Dir, s.SocketDir, s.Port)
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		b.Fatal(err)
	}
	pgtest.MustRun(b, s.Command("pgbackrest", "--config="+conf, "--stanza=bench", "stanza-create"))
	return measure(b, s.Command("pgbackrest", "--config="+conf, "--stanza=bench", "--type=full", "backup"), repository, 0)
}

// fresh makes an empty directory for one run, and waits until what the run
// before wrote is on disk, so that it does not slow this one.
func fresh(b *bench, s *pgtest.Server, dir string) {
	if err := os.RemoveAll(dir); err != nil {
		b.Fatal(err)
	}
	// The marker that pgtrove leaves in the data directory is of a repository that is gone.
	if err := os.RemoveAll(filepath.Join(s.Dir, "pgtrove.last")); err != nil {
		b.Fatal(err)
	}
	mkdir(b, dir)
	s.Exec(b, "CHECKPOINT")
	syscall.Sync()
	warm(b, s.Dir)
}

// measure runs cmd, which must end with one of the exit codes (3: pgtrove
// says that without WAL the snapshot is unproven).
func measure(b *bench, cmd *exec.Cmd, repository string, codes ...int) measurement {
	start := time.Now()
	r := pgtest.Run(b, cmd)
	wall := time.Since(start)
	ok := false
	for _, code := range codes {
		ok = ok || r.Code == code
	}
	if !ok {
		b.Fatalf("%s: exit code %d\n%s%s", strings.Join(cmd.Args, " "), r.Code, r.Stdout, r.Stderr)
	}
	usage, isRusage := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	if !isRusage {
		b.Fatal("no rusage on this system")
	}
	return measurement{
		wall:   wall,
		cpu:    cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(),
		maxRSS: usage.Maxrss * 1024,
		repo:   dirSize(b, repository),
	}
}
