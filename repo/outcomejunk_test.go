package repo

import (
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/keys"
)

// TestAnOutcomeOfAVersionThatNobodyMadeEndsNoListing: a host may create objects under its own cluster, with any bytes.
func TestAnOutcomeOfAVersionThatNobodyMadeEndsNoListing(t *testing.T) {
	f := newFixture(t)
	owner := f.open(t, f.store)
	db1, key, _ := addKey(t, owner, NewKey{Name: "db1", Role: keys.Writer, Clusters: []string{"other"}})
	good := commitAs(t, owner, "main", "x")
	s, err := db1.announce(t.Context(), SessionOptions{Cluster: "other", Host: "db1", Now: time.Now}, false)
	must(t, err)
	must(t, f.store.Put(t.Context(), s.outcomeKey(), append([]byte("pgtsnap\x03"), make([]byte, 100)...)))
	seen := map[string]error{}
	must(t, owner.Commits(t.Context(), "", func(c Commit) error { seen[c.ID] = c.Err; return nil }))
	if err, there := seen[good]; !there || err != nil || len(seen) != 2 || !isLoss(seen[s.sid]) {
		t.Errorf("shown: %v", seen)
	}
	if _, _, err := write(t.Context(), owner, pieces(1, 1)); err != nil {
		t.Errorf("a backup: %v", err)
	}
	o := pruning()
	o.Mark = markNothing
	if report := prune(t, owner, o); len(report.Damage) == 0 {
		t.Error("a prune says nothing of it")
	}
	if _, err := owner.RemoveKey(t.Context(), key.ID); err != nil {
		t.Errorf("the host's key cannot be removed: %v", err)
	}
}

// TestJunkWithoutASessionIsNoSignThatRunsWereLost: only a snapshot that somebody has signed shows that there was a prune.
func TestJunkWithoutASessionIsNoSignThatRunsWereLost(t *testing.T) {
	f := newFixture(t)
	owner := f.open(t, f.store)
	_, key, _ := addKey(t, owner, NewKey{Name: "thief", Role: keys.Writer, Clusters: []string{"other"}})
	sid, _ := backup(t, owner, pieces(1, 2))
	for i, junk := range []string{"x", "pgtsnap\x01xxxxxxxxxxxxxxxxxxxxxxx", "pgtsnap\x02xxxxxxxxxxxxxxxxxxxxxxx", "pgtsnap\x03"} {
		must(t, f.store.Put(t.Context(), snapshotsPrefix+"other/20261121T000000Z-012345678abcdef"+string(rune('0'+i)), []byte(junk)))
	}
	if counting, _ := shown(t, f.open(t, f.store)); len(counting) != 1 || counting[0] != sid {
		t.Errorf("shown: %v", counting)
	}
	if _, err := f.open(t, f.store).RemoveKey(t.Context(), key.ID); err != nil {
		t.Errorf("remove: %v", err)
	}
	_, to := recipient(t)
	if _, err := f.open(t, f.store).AddKey(t.Context(), NewKey{Name: "n", Role: keys.Writer, Recipients: to}); err != nil {
		t.Errorf("add: %v", err)
	}
	if report := prune(t, f.open(t, f.store), pruning()); report.Valid != 1 {
		t.Errorf("%+v", report)
	}
	for _, key := range list(t, f.store, gcPrefix) { // the snapshot's session is gone now, and nothing says so
		must(t, f.store.Delete(t.Context(), key))
	}
	if err := f.open(t, f.store).Commits(t.Context(), "", func(Commit) error { return nil }); !isLoss(err) {
		t.Errorf("prune runs are lost: %v", err)
	}
}
