package main

import (
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pgtrove/pgtrove/test/pgtest"
	"github.com/pgtrove/pgtrove/test/s3test"
)

// restored is one round: the same cluster brought back in every way.
type restored struct {
	ours, theirs   measurement // to a new directory
	plain          time.Duration
	tar            measurement
	far            measurement // over S3, with latency
	delta, deltaOf measurement // ours and pgBackRest's
}

const (
	farLatency = 50 * time.Millisecond
	damaged    = 0.01 // of all pages
)

// restorer holds a repository of each kind with the same cluster in it.
type restorer struct {
	b       *bench
	trove   trove
	distant distant
	line    *s3test.Line
	rest    pgbackrest
	tar     string
	source  string // data directory
}

func measureRestore(b *bench) *report {
	k := b.cluster()
	s := k.copyTo(b, "restore-cluster")
	s.Start(b)
	defer b.discard(s.Dir)
	server := s3test.New(b, s3test.Options{})
	r := restorer{b: b, trove: newTrove(b, s, "restore-pgtrove"), distant: newDistant(b, s, server, "restore-far"),
		rest: newPgbackrest(b, s, "restore-pgbackrest"), tar: b.mkdir("restore-tar"), source: s.Dir}
	r.line = s3test.NewNetwork(b).Line(strings.TrimPrefix(server.Endpoint, "http://"))
	b.note("  backing up")
	pgtest.MustRun(b, backupCommand(b, r.trove.command))
	pgtest.MustRun(b, backupCommand(b, r.distant.command))
	r.rest.backup("full")
	pgtest.MustRun(b, s.Command("pg_basebackup", "-D", filepath.Join(r.tar, "base"), "-Ft", "--compress=client-zstd:1", "-X", "none", "-c", "fast"))
	version := s.Query(b, "SHOW server_version")
	s.Stop(b, pgtest.Fast)
	var rounds []restored
	for n := range b.o.rounds + 1 {
		one := r.round(n)
		b.note("  round %d: new %s, pgBackRest %s, plain %s, tar %s, far %s, delta %s, pgBackRest's %s", n, seconds(one.ours.wall), seconds(one.theirs.wall),
			seconds(one.plain), seconds(one.tar.wall), seconds(one.far.wall), seconds(one.delta.wall), seconds(one.deltaOf.wall))
		if n > 0 {
			rounds = append(rounds, one)
		}
	}
	report := showRestore(rounds)
	report.notef("The cluster has %s. Plain writing is a Go program that copies the cluster's files from the page cache with %d workers and syncs them; the archive is pg_basebackup's, "+
		"zstd at level 1, taken apart by tar and zstd, then sync. pgBackRest restores with %d processes. %g %% of the pages of both directories were overwritten in the middle before each delta restore.",
		size(dirSize(b, s.Dir)), b.o.jobs, b.o.jobs, damaged*100)
	report.circumstances("PostgreSQL "+version, r.trove.version(), r.rest.version())
	return report
}

