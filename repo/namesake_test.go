package repo

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/pgtrove/pgtrove/storage/fault"
)

// TestAnOutcomeThatItsSessionDidNotAnnounceThereIsNoSnapshot: a host of another cluster makes a namesake of a snapshot before any run has looked at that. Who forgot
// the one would forget the other.
func TestAnOutcomeThatItsSessionDidNotAnnounceThereIsNoSnapshot(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	backup(t, r, pieces(61, 2))
	prune(t, r, pruning())
	forge := func(sid string) {
		key := snapshotsPrefix + "zzz/" + sid
		must(t, f.store.Put(t.Context(), key, r.seal(kindOutcome, key, []byte(`{"version":1,"outcome":"SNAPSHOT","nonce":"x","manifest":[]}`))))
	}
	data := pieces(62, 2)
	sid, ids := backup(t, r, data)
	forge(sid)
	stop := errors.New("stop")
	if err := r.Write(t.Context(), options(), func(ctx context.Context, s *Session) error { // of one that goes on, too
		forge(s.ID())
		shown := func(cluster string) (all []string) {
			must(t, r.AllCommits(ctx, cluster, func(c Commit) error { all = append(all, c.Cluster+"/"+c.ID); return nil }))
			return all
		}
		if got := shown("zzz"); len(got) > 0 {
			t.Errorf("shown: %v", got)
		}
		if got := shown(""); len(got) != 2 || !slices.Contains(got, "main/"+sid) {
			t.Errorf("shown: %v", got)
		}
		must(t, r.NewestCommits(ctx, "zzz", func(c Commit) (bool, error) {
			t.Errorf("shown: %v", c)
			return true, nil
		}))
		return stop
	}); !errors.Is(err, stop) {
		t.Error(err)
	}
	prune(t, r, pruning())
	check(t, r, ids, data)
	if got := list(t, f.store, snapshotsPrefix+"zzz/"); len(got) > 0 {
		t.Errorf("left: %v", got)
	}
}

// TestASnapshotThatARunResolvesWhileItIsReadIsShown: its announcement is gone when it is asked for.
func TestASnapshotThatARunResolvesWhileItIsReadIsShown(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	sid, _ := backup(t, r, pieces(63, 2))
	s := fault.New(f.store, func(op fault.Op) fault.Action {
		if op.Verb == fault.Get && strings.HasPrefix(op.Key, sessionsPrefix) {
			prune(t, r, pruning())
		}
		return fault.Action{}
	})
	var got []string
	must(t, f.open(t, s).AllCommits(t.Context(), "", func(c Commit) error { got = append(got, c.ID); return nil }))
	if left := list(t, f.store, sessionsPrefix); !slices.Equal(got, []string{sid}) || len(left) > 0 {
		t.Errorf("%v; %v", got, left)
	}
}
