package main

import (
	"context"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/snapshot"
	"github.com/pgtrove/pgtrove/storage/mem"
)

// newMemRepo makes a repository in memory.
func newMemRepo(t *testing.T) *repo.Repo {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	store := mem.New(nil)
	if _, err := repo.Init(t.Context(), store, id.Recipient(), time.Now()); err != nil {
		t.Fatal(err)
	}
	r, err := repo.Open(t.Context(), store, id)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// write runs fn, nil for nothing, in a session that commits a snapshot of a system under the name main, and returns the snapshot's ID. minute is
// when it begins.
func write(t *testing.T, r *repo.Repo, minute int, system pg.SystemID, fn func(ctx context.Context, s *repo.Session)) (id string) {
	t.Helper()
	o := repo.SessionOptions{Cluster: "main", Host: "test", Now: func() time.Time { return time.Date(2026, 1, 1, 0, minute, 0, 0, time.UTC) }}
	if err := r.Write(t.Context(), o, func(ctx context.Context, s *repo.Session) error {
		id = s.ID()
		if fn != nil {
			fn(ctx, s)
		}
		m := snapshot.Manifest{
			Version: snapshot.Version, ID: id, Cluster: "main", BackupLabel: []byte("x"), Root: snapshot.Root{Chunks: []chunk.ID{{1}}},
			Server: snapshot.Server{SystemID: system, BlockSize: 8192, WALSegmentSize: 16 << 20},
		}
		text, err := m.Marshal()
		if err != nil {
			return err
		}
		return s.Commit(ctx, text)
	}); err != nil {
		t.Fatal(err)
	}
	return id
}

func TestABackupBuildsUponWhatWasThereWhenItBegan(t *testing.T) {
	const own, foreign = 7, 8
	r := newMemRepo(t)
	parent := func(ctx context.Context, s *repo.Session) string {
		t.Helper()
		m, err := newestSeen(ctx, r, s, "main", own)
		if err != nil {
			t.Fatal(err)
		}
		if m == nil {
			return ""
		}
		return m.ID
	}
	var other string
	write(t, r, 1, own, func(ctx context.Context, s *repo.Session) {
		if got := parent(ctx, s); got != "" {
			t.Errorf("the first builds upon %s", got)
		}
		other = write(t, r, 2, own, nil) // another host, of the same name
		if got := parent(ctx, s); got != "" {
			t.Errorf("it builds upon %s, which was not there when it began", got)
		}
	})
	write(t, r, 3, foreign, nil)
	write(t, r, 4, own, func(ctx context.Context, s *repo.Session) {
		write(t, r, 5, own, nil)
		if got := parent(ctx, s); got != other {
			t.Errorf("it builds upon %s, the newest when it began was %s", got, other)
		}
	})
}
