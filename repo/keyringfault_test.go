package repo

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/pgtrove/pgtrove/keys"
	"github.com/pgtrove/pgtrove/storage"
	"github.com/pgtrove/pgtrove/storage/fault"
	"github.com/pgtrove/pgtrove/storage/mem"
)

// household is a repository with two owners and a host.
type household struct {
	store  *mem.Store
	root   ed25519.PublicKey
	ids    map[string][]age.Identity // of each, all that he has
	keys   map[string]string         // IDs by name
	added  []Recipient               // whom a change is for
	addedI age.Identity
}

func newHousehold(t *testing.T) *household {
	t.Helper()
	f := newFixture(t)
	owner := f.open(t, f.store)
	_, second, id2 := addKey(t, owner, NewKey{Name: "second", Role: keys.Owner})
	_, host, id3 := addKey(t, owner, NewKey{Name: "host", Role: keys.Writer})
	h := &household{store: f.store, root: owner.Root(), ids: map[string][]age.Identity{"owner": {f.id}, "second": {id2}, "host": {id3}}}
	h.keys = map[string]string{"owner": owner.entry, "second": second.ID, "host": host.ID}
	h.addedI, h.added = recipient(t)
	return h
}

// change is what an owner does to the keyring.
type change struct {
	do func(t *testing.T, h *household, r *Repo) error
	// whoever has the new identity besides, who need not open the repository any more, and whether a key of a new name is made.
	gets, loses string
	adds        bool
}

func changes() map[string]change {
	add := func(k NewKey) change {
		return change{adds: true, do: func(t *testing.T, h *household, r *Repo) error {
			k := k // tests that run side by side make the same change
			k.Name, k.Recipients = "added", h.added
			_, err := r.AddKey(t.Context(), k)
			return err
		}}
	}
	remove := func(name string) change {
		return change{loses: name, do: func(t *testing.T, h *household, r *Repo) error {
			_, err := r.RemoveKey(t.Context(), h.keys[name])
			return err
		}}
	}
	rotate := func(name string) change {
		return change{gets: name, do: func(t *testing.T, h *household, r *Repo) error {
			_, _, err := r.RotateKey(t.Context(), h.keys[name], h.added)
			return err
		}}
	}
	return map[string]change{
		"add": add(NewKey{Role: keys.Writer}), "add an owner": add(NewKey{Role: keys.Owner}), "add a group": add(NewKey{Role: keys.Writer, Group: "new"}),
		"remove a host": remove("host"), "remove an owner": remove("second"),
		"rotate": rotate("second"), "rotate one's own": rotate("owner"),
		"rotate data": {do: func(t *testing.T, _ *household, r *Repo) error { return r.RotateData(t.Context(), nil) }},
	}
}

// TestAChangeOfKeysThatStopsAnywhereLocksNobodyOut lets each change stop before each of its requests, as a machine that dies does, and lets each request's answer be
// lost. Every owner opens the repository afterwards, and reads what anybody writes then; doing the change once more ends well.
func TestAChangeOfKeysThatStopsAnywhereLocksNobodyOut(t *testing.T) {
	start := newHousehold(t)
	for name, c := range changes() {
		hows := []string{"stops"}
		if name == "add an owner" || name == "remove an owner" || name == "rotate data" { // of which the others are made
			hows = append(hows, "loses an answer")
		}
		for _, how := range hows {
			t.Run(name+", and "+how, func(t *testing.T) {
				t.Parallel()
				for n, last := 1, false; !last; n++ {
					last = stopAt(t, start, c, how, n)
				}
			})
		}
	}
}

// stopAt does a change of which one request fails, and says whether it was over before.
func stopAt(t *testing.T, start *household, c change, how string, n int) (last bool) {
	h := *start
	h.store = cloneStore(t, start.store)
	calls, armed := 0, false
	injected := fmt.Errorf("%w: injected", storage.ErrUnreachable)
	s := fault.New(h.store, func(fault.Op) fault.Action {
		if !armed {
			return fault.Action{}
		}
		calls++
		switch {
		case how == "stops" && calls >= n:
			return fault.Action{Before: injected}
		case how != "stops" && calls == n:
			return fault.Action{After: injected}
		}
		return fault.Action{}
	})
	r := openAs(t, s, h.ids["owner"][0])
	armed = true
	err := c.do(t, &h, r)
	what := fmt.Sprintf("at request %d", n)
	if calls < n {
		must(t, err)
	}
	h.allOpen(t, what, c)
	if err != nil {
		h.again(t, what, c)
		h.allOpen(t, what+", and is done again", c)
	}
	h.isDone(t, what, c)
	return calls < n
}

