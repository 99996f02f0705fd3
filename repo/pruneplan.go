package repo

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/index"
	"github.com/pgtrove/pgtrove/storage"
)

// namedSnapshots is how many snapshots are looked at one by one to say which of them lack something.
const namedSnapshots = 20

// part is what a run finds out about one trust group: what its snapshots need, and where that is by what its segments say.
type part struct {
	group   string
	view    *View // in the group
	staying []Commit
	leaving []Commit
	live    *index.Set
	needed  *index.Set // by what leaves
	survey
}

// survey is what a run finds out about packs, by their number in the local index.
type survey struct {
	packs  map[uint32]*surveyed
	byKey  map[string]*surveyed
	chunks int // alive, and found in a pack that is there
}

type surveyed struct {
	key       string
	there     bool  // the storage shows it, and in its full length
	lost      bool  // marking found that it is damaged: what it holds counts only where nothing else has it
	doubted   bool  // a key has stored it that is removed
	condemned bool  // by the last run
	rescued   bool  // and needed after all
	whole     int64 // sealed bytes of its chunks
	alive     int64 // the part of whole that is needed, and counted here
	leaving   int64 // the part that only snapshots which leave need, counted here
}

// usable says whether what stands in the pack stays.
func (s *surveyed) usable() bool { return s.there && (!s.condemned || s.rescued) }

// split makes a part for each group.
func (p *pruner) split() error {
	groups, err := p.groups()
	p.parts = nil
	for _, g := range groups {
		of := func(all []Commit) (theirs []Commit) {
			for _, c := range all {
				if c.Group == g.name {
					theirs = append(theirs, c)
				}
			}
			return theirs
		}
		p.parts = append(p.parts, &part{group: g.name, view: p.view.in(g.name), staying: of(p.staying), leaving: of(p.leaving)})
	}
	return err
}

// surveyed gives what a group's index says of a pack; nil if it does not name it.
func (p *pruner) surveyed(group, key string) *surveyed {
	for _, part := range p.parts {
		if part.group == group {
			return part.byKey[key]
		}
	}
	return nil
}

// named gives what the groups say of a pack. Only a hostile host's segments name the packs of another group.
func (p *pruner) named(key string) (all []*surveyed) {
	for _, part := range p.parts {
		if k := part.byKey[key]; k != nil {
			all = append(all, k)
		}
	}
	return all
}

// namedPacks are all packs that the index names, in order.
func (p *pruner) namedPacks() []string {
	all := map[string]bool{}
	for _, part := range p.parts {
		for key := range part.byKey {
			all[key] = true
		}
	}
	return slices.Sorted(maps.Keys(all))
}

// plan marks what is alive and decides which packs go now, and which with the next run (P4).
func (p *pruner) plan(ctx context.Context) error {
	var err error
	if p.doubt, err = p.distrusted(ctx); err != nil {
		return err
	}
	if err := p.split(); err != nil {
		return err
	}
	for _, part := range p.parts {
		if err := p.mark(ctx, part); err != nil {
			return err
		}
	}
	// Listed after the index was loaded: a pack that the index names is in it, or is gone.
	p.fresh = map[string]int64{}
	if err := p.store.List(ctx, packsPrefix, func(i storage.Info) error {
		p.fresh[i.Key] = i.Size
		p.report.Stored.add(i.Size)
		return nil
	}); err != nil {
		return fmt.Errorf("list packs: %w", err)
	}
	for _, part := range p.parts {
		if err := p.find(part); err != nil {
			return err
		}
		if part.chunks < part.live.Len() {
			if err := p.tellMissing(ctx, part); err != nil {
				return err
			}
		}
	}
	for _, key := range p.namedPacks() {
		if slices.ContainsFunc(p.named(key), func(k *surveyed) bool { return k.lost && k.alive > 0 }) {
			p.report.Damage = append(p.report.Damage, fmt.Errorf("%w: %s holds what nothing else has", ErrDamaged, key))
		}
	}
	if err := p.holdBack(ctx); err != nil {
		return err
	}
	p.decide()
	if err := p.planWAL(ctx); err != nil {
		return err
	}
	if p.o.DryRun {
		p.gain()
	}
	return nil
}

