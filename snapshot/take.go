package snapshot

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/pgtrove/pgtrove/chunk"
)

// Source is one thing to store. What Stat and Size say is what was there when it was listed; the stored entry says
// what was read.
type Source struct {
	Entry
	// Form is the page size of a relation file, 0 for everything else. A relation file whose size turns out not to
	// be a whole number of pages is stored as bytes.
	Form chunk.Form
	// Open opens a File; other types have none. An error that is fs.ErrNotExist says that the file is gone: it is
	// left out, as PostgreSQL's replay removes it anyway. Open is called from several goroutines.
	Open func() (Content, error)
	// Last says that the file is to be read after all others: pg_control, so that a restore of it never claims more
	// than the other files hold.
	Last bool
	// Check verifies the checksums of a run of pages that was just read, first being the first one's number in this
	// file. It may read pages again and put better ones in their place. Nil: the pages have no checksums.
	Check func(ctx context.Context, pages []byte, first int64) (Checked, error)
	// Changed holds every page of a relation file that may differ from the parent snapshot's. Nil: any page may. It
	// counts only where Options.Parent is trusted; pages behind the parent's end need not be in it.
	Changed PageSet
}

// Checked is what verifying pages brought to light.
type Checked struct {
	Damaged []DamagedPage
	Reread  bool // pages were read again: the bytes may be others
	// Excused says that some page was wrong and yet not damaged: the server seemed to be writing it, and recovery will write it
	// anew. Nobody knows whether it ever became right.
	Excused bool
}

// PageSet is a set of pages of one file, counted from its start. Has is called from several goroutines.
type PageSet interface {
	Has(page int64) bool
}

// Content is an open file. ReadAt is called from several goroutines; a short read at the end is not an error, the file
// may have been truncated since.
type Content interface {
	io.ReaderAt
	io.Closer
	Size() (int64, error)
}

// Writer stores chunks under one session. It is used by one goroutine; buffers stay the caller's.
type Writer interface {
	MetaWriter
	// Pages stores a run of pages named by their digests, unless the repository has it.
	Pages(ctx context.Context, form chunk.Form, digests []chunk.Digest, pages []byte) (chunk.ID, error)
	// Bytes stores a piece of a byte stream, unless the repository has it.
	Bytes(ctx context.Context, plain []byte) (chunk.ID, error)
}

// Options of Take.
type Options struct {
	Jobs      int                    // files and parts of files in work at once; 0: one
	Key       chunk.Key              // K_id
	NewWriter func() (Writer, error) // called once per job
	// Progress is told of bytes that were read, or did not have to be. It is called from several goroutines.
	Progress func(n int64)

	// Replaying says that the server is a standby: what Source.Changed leaves out was unchanged up to its last restart point, which
	// may lie minutes before the backup, while the files' times are of now.
	Replaying bool
	Parent    *Parent // nil: every file is stored without looking at an earlier snapshot
	Known     *Known  // pages that an unfinished backup left; nil: none
	Notes     Notes   // nil: none are kept
	// Lost is told when what the parent knows of a file cannot be used; the file is then stored as if it were new. It is
	// called from several goroutines.
	Lost func(path string, err error)
}

// Result is what Take found.
type Result struct {
	Root    Root
	Size    int64 // bytes of all files as stored
	Files   int64
	Damaged []DamagedPage
	// Unsettled are files in which a wrong page was excused: the next snapshot verifies all of each.
	Unsettled []string
	Tally
}

// Tally says what had to be done.
type Tally struct {
	Read              int64 // bytes
	ChangedPages      int64 // pages of relation files that are not as the parent has them
	SkippedFiles      int64 // files not opened, since their size, times and identity are the parent's
	SkippedFileBytes  int64
	SkippedBlockBytes int64 // pages not read, since no WAL summary lists them
}

func (t *Tally) add(o Tally) {
	t.Read += o.Read
	t.ChangedPages += o.ChangedPages
	t.SkippedFiles += o.SkippedFiles
	t.SkippedFileBytes += o.SkippedFileBytes
	t.SkippedBlockBytes += o.SkippedBlockBytes
}

// unitPages is the length of the parts that a relation file is worked on in, each cut on its own: two workers share
// a file of 1 GiB, and memory does not depend on the size of files. Costs one cut in about 128 chunks.
const unitPages = 8192

