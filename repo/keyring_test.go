package repo

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/pgtrove/pgtrove/keys"
	"github.com/pgtrove/pgtrove/storage"
	"github.com/pgtrove/pgtrove/storage/fault"
	"github.com/pgtrove/pgtrove/storage/mem"
)

// keysByName gives the keys by their names. None may have anything wrong with it.
func keysByName(t *testing.T, r *Repo) map[string]Key {
	t.Helper()
	all, err := r.Keys(t.Context())
	must(t, err)
	byName := map[string]Key{}
	for _, k := range all {
		if k.Err != nil {
			t.Errorf("%+v", k)
		}
		byName[k.Name] = k
	}
	return byName
}

func TestAKeyThatWasAddedOpensAndIsListed(t *testing.T) {
	f := newFixture(t)
	owner := f.open(t, f.store)
	db1, key, _ := addKey(t, owner, NewKey{Name: "db1", Role: keys.Writer, Clusters: []string{"main"}})
	second, _, _ := addKey(t, owner, NewKey{Name: "second", Role: keys.Owner})
	if db1.Role() != keys.Writer || second.Role() != keys.Owner || !bytes.Equal(db1.Root(), owner.Root()) || owner.Root() == nil {
		t.Errorf("%s, %s", db1.Role(), second.Role())
	}
	data := pieces(1, 3)
	_, ids, err := write(t.Context(), db1, data)
	must(t, err)
	check(t, second, ids, data)
	v, err := db1.OpenView(t.Context(), "", "main")
	must(t, err)
	defer func() { _ = v.Close() }()
	if _, err := readChunk(t.Context(), v, ids[0]); !errors.Is(err, keys.ErrRole) {
		t.Errorf("a writer reads: %v", err)
	}
	for _, r := range []*Repo{db1, second} {
		all := keysByName(t, r)
		got := all["db1"]
		if len(all) != 3 || got.ID != key.ID || got.Role != keys.Writer || !slices.Equal(got.Clusters, []string{"main"}) || got.Kind != keys.KindIdentity ||
			got.Created.IsZero() || got.Current != (r == db1) || all["second"].Current != (r == second) || all["owner"].Current {
			t.Errorf("%+v", all)
		}
	}
	wrapped, err := keys.Wrap(db1.bundle, f.id.(*age.X25519Identity).Recipient())
	must(t, err)
	if _, err := keys.Unwrap(wrapped, f.id); !errors.Is(err, ErrOrigin) {
		t.Errorf("who has a key makes somebody else work with it: %v", err)
	}
	_, to := recipient(t)
	if text, err := db1.Payload(t.Context(), recordKey(key.ID, entrySuffix)); err != nil || !strings.Contains(string(text), `"name":"db1"`) {
		t.Errorf("%s, %v", text, err)
	}
	for what, k := range map[string]NewKey{"a name that is taken": {Name: "db1", Role: keys.Writer, Recipients: to}, "the owner's": {Name: "owner", Role: keys.Writer, Recipients: to}} {
		if _, err := owner.AddKey(t.Context(), k); !errors.Is(err, ErrName) {
			t.Errorf("%s: %v", what, err)
		}
	}
	before := list(t, f.store, "")
	for what, k := range map[string]NewKey{"no name": {Role: keys.Writer, Recipients: to}, "no role": {Name: "x", Recipients: to}, "nobody": {Name: "x", Role: keys.Writer},
		"no cluster's name": {Name: "x", Role: keys.Writer, Recipients: to, Clusters: []string{"a/b"}}, "no group's name": {Name: "x", Role: keys.Writer, Recipients: to, Group: "A B"},
		"no name in a new group": {Role: keys.Writer, Recipients: to, Group: "new"}} {
		if _, err := owner.AddKey(t.Context(), k); !errors.Is(err, keys.ErrFormat) {
			t.Errorf("%s: %v", what, err)
		}
	}
	_, addErr := db1.AddKey(t.Context(), NewKey{Name: "x", Role: keys.Writer, Recipients: to})
	_, removeErr := db1.RemoveKey(t.Context(), key.ID)
	_, _, rotateErr := db1.RotateKey(t.Context(), key.ID, to)
	for what, err := range map[string]error{"add": addErr, "remove": removeErr, "rotate": rotateErr, "rotate data": db1.RotateData(t.Context(), nil)} {
		if !errors.Is(err, keys.ErrRole) {
			t.Errorf("a writer may %s: %v", what, err)
		}
	}
	if after := list(t, f.store, ""); !slices.Equal(after, before) {
		t.Errorf("before %v, after %v", before, after)
	}
}

