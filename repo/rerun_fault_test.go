package repo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/storage"
	"github.com/pgtrove/pgtrove/storage/fault"
)

// TestEveryStorageCallOfARerunFailsOnce is TestEveryStorageCallFailsOnce for a session that finds a parent and leftovers and
// uses all that a snapshot uses.
func TestEveryStorageCallOfARerunFailsOnce(t *testing.T) {
	errFault := fmt.Errorf("%w: injected", storage.ErrUnreachable)
	base := newFixture(t)
	r := base.open(t, base.store)
	parent, left, more := makeRuns(r, 1, 20), makeRuns(r, 2, 40), makeRuns(r, 3, 20)
	var meta chunk.ID
	first := commit(t, r, at(0, ""), func(ctx context.Context, s *Session) error {
		w, err := s.NewWriter()
		if err != nil {
			return err
		}
		meta, err = w.Meta(ctx, []byte("recipe"))
		return errors.Join(err, writing(parent)(ctx, s))
	})
	killed, keys := kill(t, base, at(1, ""), 2, writing(left))
	durable := len(chunksOf(t, r, keys)) // two packs, or one where the other was on its way
	runs := slices.Concat(left, more)
	work := func(ctx context.Context, s *Session) error {
		_, err := s.MetaChunk(ctx, meta)
		if err != nil {
			return err
		}
		got := map[chunk.ID]int{}
		if err := s.Leftovers(ctx, func(id chunk.ID, _ chunk.Form, d []chunk.Prefix) error { got[id] = len(d); return nil }); err != nil {
			return err
		}
		if err := s.PageDigests(ctx, runIDs(parent), func(id chunk.ID, d []chunk.Prefix) error { got[id] = len(d); return nil }); err != nil {
			return err
		}
		if want := len(parent) + durable; len(got) < want { // more after a try that left something too
			t.Errorf("%d digests, want %d", len(got), want)
		}
		if missing, err := s.Missing(ctx, meta, func(context.Context) ([]chunk.ID, error) { return runIDs(parent), nil }); missing != nil || err != nil {
			t.Errorf("missing: %v, %v", missing, err)
		}
		if err := writing(runs)(ctx, s); err != nil {
			return err
		}
		return s.Commit(ctx, []byte("1"))
	}
	try := func(decide func(fault.Op) fault.Action) (fixture, int, string, error) {
		f := fixture{cloneStore(t, base.store), base.id}
		begun, n := false, 0
		r := f.open(t, fault.New(f.store, func(op fault.Op) fault.Action {
			if !begun {
				return fault.Action{}
			}
			n++
			op.N = n
			return decide(op)
		}))
		begun = true
		sid := ""
		err := r.Write(t.Context(), at(2, ""), func(ctx context.Context, s *Session) error {
			sid = s.ID()
			return work(ctx, s)
		})
		return f, n, sid, err
	}
	_, calls, _, err := try(func(fault.Op) fault.Action { return fault.Action{} })
	if err != nil || calls < 20 {
		t.Fatalf("%d calls, %v", calls, err)
	}
	for n := 1; n <= calls; n++ {
		for _, lost := range []bool{false, true} {
			f, _, sid, err := try(func(op fault.Op) fault.Action {
				switch {
				case op.N != n:
					return fault.Action{}
				case lost:
					return fault.Action{After: errFault}
				}
				return fault.Action{Before: errFault}
			})
			r := f.open(t, f.store)
			committed := slices.DeleteFunc(commits(t, r), func(sid string) bool { return sid == first })
			switch {
			case err == nil && !slices.Equal(committed, []string{sid}):
				t.Errorf("call %d, lost %v: success without a commit", n, lost)
			case err != nil && !errors.Is(err, storage.ErrUnreachable):
				t.Errorf("call %d, lost %v: the cause is hidden: %v", n, lost, err)
			case len(committed) == 0:
				if err := r.Write(t.Context(), at(3, ""), work); err != nil {
					t.Fatalf("call %d, lost %v: the next session fails: %v", n, lost, err)
				}
			}
			replace(t, f.store, sessionsPrefix+killed, func([]byte) []byte { return nil })
			check(t, r, runIDs(runs), plainOf(runs))
		}
	}
}
