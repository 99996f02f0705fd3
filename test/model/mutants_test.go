package model

import "slices"

// mutant is a bug put into the real source on purpose: it loses a snapshot or a chunk of one. The model is worth what it finds of
// these.
type mutant struct {
	name   string
	edits  []edit
	around string // where to look for it, if chance would take too long
}

// edit replaces a text that occurs once in a file of the project.
type edit struct{ file, old, new string }

// mutants are those that the design names, and what else can be taken out of the protocol.
func mutants() []mutant {
	return slices.Concat(writerMutants(), prunerMutants(), sweepMutants(), walMutants(), rebuildMutants())
}

// editions are what the source may be changed to without being wrong: in each the schedules must keep every promise too.
func editions() map[string][]edit {
	return map[string][]edit{"small shards": smallShards(), "kept caches": keptCaches()}
}

// smallShards lets the base have more than one shard, of which a run rewrites some and names others again, as in a large
// repository.
func smallShards() []edit {
	return []edit{{"repo/base.go", "const shardChunks = 100_000", "const shardChunks = 4"}}
}

// keptCaches lets the index in memory outlive its view, with all segments and proofs that it ever knew, as the index on a disk does.
func keptCaches() []edit {
	return []edit{
		{"repo/open.go", `	tools    sync.Pool      // of *tool
`, `	tools    sync.Pool      // of *tool
	kept     sync.Map
`},
		{"repo/view.go", `	if inMemory {
		v.cache, err = index.OpenMemory(v.repo.config.ID)
		return err
	}
`, `	if inMemory {
		if old, ok := v.repo.open.kept.Load(v.who); ok {
			v.cache = old.(*index.Cache)
			return nil
		}
		v.cache, err = index.OpenMemory(v.repo.config.ID)
		v.repo.open.kept.Store(v.who, v.cache)
		return err
	}
`},
		{"repo/view.go", `	if v.cache != nil && !v.shared {
		err = v.cache.Close()
	}
`, ``},
	}
}

func writerMutants() []mutant {
	return []mutant{
		{"session announced after reading gc", []edit{{"repo/session.go", `	s, err := r.announce(ctx, o, false)
	if err != nil {
		return err
	}
	var l *listing
	if s.view, l, err = r.openView(ctx, o.CacheDir, o.Cluster, forWriting); err != nil {
		return err
	}
`, `	view, l, err := r.openView(ctx, o.CacheDir, o.Cluster, forWriting)
	if err != nil {
		return err
	}
	s, err := r.announce(ctx, o, false)
	if err != nil {
		return err
	}
	s.view = view
`}}, ""},
		{"no W5", []edit{{"repo/session.go", `func (s *Session) confirm(ctx context.Context) error {
`, `func (s *Session) confirm(ctx context.Context) error {
	if s != nil {
		return nil
	}
`}}, ""},
		{"stale cached index", append(keptCaches(), edit{"repo/view.go", `	tags := l.run.tags()
`, `	tags := l.run.tags()
	for _, c := range known {
		found.segments[c.number], found.whose[c.number] = true, c.group
	}
`}), ""},
		{"segments of fenced sessions believed", []edit{{"repo/listing.go", `		if fenced, err = r.voidSessions(ctx, l); err != nil {
`, `		if fenced, err = map[string]*outcome{}, nil; err != nil {
`}}, ""},
		{"gc listed once while the index is loaded", []edit{{"repo/view.go", `		if newest != l.run.Number {
`, `		if newest == 0 && l.run.Number > 0 {
`}}, ""},
		{"condemned packs used", []edit{{"repo/view.go", `		if v.who == forWriting {
			v.barred = l.run.barred()
		}
`, ``}}, ""},
		{"W6 trusting its memory", []edit{{"repo/resume.go", `			if p, ok := parsePackKey(i.Key); ok && !s.view.isExcepted(i.Key) {
`, `			if p, ok := parsePackKey(i.Key); ok && (!s.view.isExcepted(i.Key) || sid == s.opt.Former) {
				delete(s.view.barred, i.Key)
`}}, ""},
	}
}