func TestWhatARemovedKeyHadMadeCountsAndWhatItMakesDoesNot(t *testing.T) {
	f := newFixture(t)
	owner := f.open(t, f.store)
	db1, key, id := addKey(t, owner, NewKey{Name: "db1", Role: keys.Writer})
	early := []string{commitAs(t, db1, "main", "db1"), commitAs(t, db1, "main", "db1")}
	o := pruning()
	o.Mark = markNothing
	prune(t, owner, o)
	early = append(early, commitAs(t, db1, "main", "db1"))
	mine := commitAs(t, owner, "main", "h")
	accepted, err := owner.RemoveKey(t.Context(), key.ID)
	if err != nil || accepted != 3 {
		t.Fatalf("%d, %v", accepted, err)
	}
	late := commitAs(t, db1, "main", "db1")
	addKey(t, owner, NewKey{Name: "db1", Role: keys.Writer}) // the name is free, and the old snapshots bear it
	want := append(slices.Clone(early), mine)
	slices.Sort(want)
	for range 3 {
		counting, refused := shown(t, openAs(t, f.store, f.id))
		slices.Sort(counting)
		if !slices.Equal(counting, want) || len(refused) != 1 || !strings.Contains(refused[late], "was removed") || !strings.Contains(refused[late], key.ID) {
			t.Fatalf("counting %v, refused %v", counting, refused)
		}
		prune(t, openAs(t, f.store, f.id), o)
	}
	// A snapshot's name alone does not bring it back: somebody has kept the storage's credentials and the bundle.
	must(t, owner.Forget(t.Context(), early[0]))
	for range 3 {
		prune(t, owner, o)
	}
	again, err := newRepo(f.store, db1.config, db1.bundle)
	must(t, err)
	text := []byte(`{"version":1,"cluster":"main","host":"db1","nonce":"x"}`)
	must(t, f.store.Put(t.Context(), sessionsPrefix+early[0], again.seal(kindSession, sessionsPrefix+early[0], text)))
	must(t, again.end(t.Context(), snapshotsPrefix+"main/"+early[0], &outcome{Version: 1, Outcome: outcomeSnapshot, Nonce: newNonce(), Manifest: []byte(`{}`)}))
	if counting, refused := shown(t, openAs(t, f.store, f.id)); slices.Contains(counting, early[0]) || refused[early[0]] == "" {
		t.Errorf("counting %v, refused %v", counting, refused)
	}
	if _, err := Open(t.Context(), f.store, id); !errors.Is(err, keys.ErrLocked) {
		t.Errorf("it opens: %v", err)
	}
	if _, ok := keysByName(t, owner)[""]; ok || len(keysByName(t, owner)) != 2 {
		t.Errorf("%v", keysByName(t, owner))
	}
	if _, err := owner.RemoveKey(t.Context(), key.ID); !errors.Is(err, ErrNoKey) {
		t.Errorf("again: %v", err)
	}
}

