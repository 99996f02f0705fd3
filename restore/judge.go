package restore

import (
	"context"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/pgtrove/pgtrove/chunk"
)

// Digests is what Chunks may be besides: it knows the beginning of each page's digest.
type Digests interface {
	// PageDigests calls each, once per distinct chunk and in no particular order, with the digest prefixes of the chunk's
	// pages. The slice is not to be changed. each is called by one goroutine at a time.
	PageDigests(ctx context.Context, ids []chunk.ID, each func(id chunk.ID, digests []chunk.Prefix) error) error
}

// judge decides what of files need not be fetched, because it is on this host already.
//
// Evidence is the name of a chunk: a keyed hash of 256 bits over all of its pages, which may stand at different places of
// the file. Of a chunk of which the file uses a part only, the name cannot be computed. Then each of the pages is compared
// with the 64 bits of its digest that the packs keep, on which a backup takes a page for unchanged, too. docs/design.md
// says what that is worth; with strict it does not count, and such chunks are fetched.
type judge struct {
	c      *source
	key    chunk.Key
	strict bool
	dry    bool
	jobs   int
	found  counts
}

// unit is how much of a file one goroutine scans at a time, in bytes.
const unit = 64 << 20

// all scans files and decides, for each of their extents, whether it is right now.
func (j *judge) all(ctx context.Context, files []*local) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(max(j.jobs, 1))
	scanners := j.scanners()
	for _, f := range files {
		f.right, f.looks = make([]bool, len(f.extents)), make([]look, len(f.extents))
		next, end := 0, int64(0)
		for next < len(f.extents) {
			from, at := next, end
			for next < len(f.extents) && end-at < unit {
				end += f.extents[next].Bytes()
				next++
			}
			to := next
			g.Go(func() error {
				if gctx.Err() != nil {
					return context.Cause(gctx)
				}
				s := <-scanners
				defer func() { scanners <- s }()
				if err := s.scan(f, from, to, at); err != nil {
					return fmt.Errorf("compare %s: %w", f.own.path(), err)
				}
				return nil
			})
		}
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return j.doubts(ctx, files, scanners)
}

// scanners makes as many as are used at once.
func (j *judge) scanners() chan *scanner {
	n := max(j.jobs, 1)
	all := make(chan *scanner, n)
	for range n {
		all <- &scanner{hasher: chunk.NewHasher(j.key), dry: j.dry, found: &j.found}
	}
	return all
}

// doubt is a chunk of a file that no single extent proves: the extents that use it.
type doubt struct {
	file  *local
	uses  []int    // indices of extents
	at    []int64  // where each stands in the file
	pages int      // of the chunk
	take  [][]bool // of each page of each use: it is to be copied from the donor. nil: not decided
}

// doubts decides about what one look did not prove.
func (j *judge) doubts(ctx context.Context, files []*local, scanners chan *scanner) error {
	hasher := chunk.NewHasher(j.key)
	open := map[chunk.ID][]*doubt{}
	var copies []*doubt
	for _, f := range files {
		for id, d := range f.doubts() {
			settled, err := j.byName(ctx, hasher, id, d)
			switch {
			case err != nil:
				return fmt.Errorf("compare %s: %w", f.own.path(), err)
			case d.take != nil:
				copies = append(copies, d)
			case !settled:
				open[id] = append(open[id], d)
			}
		}
	}
	chosen, err := j.byPrefix(ctx, hasher, open)
	if err != nil {
		return err
	}
	copies = append(copies, chosen...)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(max(j.jobs, 1))
	for _, d := range copies {
		g.Go(func() error {
			if gctx.Err() != nil {
				return context.Cause(gctx)
			}
			s := <-scanners
			defer func() { scanners <- s }()
			return s.copyPages(d)
		})
	}
	return g.Wait()
}

// doubts groups the extents of pages that are not proved by their chunk.
func (f *local) doubts() map[chunk.ID]*doubt {
	found := map[chunk.ID]*doubt{}
	at := int64(0)
	for i := range f.extents {
		e := &f.extents[i]
		if !f.right[i] && e.Form != chunk.FormBytes {
			d := found[e.ID]
			if d == nil {
				d = &doubt{file: f}
				found[e.ID] = d
			}
			d.uses, d.at = append(d.uses, i), append(d.at, at)
		}
		at += e.Bytes()
	}
	return found
}

// byName computes the chunk's name from the pages that the file uses at different places. settled says that there is nothing
// more to ask: it is right, or to be copied (take), or has to be fetched.
func (j *judge) byName(ctx context.Context, h *chunk.Hasher, id chunk.ID, d *doubt) (settled bool, err error) {
	own, donor := d.assemble(func(l *look) []chunk.Digest { return l.own }), d.assemble(func(l *look) []chunk.Digest { return l.donor })
	if own != nil && h.RunID(own) == id {
		j.right(d)
		return true, nil
	}
	if donor != nil && h.RunID(donor) == id {
		d.decide(func(int, int) bool { return true })
		return true, nil
	}
	for _, i := range d.uses {
		if l := &d.file.looks[i]; l.own == nil && l.donor == nil {
			return true, nil
		}
	}
	if j.strict {
		return true, nil
	}
	loc, err := j.c.locate(ctx, id)
	if err != nil {
		return false, err
	}
	d.pages = loc.Form.Pages(int(loc.Plain))
	// All of its pages are here, some of them others, and there is nothing to take them from.
	wrong := len(own) == d.pages && donor == nil || len(donor) == d.pages && own == nil
	return wrong, nil
}

