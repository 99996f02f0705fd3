package model

// mutant is a bug put into the real source on purpose. The model is worth what it finds of these.
type mutant struct {
	name  string
	edits []edit
	limit int // within so many schedules it must be found
}

// edit replaces a text that occurs once in a file of the project.
type edit struct{ file, old, new string }

// mutants are those that the design names, and what else can be taken out of the protocol.
func mutants() []mutant {
	return append(append(writerMutants(), prunerMutants()...), sweepMutants()...)
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
`}}, 20000},
		{"no W5", []edit{{"repo/session.go", `func (s *Session) confirm(ctx context.Context) error {
`, `func (s *Session) confirm(ctx context.Context) error {
	if s != nil {
		return nil
	}
`}}, 20000},
		{"stale cached index", []edit{
			{"repo/view.go", `	if inMemory {
		v.cache, err = index.OpenMemory(v.repo.config.ID)
		return err
	}
`, `	if inMemory {
		if old, ok := staleCaches.Load(v.repo); ok {
			v.cache = old.(*index.Cache)
			return nil
		}
		v.cache, err = index.OpenMemory(v.repo.config.ID)
		staleCaches.Store(v.repo, v.cache)
		return err
	}
`},
			{"repo/view.go", `	numbers := make(map[uint32]bool, len(names))
`, `	numbers := make(map[uint32]bool, len(names))
	for _, n := range loaded {
		numbers[n] = true
	}
`},
			{"repo/view.go", `	if v.cache != nil {
		err = v.cache.Close()
	}
`, ``},
			{"repo/view.go", `// Reload looks`, `var staleCaches sync.Map

// Reload looks`},
		}, 20000},
		{"segments of fenced sessions believed", []edit{{"repo/listing.go", `		if who == forWriting {
`, `		if who == forWriting && sid == "" {
`}}, 20000},
		{"gc listed once while the index is loaded", []edit{{"repo/view.go", `		case newest != l.run.Number:
`, `		case newest == 0 && l.run.Number > 0:
`}}, 20000},
		{"condemned packs used", []edit{{"repo/view.go", `		if v.who == forWriting {
			v.barred = l.run.barred()
		}
`, ``}}, 20000},
		{"W6 trusting its memory", []edit{{"repo/resume.go", `			if p, ok := parsePackKey(i.Key); ok && !s.view.isExcepted(i.Key) {
`, `			if p, ok := parsePackKey(i.Key); ok && (!s.view.isExcepted(i.Key) || sid == s.opt.Former) {
				delete(s.view.barred, i.Key)
`}}, 20000},
	}
}

func prunerMutants() []mutant {
	return []mutant{
		{"no blocking in P2", []edit{{"repo/prunejudge.go", `	if len(waiting) > 0 {
`, `	if len(waiting) < 0 {
`}}, 20000},
		{"clock-only grace", []edit{{"repo/prunejudge.go", `		if !p.o.DryRun {
			if err := p.fence(ctx, &u); err != nil {
`, `		if p.o.DryRun {
			if err := p.fence(ctx, &u); err != nil {
`}}, 20000},
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
		}, 20000},
		{"condemned packs never rescued", []edit{{"repo/pruneplan.go", `k != nil && k.rescued {
`, `k != nil && k.rescued && k.key == "" {
`}}, 20000},
		{"packs of sessions that go on judged", []edit{{"repo/pruneplan.go", `	return p.run.resolved[k.sid] || !announced
`, `	return p.run.resolved[k.sid] || !announced || k.sid != ""
`}}, 20000},
		{"base under a fixed name", []edit{
			{"repo/base.go", `p.run.Number, newNonce()),`, `p.run.Number, "base"),`},
			{"repo/repack.go", `r.seal(kindIndex, key, text)); err != nil {`, `r.seal(kindIndex, key, text)); err != nil && !errors.Is(err, storage.ErrExist) {`},
		}, 20000},
		{"pins: acknowledged without the check", []edit{{"repo/marks.go", `	// Only now: a run that began before may have removed it for good in between.
	if err := r.mustCount(ctx, id); err != nil {
		return fmt.Errorf("pin %s: %w", id, err)
	}
`, ``}}, 20000},
		{"pins: not seen by the run after", []edit{{"repo/prunejudge.go", `	returns := p.last.expired(j.ID) && j.Pinned
`, `	returns := p.last.expired(j.ID) && j.Pinned && j.ID == ""
`}}, 20000},
	}
}

func sweepMutants() []mutant {
	return []mutant{
		{"deletion before gc/<n+1> is published", []edit{{"repo/prune.go", `	if err := p.publish(ctx); err != nil { // P7
`, `	if err := p.delete(ctx, p.run.Sweep); err != nil {
		return nil, err
	}
	if err := p.publish(ctx); err != nil { // P7
`}}, 20000},
		{"no list in P8", []edit{{"repo/sweep.go", `	if newest != p.run.Number {
`, `	if newest == 0 {
`}}, 20000},
		{"outcome deleted before its session", []edit{{"repo/sweep.go", `bases, ended} {
`, `bases, p.void, ended} {
`}}, 20000},
	}
}
