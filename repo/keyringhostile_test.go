package repo

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/pgtrove/pgtrove/keys"
	"github.com/pgtrove/pgtrove/storage"
	"github.com/pgtrove/pgtrove/storage/fault"
	"github.com/pgtrove/pgtrove/storage/mem"
)

// putObject puts an object where one may be, and gives what was there.
func putObject(t *testing.T, s *mem.Store, key string, content []byte) (before []byte) {
	t.Helper()
	if b, err := s.Get(t.Context(), key, storage.Range{}, nil); err == nil {
		before = bytes.Clone(b)
		must(t, s.Delete(t.Context(), key))
	}
	must(t, s.Put(t.Context(), key, content))
	return before
}

func TestNobodyGetsNewKeysWhileARecordIsDamaged(t *testing.T) {
	for _, who := range []string{"owner", "second", "host"} {
		h := newHousehold(t)
		putObject(t, h.store, recordKey(h.keys[who], entrySuffix), []byte("x"))
		before := list(t, h.store, "")
		owner := openAs(t, h.store, h.ids["owner"][0])
		if err := owner.RotateData(t.Context(), nil); !errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), h.keys[who]) {
			t.Errorf("%s: %v", who, err)
		}
		if _, err := owner.AddKey(t.Context(), NewKey{Name: "n", Role: keys.Writer, Group: "n", Recipients: h.added}); !errors.Is(err, ErrMissing) {
			t.Errorf("%s: %v", who, err)
		}
		if after := list(t, h.store, ""); strings.Join(after, " ") != strings.Join(before, " ") {
			t.Errorf("%s: before %v, after %v", who, before, after)
		}
	}
}

func TestTheLastOwnerIsNotRemovedWhereHisRecordIsDamaged(t *testing.T) {
	f := newFixture(t)
	owner := f.open(t, f.store)
	putObject(t, f.store, recordKey(owner.entry, entrySuffix), []byte("x"))
	if _, err := f.open(t, f.store).RemoveKey(t.Context(), owner.entry); !errors.Is(err, ErrLastOwner) {
		t.Errorf("%v", err)
	}
	f.open(t, f.store)
}

// TestAnOldBundleIsNotBroughtBackWhereOnlyOwnersGotNewOnes: whoever may create objects puts the host's old one under their number.
func TestAnOldBundleIsNotBroughtBackWhereOnlyOwnersGotNewOnes(t *testing.T) {
	h := newHousehold(t)
	old, err := h.store.Get(t.Context(), bundleKey(h.keys["host"], 1), storage.Range{}, nil)
	must(t, err)
	old = bytes.Clone(old)
	must(t, openAs(t, h.store, h.ids["owner"][0]).RotateData(t.Context(), nil))
	_, err = openAs(t, h.store, h.ids["owner"][0]).AddKey(t.Context(), NewKey{Name: "b", Role: keys.Writer, Group: "b", Recipients: h.added})
	must(t, err)
	must(t, h.store.Put(t.Context(), bundleKey(h.keys["host"], 3), old))
	for _, name := range []string{"owner", "second"} {
		if r := openAs(t, h.store, h.ids[name][0]); r.number != 3 {
			t.Errorf("%s has bundle %d", name, r.number)
		}
	}
	if host := openAs(t, h.store, h.ids["host"][0]); host.number != 2 {
		t.Errorf("the host goes by bundle %d", host.number)
	}
	must(t, openAs(t, h.store, h.ids["owner"][0]).RotateData(t.Context(), nil)) // and nobody is in its way
	if host := openAs(t, h.store, h.ids["host"][0]); host.number != 4 {
		t.Errorf("the host goes by bundle %d", host.number)
	}
}

