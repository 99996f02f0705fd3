package repo

import (
	"context"
	"testing"
)

func TestASessionHasNotSeenWhatIsCommittedAfterItsViewWasLoaded(t *testing.T) {
	f := newFixture(t)
	mine, other := f.open(t, f.store), f.open(t, f.store)
	before, _ := backup(t, mine, pieces(1, 2))
	forgotten, _ := backup(t, mine, pieces(2, 2))
	must(t, mine.Forget(t.Context(), forgotten))
	prune(t, mine, pruning())
	later, _ := backup(t, mine, pieces(3, 2)) // counts by its session, not by the run
	sees := func(want map[string]bool) {
		t.Helper()
		commit(t, mine, options(), func(_ context.Context, s *Session) error {
			during, _ := backup(t, other, pieces(4, 2))
			want[during] = false
			want[s.ID()] = false
			for sid, saw := range want {
				if s.Saw(sid) != saw {
					t.Errorf("session %s saw %s: %v, want %v", s.ID(), sid, s.Saw(sid), saw)
				}
			}
			want[during] = true // by the next
			want[s.ID()] = true
			return nil
		})
	}
	want := map[string]bool{before: true, later: true, forgotten: false, "unknown": false}
	sees(want)
	sees(want)
}