// again is what a person does who was told of an error: look at the list, remove what is half there, and do it once more.
func (h *household) again(t *testing.T, what string, c change) {
	t.Helper()
	r := h.owners(t, c)[0]
	all, err := r.Keys(t.Context())
	must(t, err)
	there := map[string]bool{}
	for _, k := range all {
		if errors.Is(k.Err, ErrOrigin) {
			t.Errorf("%s: there is a bundle, and nobody knows whose: %+v", what, k)
		}
		if k.Err == nil && (!c.adds || k.Name != "added") {
			there[k.ID] = true
			continue
		}
		if _, err := r.RemoveKey(t.Context(), k.ID); err != nil {
			t.Fatalf("%s: remove what is half there: %v", what, err)
		}
	}
	old := h.keys[c.gets]
	switch {
	case c.gets != "" && (len(there) > len(h.keys) || !there[old]): // the new one is there
		if r.entry == old {
			r = openAs(t, h.store, h.addedI)
		}
		if _, err := r.RemoveKey(t.Context(), old); err != nil && !errors.Is(err, ErrNoKey) {
			t.Fatalf("%s: remove the old one: %v", what, err)
		}
	default:
		if err := c.do(t, h, h.owners(t, c)[0]); err != nil && !(c.loses != "" && errors.Is(err, ErrNoKey)) {
			t.Fatalf("%s: done again: %v", what, err)
		}
	}
}

// isDone checks that there are the keys, and no others, that are to be.
func (h *household) isDone(t *testing.T, what string, c change) {
	t.Helper()
	want := map[string]bool{"owner": true, "second": true, "host": true}
	if delete(want, c.loses); c.adds {
		want["added"] = true
	}
	got := keysByName(t, h.owners(t, c)[0])
	for name := range want {
		if k, ok := got[name]; !ok || len(got) != len(want) || k.Removing || (name == c.gets) == (k.ID == h.keys[name]) && name != "added" {
			t.Fatalf("%s: %+v", what, got)
		}
	}
}

// owners opens the repository as every owner who can.
func (h *household) owners(t *testing.T, c change) (all []*Repo) {
	t.Helper()
	for _, name := range []string{"owner", "second"} {
		ids := h.ids[name]
		if c.gets == name {
			ids = append(ids[:1:1], h.addedI)
		}
		r, err := OpenWith(t.Context(), h.store, OpenOptions{Identities: ids, Root: h.root})
		switch {
		case err == nil && r.Role() == keys.Owner:
			all = append(all, r)
		case c.loses != name:
			t.Errorf("%s: %v", name, err)
		}
	}
	return all
}

// allOpen checks that everybody opens the repository who is to, and that what any of them writes from now on every owner reads.
func (h *household) allOpen(t *testing.T, what string, c change) {
	t.Helper()
	owners := h.owners(t, c)
	if len(owners) == 0 || len(owners) < 2 && c.loses != "second" {
		t.Fatalf("%s: %d owners open the repository", what, len(owners))
	}
	writers := slices.Clone(owners)
	for _, id := range []age.Identity{h.ids["host"][0], h.addedI} {
		r, err := Open(t.Context(), h.store, id)
		if err == nil {
			writers = append(writers, r)
		} else if id != h.addedI && c.loses != "host" {
			t.Fatalf("%s: the host: %v", what, err)
		}
	}
	for _, w := range writers {
		data, err := w.bundle.DataSealer(w.config.ID, "s")
		must(t, err)
		wal, err := w.bundle.WALSealer(w.config.ID, "s")
		must(t, err)
		for _, o := range owners {
			if _, err := o.bundle.DataOpener(o.config.ID, "s", data.Encapsulation()); err != nil {
				t.Fatalf("%s: %s does not read data of %s: %v", what, o.bundle.Name, w.bundle.Name, err)
			}
			if _, err := o.bundle.WALOpener(o.config.ID, "s", wal.Encapsulation()); err != nil {
				t.Fatalf("%s: %s does not read WAL of %s: %v", what, o.bundle.Name, w.bundle.Name, err)
			}
			if _, err := o.meta.Open(nil, w.meta.Seal(nil, []byte("x"), nil), nil); err != nil {
				t.Fatalf("%s: %s does not read metadata of %s: %v", what, o.bundle.Name, w.bundle.Name, err)
			}
		}
	}
}

