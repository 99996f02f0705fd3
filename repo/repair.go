package repo

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/index"
	"github.com/pgtrove/pgtrove/keys"
	"github.com/pgtrove/pgtrove/pack"
	"github.com/pgtrove/pgtrove/storage"
)

// RepairOptions of Repair.
type RepairOptions struct {
	Host  string
	Now   func() time.Time
	Packs []string // keys of packs that are gone or damaged
}

// RepairReport says what Repair did.
type RepairReport struct {
	Copied Copied
	Marked []string // packs that count as damaged from now on
	Known  []string // those that did before
	Lost   []LostPack
	Blind  []string // of Packs, those of which nothing says what they hold, in order
}

// LostPack says what of a pack could be read in none of the packs.
type LostPack struct {
	Key    string
	Chunks []chunk.ID
	group  string
}

// Copied is what could be read in damaged packs.
type Copied struct {
	Chunks int
	Bytes  int64 // sealed
}

// Repair makes the repository do without packs that are gone or damaged. It copies every chunk that opens and is what its name says into packs of a
// session of its own, as a prune repacks; only when that is durable it marks the packs: from then on sessions store again what they hold, if a source still has it,
// readers look everywhere else first, and a prune removes them once nothing that is needed stands in them alone. It deletes nothing.
//
// v is a view for reading, loaded after the damage was found. The keys must be an owner's, for nobody else can tell what is sound: keys.ErrRole.
// Of packs that were marked before, only what stands nowhere else is copied once more. ErrOvertaken: a prune ended the session; nothing was marked.
func (r *Repo) Repair(ctx context.Context, v *View, o RepairOptions) (*RepairReport, error) {
	if r.bundle.Role != keys.Owner {
		return nil, fmt.Errorf("repair: %w", keys.ErrRole)
	}
	l, err := r.list(ctx, forReading)
	if err != nil {
		return nil, err
	}
	s := &salvage{Repo: r, o: o, view: v, listing: l, report: &RepairReport{}, hashers: map[string]*chunk.Hasher{}, views: map[string]*View{}}
	groups, err := r.groups()
	if err != nil {
		return nil, err
	}
	for _, g := range groups {
		s.hashers[g.name], s.views[g.name] = chunk.NewHasher(g.id), v.in(g.name)
	}
	for _, key := range o.Packs {
		if l.damaged[key] {
			s.report.Known = append(s.report.Known, key)
		} else {
			s.report.Marked = append(s.report.Marked, key)
		}
	}
	if err := s.copy(ctx); err != nil {
		return nil, fmt.Errorf("repair: %w", err)
	}
	for _, key := range s.report.Marked {
		if err := r.request(ctx, forgetPrefix+key); err != nil {
			return nil, fmt.Errorf("repair: %w", err)
		}
	}
	return s.report, nil
}

// salvage is one run of Repair.
type salvage struct {
	*Repo
	o       RepairOptions
	view    *View
	listing *listing
	report  *RepairReport
	hashers map[string]*chunk.Hasher // by trust group
	views   map[string]*View         // likewise
	to      *copier                  // nil: nothing was copied yet
}

// copy copies what is sound, and ends the session in which it did.
func (s *salvage) copy(ctx context.Context) error {
	blind := map[string]bool{} // packs that do not say themselves what they hold, or are gone
	for _, key := range s.o.Packs {
		object, err := s.object(ctx, key)
		if err != nil {
			return err
		}
		if object == nil {
			blind[key] = true
			continue
		}
		dir, group, err := s.directory(key, object)
		if errors.Is(err, ErrDamaged) {
			blind[key] = true
			continue
		}
		if err == nil {
			err = s.chunks(ctx, key, group, dir, object)
		}
		if err != nil {
			return err
		}
	}
	if err := s.byIndex(ctx, blind); err != nil {
		return err
	}
	s.report.Blind = slices.Sorted(maps.Keys(blind))
	if s.takeStock(); s.to == nil {
		return nil
	}
	err := s.to.finish(ctx)
	if errors.Is(err, ErrFenced) {
		return ErrOvertaken
	}
	if err != nil {
		return err
	}
	s.report.Copied = s.to.copied()
	// A prune may have ended the session and deleted its outcome, so that it could be created again. Then its announcement is gone.
	_, err = s.announcement(ctx, s.to.s.sid)
	if errors.Is(err, storage.ErrNotExist) {
		return ErrOvertaken
	}
	return err
}

