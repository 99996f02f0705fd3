package restore

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/pack"
	"github.com/pgtrove/pgtrove/snapshot"
)

// Packs is what Verify needs to know of packs besides their chunks.
type Packs interface {
	// PackEnd reads what a pack holds by its own account, from its end, and gives the bytes that were read, of which the last is the pack's.
	PackEnd(ctx context.Context, key string) (*pack.Directory, []byte, error)
	// List calls fn for every object whose key begins with prefix. Nil only if complete.
	List(ctx context.Context, prefix string, fn func(key string, size int64) error) error
}

// GivenUp is what Chunks may be besides: it knows the packs that somebody has given up as damaged.
type GivenUp interface {
	// IsGivenUp says so of a pack, by its key.
	IsGivenUp(pack string) bool
}

// VerifyOptions of Verify.
type VerifyOptions struct {
	Snapshots []*snapshot.Manifest
	ReadData  bool // read and open all chunks of the snapshots, and read their packs in whole
	// Chosen says of packs, by their keys, which are read; of the others only the structure is checked. Nil: all are. Without ReadData it says nothing.
	Chosen   func(pack string) bool
	AllFiles bool // name all files that damage concerns, however many
	Jobs     int  // packs in work at once; 0: one
	// IsDamage tells errors that say something of what is stored from those, such as an outage, that do not. Required.
	IsDamage func(error) bool
	// Counts says whether a snapshot still counts, by its ID: one that was removed meanwhile is not damaged. Nil: all do.
	Counts func(ctx context.Context, id string) (bool, error)
	Events VerifyEvents
}

// VerifyEvents tell how far it is. Any may be nil. Read is called from several goroutines.
type VerifyEvents struct {
	Snapshot func(id string) // its listing and recipes are read now
	Packs    func(n int, bytes int64)
	Read     func(n int64) // bytes of packs, of as many as Packs said; without ReadData whole packs at a time
}

// VerifyReport is what Verify found.
type VerifyReport struct {
	Snapshots int
	Files     int64 // in all snapshots together
	Chunks    int64 // different ones, metadata included
	Packs     int
	Bytes     int64 // of the packs
	ReadPacks int   // those of which every byte was read
	ReadBytes int64
	Damage    []Damage
	Removed   []string // IDs of snapshots that were removed meanwhile, and are not in the other figures
}

// Damage is something that is not as it should be, and whom it concerns.
type Damage struct {
	Object    string // key of a pack; for what is in no pack: "chunk", "recipe" or "snapshot" and its name
	Err       error
	Snapshots []string // IDs of the verified snapshots that need it
	Files     []string // paths in them, at most maxFilesNamed unless all were asked for
	MoreFiles int64    // how many more there are

	named map[string]struct{} // all paths
}

const maxFilesNamed = 20

func (d *Damage) String() string { return fmt.Sprintf("%s: %v", d.Object, d.Err) }

const packsPrefix = "packs/"

// Verify makes sure that everything that the snapshots refer to is there: every chunk is in a pack, by the index as by
// the pack's own directory, and every pack is in the listing, of the right length. With ReadData every byte of the packs is read,
// opened and compared with its name, each once however many snapshots share it; metadata is read once more before, for what it says. It goes on after damage; an error is
// returned only for what says nothing of the repository.
//
// What stands in no pack but one that was given up is damaged, whether its bytes are read or not: if the chunks are GivenUp, they say which these are.
//
// Prunes may move chunks and delete packs meanwhile. So if the chunks are Renewable, nothing is called damaged that is sound, or gone
// with its snapshot, by an index that was loaded after it was found.
func Verify(ctx context.Context, c Chunks, p Packs, o VerifyOptions) (*VerifyReport, error) {
	v := &verifier{c: c, p: p, o: o, report: &VerifyReport{}}
	v.marks.marker, v.marks.Chunks = v, c
	if err := v.run(ctx); err != nil {
		return nil, err
	}
	if err := v.blame(ctx); err != nil {
		return nil, err
	}
	for _, key := range slices.Sorted(maps.Keys(v.bad)) {
		v.report.Damage = append(v.report.Damage, *v.bad[key])
	}
	return v.report, nil
}

