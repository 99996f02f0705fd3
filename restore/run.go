package restore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/snapshot"
)

// Options of Run.
type Options struct {
	Snapshot *snapshot.Manifest
	To       string // the data directory: absent, or empty
	// Tablespaces maps where a tablespace was, or its OID, to where it is to go, an absolute path.
	Tablespaces map[string]string
	// AllTablespaces is a directory for all others, each in one that is named by its OID; "": they stay where they were.
	AllTablespaces string
	Jobs           int // chunks read and written at once; 0: one
	// Delta allows a data directory of the same cluster with content, and what an interrupted restore left: what is right
	// in it stays, the rest goes. Reuse is another data directory on this host ("": none), from which pages are taken. Both
	// need the repository's Key. Strict believes only what is proved by the names of whole chunks.
	Delta  bool
	Reuse  string
	Strict bool
	Key    chunk.Key
	// Spare are files and directories that must not lie where Delta would remove them: the repository, keys. Absolute.
	Spare []string
	// Archived says whether the archive has a file of pg_wal, by its name. Of WAL that is in the directory Delta removes only what
	// the archive has and its server took for archived. Nil: the server is believed.
	Archived func(name string) bool
	// LinkAll makes what the data directory had links to, pg_wal or a certificate, links again, to the same places, which have
	// to be absent or empty. Else it comes inside.
	LinkAll bool
	// Recovery is how the server recovers when it is started. Nil: it is not told to; then WAL must be given.
	Recovery *Recovery
	// ArchiveOff sets archive_mode to off in postgresql.auto.conf: a copy beside its original must not archive.
	ArchiveOff bool
	// WAL are the files that go into pg_wal, in order, and FetchWAL gets one. Only without Recovery.
	WAL      []string
	FetchWAL func(ctx context.Context, name string) ([]byte, error)
	Events   Events
	// IsDamage tells errors that say something of what is stored, such as a pack that is gone, from those that do not, such as an
	// outage. What is lost so is looked for elsewhere if the chunks are Renewable. Nil: it is not.
	IsDamage func(error) bool
}

// Events tell how far a restore is. Any may be nil. They are called from several goroutines.
type Events struct {
	Fetched func(n int64)     // bytes read from packs
	Written func(n int64)     // bytes of files done, zero pages included; in the end the snapshot's size
	Syncing func(path string) // all that was to be written is; what comes now is making it durable
}

// Report is what Run did.
type Report struct {
	Dir         string
	Files       int64
	Bytes       int64   // their sizes
	Config      []Moved // configuration files that lay outside the data directory
	Tablespaces []Moved
	// Links are files and directories that the data directory had links to, and that are now inside it; pg_wal is the
	// usual one.
	Links []Moved
	// Linked are those that are links again (LinkAll): from the data directory to where they lead.
	Linked []Moved

	// Of a delta restore, or one that reuses.
	Kept       int64    // bytes that were right where they are to be
	Copied     int64    // bytes taken from Reuse
	Fetched    int64    // bytes read from packs
	Removed    int64    // files that the snapshot has not
	Unarchived int64    // WAL files that the archive has not, and that are in snapshot.UnarchivedDir now
	Replaced   []string // links that are replaced by what the snapshot has; what they led to is as it was
}

// Moved is something that is not where it was.
type Moved struct{ From, To string }

// Run restores a snapshot. The directory and those of the tablespaces must be absent or empty, unless Delta. When it returns
// without error everything is durable. When it fails, or is killed, what was written stays, with a file that says so (Marker),
// and without global/pg_control, so that PostgreSQL does not start from it; with Delta it can be run again. Errors of
// checks, before anything was written, wrap ErrRefused.
func Run(ctx context.Context, c Chunks, o Options) (*Report, error) {
	if (o.Recovery == nil) != (o.FetchWAL != nil) {
		return nil, errors.New("restore: want either recovery settings or WAL")
	}
	d, err := o.foresee(ctx, c)
	if err != nil {
		return nil, err
	}
	l, err := d.make(&o)
	if err != nil {
		return nil, err
	}
	r := newRunner(c, &o, l)
	err = r.run(ctx)
	if closeErr := l.close(); err == nil && closeErr != nil {
		err = closeErr
	}
	if err != nil {
		return nil, err
	}
	return r.report, nil
}

