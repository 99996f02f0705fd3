package format

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/gc"
	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/keys"
	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/snapshot"
	"github.com/pgtrove/pgtrove/storage"
	"github.com/pgtrove/pgtrove/storage/fault"
	"github.com/pgtrove/pgtrove/storage/fs"
)

// This file wrote testdata/pruned, once: a repository in which prune runs were,
// with everything that they and those who did not finish leave. It is replaced
// like testdata/repository only.

// ExpectedPruned is what the pruned repository was made from.
type ExpectedPruned struct {
	Visible map[string]string // SHA-256 of the one file of each snapshot that counts and is not hidden
	Hidden  []string          // snapshots that count
	Gone    []string          // snapshots that do not count
	Barred  []ID              // chunks that can be read, and that writers must not refer to
	Usable  []ID              // chunks that writers may refer to
	Repack  string            // the session of the pruner
	Open    string            // a session without an outcome
}

// prunedGenerator writes snapshots of one file, of which the first piece is shared by all.
type prunedGenerator struct {
	generator
	at      int
	ids     map[string]string // snapshots by a letter
	content map[string][]byte
	pieces  map[string][]chunk.ID
}

func TestPrunedRepositoryIsReplacedOnlyWhenAsked(t *testing.T) {
	if !*update {
		return
	}
	g := &prunedGenerator{generator: generator{t: t}, ids: map[string]string{}, content: map[string][]byte{}, pieces: map[string][]chunk.ID{}}
	g.init()
	for _, name := range []string{"a", "b", "c", "d"} {
		g.commit(g.repo, name)
	}
	g.must(g.repo.Forget(t.Context(), g.ids["a"]))
	g.prune(g.store, nil)
	g.must(g.repo.Forget(t.Context(), g.ids["b"]))
	g.commit(g.repo, "e")
	// One that is not the second run, and leaves a base.
	g.prune(fault.New(g.store, func(op fault.Op) fault.Action {
		if op.Verb == fault.Put && strings.HasPrefix(op.Key, "gc/") {
			return fault.Action{Before: storage.ErrUnreachable}
		}
		return fault.Action{}
	}), storage.ErrUnreachable)
	// The second leaves sessions and their segments.
	g.prune(fault.New(g.store, func(op fault.Op) fault.Action {
		if op.Verb == fault.Delete && (strings.HasPrefix(op.Key, "sessions/") || strings.HasPrefix(op.Key, "index/")) {
			return fault.Action{Before: storage.ErrDenied}
		}
		return fault.Action{}
	}), nil)
	g.pin(g.ids["b"])
	g.must(g.repo.Forget(t.Context(), g.ids["c"]))
	g.must(g.repo.Forget(t.Context(), g.ids["d"]))
	g.pin(g.ids["d"])
	g.commit(g.repo, "f")
	g.write(g.expect())
}

func (g *prunedGenerator) init() {
	g.must(os.RemoveAll("testdata/pruned"))
	text, recipient, err := keys.GenerateIdentity()
	g.must(err)
	g.must(os.WriteFile("testdata/pruned.owner.identity", text, 0o644))
	g.store, err = fs.Create("testdata/pruned")
	g.must(err)
	g.repo, g.owner = initBare(g.t, g.store, recipient, "pruned.owner.identity")
}