// Take reads all sources and stores their chunks, recipes and listing. Sources may come in any order. It returns
// once everything was handed to the writers; making that durable is the session's part.
func Take(parent context.Context, sources []Source, o Options) (*Result, error) {
	o.fill()
	jobs := make([]*job, len(sources))
	order := make([]*job, len(sources))
	for i := range sources {
		jobs[i] = &job{src: &sources[i]}
		order[i] = jobs[i]
	}
	// The largest files first: what is left for the end is small, and the workers finish together.
	slices.SortStableFunc(order, func(a, b *job) int {
		if a.src.Last != b.src.Last {
			return map[bool]int{false: -1, true: 1}[a.src.Last]
		}
		return cmp.Compare(b.src.Size, a.src.Size)
	})

	t := &taker{o: o, units: make(chan unit), parcels: make(chan *parcel), used: make(chan *parcel, max(o.Jobs, 1))}
	g, ctx := errgroup.WithContext(parent)
	for range max(o.Jobs, 1) {
		g.Go(func() error { return t.work(ctx) })
	}
	g.Go(func() error {
		err := t.feed(ctx, order)
		close(t.units)
		t.busy.Wait()
		close(t.parcels)
		return err
	})
	err := g.Wait()
	for _, j := range jobs {
		if j.content != nil && j.left.Load() > 0 { // given up half-way
			_ = j.content.Close()
		}
	}
	if err != nil {
		return nil, err
	}
	return t.finish(parent, jobs)
}

// fill puts something that does nothing in the place of what is not given.
func (o *Options) fill() {
	if o.Progress == nil {
		o.Progress = func(int64) {}
	}
	if o.Lost == nil {
		o.Lost = func(string, error) {}
	}
	if o.Notes == nil {
		o.Notes = noNotes{}
	}
}

type noNotes struct{}

func (noNotes) Recall(chunk.ID, []byte) []byte { return nil }
func (noNotes) Remember(chunk.ID, []byte)      {}
func (noNotes) Keep(...chunk.ID)               {}

// job is a source on its way. Its units are worked on in any order; the worker that finishes the last one closes it.
type job struct {
	src     *Source
	content Content
	form    chunk.Form
	parts   [][]Extent
	digests [][]chunk.Prefix // of the pages of each part
	damaged [][]DamagedPage
	excused atomic.Bool // some page was
	left    atomic.Int64
	entry   []byte // encoded, nil: vanished
	size    int64
}

// unit is a part of a job.
type unit struct {
	job   *job
	n     int
	first int64 // page, in relation files
	pages int64
	based bool // the whole file, compared with what is known of it
}

type taker struct {
	o     Options
	units chan unit
	busy  sync.WaitGroup // units handed out and not finished

	// parcels are chunks that a worker has cut and another one, which has nothing to read, stores: the changed pages of a file
	// are gathered by one worker, and may be most of what there is to do.
	parcels chan *parcel
	used    chan *parcel // delivered: their buffers serve again

	mu    sync.Mutex
	tally Tally
}

// feed opens files and hands out their units. Only as many files are open as workers hold units of, and one more.
func (t *taker) feed(ctx context.Context, jobs []*job) error {
	for _, j := range jobs {
		if j.src.Type != File {
			j.entry = appendEntry(nil, &j.src.Entry)
			continue
		}
		if j.src.Last {
			t.busy.Wait()
		}
		units, err := t.unitsOf(j)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("open %s: %w", j.src.Path, err)
		}
		for _, u := range units {
			t.busy.Add(1)
			select {
			case t.units <- u:
			case <-ctx.Done():
				t.busy.Done()
				return ctx.Err()
			}
		}
	}
	return nil
}

// unitsOf opens a file and divides it. One that is compared with what is known of it is a unit of its own, since its changed pages
// are gathered across all of it, and is opened only if it has to be.
func (t *taker) unitsOf(j *job) ([]unit, error) {
	if !j.src.Last && (t.o.Parent.file(j.src.Path) != nil || t.o.Known != nil && j.src.Form != 0) {
		return []unit{{job: j, based: true}}, nil
	}
	return j.open()
}

func (j *job) open() ([]unit, error) {
	content, err := j.src.Open()
	if err != nil {
		return nil, err
	}
	size, err := content.Size()
	if err != nil {
		_ = content.Close()
		return nil, err
	}
	j.content, j.form = content, j.src.Form
	if j.form != 0 && size&(1<<j.form-1) != 0 {
		j.form = 0
	}
	if j.form == 0 {
		j.parts, j.damaged = make([][]Extent, 1), make([][]DamagedPage, 1)
		j.left.Store(1)
		return []unit{{job: j}}, nil
	}
	pages := size >> j.form
	n := max((pages+unitPages-1)/unitPages, 1)
	j.parts, j.digests, j.damaged = make([][]Extent, n), make([][]chunk.Prefix, n), make([][]DamagedPage, n)
	j.left.Store(n)
	units := make([]unit, n)
	for i := range units {
		first := int64(i) * unitPages
		units[i] = unit{job: j, n: i, first: first, pages: min(unitPages, pages-first)}
	}
	return units, nil
}

