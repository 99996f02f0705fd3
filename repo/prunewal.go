package repo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/pgtrove/pgtrove/storage"
)

const walPrefix = "wal/"

// KeyRange is a row of archived WAL files of one timeline, by their keys in ascending order, both ends included.
type KeyRange struct {
	First string `json:"first"`
	Last  string `json:"last"`
}

// WALUse says what an archived WAL file is for.
type WALUse int

// What archived WAL is for.
const (
	WALNeeded    WALUse = iota // by a snapshot that stays, or it cannot be told
	WALParting                 // by snapshots that leave only
	WALUnneeded                // by none of its cluster
	WALUnclaimed               // its cluster has no snapshots; what was condemned when the last one left goes all the same
	WALReplaced                // by none, since another file holds all that is in it
)

// WALJudge says what the archived file under key is for, and whether it follows the file before: so that none can be archived yet that
// stands between them. It is called with the keys in ascending order, by one goroutine. Any error ends the prune.
type WALJudge func(ctx context.Context, key string) (use WALUse, follows bool, err error)

// WALNeed makes the judge of a run: staying are the snapshots that stay, and leaving those that leave with this run, some of which may
// be damaged (Commit.Err).
type WALNeed func(ctx context.Context, staying, leaving []Commit) (WALJudge, error)

// WALRange is a row of files that a run deletes or condemns.
type WALRange struct {
	KeyRange
	Amount
}

func (r KeyRange) validate() error {
	if err := cmp.Or(storage.CheckKey(r.First), storage.CheckKey(r.Last)); err != nil {
		return err
	}
	dir := walDirectory(r.First)
	if dir == "" || dir != walDirectory(r.Last) || r.First > r.Last {
		return fmt.Errorf("WAL from %q to %q", r.First, r.Last)
	}
	return nil
}

// walDirectory is what the keys of the files of one timeline begin with: wal/<cluster>/<system>/<timeline>/. "": key is of none, as a history file.
func walDirectory(key string) string {
	if !strings.HasPrefix(key, walPrefix) {
		return ""
	}
	end := len(walPrefix)
	for range 3 {
		i := strings.IndexByte(key[end:], '/')
		if i < 0 {
			return ""
		}
		end += i + 1
	}
	return key[:end]
}

// keyRanges are in ascending order, and none touches another.
type keyRanges []KeyRange

// newKeyRanges puts lists of ranges together, which may overlap.
func newKeyRanges(lists ...[]KeyRange) keyRanges {
	all := slices.Concat(lists...)
	slices.SortFunc(all, func(a, b KeyRange) int { return cmp.Compare(a.First, b.First) })
	var out keyRanges
	for _, r := range all {
		if k := len(out) - 1; k >= 0 && r.First <= out[k].Last {
			out[k].Last = max(out[k].Last, r.Last)
			continue
		}
		out = append(out, r)
	}
	return out
}

func (all keyRanges) has(key string) bool {
	_, found := slices.BinarySearchFunc(all, key, func(r KeyRange, key string) int {
		switch {
		case r.Last < key:
			return -1
		case r.First > key:
			return 1
		}
		return 0
	})
	return found
}

// carryWAL makes the run say of WAL what the last one said, and sweep none. What that one has begun to delete, and perhaps not to the end, no
// writer must count on.
func (p *pruner) carryWAL() {
	p.run.WALSweep, p.run.WALCondemned, p.run.WALBegun = nil, p.last.goingWAL(), p.last.begunWAL()
	p.report.WALSwept, p.report.WALCondemned = nil, nil
	narrow := map[string]bool{}
	for _, list := range []map[string]bool{p.run.valid, p.run.expired} {
		for key := range list {
			if sid := outcomeSession(key); p.last.narrow[sid] || p.marks.narrowed[sid] {
				narrow[sid] = true
			}
		}
	}
	p.run.Narrow, p.run.narrow = slices.Sorted(maps.Keys(narrow)), narrow
}

