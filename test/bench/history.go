package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"time"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/snapshot"
)

// history makes the snapshots of a simulated cluster, one for each day: the
// first of files whose chunks come from nowhere, the others with the real
// snapshot.Take upon the one before. Metadata is real, data is hollow.
type history struct {
	shape
	d     *direct
	hold  *hollow
	first time.Time // day 0
	base  []simulatedFile
	table simulatedFile // written anew every day
	last  *snapshot.Manifest
	ids   []string // of the snapshots, the oldest first
	day   int
	bulk  []byte // a page
}

// shape is the size of a history.
type shape struct {
	files     int // of the first snapshot
	chunks    int // of 16 pages, of each of them
	snapshots int
}

const basePages = 16 // of a chunk in the first snapshot

// changes of a day, beside a table that is written anew
const (
	hotShare, hotPages   = 64, 125 // one of so many files changes every day, one of so many of its pages
	warmShare, warmPages = 21, 625 // so many are drawn by lot
	newShare             = 16      // the table has so many times less pages than a file
)

// simulatedFile is one file of the cluster.
type simulatedFile struct {
	path    string
	inode   uint64
	pages   int64
	changed time.Time
}

func newHistory(ctx context.Context, d *direct, s shape) (*history, error) {
	hold, err := newHollow(ctx, d)
	if err != nil {
		return nil, err
	}
	h := &history{shape: s, d: d, hold: hold, bulk: pageTemplate()}
	h.first = time.Now().Add(-time.Duration(s.snapshots) * 24 * time.Hour)
	for n := range s.files {
		h.base = append(h.base, simulatedFile{
			path: fmt.Sprintf("data/base/5/%06d", 100_000+n), inode: uint64(n), pages: int64(s.chunks) * basePages, changed: h.first.Add(-time.Hour),
		})
	}
	return h, nil
}

// now is the time of the next snapshot.
func (h *history) now() time.Time { return h.first.Add(time.Duration(h.day) * 24 * time.Hour) }

func (f *simulatedFile) entry() snapshot.Entry {
	t := f.changed.UnixNano()
	return snapshot.Entry{
		Path: f.path, Type: snapshot.File, Mode: 0o600, Size: f.pages * pageSize,
		Stat: snapshot.Stat{ModTime: t, ChangeTime: t, Device: 1, Inode: f.inode},
	}
}

func directories() []snapshot.Entry {
	return []snapshot.Entry{
		{Path: "data", Type: snapshot.Dir, Mode: 0o700}, {Path: "data/base", Type: snapshot.Dir, Mode: 0o700}, {Path: "data/base/5", Type: snapshot.Dir, Mode: 0o700},
	}
}

// write runs fn in a session of the day, commits what it returns, and ends the
// day.
func (h *history) write(ctx context.Context, fn func(ctx context.Context, s *repo.Session, data *hollowSession) (*snapshot.Result, error)) error {
	o := repo.SessionOptions{Cluster: directCluster, CacheDir: h.d.cache(), Now: h.now}
	err := h.d.repo.Write(ctx, o, func(ctx context.Context, s *repo.Session) error {
		data, err := h.hold.session(s.ID())
		if err != nil {
			return err
		}
		r, err := fn(ctx, s, data)
		if err != nil {
			return err
		}
		if err := data.finish(ctx); err != nil {
			return err
		}
		m := manifest(s.ID(), h.now().UTC(), r)
		m.Window.StopTime = h.now().UTC()
		text, err := m.Marshal()
		if err != nil {
			return err
		}
		h.last, h.ids = m, append(h.ids, m.ID)
		return s.Commit(ctx, text)
	})
	h.day++
	return err
}

// begin makes the first snapshot.
func (h *history) begin(ctx context.Context) error {
	return h.write(ctx, func(ctx context.Context, s *repo.Session, data *hollowSession) (*snapshot.Result, error) {
		w, err := s.NewWriter()
		if err != nil {
			return nil, err
		}
		var failed error
		root, err := snapshot.Assemble(ctx, w, h.d.repo.IDKey(), h.assembled(ctx, data, &failed))
		if failed != nil {
			err = failed
		}
		return &snapshot.Result{Root: root, Size: int64(h.files) * int64(h.chunks) * basePages * pageSize, Files: int64(h.files)}, err
	})
}

// assembled are the entries of the first snapshot, whose chunks go to data.
func (h *history) assembled(ctx context.Context, data *hollowSession, failed *error) iter.Seq[snapshot.Entry] {
	names := rand.NewChaCha8([32]byte{1})
	return func(yield func(snapshot.Entry) bool) {
		for _, e := range directories() {
			if !yield(e) {
				return
			}
		}
		extents := make([]snapshot.Extent, h.chunks)
		for i := range h.base {
			for k := range extents {
				extents[k] = snapshot.Extent{Form: pageForm, Count: basePages}
				_, _ = names.Read(extents[k].ID[:])
				if *failed = data.add(ctx, extents[k].ID, basePages); *failed != nil {
					return
				}
			}
			e := h.base[i].entry()
			e.Recipe.Inline = snapshot.MarshalExtents(extents)
			if !yield(e) {
				return
			}
		}
	}
}

