package repo

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/pgtrove/pgtrove/storage"
	"github.com/pgtrove/pgtrove/storage/fault"
	"github.com/pgtrove/pgtrove/storage/mem"
)

func TestAFailedInitLeavesNothingThatASecondOneMinds(t *testing.T) {
	unreachable, denied, refused := storage.ErrUnreachable, storage.ErrDenied, errors.New("400 Bad Request")
	for name, c := range map[string]struct {
		key      string // whose Put fails
		action   fault.Action
		keeps    bool // the storage refuses to delete
		hides    bool // the storage refuses to show config
		mayExist bool
		left     int
		second   error
	}{
		"the bundle is refused":              {keysPrefix, fault.Action{Before: refused}, false, false, false, 0, nil},
		"the bundle never arrives":           {keysPrefix, fault.Action{Before: unreachable}, false, false, false, 0, nil},
		"the bundle's answer is lost":        {keysPrefix, fault.Action{After: unreachable}, false, false, false, 1, nil},
		"config is refused":                  {configKey, fault.Action{Before: denied}, false, false, false, 0, nil},
		"and nothing may be deleted":         {configKey, fault.Action{Before: denied}, true, false, false, 2, nil},
		"config never arrives":               {configKey, fault.Action{Before: unreachable}, false, false, true, 2, nil},
		"config arrives, its answer is lost": {configKey, fault.Action{After: unreachable}, false, false, true, 3, ErrExists},
		// As the storage says of the second request when the first one's answer was lost.
		"config arrives, and is locked":                {configKey, fault.Action{After: denied}, true, false, true, 3, ErrExists},
		"config arrives, and the storage is full":      {configKey, fault.Action{After: storage.ErrFull}, false, false, true, 3, ErrExists},
		"config arrives, and the name is taken":        {configKey, fault.Action{After: storage.ErrExist}, false, false, true, 3, ErrExists},
		"config is refused, and whether it is there":   {configKey, fault.Action{Before: denied}, false, true, true, 2, nil},
		"config arrives, and whether it is, is hidden": {configKey, fault.Action{After: denied}, false, true, true, 3, ErrExists},
	} {
		t.Run(name, func(t *testing.T) {
			below := mem.New(nil)
			s := fault.New(below, func(op fault.Op) fault.Action {
				switch {
				case op.Verb == fault.Put && strings.HasPrefix(op.Key, c.key):
					return c.action
				case op.Verb == fault.Get && op.Key == configKey && c.hides:
					return fault.Action{Before: denied}
				case op.Verb == fault.Delete && c.keeps:
					return fault.Action{Before: denied}
				}
				return fault.Action{}
			})
			id, err := age.GenerateX25519Identity() // for both, as a passphrase would be
			must(t, err)
			var failed *InitError
			if _, err := Init(t.Context(), s, id.Recipient(), time.Now()); !errors.As(err, &failed) || failed.MayExist != c.mayExist {
				t.Fatalf("%v", err)
			}
			left := list(t, below, "")
			if len(left) != c.left || (failed.Left != "") != (c.left > 0 || errors.Is(failed, unreachable)) {
				t.Errorf("left: %v, and it says %q", left, failed.Left)
			}
			if _, err := Init(t.Context(), below, id.Recipient(), time.Now()); !errors.Is(err, c.second) {
				t.Errorf("the second one: %v", err)
			}
			if _, err := Open(t.Context(), below, id); err != nil { // by its own bundle, of two that the identity opens
				t.Error(err)
			}
		})
	}
}

func TestAnInitThatIsInterruptedKeepsWhatMayOpenTheRepository(t *testing.T) {
	below := mem.New(nil)
	ctx, cancel := context.WithCancel(t.Context())
	s := fault.New(below, func(op fault.Op) fault.Action {
		if op.Verb == fault.Put && op.Key == configKey {
			cancel()
			return fault.Action{Before: context.Canceled}
		}
		return fault.Action{}
	})
	id, err := age.GenerateX25519Identity()
	must(t, err)
	var failed *InitError
	if _, err = Init(ctx, s, id.Recipient(), time.Now()); !errors.As(err, &failed) || !failed.MayExist || len(list(t, below, keysPrefix)) != 2 {
		t.Errorf("%v", err)
	}
}

func TestOfTwoInitsAtOnceTheSlowerOneLeavesNothing(t *testing.T) {
	// A storage may say of a name that is taken, and locked, that access is denied.
	for _, says := range []error{nil, storage.ErrDenied} {
		twoInits(t, says)
	}
}

func twoInits(t *testing.T, says error) {
	below := mem.New(nil)
	fast, err := age.GenerateX25519Identity()
	must(t, err)
	s := fault.New(below, func(op fault.Op) fault.Action {
		if op.Verb == fault.Put && op.Key == configKey {
			if _, err := Init(t.Context(), below, fast.Recipient(), time.Now()); err != nil {
				t.Error(err)
			}
			return fault.Action{Before: says}
		}
		return fault.Action{}
	})
	slow, err := age.GenerateX25519Identity()
	must(t, err)
	var failed *InitError
	if _, err := Init(t.Context(), s, slow.Recipient(), time.Now()); !errors.Is(err, ErrExists) || !errors.As(err, &failed) || failed.MayExist {
		t.Errorf("%v", err)
	}
	if n := list(t, below, keysPrefix); len(n) != 2 {
		t.Errorf("left: %v", n)
	}
	if _, err := Open(t.Context(), below, fast); err != nil {
		t.Error(err)
	}
}

func TestABundleOfAnotherRepositoryAloneIsDamage(t *testing.T) {
	f, other := newFixture(t), newFixture(t)
	for _, key := range list(t, other.store, keysPrefix) {
		b, err := other.store.Get(t.Context(), key, storage.Range{}, nil)
		must(t, err)
		must(t, f.store.Put(t.Context(), key, b))
	}
	if _, err := Open(t.Context(), f.store, other.id); !errors.Is(err, ErrDamaged) {
		t.Errorf("%v", err)
	}
	if _, err := Open(t.Context(), f.store, f.id); err != nil {
		t.Error(err)
	}
}
