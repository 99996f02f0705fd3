package repo

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/index"
	"github.com/pgtrove/pgtrove/keys"
	"github.com/pgtrove/pgtrove/pack"
	"github.com/pgtrove/pgtrove/storage"
)

// A trust group is the hosts that share K_id and K_meta, and so chunks and listings. Most bundles have the keys of one; an owner's has
// those of all. What is another group's is passed over by whoever lacks its keys: it is no damage, and nothing of it is counted on. Who has the
// keys of several keeps them apart all the same: where a chunk of one group stands only segments of that group say, and only packs
// whose directory opens with its key hold it. Otherwise a hostile host of one group could make a prune believe that its own pack has the
// chunks of another, and delete the one that does.

// groupKeys open and name what is one group's. meta knows no other key, not even that which all groups share: any host could have sealed
// a pack with that one.
type groupKeys struct {
	name string
	id   chunk.Key
	meta *keys.Meta
}

// tag names the group in a prune run. Only who has its key can tell whose it is.
func (g *groupKeys) tag() string {
	t := g.meta.Tag()
	return hex.EncodeToString(t[:])
}

// lacks says whether a tag is that of a group whose keys are not there. "" is no tag.
func (r *Repo) lacks(tag string) bool {
	all, err := r.groups()
	return err == nil && tag != "" && !slices.ContainsFunc(all, func(g groupKeys) bool { return g.tag() == tag })
}

// baseTag is what a run says of a shard of the base of the bundle's own group.
func (r *Repo) baseTag() string {
	if !r.signed() {
		return ""
	}
	t := r.meta.Tag()
	return hex.EncodeToString(t[:])
}

// groupSet are those of a bundle, made once.
type groupSet struct {
	once sync.Once
	all  []groupKeys // the bundle's own first
	err  error
}

// groups gives the keys of all groups that the bundle has, its own first.
func (r *Repo) groups() ([]groupKeys, error) {
	s := &r.open.groups
	s.once.Do(func() {
		for _, g := range r.bundle.Groups() {
			alone := bundleOf(r.bundle, g)
			alone.Common, alone.Others = g.MetaKey, nil
			meta, err := alone.Meta()
			if err != nil {
				s.err = fmt.Errorf("keys of trust group %q: %w", g.Name, err)
				return
			}
			s.all = append(s.all, groupKeys{name: g.Name, id: g.ChunkKey, meta: meta})
		}
	})
	return s.all, s.err
}

// bundleOf is the bundle of a host that is at home in another of the groups. Its certificate stays that of b.
func bundleOf(b *keys.Bundle, g keys.Group) *keys.Bundle {
	c := *b
	c.Group, c.ChunkKey, c.MetaKey, c.WALKeys = g.Name, g.ChunkKey, g.MetaKey, g.WALKeys
	c.Others = slices.DeleteFunc(slices.Clone(b.Groups()), func(o keys.Group) bool { return o.Name == g.Name })
	return &c
}

// as is the repository as a host of one of the bundle's groups writes it.
func (r *Repo) as(group string) (*Repo, error) {
	if group == r.bundle.Group {
		return r, nil
	}
	for _, g := range r.bundle.Groups() {
		if g.Name == group {
			return newRepo(r.store, r.config, bundleOf(r.bundle, g))
		}
	}
	return nil, fmt.Errorf("%w: nothing opens what trust group %q wrote", keys.ErrRole, group)
}

// Of is the repository as the hosts see it that made the snapshot with that cluster and ID: IDKey names their chunks, and what a view says is what their segments
// say. Who has the keys of one group only gets r itself. Errors: storage.ErrNotExist, ErrDamaged, keys.ErrForeign.
func (r *Repo) Of(ctx context.Context, cluster, id string) (*Repo, error) {
	if len(r.bundle.Groups()) == 1 {
		return r, nil
	}
	o, err := r.outcome(ctx, snapshotsPrefix+cluster+"/"+id)
	if err != nil {
		return nil, err
	}
	one, err := newRepo(r.store, r.config, r.bundle)
	if err == nil && o.group != r.bundle.Group {
		one, err = r.as(o.group)
	}
	if err != nil {
		return nil, err
	}
	one.opening, one.open.only = r.opening, true
	return one, nil
}

// hasAll says whether the bundle has the keys of every group there is.
func (r *Repo) hasAll() bool { return r.bundle.Role == keys.Owner }

