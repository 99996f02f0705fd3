package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// pruneMemory is the most that a prune may take, in bytes.
const pruneMemory = 512_000_000

func (o options) shape() shape {
	if o.quick {
		return shape{files: 24, chunks: 400, snapshots: 12}
	}
	return shape{files: 1024, chunks: 7812, snapshots: 200}
}

// measurePrune measures the command on a repository whose metadata is real.
func measurePrune(b *bench) *report {
	ctx := context.Background()
	dir := b.mkdir("prune")
	defer b.discard(dir)
	d, err := createDirect(ctx, dir, b.o.jobs)
	b.must(err)
	h, err := newHistory(ctx, d, b.o.shape())
	b.must(err)
	start := time.Now()
	b.must(h.begin(ctx))
	b.note("  first snapshot: %s", seconds(time.Since(start)))
	for len(h.ids) < h.snapshots {
		b.must(h.next(ctx))
		if len(h.ids)%20 == 0 {
			b.note("  snapshot %d: %s", len(h.ids), seconds(time.Since(start)))
		}
	}
	p := pruner{b, d}
	runs := []pruneRun{p.run("first run")}
	p.forget(h.ids[:h.snapshots/2])
	runs = append(runs, p.run(fmt.Sprintf("%d forgotten", h.snapshots/2)), p.run("next run"), p.run("nothing to do"))
	p.mustAddUp(runs, h.snapshots)
	r := pruneTable(runs)
	first := runs[0]
	r.notef("%d snapshots on as many days, never pruned before: the first of %d files of %s, in chunks of %d pages; each day a few percent of the files change a little, and a table of %s "+
		"is written anew. In all %.1f million chunks in %d packs, and %s of index. Sessions, commits, recipes and listings are real, packs of data are files without content, which "+
		"a run that repacks nothing does not read. The first run begins without a local cache, the others find that of the run before; each lists all objects, packs twice.",
		h.snapshots, h.files, size(int64(h.chunks)*basePages*pageSize), basePages, size(h.table.pages*pageSize), float64(h.files*h.chunks+len(h.hold.plain))/1e6, first.before.count("packs/"), size(first.before.bytes("index/")))
	r.notef("%s", b.sayCalls(ctx, h))
	r.notef("Other work took %.1f cores beside the first run.", first.others)
	r.circumstances(strings.TrimSpace(firstLine(p.must("version"))))
	return r
}

// pruner runs the command.
type pruner struct {
	b *bench
	d *direct
}

func (p pruner) command(args ...string) *exec.Cmd {
	cmd := exec.Command(p.b.exe, args...)
	home := filepath.Join(p.d.dir, "home")
	cmd.Env = append(os.Environ(), "HOME="+home, "XDG_CONFIG_HOME="+home, "PGTROVE_CACHE_DIR="+filepath.Join(p.d.dir, "prune-cache"),
		"PGTROVE_REPO="+p.d.repository(), "PGTROVE_KEY_FILE="+filepath.Join(p.d.dir, "identity"), "PGTROVE_CLUSTER="+directCluster, "TMPDIR="+p.d.dir)
	return cmd
}

func (p pruner) must(args ...string) string {
	cmd := p.command(args...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		p.b.Fatalf("%s: %v\n%s", strings.Join(cmd.Args[:2], " "), err, out)
	}
	return string(out)
}

func (p pruner) forget(ids []string) { p.must(append([]string{"forget", "-q"}, ids...)...) }

// inventory is the bytes of every object by its key.
type inventory map[string]int64

func (p pruner) inventory() inventory {
	all := inventory{}
	p.b.must(p.d.repo.List(context.Background(), "", func(key string, size int64) error {
		all[key] = size
		return nil
	}))
	return all
}

// without gives the objects that other lacks.
func (i inventory) without(other inventory) inventory {
	rest := inventory{}
	for key, n := range i {
		if _, ok := other[key]; !ok {
			rest[key] = n
		}
	}
	return rest
}

func (i inventory) count(prefix string) (n int) {
	for key := range i {
		if strings.HasPrefix(key, prefix) {
			n++
		}
	}
	return n
}

func (i inventory) bytes(prefix string) (n int64) {
	for key, size := range i {
		if strings.HasPrefix(key, prefix) {
			n += size
		}
	}
	return n
}

// pruneRun is one run, and what it says of itself.
type pruneRun struct {
	measurement
	title         string
	before, after inventory

	Snapshots          int
	Removed            []struct{}
	Deleted, Condemned struct {
		Packs int
		Bytes int64
	}
}

