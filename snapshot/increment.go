package snapshot

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"slices"

	"github.com/pgtrove/pgtrove/chunk"
)

// increment stores a relation file of which some pages are in the repository already: in the parent's chunks, or in chunks of an
// unfinished backup. Pages that are not there are gathered, in order, into new chunks; the others keep the extents they have.
type increment struct {
	w       *worker
	src     *Source
	content Content
	form    chunk.Form
	then    *Entry // the parent's; nil: it has none
	base    *baseline
	pages   int64          // of the file; less than at first if it is cut off meanwhile
	digests []chunk.Prefix // of the pages as they are now stored
	pieces  []piece        // what differs from the parent, in order of page, the rewritten ones last
	gather  gather
	damaged []DamagedPage
	excused bool               // some wrong page was
	skipped bool               // pages were not read
	hits    map[uint32]uint32  // pages used of each known chunk, by its number
	chunks  map[chunk.ID]int64 // pages of each chunk, once asked for
	sizes   []uint16           // pages of the chunks that the recipe names, in order of first use
}

// piece is a run of pages whose content is not the parent's.
type piece struct {
	page  int64
	count int64
	from  origin
	at    int64 // gathered: place in the gathered sequence; known: place in Known
}

type origin uint8

const (
	fromZero     origin = iota // zero pages
	fromGathered               // stored now
	fromKnown                  // in a chunk that an unfinished backup left
)

// gather collects pages into chunks that are cut by their digests, as base chunks are.
type gather struct {
	pages   []byte
	digests []chunk.Digest
	total   int64 // pages taken in
	chunks  []gathered
}

type gathered struct {
	id    chunk.ID
	first int64 // place of its first page in the sequence
	count int64
}

// based stores a file that the parent has, or that may have pages in Known.
func (w *worker) based(ctx context.Context, j *job) error {
	then := w.parent.file(j.src.Path)
	if then != nil && w.parent.untouched(&j.src.Entry, then) {
		if w.inherits(ctx, then) {
			w.tally.SkippedFiles++
			w.tally.SkippedFileBytes += then.Size
			w.progress(then.Size)
			w.keepNotes(then, j.src.Form)
			j.keep(then)
			return ctx.Err()
		}
	}
	content, err := j.src.Open()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer content.Close()
	size, err := content.Size()
	if err != nil {
		return err
	}
	form := j.src.Form
	if form == 0 || size&(1<<form-1) != 0 {
		return w.basedBytes(ctx, j, content)
	}
	f := &increment{w: w, src: j.src, content: content, form: form, then: then, pages: size >> form}
	if f.listedNowhere() && w.inherits(ctx, then) {
		w.tally.SkippedBlockBytes += size
		w.progress(size)
		w.keepNotes(then, form)
		f.timeless(&j.src.Entry)
		j.keep(then)
		return ctx.Err()
	}
	return f.run(ctx, j)
}

// basedBytes stores a file that is not made of pages.
func (w *worker) basedBytes(ctx context.Context, j *job, content Content) error {
	j.content, j.parts = content, make([][]Extent, 1)
	if err := w.bytes(ctx, unit{job: j}); err != nil {
		return err
	}
	return j.finish(ctx, w)
}

// inherits says whether everything that an entry's recipe names is in the repository.
func (w *worker) inherits(ctx context.Context, e *Entry) bool {
	if e.Recipe.Empty() {
		return true
	}
	missing, err := w.missing(ctx, e.Recipe, nil)
	return err == nil && len(missing) == 0 // what is wrong shows when the recipe is needed
}

// keep makes the entry of a file that is the parent's.
func (j *job) keep(then *Entry) {
	e := j.src.Entry
	e.Size, e.Recipe = then.Size, then.Recipe
	j.size = then.Size
	j.entry = appendEntry(nil, &e)
}

// timeless takes the change time out of an entry with pages that were not read, where these may be older than the file's times: on a
// standby, a page that changed after the restart point that the backup begins with is not listed, and replay makes the change
// again; but the file already has the time of the change. With it in the entry, the next snapshot, which begins behind that change,
// would take the old page for the new one. The device and the inode stay: Source.Changed goes on to be believed.
func (f *increment) timeless(e *Entry) {
	if f.w.replaying {
		e.Stat.ChangeTime = 0
	}
}

// listedNowhere says whether the file has as many pages as the parent's and none of them may have changed.
func (f *increment) listedNowhere() bool {
	if !f.trusts() || f.then.Size != f.pages<<f.form {
		return false
	}
	for page := range f.pages {
		if f.src.Changed.Has(page) {
			return false
		}
	}
	return true
}

