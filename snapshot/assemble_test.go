package snapshot

import (
	"errors"
	"reflect"
	"slices"
	"testing"

	"github.com/pgtrove/pgtrove/chunk"
)

func TestAnAssembledSnapshotReadsAsIfItHadBeenTaken(t *testing.T) {
	m := metaMap{}
	var long []Extent
	for i := range 30_000 {
		long = append(long, Extent{ID: chunk.ID{byte(i), byte(i >> 8), 1}, Form: 13, Count: 16})
	}
	short := long[:3]
	entries := []Entry{
		{Path: "data", Type: Dir, Mode: 0o700},
		{Path: "data/empty", Type: File},
		{Path: "data/long", Type: File, Size: 30_000 * 16 << 13, Recipe: RecipeRef{Inline: MarshalExtents(long)}},
		{Path: "data/short", Type: File, Size: 3 * 16 << 13, Recipe: RecipeRef{Inline: MarshalExtents(short)}},
	}
	root, err := Assemble(t.Context(), m, chunk.Key{1}, slices.Values(entries))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]Extent{"data": nil, "data/empty": nil, "data/long": long, "data/short": short}
	got := map[string][]Extent{}
	if err := root.Walk(t.Context(), m, func(e *Entry) (err error) {
		if e.Path == "data/long" && len(e.Recipe.Chunks) != 3 {
			t.Errorf("a recipe of about a megabyte is in %d chunks", len(e.Recipe.Chunks))
		}
		got[e.Path], err = LoadRecipe(t.Context(), m, e.Recipe)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Error("the snapshot is not what was assembled")
	}
	slices.Reverse(entries)
	if _, err := Assemble(t.Context(), m, chunk.Key{1}, slices.Values(entries)); !errors.Is(err, ErrInvalid) {
		t.Errorf("entries out of order: %v", err)
	}
}