// knowsAllGroups makes sure, before an owner says what counts, that no trust group was added since it has got its keys: to it that group's packs and segments would be
// damaged, and the base it has made lacks them. ErrStale.
func (r *Repo) knowsAllGroups(ctx context.Context) error {
	if !r.hasAll() || !r.signed() || r.entry == "" {
		return nil
	}
	names, err := r.listKeys(ctx)
	if err != nil {
		return err
	}
	if err := r.mustBeNewest(names); err != nil {
		return fmt.Errorf("%w, and there may be trust groups that this run does not know: begin it again", err)
	}
	return nil
}

// mustHaveAll makes sure that the bundle has the keys of all groups that these index segments, shards of the base among them, are of: keys.ErrRole. What
// is damaged or gone is no matter of this.
func (r *Repo) mustHaveAll(ctx context.Context, what string, run *gcRun, names []string) error {
	if r.hasAll() || !r.signed() {
		return nil
	}
	tags := run.tags()
	fetch := func(ctx context.Context, i int) (bool, error) {
		if tag := tags[names[i]]; tag != "" {
			return r.lacks(tag), nil
		}
		b, err := r.store.Get(ctx, names[i], storage.Range{Len: taggedHead}, nil)
		if errors.Is(err, storage.ErrNotExist) || err == nil && (len(b) < taggedHead || b[bareHead-1] != envelopeTagged) {
			return false, nil
		}
		return err == nil && r.lacks(hex.EncodeToString(b[bareHead:])), err
	}
	return inOrder(ctx, len(names), fetch, func(i int, foreign bool) error {
		if foreign {
			return errOthers(what, names[i])
		}
		return nil
	})
}

// segment reads an index segment, or a shard of the base, and says of which group it is. keys.ErrForeign: of one whose keys are not there.
func (r *Repo) segment(ctx context.Context, name string) (*index.Segment, string, error) {
	s, group, _, err := r.signedSegment(ctx, name)
	return s, group, err
}

// signedSegment is segment, and gives the entry of the key that has signed it; "" where nobody does.
func (r *Repo) signedSegment(ctx context.Context, name string) (s *index.Segment, group, by string, err error) {
	b, err := r.store.Get(ctx, name, storage.Range{}, nil)
	if err != nil {
		return nil, "", "", fmt.Errorf("read %s: %w", name, err)
	}
	o, err := r.unseal(kindIndex, name, b)
	if err != nil {
		return nil, "", "", err
	}
	common := r.meta.CommonTag()
	if r.signed() && bytes.Equal(b[bareHead:taggedHead], common[:]) { // anybody could have
		return nil, "", "", fmt.Errorf("%w: %s is sealed for all groups, and so is none's", ErrDamaged, name)
	}
	if s, err = index.Parse(o.plain); err != nil {
		return nil, "", "", asDamage(name, err)
	}
	if o.by != nil {
		by = o.by.Entry
	}
	return s, o.group, by, nil
}

// isForeign says of an error that the object is another group's.
func isForeign(err error) bool { return errors.Is(err, keys.ErrForeign) }

// errOthers says that something would have to be decided about objects that this bundle cannot open.
func errOthers(what, key string) error {
	return fmt.Errorf("%s: %s is another trust group's, so an owner's key must do this: %w", what, key, keys.ErrRole)
}

// packOpener opens the sections of one pack, and tells whose they are.
type packOpener struct {
	groups []groupKeys
	at     int // the group whose key opened the last one
}

func (r *Repo) packOpener() (*packOpener, error) {
	all, err := r.groups()
	return &packOpener{groups: all}, err
}

// Open implements pack.Opener.
func (o *packOpener) Open(dst, sealed, aad []byte) ([]byte, error) {
	plain, err := o.groups[o.at].meta.Open(dst, sealed, aad)
	for i := 0; i < len(o.groups) && errors.Is(err, keys.ErrDamaged); i++ {
		if i == o.at {
			continue
		}
		var other []byte
		if other, err = o.groups[i].meta.Open(dst, sealed, aad); err == nil {
			o.at, plain = i, other
		}
	}
	return plain, err
}

// group is the one that the pack belongs to, once its directory is open.
func (o *packOpener) group() string { return o.groups[o.at].name }

// hasher names chunks as that group does.
func (o *packOpener) hasher() *chunk.Hasher { return chunk.NewHasher(o.groups[o.at].id) }

// openDirectory is pack.OpenDirectory with the keys of whichever group it is. Errors as that has them.
func (r *Repo) openDirectory(tail []byte, size int64, aad []byte) (*pack.Directory, *packOpener, error) {
	o, err := r.packOpener()
	if err != nil {
		return nil, nil, err
	}
	dir, err := pack.OpenDirectory(tail, size, o, aad)
	return dir, o, err
}