// trusts says whether pages that Source.Changed does not hold need not be read. A file that is not the very one that the parent saw
// was put there by somebody else than the server: WAL tells nothing of that.
func (f *increment) trusts() bool {
	return f.src.Changed != nil && f.then != nil && f.w.parent.Trusted && !f.w.parent.damaged[f.src.Path] &&
		f.src.Stat.Inode == f.then.Stat.Inode && f.src.Stat.Device == f.then.Stat.Device
}

func (f *increment) run(ctx context.Context, j *job) error {
	if err := f.begin(ctx); err != nil {
		return err
	}
	if err := f.scan(ctx); err != nil {
		return err
	}
	if err := f.rewrite(ctx); err != nil {
		return err
	}
	if err := f.flush(ctx); err != nil {
		return err
	}
	return f.finish(ctx, j)
}

// begin loads what the parent knows of the file. What cannot be used is as if there were none.
func (f *increment) begin(ctx context.Context) error {
	f.base = &baseline{}
	if f.then != nil && !f.then.Recipe.Empty() {
		b, err := f.w.loadBaseline(ctx, f.then, f.form)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil && !f.w.parent.isLoss(err):
			return err
		case err != nil:
			f.w.lost(f.src.Path, err)
		default:
			f.base = b
		}
	}
	f.digests = make([]chunk.Prefix, f.pages)
	copy(f.digests, f.base.digests)
	f.gather.pages = f.w.gathering[:0]
	if f.w.known != nil {
		f.hits = map[uint32]uint32{}
	}
	f.w.cutter.Reset()
	return nil
}

// mustRead says whether a page may differ from the parent's.
func (f *increment) mustRead(page int64, trusts bool) bool {
	return !trusts || page >= f.base.pages || f.src.Changed.Has(page) || f.base.absent != nil && f.base.absent[page]
}

// scan reads what may have changed, a stretch at a time, and sorts out what has.
func (f *increment) scan(ctx context.Context) error {
	trusts := f.trusts()
	most := int64(readSize >> f.form)
	for page := int64(0); page < f.pages; {
		if err := ctx.Err(); err != nil {
			return err
		}
		if !f.mustRead(page, trusts) {
			f.skipped = true
			f.w.tally.SkippedBlockBytes += 1 << f.form
			f.w.progress(1 << f.form)
			page++
			continue
		}
		n := int64(1)
		for n < most && page+n < f.pages && f.mustRead(page+n, trusts) {
			n++
		}
		got, err := f.stretch(ctx, page, n, f.compare)
		if err != nil {
			return err
		}
		page += got
		if got < n {
			f.truncate(page)
		}
	}
	return nil
}

// stretch reads up to n pages from page on and hands them to do.
func (f *increment) stretch(ctx context.Context, page, n int64, do func(ctx context.Context, pages []byte, first int64) error) (int64, error) {
	f.w.buf = f.w.buf[:0]
	b, err := f.w.fill(f.content, page<<f.form, int(n<<f.form), 1<<f.form)
	if err != nil || len(b) == 0 {
		return 0, err
	}
	return int64(len(b) >> f.form), do(ctx, b, page)
}

// truncate ends the file at a page: it became shorter while it was read.
func (f *increment) truncate(pages int64) {
	f.pages = pages
	f.digests = f.digests[:pages]
	f.pieces = slices.DeleteFunc(f.pieces, func(p piece) bool { return p.page >= pages })
	if n := len(f.pieces); n > 0 {
		last := &f.pieces[n-1]
		last.count = min(last.count, pages-last.page)
	}
}

// compare takes in pages that were read: those that are not the parent's are checked, and become pieces.
func (f *increment) compare(ctx context.Context, pages []byte, first int64) error {
	if !f.base.checked {
		if _, err := f.check(ctx, pages, first); err != nil {
			return err
		}
	}
	n := len(pages) >> f.form
	f.w.digests = f.w.digests[:0]
	for i := range n {
		f.w.digests = append(f.w.digests, f.digest(f.page(pages, i)))
	}
	for i := 0; i < n; {
		if f.base.has(first+int64(i), f.w.digests[i].Prefix()) {
			i++
			continue
		}
		end := i + 1
		for end < n && !f.base.has(first+int64(end), f.w.digests[end].Prefix()) {
			end++
		}
		if f.base.checked {
			// The same bytes in the same place were verified when the parent was taken; only what changed is left.
			reread, err := f.check(ctx, pages[i<<f.form:end<<f.form], first+int64(i))
			if err != nil {
				return err
			}
			for k := i; k < end && reread; k++ {
				f.w.digests[k] = f.digest(f.page(pages, k))
			}
		}
		for ; i < end; i++ {
			if err := f.take(ctx, f.page(pages, i), first+int64(i), f.w.digests[i], true); err != nil {
				return err
			}
		}
	}
	return nil
}

