package snapshot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/pgtrove/pgtrove/chunk"
)

// readSize is how much of a relation file is read at once: large enough that a chunk rarely straddles two reads,
// small enough to stay in a processor's cache from the read to the seal.
const readSize = 1 << 20

// worker turns units into extents. It belongs to one goroutine and reuses all of its buffers.
type worker struct {
	store     Writer
	hasher    *chunk.Hasher
	cutter    *chunk.PageCutter
	stream    *chunk.StreamCutter
	parent    *Parent
	known     *Known
	notes     Notes
	progress  func(int64)
	lost      func(path string, err error)
	replaying bool
	parcels   chan<- *parcel
	used      chan *parcel // delivered
	tally     Tally
	buf       []byte         // pages read and not yet stored
	digests   []chunk.Digest // of the pages of buf that belong to the running chunk
	gathering []byte         // pages of an increment's running chunk
	note      []byte
	piece     []byte // of a byte stream
}

func newWorker(o Options) (*worker, error) {
	store, err := o.NewWriter()
	if err != nil {
		return nil, err
	}
	params := chunk.DefaultPageParams()
	pages, err := chunk.NewPageCutter(o.Key, params)
	if err != nil {
		return nil, err
	}
	bytes, err := chunk.NewStreamCutter(o.Key, chunk.DefaultStreamParams(), nil)
	if err != nil {
		return nil, err
	}
	return &worker{
		store:     store,
		hasher:    chunk.NewHasher(o.Key),
		cutter:    pages,
		stream:    bytes,
		parent:    o.Parent,
		known:     o.Known,
		notes:     o.Notes,
		progress:  o.Progress,
		lost:      o.Lost,
		replaying: o.Replaying,
		buf:       make([]byte, 0, readSize+params.MaxPages()<<maxForm),
	}, nil
}

// maxForm is PostgreSQL's largest block size, 32 KiB, as a power of two.
const maxForm = 15

// count notes bytes that were read.
func (w *worker) count(n int) {
	w.tally.Read += int64(n)
	w.progress(int64(n))
}

func (w *worker) unit(ctx context.Context, u unit) error {
	if u.based {
		return w.based(ctx, u.job)
	}
	if u.job.form == 0 {
		return w.bytes(ctx, u)
	}
	return w.pages(ctx, u)
}

// bytes stores a file that is not made of pages.
func (w *worker) bytes(ctx context.Context, u unit) error {
	size, err := u.job.content.Size()
	if err != nil {
		return err
	}
	r := countingReader{r: io.NewSectionReader(u.job.content, 0, size), count: w.count}
	w.stream.Reset(r)
	var extents []Extent
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		piece, err := w.stream.Next(w.piece)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		id, err := w.store.Bytes(ctx, piece)
		if err != nil {
			return err
		}
		extents = append(extents, Extent{ID: id, Count: uint32(len(piece))})
		w.piece = piece
	}
	u.job.parts[u.n] = extents
	return nil
}

type countingReader struct {
	r     io.Reader
	count func(int)
}

func (c countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.count(n)
	return n, err
}

// pages stores one unit of a relation file. Each page is read, checked and digested once; runs of pages between cuts
// become chunks, runs of zero pages extents of their own.
func (w *worker) pages(ctx context.Context, u unit) error {
	size := 1 << u.job.form
	p := pageRun{w: w, form: u.job.form, digests: make([]chunk.Prefix, 0, u.pages)}
	w.buf, w.digests = w.buf[:0], w.digests[:0]
	for done := int64(0); done < u.pages; {
		if err := ctx.Err(); err != nil {
			return err
		}
		want := int(min(int64(readSize/size), u.pages-done))
		fresh, err := w.fill(u.job.content, (u.first+done)<<u.job.form, want*size, size)
		if err != nil {
			return err
		}
		if check := u.job.src.Check; check != nil && len(fresh) > 0 {
			c, err := check(ctx, fresh, u.first+done)
			if err != nil {
				return err
			}
			if c.Excused {
				u.job.excused.Store(true)
			}
			u.job.damaged[u.n] = append(u.job.damaged[u.n], c.Damaged...)
		}
		for at := 0; at < len(fresh); at += size {
			w.tally.ChangedPages++
			if err := p.add(ctx, fresh[at:at+size]); err != nil {
				return err
			}
		}
		p.settle()
		got := len(fresh) / size
		done += int64(got)
		if got < want {
			break // the file became shorter
		}
	}
	if err := p.end(ctx); err != nil {
		return err
	}
	u.job.parts[u.n], u.job.digests[u.n] = p.extents, p.digests
	return nil
}

// fill reads up to n bytes at offset off behind what buf holds and returns them, whole pages only.
func (w *worker) fill(c Content, off int64, n, page int) ([]byte, error) {
	have := len(w.buf)
	w.buf = w.buf[:have+n]
	got, err := c.ReadAt(w.buf[have:], off)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	w.count(got)
	got -= got % page
	w.buf = w.buf[:have+got]
	return w.buf[have:], nil
}

// pageRun collects consecutive pages into chunks. The running chunk is w.buf[start:start+len(w.digests) pages].
type pageRun struct {
	w       *worker
	form    chunk.Form
	start   int
	zeros   uint32
	extents []Extent
	digests []chunk.Prefix // of every page
}

var zeroPage [1 << 16]byte

func (p *pageRun) add(ctx context.Context, page []byte) error {
	if isZero(page) {
		if err := p.cut(ctx, len(p.w.digests)); err != nil {
			return err
		}
		p.w.cutter.Reset()
		p.start += len(page)
		p.digests = append(p.digests, chunk.Prefix{})
		p.zeros++
		if p.zeros == math.MaxUint32 {
			return fmt.Errorf("more than %d zero pages in a row", p.zeros-1)
		}
		return nil
	}
	p.flushZeros()
	d := p.w.hasher.PageDigest(page)
	p.w.digests = append(p.w.digests, d)
	p.digests = append(p.digests, d.Prefix())
	return p.cut(ctx, p.w.cutter.Next(p.w.digests))
}

// isZero looks at the page's LSN first: nearly every page in use has one.
func isZero(page []byte) bool {
	return page[0] == 0 && page[7] == 0 && bytes.Equal(page, zeroPage[:len(page)])
}

func (p *pageRun) flushZeros() {
	if p.zeros > 0 {
		p.extents = append(p.extents, Extent{Form: p.form, Count: p.zeros, Zero: true})
		p.zeros = 0
	}
}

// cut stores the first n pages of the running chunk.
func (p *pageRun) cut(ctx context.Context, n int) error {
	if n == 0 {
		return nil
	}
	end := p.start + n<<p.form
	id, err := p.w.store.Pages(ctx, p.form, p.w.digests[:n], p.w.buf[p.start:end])
	if err != nil {
		return err
	}
	p.extents = append(p.extents, Extent{ID: id, Form: p.form, Count: uint32(n)})
	p.start = end
	p.w.digests = p.w.digests[:0]
	return nil
}

// settle moves the pages of the unfinished chunk to the front of the buffer.
func (p *pageRun) settle() {
	n := copy(p.w.buf, p.w.buf[p.start:])
	p.w.buf, p.start = p.w.buf[:n], 0
}

func (p *pageRun) end(ctx context.Context) error {
	err := p.cut(ctx, len(p.w.digests))
	p.w.cutter.Reset()
	p.flushZeros()
	return err
}
