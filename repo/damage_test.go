package repo

import (
	"bytes"
	"context"
	"errors"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/storage"
)

// TestNoAlteredObjectIsBelieved flips a bit in, cuts short, and swaps every object of a repository in turn. Reading must
// fail or give the right bytes.
func TestNoAlteredObjectIsBelieved(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	data := pieces(1, 20)
	_, ids, err := write(t.Context(), r, data)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	if err := f.store.List(t.Context(), "", func(i storage.Info) error { names = append(names, i.Key); return nil }); err != nil {
		t.Fatal(err)
	}
	object := func(key string) []byte {
		b, err := f.store.Get(t.Context(), key, storage.Range{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for i, name := range names {
		original := object(name)
		twin := names[(i+1)%len(names)]
		for _, other := range names {
			if other != name && path.Dir(other) == path.Dir(name) {
				twin = other
			}
		}
		flipped := slices.Clone(original)
		flipped[len(flipped)/2] ^= 1
		for what, altered := range map[string][]byte{"a flipped bit": flipped, "half": original[:len(original)/2], "another object": object(twin)} {
			if err := errors.Join(f.store.Delete(t.Context(), name), f.store.Put(t.Context(), name, altered)); err != nil {
				t.Fatal(err)
			}
			if !harmless(t, f, name, ids, data) {
				t.Errorf("%s instead of %s was believed", what, name)
			}
		}
		if err := errors.Join(f.store.Delete(t.Context(), name), f.store.Put(t.Context(), name, original)); err != nil {
			t.Fatal(err)
		}
	}
	check(t, r, ids, data)
}

// harmless says whether everything still reads right, or something says that it does not.
func harmless(t *testing.T, f fixture, name string, ids []chunk.ID, want [][]byte) bool {
	r, err := Open(t.Context(), f.store, f.id)
	if err != nil {
		return true
	}
	v, err := r.OpenView(t.Context(), "", "main")
	if err != nil {
		return true
	}
	defer func() { _ = v.Close() }()
	for i, id := range ids {
		got, err := readChunk(t.Context(), v, id)
		if err != nil {
			return true
		}
		if !bytes.Equal(got, want[i]) {
			return false
		}
	}
	var bad error
	if err := r.Commits(t.Context(), "", func(c Commit) error { bad = errors.Join(bad, c.Err); return nil }); err != nil || bad != nil {
		return true
	}
	all, err := r.Keys(t.Context())
	if err != nil || slices.ContainsFunc(all, func(k Key) bool { return k.Err != nil }) {
		return true
	}
	// Sessions are not opened by readers; a pack's own sections only by those who list it, or rebuild the index.
	return strings.HasPrefix(name, sessionsPrefix) || r.packOpens(t.Context(), name) != nil
}

func (r *Repo) packOpens(ctx context.Context, name string) error {
	if !strings.HasPrefix(name, packsPrefix) {
		return nil
	}
	_, err := r.PackDirectory(ctx, name)
	return err
}