func (f *increment) page(pages []byte, i int) []byte { return pages[i<<f.form : (i+1)<<f.form] }

// digest of a page; that of a zero page is the zero value.
func (f *increment) digest(page []byte) chunk.Digest {
	if isZero(page) {
		return chunk.Digest{}
	}
	return f.w.hasher.PageDigest(page)
}

// check verifies checksums. It may put other bytes in the pages' place, and says whether it did.
func (f *increment) check(ctx context.Context, pages []byte, first int64) (reread bool, err error) {
	if f.src.Check == nil {
		return false, nil
	}
	c, err := f.src.Check(ctx, pages, first)
	f.damaged = append(f.damaged, c.Damaged...)
	f.excused = f.excused || c.Excused
	return c.Reread, err
}

// take stores one page, or finds it among the known ones if it may.
func (f *increment) take(ctx context.Context, page []byte, number int64, d chunk.Digest, known bool) error {
	f.digests[number] = d.Prefix()
	if d == (chunk.Digest{}) {
		f.add(piece{page: number, count: 1, from: fromZero})
		return nil
	}
	if known {
		if at, ok := f.w.known.find(d.Prefix()); ok && f.w.trustsKnown(at, d) {
			f.hits[at>>8]++
			f.add(piece{page: number, count: 1, from: fromKnown, at: int64(at)})
			return nil
		}
	}
	f.add(piece{page: number, count: 1, from: fromGathered, at: f.gather.total})
	f.gather.total++
	f.gather.pages = append(f.gather.pages, page...)
	f.gather.digests = append(f.gather.digests, d)
	return f.cut(ctx, f.w.cutter.Next(f.gather.digests))
}

// trustsKnown is false for a chunk of one page that another digest names: a longer chunk is believed when more of its pages are
// found (see rewrite), of this one no more can be.
func (w *worker) trustsKnown(at uint32, d chunk.Digest) bool {
	c := &w.known.chunks[at>>8]
	return c.pages > 1 || w.hasher.RunID([]chunk.Digest{d}) == c.id
}

// add appends a piece, joining it to the last one where they are neighbours.
func (f *increment) add(p piece) {
	f.w.tally.ChangedPages += p.count
	if n := len(f.pieces); n > 0 {
		last := &f.pieces[n-1]
		joins := last.from == p.from && last.page+last.count == p.page
		if p.from != fromZero {
			joins = joins && last.at+last.count == p.at && (p.from != fromKnown || last.at>>8 == p.at>>8)
		}
		if joins {
			last.count += p.count
			return
		}
	}
	f.pieces = append(f.pieces, p)
}

// cut stores the gathered pages as a chunk, if n of them, which is all or none, make one.
func (f *increment) cut(ctx context.Context, n int) error {
	if n == 0 {
		return nil
	}
	id, err := f.send(ctx)
	if err != nil {
		return err
	}
	g := &f.gather
	first := int64(0)
	if k := len(g.chunks); k > 0 {
		first = g.chunks[k-1].first + g.chunks[k-1].count
	}
	g.chunks = append(g.chunks, gathered{id: id, first: first, count: int64(n)})
	return nil
}

func (f *increment) flush(ctx context.Context) error {
	err := f.cut(ctx, len(f.gather.digests))
	f.w.cutter.Reset()
	f.w.gathering = f.gather.pages[:0]
	return err
}

// finish makes the recipe and the entry.
func (f *increment) finish(ctx context.Context, j *job) error {
	j.damaged = [][]DamagedPage{f.damaged}
	j.excused.Store(f.excused)
	j.size = f.pages << f.form
	e := j.src.Entry
	e.Size = j.size
	if f.skipped {
		f.timeless(&e)
	}
	var err error
	if e.Recipe, err = f.recipe(ctx); err != nil {
		return err
	}
	switch {
	case e.Recipe.Empty():
	case f.same() && f.base.noted:
		f.w.keepNotes(&e, f.form)
	default:
		if f.sizes == nil {
			if f.sizes, err = f.sizesOf(f.base.extents); err != nil {
				return err
			}
		}
		f.w.remember(e.Recipe, f.digests, f.sizes)
	}
	j.entry = appendEntry(nil, &e)
	return nil
}

// same says whether the file is what the parent has.
func (f *increment) same() bool {
	return len(f.pieces) == 0 && f.pages == f.base.pages && f.base.absent == nil
}

// sorted brings the pieces in order of their pages.
func (f *increment) sorted() {
	slices.SortFunc(f.pieces, func(a, b piece) int { return cmp.Compare(a.page, b.page) })
}