// next makes the next snapshot.
func (h *history) next(ctx context.Context) error {
	sources := h.live()
	return h.write(ctx, func(ctx context.Context, s *repo.Session, data *hollowSession) (*snapshot.Result, error) {
		parent, err := snapshot.LoadParent(ctx, h.last, vouched{s, h.hold})
		if err != nil {
			return nil, err
		}
		parent.Trusted = true
		var lost error
		r, err := snapshot.Take(ctx, sources, snapshot.Options{
			Jobs: h.d.jobs, Key: h.d.repo.IDKey(), Parent: parent,
			NewWriter: func() (snapshot.Writer, error) {
				w, err := s.NewWriter()
				return &hollowWriter{w, chunk.NewHasher(h.d.repo.IDKey()), data}, err
			},
			Lost: func(_ string, err error) { lost = err },
		})
		if err == nil {
			err = lost
		}
		return r, err
	})
}

// live lets the files change and gives them as they are then.
func (h *history) live() []snapshot.Source {
	lots := rand.New(rand.NewPCG(uint64(h.day), 1))
	every := make([]uint64, len(h.base))
	for i := range h.base {
		switch {
		case i%hotShare == 0:
			every[i] = hotPages
		case lots.IntN(warmShare) == 0:
			every[i] = warmPages
		}
		if every[i] > 0 {
			h.base[i].changed = h.now().Add(-time.Hour)
		}
	}
	h.table = simulatedFile{
		path: fmt.Sprintf("data/base/5/%d", 200_000+h.day), inode: uint64(200_000 + h.day),
		pages: int64(h.chunks) * basePages / newShare, changed: h.now().Add(-time.Hour),
	}
	return h.sources(every, 1)
}

// still gives the files as they are.
func (h *history) still() []snapshot.Source { return h.sources(make([]uint64, len(h.base)), 0) }

// sources says how many pages of each file there are to one that has changed;
// 0: none has.
func (h *history) sources(every []uint64, table uint64) []snapshot.Source {
	var all []snapshot.Source
	for _, e := range directories() {
		all = append(all, snapshot.Source{Entry: e})
	}
	for i := range h.base {
		all = append(all, h.source(h.base[i], every[i]))
	}
	return append(all, h.source(h.table, table))
}

func (h *history) source(f simulatedFile, every uint64) snapshot.Source {
	c := &simulatedChange{file: f, every: every, day: uint64(h.day), template: h.bulk}
	return snapshot.Source{Entry: f.entry(), Form: pageForm, Changed: c, Open: func() (snapshot.Content, error) { return c, nil }}
}

// simulatedChange is a file on a day on which one of so many pages, at random,
// changed.
type simulatedChange struct {
	file     simulatedFile
	every    uint64
	day      uint64
	template []byte
}

func (*simulatedChange) Close() error           { return nil }
func (c *simulatedChange) Size() (int64, error) { return c.file.pages * pageSize, nil }

// Has implements snapshot.PageSet.
func (c *simulatedChange) Has(page int64) bool {
	return c.every > 0 && mix(c.file.inode<<40^c.day<<28^uint64(page))%c.every == 0
}

// ReadAt gives every page a content of this day: whoever reads it has found it
// changed, or stores it anew.
func (c *simulatedChange) ReadAt(p []byte, off int64) (int, error) {
	n := min(int64(len(p)), c.file.pages*pageSize-off)
	for at := int64(0); at < n; at += pageSize {
		page := p[at : at+pageSize]
		copy(page, c.template)
		for i, v := range []uint64{c.file.inode, c.day, uint64((off + at) / pageSize)} {
			binary.BigEndian.PutUint64(page[8*i:], v)
		}
	}
	if n < int64(len(p)) {
		return int(n), io.EOF
	}
	return int(n), nil
}

// hollowWriter stores metadata, and of data the names.
type hollowWriter struct {
	snapshot.Writer
	hasher *chunk.Hasher
	data   *hollowSession
}

// Pages implements snapshot.Writer.
func (w *hollowWriter) Pages(ctx context.Context, _ chunk.Form, digests []chunk.Digest, _ []byte) (chunk.ID, error) {
	id := w.hasher.RunID(digests)
	w.data.hollow.note(id, len(digests))
	return id, w.data.add(ctx, id, len(digests))
}

func (h *hollow) note(id chunk.ID, pages int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.plain[id] = int64(pages) * pageSize
}

// vouched reads the metadata of a parent. What it would say of the data is
// known here: it is all there, and every page that is read has changed. (To
// look it up for 200 snapshots would take an hour.)
type vouched struct {
	*repo.Session
	hold *hollow
}

// Missing implements snapshot.ParentChunks.
func (vouched) Missing(context.Context, chunk.ID, func(context.Context) ([]chunk.ID, error)) ([]chunk.ID, error) {
	return nil, nil
}

// ChunkSize implements snapshot.ParentChunks.
func (v vouched) ChunkSize(id chunk.ID) (int64, error) {
	v.hold.mu.Lock()
	defer v.hold.mu.Unlock()
	if n, ok := v.hold.plain[id]; ok {
		return n, nil
	}
	return basePages * pageSize, nil
}

// PageDigests implements snapshot.ParentChunks.
func (v vouched) PageDigests(_ context.Context, ids []chunk.ID, each func(chunk.ID, []chunk.Prefix) error) error {
	other := make([]chunk.Prefix, 4096)
	for i := range other {
		other[i] = chunk.Prefix{1}
	}
	for _, id := range ids {
		n, err := v.ChunkSize(id)
		if err != nil {
			return err
		}
		if err := each(id, other[:n/pageSize]); err != nil {
			return err
		}
	}
	return nil
}