// commit takes the snapshot of that letter.
func (g *prunedGenerator) commit(r *repo.Repo, name string) {
	g.at++
	at := g.at
	o := repo.SessionOptions{Cluster: goldenCluster, Host: "db1.example", Now: func() time.Time { return goldenTime(at) }}
	g.must(r.Write(g.t.Context(), o, func(ctx context.Context, s *repo.Session) error {
		g.ids[name] = s.ID()
		w, err := s.NewWriter()
		g.must(err)
		var extents []snapshot.Extent
		for piece := range 4 {
			b := make([]byte, 3000)
			seed := [32]byte{byte(piece), name[0]}
			if piece == 0 && name != "a" {
				seed = [32]byte{99} // in b, and so in one pack with what is b's alone
			}
			_, _ = rand.NewChaCha8(seed).Read(b)
			id, err := w.Bytes(ctx, b)
			g.must(err)
			extents = append(extents, snapshot.Extent{ID: id, Count: uint32(len(b))})
			g.pieces[name] = append(g.pieces[name], id)
			g.content[name] = append(g.content[name], b...)
		}
		listing := listed(Entry{Path: "data/" + name, Type: typeFile, Size: uint64(len(g.content[name]))},
			snapshot.RecipeRef{Inline: snapshot.MarshalExtents(extents)})
		id, err := w.Meta(ctx, listing)
		g.must(err)
		m := &snapshot.Manifest{
			Version: 1, ID: s.ID(), Cluster: goldenCluster,
			Server: snapshot.Server{SystemID: goldenSystem, Version: 150018, BlockSize: 8192, WALSegmentSize: pg.MinSegmentSize},
			Window: snapshot.Window{Timeline: 1, StopTimeline: 1, StartTime: goldenTime(at), StopTime: goldenTime(at)},
			WAL:    snapshot.WALComplete, BackupLabel: []byte("label\n"), Root: snapshot.Root{Chunks: []chunk.ID{id}},
		}
		text, err := m.Marshal()
		g.must(err)
		return s.Commit(ctx, text)
	}))
}

// prune is a run on a storage, which ends with an error.
func (g *prunedGenerator) prune(s storage.Store, want error) {
	r, err := repo.Open(g.t.Context(), s, goldenIdentities(g.t, "pruned.owner.identity")...)
	g.must(err)
	mark := func(ctx context.Context, v *repo.View, commits []repo.Commit, live func(chunk.ID)) error {
		var all []*snapshot.Manifest
		for _, c := range commits {
			m, err := snapshot.ParseManifest(c.Manifest)
			g.must(err)
			all = append(all, m)
		}
		return gc.Mark(ctx, v, all, live)
	}
	o := repo.PruneOptions{Host: "backup1.example", Now: time.Now, MaxRepack: 1 << 30, MaxDelete: 1, Mark: mark}
	if _, err := r.Prune(g.t.Context(), o); !errors.Is(err, want) {
		g.t.Fatalf("prune: %v, not %v", err, want)
	}
}

// pin puts a pin where no command would come to it in time.
func (g *prunedGenerator) pin(sid string) {
	meta, err := g.owner.Meta()
	g.must(err)
	const kind = "pgtmark\x01"
	key := "pins/" + sid
	aad := fmt.Appendf(nil, "pgtrove object\x00%s\x00%s\x00%s", kind, g.repo.Config().ID, key)
	g.must(g.store.Put(g.t.Context(), key, meta.Seal([]byte(kind), []byte(`{"version":1,"time":"2026-03-05T00:00:00Z","host":"backup1.example"}`), aad)))
}

// expect ends with a session that goes on.
func (g *prunedGenerator) expect() *ExpectedPruned {
	want := &ExpectedPruned{Visible: map[string]string{}, Hidden: []string{g.ids["c"]}, Gone: []string{g.ids["a"]}}
	for _, name := range []string{"b", "d", "e", "f"} {
		want.Visible[g.ids[name]] = sum(g.content[name])
	}
	for _, id := range g.pieces["b"][1:] {
		want.Barred = append(want.Barred, ID(id))
	}
	want.Usable = []ID{ID(g.pieces["b"][0]), ID(g.pieces["c"][1]), ID(g.pieces["e"][1]), ID(g.pieces["f"][1])}
	g.must(g.store.List(g.t.Context(), "snapshots/_prune/", func(i storage.Info) error {
		want.Repack = strings.TrimPrefix(i.Key, "snapshots/_prune/")
		return nil
	}))
	g.at++
	err := g.session(g.at, func(_ context.Context, s *repo.Session) error {
		want.Open = s.ID()
		return errors.New("given up")
	})
	if err == nil {
		g.t.Fatal("a session that failed has no error")
	}
	return want
}

func (g *prunedGenerator) write(want *ExpectedPruned) {
	text, err := json.MarshalIndent(want, "", " ")
	g.must(err)
	g.must(os.WriteFile("testdata/pruned.json", append(text, '\n'), 0o644))
}
