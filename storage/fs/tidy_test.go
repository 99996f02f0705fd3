package fs_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/internal/durable"
	"github.com/pgtrove/pgtrove/storage"
	"github.com/pgtrove/pgtrove/storage/fs"
)

func TestTidyRemovesWhatKilledWritersLeft(t *testing.T) {
	root := filepath.Join(t.TempDir(), "repo")
	s, err := fs.Create(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{storage.ConfigKey, "packs/a/0", "packs/b/0"} {
		if err := s.Put(t.Context(), key, []byte("content")); err != nil {
			t.Fatal(err)
		}
	}
	old := time.Now().Add(-48 * time.Hour)
	temp := func(dir string, at time.Time) string {
		path := filepath.Join(root, dir, durable.TempPrefix+"123")
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
		return path
	}
	dead, alone, fresh := temp("packs/a", old), temp("packs/gone", old), temp("packs/b", time.Now())
	linked := filepath.Join(root, "packs/b", durable.TempPrefix+"link")
	if err := os.Link(filepath.Join(root, "packs/b/0"), linked); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(linked, old, old); err != nil {
		t.Fatal(err)
	}
	files, bytes, err := s.Tidy(t.Context(), time.Now().Add(-24*time.Hour))
	if err != nil || files != 3 || bytes != 4+4+7 {
		t.Errorf("%d files, %d bytes, %v", files, bytes, err)
	}
	for path, want := range map[string]bool{dead: false, alone: false, linked: false, filepath.Dir(alone): false, fresh: true} {
		if _, err := os.Lstat(path); (err == nil) != want {
			t.Errorf("%s: %v", path, err)
		}
	}
	for _, key := range []string{"packs/a/0", "packs/b/0"} {
		if b, err := s.Get(t.Context(), key, storage.Range{}, nil); err != nil || string(b) != "content" {
			t.Errorf("%s: %q, %v", key, b, err)
		}
	}
}
