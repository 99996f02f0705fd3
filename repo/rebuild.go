package repo

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/pgtrove/pgtrove/index"
	"github.com/pgtrove/pgtrove/storage"
)

// RebuildOptions of Rebuild.
type RebuildOptions struct {
	Host       string
	Now        func() time.Time
	FenceAfter time.Duration // as PruneOptions has it
	Ended      Ended         // as PruneOptions has it
	// AcceptTimes is as PruneOptions has it: this run, too, fixes the ages of what no other has listed.
	AcceptTimes bool
	DryRun      bool // nothing is written, only the report made
	// Progress is told of packs whose directory was read: the bytes of these packs, of all. It is called by one goroutine at a time, and may be nil.
	Progress func(done, total int64)
}

// RebuildReport says what a run of Rebuild did, or, dry, would do.
type RebuildReport struct {
	Run     uint64 // its number
	Valid   int    // snapshots that count
	Fenced  []Unfinished
	Packs   Amount // that the index names now
	Chunks  int64  // places of chunks in them
	Left    Amount // packs that stay out of it, because a prune has begun to delete them
	Stopped bool   // a newer run has begun to clean up, so this one left it to that
	Locked  []string

	Unreadable []BadObject // packs whose directory cannot be read
	Known      int         // how many of these the index has all the same, because the old one still said what they hold
	Waiting    []BadObject // index segments that cannot be read, of sessions that have not ended: they stay as they are
	Sessions   []error     // announcements that cannot be read
}

// Rebuild makes the index anew, from the directories of all packs that the storage shows, and publishes it as a prune run would: as gc/<n+1>, which
// can be created once. It deletes no pack, ends no snapshot, and waits for nobody; writers, readers and prunes may go on meanwhile. docs/protocol.md says
// why that is safe.
//
// It reads the ends of packs, and a writer's keys are enough, unless there are things of another trust group: keys.ErrRole. A pack whose directory cannot be read is named by what the old index says of it, if
// that can be read, and reported. Errors: ErrOvertaken, *VanishedError, *TimesError, ErrVersion where a newer program wrote a pack, ErrDamaged where it is not known what counts;
// then nothing was changed but that dead sessions were ended.
func (r *Repo) Rebuild(ctx context.Context, o RebuildOptions) (*RebuildReport, error) {
	if o.FenceAfter == 0 {
		o.FenceAfter = defaultFenceAfter
	}
	p := &pruner{Repo: r, report: &PruneReport{}}
	p.o = PruneOptions{Host: o.Host, Now: o.Now, FenceAfter: o.FenceAfter, DryRun: o.DryRun, Ended: o.Ended, AcceptTimes: o.AcceptTimes}
	b := &rebuilder{pruner: p, o: o, report: &RebuildReport{}}
	var err error
	if p.last, err = r.newestRun(ctx); err != nil {
		return nil, err
	}
	for _, step := range []func(context.Context) error{b.endDead, b.judge, b.survey, b.read, b.settle} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	if o.DryRun {
		return b.report, nil
	}
	if err := p.publish(ctx); err != nil {
		return nil, err
	}
	err = p.sweep(ctx)
	b.report.Stopped, b.report.Locked = p.report.Stopped, p.report.Locked
	return b.report, err
}

// rebuilder is one run of Rebuild. It is a prune that plans nothing.
type rebuilder struct {
	*pruner
	o      RebuildOptions
	report *RebuildReport
	base   *baseWriter
	keys   []string        // of the packs to read, in order
	bad    map[string]bool // packs whose directory cannot be read
}

// endDead fences the sessions that a prune would take for dead. It waits for no other, since it deletes nothing that one may use.
func (b *rebuilder) endDead(ctx context.Context) error {
	if err := b.look(ctx); err != nil {
		return err
	}
	dead, _, err := b.unended(ctx)
	if err != nil {
		return err
	}
	b.report.Run, b.report.Fenced, b.report.Sessions = b.last.Number+1, dead, b.pruner.report.Damage
	return b.fenceAll(ctx, dead)
}

// judge takes over what the last run decided about snapshots, and adds those that were committed since.
func (b *rebuilder) judge(ctx context.Context) error {
	if err := b.judgeBy(ctx, b.enter); err != nil {
		return err
	}
	b.report.Valid = len(b.run.Valid)
	return nil
}

// enter puts an outcome where the last run has it. Nothing expires here, and what expired may still be brought back by the next prune.
func (b *rebuilder) enter(ctx context.Context, j *judged) error {
	own, err := b.isOwn(ctx, j)
	if err != nil {
		return err
	}
	if !own {
		b.void = append(b.void, j.key)
		return nil
	}
	b.run.Resolved = append(b.run.Resolved, j.ID)
	counts, expired := b.last.counts(j.key, b.sessions), b.last.expired[j.key]
	snapshot := (j.kind == outcomeSnapshot || j.kind == "") && j.Cluster != pruneCluster
	if snapshot && !counts && !expired {
		if err := b.mustBeLate(ctx, j.key); err != nil {
			return err
		}
	}
	name := named{j.Cluster, j.ID}
	was := slices.IndexFunc(b.last.Valid, func(k kept) bool { return k.named == name })
	switch {
	case expired:
		b.run.Expired = append(b.run.Expired, name)
	case was >= 0:
		b.run.Valid = append(b.run.Valid, b.last.Valid[was])
	case !counts || !snapshot:
		b.void = append(b.void, j.key)
	default:
		b.run.Valid = append(b.run.Valid, kept{named: name, KeptSince: b.keptSince(j), Refused: b.isRefused(j)})
	}
	return nil
}

