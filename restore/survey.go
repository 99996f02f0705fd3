package restore

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/pgtrove/pgtrove/snapshot"
)

// Survey is what a restore would do.
type Survey struct {
	Report       // nothing of it was done; Fetched is what would be read from packs
	Packs  int64 // from which something would be read
	Reads  int64 // requests for that
	// The rate is measured: SampleBytes of what would be fetched were read, opened and thrown away in SampleTime. Zero where nothing
	// is to be fetched.
	SampleBytes int64
	SampleTime  time.Duration
	// ScanTime is how long it took to find out what is here already.
	ScanTime time.Duration
}

// Estimate is how long the restore will take at the rate measured. Writing and syncing are not in it.
func (s *Survey) Estimate() time.Duration {
	d := s.ScanTime
	if s.SampleBytes > 0 {
		d += time.Duration(float64(s.SampleTime) * float64(s.Fetched) / float64(s.SampleBytes))
	}
	return d
}

const (
	// sampleBytes and sampleTime end the measurement of the rate, which reads sampleUses chunks in each of sampleParts places
	// of a plan.
	sampleBytes = 256 << 20
	sampleTime  = 3 * time.Second
	sampleParts = 16
	sampleUses  = 64
)

// List calls each with every entry of the snapshot, and where it would go ("" without Options.To), in order of path.
func List(ctx context.Context, c Chunks, o Options, each func(e *snapshot.Entry, to string) error) error {
	var l *layout
	if o.To != "" {
		d, err := o.foresee(ctx, c)
		if err != nil {
			return err
		}
		l = &layout{dest: d}
	}
	return o.Snapshot.Root.Walk(ctx, newSource(c, o.IsDamage), func(e *snapshot.Entry) error {
		to := ""
		if l != nil {
			to = l.shown(e.Path)
		}
		return each(e, to)
	})
}

// DryRun makes all checks and plans of Run, and writes nothing.
func DryRun(ctx context.Context, c Chunks, o Options) (*Survey, error) {
	d, err := o.foresee(ctx, c)
	if err != nil {
		return nil, err
	}
	l, err := d.look()
	if err != nil {
		return nil, err
	}
	r := newRunner(c, &o, l)
	r.dry = &survey{packs: map[string]bool{}}
	if r.judge != nil {
		r.judge.dry = true
	}
	begun := time.Now()
	err = r.run(ctx)
	if err = errors.Join(err, l.close()); err != nil {
		return nil, err
	}
	s := &Survey{Report: *r.report, Packs: int64(len(r.dry.packs)), Reads: r.dry.reads, SampleBytes: r.dry.sampled, SampleTime: r.dry.took}
	if r.judge != nil {
		s.ScanTime = time.Since(begun) - r.dry.took
	}
	return s, nil
}

// survey counts what plans would fetch.
type survey struct {
	packs   map[string]bool
	reads   int64
	sampled int64 // bytes
	took    time.Duration
}

// look opens what there is of the destination, and makes nothing.
func (d *destination) look() (*layout, error) {
	l := &layout{dest: d, spaces: map[string]*os.Root{}, linked: map[string]*os.Root{}, own: newOwnership()}
	open := func(dir string) (*os.Root, error) {
		root, err := os.OpenRoot(dir)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		return root, err
	}
	var err error
	if l.data, err = open(d.dir); err != nil {
		return nil, err
	}
	for _, s := range d.spaces {
		if l.spaces[s.oid], err = open(s.new); err != nil {
			return nil, errors.Join(err, l.close())
		}
	}
	return l, nil
}

// occupied says whether a file stands in the place that a delta restore would go on from.
func (p place) occupied() bool {
	if p.root == nil {
		return false
	}
	info, err := p.root.Lstat(p.rel)
	return err == nil && adoptable(info)
}

// flush counts what a plan would fetch, and measures how fast.
func (s *survey) flush(ctx context.Context, r *runner, p *plan) error {
	all := p.pieces()
	for i := range all {
		s.packs[all[i].pack] = true
		s.reads++
		r.report.Fetched += all[i].n
	}
	if s.took >= sampleTime || s.sampled >= sampleBytes || len(all) == 0 {
		return nil
	}
	return s.sample(ctx, r, p)
}

// sample reads and opens chunks of the plan, from all over it, until enough is known.
func (s *survey) sample(ctx context.Context, r *runner, p *plan) error {
	uses := slices.Clone(p.uses)
	begun := time.Now()
	var n atomic.Int64
	for i := range sampleParts {
		from, to := len(uses)*i/sampleParts, len(uses)*(i+1)/sampleParts
		part := &plan{chunks: p.chunks, index: p.index, packs: p.packs, uses: uses[from:min(to, from+sampleUses)]}
		err := part.run(ctx, r.c, r.o.Jobs, func(b int64) { n.Add(b) },
			func([]use, []byte) error { return nil }, func(err error, _ group) error { return err })
		if err != nil {
			return err
		}
		if time.Since(begun)+s.took >= sampleTime || n.Load()+s.sampled >= sampleBytes {
			break
		}
	}
	s.took += time.Since(begun)
	s.sampled += n.Load()
	return nil
}