func showRestore(all []restored) *report {
	wall := func(of func(restored) measurement) time.Duration {
		return median(column(all, func(r restored) time.Duration { return of(r).wall }))
	}
	ratio := func(a, b func(restored) time.Duration) []float64 {
		return column(all, func(r restored) float64 { return a(r).Seconds() / b(r).Seconds() })
	}
	ours := func(r restored) time.Duration { return r.ours.wall }
	r := &report{head: []string{"", "time", "ratio of pgtrove's time to it, round by round", "asked"}}
	r.row("pgtrove, into a new directory", seconds(wall(func(r restored) measurement { return r.ours })), "1", "")
	plain := ratio(ours, func(r restored) time.Duration { return r.plain })
	theirs := ratio(ours, func(r restored) time.Duration { return r.theirs.wall })
	// Of the two bounds the larger one counts.
	either := "one of the two: **missed**"
	if median(plain) <= 1.2 || median(theirs) <= 0.5 {
		either = "one of the two: met"
	}
	r.row("pgBackRest", seconds(wall(func(r restored) measurement { return r.theirs })), spread(theirs), "at most 0.50; "+either)
	r.row("the same bytes, written and synced", seconds(median(column(all, func(r restored) time.Duration { return r.plain }))), spread(plain), "at most 1.20; "+either)
	tar := ratio(ours, func(r restored) time.Duration { return r.tar.wall })
	r.row("untarring pg_basebackup's archive", seconds(wall(func(r restored) measurement { return r.tar })), spread(tar), asked(median(tar), 1))
	far := ratio(func(r restored) time.Duration { return r.far.wall }, ours)
	r.row("pgtrove over S3, 50 ms away", seconds(wall(func(r restored) measurement { return r.far })), spread(far)+" (it to local)", asked(median(far), 1.5))
	delta := ratio(func(r restored) time.Duration { return r.delta.wall }, func(r restored) time.Duration { return r.deltaOf.wall })
	r.row("pgtrove, --delta with 1 % of the pages damaged", seconds(wall(func(r restored) measurement { return r.delta })), "", "")
	r.row("pgBackRest, --delta of the same", seconds(wall(func(r restored) measurement { return r.deltaOf })), spread(delta), asked(median(delta), 0.6))
	middle := func(of func(restored) measurement) (time.Duration, int64) {
		return median(column(all, func(r restored) time.Duration { return of(r).cpu })), median(column(all, func(r restored) int64 { return of(r).peak.all }))
	}
	cpu, peak := middle(func(r restored) measurement { return r.ours })
	deltaCPU, deltaPeak := middle(func(r restored) measurement { return r.delta })
	r.notef("Medians of %d rounds, each in turn after one to warm up. Processor time of pgtrove: %s, and %s of the delta restore; largest process %s and %s.", len(all), seconds(cpu),
		seconds(deltaCPU), size(peak), size(deltaPeak))
	r.notef("Other work took %.1f cores beside pgtrove and %.1f beside pgBackRest.", median(column(all, func(r restored) float64 { return r.ours.others })),
		median(column(all, func(r restored) float64 { return r.theirs.others })))
	return r
}

// round restores in every way, once forwards and once backwards.
func (r *restorer) round(n int) (one restored) {
	todo := []func(){
		func() { one.ours = r.ours(r.trove.command) },
		func() { one.theirs = r.theirs() },
		func() { one.plain = r.plain() },
		func() { one.tar = r.untar() },
		func() {
			r.line.Set(s3test.Toxic{Latency: farLatency / 2}, s3test.Toxic{Answers: true, Latency: farLatency / 2})
			one.far = r.ours(r.far)
		},
		func() { one.delta = r.delta(n, r.command, "restore-ours") },
		func() { one.deltaOf = r.delta(n, r.pgbackrest, "restore-theirs") },
	}
	for i := range todo {
		if n%2 == 1 {
			i = len(todo) - 1 - i
		}
		todo[i]()
	}
	return one
}

// settle makes the disk idle and the repositories warm.
func (r *restorer) settle(repository string) {
	r.b.must(exec.Command("sync").Run())
	warm(r.b, repository)
	time.Sleep(200 * time.Millisecond)
}

func (r *restorer) far(args ...string) *exec.Cmd {
	cmd := r.distant.command(args...)
	cmd.Env = append(cmd.Env, "AWS_ENDPOINT_URL=http://"+r.line.Addr, "AWS_ENDPOINT_URL_S3=http://"+r.line.Addr)
	return cmd
}

func (r *restorer) into(name string) string { return filepath.Join(r.b.mkdir("restored"), name) }

func (r *restorer) ours(command func(...string) *exec.Cmd) measurement {
	to := r.into("new")
	defer r.b.discard(to)
	r.settle(r.trove.dir)
	return measure(r.b, command("restore", "latest", "--to", to, "--no-recovery", "--jobs", strconv.Itoa(r.b.o.jobs), "-q"), r.trove.dir, 0)
}

