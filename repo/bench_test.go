package repo

import (
	"context"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/pack"
	"github.com/pgtrove/pgtrove/storage/mem"
)

func BenchmarkSession(b *testing.B) {
	f := newFixture(b)
	data := pieces(1, 512)
	h := chunk.NewHasher(chunk.Key{1})
	var digests [][]chunk.Digest
	for _, p := range data {
		digests = append(digests, h.PageDigests(nil, 13, p))
	}
	b.SetBytes(512 * 64 << 10)
	b.ReportAllocs()
	for b.Loop() {
		f.store = mem.New(nil)
		if _, err := Init(b.Context(), f.store, f.id.(*age.X25519Identity).Recipient(), time.Now()); err != nil {
			b.Fatal(err)
		}
		r := f.open(b, f.store)
		r.config.Params.PackSize = pack.TargetSize
		err := r.Write(b.Context(), options(), func(ctx context.Context, s *Session) error {
			w, err := s.NewWriter()
			if err != nil {
				return err
			}
			for i := range data {
				if _, err := w.Pages(ctx, 13, digests[i], data[i]); err != nil {
					return err
				}
			}
			return s.Commit(ctx, []byte("1"))
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}
