package repo

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/index"
	"github.com/pgtrove/pgtrove/keys"
	"github.com/pgtrove/pgtrove/pack"
	"github.com/pgtrove/pgtrove/storage"
	"github.com/pgtrove/pgtrove/storage/fault"
)

// A host of b knows, from somewhere, what chunks and packs of a are called, and says of all of them that they stand elsewhere: chunks in a pack of its own,
// and packs with something else in them.
func TestWhatAnotherGroupSaysOfItsChunksIsBelievedByNobody(t *testing.T) {
	g := newGrouped(t)
	data := pieces(82, 40)
	gone, stays := save(t, g.a, "one", "", data[:30]), save(t, g.a, "one", "", data[20:])
	cache := t.TempDir()
	next := pieces(92, 8) // what nobody has yet
	names := append(append(slices.Clone(gone.ids), stays.ids...), gone.list, stays.list)
	for _, b := range next {
		names = append(names, chunk.NewHasher(g.a.IDKey()).StreamID(b))
	}
	evil := poison(t, g, names, list(t, g.store, packsPrefix))

	restoresAs(t, g.owner, g.a, cache, stays)
	restores(t, of(t, g.owner, "one", stays), cache, stays)
	// Who backs up refers to what his own group says, whoever he is.
	again := save(t, g.owner, "one", cache, data[20:])
	if n := packsOf(t, g.store, again.sid); len(n) > 0 {
		t.Errorf("it stored again what its group has: %v", n)
	}
	for i, r := range []*Repo{g.owner, g.a} {
		some := next[4*i : 4*i+4]
		restores(t, of(t, g.owner, "one", stays), cache, save(t, r, "one", cache, some))
	}
	must(t, g.owner.Forget(t.Context(), gone.sid))
	must(t, g.owner.Forget(t.Context(), again.sid))
	for range 4 {
		report := prune(t, g.owner, pruningLists(cache))
		if len(report.Damage) > 0 {
			t.Fatalf("%v", report.Damage)
		}
		restoresAs(t, g.owner, g.a, cache, stays)
		restores(t, of(t, g.owner, "one", stays), cache, stays)
	}
	fresh := save(t, g.a, "one", cache, data[20:])
	if n := packsOf(t, g.store, fresh.sid); len(n) > 0 {
		t.Errorf("a's index lost what it had: %v", n)
	}
	if _, err := g.store.Get(t.Context(), evil, storage.Range{Len: 1}, nil); err != nil {
		t.Error(err) // the packs of the other group's snapshot are its own affair
	}
}

// poison commits a snapshot of b's whose segment names these chunks in a pack that has none of them, and these packs. It gives the pack.
func poison(t *testing.T, g *grouped, ids []chunk.ID, packs []string) (key string) {
	t.Helper()
	o := options()
	o.Cluster = "two"
	must(t, g.b.Write(t.Context(), o, func(ctx context.Context, s *Session) error {
		var own listed
		w, err := s.NewWriter()
		if err != nil {
			return err
		}
		id, err := w.Bytes(ctx, pieces(83, 1)[0])
		if err != nil {
			return err
		}
		if own.list, err = w.Meta(ctx, bytes.Join([][]byte{id[:], bytesOf(ids)}, nil)); err != nil {
			return err
		}
		if err := s.Flush(ctx); err != nil {
			return err
		}
		key = packsOf(t, g.store, s.ID())[0]
		seg := &index.Segment{}
		for _, name := range append(packs, key) {
			b, err := g.store.Get(ctx, name, storage.Range{}, nil)
			if err != nil {
				return err
			}
			p := index.Pack{Key: name, Size: int64(len(b))}
			p.Kind, p.Sessions = pack.Data, []pack.Session{{SID: s.ID(), Encapsulation: s.sealer.Encapsulation()}}
			for i, id := range ids {
				p.Entries = append(p.Entries, pack.Entry{ID: id, Offset: uint32(8 + i*10), Sealed: 10, Plain: 64 << 10, Nonce: uint64(i)})
			}
			seg.Packs = append(seg.Packs, p)
		}
		if err := g.b.putSegment(ctx, s.segmentKey(7), seg); err != nil {
			return err
		}
		manifest, err := json.Marshal(own.list)
		if err != nil {
			return err
		}
		return s.Commit(ctx, manifest)
	}))
	return key
}

func bytesOf(ids []chunk.ID) (b []byte) {
	for _, id := range ids {
		b = append(b, id[:]...)
	}
	return b
}

