package format

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/pgtrove/pgtrove/keys"
	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/storage"
	"github.com/pgtrove/pgtrove/storage/fs"
)

// keyed is a repository with several keys, made by the program of today.
type keyed struct {
	t        *testing.T
	dir      string
	store    storage.Store
	manifest map[string]any // of a golden snapshot
	names    map[string]string
}

func newIdentity(t *testing.T) (*age.HybridIdentity, []repo.Recipient) {
	t.Helper()
	id, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	return id, []repo.Recipient{{Recipient: id.Recipient(), Text: id.Recipient().String(), Kind: keys.KindIdentity}}
}

func (k *keyed) add(owner *repo.Repo, n repo.NewKey) (*repo.Repo, *repo.Key, age.Identity) {
	k.t.Helper()
	id, to := newIdentity(k.t)
	n.Recipients = to
	key, err := owner.AddKey(k.t.Context(), n)
	if err != nil {
		k.t.Fatal(err)
	}
	return k.open(id), key, id
}

func (k *keyed) open(id age.Identity) *repo.Repo {
	k.t.Helper()
	r, err := repo.Open(k.t.Context(), k.store, id)
	if err != nil {
		k.t.Fatal(err)
	}
	return r
}

// commit makes a snapshot, and calls it by what.
func (k *keyed) commit(r *repo.Repo, what, cluster, host string, want error) {
	k.t.Helper()
	o := repo.SessionOptions{Cluster: cluster, Host: host, Now: time.Now}
	err := r.Write(k.t.Context(), o, func(ctx context.Context, s *repo.Session) error {
		m := k.manifest
		m["id"], m["cluster"] = s.ID(), cluster
		m["origin"].(map[string]any)["host"] = host
		k.names["snapshots/"+cluster+"/"+s.ID()] = what
		text, err := json.Marshal(m)
		if err != nil {
			return err
		}
		return s.Commit(ctx, text)
	})
	if !errors.Is(err, want) {
		k.t.Fatalf("%s: %v", what, err)
	}
}

// judged gives what the reader makes of them, by what they are called.
func (k *keyed) judged(id age.Identity) (counting []string, refused map[string]string, r *Repository) {
	k.t.Helper()
	r, err := Open(os.DirFS(k.dir), id)
	if err != nil {
		k.t.Fatal(err)
	}
	found, why, err := r.Judged()
	if err != nil {
		k.t.Fatal(err)
	}
	for _, m := range found {
		counting = append(counting, k.names["snapshots/"+m.Cluster+"/"+m.ID])
	}
	slices.Sort(counting)
	refused = map[string]string{}
	for name, rule := range why {
		refused[k.names[name]] = rule
	}
	return counting, refused, r
}

func TestKeysAndWhatTheySignReadAsThePageSays(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "repo")
	store, err := fs.Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	k := &keyed{t: t, dir: dir, store: store, names: map[string]string{}}
	golden := openGolden(t, "writer")
	plain, err := golden.payload("pgtsnap", golden.Names("snapshots/")[0])
	if err != nil {
		t.Fatal(err)
	}
	var outcome struct{ Manifest map[string]any }
	if err := json.Unmarshal(plain, &outcome); err != nil {
		t.Fatal(err)
	}
	k.manifest = outcome.Manifest

	id, to := newIdentity(t)
	owner, err := repo.InitWith(t.Context(), store, nil, time.Now(), repo.InitOptions{Owners: to})
	if err != nil {
		t.Fatal(err)
	}
	owner = k.open(id)
	fleet, _, _ := k.add(owner, repo.NewKey{Name: "fleet", Role: keys.Writer})
	k.commit(fleet, "claims a name before it is a key's", "main", "db1", nil)
	old, _, oldID := k.add(owner, repo.NewKey{Name: "old", Role: keys.Standby, Clusters: []string{"main"}})
	k.commit(old, "of a key that is removed later", "main", "old", nil)
	elsewhere, _, elsewhereID := k.add(owner, repo.NewKey{Name: "elsewhere", Role: keys.Writer, Group: "b"})
	k.commit(elsewhere, "of another group", "other", "elsewhere", nil)
	_, _, db1ID := k.add(k.open(id), repo.NewKey{Name: "db1", Role: keys.Writer})
	k.commit(k.open(db1ID), "of the key itself", "main", "db1", nil)
	k.commit(fleet, "claims a key's name", "main", "db1", nil) // by what it knew when it was opened
	k.commit(k.open(id), "an owner's", "main", "db1", nil)
	owner = k.open(id)
	if err := owner.RotateData(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	owner = k.open(id)
	oldKey := ""
	all, err := owner.Keys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range all {
		if key.Name == "old" {
			oldKey = key.ID
		}
	}
	if _, err := owner.RemoveKey(t.Context(), oldKey); err != nil {
		t.Fatal(err)
	}
	k.commit(old, "of a key that was removed", "main", "old", repo.ErrOrigin)

	ours := []string{"an owner's", "claims a name before it is a key's", "of a key that is removed later", "of the key itself"}
	for who, want := range map[age.Identity][]string{id: append([]string{"of another group"}, ours...), db1ID: ours, elsewhereID: {"of another group"}} {
		counting, refused, r := k.judged(who)
		slices.Sort(want)
		bad := 2
		if r.Bundle.Group != "" {
			bad = 0 // foreign
		}
		if !slices.Equal(counting, want) || len(refused) != bad || bad > 0 && (refused["claims a key's name"] != "host" || refused["of a key that was removed"] != "removed") {
			t.Errorf("%s: counting %v, refused %v", r.Bundle.Name, counting, refused)
		}
		if n := len(r.Bundle.DataKeys); n != 2 {
			t.Errorf("%s: %d data keys", r.Bundle.Name, n)
		}
	}
	if _, err := Open(os.DirFS(dir), oldID); err == nil {
		t.Error("the key that was removed opens")
	}
	r, err := Open(os.DirFS(dir), id)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range r.Names("keys/") {
		if _, kind, ok := strings.Cut(name, "."); ok && (kind == "entry" || kind == "removed") {
			rec, err := r.record(name, kind)
			if err != nil || rec == nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}