// mark collects what a group's snapshots need: those that stay, and those that leave with this run, which a pin may still bring back.
func (p *pruner) mark(ctx context.Context, m *part) error {
	chunks := 0
	if err := m.view.cache.Packs(m.view.counts, func(h index.Held) error {
		chunks += h.Chunks
		return nil
	}); err != nil {
		return err
	}
	m.live, m.needed = index.NewSet(chunks), index.NewSet(0)
	readable := func(all []Commit) (good []Commit) {
		for _, c := range all {
			if c.Err == nil {
				good = append(good, c)
			}
		}
		return good
	}
	var lost *LossError
	err := p.o.Mark(ctx, m.view, readable(m.staying), func(id chunk.ID) { m.live.Add(id) })
	if errors.As(err, &lost) {
		p.report.Damage = append(p.report.Damage, lost.Losses...)
		err = nil
	}
	if err != nil {
		return fmt.Errorf("mark what is alive: %w", err)
	}
	if len(m.leaving) == 0 {
		return nil
	}
	err = p.o.Mark(ctx, m.view, readable(m.leaving), func(id chunk.ID) {
		if !m.live.Has(id) {
			m.needed.Add(id)
		}
	})
	if err != nil && !errors.As(err, &lost) { // what was lost of those that leave is nobody's concern
		return fmt.Errorf("mark what leaves: %w", err)
	}
	return nil
}

// find looks up where everything alive is, in one pass over the index, and rescues packs that the last run condemned and that
// hold the only copy of something.
func (p *pruner) find(m *part) error {
	s := &m.survey
	s.packs, s.byKey = map[uint32]*surveyed{}, map[string]*surveyed{}
	condemned := map[string]bool{}
	for _, key := range p.last.Condemned {
		condemned[key] = true
	}
	if err := m.view.cache.Packs(m.view.counts, func(h index.Held) error {
		k := s.byKey[h.Key]
		if k == nil {
			k = &surveyed{key: h.Key, condemned: condemned[h.Key], lost: m.view.isExcepted(h.Key), doubted: p.doubt.pack(h.Key)}
			s.byKey[h.Key] = k
		}
		size, there := p.fresh[h.Key]
		k.there = k.there || there && size == h.Size
		s.packs[h.Number] = k
		return nil
	}); err != nil {
		return err
	}
	return m.view.cache.Survey(m.view.counts, func(id chunk.ID, places []index.Place) error {
		for _, pl := range places {
			if k := s.packs[pl.Pack]; k != nil {
				k.whole += int64(pl.Sealed)
			}
		}
		alive := m.live.Has(id)
		if !alive && !m.needed.Has(id) {
			return nil
		}
		best, place := s.choose(places)
		if best == nil {
			return nil
		}
		best.rescued = best.rescued || best.condemned
		if alive {
			best.alive += int64(place.Sealed)
			s.chunks++
		} else {
			best.leaving += int64(place.Sealed)
		}
		return nil
	})
}

// better says which of two packs a chunk is to be found in: one that is not known to be damaged, then one that no removed key has stored, whose place writers
// have not gone by when they stored it again, then one that stays anyway, then the newest, so that repacking, when it was interrupted, is not done again.
func (s *surveyed) better(than *surveyed) bool {
	switch {
	case s.lost != than.lost:
		return !s.lost
	case s.doubted != than.doubted:
		return !s.doubted
	case s.usable() != than.usable():
		return s.usable()
	}
	return s.key > than.key
}

// choose picks the place of a chunk that counts. nil: it is in no pack that is there.
func (s *survey) choose(places []index.Place) (best *surveyed, place index.Place) {
	for _, pl := range places {
		k := s.packs[pl.Pack]
		if k == nil || !k.there {
			continue
		}
		if best == nil || k.better(best) {
			best, place = k, pl
		}
	}
	return best, place
}