// planWAL decides which archived WAL goes now, and which with the next run. It reads one listing, and holds what it finds as rows of files.
func (p *pruner) planWAL(ctx context.Context) error {
	if p.o.WAL == nil || len(p.report.Damage) > 0 {
		return nil // as carryWAL left it
	}
	judge, err := p.o.WAL(ctx, p.withNarrow(p.staying), p.withNarrow(p.leaving))
	if err != nil {
		return fmt.Errorf("find out which WAL is needed: %w", err)
	}
	begun, marked := p.last.begunWAL(), p.last.goingWAL()
	var sweep, condemned, barred walRows
	if err := p.store.List(ctx, walPrefix, func(i storage.Info) error {
		p.report.WALStored.add(i.Size)
		use, follows, err := judge(ctx, i.Key)
		if err != nil {
			return err
		}
		replaced := use == WALReplaced
		if replaced {
			use = WALUnneeded
			p.replaced.stored.add(i.Size)
		}
		was := marked.has(i.Key)
		goes := was && (use == WALUnneeded || use == WALUnclaimed)
		if replaced && goes {
			p.replaced.swept.add(i.Size)
		}
		sweep.add(i, goes, follows)
		condemned.add(i, !goes && (use == WALUnneeded || use == WALParting), follows)
		barred.add(i, !goes && begun.has(i.Key), follows)
		return nil
	}); err != nil {
		return fmt.Errorf("list WAL: %w", err)
	}
	p.report.WALSwept, p.report.WALCondemned = sweep.rows, condemned.rows
	p.run.WALSweep, p.run.WALBegun = sweep.ranges(), barred.ranges()
	p.run.WALCondemned = newKeyRanges(condemned.ranges(), p.run.WALBegun)
	return nil
}

// withNarrow fills in what the run knows of the WAL that snapshots keep. Those that are refused keep none.
func (p *pruner) withNarrow(commits []Commit) []Commit {
	out := slices.DeleteFunc(slices.Clone(commits), func(c Commit) bool { return c.Refused() })
	for i := range out {
		out[i].Narrowed = p.run.narrow[out[i].ID]
	}
	return out
}

// walRows are rows of files that follow each other in the listing.
type walRows struct {
	rows []WALRange
	open bool // the last row goes on
}

// add takes the next file of the listing, in or not. What lies outside any timeline's directory is in no row.
func (w *walRows) add(i storage.Info, in, follows bool) {
	dir := walDirectory(i.Key)
	if !in || dir == "" {
		w.open = false
		return
	}
	if !w.open || !follows || walDirectory(w.rows[len(w.rows)-1].First) != dir {
		w.rows = append(w.rows, WALRange{KeyRange: KeyRange{First: i.Key}})
	}
	row := &w.rows[len(w.rows)-1]
	row.Last, w.open = i.Key, true
	row.add(i.Size)
}

func (w *walRows) ranges() (all []KeyRange) {
	for _, r := range w.rows {
		all = append(all, r.KeyRange)
	}
	return all
}

// WALAmount sums up rows of files.
func WALAmount(rows []WALRange) (sum Amount) {
	for _, r := range rows {
		sum.Packs += r.Packs
		sum.Bytes += r.Bytes
	}
	return sum
}

// walBatch is how many files are deleted before the run looks whether it is still the newest.
const walBatch = 1024

// sweepWAL deletes the WAL that the run condemned for good: what a listing shows of it now.
func (p *pruner) sweepWAL(ctx context.Context) error {
	var batch []string
	flush := func() error {
		newest, err := p.newestNumber(ctx)
		switch {
		case err != nil:
			return err
		case newest != p.run.Number:
			return errSuperseded
		}
		keys := batch
		batch = nil
		return p.delete(ctx, keys)
	}
	all := newKeyRanges(p.run.WALSweep)
	for len(all) > 0 { // one listing for all rows of a timeline
		dir, n := walDirectory(all[0].First), 1
		for n < len(all) && walDirectory(all[n].First) == dir {
			n++
		}
		rows := all[:n]
		all = all[n:]
		if err := p.store.List(ctx, commonPrefix(rows[0].First, rows[n-1].Last), func(i storage.Info) error {
			if !rows.has(i.Key) {
				return nil
			}
			if batch = append(batch, i.Key); len(batch) < walBatch {
				return nil
			}
			return flush()
		}); err != nil {
			return p.unlessSuperseded(fmt.Errorf("list WAL: %w", err))
		}
	}
	if len(batch) == 0 {
		return nil
	}
	return p.unlessSuperseded(flush())
}

// errSuperseded says that a newer run deletes what is left.
var errSuperseded = errors.New("a newer prune run has begun to clean up")

func (p *pruner) unlessSuperseded(err error) error {
	if !errors.Is(err, errSuperseded) {
		return err
	}
	p.report.Stopped = true
	return nil
}

// commonPrefix of two keys.
func commonPrefix(a, b string) string {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return a[:n]
}

// goingWAL are the archived files that this run deletes or the next one may: to a writer they are gone.
func (g *gcRun) goingWAL() keyRanges { return newKeyRanges(g.WALSweep, g.WALCondemned) }

// begunWAL are those that this run deletes, or one before it has begun to.
func (g *gcRun) begunWAL() keyRanges { return newKeyRanges(g.WALSweep, g.WALBegun) }

// LosesWAL says whether the archived WAL file under key is about to be deleted, as no snapshot needed it when the session began: a snapshot
// must not count on it.
func (s *Session) LosesWAL(key string) bool { return s.goingWAL.has(key) }
