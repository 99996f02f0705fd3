package repo

import (
	"bytes"
	"testing"

	"github.com/pgtrove/pgtrove/keys"
	"github.com/pgtrove/pgtrove/storage"
)

// TestAPruneKeepsWhatASnapshotNeedsThatSomebodyOverwrote: where nothing but versions protects objects, what was there before can be put back. What stands there
// instead must not pass for a snapshot that never needed anything.
func TestAPruneKeepsWhatASnapshotNeedsThatSomebodyOverwrote(t *testing.T) {
	for what, forge := range map[string]func(owner, thief *Repo, key string) []byte{
		"unsigned":        func(_, _ *Repo, _ string) []byte { return append([]byte("pgtsnap\x01"), make([]byte, 200)...) },
		"does not open":   func(_, _ *Repo, _ string) []byte { return append([]byte("pgtsnap\x02"), make([]byte, 200)...) },
		"another version": func(_, _ *Repo, _ string) []byte { return append([]byte("pgtsnap\x03"), make([]byte, 200)...) },
		"signed by a key that may not": func(_, thief *Repo, key string) []byte {
			return thief.sealFor(kindOutcome, false, key, []byte(`{"version":1,"outcome":"SNAPSHOT","manifest":{"origin":{"host":"thief"}}}`))
		},
	} {
		t.Run(what, func(t *testing.T) {
			f := newFixture(t)
			owner := f.open(t, f.store)
			host, _, _ := addKey(t, owner, NewKey{Name: "test", Role: keys.Writer})
			thief, _, _ := addKey(t, owner, NewKey{Name: "thief", Role: keys.Writer, Clusters: []string{"other"}})
			sid, ids := backup(t, host, pieces(5, 30))
			prune(t, f.open(t, f.store), pruning())
			key := snapshotsPrefix + "main/" + sid
			good, err := f.store.Get(t.Context(), key, storage.Range{}, nil)
			must(t, err)
			good = bytes.Clone(good)
			put := func(b []byte) {
				must(t, f.store.Delete(t.Context(), key))
				must(t, f.store.Put(t.Context(), key, b))
			}
			put(forge(owner, thief, key))
			for range 3 {
				if report := prune(t, f.open(t, f.store), pruning()); len(report.Damage) != 1 || report.Swept.Packs > 0 {
					t.Errorf("%+v", report)
				}
			}
			put(good)
			v := openView(t, f.open(t, f.store), "")
			defer func() { must(t, v.Close()) }()
			for _, id := range ids {
				if _, err := readChunk(t.Context(), v, id); err != nil {
					t.Fatalf("the snapshot is back, and what it needs is gone: %v", err)
				}
			}
		})
	}
}