func newRunner(c Chunks, o *Options, l *layout) *runner {
	r := &runner{c: newSource(c, o.IsDamage), o: o, limits: ordinaryLimits(), layout: l, report: &Report{Dir: l.dest.dir}}
	if l.dest.present != nil {
		r.sweep = &sweeper{major: o.Snapshot.Server.Major(), dest: l.dest, remove: r.extra}
	}
	if l.dest.present != nil || o.Reuse != "" {
		r.judge = &judge{c: r.c, key: o.Key, strict: o.Strict, jobs: o.Jobs}
	}
	return r
}

// runner is one restore on its way.
type runner struct {
	c      *source
	o      *Options
	limits limits
	layout *layout
	report *Report

	batch   batch
	dirs    []finished // in order of path; their attributes come last, since writing into them changes their times
	root    attributes // of the data directory: what files of our own get
	control *snapshot.Entry
	confs   []string // configuration files, by path in the listing

	sweep *sweeper // nil: there is nothing beside the snapshot's files
	judge *judge   // nil: nothing is on this host yet
	donor *donor   // nil: no directory to be reused
	dry   *survey  // not nil: nothing is changed
}

// limits bound the memory of a restore. A larger cluster takes several plans, one after another.
type limits struct {
	uses  int // of chunks, in a plan; each takes about 200 bytes
	files int // in a plan; each takes about 400 bytes
	// recipes and bytes bound the files whose recipes are in memory at once: a page can take an extent of 48 bytes.
	recipes int
	bytes   int64
}

func ordinaryLimits() limits {
	return limits{uses: 1 << 18, files: 1 << 14, recipes: 512, bytes: 2 << 30}
}

// finished is a file or directory that is to get its attributes.
type finished struct {
	place
	attributes
}

// batch are the files of one plan.
type batch struct {
	entries []*snapshot.Entry // not planned yet: the last ones of files
	bytes   int64             // in entries
	files   []finished
	old     map[uint32]bool // files that had content: it is compared before they are written
	plan    *plan
}

func newBatch() batch { return batch{plan: newPlan(), old: map[uint32]bool{}} }

func (r *runner) run(ctx context.Context) error {
	r.batch = newBatch()
	if r.o.Reuse != "" {
		var err error
		if r.donor, err = openDonorDir(r.o.Reuse); err != nil {
			return err
		}
		defer r.donor.close() // only read
	}
	err := r.o.Snapshot.Root.Walk(ctx, r.c, func(e *snapshot.Entry) error {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if err := r.entry(ctx, e); err != nil {
			return fmt.Errorf("restore %s: %w", e.Path, err)
		}
		return nil
	})
	if err == nil && r.sweep != nil {
		err = r.swept()
	}
	if err != nil {
		return err
	}
	if err := r.flush(ctx); err != nil {
		return err
	}
	if r.judge != nil {
		r.report.Kept, r.report.Copied = r.judge.found.kept, r.judge.found.copied
	}
	if r.dry != nil {
		return nil
	}
	return r.finish(ctx)
}

// ours are files that Run makes itself.
func ours(p string) bool {
	switch p {
	case "backup_label", "tablespace_map", recoverySignal, standbySignal, Marker:
		return true
	}
	return false
}

