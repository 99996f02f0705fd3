package repo

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/pgtrove/pgtrove/keys"
	"github.com/pgtrove/pgtrove/storage"
	"github.com/pgtrove/pgtrove/storage/fault"
)

// TestWhoseHostIsGivenAKeyDuringABackupIsToldWhetherItCounts: whoever adds the key may have looked for such snapshots before this one was there.
func TestWhoseHostIsGivenAKeyDuringABackupIsToldWhetherItCounts(t *testing.T) {
	for _, when := range []struct {
		verb fault.Verb
		key  string
	}{{fault.Put, packsPrefix}, {fault.Put, snapshotsPrefix}, {fault.Get, sessionsPrefix}, {fault.List, keysPrefix}} {
		f := newFixture(t)
		owner := f.open(t, f.store)
		_, _, id := addKey(t, owner, NewKey{Name: "fleet", Role: keys.Writer})
		armed := false
		s := fault.New(f.store, func(op fault.Op) fault.Action {
			if armed && op.Verb == when.verb && strings.HasPrefix(op.Key, when.key) {
				armed = false
				_, to := recipient(t)
				if _, err := owner.AddKey(context.Background(), NewKey{Name: "db1", Role: keys.Writer, Recipients: to}); err != nil {
					t.Error(err)
				}
			}
			return fault.Action{}
		})
		fleet := openAs(t, s, id)
		o := options()
		o.Host = "db1"
		var sid string
		err := fleet.Write(t.Context(), o, func(ctx context.Context, s *Session) error {
			sid, armed = s.sid, true
			w, err := s.NewWriter()
			if err != nil {
				return err
			}
			if _, err := w.Bytes(ctx, pieces(1, 1)[0]); err != nil {
				return err
			}
			return s.Commit(ctx, []byte(`{"origin":{"host":"db1"}}`))
		})
		counting, refused := shown(t, f.open(t, f.store))
		if armed || (err == nil) != slices.Contains(counting, sid) || (err != nil) != (refused[sid] != "") || err != nil && !errors.Is(err, ErrOrigin) {
			t.Errorf("added at %s %s: told %v, counting %v, refused %v", when.verb, when.key, err, counting, refused)
		}
	}
}

// TestWhatWasRefusedForANameStaysRefusedWhenItsKeyGoes: nothing has kept what it needs. What was there before the name was a key's goes on to count.
func TestWhatWasRefusedForANameStaysRefusedWhenItsKeyGoes(t *testing.T) {
	f := newFixture(t)
	owner := f.open(t, f.store)
	fleet, _, id := addKey(t, owner, NewKey{Name: "fleet", Role: keys.Writer})
	before := commitAs(t, fleet, "main", "db1")
	_, db1, _ := addKey(t, owner, NewKey{Name: "db1", Role: keys.Writer})
	bad := commitAs(t, fleet, "main", "db1")
	check := func(when string) {
		t.Helper()
		counting, refused := shown(t, f.open(t, f.store))
		if !slices.Equal(counting, []string{before}) || len(refused) != 1 || refused[bad] == "" {
			t.Errorf("%s: counting %v, refused %v", when, counting, refused)
		}
	}
	check("while the key is there")
	_, err := f.open(t, f.store).RemoveKey(t.Context(), db1.ID)
	must(t, err)
	check("once it is removed")
	o := options()
	o.Host = "db1"
	if err := openAs(t, f.store, id).Write(t.Context(), o, func(context.Context, *Session) error { return nil }); !errors.Is(err, ErrOrigin) {
		t.Errorf("a backup under its name is begun: %v", err)
	}
	addKey(t, f.open(t, f.store), NewKey{Name: "db1", Role: keys.Writer})
	check("once there is a key of this name again")
}

// TestWhoIsBeingRemovedBeginsNoBackup: it would be refused at its end.
func TestWhoIsBeingRemovedBeginsNoBackup(t *testing.T) {
	f := newFixture(t)
	_, key, id := addKey(t, f.open(t, f.store), NewKey{Name: "test", Role: keys.Writer})
	s := fault.New(f.store, func(op fault.Op) fault.Action {
		if op.Verb == fault.Put && strings.HasSuffix(op.Key, "."+removedSuffix) {
			return fault.Action{Before: storage.ErrFull}
		}
		return fault.Action{}
	})
	if _, err := openAs(t, s, f.id).RemoveKey(t.Context(), key.ID); !errors.Is(err, storage.ErrFull) {
		t.Fatal(err)
	}
	if err := openAs(t, f.store, id).Write(t.Context(), options(), func(context.Context, *Session) error {
		t.Error("it has begun")
		return nil
	}); !errors.Is(err, ErrOrigin) {
		t.Error(err)
	}
}

func TestAHostsNameIsItsKeysInEverySpelling(t *testing.T) {
	f := newFixture(t)
	owner := f.open(t, f.store)
	addKey(t, owner, NewKey{Name: "db2", Role: keys.Writer})
	db1, _, _ := addKey(t, owner, NewKey{Name: "db1", Role: keys.Writer})
	counts := map[string]string{}
	for _, host := range []string{"db1", "DB1.", "db3", "db2.example.org"} {
		counts[commitAs(t, db1, "main", host)] = host
	}
	counts[commitAs(t, owner, "main", "")] = "an owner who does not say"
	refused := map[string]string{}
	for _, host := range []string{"", " ", "db2", "DB2", "db2 ", "db2.", "Db2.\t"} {
		refused[commitAs(t, db1, "main", host)] = host
	}
	good, bad := shown(t, f.open(t, f.store))
	for _, sid := range good {
		if _, ok := counts[sid]; !ok {
			t.Errorf("host %q counts", refused[sid])
		}
	}
	if len(good) != len(counts) || len(bad) != len(refused) {
		t.Errorf("counting %v, refused %v", good, bad)
	}
}
