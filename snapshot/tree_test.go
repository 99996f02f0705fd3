package snapshot

import (
	"errors"
	"fmt"
	"reflect"
	"testing"

	"github.com/pgtrove/pgtrove/chunk"
)

func sampleEntries(n int) []Entry {
	out := []Entry{
		{Path: "config/pg_hba.conf", Type: File, Mode: 0o640, Size: 5, Link: "/etc/postgresql/15/main/pg_hba.conf",
			Recipe: RecipeRef{Inline: []byte("recipe")}},
		{Path: "data", Type: Dir, Mode: 0o700, Owner: Owner{UID: 101, GID: 104, User: "postgres", Group: "postgres"}},
	}
	for i := range n {
		out = append(out, Entry{
			Path: fmt.Sprintf("data/base/5/%08d", i), Type: File, Mode: 0o600,
			Owner: Owner{UID: 101, GID: 104, User: "postgres", Group: "postgres"}, Size: int64(i) * 8192,
			Stat:   Stat{ModTime: int64(i) * 1e9, ChangeTime: -int64(i), Device: 2049, Inode: uint64(i) + 7},
			Recipe: RecipeRef{Chunks: []chunk.ID{{byte(i), byte(i >> 8)}, {9}}},
		})
	}
	return append(out,
		Entry{Path: "data/pg_tblspc/16384", Type: Tablespace, Link: "/srv/fast"},
		Entry{Path: "data/server.crt", Type: Symlink, Link: "/etc/ssl/server.crt"})
}

func encodeAll(entries []Entry) [][]byte {
	var out [][]byte
	for i := range entries {
		out = append(out, appendEntry(nil, &entries[i]))
	}
	return out
}

func TestListingsComeBackInOrderWhateverTheirSize(t *testing.T) {
	for _, n := range []int{0, 1, 500, 40_000} {
		m := metaMap{}
		want := sampleEntries(n)
		root, err := writeTree(t.Context(), m, chunk.Key{1}, encodeAll(want))
		if err != nil {
			t.Fatal(err)
		}
		if len(root.Chunks) > maxRootIDs {
			t.Errorf("%d entries: %d chunks in the manifest", n, len(root.Chunks))
		}
		if n == 40_000 && root.Depth == 0 {
			t.Error("the large listing has no upper level: the test does not reach it")
		}
		i := 0
		err = root.Walk(t.Context(), m, func(e *Entry) error {
			if !reflect.DeepEqual(*e, want[i]) {
				t.Fatalf("entry %d: got %+v, want %+v", i, *e, want[i])
			}
			i++
			return nil
		})
		if err != nil || i != len(want) {
			t.Fatalf("%d entries: walked %d of %d: %v", n, i, len(want), err)
		}
	}
}

func TestOneChangedEntryCostsOneChunkALevel(t *testing.T) {
	m := metaMap{}
	entries := sampleEntries(40_000)
	first, err := writeTree(t.Context(), m, chunk.Key{1}, encodeAll(entries))
	if err != nil {
		t.Fatal(err)
	}
	before := len(m)
	entries[20_000].Stat.ModTime++
	if _, err := writeTree(t.Context(), m, chunk.Key{1}, encodeAll(entries)); err != nil {
		t.Fatal(err)
	}
	// A cut may move, which costs the neighbour too.
	if added := len(m) - before; added > 2*(first.Depth+1) {
		t.Errorf("%d chunks were added for one entry, with %d levels", added, first.Depth+1)
	}
}

func TestPathsThatLeaveTheDirectoryAreRefused(t *testing.T) {
	for _, path := range []string{"", "/etc/passwd", "data/../x", "data//x", "data/./x", "other/x", "data/x\x00y", "data/"} {
		e := Entry{Path: path, Type: File}
		m := metaMap{}
		root, err := writeTree(t.Context(), m, chunk.Key{1}, encodeAll([]Entry{e}))
		if err != nil {
			t.Fatal(err)
		}
		if err := root.Walk(t.Context(), m, func(*Entry) error { return nil }); !errors.Is(err, ErrInvalid) {
			t.Errorf("path %q: %v", path, err)
		}
	}
}

func FuzzParseEntry(f *testing.F) {
	for _, e := range sampleEntries(2) {
		f.Add(appendEntry(nil, &e)[1:])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := parseEntry(b)
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Fatalf("error of another kind: %v", err)
			}
			return
		}
		m := metaMap{}
		root, err := writeTree(t.Context(), m, chunk.Key{1}, encodeAll([]Entry{e}))
		if err != nil {
			t.Fatal(err)
		}
		err = root.Walk(t.Context(), m, func(got *Entry) error {
			if !reflect.DeepEqual(*got, e) {
				t.Fatalf("got %+v, want %+v", *got, e)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}