func (r *runner) entry(ctx context.Context, e *snapshot.Entry) error {
	rel, _ := strings.CutPrefix(e.Path, snapshot.DataRoot+"/")
	if rel != e.Path && ours(rel) {
		return nil
	}
	if r.sweep != nil {
		if err := r.sweep.entry(e); err != nil {
			return err
		}
	}
	p, err := r.layout.locate(e.Path)
	if err != nil {
		return err
	}
	r.note(e)
	if done, err := r.relink(e); done || err != nil {
		return err
	}
	switch e.Type {
	case snapshot.Dir:
		return r.dir(e, p)
	case snapshot.Tablespace:
		return r.tablespace(e, p, path.Base(e.Path))
	case snapshot.Symlink:
		return r.symlink(e, p)
	}
	r.report.Files++
	r.report.Bytes += e.Size
	if rel == pg.ControlPath && r.dry == nil {
		r.control = e
		return nil
	}
	r.batch.entries = append(r.batch.entries, e)
	r.batch.files = append(r.batch.files, finished{p, r.layout.attributes(e)})
	r.batch.bytes += e.Size
	// Recipes are loaded, and files made, many at once. How much of the plan they take is only known then.
	if len(r.batch.entries) == r.limits.recipes || r.batch.bytes >= r.limits.bytes {
		if err := r.load(ctx); err != nil {
			return err
		}
	}
	if len(r.batch.plan.uses) >= r.limits.uses || len(r.batch.files) >= r.limits.files {
		return r.flush(ctx)
	}
	return nil
}

func (r *runner) dir(e *snapshot.Entry, p place) error {
	a := r.layout.attributes(e)
	if e.Path == snapshot.DataRoot {
		r.root = a
	} else if err := r.mkdir(p); err != nil {
		return err
	}
	r.dirs = append(r.dirs, finished{p, a})
	return r.enter(e, p)
}

func (r *runner) tablespace(e *snapshot.Entry, p place, oid string) error {
	s, ok := r.layout.dest.space(oid)
	if !ok {
		return fmt.Errorf("%w: tablespace %s at %s is not in its tablespace_map", ErrMismatch, oid, e.Link)
	}
	inside := place{r.layout.spaces[oid], "."}
	r.dirs = append(r.dirs, finished{inside, r.layout.attributes(e)})
	r.report.Tablespaces = append(r.report.Tablespaces, Moved{From: s.old, To: s.new})
	if err := r.link(e, p, s.new); err != nil {
		return err
	}
	return r.enter(e, inside)
}

func (r *runner) symlink(e *snapshot.Entry, p place) error { return r.link(e, p, e.Link) }

func (r *runner) link(e *snapshot.Entry, p place, target string) error {
	if r.dry != nil {
		return nil
	}
	if r.sweep != nil {
		if there, err := p.root.Readlink(p.rel); err == nil && there == target {
			return nil
		}
		if _, err := removeAll(p); err != nil {
			return err
		}
	}
	if err := p.root.Symlink(target, p.rel); err != nil {
		return err
	}
	if owner := r.layout.own.of(e.Owner); owner.uid >= 0 {
		return p.root.Lchown(p.rel, owner.uid, owner.gid)
	}
	return nil
}

