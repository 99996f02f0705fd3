package repo

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/pgtrove/pgtrove/keys"
	"github.com/pgtrove/pgtrove/storage"
	"github.com/pgtrove/pgtrove/storage/fault"
	"github.com/pgtrove/pgtrove/storage/mem"
)

func TestARepositoryIsReopenedWithoutReading(t *testing.T) {
	f := newFixture(t)
	counting := fault.New(f.store, nil)
	for name, kept := range map[string]Opening{"as opened": f.open(t, f.store).Opening(), "as made": made(t, f)} {
		before := counting.Calls()
		r, err := Reopen(counting, kept, f.id)
		if err != nil || counting.Calls() != before {
			t.Fatalf("%s: %v after %d calls", name, err, counting.Calls()-before)
		}
		if name == "as opened" && r.Config().ID != f.open(t, f.store).Config().ID {
			t.Errorf("config %+v", r.Config())
		}
		if _, err := r.PutArchive(t.Context(), "wal/"+r.Config().ID[:8], []byte("head"), []byte("content")); err != nil {
			t.Error(err)
		}
	}
}

// made is what Init gives for another repository with the fixture's identity.
func made(t *testing.T, f fixture) Opening {
	r, err := Init(t.Context(), mem.New(nil), f.id.(*age.X25519Identity).Recipient(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return r.Opening()
}

func TestReopeningTakesTheKeyAndTheWholeObjects(t *testing.T) {
	f := newFixture(t)
	kept := f.open(t, f.store).Opening()
	other, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Reopen(f.store, kept, other); !errors.Is(err, keys.ErrLocked) {
		t.Errorf("another identity: %v", err)
	}
	for name, o := range map[string]Opening{
		"nothing": {}, "half a config": {kept.Config[:20], kept.Bundle}, "half a bundle": {kept.Config, kept.Bundle[:len(kept.Bundle)/2]},
		"another's bundle": {kept.Config, made(t, f).Bundle},
	} {
		if r, err := Reopen(f.store, o, f.id); err == nil {
			t.Errorf("%s: opened %v", name, r.Config())
		}
	}
}

func TestAnotherRepositoryInThePlaceIsNoticed(t *testing.T) {
	f := newFixture(t)
	kept := f.open(t, f.store).Opening()
	current := func(s storage.Store) bool {
		t.Helper()
		ok, err := Current(t.Context(), s, kept)
		if err != nil {
			t.Fatal(err)
		}
		return ok
	}
	if !current(f.store) {
		t.Error("it is the same")
	}
	if current(newFixture(t).store) || current(mem.New(nil)) {
		t.Error("another one, or none, is taken for it")
	}
	gone := fault.New(f.store, func(fault.Op) fault.Action { return fault.Action{Before: storage.ErrUnreachable} })
	if _, err := Current(context.Background(), gone, kept); !errors.Is(err, storage.ErrUnreachable) {
		t.Errorf("a storage that is gone: %v", err)
	}
}

// TestARepositoryIsOpenedWhileItsKeysAreMadeAnew makes all bundles anew at each request of the opening.
func TestARepositoryIsOpenedWhileItsKeysAreMadeAnew(t *testing.T) {
	start := newHousehold(t)
	must(t, openAs(t, start.store, start.ids["owner"][0]).RotateData(t.Context(), nil))
	for n, last := 1, false; !last; n++ {
		store, calls := cloneStore(t, start.store), 0
		s := fault.New(store, func(op fault.Op) fault.Action {
			if op.Verb == fault.Get && strings.HasPrefix(op.Key, keysPrefix) {
				if calls++; calls == n {
					must(t, openAs(t, store, start.ids["owner"][0]).RotateData(t.Context(), nil))
				}
			}
			return fault.Action{}
		})
		r, err := OpenWith(t.Context(), s, OpenOptions{Identities: start.ids["host"]})
		if err != nil || r.Role() != keys.Writer {
			t.Errorf("request %d: %v", n, err)
		}
		last = calls < n
	}
}

func TestABundleThatMayNotBeReadKeepsNoOtherFromOpening(t *testing.T) {
	h := newHousehold(t)
	denied := bundleKey(h.keys["owner"], 1)
	s := fault.New(h.store, func(op fault.Op) fault.Action {
		if op.Verb == fault.Get && op.Key == denied {
			return fault.Action{Before: storage.ErrDenied}
		}
		return fault.Action{}
	})
	r, err := OpenWith(t.Context(), s, OpenOptions{Identities: h.ids["host"], Root: h.root})
	if err != nil || r.Entry() != h.keys["host"] {
		t.Errorf("%v", err)
	}
	if _, err := OpenWith(t.Context(), s, OpenOptions{Identities: h.ids["owner"], Root: h.root}); !errors.Is(err, storage.ErrDenied) {
		t.Errorf("%v", err)
	}
	// The newest of a key must be read, or the key is not used: what is sealed with an older one owners who have removed it may not open.
	must(t, openAs(t, h.store, h.ids["owner"][0]).RotateData(t.Context(), nil))
	old, err := keys.Wrap(r.bundle, h.ids["host"][0].(*age.X25519Identity).Recipient())
	must(t, err)
	must(t, h.store.Put(t.Context(), bundleKey(h.keys["host"], 1), old))
	denied = bundleKey(h.keys["host"], 2)
	if _, err := OpenWith(t.Context(), s, OpenOptions{Identities: h.ids["host"], Root: h.root}); !errors.Is(err, storage.ErrDenied) {
		t.Errorf("an old bundle is used: %v", err)
	}
}

func TestTheKeyOfLastTimeIsTriedFirst(t *testing.T) {
	h := newHousehold(t)
	owner := openAs(t, h.store, h.ids["owner"][0])
	for _, name := range []string{"a", "b", "c", "d", "e", "f"} {
		addKey(t, owner, NewKey{Name: name, Role: keys.Writer})
	}
	read := 0
	s := fault.New(h.store, func(op fault.Op) fault.Action {
		if op.Verb == fault.Get && strings.HasPrefix(op.Key, keysPrefix) {
			read++
		}
		return fault.Action{}
	})
	for what, c := range map[string]struct {
		o    OpenOptions
		most int
	}{
		"known":                     {OpenOptions{Identities: h.ids["host"], Root: h.root, Entry: h.keys["host"]}, 1},
		"one that does not open":    {OpenOptions{Identities: h.ids["host"], Root: h.root, Entry: h.keys["second"]}, 9},
		"one that is not there":     {OpenOptions{Identities: h.ids["host"], Root: h.root, Entry: "0000000000000000"}, 9},
		"the root key is not known": {OpenOptions{Identities: h.ids["host"], Entry: h.keys["host"]}, 9},
	} {
		read = 0
		r, err := OpenWith(t.Context(), s, c.o)
		must(t, err)
		if r.Entry() != h.keys["host"] || read > c.most || c.most > 1 && read != c.most {
			t.Errorf("%s: %d bundles are read", what, read)
		}
		again, err := ReopenWith(h.store, r.Opening(), c.o)
		must(t, err)
		if again.Entry() != r.Entry() {
			t.Errorf("%s: %s, then %s", what, r.Entry(), again.Entry())
		}
	}
}