func TestSnapshotsThatClaimedANameBeforeItWasAKeysGoOnToCount(t *testing.T) {
	f := newFixture(t)
	owner := f.open(t, f.store)
	_, fleet, id := addKey(t, owner, NewKey{Name: "fleet", Role: keys.Writer})
	fleetRepo := openAs(t, f.store, id)
	early := commitAs(t, fleetRepo, "main", "db1")
	_, key, _ := addKey(t, owner, NewKey{Name: "db1", Role: keys.Writer})
	late := commitAs(t, fleetRepo, "main", "db1")
	see := func() {
		t.Helper()
		if counting, refused := shown(t, openAs(t, f.store, f.id)); !slices.Equal(counting, []string{early}) || refused[late] == "" || !strings.Contains(refused[late], fleet.ID) {
			t.Errorf("counting %v, refused %v", counting, refused)
		}
	}
	see()
	_, to := recipient(t)
	_, _, err := owner.RotateKey(t.Context(), key.ID, to)
	must(t, err)
	see()
}

func TestTheLastOwnerIsNotRemoved(t *testing.T) {
	f := newFixture(t)
	owner := f.open(t, f.store)
	addKey(t, owner, NewKey{Name: "db1", Role: keys.Writer})
	first := keysByName(t, owner)["owner"].ID
	if _, err := owner.RemoveKey(t.Context(), first); !errors.Is(err, ErrLastOwner) {
		t.Fatalf("%v", err)
	}
	second, key, _ := addKey(t, owner, NewKey{Name: "second", Role: keys.Owner})

	// Each removes the other at the same time: at every request of the one, the other does all of it.
	for n := 1; ; n++ {
		at, calls := f, 0
		at.store = cloneStore(t, f.store)
		other := openAs(t, at.store, f.id)
		var otherErr error
		s := fault.New(at.store, func(fault.Op) fault.Action {
			if calls++; calls == n {
				_, otherErr = other.RemoveKey(t.Context(), key.ID)
			}
			return fault.Action{}
		})
		r, err := newRepo(s, second.config, second.bundle)
		must(t, err)
		r.entry, r.number = second.entry, second.number
		_, err = r.RemoveKey(t.Context(), first)
		names, listErr := listKeys(t.Context(), at.store)
		must(t, listErr)
		gone := 0
		for _, id := range []string{first, key.ID} {
			if names.records[id][removedSuffix] {
				gone++
			}
		}
		if gone > 1 || err == nil && otherErr == nil && calls >= n {
			t.Fatalf("request %d: %d are removed; %v, %v", n, gone, err, otherErr)
		}
		if calls < n {
			break
		}
	}

	// Both have said that the other is being removed before either looks again.
	at := cloneStore(t, f.store)
	s := fault.New(at, func(op fault.Op) fault.Action {
		if op.Verb == fault.Put && op.Key == recordKey(first, removingSuffix) {
			must(t, openAs(t, at, f.id).putCertified(t.Context(), recordKey(key.ID, removingSuffix), removingSuffix, removingRecord{Version: 1, Entry: key.ID}))
		}
		return fault.Action{}
	})
	r, err := newRepo(s, second.config, second.bundle)
	must(t, err)
	r.entry, r.number = second.entry, second.number
	if _, err := r.RemoveKey(t.Context(), first); !errors.Is(err, ErrLastOwner) {
		t.Errorf("%v", err)
	}

	if accepted, err := second.RemoveKey(t.Context(), first); accepted != 0 || err != nil {
		t.Fatal(err)
	}
	r, err = newRepo(fault.New(f.store, func(op fault.Op) fault.Action {
		if op.Verb == fault.Put {
			t.Errorf("%s is written", op.Key)
		}
		return fault.Action{}
	}), second.config, second.bundle)
	must(t, err)
	r.entry, r.number = second.entry, second.number
	if _, err := r.RemoveKey(t.Context(), key.ID); !errors.Is(err, ErrLastOwner) {
		t.Errorf("%v", err)
	}
	if _, err := owner.AddKey(t.Context(), NewKey{Name: "x", Role: keys.Owner}); !errors.Is(err, ErrOrigin) {
		t.Errorf("an owner who was removed adds a key: %v", err)
	}
}