// load makes the batch's new files, at their full size, and plans what they are made of.
func (r *runner) load(ctx context.Context) error {
	entries := r.batch.entries
	r.batch.entries, r.batch.bytes = nil, 0
	first := len(r.batch.files) - len(entries)
	files := make([]*local, len(entries))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(max(r.o.Jobs, 1))
	for i, e := range entries {
		g.Go(func() (err error) {
			files[i] = &local{number: uint32(first + i), size: e.Size, own: r.batch.files[first+i].place, fresh: true}
			if files[i].extents, err = snapshot.LoadRecipe(gctx, r.c, e.Recipe); err == nil {
				err = r.prepare(files[i])
			}
			if err != nil {
				return fmt.Errorf("restore %s: %w", e.Path, err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if err := r.compare(ctx, entries, files); err != nil {
		return err
	}
	for i, f := range files {
		done, err := r.batch.plan.add(ctx, r.c, f.number, f.size, f.extents, f.right)
		if err != nil {
			return fmt.Errorf("restore %s: %w", entries[i].Path, err)
		}
		if !f.fresh {
			r.batch.old[f.number] = true
		}
		r.written(done)
	}
	return nil
}

// prepare makes the place of a file ready to be written to: at its full size, with holes where nothing is.
func (r *runner) prepare(f *local) (err error) {
	if r.dry != nil {
		f.fresh = r.sweep == nil || !f.own.occupied()
		return nil
	}
	if r.sweep != nil {
		f.fresh, err = f.own.adopt(f.size)
	}
	if err != nil || !f.fresh {
		return err
	}
	return f.own.create(f.size)
}

// compare finds out what of the files is here already.
func (r *runner) compare(ctx context.Context, entries []*snapshot.Entry, files []*local) error {
	if r.judge == nil {
		return nil
	}
	if r.donor != nil {
		for i, e := range entries {
			files[i].donor = r.donor.find(e.Path)
		}
	}
	return r.judge.all(ctx, slices.DeleteFunc(slices.Clone(files), func(f *local) bool { return f.fresh && f.donor == nil }))
}

func (r *runner) written(n int64) {
	if r.o.Events.Written != nil && n > 0 {
		r.o.Events.Written(n)
	}
}

// create makes an empty file of the given size. Pages that are never written stay holes.
func (p place) create(size int64) error {
	f, err := p.root.OpenFile(p.rel, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if size > 0 {
		err = f.Truncate(size)
	}
	return errors.Join(err, f.Close())
}

// flush writes the batch's files and makes them durable.
func (r *runner) flush(ctx context.Context) error {
	if err := r.load(ctx); err != nil {
		return err
	}
	b := r.batch
	r.batch = newBatch()
	if r.dry != nil {
		return r.dry.flush(ctx, r, b.plan)
	}
	files := openFiles{place: func(i uint32) place { return b.files[i].place }, old: b.old}
	write := func(uses []use, plain []byte) error {
		for _, u := range uses {
			if err := files.writeAt(u.file, plain[u.from:u.from+u.n], u.at); err != nil {
				return err // which names the file
			}
			r.written(int64(u.n))
		}
		return nil
	}
	describe := func(err error, g group) error {
		return fmt.Errorf("restore %s: %w", b.files[g.uses[0].file].path(), err)
	}
	var fetched atomic.Int64
	count := func(n int64) {
		fetched.Add(n)
		if r.o.Events.Fetched != nil {
			r.o.Events.Fetched(n)
		}
	}
	err := b.plan.run(ctx, r.c, r.o.Jobs, count, write, describe)
	r.report.Fetched += fetched.Load()
	if err = errors.Join(err, files.close()); err != nil {
		return err
	}
	return r.settle(ctx, b.files)
}

// settle gives files their attributes and makes them durable: first all are sent on their way to the disk, then each
// is waited for.
func (r *runner) settle(ctx context.Context, files []finished) error {
	each := func(do func(f *finished) error) error {
		g, gctx := errgroup.WithContext(ctx)
		for part := range slices.Chunk(files, max(1, len(files)/(4*max(r.o.Jobs, 1)))) {
			g.Go(func() error {
				for i := range part {
					if gctx.Err() != nil {
						return context.Cause(gctx)
					}
					if err := do(&part[i]); err != nil {
						return fmt.Errorf("finish %s: %w", part[i].path(), err)
					}
				}
				return nil
			})
		}
		return g.Wait()
	}
	if err := each((*finished).begin); err != nil {
		return err
	}
	return each((*finished).sync)
}

func (f *finished) begin() error {
	file, err := f.root.OpenFile(f.rel, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	err = f.apply(f.place, file)
	if err == nil {
		startWriteback(file, 0, 0)
	}
	return errors.Join(err, file.Close())
}

func (f *finished) sync() error {
	file, err := f.root.Open(f.rel)
	if err != nil {
		return err
	}
	return errors.Join(file.Sync(), file.Close())
}
