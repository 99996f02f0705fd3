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
	Check func(ctx context.Context, pages []byte, first int64) ([]DamagedPage, error)
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
	Progress  func(read int64)
}

// Result is what Take found.
type Result struct {
	Root    Root
	Size    int64 // bytes of all files as stored
	Read    int64 // bytes read
	Files   int64
	Damaged []DamagedPage
}

// unitPages is the length of the parts that a relation file is worked on in, each cut on its own: two workers share
// a file of 1 GiB, and memory does not depend on the size of files. Costs one cut in about 512 chunks.
const unitPages = 8192

// Take reads all sources and stores their chunks, recipes and listing. Sources may come in any order. It returns
// once everything was handed to the writers; making that durable is the session's part.
func Take(parent context.Context, sources []Source, o Options) (*Result, error) {
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

	t := &taker{o: o, units: make(chan unit)}
	g, ctx := errgroup.WithContext(parent)
	for range max(o.Jobs, 1) {
		g.Go(func() error { return t.work(ctx) })
	}
	g.Go(func() error {
		defer close(t.units)
		return t.feed(ctx, order)
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

// job is a source on its way. Its units are worked on in any order; the worker that finishes the last one closes it.
type job struct {
	src     *Source
	content Content
	form    chunk.Form
	parts   [][]Extent
	damaged [][]DamagedPage
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
}

type taker struct {
	o     Options
	units chan unit
	busy  sync.WaitGroup // units handed out and not finished
	read  atomic.Int64
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
		units, err := j.open()
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
				return ctx.Err() // files of unfinished units are closed with the process; nothing was written to them
			}
		}
	}
	return nil
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
	j.parts, j.damaged = make([][]Extent, n), make([][]DamagedPage, n)
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
	for u := range t.units {
		err := w.unit(ctx, u)
		if err == nil && u.job.left.Add(-1) == 0 {
			err = u.job.close(ctx, w.store)
		}
		t.read.Add(w.takeRead())
		t.busy.Done()
		if err != nil {
			return fmt.Errorf("back up %s: %w", u.job.src.Path, err)
		}
	}
	return ctx.Err()
}

// close joins the units' extents to the file's recipe and encodes its entry.
func (j *job) close(ctx context.Context, w MetaWriter) error {
	if err := j.content.Close(); err != nil {
		return err
	}
	var extents []Extent
	for i, part := range j.parts {
		extents = append(extents, part...)
		var n int64
		for _, e := range part {
			n += e.Bytes()
		}
		j.size += n
		if j.form != 0 && n < unitPages<<j.form && i < len(j.parts)-1 {
			break // truncated while being read: what lies behind the new end does not count
		}
	}
	j.parts = nil
	ref, err := storeRecipe(ctx, w, MarshalExtents(joinExtents(extents)))
	if err != nil {
		return err
	}
	e := j.src.Entry
	e.Size, e.Recipe = j.size, ref
	j.entry = appendEntry(nil, &e)
	return nil
}

// joinExtents merges neighbouring runs of zero pages.
func joinExtents(in []Extent) []Extent {
	out := in[:0]
	for _, e := range in {
		if n := len(out); n > 0 && e.Zero && out[n-1].Zero {
			out[n-1].Count += e.Count
			continue
		}
		out = append(out, e)
	}
	return out
}

func (t *taker) finish(ctx context.Context, jobs []*job) (*Result, error) {
	r := &Result{Read: t.read.Load()}
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
		for _, d := range j.damaged {
			r.Damaged = append(r.Damaged, d...)
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