// TestWhoIsRemovedWhileDataKeysAreRotatedKeepsNoNewOnes removes a standby at each request of the rotation.
func TestWhoIsRemovedWhileDataKeysAreRotatedKeepsNoNewOnes(t *testing.T) {
	start := newHousehold(t)
	_, key, _ := addKey(t, openAs(t, start.store, start.ids["owner"][0]), NewKey{Name: "stolen", Role: keys.Standby})
	told := 0
	for n, last := 1, false; !last; n++ {
		h := *start
		h.store = cloneStore(t, start.store)
		armed, calls := false, 0
		var removeErr error
		inUse, early := false, false
		s := fault.New(h.store, func(op fault.Op) fault.Action {
			if armed {
				if calls++; calls == n {
					_, removeErr = openAs(t, h.store, h.ids["second"][0]).RemoveKey(t.Context(), key.ID)
					early = removeErr == nil && !inUse
				}
				inUse = inUse || op.Verb == fault.Put && strings.HasPrefix(op.Key, keysPrefix+generationName)
				if early && op.Verb == fault.Put && strings.HasPrefix(op.Key, keysPrefix+key.ID) {
					t.Errorf("request %d: %s is put after the removal", n, op.Key)
				}
			}
			return fault.Action{}
		})
		r := openAs(t, s, h.ids["owner"][0])
		armed = true
		err := r.RotateData(t.Context(), nil)
		if armed, last = false, calls < n; last {
			break
		}
		if err != nil && !errors.Is(err, ErrRemoving) && !errors.Is(err, ErrStale) {
			t.Errorf("request %d: %v", n, err)
		}
		if err != nil {
			told++
			h.again(t, "", changes()["rotate data"])
		}
		if errors.Is(removeErr, ErrStale) {
			continue // nothing is removed
		}
		must(t, removeErr)
		for _, object := range list(t, h.store, keysPrefix+key.ID) {
			if _, record, _, _ := parseKeyName(object); record == "" {
				t.Errorf("request %d: %s is left", n, object)
			}
		}
	}
	if told == 0 {
		t.Error("nobody was ever told to do it again")
	}
}

func TestNobodyGetsNewKeysWhileOneIsBeingRemoved(t *testing.T) {
	h := newHousehold(t)
	_, key, _ := addKey(t, openAs(t, h.store, h.ids["owner"][0]), NewKey{Name: "stolen", Role: keys.Standby})
	s := fault.New(h.store, func(op fault.Op) fault.Action {
		if op.Verb == fault.Put && strings.HasSuffix(op.Key, "."+removedSuffix) {
			return fault.Action{Before: storage.ErrFull}
		}
		return fault.Action{}
	})
	if _, err := openAs(t, s, h.ids["owner"][0]).RemoveKey(t.Context(), key.ID); !errors.Is(err, storage.ErrFull) {
		t.Fatal(err)
	}
	before := list(t, h.store, "")
	if err := openAs(t, h.store, h.ids["owner"][0]).RotateData(t.Context(), nil); !errors.Is(err, ErrRemoving) || !strings.Contains(err.Error(), key.ID) {
		t.Errorf("%v", err)
	}
	if after := list(t, h.store, ""); strings.Join(after, " ") != strings.Join(before, " ") {
		t.Errorf("before %v, after %v", before, after)
	}
	_, err := openAs(t, h.store, h.ids["owner"][0]).RemoveKey(t.Context(), key.ID)
	must(t, err)
	must(t, openAs(t, h.store, h.ids["owner"][0]).RotateData(t.Context(), nil))
}

// TestASnapshotThatWasToldBeforeAHostHadItsKeyCounts gives a key the name of a host while another key's session for it commits, at each request of the giving. The session is
// told that it has committed unless it sees the record of the new key then.
func TestASnapshotThatWasToldBeforeAHostHadItsKeyCounts(t *testing.T) {
	f := newFixture(t)
	fleet, _, fleetID := addKey(t, f.open(t, f.store), NewKey{Name: "fleet", Role: keys.Writer})
	commitAs(t, fleet, "main", "db1")
	for n, last := 1, false; !last; n++ {
		store := cloneStore(t, f.store)
		sid, calls, told := "", 0, false
		s := fault.New(store, func(fault.Op) fault.Action {
			if calls++; calls == n {
				names, err := listKeys(t.Context(), store)
				must(t, err)
				sid, told = commitAs(t, openAs(t, store, fleetID), "main", "db1"), len(names.with(entrySuffix)) == 2
			}
			return fault.Action{}
		})
		_, to := recipient(t)
		if _, err := openAs(t, s, f.id).AddKey(t.Context(), NewKey{Name: "db1", Role: keys.Writer, Recipients: to}); err != nil {
			t.Errorf("request %d: %v", n, err)
		}
		last = calls < n
		keysByName(t, f.open(t, store)) // no key without a bundle is left
		if _, refused := shown(t, f.open(t, store)); told && refused[sid] != "" {
			t.Errorf("request %d: %s", n, refused[sid])
		}
	}
}