func TestAnOwnerPrunesAllGroupsAndTheyGoOn(t *testing.T) {
	g := newGrouped(t)
	data := pieces(84, 48)
	caches := map[*Repo]string{g.a: t.TempDir(), g.b: t.TempDir(), g.owner: t.TempDir()}
	old, kept := map[*Repo]listed{}, map[*Repo]listed{}
	for r, cluster := range map[*Repo]string{g.a: "one", g.b: "two"} {
		old[r] = save(t, r, cluster, caches[r], data[:32])
		kept[r] = save(t, r, cluster, caches[r], data[28:])
	}
	all := packBytes(t, g.store)
	for _, l := range old {
		must(t, g.owner.Forget(t.Context(), l.sid))
	}
	repacked := 0
	for range 4 {
		report := prune(t, g.owner, pruningLists(caches[g.owner]))
		if repacked += report.Repacked.Packs; len(report.Damage) > 0 {
			t.Fatalf("%v", report.Damage)
		}
		for r, l := range kept {
			restores(t, g.owner, caches[g.owner], l)
			restoresAs(t, g.owner, r, caches[r], l)
		}
	}
	if left := packBytes(t, g.store); repacked < 2 || left > all*2/3 {
		t.Errorf("%d packs were repacked, of %d bytes %d are left", repacked, all, left)
	}
	run, err := g.a.newestRun(t.Context())
	must(t, err)
	groups := map[string]bool{}
	for _, ref := range run.Bases {
		groups[ref.Group] = true
	}
	if len(groups) != 2 || groups[""] {
		t.Errorf("shards of the groups %v", slices.Collect(maps.Keys(groups)))
	}
	for r, l := range kept {
		next := save(t, r, "more", caches[r], l.data)
		if n := packsOf(t, g.store, next.sid); len(n) > 0 {
			t.Errorf("after the prune it stored again: %v", n)
		}
	}
	// The index made anew has both, each for itself.
	for _, key := range list(t, g.store, basePrefix) {
		must(t, g.store.Delete(t.Context(), key))
	}
	rebuild(t, g.owner)
	for r, l := range kept {
		restoresAs(t, g.owner, r, caches[r], l)
		if v := openView(t, r, caches[r]); v.IndexDamage() != nil || len(v.foreign) == 0 {
			t.Errorf("%v, foreign: %v", v.IndexDamage(), v.foreign)
		} else {
			must(t, v.Close())
		}
	}
}

// of is the repository as who made a snapshot sees it.
func of(t *testing.T, r *Repo, cluster string, l listed) *Repo {
	t.Helper()
	one, err := r.Of(t.Context(), cluster, l.sid)
	must(t, err)
	return one
}

// restoresAs reads everything of a snapshot that the group of a host has, with an owner's key to the contents.
func restoresAs(t *testing.T, owner, host *Repo, cache string, l listed) {
	t.Helper()
	alone, err := owner.as(host.bundle.Group)
	must(t, err)
	b := *alone.bundle
	b.Others = nil
	b.Role = keys.Writer // does not have all
	r, err := newRepo(owner.store, owner.config, &b)
	must(t, err)
	restores(t, r, cache, l)
}

func TestWhoLacksAGroupPrunesAndRebuildsNothing(t *testing.T) {
	for what, before := range map[string]func(t *testing.T, g *grouped){
		"unpruned": func(*testing.T, *grouped) {},
		"pruned":   func(t *testing.T, g *grouped) { prune(t, g.owner, pruningLists("")) },
		"only the other's snapshot": func(t *testing.T, g *grouped) {
			for _, key := range list(t, g.store, indexPrefix) {
				must(t, g.store.Delete(t.Context(), key))
			}
		},
		"only what a session of the other has published": func(t *testing.T, g *grouped) {
			for _, key := range list(t, g.store, snapshotsPrefix+"two/") {
				must(t, g.store.Delete(t.Context(), key))
			}
		},
	} {
		g := newGrouped(t)
		save(t, g.a, "one", "", pieces(85, 4))
		b := save(t, g.b, "two", "", pieces(85, 4))
		before(t, g)
		names := list(t, g.store, "")
		for range 2 {
			if _, err := g.a.Prune(t.Context(), pruningLists("")); !errors.Is(err, keys.ErrRole) {
				t.Errorf("%s: prune: %v", what, err)
			}
			if _, err := g.a.Rebuild(t.Context(), rebuilding()); !errors.Is(err, keys.ErrRole) {
				t.Errorf("%s: rebuild: %v", what, err)
			}
		}
		if now := list(t, g.store, ""); !slices.Equal(now, names) {
			t.Errorf("%s: before %v, after %v", what, names, now)
		}
		if err := g.a.Pin(t.Context(), b.sid); !errors.Is(err, ErrNotCounted) {
			t.Errorf("%s: pin of another group's: %v", what, err)
		}
	}
}

