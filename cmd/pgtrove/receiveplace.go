package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/storage"
	"github.com/pgtrove/pgtrove/walarchive"
)

// errReplaced says that another repository stands where the one was that was opened.
var errReplaced = errors.New("another repository has taken the place of the one that was opened")

// standingObjects are those of a repository that stays open for months, and of which it must be true of all that was stored that it is in the repository that stands there: the
// server is told, and removes its WAL. So a put has succeeded only if the repository's config was seen to be its own by a look that began after the put. What was put for nothing,
// sealed with the keys of the old one, would take a name in the new one: so a put also begins with a look, unless there was one in the last second.
type standingObjects struct {
	walarchive.Objects
	store storage.Store
	id    string         // of the repository that was opened
	seen  chan time.Time // holds when the last look began that found it there; who has it looks
}

func newStandingObjects(store storage.Store, r *repo.Repo) *standingObjects {
	s := &standingObjects{Objects: walObjects{r}, store: store, id: r.Config().ID, seen: make(chan time.Time, 1)}
	s.seen <- time.Time{}
	return s
}

// seenLately is for how long a look says enough of what is put next.
const seenLately = time.Second

// PutArchive implements walarchive.Objects. Errors also: errReplaced.
func (s *standingObjects) PutArchive(ctx context.Context, key string, header, content []byte) (same bool, err error) {
	if err := s.stood(ctx, time.Now().Add(-seenLately)); err != nil {
		return false, err
	}
	same, err = s.Objects.PutArchive(ctx, key, header, content)
	if err != nil && !errors.Is(err, walarchive.ErrConflict) && !outdated(err) {
		return same, err
	}
	if stood := s.stood(ctx, time.Now()); stood != nil {
		return false, stood
	}
	return same, err
}

// stood makes sure that the repository was there at that time or later. Several that ask at once share a look where one serves all.
func (s *standingObjects) stood(ctx context.Context, at time.Time) error {
	var seen time.Time
	select {
	case seen = <-s.seen:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { s.seen <- seen }()
	if seen.After(at) {
		return nil
	}
	begun := time.Now()
	config, err := repo.ReadConfig(ctx, s.store)
	if err != nil {
		return fmt.Errorf("see whether the repository is still there: %w", err)
	}
	if config.ID != s.id {
		return fmt.Errorf("%w: its ID is %s, that of the other was %s", errReplaced, config.ID, s.id)
	}
	seen = begun
	return nil
}