func (p pruner) run(title string) pruneRun {
	r := pruneRun{title: title, before: p.inventory()}
	r.measurement = measure(p.b, p.command("prune", "--max-repack", "0", "--json"), p.d.repository(), 0)
	r.after = p.inventory()
	p.b.must(json.Unmarshal([]byte(r.stdout), &r))
	p.b.note("  %s: %s, peak %s, own %s; deleted %d packs, condemned %d", title, seconds(r.wall), size(r.peak.all), size(r.peak.own), r.Deleted.Packs, r.Condemned.Packs)
	return r
}

// mustAddUp makes sure that the runs did what is measured.
func (p pruner) mustAddUp(runs []pruneRun, snapshots int) {
	left := snapshots - snapshots/2
	switch first, forgot, swept, idle := runs[0], runs[1], runs[2], runs[3]; {
	case first.Snapshots != snapshots || first.after.count("base/") == 0 || first.after.count("index/")+first.after.count("sessions/") > 0:
		p.b.Fatalf("the first run kept %d snapshots and left %d objects of the index that it should have taken in", first.Snapshots, first.after.count("index/"))
	case forgot.Snapshots != left || len(forgot.Removed) != snapshots/2 || forgot.Condemned.Packs == 0:
		p.b.Fatalf("the second run kept %d snapshots and condemned %d packs", forgot.Snapshots, forgot.Condemned.Packs)
	case swept.Deleted != forgot.Condemned:
		p.b.Fatalf("%v were condemned and %v deleted", forgot.Condemned, swept.Deleted)
	case idle.Deleted.Packs+idle.Condemned.Packs > 0 || idle.Snapshots != left:
		p.b.Fatalf("the last run had something to do")
	}
}

func pruneTable(runs []pruneRun) *report {
	r := &report{head: []string{""}}
	for _, x := range runs {
		r.head = append(r.head, x.title)
	}
	r.head = append(r.head, "asked")
	row := func(name string, of func(x pruneRun) string, asked string) {
		r.row(append(append([]string{name}, column(runs, of)...), asked)...)
	}
	var own int64
	for _, x := range runs {
		own = max(own, x.peak.own)
	}
	wants := fmt.Sprintf("under %s: met", size(pruneMemory))
	if own >= pruneMemory {
		wants = fmt.Sprintf("under %s: **missed**", size(pruneMemory))
	}
	amount := func(n int, bytes int64) string {
		if n == 0 {
			return "0"
		}
		return fmt.Sprintf("%d, %s", n, size(bytes))
	}
	row("time", func(x pruneRun) string { return seconds(x.wall) }, "")
	row("processor time", func(x pruneRun) string { return seconds(x.cpu) }, "")
	row("peak memory, mapped files left out", func(x pruneRun) string { return size(x.peak.own) }, wants)
	row("peak memory with the mapped cache", func(x pruneRun) string { return size(x.peak.all) }, "")
	row("snapshots that stay", func(x pruneRun) string { return fmt.Sprint(x.Snapshots) }, "")
	row("objects in the repository, before", func(x pruneRun) string { return fmt.Sprint(len(x.before)) }, "")
	row("deleted", func(x pruneRun) string { return fmt.Sprint(len(x.before.without(x.after))) }, "")
	row("of them packs", func(x pruneRun) string { return amount(x.Deleted.Packs, x.Deleted.Bytes) }, "")
	row("packs that the next run deletes", func(x pruneRun) string { return amount(x.Condemned.Packs, x.Condemned.Bytes) }, "")
	row("written", func(x pruneRun) string {
		return amount(len(x.after.without(x.before)), x.after.without(x.before).bytes(""))
	}, "")
	row("of them shards of the base", func(x pruneRun) string {
		return amount(x.after.without(x.before).count("base/"), x.after.without(x.before).bytes("base/"))
	}, "")
	return r
}

// sayCalls counts what a session that finds nothing new asks of the storage,
// when the host has backed up before.
func (b *bench) sayCalls(ctx context.Context, h *history) string {
	var calls callCount
	for range 2 { // the first brings the host's cache up to date
		var err error
		calls, err = h.nothingNew(ctx)
		b.must(err)
		b.note("  nothing new: %s", calls)
	}
	verdict := "met"
	if calls.writes() > mostWrites {
		verdict = "**missed**"
	}
	return fmt.Sprintf("A session afterwards that finds nothing new, on a host that has taken the last snapshot, calls the storage %d times: %s. Asked: at most %d beyond reading what it needs: %s.",
		calls.sum(), calls, mostWrites, verdict)
}
