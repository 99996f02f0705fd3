package repo

import (
	"context"
	"errors"
	"testing"

	"github.com/pgtrove/pgtrove/chunk"
)

// TestWhatASessionFindsLostItStoresAgain: metadata and page digests whose pack is gone or altered. The index still names them; the session
// that noticed must not refer to them, and readers find what it stored.
func TestWhatASessionFindsLostItStoresAgain(t *testing.T) {
	for _, altered := range []bool{false, true} {
		f := newFixture(t)
		r := f.open(t, f.store)
		runs := makeRuns(r, 1, 20)
		text := []byte("a listing")
		var meta chunk.ID
		write := func(ctx context.Context, s *Session) error {
			w, err := s.NewWriter()
			if err != nil {
				return err
			}
			meta, err = w.Meta(ctx, text)
			return errors.Join(err, writing(runs)(ctx, s))
		}
		first := commit(t, r, at(0, ""), write)
		for _, key := range packsOf(t, f.store, first) {
			replace(t, f.store, key, func(b []byte) []byte {
				if !altered {
					return nil
				}
				for i := range b {
					b[i] ^= 1
				}
				return b
			})
		}
		second := commit(t, r, at(1, ""), func(ctx context.Context, s *Session) error {
			if _, err := s.MetaChunk(ctx, meta); !isLoss(err) {
				t.Errorf("altered %v: metadata that is lost: %v", altered, err)
			}
			if err := s.PageDigests(ctx, runIDs(runs), func(chunk.ID, []chunk.Prefix) error { return nil }); !isLoss(err) {
				t.Errorf("altered %v: digests that are lost: %v", altered, err)
			}
			missing, err := s.Missing(ctx, meta, func(context.Context) ([]chunk.ID, error) { return runIDs(runs), nil })
			if len(missing) != len(runs) || err != nil {
				t.Errorf("altered %v: %d chunks are missing, %v", altered, len(missing), err)
			}
			return write(ctx, s)
		})
		if n := len(packsOf(t, f.store, second)); n < 2 {
			t.Errorf("altered %v: %d packs were written", altered, n)
		}
		v, err := r.OpenView(t.Context(), "", "")
		if err != nil {
			t.Fatal(err)
		}
		if b, err := v.MetaChunk(t.Context(), meta); string(b) != string(text) || err != nil {
			t.Errorf("altered %v: %q, %v", altered, b, err)
		}
		if err := v.Close(); err != nil {
			t.Fatal(err)
		}
		checkRuns(t, r, runs)
	}
}
