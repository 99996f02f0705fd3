package repo

import (
	"context"
	"errors"
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
