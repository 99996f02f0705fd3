package pgsource_test

import (
	"context"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/pgsource"
	"github.com/pgtrove/pgtrove/snapshot"
	"github.com/pgtrove/pgtrove/test/pgtest"
)

// discard is a repository that keeps nothing but counts.
type discard struct {
	hasher       *chunk.Hasher
	pages, bytes *atomic.Int64
}

func (d discard) Pages(_ context.Context, form chunk.Form, digests []chunk.Digest, pages []byte) (chunk.ID, error) {
	d.pages.Add(int64(len(pages)))
	return d.hasher.RunID(digests), nil
}

func (d discard) Bytes(_ context.Context, plain []byte) (chunk.ID, error) {
	d.bytes.Add(int64(len(plain)))
	return d.hasher.StreamID(plain), nil
}

func (d discard) Meta(_ context.Context, plain []byte) (chunk.ID, error) {
	return d.hasher.StreamID(plain), nil
}

func TestTakeReadsTheSources(t *testing.T) {
	eachVersion(t, func(t *testing.T, version string) {
		s := running(t, version, pgtest.Options{})
		s.Exec(t, "CREATE TABLE l AS SELECT generate_series(1, 10000) AS n")
		s.Exec(t, "CHECKPOINT")
		path := s.Query(t, "SELECT pg_relation_filepath('l')")
		f, err := os.OpenFile(filepath.Join(s.Dir, path), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteAt([]byte("damage"), 3*blockSize+4000); err != nil {
			t.Fatal(err)
		}

		b := start(t, connect(t, s))
		files, err := b.Files(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var key chunk.Key
		var pages, bytes atomic.Int64
		var result *snapshot.Result
		err = b.Guard(t.Context(), func(ctx context.Context) (err error) {
			result, err = snapshot.Take(ctx, b.Sources(ctx, files, b.Verifier(), nil), snapshot.Options{Jobs: 2, Key: key,
				NewWriter: func() (snapshot.Writer, error) { return discard{chunk.NewHasher(key), &pages, &bytes}, nil }})
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		var size, count int64
		for _, f := range files {
			if f.Entry.Type == snapshot.File {
				size += f.Entry.Size
				count++
			}
		}
		if result.Files < count-5 || result.Files > count || result.Size < size*9/10 || pages.Load() == 0 || bytes.Load() < 8192 {
			t.Errorf("took %+v of %d files with %d bytes: %d in pages, %d others", result, count, size, pages.Load(), bytes.Load())
		}
		if len(result.Damaged) != 1 || result.Damaged[0].Path != "data/"+path || result.Damaged[0].Block != 3 {
			t.Errorf("damaged %+v", result.Damaged)
		}
		if _, err := b.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

var _ snapshot.Content = (*pgsource.Content)(nil)
