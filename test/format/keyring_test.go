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
	want     ExpectedKeyed
}

// ExpectedKeyed is what is in such a repository. Made by the program of today once, it is testdata/keyed.
type ExpectedKeyed struct {
	Names      map[string]string // what a snapshot is called, by its object
	Identities map[string]string // by who has them
}

// identity makes one for whoever is called so.
func (k *keyed) identity(who string) (age.Identity, []repo.Recipient) {
	k.t.Helper()
	id, err := age.GenerateHybridIdentity()
	if err != nil {
		k.t.Fatal(err)
	}
	k.want.Identities[who] = id.String()
	return id, []repo.Recipient{{Recipient: id.Recipient(), Text: id.Recipient().String(), Kind: keys.KindIdentity}}
}

func (k *keyed) add(owner *repo.Repo, n repo.NewKey) (*repo.Repo, *repo.Key, age.Identity) {
	k.t.Helper()
	id, to := k.identity(n.Name)
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
		k.want.Names["snapshots/"+cluster+"/"+s.ID()] = what
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
		counting = append(counting, k.want.Names["snapshots/"+m.Cluster+"/"+m.ID])
	}
	slices.Sort(counting)
	refused = map[string]string{}
	for name, rule := range why {
		refused[k.want.Names[name]] = rule
	}
	return counting, refused, r
}

// make makes a repository in which everything is that section 6.3 speaks of.
func (k *keyed) make() {
	t := k.t
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
	k.want = ExpectedKeyed{Names: map[string]string{}, Identities: map[string]string{}}
	id, to := k.identity("owner")
	if _, err = repo.InitWith(t.Context(), k.store, nil, time.Now(), repo.InitOptions{Owners: to}); err != nil {
		t.Fatal(err)
	}
	owner := k.open(id)
	fleet, _, _ := k.add(owner, repo.NewKey{Name: "fleet", Role: keys.Writer})
	k.commit(fleet, "claims a name before it is a key's", "main", "db1", nil)
	old, oldKey, _ := k.add(owner, repo.NewKey{Name: "old", Role: keys.Standby, Clusters: []string{"main"}})
	k.commit(old, "of a key that is removed later", "main", "old", nil)
	elsewhere, _, _ := k.add(owner, repo.NewKey{Name: "elsewhere", Role: keys.Writer, Group: "b"})
	k.commit(elsewhere, "of another group", "other", "elsewhere", nil)
	db1, _, _ := k.add(k.open(id), repo.NewKey{Name: "db1", Role: keys.Writer})
	k.commit(db1, "of the key itself", "main", "db1", nil)
	k.commit(fleet, "claims a key's name", "main", "db1", repo.ErrOrigin) // it learns so at its end: when it was opened there was no such key
	k.commit(k.open(id), "an owner's", "main", "db1", nil)
	if err := k.open(id).RotateData(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := k.open(id).RemoveKey(t.Context(), oldKey.ID); err != nil {
		t.Fatal(err)
	}
	k.commit(old, "of a key that was removed", "main", "old", repo.ErrOrigin)
}

func TestKeysAndWhatTheySignReadAsThePageSays(t *testing.T) {
	k := &keyed{t: t, dir: filepath.Join(t.TempDir(), "repo")}
	var err error
	if k.store, err = fs.Create(k.dir); err != nil {
		t.Fatal(err)
	}
	k.make()
	k.check()
}

func TestGoldenKeysReadAsThePageSays(t *testing.T) {
	k := &keyed{t: t, dir: "testdata/keyed"}
	var err error
	if *update {
		if err := os.RemoveAll(k.dir); err != nil {
			t.Fatal(err)
		}
		if k.store, err = fs.Create(k.dir); err != nil {
			t.Fatal(err)
		}
		k.make()
		text, err := json.MarshalIndent(k.want, "", "\t")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(k.dir+".json", append(text, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	readJSON(t, "keyed.json", &k.want)
	if k.store, err = fs.Open(k.dir); err != nil {
		t.Fatal(err)
	}
	k.check()
}

// check lets the reader, and the program of today, say what counts.
func (k *keyed) check() {
	t := k.t
	ours := []string{"an owner's", "claims a name before it is a key's", "of a key that is removed later", "of the key itself"}
	for who, want := range map[string][]string{"owner": append([]string{"of another group"}, ours...), "db1": ours, "elsewhere": {"of another group"}} {
		id, err := age.ParseHybridIdentity(k.want.Identities[who])
		if err != nil {
			t.Fatal(err)
		}
		counting, refused, r := k.judged(id)
		slices.Sort(want)
		bad := 2
		if r.Bundle.Group != "" {
			bad = 0 // foreign
		}
		if !slices.Equal(counting, want) || len(refused) != bad || bad > 0 && (refused["claims a key's name"] != "host" || refused["of a key that was removed"] != "removed") {
			t.Errorf("%s: counting %v, refused %v", who, counting, refused)
		}
		if n := len(r.Bundle.DataKeys); n != 2 {
			t.Errorf("%s: %d data keys", who, n)
		}
		var counts []string
		if err := k.open(id).Commits(t.Context(), "", func(c repo.Commit) error {
			name := k.want.Names["snapshots/"+c.Cluster+"/"+c.ID]
			if c.Refused() != (refused[name] != "") || !c.Refused() && c.Err != nil {
				t.Errorf("%s: today's code says of what is %s: %v", who, name, c.Err)
			}
			if c.Err == nil {
				counts = append(counts, name)
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
		if slices.Sort(counts); !slices.Equal(counts, counting) {
			t.Errorf("%s: counting for today's code %v", who, counts)
		}
		if all, err := k.open(id).Keys(t.Context()); err != nil || len(all) != 4 || slices.ContainsFunc(all, func(key repo.Key) bool { return key.Err != nil }) {
			t.Errorf("%s: keys %+v, %v", who, all, err)
		}
		for _, name := range r.Names("keys/") {
			if _, kind, _ := strings.Cut(name, "."); kind == "entry" || kind == "removed" {
				if rec, err := r.record(name, kind); err != nil || rec == nil {
					t.Errorf("%s: %v", name, err)
				}
			}
		}
	}
	old, err := age.ParseHybridIdentity(k.want.Identities["old"])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(os.DirFS(k.dir), old); err == nil {
		t.Error("the key that was removed opens")
	}
	if _, err := repo.Open(t.Context(), k.store, old); !errors.Is(err, keys.ErrLocked) {
		t.Errorf("and with today's code: %v", err)
	}
}
