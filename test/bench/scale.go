package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/pgtrove/pgtrove/pack"
)

// phase is one backup of the simulated cluster, in a process of its own: a
// process has one peak of memory.
type phase struct {
	name  string
	title string
}

func phases() []phase {
	return []phase{
		{"first", "first backup"},
		{"unchanged", "nothing changed"},
		{"changed", "0.1 % of the pages changed, all read"},
		{"listed", "0.1 % changed, listed"},
	}
}

// phaseResult is what a phase prints, as JSON.
type phaseResult struct {
	Seconds float64
	Memory  int64 // peak, bytes
	Own     int64 // without what is mapped from files
	Read    int64
	Changed int64 // pages
	After   footprint
	Cache   int64 // bytes on disk, afterwards
}

// scaleFlags are those of the processes that run the phases.
type scaleFlags struct{ phase, dir string }

// main is the whole of such a process.
func (f scaleFlags) main(o options) int {
	r, err := f.run(context.Background(), o)
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(r)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench: phase %s: %v\n", f.phase, err)
		return 1
	}
	return 0
}

func (f scaleFlags) run(ctx context.Context, o options) (*phaseResult, error) {
	open := openDirect
	if f.phase == "first" {
		open = createDirect
	}
	d, err := open(ctx, f.dir, o.jobs)
	if err != nil {
		return nil, err
	}
	stop, peak := make(chan struct{}), make(chan memory)
	go func() { peak <- watchMemory(os.Getpid(), stop) }()
	start := time.Now()
	result, err := d.take(ctx, simulate(f.phase, o.segments))
	took := time.Since(start)
	close(stop)
	m := <-peak
	if err != nil {
		return nil, err
	}
	r := &phaseResult{Seconds: took.Seconds(), Memory: m.all, Own: m.own, Read: result.Read, Changed: result.ChangedPages}
	if r.After, err = weigh(ctx, d.repo, map[string]pack.Kind{}); err != nil {
		return nil, err
	}
	r.Cache, err = treeSize(d.cache())
	return r, err
}

func measureScale(b *bench) *report {
	dir := b.mkdir("scale")
	defer b.discard(dir)
	var results []phaseResult
	var grown []footprint
	var before footprint
	r := &report{head: []string{""}}
	for _, p := range phases() {
		x := b.runPhase(p.name, dir)
		b.note("  %s: %.1f s, peak %s, own %s, read %s", p.title, x.Seconds, size(x.Memory), size(x.Own), size(x.Read))
		results = append(results, x)
		grown = append(grown, x.After.minus(before))
		before = x.After
		r.head = append(r.head, p.title)
	}
	r.head = append(r.head, "asked")
	perTB := 1024 / float64(b.o.segments)
	row := func(name string, of func(i int) string, asked string) {
		cells := []string{name}
		for i := range results {
			cells = append(cells, of(i))
		}
		r.row(append(cells, asked)...)
	}
	scaled := func(n int64) string { return size(int64(float64(n) * perTB)) }
	row("time per TB", func(i int) string { return seconds(time.Duration(results[i].Seconds * perTB * float64(time.Second))) }, "")
	row("peak memory, mapped files left out", func(i int) string { return size(results[i].Own) }, "bounded")
	row("peak memory with the mapped cache", func(i int) string { return size(results[i].Memory) }, "")
	row("read per TB", func(i int) string { return scaled(results[i].Read) }, "")
	row("stored per TB: data", func(i int) string { return scaled(grown[i].Data) }, "")
	row("recipes and listings", func(i int) string { return scaled(grown[i].Meta) }, "")
	row("index", func(i int) string { return scaled(grown[i].Index) }, "")
	row("manifest and session, as they are", func(i int) string { return size(grown[i].Other) }, "")
	row("cache on the host, afterwards", func(i int) string { return scaled(results[i].Cache) }, "")
	r.notef("Simulated with %d segments of 1 GiB (1,024 are 1 TB); per TB is in proportion, memory is as it was. Pages compress about %.0f to 1, so packs hold far more chunks than real ones. "+
		"Unchanged files are skipped by their times. Data holds 8 bytes of digest for every page (1.07 GB per TB).",
		b.o.segments, float64(b.o.segments<<30)/float64(max(grown[0].Data, 1)))
	r.circumstances()
	return r
}

func (b *bench) runPhase(name, dir string) phaseResult {
	exe, err := os.Executable()
	b.must(err)
	cmd := exec.Command(exe, "-scale-phase", name, "-scale-dir", dir, "-jobs", strconv.Itoa(b.o.jobs), "-segments", strconv.FormatInt(b.o.segments, 10))
	cmd.Stderr = os.Stderr
	cmd.Env = append(os.Environ(), "TMPDIR="+filepath.Join(dir))
	out, err := cmd.Output()
	b.must(err)
	var x phaseResult
	b.must(json.Unmarshal(out, &x))
	return x
}
