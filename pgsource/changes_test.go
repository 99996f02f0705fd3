package pgsource

import (
	"math/rand/v2"
	"testing"

	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/snapshot"
)

func fileAt(path string, firstBlock uint32) *File {
	return &File{Entry: snapshot.Entry{Path: snapshot.DataRoot + "/" + path, Type: snapshot.File}, Relation: true, FirstBlock: firstBlock}
}

func TestChangesHoldExactlyWhatWasAdded(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, many := range []int{1, 200, 300, 5000} { // a list stays a list up to 256 blocks in a window
		c, r := newChanges(), relation{spc: 1663, db: 5, node: 16384}
		want := make(map[int64]bool)
		for range many {
			block := int64(random.IntN(3 * windowBlocks))
			if random.IntN(2) == 0 {
				block += 131072 - windowBlocks // around the border of the first file
			}
			want[block] = true
			c.add(r, uint32(block))
			c.add(r, uint32(block))
		}
		c.done()
		first, second := c.set(fileAt("base/5/16384", 0)), c.set(fileAt("base/5/16384.1", 131072))
		for block := range int64(131072 + 3*windowBlocks) {
			got := block < 131072 && first.Has(block) || block >= 131072 && second.Has(block-131072)
			if got != want[block] {
				t.Fatalf("%d added: block %d is %t", many, block, got)
			}
		}
		if relations, blocks := c.Count(); relations != 1 || blocks != int64(len(want)) {
			t.Errorf("%d added: %d relations, %d blocks, want %d", many, relations, blocks, len(want))
		}
	}
}

func TestSmallestLimitCounts(t *testing.T) {
	for _, limits := range [][]uint32{{100, 50}, {50, 100}} {
		c, r := newChanges(), relation{spc: 1663, db: 5, node: 16384}
		for _, limit := range limits {
			c.add(r, limit-20)
			c.limit(r, limit)
		}
		c.done()
		set := c.set(fileAt("base/5/16384", 0))
		for block := range int64(200) {
			if got, want := set.Has(block), block == 30 || block >= 50; got != want {
				t.Errorf("limits %v: block %d is %t", limits, block, got)
			}
		}
		if !c.set(fileAt("base/5/16384.1", 131072)).Has(0) {
			t.Errorf("limits %v: the second file is not behind the limit", limits)
		}
		if c.set(fileAt("base/5/16384_init", 0)).Has(100) || c.set(fileAt("base/6/16384", 0)).Has(100) {
			t.Errorf("limits %v: they count for other files", limits)
		}
	}
}

func TestRelfilenode0IsAWholeDatabase(t *testing.T) {
	c := newChanges()
	c.limit(relation{spc: 1663, db: 5}, 0)
	c.done()
	for path, want := range map[string]bool{
		"base/5/16384": true, "base/5/16384_init": true, "base/5/1259": true, "base/6/16384": false, "global/1260": false,
		"pg_tblspc/5/PG_17_1/5/16384": false,
	} {
		if got := c.set(fileAt(path, 0)).Has(3); got != want {
			t.Errorf("%s: %t", path, got)
		}
	}
}

func TestOnlyMainAndInitForksHaveASet(t *testing.T) {
	c := newChanges()
	c.limit(relation{spc: 1663, db: 5}, 0)
	c.add(relation{spc: 1663, db: 5, node: 16384, fork: pg.ForkVM}, 1)
	for path, want := range map[string]bool{
		"base/5/16384": true, "base/5/16384_init": true, "global/1260": true, "base/5/16384_vm": false, "base/5/16384_fsm": false,
		"base/5/16384_vm.1": false, "base/5/pg_filenode.map": false, "base/5/t3_16384": false, "PG_VERSION": false,
	} {
		if got := c.set(fileAt(path, 0)); (got != nil) != want {
			t.Errorf("%s: %v", path, got)
		}
	}
	if relations, blocks := c.Count(); relations != 0 || blocks != 0 {
		t.Errorf("%d relations, %d blocks", relations, blocks)
	}
}

// A terabyte that was changed all over.
func TestChangesAreBounded(t *testing.T) {
	c := newChanges()
	const files, windows = 64, 16
	for node := range uint32(files) {
		for window := range uint32(windows) {
			for block := range uint32(listMax + 1) {
				c.add(relation{spc: 1663, db: 5, node: 20000 + node}, window*windowBlocks+block*(windowBlocks/(listMax+1)))
			}
		}
	}
	c.done()
	var size int
	for _, s := range c.blocks {
		for i := range s.windows {
			size += 2*cap(s.windows[i].list) + len(s.windows[i].bits)
		}
	}
	if size > files*windows*windowBytes {
		t.Errorf("%d windows take %d bytes", files*windows, size)
	}
}

func BenchmarkChangesHas(b *testing.B) {
	for name, many := range map[string]int{"few": 100, "many": 4000} {
		b.Run(name, func(b *testing.B) {
			c, r := newChanges(), relation{spc: 1663, db: 5, node: 16384}
			for i := range many * 16 {
				c.add(r, uint32(i*131072/(many*16)))
			}
			c.done()
			set := c.set(fileAt("base/5/16384", 0))
			b.SetBytes(8192)
			b.ReportAllocs()
			for i := range b.N {
				set.Has(int64(i % 131072))
			}
		})
	}
}
