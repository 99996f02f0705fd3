package repo

import (
	"context"
	"fmt"
	"strings"

	"github.com/pgtrove/pgtrove/storage"
)

// Payload returns what is sealed in a session, an index segment or an outcome, for people to look at. Packs and archive
// files have directories instead (PackDirectory, ArchiveHeader), config is plain (Config), and a key bundle is read
// with Raw. ErrMissing: there is no such object, or none of these kinds is called so.
func (r *Repo) Payload(ctx context.Context, key string) ([]byte, error) {
	for prefix, kind := range map[string]objectKind{
		sessionsPrefix: kindSession, indexPrefix: kindIndex, snapshotsPrefix: kindOutcome,
	} {
		if strings.HasPrefix(key, prefix) {
			return r.get(ctx, kind, key)
		}
	}
	return nil, fmt.Errorf("%w: %s is not a session's, an index segment's or an outcome's name", ErrMissing, key)
}

// Raw returns the bytes of an object as they are stored.
func (r *Repo) Raw(ctx context.Context, key string) ([]byte, error) {
	b, err := r.store.Get(ctx, key, storage.Range{}, nil)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	return b, nil
}
