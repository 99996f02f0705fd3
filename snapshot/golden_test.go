package snapshot

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/chunk"
)

var update = flag.Bool("update", false, "write the golden files anew: only for a new version of a format")

// golden compares b with the file of that name: the stored forms must not change without a new version.
func golden(t *testing.T, name string, b []byte) []byte {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b, want) {
		t.Errorf("%s: this program writes other bytes than those that are stored", name)
	}
	return want
}

func goldenManifest() *Manifest {
	return &Manifest{
		Version: 1, ID: "20261121T001005Z-0123456789abcdef", Cluster: "main",
		Server: Server{SystemID: 7312345678901234567, Version: 150018, BlockSize: 8192, WALSegmentSize: 16 << 20,
			Checksums: true, DataDirectory: "/var/lib/postgresql/15/main"},
		Origin: Origin{Host: "db1", Tool: "pgtrove 1", Standby: true},
		Window: Window{Timeline: 1, StopTimeline: 1, StartLSN: 0x1000028, StopLSN: 0x20000F8,
			StartTime: time.Date(2026, 11, 21, 0, 10, 5, 0, time.UTC), StopTime: time.Date(2026, 11, 21, 0, 11, 5, 5e8, time.UTC), NextXID: 1<<32 + 740},
		Totals: Totals{Size: 1, Read: 2, New: 3, Added: 4, Files: 5}, Tags: map[string]string{"why": "nightly"},
		WAL: WALComplete, Damaged: []DamagedPage{{Path: "data/base/5/1", Block: 7, Stored: 8, Computed: 9}},
		BackupLabel: []byte("START WAL LOCATION: 0/1000028\n"), TablespaceMap: []byte("16384 /srv\n"),
		Root: Root{Depth: 1, Chunks: []chunk.ID{{1, 2, 3}}},
	}
}

func TestStoredManifestsStayReadable(t *testing.T) {
	increment := goldenManifest()
	increment.Totals.ChangedPages, increment.Totals.Meta, increment.Totals.Seconds = 6, 7, 8.5
	increment.Totals.Skipped = Skipped{Files: 9, FileBytes: 10, BlockBytes: 11}
	for name, m := range map[string]*Manifest{"manifest.json": goldenManifest(), "manifest-increment.json": increment} {
		b, err := m.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseManifest(golden(t, name, b))
		if err != nil || !reflect.DeepEqual(got, m) {
			t.Errorf("read %+v, %v", got, err)
		}
	}
}

func TestStoredListingsStayReadable(t *testing.T) {
	entries := sampleEntries(2)
	b := golden(t, "listing.bin", bytes.Join(encodeAll(entries), nil))
	m := metaMap{{1}: b}
	i := 0
	err := Root{Chunks: []chunk.ID{{1}}}.Walk(t.Context(), m, func(e *Entry) error {
		if !reflect.DeepEqual(*e, entries[i]) {
			t.Errorf("entry %d: %+v", i, *e)
		}
		i++
		return nil
	})
	if err != nil || i != len(entries) {
		t.Errorf("%d of %d entries: %v", i, len(entries), err)
	}
}

func TestStoredRecipesStayReadable(t *testing.T) {
	stream := []Extent{{ID: chunk.ID{1}, Count: 300}, {ID: chunk.ID{2}, Count: 70_000}}
	full := []Extent{
		{ID: chunk.ID{1}, Form: 13, First: 4, Count: 10}, {Form: 13, Count: 100, Zero: true},
		{ID: chunk.ID{2}, Form: 13, Count: 16}, {ID: chunk.ID{1}, Form: 13, Count: 3},
	}
	parent := golden(t, "recipe-pages.bin", MarshalExtents(full))
	patch := MarshalPatch(Patch{Form: 13, Parent: RecipeRef{Inline: parent}, Depth: 1, Pages: 130, Changes: []Change{
		{Keep: 9, Extents: []Extent{{ID: chunk.ID{3}, Form: 13, Count: 2}}},
		{Keep: 115, Extents: []Extent{{ID: chunk.ID{3}, Form: 13, First: 2, Count: 4}}},
	}})
	patched := []Extent{
		{ID: chunk.ID{1}, Form: 13, First: 4, Count: 9}, {ID: chunk.ID{3}, Form: 13, Count: 2}, {Form: 13, Count: 99, Zero: true},
		{ID: chunk.ID{2}, Form: 13, Count: 16}, {ID: chunk.ID{3}, Form: 13, First: 2, Count: 4},
	}
	for name, c := range map[string]struct {
		b    []byte
		want []Extent
	}{
		"recipe-bytes.bin": {MarshalExtents(stream), stream},
		"recipe-pages.bin": {parent, full},
		"recipe-patch.bin": {patch, patched},
	} {
		got, err := LoadRecipe(t.Context(), metaMap{}, RecipeRef{Inline: golden(t, name, c.b)})
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}
