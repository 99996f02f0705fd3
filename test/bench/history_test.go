package main

import (
	"context"
	"testing"

	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/snapshot"
)

func TestASimulatedHistoryNamesOnlyChunksThatItsIndexHas(t *testing.T) {
	ctx := t.Context()
	d, err := createDirect(ctx, t.TempDir(), 2)
	if err != nil {
		t.Fatal(err)
	}
	h, err := newHistory(ctx, d, shape{files: 12, chunks: 400, snapshots: 4})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.begin(ctx); err != nil {
		t.Fatal(err)
	}
	for len(h.ids) < h.snapshots {
		if err := h.next(ctx); err != nil {
			t.Fatal(err)
		}
	}
	v, err := d.repo.OpenView(ctx, "", directCluster)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	fresh := map[string]int{} // chunks of each snapshot that the first does not have
	first := map[string]bool{}
	if err := d.repo.Commits(ctx, directCluster, func(c repo.Commit) error {
		m, err := snapshot.ParseManifest(c.Manifest)
		if err != nil {
			return err
		}
		return m.Root.Walk(ctx, v, func(e *snapshot.Entry) error {
			return eachChunk(ctx, v, e, func(x snapshot.Extent) error {
				switch _, err := v.Locate(x.ID); {
				case err != nil:
					return err
				case c.ID == h.ids[0]:
					first[x.ID.String()] = true
				case !first[x.ID.String()]:
					fresh[c.ID]++
				}
				return nil
			})
		})
	}); err != nil {
		t.Fatal(err)
	}
	if len(first) != 12*400 {
		t.Errorf("the first snapshot has %d chunks", len(first))
	}
	for _, id := range h.ids[1:] {
		if fresh[id] == 0 {
			t.Errorf("snapshot %s has nothing that is new", id)
		}
	}
}

// eachChunk goes through the recipe of a file, which must have its size.
func eachChunk(ctx context.Context, v *repo.View, e *snapshot.Entry, fn func(snapshot.Extent) error) error {
	extents, err := snapshot.LoadRecipe(ctx, v, e.Recipe)
	if err != nil {
		return err
	}
	var size int64
	for _, x := range extents {
		size += x.Bytes()
		if err := fn(x); err != nil {
			return err
		}
	}
	if size != e.Size {
		return snapshot.ErrInvalid
	}
	return nil
}
