package repo

import (
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/index"
	"github.com/pgtrove/pgtrove/pack"
	"github.com/pgtrove/pgtrove/storage"
)

// leftover is a pack of an unfinished session.
type leftover struct {
	key  string
	size int64
	sid  string
	n    uint64
	held bool  // some segment of the view names it
	tail int64 // then, its bytes behind the last chunk
	data bool  // it holds data
}

// adopt looks for what the unfinished sessions of the cluster left since its newest snapshot, and makes all of it a part of the view and
// of this session: packs that no segment names are named by this session's first. So a rerun of a killed backup uploads
// no chunk twice. What the killed session named itself a prune keeps when it ends that. A session that still runs may be among them: packs are
// immutable, and it does not notice. Of a session that was fenced and is continued here it takes over everything in the same way. What a
// prune deletes, or will, is left alone.
func (s *Session) adopt(ctx context.Context, l *listing) error {
	sids, err := s.repo.unfinished(ctx, l, s.opt.Cluster, s.sid)
	if err != nil {
		return fmt.Errorf("look for unfinished sessions: %w", err)
	}
	if f := s.opt.Former; f != "" && !slices.Contains(sids, f) {
		sids = append(sids, f)
	}
	if sids, err = s.trusted(l, sids); err != nil {
		return err
	}
	var found []leftover
	for _, sid := range sids {
		if err := s.repo.store.List(ctx, packsPrefix+sid+"/", func(i storage.Info) error {
			if p, ok := parsePackKey(i.Key); ok && !s.view.isExcepted(i.Key) {
				p.size = i.Size
				found = append(found, p)
			}
			return nil
		}); err != nil {
			return fmt.Errorf("list packs of session %s: %w", sid, err)
		}
	}
	if len(found) == 0 {
		return nil
	}
	slices.SortFunc(found, func(a, b leftover) int {
		return cmp.Or(cmp.Compare(a.sid, b.sid), cmp.Compare(a.n, b.n), cmp.Compare(a.key, b.key))
	})
	if err := s.view.mark(found); err != nil {
		return err
	}
	if err := s.adoptPacks(ctx, found); err != nil {
		return err
	}
	s.leftovers = slices.DeleteFunc(found, func(p leftover) bool { return !p.held || !p.data })
	return nil
}

// trusted leaves out the unfinished sessions of which it is not known who wrote them, where some key is not to be trusted any more: nobody signs announcements and packs,
// so only an index segment that counts says that a session is none of that key's. This process's own former one needs none.
func (s *Session) trusted(l *listing, sids []string) ([]string, error) {
	if l.distrusted == nil {
		return sids, nil
	}
	named := map[string]bool{}
	known := s.view.cached()
	for _, name := range l.segments {
		if c, ok := known[name]; ok && strings.HasPrefix(name, indexPrefix) && s.view.counts(c.number) {
			named[segmentSession(name)] = true
		}
	}
	return slices.DeleteFunc(sids, func(sid string) bool { return !named[sid] && sid != s.opt.Former }), nil
}

// parsePackKey takes the name of a pack apart.
func parsePackKey(key string) (leftover, bool) {
	p := leftover{key: key}
	var name string
	var ok bool
	if p.sid, name, ok = strings.Cut(strings.TrimPrefix(key, packsPrefix), "/"); !ok {
		return p, false
	}
	number, sum, _ := strings.Cut(name, "-")
	if b, err := hex.DecodeString(sum); err != nil || len(b) != 32 {
		return p, false
	}
	var err error
	p.n, err = strconv.ParseUint(number, 10, 64)
	return p, err == nil
}

// mark says of packs which of them the view has, and what it knows of them.
func (v *View) mark(found []leftover) error {
	at := make(map[string]*leftover, len(found))
	for i := range found {
		at[found[i].key] = &found[i]
	}
	return v.cache.Packs(v.counts, func(h index.Held) error {
		if p := at[h.Key]; p != nil {
			p.held, p.tail, p.data = true, h.Tail, h.Kind == pack.Data
		}
		return nil
	})
}

// adoptPacks takes over those that no segment names. One that is gone or does not open is left alone.
func (s *Session) adoptPacks(ctx context.Context, found []leftover) error {
	var loose []*leftover
	for i := range found {
		if !found[i].held {
			loose = append(loose, &found[i])
		}
	}
	fetch := func(ctx context.Context, i int) (*index.Pack, error) {
		p, group, err := s.repo.loosePack(ctx, loose[i].key, loose[i].size)
		if isLoss(err) || err == nil && group != s.repo.bundle.Group {
			return nil, nil
		}
		return p, err
	}
	return inOrder(ctx, len(loose), fetch, func(i int, p *index.Pack) error {
		if p == nil {
			return nil
		}
		if err := s.note(*p, s.book.adopt); err != nil {
			return err
		}
		loose[i].held, loose[i].tail, loose[i].data = true, p.Size-p.End(), p.Kind == pack.Data
		return s.publish(ctx, whenDue) // so many that one segment would not hold them
	})
}