func TestAKeyIsNotMadeWhileOthersGoOnAsItsHost(t *testing.T) {
	f := newFixture(t)
	_, _, fleetID := addKey(t, f.open(t, f.store), NewKey{Name: "fleet", Role: keys.Writer})
	var early []string
	s := fault.New(f.store, func(op fault.Op) fault.Action {
		if op.Verb == fault.Put && strings.HasSuffix(op.Key, "."+entrySuffix) && len(early) < claimAttempts {
			early = append(early, commitAs(t, openAs(t, f.store, fleetID), "main", "db1"))
		}
		return fault.Action{}
	})
	owner, before := openAs(t, s, f.id), list(t, f.store, keysPrefix)
	_, to := recipient(t)
	if _, err := owner.AddKey(t.Context(), NewKey{Name: "db1", Role: keys.Writer, Recipients: to}); !errors.Is(err, ErrClaimed) || len(early) != claimAttempts {
		t.Errorf("%v, %v", err, early)
	}
	if after := list(t, f.store, keysPrefix); strings.Join(after, " ") != strings.Join(before, " ") {
		t.Errorf("before %v, after %v", before, after)
	}
	_, err := owner.AddKey(t.Context(), NewKey{Name: "db1", Role: keys.Writer, Recipients: to})
	must(t, err)
	if counting, refused := shown(t, f.open(t, f.store)); len(counting) != claimAttempts || len(refused) > 0 {
		t.Errorf("%v, refused %v", counting, refused)
	}
}

func TestTwoOwnersDoNotMakeTwoKeysOfOneName(t *testing.T) {
	start := newHousehold(t)
	for n, last := 1, false; !last; n++ {
		h := *start
		h.store = cloneStore(t, start.store)
		calls := 0
		var otherErr error
		s := fault.New(h.store, func(fault.Op) fault.Action {
			if calls++; calls == n {
				_, to := recipient(t)
				_, otherErr = openAs(t, h.store, h.ids["second"][0]).AddKey(t.Context(), NewKey{Name: "added", Role: keys.Writer, Recipients: to})
			}
			return fault.Action{}
		})
		_, err := openAs(t, s, h.ids["owner"][0]).AddKey(t.Context(), NewKey{Name: "added", Role: keys.Writer, Recipients: h.added})
		last = calls < n
		for _, err := range []error{err, otherErr} {
			if err != nil && !errors.Is(err, ErrName) {
				t.Errorf("request %d: %v", n, err)
			}
		}
		all, listErr := openAs(t, h.store, h.ids["owner"][0]).Keys(t.Context())
		must(t, listErr)
		called := 0
		for _, k := range all {
			if k.Name == "added" {
				called++
			}
		}
		if called > 1 || err == nil && !last && otherErr == nil {
			t.Errorf("request %d: %d keys of one name; %v; %v", n, called, err, otherErr)
		}
	}
}

// TestWhatStandsInThePlaceOfARecordKeepsNoKey: whoever may create objects has put it there beforehand.
func TestWhatStandsInThePlaceOfARecordKeepsNoKey(t *testing.T) {
	f := newFixture(t)
	owner := f.open(t, f.store)
	db1, key, _ := addKey(t, owner, NewKey{Name: "db1", Role: keys.Writer})
	early := commitAs(t, db1, "main", "db1")
	for _, suffix := range []string{removedSuffix, removingSuffix} {
		must(t, f.store.Put(t.Context(), recordKey(key.ID, suffix), []byte("x")))
	}
	if n, err := f.open(t, f.store).RemoveKey(t.Context(), key.ID); n != 1 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	late := commitAs(t, db1, "main", "db1")
	if counting, refused := shown(t, f.open(t, f.store)); len(counting) != 1 || counting[0] != early || refused[late] == "" {
		t.Errorf("%v, %v", counting, refused)
	}
}

// TestASnapshotThatWasDamagedWhileKeysChangedCountsOnceItIsHealed: when its key was removed, or its host got another one.
func TestASnapshotThatWasDamagedWhileKeysChangedCountsOnceItIsHealed(t *testing.T) {
	for _, broken := range []string{"x", "pgtsnap\x01", "pgtsnap\x02"} {
		f := newFixture(t)
		fleet, key, _ := addKey(t, f.open(t, f.store), NewKey{Name: "fleet", Role: keys.Writer})
		name := snapshotsPrefix + "main/" + commitAs(t, fleet, "main", "db1")
		sound := putObject(t, f.store, name, append([]byte(broken), make([]byte, 200)...))
		addKey(t, f.open(t, f.store), NewKey{Name: "db1", Role: keys.Writer})
		for range 2 { // before the key is removed, and after it
			damaged := putObject(t, f.store, name, sound)
			if counting, refused := shown(t, f.open(t, f.store)); len(counting) != 1 || len(refused) > 0 {
				t.Errorf("%q: %v, refused %v", broken, counting, refused)
			}
			putObject(t, f.store, name, damaged)
			if n, err := f.open(t, f.store).RemoveKey(t.Context(), key.ID); n != 0 || err != nil && !errors.Is(err, ErrNoKey) {
				t.Fatalf("%d, %v", n, err)
			}
		}
	}
}