// TestTheKeyInUseIsRemovedByAnotherOwnerOnly, and the only owner's goes to no identity that nobody has shown to be there.
func TestTheKeyInUseIsRemovedByAnotherOwnerOnly(t *testing.T) {
	f := newFixture(t)
	owner := f.open(t, f.store)
	_, unproven := recipient(t)
	id, proven := recipient(t)
	proven[0].Proven = true
	before := list(t, f.store, "")
	if _, _, err := owner.RotateKey(t.Context(), owner.entry, unproven); !errors.Is(err, ErrUnproven) {
		t.Fatalf("%v", err)
	}
	if after := list(t, f.store, ""); !slices.Equal(before, after) {
		t.Errorf("before %v, after %v", before, after)
	}
	_, _, err := owner.RotateKey(t.Context(), owner.entry, proven)
	must(t, err)
	owner = openAs(t, f.store, id)
	second, _, secondID := addKey(t, owner, NewKey{Name: "second", Role: keys.Owner})
	before = list(t, f.store, "")
	if _, err := owner.RemoveKey(t.Context(), owner.entry); !errors.Is(err, ErrInUse) {
		t.Fatalf("%v", err)
	}
	if after := list(t, f.store, ""); !slices.Equal(before, after) {
		t.Errorf("before %v, after %v", before, after)
	}
	_, _, err = owner.RotateKey(t.Context(), owner.entry, unproven) // the other owner is there
	must(t, err)
	_, err = openAs(t, f.store, secondID).RemoveKey(t.Context(), keysByName(t, second)["owner"].ID)
	must(t, err)
}

// TestAnOwnerOfWhomNoRecordIsLeftLosesNothing: somebody has deleted it.
func TestAnOwnerOfWhomNoRecordIsLeftLosesNothing(t *testing.T) {
	f := newFixture(t)
	owner := f.open(t, f.store)
	must(t, f.store.Delete(t.Context(), recordKey(owner.entry, entrySuffix)))
	all, err := owner.Keys(t.Context())
	if err != nil || len(all) != 1 || !errors.Is(all[0].Err, ErrOrigin) || !all[0].Current {
		t.Errorf("%+v, %v", all, err)
	}
	if _, err := owner.RemoveKey(t.Context(), owner.entry); !errors.Is(err, ErrLastOwner) {
		t.Errorf("%v", err)
	}
	if err := owner.RotateData(t.Context(), nil); !errors.Is(err, ErrMissing) {
		t.Errorf("%v", err)
	}
	second, _, _ := addKey(t, owner, NewKey{Name: "second", Role: keys.Owner})
	if err := second.RotateData(t.Context(), nil); !errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), owner.entry) {
		t.Errorf("%v", err)
	}
	if _, err := openAs(t, f.store, f.id).RemoveKey(t.Context(), second.entry); !errors.Is(err, ErrLastOwner) {
		t.Errorf("%v", err)
	}
	_, err = second.RemoveKey(t.Context(), owner.entry)
	must(t, err)
	must(t, second.RotateData(t.Context(), nil))
}

func TestWhereNothingMayBeDeletedARecordRemovesAKey(t *testing.T) {
	f := newFixture(t)
	s := fault.New(f.store, func(op fault.Op) fault.Action {
		if op.Verb == fault.Delete {
			return fault.Action{Before: storage.ErrDenied}
		}
		return fault.Action{}
	})
	owner := openAs(t, s, f.id)
	db1, key, id := addKey(t, owner, NewKey{Name: "db1", Role: keys.Writer})
	early := commitAs(t, db1, "main", "db1")
	if accepted, err := owner.RemoveKey(t.Context(), key.ID); accepted != 1 || !errors.Is(err, ErrKept) {
		t.Errorf("%d, %v", accepted, err)
	}
	late := commitAs(t, db1, "main", "db1")
	if counting, refused := shown(t, openAs(t, s, f.id)); !slices.Equal(counting, []string{early}) || refused[late] == "" {
		t.Errorf("counting %v, refused %v", counting, refused)
	}
	if _, err := Open(t.Context(), s, id); !errors.Is(err, keys.ErrLocked) || !strings.Contains(err.Error(), "was removed") {
		t.Errorf("%v", err)
	}
	if len(keysByName(t, owner)) != 1 {
		t.Errorf("%v", keysByName(t, owner))
	}
}