func (t *taker) work(ctx context.Context) error {
	w, err := newWorker(t.o)
	if err != nil {
		return err
	}
	defer func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.tally.add(w.tally)
	}()
	w.parcels, w.used = t.parcels, t.used
	for units := t.units; ; {
		select {
		case u, ok := <-units:
			if !ok {
				units = nil // none to come; others may still have chunks to store
				continue
			}
			err := t.unit(ctx, w, u)
			t.busy.Done()
			if err != nil {
				return fmt.Errorf("back up %s: %w", u.job.src.Path, err)
			}
		case p, ok := <-t.parcels:
			if !ok {
				return ctx.Err()
			}
			if err := w.deliver(ctx, p); err != nil {
				return fmt.Errorf("back up %s: %w", p.path, err)
			}
		}
	}
}

func (t *taker) unit(ctx context.Context, w *worker, u unit) error {
	if err := w.unit(ctx, u); err != nil || u.based || u.job.left.Add(-1) > 0 {
		return err
	}
	if err := u.job.content.Close(); err != nil {
		return err
	}
	return u.job.finish(ctx, w)
}

// finish joins the units' extents to the file's recipe and encodes its entry.
func (j *job) finish(ctx context.Context, w *worker) error {
	var extents []Extent
	var digests []chunk.Prefix
	for i, part := range j.parts {
		extents = append(extents, part...)
		var n int64
		for _, e := range part {
			n += e.Bytes()
		}
		j.size += n
		if j.form == 0 {
			continue
		}
		digests = append(digests, j.digests[i]...)
		if n < unitPages<<j.form && i < len(j.parts)-1 {
			break // truncated while being read: what lies behind the new end does not count
		}
	}
	j.parts, j.digests = nil, nil
	extents = joinExtents(extents)
	ref, err := storeRecipe(ctx, w.store, MarshalExtents(extents))
	if err != nil {
		return err
	}
	if len(digests) > 0 {
		w.remember(ref, digests, wholeChunks(extents))
	}
	e := j.src.Entry
	e.Size, e.Recipe = j.size, ref
	j.entry = appendEntry(nil, &e)
	return nil
}

// wholeChunks lists how many pages the chunks of extents have, in order of first use, where every extent is a whole chunk.
func wholeChunks(extents []Extent) []uint16 {
	var sizes []uint16
	seen := make(map[chunk.ID]bool, len(extents))
	for i := range extents {
		if e := &extents[i]; !e.Zero && !seen[e.ID] {
			seen[e.ID] = true
			sizes = append(sizes, uint16(e.Count))
		}
	}
	return sizes
}

// joinExtents merges, in place, neighbouring runs of zero pages, and of pages that are neighbours in their chunk too.
func joinExtents(in []Extent) []Extent {
	out := in[:0]
	for _, e := range in {
		if n := len(out); n > 0 && out[n-1].continues(e) {
			out[n-1].Count += e.Count
			continue
		}
		out = append(out, e)
	}
	return out
}

func (e Extent) continues(next Extent) bool {
	if e.Form == 0 || e.Zero || next.Zero {
		return e.Zero && next.Zero
	}
	return e.ID == next.ID && e.First+e.Count == next.First
}

// damages lists the damaged pages of the file once each: pages may be verified twice, and the file may have become shorter.
func (j *job) damages() []DamagedPage {
	all := slices.Concat(j.damaged...)
	slices.SortFunc(all, func(a, b DamagedPage) int { return cmp.Compare(a.Block, b.Block) })
	return slices.CompactFunc(all, func(a, b DamagedPage) bool { return a.Block == b.Block })
}

func (t *taker) finish(ctx context.Context, jobs []*job) (*Result, error) {
	r := &Result{Tally: t.tally}
	kept := make([]*job, 0, len(jobs))
	for _, j := range jobs {
		if j.entry == nil {
			continue
		}
		kept = append(kept, j)
		if j.src.Type == File {
			r.Files++
			r.Size += j.size
		}
		r.Damaged = append(r.Damaged, j.damages()...)
		if j.excused.Load() {
			r.Unsettled = append(r.Unsettled, j.src.Path)
		}
	}
	slices.SortFunc(kept, func(a, b *job) int { return cmp.Compare(a.src.Path, b.src.Path) })
	entries := make([][]byte, len(kept))
	for i, j := range kept {
		entries[i] = j.entry
	}
	w, err := t.o.NewWriter()
	if err != nil {
		return nil, err
	}
	r.Root, err = writeTree(ctx, w, t.o.Key, entries)
	return r, err
}