func (r *restorer) theirs() measurement {
	to := r.b.mkdir("restored", "new")
	defer r.b.discard(to)
	r.settle(r.rest.dir)
	return measure(r.b, r.pgbackrest(to), r.rest.dir, 0)
}

func (r *restorer) command(to string) *exec.Cmd {
	return r.trove.command("restore", "latest", "--delta", "--to", to, "--no-recovery", "--jobs", strconv.Itoa(r.b.o.jobs), "-q")
}

func (r *restorer) pgbackrest(to string) *exec.Cmd {
	return r.rest.command("--pg1-path="+to, "--type=none", "--delta", "restore")
}

func (r *restorer) untar() measurement {
	to := r.b.mkdir("restored", "new")
	defer r.b.discard(to)
	r.settle(r.tar)
	return measure(r.b, r.rest.s.Command("sh", "-c", `zstd -dc "$1/base/base.tar.zst" | tar -xf - -C "$2" && sync`, "sh", r.tar, to), r.tar, 0)
}

// delta damages a restored directory, which is made the first time, and lets it be restored.
func (r *restorer) delta(n int, command func(to string) *exec.Cmd, name string) measurement {
	to := r.into(name)
	if _, err := os.Stat(filepath.Join(to, "PG_VERSION")); errors.Is(err, fs.ErrNotExist) {
		r.b.mkdir("restored", name)
		pgtest.MustRun(r.b, command(to))
	}
	damage(r.b, to, rand.New(rand.NewPCG(uint64(n), 1)))
	r.settle(r.trove.dir)
	warm(r.b, r.rest.dir)
	warm(r.b, to)
	return measure(r.b, command(to), r.trove.dir, 0)
}

// damage overwrites something in a share of the pages of all relation files.
func damage(b *bench, dir string, random *rand.Rand) {
	b.must(walkFiles(filepath.Join(dir, "base"), func(path string, info fs.FileInfo) {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		b.must(err)
		for page := range info.Size() / pageSize {
			if random.Float64() < damaged {
				_, err := f.WriteAt([]byte("damage"), page*pageSize+4000)
				b.must(err)
			}
		}
		b.must(f.Close())
	}))
}

// plain writes the bytes of the cluster into new files, and syncs them.
func (r *restorer) plain() time.Duration {
	to := r.b.mkdir("restored", "new")
	defer r.b.discard(to)
	r.settle(r.source)
	var files []string
	r.b.must(walkFiles(r.source, func(path string, _ fs.FileInfo) {
		if rel, err := filepath.Rel(r.source, path); err == nil && !strings.HasPrefix(rel, "pg_wal/") {
			files = append(files, rel)
		}
	}))
	begun := time.Now()
	var made []*os.File
	var mu sync.Mutex
	each(r.b, files, func(rel string) error {
		f, err := copyPlainly(filepath.Join(r.source, rel), filepath.Join(to, rel))
		if err == nil {
			mu.Lock()
			defer mu.Unlock()
			made = append(made, f)
		}
		return err
	})
	each(r.b, made, func(f *os.File) error { return errors.Join(f.Sync(), f.Close()) })
	return time.Since(begun)
}

// each does something with all items, by as many workers as the programs have.
func each[T any](b *bench, items []T, do func(T) error) {
	next := make(chan T)
	var done sync.WaitGroup
	failed := make(chan error, b.o.jobs)
	for range b.o.jobs {
		done.Go(func() {
			for item := range next {
				if err := do(item); err != nil {
					failed <- err
					return
				}
			}
		})
	}
	for _, item := range items {
		next <- item
	}
	close(next)
	done.Wait()
	close(failed)
	b.must(<-failed)
}

func copyPlainly(from, to string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return nil, err
	}
	in, err := os.Open(from)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return nil, err
	}
	// By read and write, as a restore cannot leave it to the kernel.
	_, err = io.CopyBuffer(struct{ io.Writer }{out}, struct{ io.Reader }{in}, make([]byte, 1<<20))
	return out, err
}