func TestAnOwnerWhoIsElsewhereLeavesNoSecretOnTheHost(t *testing.T) {
	store := mem.New(nil)
	owner, to := recipient(t)
	second, toSecond := recipient(t)
	host, toHost := recipient(t)
	r, err := InitWith(t.Context(), store, nil, time.Now(), InitOptions{Name: "vault", Owners: append(to, toSecond...),
		Host: &NewKey{Name: "db1", Role: keys.Writer, Clusters: []string{"main"}, Recipients: toHost}})
	must(t, err)
	if b := r.bundle; r.Role() != keys.Writer || !b.Signing.RootSecret.IsZero() || slices.ContainsFunc(slices.Concat(b.DataKeys, b.WALKeys), func(k keys.KeyPair) bool { return !k.Secret.IsZero() }) {
		t.Error("an owner's secrets are left")
	}
	o := options()
	o.Host = "db1"
	must(t, r.Write(t.Context(), o, func(ctx context.Context, s *Session) error { return s.Commit(ctx, []byte("1")) }))
	for id, role := range map[age.Identity]keys.Role{owner: keys.Owner, second: keys.Owner, host: keys.Writer} {
		if got := openAs(t, store, id); got.Role() != role {
			t.Errorf("%s, want %s", got.Role(), role)
		}
	}
	all := keysByName(t, r)
	if len(all) != 3 || all["vault"].Role != keys.Owner || all["vault-2"].Role != keys.Owner || !all["db1"].Current {
		t.Errorf("%+v", all)
	}
	for what, o := range map[string]InitOptions{"nobody": {}, "one name twice": {Owners: to, Name: "db1", Host: &NewKey{Name: "db1", Role: keys.Writer, Recipients: toHost}}} {
		empty := mem.New(nil)
		if _, err := InitWith(t.Context(), empty, nil, time.Now(), o); err == nil || len(list(t, empty, "")) > 0 {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestABundleThatSomebodyMadeUpIsNotTaken(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	var err error
	// It is wrapped for our identity, whose public half is no secret, and says that it is of this repository.
	made, err := keys.Generate(r.config.ID, "owner")
	must(t, err)
	wrapped, err := keys.Wrap(made, f.id.(*age.X25519Identity).Recipient())
	must(t, err)
	forged := keysPrefix + made.Certificate().Entry
	must(t, f.store.Put(t.Context(), forged, wrapped))
	open := func(o OpenOptions) error {
		o.Identities = []age.Identity{f.id}
		got, err := OpenWith(t.Context(), f.store, o)
		if err == nil && !bytes.Equal(got.Root(), r.Root()) {
			t.Error("the made up one was opened")
		}
		return err
	}
	must(t, open(OpenOptions{Root: r.Root()}))
	if err := open(OpenOptions{}); !errors.Is(err, ErrOrigin) {
		t.Errorf("of two nobody knows which is right: %v", err)
	}
	for _, key := range list(t, f.store, keysPrefix) {
		if key != forged {
			must(t, f.store.Delete(t.Context(), key))
		}
	}
	if err := open(OpenOptions{Root: r.Root()}); !errors.Is(err, ErrOrigin) {
		t.Errorf("alone: %v", err)
	}
	o := Opening{Config: r.opening.Config, Bundle: wrapped}
	if _, err := ReopenWith(f.store, o, OpenOptions{Identities: []age.Identity{f.id}, Root: r.Root()}); !errors.Is(err, ErrOrigin) {
		t.Errorf("from a cache: %v", err)
	}
	if _, err := ReopenWith(f.store, r.opening, OpenOptions{Identities: []age.Identity{f.id}, Root: r.Root()}); err != nil {
		t.Error(err)
	}
}

// TestRecordsThatNoOwnerHasMadeSayNothing: a host has the key that seals records, and the storage's credentials.
func TestRecordsThatNoOwnerHasMadeSayNothing(t *testing.T) {
	f := newFixture(t)
	owner := f.open(t, f.store)
	db1, key, _ := addKey(t, owner, NewKey{Name: "db1", Role: keys.Writer})
	db2, key2, id2 := addKey(t, owner, NewKey{Name: "db2", Role: keys.Writer})
	sid := commitAs(t, db2, "main", "db2")
	made, err := keys.Generate(owner.config.ID, "owner")
	must(t, err)
	stranger := *db1.bundle
	stranger.Signing.RootSecret = made.Signing.RootSecret
	forger, err := newRepo(f.store, db1.config, &stranger)
	must(t, err)
	must(t, forger.putCertified(t.Context(), recordKey(key2.ID, removedSuffix), removedSuffix, removedRecord{Version: 1, Entry: key2.ID}))
	must(t, forger.putCertified(t.Context(), recordKey(key2.ID, removingSuffix), removingSuffix, removingRecord{Version: 1, Entry: key2.ID}))
	const mine = "00000000000000aa"
	must(t, forger.putCertified(t.Context(), recordKey(mine, entrySuffix), entrySuffix, entryRecord{Version: 1, Entry: mine, Name: "db9", Role: keys.Owner}))
	must(t, f.store.Put(t.Context(), recordKey("00000000000000bb", removedSuffix), []byte("nothing")))
	// What an owner has said of one key says nothing of another.
	said, err := owner.getCertified(t.Context(), recordKey(key.ID, entrySuffix), entrySuffix)
	must(t, err)
	signed, err := owner.bundle.Certify(entrySuffix, said)
	must(t, err)
	const moved = "00000000000000cc"
	must(t, f.store.Put(t.Context(), recordKey(moved, entrySuffix), db1.seal(kindKey, recordKey(moved, entrySuffix), signed)))

	// A bundle that other owners have not got is not in use.
	next, err := owner.bundle.RotateData()
	must(t, err)
	wrapped, err := keys.Wrap(next, f.id.(*age.X25519Identity).Recipient())
	must(t, err)
	must(t, f.store.Put(t.Context(), bundleKey(owner.entry, 2), wrapped))
	must(t, forger.putCertified(t.Context(), bundleKey(generationName, 2), generationName, generationRecord{Version: 1, Number: 2}))
	must(t, f.store.Put(t.Context(), bundleKey(owner.entry, 3), wrapped))
	must(t, owner.putCertified(t.Context(), bundleKey(generationName, 3), generationName, generationRecord{Version: 1, Number: 4})) // moved from there

	again := openAs(t, f.store, f.id)
	if again.number != 1 {
		t.Errorf("bundle %d is in use", again.number)
	}
	if counting, refused := shown(t, again); !slices.Equal(counting, []string{sid}) || len(refused) > 0 {
		t.Errorf("counting %v, refused %v", counting, refused)
	}
	all, err := again.Keys(t.Context())
	must(t, err)
	bad := map[string]error{}
	for _, k := range all {
		if k.Err != nil {
			bad[k.ID] = k.Err
		}
	}
	if len(all) != 6 || len(bad) != 4 || !errors.Is(bad[mine], ErrOrigin) || !errors.Is(bad[moved], ErrOrigin) || !errors.Is(bad[key2.ID], ErrOrigin) ||
		slices.ContainsFunc(all, func(k Key) bool { return k.Removing }) {
		t.Errorf("%+v", all)
	}
	db2 = openAs(t, f.store, id2)
	o := options()
	o.Host = "db2"
	must(t, db2.Write(t.Context(), o, func(ctx context.Context, s *Session) error { return s.Commit(ctx, []byte("1")) }))
	if _, err := again.RemoveKey(t.Context(), idsByName(all)["owner"]); !errors.Is(err, ErrLastOwner) {
		t.Errorf("an owner that nobody has made counts: %v", err)
	}
}

func idsByName(all []Key) map[string]string {
	ids := map[string]string{}
	for _, k := range all {
		ids[k.Name] = k.ID
	}
	return ids
}