// verifier is one run of Verify. mu guards everything below it.
type verifier struct {
	c      Chunks
	p      Packs
	o      VerifyOptions
	marks  marks
	report *VerifyReport
	sound  map[string]*checked // packs that were found good in an earlier round
	later  bool                // this is not the first round

	mu    sync.Mutex
	packs map[string]*checked
	seen  map[recipeKey]struct{}
	bad   map[string]*Damage // by object
}

// checked is a pack that a snapshot refers to.
type checked struct {
	size   int64             // by the listing; 0: not in it
	chunks map[uint32]uint32 // the chunks in use: offset to the beginning of the ID
	bad    map[uint32]bool   // offsets of damaged chunks
	broken bool              // damaged as a whole
}

// recipeKey stands for a recipe and the length of its file.
type recipeKey [16]byte

func keyOf(e *snapshot.Entry) recipeKey {
	h := sha256.New()
	_ = binary.Write(h, binary.BigEndian, [2]int64{e.Size, int64(len(e.Recipe.Chunks))})
	_, _ = h.Write(e.Recipe.Inline)
	for i := range e.Recipe.Chunks {
		_, _ = h.Write(e.Recipe.Chunks[i][:])
	}
	return recipeKey(h.Sum(nil)[:16])
}

// marks notes which metadata chunks are read: they are referred to as well.
type marks struct {
	Chunks
	marker *verifier
	recent recent
}

// MetaChunk implements snapshot.Fetcher.
func (m *marks) MetaChunk(ctx context.Context, id chunk.ID) ([]byte, error) {
	loc, err := m.Locate(id)
	if err != nil {
		return nil, err
	}
	m.marker.mark(&loc)
	if b := m.recent.get(id); b != nil {
		return b, nil
	}
	b, err := m.Chunks.MetaChunk(ctx, id)
	if err == nil {
		m.recent.put(id, b)
	}
	return b, err
}

// recentSize is how many bytes of metadata are kept at least, and half of what is at most: a snapshot shares most of its listing with the one before.
const recentSize = 32 << 20

// recent keeps the metadata that was read last.
type recent struct {
	mu        sync.Mutex
	now, last map[chunk.ID][]byte
	size      int // bytes in now
}

func (r *recent) get(id chunk.ID) []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	if b, ok := r.now[id]; ok {
		return b
	}
	b := r.last[id]
	if b != nil {
		r.keep(id, b)
	}
	return b
}

func (r *recent) put(id chunk.ID, b []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.keep(id, b)
}

func (r *recent) keep(id chunk.ID, b []byte) {
	if r.size >= recentSize || r.now == nil {
		r.last, r.now, r.size = r.now, map[chunk.ID][]byte{}, 0
	}
	r.now[id] = b
	r.size += len(b)
}

func (r *recent) clear() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now, r.last, r.size = nil, nil, 0
}

func prefixOf(id chunk.ID) uint32 { return binary.BigEndian.Uint32(id[:]) }

func (v *verifier) mark(loc *pack.Location) {
	v.mu.Lock()
	defer v.mu.Unlock()
	p := v.packs[loc.Pack]
	if p == nil {
		p = &checked{chunks: map[uint32]uint32{}, bad: map[uint32]bool{}}
		v.packs[loc.Pack] = p
	}
	if _, ok := p.chunks[loc.Offset]; !ok {
		p.chunks[loc.Offset] = prefixOf(loc.ID)
		v.report.Chunks++
	}
}