// takeStock drops what could be read in another pack after all.
func (s *salvage) takeStock() {
	for i := range s.report.Lost {
		l := &s.report.Lost[i]
		l.Chunks = slices.DeleteFunc(l.Chunks, func(id chunk.ID) bool { return s.has(l.group, id) })
	}
	s.report.Lost = slices.DeleteFunc(s.report.Lost, func(l LostPack) bool { return len(l.Chunks) == 0 })
}

// has says whether a chunk of a group was copied.
func (s *salvage) has(group string, id chunk.ID) bool {
	return s.to != nil && s.to.groups[group] != nil && s.to.groups[group].has[id]
}

// lose notes a chunk that does not open in a pack, unless it stands elsewhere.
func (s *salvage) lose(key, group string, id chunk.ID) error {
	elsewhere, err := s.elsewhere(group, id)
	if elsewhere || err != nil {
		return err
	}
	lost := &s.report.Lost
	if n := len(*lost); n == 0 || (*lost)[n-1].Key != key {
		*lost = append(*lost, LostPack{Key: key, group: group})
	}
	last := &(*lost)[len(*lost)-1]
	last.Chunks = append(last.Chunks, id)
	return nil
}

// object reads a pack; nil: it is gone.
func (s *salvage) object(ctx context.Context, key string) ([]byte, error) {
	b, err := s.store.Get(ctx, key, storage.Range{}, nil)
	if errors.Is(err, storage.ErrNotExist) {
		return nil, nil
	}
	return b, err
}

func (s *salvage) directory(key string, object []byte) (_ *pack.Directory, group string, err error) {
	aad, err := s.packKeyAAD(key)
	if err != nil {
		return nil, "", err
	}
	dir, o, err := s.openDirectory(object, int64(len(object)), aad)
	if err != nil {
		return nil, "", asDamage(key, err)
	}
	return dir, o.group(), nil
}

// GivenUp lists the packs that somebody said to be damaged and that nothing has removed yet.
func (v *View) GivenUp() []string {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return slices.Sorted(maps.Keys(v.damaged))
}

// IsGivenUp says whether a pack is one of these.
func (v *View) IsGivenUp(key string) bool {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.damaged[key]
}

// MissingPacks lists the packs that the index names and that the storage does not show, or shows in another length, whether anybody needs them or not.
func (v *View) MissingPacks(ctx context.Context) (keys []string, err error) {
	named := map[string]int64{}
	if err := v.cache.Packs(v.counts, func(h index.Held) error {
		named[h.Key] = h.Size
		return nil
	}); err != nil {
		return nil, err
	}
	if err := v.repo.store.List(ctx, packsPrefix, func(i storage.Info) error {
		if named[i.Key] == i.Size {
			delete(named, i.Key)
		}
		return nil
	}); err != nil {
		return nil, fmt.Errorf("list packs: %w", err)
	}
	return slices.Sorted(maps.Keys(named)), nil
}