// loosePack reads the directory of a pack that no segment speaks for, and checks what can be checked without its data:
// it was sealed for this name, and is as long as it was when it was sealed. It also tells of which trust group the pack is. ErrMissing, ErrDamaged, ErrVersion.
func (r *Repo) loosePack(ctx context.Context, key string, size int64) (_ *index.Pack, group string, err error) {
	aad, err := r.packKeyAAD(key)
	if err != nil {
		return nil, "", err
	}
	b, t, err := r.readTail(ctx, key, size, pack.TailSize, false)
	if errors.Is(err, storage.ErrNotExist) {
		return nil, "", fmt.Errorf("%w: %w", ErrMissing, err)
	}
	if err != nil {
		return nil, "", err
	}
	dir, o, err := r.openDirectory(b, size, aad)
	if err != nil {
		return nil, "", asDamage(key, err)
	}
	p := &index.Pack{Key: key, Size: size, Directory: *dir}
	if err := p.Validate(); err != nil {
		return nil, "", asDamage(key, err)
	}
	// Every writer puts the sections right behind the chunks: a pack that lost bytes in the middle shows here.
	if end, _ := t.DigestsAt(); dir.End() != end {
		return nil, "", fmt.Errorf("%w: %s: its chunks end at %d, its sections begin at %d", ErrDamaged, key, dir.End(), end)
	}
	return p, o.group(), nil
}

// unfinished gives the sessions of a cluster that have no outcome and are newer than its newest snapshot, in order; without self.
// It reads what tells, and nothing if every session has an outcome.
func (r *Repo) unfinished(ctx context.Context, l *listing, cluster, self string) ([]string, error) {
	var open []string
	for sid := range l.sessions {
		if len(l.outcomes[sid]) == 0 && !l.run.resolved[sid] && sid != self {
			open = append(open, sid)
		}
	}
	slices.Sort(open)
	newest, err := r.newestSnapshot(ctx, l, cluster, open)
	if err != nil {
		return nil, err
	}
	var ours []string
	for _, sid := range open {
		if sid <= newest {
			continue
		}
		a, err := r.announcement(ctx, sid)
		if isLoss(err) || errors.Is(err, storage.ErrNotExist) || errors.Is(err, errNowhere) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if a.Cluster == cluster {
			ours = append(ours, sid)
		}
	}
	return ours, nil
}

// newestSnapshot gives the newest committed session of a cluster, or "" if it is older than every session in open.
func (r *Repo) newestSnapshot(ctx context.Context, l *listing, cluster string, open []string) (string, error) {
	var ended []string
	for sid, keys := range l.outcomes {
		key := snapshotsPrefix + cluster + "/" + sid
		if len(open) > 0 && sid > open[0] && slices.Contains(keys, key) && l.run.counts(key, l.sessions) {
			ended = append(ended, sid)
		}
	}
	slices.Sort(ended)
	for _, sid := range slices.Backward(ended) {
		o, err := r.outcome(ctx, snapshotsPrefix+cluster+"/"+sid)
		if isLoss(err) || isForeign(err) || errors.Is(err, storage.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", err
		}
		if o.Outcome != outcomeSnapshot {
			continue
		}
		if why, err := r.refusal(ctx, snapshotsPrefix+cluster+"/"+sid, o); why == nil || err != nil {
			return sid, err
		}
	}
	return "", nil
}

// errNowhere says that an announcement names no place where its session could commit: whoever may create announcements may write anything into one.
var errNowhere = errors.New("the session can commit nowhere")

// announcement reads what a session announced. With errNowhere, too, it is returned: then Cluster is no cluster's name.
func (r *Repo) announcement(ctx context.Context, sid string) (*announcement, error) {
	key := sessionsPrefix + sid
	b, err := r.get(ctx, kindSession, key)
	if err != nil {
		return nil, err
	}
	var a announcement
	if err := json.Unmarshal(b, &a); err != nil {
		return nil, fmt.Errorf("%w: %s is not an announcement", ErrDamaged, key)
	}
	if a.Version != 1 {
		return nil, fmt.Errorf("%w: %s has version %d", ErrVersion, key, a.Version)
	}
	place := snapshotsPrefix + a.Cluster + "/" + sid
	if storage.CheckKey(place) != nil || outcomeCluster(place) != a.Cluster || outcomeSession(place) != sid {
		return &a, fmt.Errorf("%s: %w", key, errNowhere)
	}
	return &a, nil
}

// Leftovers calls each for every chunk of pages in the packs that unfinished sessions of this cluster left and this session adopted,
// whether a segment named them before or not: by session, in each by the packs' numbers, in each in the order of the chunks; a chunk
// that stands there twice comes twice. digests are those of its pages, and valid during the call only. each is called by one goroutine at a
// time, not the caller's. A pack that is gone or damaged by now is passed over.
func (s *Session) Leftovers(ctx context.Context, each func(id chunk.ID, form chunk.Form, digests []chunk.Prefix) error) error {
	fetch := func(ctx context.Context, i int) (*packDigests, error) {
		d, err := s.repo.packDigests(ctx, s.leftovers[i].key, s.leftovers[i].tail)
		if isLoss(err) {
			return nil, nil
		}
		return d, err
	}
	return inOrder(ctx, len(s.leftovers), fetch, func(_ int, d *packDigests) error {
		if d == nil {
			return nil
		}
		for i := range d.dir.Entries {
			e := &d.dir.Entries[i]
			if e.Form == chunk.FormBytes {
				continue
			}
			if err := each(e.ID, e.Form, d.pages[i]); err != nil {
				return err
			}
		}
		return nil
	})
}