func prunerMutants() []mutant {
	return []mutant{
		{"no blocking in P2", []edit{{"repo/prunejudge.go", `	if len(waiting) > 0 && p.o.Assume == nil {
`, `	if len(waiting) < 0 && p.o.Assume == nil {
`}}, ""},
		{"clock-only grace", []edit{{"repo/prunejudge.go", `		if !p.o.DryRun {
			if err := p.fence(ctx, &u); err != nil {
`, `		if p.o.DryRun {
			if err := p.fence(ctx, &u); err != nil {
`}}, ""},
		{"sessions listed before snapshots in P3", []edit{
			{"repo/prunejudge.go", `	p.outcomes = map[string]storage.Info{}
	if err := p.store.List(`, `	if p.sessions, err = p.Repo.sessions(ctx); err != nil {
		return err
	}
	p.outcomes = map[string]storage.Info{}
	if err := p.store.List(`},
			{"repo/prunejudge.go", `		return fmt.Errorf("list snapshots: %w", err)
	}
	if p.sessions, err = p.Repo.sessions(ctx); err != nil {
		return err
	}
`, `		return fmt.Errorf("list snapshots: %w", err)
	}
`},
		}, ""},
		{"condemned packs never rescued", []edit{{"repo/pruneplan.go", `return k.rescued }) {
`, `return k.rescued && k.key == "" }) {
`}}, ""},
		{"what leaves never rescued", []edit{{"repo/pruneplan.go", `	if len(m.leaving) == 0 {
`, `	if len(m.leaving) >= 0 {
`}}, ""},
		{"base under a fixed name", []edit{
			{"repo/base.go", `p.run.Number, newNonce()),`, `p.run.Number, "base"),`},
			{"repo/repack.go", `r.seal(kindIndex, key, text)); err != nil {`, `r.seal(kindIndex, key, text)); err != nil && !errors.Is(err, storage.ErrExist) {`},
		}, ""},
		{"pins: acknowledged without the check", []edit{{"repo/marks.go", `	// Only now: a run that began before may have removed it for good in between.
	if err := r.mustCount(ctx, id); err != nil {
		return fmt.Errorf("pin %s: %w", id, err)
	}
`, ``}}, ""},
		{"pins: not seen by the run after", []edit{{"repo/prunejudge.go", `	returns := p.last.expired[j.key] && j.Pinned
`, `	returns := p.last.expired[j.key] && j.Pinned && j.ID == ""
`}}, ""},
	}
}

func sweepMutants() []mutant {
	return []mutant{
		{"deletion before gc/<n+1> is published", []edit{{"repo/prune.go", `	if err := p.publish(ctx); err != nil { // P7
`, `	if err := p.delete(ctx, p.run.Sweep); err != nil {
		return nil, err
	}
	if err := p.publish(ctx); err != nil { // P7
`}}, ""},
		{"no list in P8", append(smallShards(), edit{"repo/sweep.go", `	if newest != p.run.Number {
`, `	if newest == 0 {
`}), "put pins/,put gc/"},
		{"outcome deleted before its session", []edit{{"repo/sweep.go", `bases, ended} {
`, `bases, p.void, ended} {
`}}, ""},
	}
}

func walMutants() []mutant {
	return []mutant{
		{"WAL deleted by the run that condemns it", []edit{{"repo/prunewal.go", `		goes := was && (`, `		goes := (was || use == WALUnneeded) && (`}}, ""},
		{"backups count on WAL that is about to go", []edit{{"repo/session.go", `	s.goingWAL = l.run.goingWAL()
`, ``}}, "put snapshots/"},
		{"WAL of what leaves goes at once", []edit{{"repo/prunewal.go", `(use == WALUnneeded || use == WALUnclaimed)
`, `(use != WALNeeded)
`}}, ""},
		{"a pin narrows", []edit{{"repo/prunewal.go", `p.last.narrow[sid] || p.marks.narrowed[sid] {`, `p.last.narrow[sid] || p.marks.narrowed[sid] || p.marks.pinned[sid] {`}}, ""},
	}
}

// rebuildMutants are in a run that makes the index anew. That it names no pack that a run is deleting, package repo tests: it takes three runs
// before it, one of which is held up, and chance does not find that within a few thousand schedules.
func rebuildMutants() []mutant {
	return []mutant{
		{"rebuild: leaves out what is condemned", []edit{{"repo/rebuild.go", `		if slices.Contains(b.last.Sweep, key) {
`, `		if slices.Contains(b.run.Condemned, key) {
`}}, ""},
	}
}
