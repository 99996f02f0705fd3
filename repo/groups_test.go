package repo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/keys"
	"github.com/pgtrove/pgtrove/storage"
	"github.com/pgtrove/pgtrove/storage/fault"
)

// grouped is a repository with two trust groups: an owner, and a host in each, a in the first.
type grouped struct {
	fixture
	owner, a, b *Repo
}

func newGrouped(t *testing.T) *grouped {
	t.Helper()
	g := &grouped{fixture: newFixture(t)}
	first := g.open(t, g.store)
	owner, err := first.bundle.AddGroup("b")
	must(t, err)
	g.owner = g.holder(t, first.config, owner)
	g.a = g.holder(t, first.config, issue(t, owner, "host-a", keys.Writer, ""))
	g.b = g.holder(t, first.config, issue(t, owner, "host-b", keys.Writer, "b"))
	return g
}

func issue(t *testing.T, owner *keys.Bundle, name string, role keys.Role, group string) *keys.Bundle {
	t.Helper()
	b, err := owner.Issue(keys.IssueOptions{Name: name, Role: role, Group: group, Clusters: []string{keys.AnyCluster}})
	must(t, err)
	return b
}

// holder opens the repository with a bundle.
func (g *grouped) holder(t *testing.T, c Config, b *keys.Bundle) *Repo {
	t.Helper()
	c.Params.PackSize = 1 << 20
	r, err := newRepo(g.store, c, b)
	must(t, err)
	return r
}

// on is the same bundle on another store.
func (g *grouped) on(t *testing.T, s storage.Store, r *Repo) *Repo {
	t.Helper()
	n, err := newRepo(s, r.config, r.bundle)
	must(t, err)
	return n
}

// listed is a snapshot whose chunks a metadata chunk lists, as a listing does.
type listed struct {
	sid  string
	list chunk.ID
	ids  []chunk.ID
	data [][]byte
}

// save backs up pages and bytes, and makes the manifest name a metadata chunk that lists them.
func save(t *testing.T, r *Repo, cluster, cache string, data [][]byte) (l listed) {
	t.Helper()
	o := options()
	o.Cluster, o.CacheDir = cluster, cache
	must(t, r.Write(t.Context(), o, func(ctx context.Context, s *Session) error { return l.write(ctx, s, data) }))
	return l
}

func (l *listed) write(ctx context.Context, s *Session, data [][]byte) error {
	*l = listed{sid: s.ID(), data: data}
	w, err := s.NewWriter()
	if err != nil {
		return err
	}
	var list []byte
	for _, b := range data {
		id, err := w.Bytes(ctx, b)
		if err != nil {
			return err
		}
		l.ids = append(l.ids, id)
		list = append(list, id[:]...)
	}
	if l.list, err = w.Meta(ctx, list); err != nil {
		return err
	}
	manifest, err := json.Marshal(l.list)
	if err != nil {
		return err
	}
	return s.Commit(ctx, manifest)
}

// markLists is the Marker of such snapshots. It reads the lists through the view that it is given.
func markLists(ctx context.Context, v *View, snapshots []Commit, live func(chunk.ID)) error {
	for _, c := range snapshots {
		var list chunk.ID
		if err := json.Unmarshal(c.Manifest, &list); err != nil {
			return err
		}
		live(list)
		b, err := v.MetaChunk(ctx, list)
		if isLoss(err) {
			return &LossError{Losses: []error{err}}
		}
		if err != nil {
			return err
		}
		for id := range slices.Chunk(b, chunk.IDSize) {
			live(chunk.ID(id))
		}
	}
	return nil
}

func pruningLists(cache string) PruneOptions {
	o := pruning()
	o.Mark, o.CacheDir = markLists, cache
	return o
}

// restores reads everything of a snapshot.
func restores(t *testing.T, r *Repo, cache string, l listed) {
	t.Helper()
	v, err := r.OpenView(t.Context(), cache, "main")
	must(t, err)
	defer func() { must(t, v.Close()) }()
	must(t, v.IndexDamage())
	if _, err := v.MetaChunk(t.Context(), l.list); err != nil {
		t.Fatalf("listing of %s: %v", l.sid, err)
	}
	for i, id := range l.ids {
		if got, err := readChunk(t.Context(), v, id); err != nil || !bytes.Equal(got, l.data[i]) {
			t.Fatalf("chunk %d of %s: %v", i, l.sid, err)
		}
	}
}