// right notes that all of the chunk's uses are as they should be.
func (j *judge) right(d *doubt) {
	for _, i := range d.uses {
		d.file.right[i] = true
		j.found.add(d.file.extents[i].Bytes(), 0)
	}
}

// decide notes which pages are to be copied.
func (d *doubt) decide(take func(use, page int) bool) {
	d.take = make([][]bool, len(d.uses))
	for u, i := range d.uses {
		d.take[u] = make([]bool, d.file.extents[i].Count)
		for k := range d.take[u] {
			d.take[u][k] = take(u, k)
		}
	}
}

// assemble puts the digests of the chunk's pages, as far as the file has them from one side, into the order of the chunk;
// nil if one of its first pages is missing, or two uses of one page differ.
func (d *doubt) assemble(side func(*look) []chunk.Digest) []chunk.Digest {
	order := slices.Clone(d.uses)
	slices.SortStableFunc(order, func(a, b int) int { return int(d.file.extents[a].First) - int(d.file.extents[b].First) })
	var run []chunk.Digest
	for _, i := range order {
		digests, first := side(&d.file.looks[i]), int(d.file.extents[i].First)
		if digests == nil || first > len(run) {
			return nil
		}
		again := min(len(run)-first, len(digests))
		if !slices.Equal(run[first:first+again], digests[:again]) {
			return nil
		}
		run = append(run, digests[again:]...)
	}
	return run
}

// byPrefix compares pages with the beginnings of their digests, and returns the doubts of which pages are to be copied.
func (j *judge) byPrefix(ctx context.Context, h *chunk.Hasher, open map[chunk.ID][]*doubt) (copies []*doubt, err error) {
	digests, ok := j.c.Chunks.(Digests)
	if !ok || len(open) == 0 {
		return nil, nil
	}
	ids := make([]chunk.ID, 0, len(open))
	for id := range open {
		ids = append(ids, id)
	}
	err = digests.PageDigests(ctx, ids, func(id chunk.ID, prefixes []chunk.Prefix) error {
		for _, d := range open[id] {
			if d.choose(h, id, prefixes) {
				copies = append(copies, d)
			}
		}
		return nil
	})
	if err != nil && !j.c.lost(err) {
		return nil, fmt.Errorf("compare with page digests: %w", err)
	}
	var partial []*doubt
	for _, d := range copies {
		if d.copies() {
			partial = append(partial, d)
		} else {
			j.right(d)
		}
	}
	return partial, nil
}

// copies says whether a page is to be copied at all.
func (d *doubt) copies() bool {
	return slices.ContainsFunc(d.take, func(t []bool) bool { return slices.Contains(t, true) })
}

// choose takes each page from the side whose digest begins as the chunk's does; false if a page has none. Where the pages are
// all of the chunk, their whole digests have to make its name.
func (d *doubt) choose(h *chunk.Hasher, id chunk.ID, prefixes []chunk.Prefix) bool {
	run, known := make([]chunk.Digest, len(prefixes)), make([]bool, len(prefixes))
	fits := true
	d.decide(func(u, k int) bool {
		i := d.uses[u]
		l, page := &d.file.looks[i], int(d.file.extents[i].First)+k
		is := func(side []chunk.Digest) bool {
			if page >= len(prefixes) || k >= len(side) || side[k].Prefix() != prefixes[page] {
				return false
			}
			// Two places of one page have to be the same page.
			if known[page] && run[page] != side[k] {
				return false
			}
			run[page], known[page] = side[k], true
			return true
		}
		if is(l.own) {
			return false
		}
		fits = is(l.donor) && fits
		return true
	})
	if fits && !slices.Contains(known, false) && h.RunID(run) != id {
		fits = false
	}
	if !fits {
		d.take = nil
	}
	return fits
}

// copyPages reads pages from the donor once more, each compared with the digest that was judged, and writes them from the same
// buffer. Where the donor has changed since, the chunk has to be fetched.
func (s *scanner) copyPages(d *doubt) error {
	donor := openDonor(d.file)
	if donor == nil {
		return nil
	}
	defer donor.Close() // only read
	own, err := s.openOwn(d.file)
	if err != nil {
		return fmt.Errorf("write %s: %w", d.file.own.path(), err)
	}
	if own != nil {
		defer own.Close() // made durable in the end, through another handle
	}
	var kept, copied int64
	for u, i := range d.uses {
		e := &d.file.extents[i]
		size := int64(1) << e.Form
		for k, take := range d.take[u] {
			at := d.at[u] + int64(k)*size
			if !take {
				kept += size
				continue
			}
			b, ok := s.read(donor, at, size)
			if !ok || s.hasher.PageDigest(b) != d.file.looks[i].donor[k] {
				return nil
			}
			if err := s.put(d.file, own, b, at); err != nil {
				return fmt.Errorf("write %s: %w", d.file.own.path(), err)
			}
			copied += size
		}
	}
	for _, i := range d.uses {
		d.file.right[i] = true
	}
	s.found.add(kept, copied)
	return nil
}