func TestDataIsSealedToTheNewPairOnceKeysAreRotated(t *testing.T) {
	h := newHousehold(t)
	owner := openAs(t, h.store, h.ids["owner"][0])
	// Who knows the secrets of today, as whoever steals a copy of an owner's bundle does.
	stolen := *owner.bundle
	before := pieces(8, 2)
	_, oldIDs := backup(t, openAs(t, h.store, h.ids["host"][0]), before)
	must(t, owner.RotateData(t.Context(), nil))
	for _, k := range [][]string{list(t, h.store, keysPrefix)} {
		if len(k) != 3*2+1 {
			t.Errorf("old bundles are left: %v", k)
		}
	}
	after := pieces(9, 2)
	_, newIDs := backup(t, openAs(t, h.store, h.ids["host"][0]), after)
	for _, name := range []string{"owner", "second"} {
		r := openAs(t, h.store, h.ids[name][0])
		check(t, r, oldIDs, before)
		check(t, r, newIDs, after)
	}
	thief, err := newRepo(h.store, owner.config, &stolen)
	must(t, err)
	check(t, thief, oldIDs, before)
	v, err := thief.OpenView(t.Context(), "", "main")
	must(t, err)
	defer func() { _ = v.Close() }()
	if _, err := readChunk(t.Context(), v, newIDs[0]); !errors.Is(err, keys.ErrLocked) {
		t.Errorf("the old pair opens what was sealed since: %v", err)
	}
	// Whoever goes on with what he had before would make bundles that lack the new pair.
	for what, err := range map[string]error{
		"rotate data": owner.RotateData(t.Context(), nil),
		"add": func() error {
			_, err := owner.AddKey(t.Context(), NewKey{Name: "x", Role: keys.Owner, Recipients: h.added})
			return err
		}(),
		"remove": func() error { _, err := owner.RemoveKey(t.Context(), h.keys["host"]); return err }(),
	} {
		if !errors.Is(err, ErrStale) {
			t.Errorf("%s: %v", what, err)
		}
	}
	must(t, openAs(t, h.store, h.ids["second"][0]).RotateData(t.Context(), nil))
	check(t, openAs(t, h.store, h.ids["owner"][0]), newIDs, after)
}

// TestOwnersWhoChangeKeysAtOnceLoseNone: at each request of one change somebody else does another. Whatever is written then every owner reads.
func TestOwnersWhoChangeKeysAtOnceLoseNone(t *testing.T) {
	start := newHousehold(t)
	rotate, add := changes()["rotate data"].do, changes()["add an owner"].do
	type doing = func(t *testing.T, h *household, r *Repo) error
	for what, two := range map[string][2]doing{"rotating meets rotating": {rotate, rotate}, "rotating meets adding": {rotate, add}, "adding meets rotating": {add, rotate}} {
		for n, last := 1, false; !last; n++ {
			h := *start
			h.store = cloneStore(t, start.store)
			armed, calls := false, 0
			var otherErr error
			s := fault.New(h.store, func(fault.Op) fault.Action {
				if armed {
					if calls++; calls == n {
						otherErr = two[1](t, &h, openAs(t, h.store, h.ids["second"][0]))
					}
				}
				return fault.Action{}
			})
			r := openAs(t, s, h.ids["owner"][0])
			armed = true
			err := two[0](t, &h, r)
			armed, last = false, calls < n
			if last {
				continue // the other has done nothing
			}
			if err != nil && otherErr != nil {
				t.Errorf("%s at request %d: neither is done: %v; %v", what, n, err, otherErr)
			}
			h.allOpen(t, fmt.Sprintf("%s at request %d", what, n), change{})
			h.addedReads(t, fmt.Sprintf("%s at request %d", what, n), what == "adding meets rotating" && err == nil || what == "rotating meets adding" && otherErr == nil)
		}
	}
}

// addedReads checks that there is an owner who was added, if somebody was told so, and that he reads what hosts write.
func (h *household) addedReads(t *testing.T, what string, told bool) {
	t.Helper()
	added, err := Open(t.Context(), h.store, h.addedI)
	if told != (err == nil) {
		t.Errorf("%s: told %v; %v", what, told, err)
	}
	if err != nil {
		return
	}
	host := openAs(t, h.store, h.ids["host"][0])
	data, err := host.bundle.DataSealer(host.config.ID, "s")
	must(t, err)
	if _, err := added.bundle.DataOpener(host.config.ID, "s", data.Encapsulation()); err != nil {
		t.Errorf("%s: the new owner does not read what the host writes: %v", what, err)
	}
}