func TestHostsOfTwoGroupsShareNothing(t *testing.T) {
	g := newGrouped(t)
	data := pieces(80, 40)
	a := save(t, g.a, "one", "", data)
	alone, files := packBytes(t, g.store), len(list(t, g.store, packsPrefix))
	b := save(t, g.b, "two", "", data)
	if n, bytes := len(list(t, g.store, packsPrefix)), packBytes(t, g.store); n != 2*files || bytes < alone*199/100 {
		t.Errorf("%d packs of %d bytes, and with the second group's %d of %d", files, alone, n, bytes)
	}
	for i, id := range append(slices.Clone(b.ids), b.list) {
		if slices.Contains(a.ids, id) || id == a.list {
			t.Errorf("chunk %d is called the same in both groups", i)
		}
	}
	again := save(t, g.a, "three", "", data) // a host of the same group
	if !slices.Equal(again.ids, a.ids) || len(packsOf(t, g.store, again.sid)) > 0 {
		t.Errorf("another cluster of the same group stored %v", packsOf(t, g.store, again.sid))
	}
	must(t, g.owner.NewestCommits(t.Context(), "two", func(c Commit) (bool, error) {
		t.Errorf("an owner of the first group would build upon %s of group %q", c.ID, c.Group)
		return false, nil
	}))
	// To an owner everything is there, but what he backs up himself is his group's.
	restores(t, g.owner, "", a)
	restores(t, g.owner, "", b)
	own := save(t, g.owner, "two", "", data)
	if !slices.Equal(own.ids, a.ids) || len(packsOf(t, g.store, own.sid)) > 0 {
		t.Errorf("an owner of the first group stored %v", packsOf(t, g.store, own.sid))
	}
}

// A host with its keys, the whole repository and a cache.
func TestAHostOpensNothingOfAnotherGroup(t *testing.T) {
	g := newGrouped(t)
	data := pieces(81, 20)
	for _, pruned := range []bool{false, true} {
		a, b := save(t, g.a, "one", "", data), save(t, g.b, "two", "", data)
		wal := map[*Repo]string{g.a: "wal/one/1/00000001/000000010000000000000001", g.b: "wal/two/1/00000001/000000010000000000000001"}
		for r, key := range wal {
			_, err := r.PutArchive(t.Context(), key, []byte("header"), []byte("content"))
			must(t, err)
		}
		if pruned {
			prune(t, g.owner, pruningLists(""))
		}
		for r, x := range map[*Repo]struct{ own, others listed }{g.a: {a, b}, g.b: {b, a}} {
			foreign := opensOf(t, g, r)
			want := []string{"snapshots/", "packs/", "wal/", "index/"}
			if pruned {
				want[3] = "base/"
			}
			for _, prefix := range want {
				if foreign[prefix] == 0 {
					t.Errorf("pruned %v: nothing below %s was left unopened: %v", pruned, prefix, foreign)
				}
			}
			if got := commitsOf(t, r); !slices.Contains(got, x.own.sid) || slices.Contains(got, x.others.sid) {
				t.Errorf("pruned %v: its snapshots: %v", pruned, got)
			}
			v := openView(t, r, t.TempDir())
			must(t, v.IndexDamage())
			for _, id := range append(slices.Clone(x.others.ids), x.others.list) {
				if _, err := v.Locate(id); !errors.Is(err, ErrMissing) {
					t.Errorf("pruned %v: chunk of the other group: %v", pruned, err)
				}
			}
			if _, err := v.Locate(x.own.list); err != nil {
				t.Error(err)
			}
			if unnamed, err := v.UnnamedPacks(t.Context()); err != nil || len(unnamed) > 0 {
				t.Errorf("pruned %v: %v, %v", pruned, unnamed, err)
			}
			must(t, v.Close())
			must(t, r.CheckIndex(t.Context(), nil))
		}
	}
}