// damaged notes an error that says something of the repository, and returns any other.
func (v *verifier) damaged(object string, err error) error {
	if err == nil || !(v.o.IsDamage(err) || errors.Is(err, snapshot.ErrInvalid) || errors.Is(err, ErrMismatch)) {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.bad[object] == nil {
		v.bad[object] = &Damage{Object: object, Err: err}
	}
	return nil
}

// references marks everything that a snapshot refers to.
func (v *verifier) references(ctx context.Context, m *snapshot.Manifest) error {
	var batch []*snapshot.Entry
	check := func() error {
		g, gctx := errgroup.WithContext(ctx)
		g.SetLimit(max(v.o.Jobs, 1))
		for _, e := range batch {
			g.Go(func() error { return v.recipe(gctx, e) })
		}
		batch = nil
		return g.Wait()
	}
	var inside error // an error of ours, as opposed to one of the listing
	err := m.Root.Walk(ctx, &v.marks, func(e *snapshot.Entry) error {
		if e.Type != snapshot.File {
			return ctx.Err()
		}
		v.report.Files++
		k := keyOf(e)
		if _, ok := v.seen[k]; ok {
			return nil
		}
		v.seen[k] = struct{}{}
		if batch = append(batch, e); len(batch) < ordinaryLimits().recipes {
			return nil
		}
		inside = check()
		return inside
	})
	if inside != nil {
		return inside
	}
	if err := check(); err != nil {
		return err
	}
	return v.damaged("snapshot "+m.ID, err)
}

// recipe marks the chunks of a file.
func (v *verifier) recipe(ctx context.Context, e *snapshot.Entry) error {
	extents, err := snapshot.LoadRecipe(ctx, &v.marks, e.Recipe)
	if err != nil {
		return v.damaged(recipeName(keyOf(e)), err)
	}
	at := int64(0)
	for i := range extents {
		x := &extents[i]
		at += x.Bytes()
		if x.Zero {
			continue
		}
		loc, err := v.c.Locate(x.ID)
		if err == nil && (loc.Kind != pack.Data || loc.Form != x.Form || x.Offset()+x.Bytes() > int64(loc.Plain)) {
			err = fmt.Errorf("%w: no %s with bytes %d to %d", ErrMismatch, x.Form, x.Offset(), x.Offset()+x.Bytes())
		}
		if err != nil {
			if err = v.damaged(chunkName(x.ID), err); err != nil {
				return err
			}
			continue
		}
		v.mark(&loc)
	}
	if at != e.Size {
		return v.damaged(recipeName(keyOf(e)), fmt.Errorf("%w: recipe of %d bytes for a file of %d", ErrMismatch, at, e.Size))
	}
	return nil
}

func recipeName(k recipeKey) string { return fmt.Sprintf("recipe %x", k[:8]) }
func chunkName(id chunk.ID) string  { return "chunk " + id.String() }
func snapshotName(id string) string { return "snapshot " + id }

// listing finds out which packs are there.
func (v *verifier) listing(ctx context.Context) error {
	err := v.p.List(ctx, packsPrefix, func(key string, size int64) error {
		if p := v.packs[key]; p != nil {
			p.size = size
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("verify packs: %w", err)
	}
	for _, p := range v.packs {
		v.report.Packs++
		v.report.Bytes += p.size
	}
	if v.o.Events.Packs != nil && !v.later {
		v.o.Events.Packs(v.report.Packs, v.report.Bytes)
	}
	return nil
}

// ErrGivenUp is that of damage which a Repair has been at already.
var ErrGivenUp = fmt.Errorf("%w: the pack was given up as damaged, and what is needed of it stands in no other", ErrMismatch)

// contents checks every pack that is referred to.
func (v *verifier) contents(ctx context.Context) error {
	given, _ := v.c.(GivenUp)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(max(v.o.Jobs, 1))
	for _, key := range slices.Sorted(maps.Keys(v.packs)) {
		p := v.packs[key]
		if was := v.sound[key]; was != nil && was.size == p.size && maps.Equal(was.chunks, p.chunks) {
			continue
		}
		if given != nil && given.IsGivenUp(key) {
			p.broken = true
			_ = v.damaged(key, ErrGivenUp)
		}
		if p.size == 0 {
			p.broken = true
			_ = v.damaged(key, fmt.Errorf("%w: the pack is missing", ErrMismatch))
			continue
		}
		if gctx.Err() != nil {
			break
		}
		g.Go(func() error {
			err := v.pack(gctx, key, p)
			// Where only the pack's name does not fit, all chunks were found good, or are marked.
			p.broken = p.broken || err != nil && !errors.Is(err, errName)
			if err := v.damaged(key, err); err != nil {
				return fmt.Errorf("verify %s: %w", key, err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return context.Cause(ctx)
}

// blame finds out which snapshots and files need what is damaged, by going through all listings again.
func (v *verifier) blame(ctx context.Context) error {
	if len(v.bad) == 0 {
		return nil
	}
	objects := map[recipeKey][]string{} // damaged ones that a recipe needs
	for _, m := range v.o.Snapshots {
		err := m.Root.Walk(ctx, v.c, func(e *snapshot.Entry) error {
			if e.Type != snapshot.File {
				return ctx.Err()
			}
			k := keyOf(e)
			found, ok := objects[k]
			if !ok {
				var err error
				if found, err = v.needs(ctx, e, k); err != nil {
					return err
				}
				objects[k] = found
			}
			for _, object := range found {
				v.concerns(v.bad[object], m.ID, e.Path)
			}
			return nil
		})
		if err != nil && (!v.o.IsDamage(err) && !errors.Is(err, snapshot.ErrInvalid)) {
			return fmt.Errorf("find out whom the damage concerns: %w", err)
		}
		if d := v.bad[snapshotName(m.ID)]; d != nil {
			v.concerns(d, m.ID, "")
		}
		if err := v.blameMeta(ctx, m); err != nil {
			return err
		}
	}
	return nil
}

// blameMeta names the packs in which the snapshot's listing is.
func (v *verifier) blameMeta(ctx context.Context, m *snapshot.Manifest) error {
	each := func(id chunk.ID) error {
		if loc, err := v.c.Locate(id); err == nil && v.isBad(&loc) {
			v.concerns(v.bad[loc.Pack], m.ID, "")
		}
		return ctx.Err()
	}
	_, err := m.Root.Expand(ctx, v.c, each)
	if err != nil && !v.o.IsDamage(err) && !errors.Is(err, snapshot.ErrInvalid) {
		return fmt.Errorf("find out whom the damage concerns: %w", err)
	}
	return nil
}

func (v *verifier) isBad(loc *pack.Location) bool {
	p := v.packs[loc.Pack]
	return p != nil && v.bad[loc.Pack] != nil && (p.broken || p.bad[loc.Offset])
}

// needs returns the damaged objects without which the file cannot be restored.
func (v *verifier) needs(ctx context.Context, e *snapshot.Entry, k recipeKey) ([]string, error) {
	var found []string
	add := func(object string) {
		if v.bad[object] != nil && !slices.Contains(found, object) {
			found = append(found, object)
		}
	}
	add(recipeName(k))
	for _, id := range e.Recipe.Chunks {
		if loc, err := v.c.Locate(id); err == nil && v.isBad(&loc) {
			add(loc.Pack)
		}
	}
	extents, err := snapshot.LoadRecipe(ctx, v.c, e.Recipe)
	if err != nil {
		if v.o.IsDamage(err) || errors.Is(err, snapshot.ErrInvalid) {
			return found, nil
		}
		return nil, err
	}
	for i := range extents {
		if extents[i].Zero {
			continue
		}
		add(chunkName(extents[i].ID))
		if loc, err := v.c.Locate(extents[i].ID); err == nil && v.isBad(&loc) {
			add(loc.Pack)
		}
	}
	return found, nil
}

func (v *verifier) concerns(d *Damage, id, path string) {
	if !slices.Contains(d.Snapshots, id) {
		d.Snapshots = append(d.Snapshots, id)
	}
	if _, ok := d.named[path]; ok || path == "" {
		return
	}
	if d.named == nil {
		d.named = map[string]struct{}{}
	}
	d.named[path] = struct{}{}
	if len(d.Files) < maxFilesNamed || v.o.AllFiles {
		d.Files = append(d.Files, path)
	} else {
		d.MoreFiles++
	}
}
