package repo

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/index"
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

// BenchmarkMissing asks about one of a terabyte's thousand recipes, of 8192 chunks, in an index of a few of them.
func BenchmarkMissing(b *testing.B) {
	_, r := benchRepo(b)
	ids := make([]chunk.ID, 8192)
	commit(b, r, at(0, b.TempDir()), func(ctx context.Context, s *Session) error {
		number, err := s.view.begin()
		if err != nil {
			return err
		}
		for n := range 8 * 16 {
			p := index.Pack{Key: fmt.Sprintf("packs/bench/%d", n)}
			p.Kind = pack.Data
			p.Sessions = []pack.Session{{SID: "bench", Encapsulation: bytes.Repeat([]byte{1}, 1120)}}
			for i := range 512 {
				e := pack.Entry{Form: testForm, Offset: uint32(p.End()), Sealed: 60_000, Plain: 16 << testForm}
				binary.BigEndian.PutUint64(e.ID[:], uint64(n<<9+i)*0x9e3779b97f4a7c15)
				p.Entries = append(p.Entries, e)
				if at := n<<9 + i; at < len(ids) {
					ids[at] = e.ID
				}
			}
			p.Size = p.End() + 100_000
			if err := s.view.cache.AddPack(number, p); err != nil {
				return err
			}
		}
		for _, what := range []string{"cold", "proven"} {
			b.Run(what, func(b *testing.B) {
				b.ReportAllocs()
				n := uint64(0)
				for b.Loop() {
					if what == "cold" {
						n++
					}
					recipe := chunk.ID{1}
					binary.BigEndian.PutUint64(recipe[8:], n)
					missing, err := s.Missing(ctx, recipe, func(context.Context) ([]chunk.ID, error) { return ids, nil })
					if missing != nil || err != nil {
						b.Fatal(len(missing), err)
					}
				}
			})
		}
		return nil
	})
}

func benchRepo(b *testing.B) (fixture, *Repo) {
	f := newFixture(b)
	f.store = mem.New(nil)
	r, err := Init(b.Context(), f.store, f.id.(*age.X25519Identity).Recipient(), time.Now())
	if err != nil {
		b.Fatal(err)
	}
	return f, r
}

// BenchmarkNotes keeps and recalls what a unit of 64 MiB has of page digests: 64 KiB.
func BenchmarkNotes(b *testing.B) {
	_, r := benchRepo(b)
	value := pieces(1, 1)[0]
	commit(b, r, at(0, b.TempDir()), func(_ context.Context, s *Session) error {
		n := 0
		key := func(i int) chunk.ID { return chunk.ID{byte(i), byte(i >> 8), byte(i >> 16), 1} }
		b.Run("remember", func(b *testing.B) {
			b.SetBytes(int64(len(value)))
			b.ReportAllocs()
			for b.Loop() {
				s.Remember(key(n), value)
				n++
			}
		})
		b.Run("recall", func(b *testing.B) {
			b.SetBytes(int64(len(value)))
			b.ReportAllocs()
			var buf []byte
			i := 0
			for b.Loop() {
				if buf = s.Recall(key(i%n), buf[:0]); len(buf) != len(value) {
					b.Fatal("forgotten")
				}
				i++
			}
		})
		return nil
	})
}

// BenchmarkPageDigests asks for the digests of a file of 1 GiB, of which every eighth page was gathered into other packs.
func BenchmarkPageDigests(b *testing.B) {
	_, r := benchRepo(b)
	h := chunk.NewHasher(r.IDKey())
	var ids []chunk.ID
	page := bytes.Repeat([]byte{1}, 16<<13)
	commit(b, r, at(0, ""), func(ctx context.Context, s *Session) error {
		w, err := s.NewWriter()
		if err != nil {
			return err
		}
		random := pieces(1, 1)[0]
		for i := range 8192 {
			copy(page, random[i%8192:i%8192+4000]) // so that chunks have some size, and differ
			page[0], page[1] = byte(i), byte(i>>8)
			id, err := w.Pages(ctx, testForm, h.PageDigests(nil, testForm, page), page)
			if err != nil {
				return err
			}
			ids = append(ids, id)
		}
		return nil
	})
	for what, keep := range map[string]bool{"read": false, "kept": true} {
		b.Run(what, func(b *testing.B) {
			v := openView(b, r, "")
			b.ReportAllocs()
			for b.Loop() {
				if !keep {
					v.digests = digestCache{}
				}
				n := 0
				if err := v.PageDigests(b.Context(), ids, func(_ chunk.ID, d []chunk.Prefix) error { n += len(d); return nil }); err != nil || n != 8192*16 {
					b.Fatal(n, err)
				}
			}
		})
	}
}
