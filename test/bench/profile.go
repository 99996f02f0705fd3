package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/pprof"
	"slices"
	"strings"
	"time"

	"github.com/pgtrove/pgtrove/pgsource"
	"github.com/pgtrove/pgtrove/test/pgtest"
)

// measureProfile backs the cluster up in this very process, so that the
// processor can be sampled.
func measureProfile(b *bench) *report {
	k := b.cluster()
	s := k.copyTo(b, "profile-cluster")
	s.Start(b)
	defer b.discard(s.Dir)
	defer s.Stop(b, pgtest.Fast)
	s.Exec(b, "CHECKPOINT")
	ctx := context.Background()
	dir := b.mkdir("profile")
	defer b.discard(dir)
	d, err := createDirect(ctx, dir, b.o.jobs)
	b.must(err)
	settle(b, s)
	take := func() error { return d.takeServer(ctx, s) }
	first := b.sample("first", work(), take)
	k.churn(b, s, 1, 4)
	settle(b, s)
	increment := b.sample("increment", work(), take)

	r := &report{head: []string{"", "first backup", "increment"}}
	r.row("**all samples**", seconds(first.total), seconds(increment.total))
	for _, w := range work() {
		r.row(w.what, first.share(w.what), increment.share(w.what))
	}
	r.row(otherWork, first.share(otherWork), increment.share(otherWork))
	r.notef("A sample counts for the innermost function that does work of one of these kinds. The increment is the first after the workload above, the times of files believed.")
	r.circumstances("PostgreSQL " + s.Query(b, "SHOW server_version"))
	return r
}

// sample profiles what do does and sorts the samples.
func (b *bench) sample(name string, kinds []kind, do func() error) shares {
	path := filepath.Join(b.scratch, "cpu."+name)
	if b.o.profile != "" {
		path = b.o.profile + "." + name
	}
	f, err := os.Create(path)
	b.must(err)
	b.must(pprof.StartCPUProfile(f))
	err = do()
	pprof.StopCPUProfile()
	b.must(err)
	b.must(f.Close())
	out, err := exec.Command("go", "tool", "pprof", "-traces", path).Output()
	b.must(err)
	return sortSamples(string(out), kinds)
}

// takeServer is what the command does, without its guards: nothing here writes
// to the cluster meanwhile.
func (d *direct) takeServer(ctx context.Context, s *pgtest.Server) error {
	c, err := pgsource.Connect(ctx, pgsource.Options{DSN: s.DSN()})
	if err != nil {
		return err
	}
	defer func() { _ = c.Close(ctx) }()
	backup, err := c.Start(ctx, "bench", true)
	if err != nil {
		return err
	}
	files, err := backup.Files(ctx)
	if err != nil {
		return err
	}
	if _, err := d.take(ctx, backup.Sources(ctx, files, backup.Verifier(), nil)); err != nil {
		return err
	}
	_, err = backup.Stop(ctx)
	return err
}

// kind is work that a sample is counted for if a function of it is on the
// stack, the innermost deciding.
type kind struct {
	what  string
	names []string // what names of functions contain
}

const otherWork = "the rest: the runtime's own, copies, page faults"

func work() []kind {
	return []kind{
		{"zstd, encoding", []string{"zstd.(*Encoder)", "zstd.(*fastEncoder", "zstd.(*blockEnc)", "huff0.(*Scratch).Compress", "huff0.compress"}},
		{"zstd, decoding again to compare", []string{"zstd.(*Decoder)", "zstd.(*blockDec)", "zstd.(*sequenceDecs)", "huff0.(*Decoder)", "huff0.ReadTable", "pack.(*Compressor)"}},
		{"page digests and names of chunks (BLAKE3)", []string{"zeebo/blake3"}},
		{"names of packs (SHA-256)", []string{"crypto/sha256", "fips140/sha256"}},
		{"sealing (AES-GCM, XChaCha20)", []string{"fips140/aes", "crypto/aes", "chacha20poly1305", "crypto/hpke"}},
		{"page checksums", []string{"pg.PageChecksum", "pgsource.(*Verifier)"}},
		{"cutting", []string{"restic/chunker", "chunk.(*PageCutter)", "chunk.(*StreamCutter)", "chunk.(*scan)"}},
		{"index and cache (Badger)", []string{"dgraph-io", "pgtrove/index"}},
		{"reading", []string{"pgsource.(*Content)", "pgsource.(*File)"}},
		{"writing packs", []string{"storage/fs", "internal/durable"}},
		{"recipes and listing", []string{"pgtrove/snapshot.marshal", "pgtrove/snapshot.Marshal", "pgtrove/snapshot.LoadRecipe", "pgtrove/snapshot.loadChain", "pgtrove/snapshot.writeTree"}},
	}
}

// shares is the time of each kind of work.
type shares struct {
	total time.Duration
	of    map[string]time.Duration
}

func (s shares) share(what string) string {
	return fmt.Sprintf("%.1f %%", 100*s.of[what].Seconds()/max(s.total.Seconds(), 1e-9))
}

// sortSamples reads what pprof -traces prints: after each line of dashes a
// stack, the innermost function first, with the time before it.
func sortSamples(text string, kinds []kind) shares {
	s := shares{of: map[string]time.Duration{}}
	var took time.Duration
	var stack []string
	end := func() {
		if took > 0 {
			s.of[classify(stack, kinds)] += took
			s.total += took
		}
		took, stack = 0, nil
	}
	for lines := bufio.NewScanner(strings.NewReader(text)); lines.Scan(); {
		line := lines.Text()
		if strings.HasPrefix(line, "-----") {
			end()
			continue
		}
		words := strings.Fields(line)
		if len(words) == 0 || took == 0 && len(words) < 2 {
			continue
		}
		if took == 0 {
			d, err := time.ParseDuration(words[0])
			if err != nil {
				continue // the heading
			}
			took = d
			words = words[1:]
		}
		stack = append(stack, words[0])
	}
	end()
	return s
}

func classify(stack []string, kinds []kind) string {
	for _, function := range stack {
		for _, w := range kinds {
			if slices.ContainsFunc(w.names, func(n string) bool { return strings.Contains(function, n) }) {
				return w.what
			}
		}
	}
	return otherWork
}