// tellMissing reports how many chunks are in no pack that is there, and which snapshots lack them if these are few.
func (p *pruner) tellMissing(ctx context.Context, m *part) error {
	if len(m.staying) > namedSnapshots {
		p.report.Damage = append(p.report.Damage, fmt.Errorf("%w: %d chunks that snapshots need are in no pack that is there", ErrMissing, m.live.Len()-m.chunks))
		return nil
	}
	placed := index.NewSet(m.chunks)
	if err := m.view.cache.Survey(m.view.counts, func(id chunk.ID, places []index.Place) error {
		if k, _ := m.choose(places); k != nil && m.live.Has(id) {
			placed.Add(id)
		}
		return nil
	}); err != nil {
		return err
	}
	for _, c := range m.staying {
		if c.Err != nil {
			continue
		}
		missing := map[chunk.ID]bool{}
		var lost *LossError
		err := p.o.Mark(ctx, m.view, []Commit{c}, func(id chunk.ID) {
			if !placed.Has(id) {
				missing[id] = true
			}
		})
		if err != nil && !errors.As(err, &lost) {
			return fmt.Errorf("mark what is alive: %w", err)
		}
		if len(missing) > 0 {
			p.report.Damage = append(p.report.Damage, fmt.Errorf("%w: snapshot %s of cluster %s lacks %d chunks", ErrMissing, c.ID, c.Cluster, len(missing)))
		}
	}
	return nil
}

// decide fills the run's lists of packs. Where something is lost, nothing is deleted, and nothing new is condemned: what looks dead may be
// all that is left of it.
func (p *pruner) decide() {
	if len(p.report.Damage) > 0 {
		p.spare()
		return
	}
	sweep := map[string]bool{}
	for _, key := range p.last.Condemned {
		size, there := p.fresh[key]
		if !there {
			continue
		}
		if slices.ContainsFunc(p.named(key), func(k *surveyed) bool { return k.rescued }) {
			p.report.Rescued.add(size)
			continue
		}
		sweep[key] = true
		p.report.Swept.add(size)
	}
	p.run.Sweep = append(p.run.Sweep, slices.Sorted(maps.Keys(sweep))...)
	w := &waste{}
	p.repacked = map[string]bool{}
	for _, key := range slices.Sorted(maps.Keys(p.packs)) {
		_, there := p.fresh[key]
		if !there || sweep[key] || !p.mayGo(key) {
			continue
		}
		named := p.named(key)
		switch {
		case !slices.ContainsFunc(named, func(k *surveyed) bool { return k.alive > 0 }):
			p.condemn(key)
		case len(named) == 1 && named[0].there:
			w.add(named[0])
		}
	}
	p.chooseRepack(w)
}

// spare condemns nothing new. What was condemned stays so, and so does what the last run has begun to delete, perhaps not to the end: as long as
// that may go on, no writer must refer to it. No index names the latter any more.
func (p *pruner) spare() {
	p.run.Sweep, p.run.Condemned = []string{}, []string{}
	p.report.Swept, p.report.Condemned, p.report.Repacked = Amount{}, Amount{}, Amount{}
	p.carryWAL()
	for _, key := range slices.Concat(p.last.Sweep, p.last.Condemned) {
		if _, there := p.fresh[key]; there {
			p.condemn(key)
		}
	}
}

func (p *pruner) condemn(key string) {
	p.run.Condemned = append(p.run.Condemned, key)
	p.report.Condemned.add(p.fresh[key])
}

// mayGo says whether this run may judge a pack: its session is resolved, or was gone before the packs were listed. What a session that goes
// on has uploaded belongs to a snapshot to come. What one has uploaded that this very run fenced is left to the next run: if it was not dead
// after all, its successor finds everything, and nothing is read again.
func (p *pruner) mayGo(key string) bool {
	k, _ := parsePackKey(key)
	_, announced := p.began[k.sid]
	return (p.run.resolved[k.sid] || !announced) && !p.fencing[k.sid]
}