func TestAPassphraseIsAskedForBeforeAnythingIsChanged(t *testing.T) {
	h := newHousehold(t)
	owner := openAs(t, h.store, h.ids["owner"][0])
	pass := func(text string) Passphrase {
		r, err := age.NewScryptRecipient(text)
		must(t, err)
		r.SetWorkFactor(10)
		id, err := age.NewScryptIdentity(text)
		must(t, err)
		return Passphrase{Recipient: r, Identity: id}
	}
	right := pass("right")
	key, err := owner.AddKey(t.Context(), NewKey{Name: "by heart", Role: keys.Owner, Recipients: []Recipient{{Recipient: right.Recipient, Kind: keys.KindPassphrase}}})
	must(t, err)
	before := list(t, h.store, "")
	var missing *PassphraseError
	if err := owner.RotateData(t.Context(), nil); !errors.As(err, &missing) || len(missing.IDs) != 1 || missing.IDs[0] != key.ID || !strings.Contains(err.Error(), "by heart") {
		t.Errorf("%v", err)
	}
	if err := owner.RotateData(t.Context(), Passphrases{key.ID: pass("wrong")}); !errors.Is(err, keys.ErrLocked) {
		t.Errorf("a passphrase that opens nothing: %v", err)
	}
	if _, err := owner.AddKey(t.Context(), NewKey{Name: "x", Role: keys.Writer, Group: "new", Recipients: h.added}); !errors.As(err, &missing) {
		t.Errorf("%v", err)
	}
	if after := list(t, h.store, ""); len(after) != len(before) {
		t.Errorf("before %v, after %v", before, after)
	}
	must(t, owner.RotateData(t.Context(), Passphrases{key.ID: right}))
	data := pieces(11, 1)
	_, ids := backup(t, openAs(t, h.store, h.ids["host"][0]), data)
	check(t, openAs(t, h.store, right.Identity), ids, data)
	again := openAs(t, h.store, h.ids["owner"][0])
	if _, err := again.AddKey(t.Context(), NewKey{Name: "x", Role: keys.Writer, Group: "new", Recipients: h.added, Passphrases: Passphrases{key.ID: right}}); err != nil {
		t.Error(err)
	}
	if got := openAs(t, h.store, h.addedI); got.bundle.Group != "new" || got.IDKey() == again.IDKey() {
		t.Errorf("group %q", got.bundle.Group)
	}
	if got := openAs(t, h.store, right.Identity); len(got.bundle.Groups()) != 2 {
		t.Errorf("%v", got.bundle.Groups())
	}
}

// TestNumbersThatNobodyHasGivenStopNoOwner: whoever may create objects puts high ones there.
func TestNumbersThatNobodyHasGivenStopNoOwner(t *testing.T) {
	h := newHousehold(t)
	for _, name := range []string{"x.9223372036854775807", h.keys["second"] + ".9223372036854775806", "generation.9223372036854775807", "generation.7", h.keys["owner"] + ".7", h.keys["second"] + ".7",
		h.keys["host"] + ".2"} {
		must(t, h.store.Put(t.Context(), keysPrefix+name, []byte("x")))
	}
	must(t, openAs(t, h.store, h.ids["second"][0]).RotateData(t.Context(), nil))
	h.allOpen(t, "data keys rotated", change{})
	owner := openAs(t, h.store, h.ids["owner"][0])
	if owner.number != 3 {
		t.Errorf("the new bundles have number %d", owner.number)
	}
	_, err := owner.RemoveKey(t.Context(), h.keys["host"])
	must(t, err)
}

// TestOldBundlesStayWhereNewOnesAreNotInUse: what says that they are is gone again when the old ones are to go.
func TestOldBundlesStayWhereNewOnesAreNotInUse(t *testing.T) {
	h := newHousehold(t)
	s := fault.New(h.store, func(op fault.Op) fault.Action {
		if op.Verb == fault.Put && op.Key == bundleKey(h.keys["host"], 2) {
			must(t, h.store.Delete(t.Context(), bundleKey(generationName, 2)))
		}
		return fault.Action{}
	})
	if err := openAs(t, s, h.ids["owner"][0]).RotateData(t.Context(), nil); !errors.Is(err, ErrMissing) {
		t.Errorf("%v", err)
	}
	h.allOpen(t, "not in use", change{})
}