// UnnamedPacks lists the packs that the storage shows and the index does not name: those of sessions that go on, or died, and those that a new index
// could not read. Where there are things of trust groups whose keys are not there, those of which no key opens the directory are left out: most likely they are
// those groups'.
func (v *View) UnnamedPacks(ctx context.Context) (keys []string, err error) {
	named := map[string]bool{}
	if err := v.cache.Packs(v.counts, func(h index.Held) error {
		named[h.Key] = true
		return nil
	}); err != nil {
		return nil, err
	}
	if err := v.repo.store.List(ctx, packsPrefix, func(i storage.Info) error {
		if _, ok := parsePackKey(i.Key); ok && !named[i.Key] {
			keys = append(keys, i.Key)
		}
		return nil
	}); err != nil {
		return nil, fmt.Errorf("list packs: %w", err)
	}
	if len(v.foreign) == 0 {
		return keys, nil
	}
	opens := func(ctx context.Context, i int) (bool, error) {
		_, err := v.repo.PackDirectory(ctx, keys[i])
		if isLoss(err) || errors.Is(err, storage.ErrNotExist) {
			return false, nil
		}
		return err == nil, err
	}
	var ours []string
	err = inOrder(ctx, len(keys), opens, func(i int, ok bool) error {
		if ok {
			ours = append(ours, keys[i])
		}
		return nil
	})
	return ours, err
}

// byIndex copies what is sound in packs whose directory cannot be read, by what the index says of them.
func (s *salvage) byIndex(ctx context.Context, blind map[string]bool) error {
	if len(blind) == 0 {
		return nil
	}
	return s.oldSegments(ctx, s.listing.segments, func(_, group string, segment *index.Segment, broken *BadObject) error {
		if broken != nil {
			return nil
		}
		for i := range segment.Packs {
			k := &segment.Packs[i]
			if !blind[k.Key] {
				continue
			}
			delete(blind, k.Key)
			object, err := s.object(ctx, k.Key)
			if err == nil {
				err = s.chunks(ctx, k.Key, group, &k.Directory, object)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// chunks copies what is sound in one pack of a group, nothing where it is gone.
func (s *salvage) chunks(ctx context.Context, key, group string, dir *pack.Directory, object []byte) error {
	var plain []byte
	for i := range dir.Entries {
		e := &dir.Entries[i]
		if s.has(group, e.ID) {
			continue
		}
		if s.listing.damaged[key] {
			if elsewhere, err := s.elsewhere(group, e.ID); elsewhere || err != nil {
				if err != nil {
					return err
				}
				continue
			}
		}
		err := error(ErrDamaged)
		var sealed []byte
		if e.End() <= int64(len(object)) {
			sealed = object[e.Offset:e.End()]
			plain, err = s.OpenChunk(plain[:0], dir.Location(key, i), sealed)
		}
		switch {
		case errors.Is(err, ErrDamaged):
			err = s.lose(key, group, e.ID)
		case err == nil:
			err = s.add(ctx, group, dir, *e, sealed, s.digests(group, e, plain))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// digests are those of the pages of a chunk. What the pack has of them may be damaged too.
func (s *salvage) digests(group string, e *pack.Entry, plain []byte) (prefixes []chunk.Prefix) {
	if e.Form == chunk.FormBytes {
		return nil
	}
	for _, d := range s.hashers[group].PageDigests(nil, e.Form, plain) {
		prefixes = append(prefixes, chunk.Prefix(d[:chunk.PrefixSize]))
	}
	return prefixes
}

// elsewhere says whether a chunk of a group stands in a pack that nobody said to be damaged.
func (s *salvage) elsewhere(group string, id chunk.ID) (bool, error) {
	theirs := s.views[group]
	all, err := theirs.cache.Locations(id, theirs.counts, nil)
	return slices.ContainsFunc(all, func(l pack.Location) bool {
		return !s.listing.damaged[l.Pack] && !slices.Contains(s.o.Packs, l.Pack)
	}), err
}

func (s *salvage) add(ctx context.Context, group string, dir *pack.Directory, e pack.Entry, sealed []byte, digests []chunk.Prefix) error {
	if s.to == nil {
		session, err := s.announce(ctx, SessionOptions{Cluster: pruneCluster, Host: s.o.Host, Now: s.o.Now}, true)
		if err != nil {
			return err
		}
		s.to = s.newCopier(session)
	}
	to, err := s.to.of(group)
	if err != nil {
		return err
	}
	return to.add(ctx, dir, e, sealed, digests)
}
