package repo

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/keys"
)

// pagesAs stores pages under the name of what the digests are of, and says how much of it was new.
func pagesAs(t *testing.T, r *Repo, cluster string, digests []chunk.Digest, pages []byte) (id chunk.ID, added int64) {
	t.Helper()
	o := options()
	o.Cluster = cluster
	must(t, r.Write(t.Context(), o, func(ctx context.Context, s *Session) error {
		w, err := s.NewWriter()
		if err != nil {
			return err
		}
		if id, err = w.Pages(ctx, 13, digests, pages); err != nil {
			return err
		}
		err = commitIDs(ctx, s, []chunk.ID{id})
		added = s.Added().Plain
		return err
	}))
	return id, added
}

// TestAPoisonedChunkIsFoundAndHealed: a host of the same trust group stores what is not what its name says, before another host stores that. The other takes its word, as
// whoever opens no contents must; but the first who reads it notices.
func TestAPoisonedChunkIsFoundAndHealed(t *testing.T) {
	g := newGrouped(t)
	thief := g.holder(t, g.a.config, issue(t, g.owner.bundle, "thief", keys.Writer, ""))
	good, bad := pieces(81, 1)[0], pieces(82, 1)[0]
	digests := chunk.NewHasher(g.a.IDKey()).PageDigests(nil, 13, good)

	poisoned, wrong := pagesAs(t, thief, "other", digests, bad)
	id, added := pagesAs(t, g.a, "main", digests, good)
	if id != poisoned || wrong == 0 || added != 0 {
		t.Fatalf("chunk %s, %d and %d bytes stored: nothing was poisoned", id, wrong, added)
	}
	read := func() ([]byte, error) {
		v := openView(t, g.owner, "")
		defer func() { must(t, v.Close()) }()
		return readChunk(t.Context(), v, id)
	}
	if got, err := read(); !errors.Is(err, ErrDamaged) {
		t.Fatalf("the wrong pages are read as the right ones: %t, %v", bytes.Equal(got, bad), err)
	}
	v := openView(t, g.owner, "")
	loc, err := v.Locate(id)
	must(t, err)
	must(t, v.Close())
	if report, err := repair(t, g.owner, loc.Pack); err != nil || len(report.Marked) != 1 {
		t.Fatalf("repair: %+v, %v", report, err)
	}
	if _, added = pagesAs(t, g.a, "main", digests, good); added != int64(len(good)) {
		t.Errorf("the next backup stored %d bytes of %d", added, len(good))
	}
	if got, err := read(); err != nil || !bytes.Equal(got, good) {
		t.Errorf("after it: %v", err)
	}
}
