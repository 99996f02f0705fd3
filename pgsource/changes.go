package pgsource

import (
	"math"
	"math/bits"
	"slices"
	"strings"

	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/snapshot"
)

// Changes says which blocks of relations may have changed since a snapshot started, as the server's WAL summaries list them. It
// covers main and init forks. It does not change once Backup.Changes has returned it: any number of goroutines may use it.
//
// Memory: at most 1 KiB for 8192 blocks that hold a change (16 MiB for 1 TB that was changed all over), less where they are
// few, and some 40 bytes for a relation that was created, dropped or truncated.
type Changes struct {
	limits    map[relation]uint32 // the first block from which on everything may be new, listed or not
	blocks    map[relation]*blockSet
	databases map[database]bool // created or dropped: all their relations may be new
}

// relation is one fork of a relation. Only main and init forks are kept.
type relation struct {
	spc, db, node uint32
	fork          pg.Fork
}

// database is the part of a database in one tablespace.
type database struct{ spc, db uint32 }

func newChanges() *Changes {
	return &Changes{limits: make(map[relation]uint32), blocks: make(map[relation]*blockSet), databases: make(map[database]bool)}
}

// covered reports whether summaries tell all changes of a fork. The free space map is not fully logged, and the summarizer leaves it
// out. The visibility map is logged, but records such as that of DELETE clear its bits without naming its block (heap_xlog_delete),
// and up to 17.10 and 18.4 nothing makes up for that.
func covered(f pg.Fork) bool { return f == pg.ForkMain || f == pg.ForkInit }

// limit notes a limit block: relfilenode 0 stands for everything of a database in a tablespace (SummarizeDbaseRecord).
func (c *Changes) limit(r relation, block uint32) {
	if r.node == 0 {
		c.databases[database{r.spc, r.db}] = true
		return
	}
	if !covered(r.fork) {
		return
	}
	if old, ok := c.limits[r]; !ok || block < old {
		c.limits[r] = block
	}
	if block == 0 {
		delete(c.blocks, r) // nothing below it
	}
}

// add notes a changed block.
func (c *Changes) add(r relation, block uint32) {
	if !covered(r.fork) {
		return
	}
	if limit, ok := c.limits[r]; ok && block >= limit {
		return
	}
	s := c.blocks[r]
	if s == nil {
		s = &blockSet{}
		c.blocks[r] = s
	}
	s.add(block)
}

// done makes the sets ready for questions.
func (c *Changes) done() {
	for _, s := range c.blocks {
		s.sort()
	}
}

// Count is for messages: in how many forks of relations the summaries name something, and how many blocks they list. What lies
// behind a limit block, or belongs to a new database, is not in the number of blocks.
func (c *Changes) Count() (relations int, blocks int64) {
	relations = len(c.limits)
	for r, s := range c.blocks {
		if _, ok := c.limits[r]; !ok {
			relations++
		}
		blocks += s.count()
	}
	return relations, blocks
}

// set is what changed of a relation's file; nil when the summaries do not cover it.
func (c *Changes) set(f *File) snapshot.PageSet {
	path, ok := strings.CutPrefix(f.Entry.Path, snapshot.DataRoot+"/")
	if !ok {
		return nil
	}
	rel, ok := pg.ParseRelPath(path)
	if !ok || rel.Temp || !covered(rel.Fork) {
		return nil
	}
	s := &fileChanges{first: int64(f.FirstBlock), limit: math.MaxInt64}
	r := relation{rel.Spc, rel.DB, rel.Relfilenode, rel.Fork}
	if limit, ok := c.limits[r]; ok {
		s.limit = int64(limit)
	}
	if c.databases[database{rel.Spc, rel.DB}] {
		s.limit = 0
	}
	s.blocks = c.blocks[r]
	return s
}

// fileChanges is a snapshot.PageSet.
type fileChanges struct {
	first  int64 // block number of the file's first page
	limit  int64 // block number in the relation
	blocks *blockSet
}

// Has reports whether a page, counted from the file's start, may have changed.
func (f *fileChanges) Has(page int64) bool {
	block := f.first + page
	if block >= f.limit || block > math.MaxUint32 {
		return true
	}
	return f.blocks != nil && f.blocks.has(uint32(block))
}

// blockSet is a set of block numbers, in windows of windowBlocks.
type blockSet struct{ windows []window } // sorted by number

const (
	windowBlocks = 8192
	windowBytes  = windowBlocks / 8
	listMax      = windowBytes / 4 // a list never takes more than half of the bitmap
)

// window has a list of its blocks, or a bitmap when there are many.
type window struct {
	number uint32
	list   []uint16
	bits   *[windowBytes]byte
}

func (s *blockSet) find(number uint32) (int, bool) {
	return slices.BinarySearchFunc(s.windows, number, func(w window, n uint32) int { return int(int64(w.number) - int64(n)) })
}

func (s *blockSet) add(block uint32) {
	number, at := block/windowBlocks, uint16(block%windowBlocks)
	i, ok := s.find(number)
	if !ok {
		s.windows = slices.Insert(s.windows, i, window{number: number})
	}
	w := &s.windows[i]
	if w.bits == nil && len(w.list) == listMax {
		w.bits = new([windowBytes]byte)
		for _, at := range w.list {
			w.bits[at/8] |= 1 << (at % 8)
		}
		w.list = nil
	}
	if w.bits == nil {
		w.list = append(w.list, at)
		return
	}
	w.bits[at/8] |= 1 << (at % 8)
}

func (s *blockSet) sort() {
	for i := range s.windows {
		w := &s.windows[i]
		slices.Sort(w.list)
		w.list = slices.Compact(w.list)
	}
}

func (s *blockSet) has(block uint32) bool {
	i, ok := s.find(block / windowBlocks)
	if !ok {
		return false
	}
	w, at := &s.windows[i], uint16(block%windowBlocks)
	if w.bits != nil {
		return w.bits[at/8]&(1<<(at%8)) != 0
	}
	_, ok = slices.BinarySearch(w.list, at)
	return ok
}

func (s *blockSet) count() int64 {
	var n int64
	for i := range s.windows {
		w := &s.windows[i]
		n += int64(len(w.list))
		if w.bits != nil {
			for _, b := range w.bits {
				n += int64(bits.OnesCount8(b))
			}
		}
	}
	return n
}