// Nobody but an owner ever needs a secret half.
func TestAWriterKeepsARepositoryOfOneGroup(t *testing.T) {
	f := newFixture(t)
	owner := f.open(t, f.store)
	g := &grouped{fixture: f, owner: owner}
	r := g.holder(t, owner.config, issue(t, owner.bundle, "host", keys.Writer, ""))
	data, cache := pieces(86, 60), t.TempDir()
	runs := makeRuns(r, 87, 40)
	_, killed := kill(t, f, options(), 2, writing(runs)) // an owner's session, of the same group
	old := save(t, r, "main", cache, data[:40])
	some := slices.Concat(data[:3], data[40:])
	kept := save(t, r, "main", cache, some)
	o := options()
	o.CacheDir = cache
	must(t, r.Write(t.Context(), o, func(ctx context.Context, s *Session) error { return writing(runs)(ctx, s) }))

	must(t, r.Forget(t.Context(), kept.sid))
	must(t, r.Unforget(t.Context(), kept.sid))
	must(t, r.Forget(t.Context(), old.sid))
	repacked := 0
	for i := range 4 {
		o := pruningLists(cache)
		o.Now = func() time.Time { return pruning().Now().Add(48 * time.Hour) } // whoever was killed is dead by then
		report := prune(t, r, o)
		if repacked += report.Repacked.Packs; len(report.Damage) > 0 {
			t.Fatalf("%v", report.Damage)
		}
		if i == 1 {
			for _, key := range list(t, f.store, basePrefix) {
				must(t, f.store.Delete(t.Context(), key))
			}
			rebuild(t, r)
		}
	}
	if repacked == 0 || len(killed) == 0 {
		t.Errorf("%d packs were repacked", repacked)
	}
	restores(t, owner, "", kept)
	next := save(t, r, "main", cache, some)
	if n := packsOf(t, f.store, next.sid); len(n) > 0 {
		t.Errorf("stored again: %v", n)
	}
	v := openView(t, r, cache)
	loc, err := v.Locate(kept.ids[0])
	must(t, err)
	sealed, err := v.ReadPack(t.Context(), loc.Pack, int64(loc.Offset), int64(loc.Sealed), nil)
	must(t, err)
	if _, err := v.OpenChunk(nil, loc, sealed); !errors.Is(err, keys.ErrRole) {
		t.Errorf("a writer opens a chunk: %v", err)
	}
	must(t, v.Close())
}

// What all groups can open any host can have sealed.
func TestWhatIsSealedForAllIsNoGroups(t *testing.T) {
	g := newGrouped(t)
	data := pieces(89, 20)
	a := save(t, g.a, "one", "", data)
	var evil listed
	o := options()
	o.Cluster = "two"
	must(t, g.b.Write(t.Context(), o, func(ctx context.Context, s *Session) error {
		if err := evil.write(ctx, s, data[:1]); err != nil {
			return err
		}
		key := s.outcomeKey()
		there, err := g.b.get(ctx, kindOutcome, key)
		if err != nil {
			return err
		}
		seg := &index.Segment{Packs: []index.Pack{{Key: packsOf(t, g.store, a.sid)[0], Size: 1 << 20}}}
		seg.Packs[0].Kind, seg.Packs[0].Sessions = pack.Data, []pack.Session{{SID: s.ID(), Encapsulation: s.sealer.Encapsulation()}}
		seg.Packs[0].Entries = []pack.Entry{{ID: a.ids[0], Offset: 8, Sealed: 100, Plain: 64 << 10}}
		text, err := seg.Marshal()
		if err != nil {
			return err
		}
		return errors.Join(g.store.Delete(ctx, key), g.store.Put(ctx, key, g.b.sealFor(kindOutcome, true, key, there)),
			g.store.Put(ctx, s.segmentKey(9), g.b.sealFor(kindIndex, true, s.segmentKey(9), text)))
	}))
	must(t, g.a.AllCommits(t.Context(), "two", func(c Commit) error {
		if !c.Refused() {
			t.Errorf("%s is taken for a's: %v", c.ID, c.Err)
		}
		return nil
	}))
	v := openView(t, g.a, "")
	defer func() { must(t, v.Close()) }()
	var broken *IndexError
	if err := v.IndexDamage(); !errors.As(err, &broken) || len(broken.Objects) != 1 {
		t.Errorf("the segment: %v", err)
	}
	if loc, err := v.Locate(a.ids[0]); err != nil || loc.Nonce+uint64(loc.Offset) == 8 && loc.Sealed == 100 {
		t.Errorf("%+v, %v", loc, err)
	}
}

