package snapshot

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/pgtrove/pgtrove/chunk"
)

// ParentChunks is what a parent is read through. It is safe for concurrent use, and all of it speaks of one view of the
// repository: that of the session which takes the new snapshot.
type ParentChunks interface {
	Fetcher
	// Missing says which of the chunks that a recipe names are not in the repository any more. recipe stands for the recipe; ids lists
	// its chunks, of data and metadata, and is called unless the answer is known.
	Missing(ctx context.Context, recipe chunk.ID, ids func(context.Context) ([]chunk.ID, error)) ([]chunk.ID, error)
	// PageDigests calls each once for every distinct chunk among ids with the digests of its pages, valid during the call.
	PageDigests(ctx context.Context, ids []chunk.ID, each func(id chunk.ID, digests []chunk.Prefix) error) error
	// ChunkSize returns the plain bytes of a chunk.
	ChunkSize(id chunk.ID) (int64, error)
}

// Notes is a cache of what costs time to find out again. It may forget, but never returns what was not remembered under the
// very key. It is safe for concurrent use.
type Notes interface {
	Recall(key chunk.ID, dst []byte) []byte // appends to dst; nil if there is nothing
	Remember(key chunk.ID, value []byte)    // does not keep value
	Keep(keys ...chunk.ID)                  // what is under them is of use to the next snapshot too
}

// Parent is the snapshot that a new one is compared with. Whatever of it cannot be used, or is not there any more, is stored
// afresh: a parent saves work, and nothing depends on it.
type Parent struct {
	// Trusted says that file times and Source.Changed tell everything that happened to the files since the parent: see
	// pgsource's Vouch. Else every file is read.
	Trusted bool
	// IsLoss says of an error of ParentChunks that something is gone or damaged: it is then stored afresh. Any other error ends
	// Take. Nil: every error is a loss.
	IsLoss func(error) bool

	chunks  ParentChunks
	start   time.Time
	checked bool            // the parent's pages had checksums, which were verified
	damaged map[string]bool // files with pages that were, or may have been, damaged: they are read and verified in full
	files   map[string]*Entry
}

