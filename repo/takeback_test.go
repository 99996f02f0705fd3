package repo

import (
	"errors"
	"slices"
	"testing"

	"github.com/pgtrove/pgtrove/storage"
	"github.com/pgtrove/pgtrove/storage/fault"
)

func TestTakingBackSaysWhatItComesTooLateFor(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	var ids []string
	for n := range byte(6) {
		sid, _ := backup(t, r, pieces(n, 2))
		ids = append(ids, sid)
	}
	removed, meant, stuck, back, wide, narrow := ids[0], ids[1], ids[2], ids[3], ids[4], ids[5]
	must(t, r.Forget(t.Context(), removed))
	must(t, r.Narrow(t.Context(), narrow))
	prune(t, r, pruning())
	must(t, r.Forget(t.Context(), stuck))
	must(t, r.Forget(t.Context(), back))
	must(t, r.ForgetLast(t.Context(), meant)) // somebody else
	must(t, r.Narrow(t.Context(), wide))
	s := f.open(t, fault.New(f.store, func(op fault.Op) fault.Action {
		if op.Verb == fault.Delete && op.Key == forgetPrefix+stuck {
			return fault.Action{Before: storage.ErrUnreachable}
		}
		return fault.Action{}
	}))
	late, err := s.TakeBack(t.Context(), []string{removed, meant, stuck, back}, []string{wide, narrow})
	if !errors.Is(err, storage.ErrUnreachable) {
		t.Errorf("%v", err)
	}
	if !slices.Equal(late.Removed, []string{removed}) || !slices.Equal(late.Left, []string{meant, stuck}) || !slices.Equal(late.Narrowed, []string{narrow}) {
		t.Errorf("%+v", late)
	}
	m, err := r.marks(t.Context())
	must(t, err)
	if m.forgotten[back] || !m.forgotten[meant] || !m.last[meant] || len(m.narrowed) > 0 {
		t.Errorf("%+v", m)
	}
}

func TestStoredAtIsTheNewestTimeOfAKey(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	if at, err := r.StoredAt(t.Context(), "wal/main/1/00000001/0"); err != nil || !at.IsZero() {
		t.Errorf("%v %v", at, err)
	}
	if at, err := r.StoredAt(t.Context(), "config"); err != nil || at.IsZero() {
		t.Errorf("%v %v", at, err)
	}
}