// opensOf tries all objects and says of how many, by the first part of their names, nothing opens. What the group of r wrote must open.
func opensOf(t *testing.T, g *grouped, r *Repo) map[string]int {
	t.Helper()
	foreign := map[string]int{}
	for _, key := range list(t, g.store, "") {
		prefix, _, _ := strings.Cut(key, "/")
		if prefix == configKey || prefix == "keys" {
			continue
		}
		open := func(r *Repo) error {
			switch prefix {
			case "packs":
				_, err := r.packDigests(t.Context(), key, 0)
				return err
			case "wal":
				_, _, err := r.ArchiveHeader(t.Context(), key)
				return err
			}
			_, err := r.Payload(t.Context(), key)
			return err
		}
		must(t, open(g.owner))
		inA, inB := open(g.a), open(g.b)
		if prefix == "sessions" || prefix == "gc" || strings.HasPrefix(key, snapshotsPrefix+pruneCluster) {
			must(t, errors.Join(inA, inB))
			continue
		}
		if (inA == nil) == (inB == nil) {
			t.Errorf("%s: %v, in the other group %v", key, inA, inB)
		}
		if err := open(r); err != nil {
			foreign[prefix+"/"]++
			if wrong := !errors.Is(err, keys.ErrForeign); wrong && prefix != "packs" && prefix != "wal" {
				t.Errorf("%s: %v", key, err)
			}
		}
	}
	return foreign
}

func commitsOf(t *testing.T, r *Repo) (sids []string) {
	t.Helper()
	must(t, r.Commits(t.Context(), "", func(c Commit) error {
		if c.Err != nil {
			t.Errorf("%s: %v", c.ID, c.Err)
		}
		sids = append(sids, c.ID)
		return nil
	}))
	return sids
}

// One host on which keys of several kinds are used, each with a cache of its own.
func TestACacheIsForOneSetOfGroups(t *testing.T) {
	g := newGrouped(t)
	cache := t.TempDir()
	a, b := save(t, g.a, "main", cache, pieces(88, 8)), save(t, g.b, "main", cache, pieces(88, 8))
	reads := 0
	counting := fault.New(g.store, func(op fault.Op) fault.Action {
		if op.Verb == fault.Get && (strings.HasPrefix(op.Key, indexPrefix) || strings.HasPrefix(op.Key, basePrefix)) {
			reads++
		}
		return fault.Action{}
	})
	look := func(want map[*Repo]int) {
		t.Helper()
		for r, n := range want {
			reads = 0
			v := openView(t, g.on(t, counting, r), cache)
			for _, l := range []listed{a, b} {
				_, err := v.Locate(l.list)
				if sees := r == g.owner || (r == g.a) == (l.sid == a.sid); sees != (err == nil) {
					t.Errorf("%s sees %v, and looks it up: %v", r.bundle.Name, sees, err)
				}
			}
			must(t, v.Close())
			if reads != n {
				t.Errorf("%s read %d parts of the index, want %d", r.bundle.Name, reads, n)
			}
		}
	}
	look(map[*Repo]int{g.a: 1, g.b: 0, g.owner: 2}) // b has seen a's segment when it backed up
	look(map[*Repo]int{g.a: 0, g.b: 0, g.owner: 0})
	prune(t, g.owner, pruningLists(""))
	look(map[*Repo]int{g.a: 1, g.b: 1, g.owner: 2}) // whose a shard is the run says
	look(map[*Repo]int{g.a: 0, g.b: 0, g.owner: 0})
}

func TestAnOwnerComparesArchivedFilesAsWhoeverStoredThem(t *testing.T) {
	g := newGrouped(t)
	const key = "wal/two/1/00000001/000000010000000000000001"
	content := bytes.Repeat([]byte("content"), 1000)
	for _, r := range []*Repo{g.b, g.owner, g.b} {
		_, err := r.PutArchive(t.Context(), key, []byte("header"), content)
		must(t, err)
		if _, err := r.PutArchive(t.Context(), key, nil, content[1:]); !errors.Is(err, ErrConflict) {
			t.Errorf("%s, other content: %v", r.bundle.Name, err)
		}
		if same, err := r.SameArchive(t.Context(), key, content); err != nil || !same {
			t.Errorf("%s: the same: %v, %v", r.bundle.Name, same, err)
		}
	}
	if _, got, err := g.owner.GetArchive(t.Context(), key); err != nil || !bytes.Equal(got, content) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if _, _, err := g.a.GetArchive(t.Context(), key); !errors.Is(err, ErrDamaged) {
		t.Errorf("in another group: %v", err)
	}
}