// survey lists index segments, then packs: so every pack that a segment names which is covered from now on is in the listing.
func (b *rebuilder) survey(ctx context.Context) (err error) {
	if b.index, err = b.Repo.list(ctx, forReading); err != nil {
		return err
	}
	if b.index.run.Number != b.last.Number {
		return ErrOvertaken
	}
	b.fresh = map[string]int64{}
	if err := b.store.List(ctx, packsPrefix, func(i storage.Info) error {
		if _, ok := parsePackKey(i.Key); ok {
			b.fresh[i.Key] = i.Size
		}
		return nil
	}); err != nil {
		return fmt.Errorf("list packs: %w", err)
	}
	if err := b.mustHaveAll(ctx, "make the index anew", b.last, b.index.segments); err != nil {
		return err
	}
	b.spare()
	for _, key := range slices.Sorted(maps.Keys(b.fresh)) {
		// The last run may still be deleting these. What it has only condemned is named: it may be the only place of something.
		if slices.Contains(b.last.Sweep, key) {
			b.report.Left.add(b.fresh[key])
			continue
		}
		b.keys = append(b.keys, key)
	}
	return nil
}

// read makes the base out of the packs' own directories.
func (b *rebuilder) read(ctx context.Context) error {
	b.base = b.newBaseWriter()
	b.bad = map[string]bool{}
	done, total := int64(0), int64(0)
	for _, key := range b.keys {
		total += b.fresh[key]
	}
	type answer struct {
		pack  *index.Pack
		group string
		err   error
	}
	fetch := func(ctx context.Context, i int) (a answer, err error) {
		a.pack, a.group, a.err = b.loosePack(ctx, b.keys[i], b.fresh[b.keys[i]])
		if a.err != nil && !errors.Is(a.err, ErrDamaged) && !errors.Is(a.err, ErrMissing) {
			return a, a.err
		}
		return a, nil
	}
	if err := inOrder(ctx, len(b.keys), fetch, func(i int, a answer) error {
		if done += b.fresh[b.keys[i]]; b.o.Progress != nil {
			b.o.Progress(done, total)
		}
		if a.err == nil {
			return b.add(ctx, a.group, a.pack)
		}
		b.bad[b.keys[i]] = true
		b.report.Unreadable = append(b.report.Unreadable, BadObject{b.keys[i], a.err})
		return nil
	}); err != nil {
		return err
	}
	if err := b.readOld(ctx); err != nil {
		return err
	}
	return b.base.rest(ctx)
}

// add names a pack in the index of the group that says that it has it.
func (b *rebuilder) add(ctx context.Context, group string, k *index.Pack) error {
	g := b.base.of(group)
	if g.named[k.Key] {
		return nil
	}
	g.named[k.Key] = true
	b.report.Packs.add(k.Size)
	b.report.Chunks += int64(len(k.Entries))
	return b.base.put(ctx, group, g.packs.Add(*k))
}

// readOld reads those parts of the old index that tell something: all where the directory of a pack cannot be read, for what it holds may stand
// there; else those of sessions that have not ended, to say which of them cannot be read.
func (b *rebuilder) readOld(ctx context.Context) error {
	var names []string
	for _, name := range b.index.segments {
		if len(b.bad) > 0 || b.stays(name) {
			names = append(names, name)
		}
	}
	return b.oldSegments(ctx, names, func(name, group string, s *index.Segment, broken *BadObject) error {
		if broken != nil {
			if b.stays(name) {
				b.report.Waiting = append(b.report.Waiting, *broken)
			}
			return nil
		}
		for i := range s.Packs {
			if k := &s.Packs[i]; b.bad[k.Key] && !b.base.of(group).named[k.Key] {
				b.report.Known++
				if err := b.add(ctx, group, k); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// stays says whether an index segment stays when this run is over.
func (b *rebuilder) stays(name string) bool {
	return strings.HasPrefix(name, indexPrefix) && !b.run.resolved[segmentSession(name)]
}

// settle looks whether all of this still holds.
func (b *rebuilder) settle(ctx context.Context) error {
	newest, err := b.newestNumber(ctx)
	if err == nil && newest != b.last.Number {
		err = ErrOvertaken
	}
	return err
}

// oldSegments calls use with each of these index segments, in order, and the trust group that it is of, or with why it cannot be read. Those of
// groups whose keys are not there are passed over.
func (r *Repo) oldSegments(ctx context.Context, names []string, use func(name, group string, s *index.Segment, broken *BadObject) error) error {
	type answer struct {
		segment *index.Segment
		group   string
		broken  *BadObject
	}
	fetch := func(ctx context.Context, i int) (a answer, err error) {
		a.segment, a.group, err = r.segment(ctx, names[i])
		if a.broken = asUnreadable(names[i], err); a.broken != nil || isForeign(err) {
			err = nil
		}
		return a, err
	}
	return inOrder(ctx, len(names), fetch, func(i int, a answer) error {
		if a.segment == nil && a.broken == nil {
			return nil
		}
		return use(names[i], a.group, a.segment, a.broken)
	})
}
