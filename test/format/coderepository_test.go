package format

import (
	"context"
	"fmt"
	"path"
	"testing"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/keys"
	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/restore"
	"github.com/pgtrove/pgtrove/snapshot"
	"github.com/pgtrove/pgtrove/storage/fs"
	"github.com/pgtrove/pgtrove/walarchive"
)

func openWithTodaysCode(t *testing.T) (*repo.Repo, *repo.View, []*snapshot.Manifest) {
	t.Helper()
	store, err := fs.Open("testdata/repository")
	if err != nil {
		t.Fatal(err)
	}
	ids, err := keys.ParseIdentityFile(readFile(t, "repository.owner.identity"))
	if err != nil {
		t.Fatal(err)
	}
	r, err := repo.Open(t.Context(), store, ids.Identities...)
	if err != nil {
		t.Fatal(err)
	}
	view, err := r.OpenView(t.Context(), t.TempDir(), goldenCluster)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := view.Close(); err != nil {
			t.Error(err)
		}
	})
	var found []*snapshot.Manifest
	if err := r.Commits(t.Context(), "", func(c repo.Commit) error {
		if c.Err != nil {
			return c.Err
		}
		m, err := snapshot.ParseManifest(c.Manifest)
		found = append(found, m)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return r, view, found
}

func TestTodaysCodeFindsNoDamageInGoldenRepository(t *testing.T) {
	r, view, found := openWithTodaysCode(t)
	report, err := restore.Verify(t.Context(), view, r, restore.VerifyOptions{
		Snapshots: found, ReadData: true, IsDamage: func(error) bool { return true },
	})
	if err != nil {
		t.Fatal(err)
	}
	for i := range report.Damage {
		t.Error(report.Damage[i].String())
	}
	if report.Snapshots != 2 {
		t.Errorf("%d snapshots", report.Snapshots)
	}
}

func TestTodaysCodeRebuildsGoldenFiles(t *testing.T) {
	_, view, found := openWithTodaysCode(t)
	for i, want := range readExpected(t).Snapshots {
		files := map[string]ExpectedEntry{}
		for _, e := range want.Entries {
			files[e.Path] = e
		}
		if err := found[i].Root.Walk(t.Context(), view, func(e *snapshot.Entry) error {
			w, ok := files[e.Path]
			delete(files, e.Path)
			switch {
			case !ok || byte(e.Type) != w.Type || uint64(e.Mode) != w.Mode || uint64(e.Size) != w.Size || e.Stat.ModTime != w.Modified:
				return fmt.Errorf("entry %+v, not %+v", e, w)
			case e.Type == snapshot.Symlink && sum([]byte(e.Link)) != w.SHA256:
				return fmt.Errorf("%s: target %q", e.Path, e.Link)
			case e.Type != snapshot.File:
				return nil
			}
			content, err := rebuildWithTodaysCode(t.Context(), view, e.Recipe)
			if err == nil && sum(content) != w.SHA256 {
				err = fmt.Errorf("%s: other bytes than were stored", e.Path)
			}
			return err
		}); err != nil {
			t.Error(err)
		}
		if len(files) > 0 {
			t.Errorf("%d entries are missing", len(files))
		}
	}
}

func rebuildWithTodaysCode(ctx context.Context, view *repo.View, recipe snapshot.RecipeRef) ([]byte, error) {
	extents, err := snapshot.LoadRecipe(ctx, view, recipe)
	if err != nil {
		return nil, err
	}
	var content, sealed, plain []byte
	last := chunk.ID{}
	for _, e := range extents {
		if e.Zero {
			content = append(content, make([]byte, e.Bytes())...)
			continue
		}
		if e.ID != last {
			loc, err := view.Locate(e.ID)
			if err != nil {
				return nil, err
			}
			if sealed, err = view.ReadPack(ctx, loc.Pack, int64(loc.Offset), loc.End()-int64(loc.Offset), sealed[:0]); err != nil {
				return nil, err
			}
			if plain, err = view.OpenChunk(plain[:0], loc, sealed); err != nil {
				return nil, err
			}
			last = e.ID
		}
		content = append(content, plain[e.Offset():e.Offset()+e.Bytes()]...)
	}
	return content, nil
}

func TestTodaysCodeReadsGoldenWAL(t *testing.T) {
	r, _, _ := openWithTodaysCode(t)
	for name, want := range readExpected(t).WAL {
		a := walarchive.Archive{Objects: archive{r}, Cluster: want.Header.Cluster, System: goldenSystem}
		h, content, err := a.Fetch(t.Context(), path.Base(name))
		if err != nil {
			t.Error(err)
			continue
		}
		w := want.Header
		if sum(content) != want.SHA256 || byte(h.Kind) != w.Kind || uint64(h.End) != w.End || uint64(h.SegmentSize) != w.SegmentSize ||
			h.MinXID != uint32(w.Lowest) || h.MaxXID != uint32(w.Highest) || len(h.RestorePoints) != len(w.Points) || string(h.Inline) != string(w.Inline) {
			t.Errorf("%s: %d bytes, header %+v, not %+v", name, len(content), h, w)
		}
	}
}