// LoadParent reads the listing of the snapshot m.
func LoadParent(ctx context.Context, m *Manifest, c ParentChunks) (*Parent, error) {
	p := &Parent{
		chunks: c, start: m.Window.StartTime, checked: m.Server.Checksums,
		damaged: map[string]bool{}, files: map[string]*Entry{},
	}
	for _, d := range m.Damaged {
		p.damaged[d.Path] = true
	}
	for _, path := range m.Unsettled {
		p.damaged[path] = true
	}
	err := m.Root.Walk(ctx, c, func(e *Entry) error {
		if e.Type == File {
			p.files[e.Path] = e
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the listing of snapshot %s: %w", m.ID, err)
	}
	return p, nil
}

func (p *Parent) isLoss(err error) bool {
	return p.IsLoss == nil || p.IsLoss(err) || errors.Is(err, ErrInvalid)
}

// file returns the parent's entry of a path, nil if there is none.
func (p *Parent) file(path string) *Entry {
	if p == nil {
		return nil
	}
	return p.files[path]
}

// settled is how long before the parent's start a file must have been modified for its time to tell later changes from
// earlier ones. Times lag the clock by a tick of the kernel: 6 ms were measured, and older kernels have up to 10.
const settled = 2 * time.Second

// untouched says whether a file is as the parent saw it, by its size, times and identity. A write after the parent looked would
// have set a later time than the one that it noted, since that lay well before its start. It relies on the noted times being
// those of the content that was stored (see timeless).
func (p *Parent) untouched(now, then *Entry) bool {
	return p.Trusted && !p.damaged[now.Path] && now.Size == then.Size && now.Stat == then.Stat &&
		now.Stat.ModTime <= p.start.Add(-settled).UnixNano()
}

// recipeName is a name for what ref points to: for one content, whichever snapshot it stands in.
func recipeName(h *chunk.Hasher, ref RecipeRef) chunk.ID {
	return h.MetaID(appendRef([]byte("recipe\x00"), ref))
}

// What is noted of a recipe.
const (
	noteDigests = "page digests" // of the file's pages, 8 bytes each, zero pages as zeros
	noteSizes   = "chunk sizes"  // pages of each chunk in order of first use, 2 bytes each
)

// noteWindow is how much of a note is kept under one name, in bytes: the digests of 8192 pages.
const noteWindow = unitPages * chunk.PrefixSize

// noteName names one window of what is noted of a recipe. A note can be of no use, but not wrong: another content has another
// recipe.
func noteName(h *chunk.Hasher, what string, recipe chunk.ID, window int) chunk.ID {
	return h.MetaID(binary.BigEndian.AppendUint32(append([]byte(what+"\x00"), recipe[:]...), uint32(window)))
}

// baseline is what is known of one file's pages before it is read.
type baseline struct {
	chain
	ref     RecipeRef
	pages   int64
	digests []chunk.Prefix // of each page; of a zero page the zero value
	absent  []bool         // pages whose chunk is gone; nil: none
	gone    map[chunk.ID]bool
	noted   bool // the digests came from the notes
	checked bool // the pages' checksums were verified when they were stored
}

// has says whether a page with that digest is in its place already.
func (b *baseline) has(page int64, d chunk.Prefix) bool {
	return page < b.pages && b.digests[page] == d && (b.absent == nil || !b.absent[page])
}

// loadBaseline reads what the parent knows of a relation file of that form.
func (w *worker) loadBaseline(ctx context.Context, e *Entry, form chunk.Form) (*baseline, error) {
	b := &baseline{ref: e.Recipe, checked: w.parent.checked && !w.parent.damaged[e.Path]}
	c, err := loadChain(ctx, w.parent.chunks, e.Recipe)
	if err != nil {
		return nil, err
	}
	b.chain = *c
	for i := range b.extents {
		if b.extents[i].Form != form {
			return nil, fmt.Errorf("%w: the parent has no pages of this size", ErrInvalid)
		}
		b.pages += int64(b.extents[i].Count)
	}
	missing, err := w.missing(ctx, e.Recipe, c)
	if err != nil {
		return nil, err
	}
	b.gone = make(map[chunk.ID]bool, len(missing))
	for _, id := range missing {
		b.gone[id] = true
	}
	if b.noted = w.recall(b); !b.noted {
		if err := w.readDigests(ctx, b); err != nil {
			return nil, err
		}
	}
	if len(missing) > 0 {
		b.lose()
	}
	return b, nil
}

// missing lists the chunks of a recipe that are gone. c is what the recipe says, nil if it was not read.
func (w *worker) missing(ctx context.Context, ref RecipeRef, c *chain) ([]chunk.ID, error) {
	return w.parent.chunks.Missing(ctx, recipeName(w.hasher, ref), func(ctx context.Context) (_ []chunk.ID, err error) {
		if c == nil {
			if c, err = loadChain(ctx, w.parent.chunks, ref); err != nil {
				return nil, err
			}
		}
		return append(dataChunks(c.extents), c.meta...), nil
	})
}

// dataChunks lists the distinct chunks of extents in order of first use.
func dataChunks(extents []Extent) []chunk.ID {
	table, _ := chunkTable(extents)
	return table
}

// recallAll appends size bytes that were noted of a recipe to w.note, which it empties first. It says whether all are there.
func (w *worker) recallAll(what string, ref RecipeRef, size int) bool {
	w.note = w.note[:0]
	name := recipeName(w.hasher, ref)
	for n := 0; len(w.note) < size; n++ {
		want := min(len(w.note)+noteWindow, size)
		got := w.notes.Recall(noteName(w.hasher, what, name, n), w.note)
		if len(got) != want {
			return false
		}
		w.note = got
	}
	return true
}

func (w *worker) rememberAll(what string, ref RecipeRef, b []byte) {
	name := recipeName(w.hasher, ref)
	n := 0
	for part := range slices.Chunk(b, noteWindow) {
		w.notes.Remember(noteName(w.hasher, what, name, n), part)
		n++
	}
}

// keepNotes keeps what is noted of a file that stays as it is, without reading it.
func (w *worker) keepNotes(e *Entry, form chunk.Form) {
	if form == 0 || e.Recipe.Empty() {
		return
	}
	name := recipeName(w.hasher, e.Recipe)
	pages := e.Size >> form
	// A file has at most as many chunks as pages.
	for what, size := range map[string]int64{noteDigests: pages * chunk.PrefixSize, noteSizes: pages * 2} {
		for n := 0; int64(n)*noteWindow < size; n++ {
			w.notes.Keep(noteName(w.hasher, what, name, n))
		}
	}
}

// recall fills in the digests from the notes, all or none.
func (w *worker) recall(b *baseline) bool {
	if !w.recallAll(noteDigests, b.ref, int(b.pages)*chunk.PrefixSize) {
		return false
	}
	b.digests = make([]chunk.Prefix, b.pages)
	for i := range b.digests {
		b.digests[i] = chunk.Prefix(w.note[i*chunk.PrefixSize:])
	}
	return true
}

// recallSizes returns how many pages each of the n chunks of a recipe has; nil if that was not noted.
func (w *worker) recallSizes(ref RecipeRef, n int) []uint16 {
	if !w.recallAll(noteSizes, ref, 2*n) {
		return nil
	}
	sizes := make([]uint16, n)
	for i := range sizes {
		sizes[i] = binary.BigEndian.Uint16(w.note[2*i:])
	}
	return sizes
}

// remember notes for the next snapshot what the pages of a file are and what its chunks hold.
func (w *worker) remember(ref RecipeRef, digests []chunk.Prefix, sizes []uint16) {
	w.note = w.note[:0]
	for i := range digests {
		w.note = append(w.note, digests[i][:]...)
	}
	w.rememberAll(noteDigests, ref, w.note)
	w.note = w.note[:0]
	for _, n := range sizes {
		w.note = binary.BigEndian.AppendUint16(w.note, n)
	}
	w.rememberAll(noteSizes, ref, w.note)
}

// readDigests fills in the digests from the packs that hold the pages.
func (w *worker) readDigests(ctx context.Context, b *baseline) error {
	b.digests = make([]chunk.Prefix, b.pages)
	type place struct{ page, first, count int64 }
	places := map[chunk.ID][]place{}
	var ids []chunk.ID
	page := int64(0)
	for i := range b.extents {
		e := &b.extents[i]
		if !e.Zero && !b.gone[e.ID] {
			if places[e.ID] == nil {
				ids = append(ids, e.ID)
			}
			places[e.ID] = append(places[e.ID], place{page, int64(e.First), int64(e.Count)})
		}
		page += int64(e.Count)
	}
	return w.parent.chunks.PageDigests(ctx, ids, func(id chunk.ID, digests []chunk.Prefix) error {
		for _, p := range places[id] {
			if p.first+p.count > int64(len(digests)) {
				return fmt.Errorf("%w: chunk %s has %d pages, its recipe wants more", ErrInvalid, id.Short(), len(digests))
			}
			copy(b.digests[p.page:], digests[p.first:p.first+p.count])
		}
		return nil
	})
}

// lose marks the pages of chunks that are gone.
func (b *baseline) lose() {
	b.absent = make([]bool, b.pages)
	page := int64(0)
	for i := range b.extents {
		e := &b.extents[i]
		if !e.Zero && b.gone[e.ID] {
			for n := range int64(e.Count) {
				b.absent[page+n] = true
			}
		}
		page += int64(e.Count)
	}
}
