package repo

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/index"
	"github.com/pgtrove/pgtrove/pack"
)

// tinyPacks makes a segment of packs with a chunk each, numbered from..to-1.
func tinyPacks(from, to int) *index.Segment {
	s := &index.Segment{}
	for n := from; n < to; n++ {
		p := index.Pack{Key: fmt.Sprintf("packs/s/%d", n), Size: 1000}
		p.Kind = pack.Data
		p.Sessions = []pack.Session{{SID: "s", Encapsulation: []byte("e")}}
		p.Entries = []pack.Entry{{ID: chunk.ID{byte(n), byte(n >> 8), byte(n >> 16), 1}, Form: 13, Offset: uint32(p.End()), Sealed: 100, Plain: 8192}}
		s.Packs = append(s.Packs, p)
	}
	return s
}

// Packs so small that shards are full of them long before they are full of chunks.
func TestShardsOfTheBaseStayWithinTheBoundsOfASegment(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	ctx := t.Context()
	cache, err := index.OpenMemory(r.config.ID)
	must(t, err)
	const each, more = 40_000, 50_000
	all := map[string]int64{}
	for _, p := range tinyPacks(0, 2*each+10+more).Packs {
		all[p.Key] = p.Size
	}
	p := &pruner{Repo: r, report: &PruneReport{}, fresh: all, view: &View{repo: r, cache: cache},
		last: &gcRun{}, run: &gcRun{Number: 2, Sweep: []string{"packs/s/50000"}, resolved: map[string]bool{"s": true}},
		index: &listing{names: []string{"index/s/1"}, sessions: map[string]bool{"s": true}}}
	for name, s := range map[string]*index.Segment{
		"base/0000000001/a-0": tinyPacks(0, each),                   // stays: it could not take in much
		"base/0000000001/a-1": tinyPacks(each, 2*each),              // loses a pack
		"base/0000000001/a-2": tinyPacks(2*each-5, 2*each+10),       // is small, and repeats some of the second
		"index/s/1":           tinyPacks(2*each+10, 2*each+10+more), // is resolved
	} {
		must(t, r.putSegment(ctx, name, s))
		if strings.HasPrefix(name, basePrefix) {
			_, err := cache.Add(name, s)
			must(t, err)
			p.last.Bases = append(p.last.Bases, baseRef{Key: name, Chunks: len(s.Packs)})
		}
	}
	must(t, p.writeBase(ctx))

	var sizes []int
	found := map[string]bool{}
	for _, ref := range p.run.Bases {
		s, _, err := r.segment(ctx, ref.Key)
		must(t, err)
		if ref.Chunks != len(s.Packs) {
			t.Errorf("%s has %d chunks, and is said to have %d", ref.Key, len(s.Packs), ref.Chunks)
		}
		sizes = append(sizes, len(s.Packs))
		for i := range s.Packs {
			if found[s.Packs[i].Key] {
				t.Fatalf("%s is named twice", s.Packs[i].Key)
			}
			found[s.Packs[i].Key] = true
		}
	}
	if want := []int{each, index.MaxPacks, each + 10 + more - 1 - index.MaxPacks}; !slices.Equal(sizes, want) {
		t.Errorf("shards of %v packs, want %v", sizes, want)
	}
	if len(found) != len(all)-1 || found["packs/s/50000"] || p.run.Bases[0].Key != "base/0000000001/a-0" {
		t.Errorf("%d of %d packs, the first shard is %s", len(found), len(all), p.run.Bases[0].Key)
	}
}

// One host's cache, and the pruning host's, while snapshots come and go.
func TestCachesForgetWhatPrunesDelete(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	ctx := t.Context()
	dir := t.TempDir()
	type kept struct {
		sid  string
		ids  []chunk.ID
		data [][]byte
	}
	var snapshots []kept
	read := func(v *View, k kept) {
		t.Helper()
		for i, id := range k.ids {
			b, err := readChunk(ctx, v, id)
			if err != nil || !slices.Equal(b, k.data[i]) {
				t.Fatalf("chunk %d of %s: %v", i, k.sid, err)
			}
		}
	}
	var most, packs int
	for round := range 12 {
		k := kept{data: pieces(byte(round), 20)}
		k.sid, k.ids = backup(t, r, k.data)
		if snapshots = append(snapshots, k); len(snapshots) > 2 {
			must(t, r.Forget(ctx, snapshots[0].sid))
			snapshots = snapshots[1:]
		}
		o := pruning()
		o.CacheDir = dir
		prune(t, r, o)
		v, err := r.OpenView(ctx, dir, "main")
		must(t, err)
		for _, k := range snapshots {
			read(v, k)
		}
		if v.temp != "" {
			t.Error("the cache did not open")
		}
		most = max(most, len(v.cache.Loaded()))
		for name, number := range v.cache.Loaded() {
			if !v.counts(number) {
				t.Errorf("round %d: %s is still loaded", round, name)
			}
		}
		packs = 0
		must(t, v.cache.Packs(func(uint32) bool { return true }, func(h index.Held) error {
			packs++
			for _, number := range h.Segments {
				if !v.counts(number) {
					t.Errorf("round %d: %s still names segment %d", round, h.Key, number)
				}
			}
			return nil
		}))
		must(t, v.Close())
	}
	if most > 4 || packs > 20 {
		t.Errorf("%d segments and %d packs are loaded", most, packs)
	}
	check(t, r, snapshots[1].ids, snapshots[1].data)
}