// sealedForAll seals as what all groups must read.
type sealedForAll struct{ *keys.Meta }

func (s sealedForAll) Seal(dst, plain, aad []byte) []byte { return s.SealCommon(dst, plain, aad) }

func TestAPackThatIsSealedForAllIsNoGroups(t *testing.T) {
	g := newGrouped(t)
	a := save(t, g.a, "one", "", pieces(90, 20))
	b := save(t, g.b, "two", "", pieces(90, 1))
	name := packsPrefix + b.sid + "/77"
	forged := pack.NewBuilder(pack.Data, sealedForAll{g.b.meta}, g.b.packAAD(name))
	session, err := forged.AddSession(pack.Session{SID: b.sid, Encapsulation: make([]byte, keys.EncapsulationSize)})
	must(t, err)
	must(t, forged.AddSealed(pack.Entry{ID: a.ids[0], Sealed: 100, Plain: 64 << 10, Session: session}, make([]byte, 100), nil))
	object, sum, _, err := forged.Finish()
	must(t, err)
	key := name + "-" + hex.EncodeToString(sum[:])
	must(t, g.store.Put(t.Context(), key, object))
	report := rebuild(t, g.owner)
	if len(report.Unreadable) != 1 || report.Unreadable[0].Key != key {
		t.Errorf("%+v", report.Unreadable)
	}
	restores(t, of(t, g.owner, "one", a), "", a)
}

func TestASessionTakesOverNothingOfAnotherGroup(t *testing.T) {
	g := newGrouped(t)
	var killed string
	gone := errors.New("gone")
	dead := false
	store := fault.New(g.store, func(op fault.Op) fault.Action {
		if dead || op.Verb == fault.Put && strings.HasPrefix(op.Key, indexPrefix) {
			dead = true
			return fault.Action{Before: gone}
		}
		return fault.Action{}
	})
	runs := makeRuns(g.b, 91, 20)
	before := options()
	before.Now = func() time.Time { return time.Now().Add(-time.Hour) }
	if err := g.on(t, store, g.b).Write(t.Context(), before, func(ctx context.Context, s *Session) error {
		killed = s.ID()
		return errors.Join(writing(runs)(ctx, s), s.Flush(ctx))
	}); !errors.Is(err, gone) {
		t.Fatal(err)
	}
	if len(packsOf(t, g.store, killed)) == 0 {
		t.Fatal("nothing is left of it")
	}
	for _, r := range []*Repo{g.owner, g.a} {
		sid := commit(t, r, options(), writing(makeRuns(r, 91, 20)))
		for _, key := range segmentOf(t, r, sid) {
			if strings.HasPrefix(key, packsPrefix+killed) {
				t.Errorf("%s took over %s", r.bundle.Name, key)
			}
		}
	}
	again := commit(t, g.b, options(), writing(runs))
	if named := segmentOf(t, g.b, again); !slices.ContainsFunc(named, func(key string) bool { return strings.HasPrefix(key, packsPrefix+killed) }) {
		t.Errorf("a host of its group named %v", named)
	}
}

// TestAnOwnerWhoOpenedBeforeThereWasAGroupMakesNoIndexWithoutIt: to the keys that he has that group's segments and packs are damaged.
func TestAnOwnerWhoOpenedBeforeThereWasAGroupMakesNoIndexWithoutIt(t *testing.T) {
	f := newFixture(t)
	stale, alsoStale := f.open(t, f.store), f.open(t, f.store)
	backup(t, stale, pieces(1, 2))
	b, _, _ := addKey(t, f.open(t, f.store), NewKey{Name: "b", Role: keys.Writer, Group: "b"})
	_, ids := backup(t, b, pieces(7, 3))
	if _, err := stale.Rebuild(t.Context(), RebuildOptions{Host: "test", Now: pruning().Now}); !errors.Is(err, ErrStale) {
		t.Errorf("rebuild: %v", err)
	}
	if _, err := alsoStale.Prune(t.Context(), pruning()); err == nil {
		t.Error("it prunes")
	}
	if runs := list(t, f.store, gcPrefix); len(runs) > 0 {
		t.Errorf("%v", runs)
	}
	v := openView(t, f.open(t, f.store), "")
	defer func() { must(t, v.Close()) }()
	for _, id := range ids {
		if _, err := readChunk(t.Context(), v, id); err != nil {
			t.Fatal(err)
		}
	}
}
