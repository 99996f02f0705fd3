package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/gc"
	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/snapshot"
	"github.com/pgtrove/pgtrove/test/pgtest"
)

// survivors is a choice of the snapshots that stay, by their place in the row,
// and a repository that only ever held these.
type survivors struct {
	name string
	stay func(i, n int) bool
	only trove
}

func choices(b *bench, s *pgtest.Server) []survivors {
	r := rand.New(rand.NewPCG(3, 5))
	half := make([]bool, b.o.snapshots+1)
	for i := range half {
		half[i] = r.IntN(2) == 0
	}
	all := []survivors{
		{name: "every seventh", stay: func(i, _ int) bool { return i%7 == 0 }},
		{name: "half of them, at random", stay: func(i, _ int) bool { return half[i] }},
		{name: "the last five", stay: func(i, n int) bool { return i >= n-5 }},
		{name: "the first", stay: func(i, _ int) bool { return i == 0 }},
	}
	for i := range all {
		all[i].only = newTrove(b, s, fmt.Sprintf("retention-only-%d", i))
	}
	return all
}

func measureRetention(b *bench) *report {
	k := kept{"15", 10}
	if b.o.quick {
		k.scale = 1
	}
	s := k.copyTo(b, "retention-cluster")
	s.Start(b)
	defer b.discard(s.Dir)
	defer s.Stop(b, pgtest.Fast)
	t, subsets := newTrove(b, s, "retention-all"), choices(b, s)
	n := b.o.snapshots
	for i := range n {
		if i > 0 {
			k.churn(b, s, i, 4)
		}
		t.backup()
		for _, c := range subsets {
			if c.stay(i, n) {
				c.only.backup()
			}
		}
	}
	r := &report{head: []string{"stay", "snapshots", "stored before", "needed", "stored after", "of needed", "asked", "only ever these", "of that"}}
	for i, c := range subsets {
		before := t.stored()
		p := t.duplicate(fmt.Sprintf("retention-some-%d", i))
		ids := p.snapshots()
		stay := p.forgetOthers(ids, c.stay)
		needed, after, only := p.needed(), p.stored(), c.only.stored()
		p.verify()
		b.note("  %s: %s before, %s after, %s needed, %s only ever these", c.name, size(before), size(after), size(needed), size(only))
		over := float64(after) / float64(needed)
		r.row(c.name, fmt.Sprint(stay), size(before), size(needed), size(after), fmt.Sprintf("%.3f", over), asked(over, 1.05), size(only), fmt.Sprintf("%.3f", float64(after)/float64(only)))
		b.discard(p.dir, c.only.dir)
	}
	r.notef("%d snapshots with the workload of the increments at scale %d between them. All but those that stay are forgotten in random order, with a prune "+
		"after each ten, and then pruned until nothing is left to do, without a limit to repacking. Needed are the sealed bytes of all chunks that the snapshots "+
		"that stay refer to; stored is all packs. The last columns are a repository into which only these snapshots were ever taken.", n, k.scale)
	r.circumstances("PostgreSQL "+s.Query(b, "SHOW server_version"), t.version())
	return r
}

// duplicate is a copy of the repository, with the same keys and no cache.
func (p trove) duplicate(name string) trove {
	d := trove{program{p.b, p.s, p.b.mkdir(name)}, p.kinds}
	home := p.b.mkdir(name, "home")
	for from, to := range map[string]string{p.repository(): d.repository(), filepath.Join(p.dir, "home", "identity.txt"): filepath.Join(home, "identity.txt")} {
		if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
			p.b.Fatalf("cp: %v: %s", err, out)
		}
	}
	return d
}

func (p trove) stored() int64 {
	f := p.weigh()
	return f.Data + f.Meta
}

func (p trove) open() *repo.Repo {
	r, err := openRepository(context.Background(), p.repository(), filepath.Join(p.dir, "home", "identity.txt"))
	p.b.must(err)
	return r
}

// snapshots are the IDs, oldest first.
func (p trove) snapshots() (ids []string) {
	for _, m := range p.manifests() {
		ids = append(ids, m.ID)
	}
	return ids
}

func (p trove) manifests() (all []*snapshot.Manifest) {
	p.b.must(p.open().Commits(context.Background(), "main", func(c repo.Commit) error {
		if c.Err != nil {
			return c.Err
		}
		m, err := snapshot.ParseManifest(c.Manifest)
		all = append(all, m)
		return err
	}))
	return all
}

// forgetOthers forgets all but some of the snapshots and frees their space. It
// returns how many stay.
func (p trove) forgetOthers(ids []string, stays func(i, n int) bool) (stay int) {
	var gone []string
	for i, id := range ids {
		if stays(i, len(ids)) {
			stay++
			continue
		}
		gone = append(gone, id)
	}
	r := rand.New(rand.NewPCG(7, 11))
	r.Shuffle(len(gone), func(i, j int) { gone[i], gone[j] = gone[j], gone[i] })
	prune := func() {
		pgtest.MustRun(p.b, p.command("prune", "-q", "--max-repack", "unlimited", "--max-delete", "100%"))
	}
	for i, id := range gone {
		pgtest.MustRun(p.b, p.command("forget", "-q", id))
		if i%10 == 9 {
			prune()
		}
	}
	for before := int64(-1); before != p.stored(); prune() {
		before = p.stored()
		prune()
	}
	return stay
}

// needed is the sealed size of the chunks that the snapshots refer to.
func (p trove) needed() (sum int64) {
	ctx := context.Background()
	v, err := p.open().OpenView(ctx, "", directCluster)
	p.b.must(err)
	defer func() { p.b.must(v.Close()) }()
	seen := map[chunk.ID]bool{}
	p.b.must(gc.Mark(ctx, believing{v}, p.manifests(), func(id chunk.ID) { seen[id] = true }))
	for id := range seen {
		loc, err := v.Locate(id)
		p.b.must(err)
		sum += int64(loc.Sealed)
	}
	return sum
}

// believing takes every error for what it is.
type believing struct{ *repo.View }

// IsDamage implements gc.Judge.
func (believing) IsDamage(err error) bool {
	return errors.Is(err, repo.ErrDamaged) || errors.Is(err, os.ErrNotExist)
}
