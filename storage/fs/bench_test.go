package fs_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/pgtrove/pgtrove/storage"
	"github.com/pgtrove/pgtrove/storage/fs"
)

func benchRepository(b *testing.B) (*fs.Store, string) {
	b.Helper()
	root := b.TempDir()
	s, err := fs.Create(root)
	if err != nil {
		b.Fatal(err)
	}
	if err := s.Put(b.Context(), storage.ConfigKey, nil); err != nil {
		b.Fatal(err)
	}
	return s, root
}

func BenchmarkPutPack(b *testing.B) {
	s, _ := benchRepository(b)
	data := make([]byte, 32<<20)
	b.SetBytes(int64(len(data)))
	for i := 0; b.Loop(); i++ {
		key := fmt.Sprintf("packs/a/%d", i)
		if err := s.Put(b.Context(), key, data); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := s.Delete(b.Context(), key); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

func BenchmarkGetChunk(b *testing.B) {
	s, _ := benchRepository(b)
	if err := s.Put(b.Context(), "packs/a/1", make([]byte, 32<<20)); err != nil {
		b.Fatal(err)
	}
	const n = 64 << 10
	dst := make([]byte, 0, n)
	b.SetBytes(n)
	b.ReportAllocs()
	for i := int64(0); b.Loop(); i++ {
		if _, err := s.Get(b.Context(), "packs/a/1", storage.Range{Off: i % 500 * n, Len: n}, dst); err != nil {
			b.Fatal(err)
		}
	}
}

// What wal fetch does when PostgreSQL asks for a file that is not there.
func BenchmarkGetAbsent(b *testing.B) {
	s, _ := benchRepository(b)
	for b.Loop() {
		if _, err := s.Get(b.Context(), "wal/main/1/00000002.history", storage.Range{}, nil); err == nil {
			b.Fatal("it is there")
		}
	}
}

// One operation is a listing of 100,000 objects in 100 directories.
func BenchmarkList(b *testing.B) {
	s, root := benchRepository(b)
	for i := range 100 {
		dir := filepath.Join(root, "packs", fmt.Sprint(i))
		if err := os.MkdirAll(dir, 0o700); err != nil {
			b.Fatal(err)
		}
		for j := range 1000 {
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(j)), nil, 0o600); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		n := 0
		err := s.List(b.Context(), "packs/", func(storage.Info) error { n++; return nil })
		if err != nil || n != 100_000 {
			b.Fatal(n, err)
		}
	}
}
