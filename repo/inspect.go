package repo

import (
	"context"
	"fmt"
	"strings"

	"github.com/pgtrove/pgtrove/storage"
)

// Payload returns what is sealed in an object, for people to look at: in a session, an index segment or a shard of the compacted index, an
// outcome, a prune run, a request to forget or to pin, or what an owner says of a key. Packs and archive
// files have directories instead (PackDirectory, ArchiveHeader), config is plain (Config), and a key bundle is read
// with Raw. ErrMissing: there is no such object, or none of these kinds is called so.
func (r *Repo) Payload(ctx context.Context, key string) ([]byte, error) {
	for prefix, kind := range map[string]objectKind{
		sessionsPrefix: kindSession, indexPrefix: kindIndex, basePrefix: kindIndex, snapshotsPrefix: kindOutcome,
		gcPrefix: kindGC, forgetPrefix: kindMark, pinsPrefix: kindMark,
	} {
		if strings.HasPrefix(key, prefix) {
			return r.get(ctx, kind, key)
		}
	}
	if entry, record, number, ok := parseKeyName(key); ok {
		switch {
		case record != "":
			return r.getCertified(ctx, key, record)
		case entry == "" && number > 0:
			return r.getCertified(ctx, key, generationName)
		}
	}
	return nil, fmt.Errorf("%w: %s is not the name of a sealed object", ErrMissing, key)
}

// LastValid lists the snapshots that counted by the newest prune run, whether they are still there or not: Cluster and ID only.
func (r *Repo) LastValid(ctx context.Context) ([]Commit, error) {
	run, err := r.newestRun(ctx)
	if err != nil {
		return nil, err
	}
	var all []Commit
	for _, v := range run.Valid {
		all = append(all, Commit{Cluster: v.Cluster, ID: v.ID})
	}
	return all, nil
}

// LastExpired lists the snapshots that the newest prune run has ended, and the next one removes: Cluster and ID only.
func (r *Repo) LastExpired(ctx context.Context) ([]Commit, error) {
	run, err := r.newestRun(ctx)
	if err != nil {
		return nil, err
	}
	var all []Commit
	for _, e := range run.Expired {
		all = append(all, Commit{Cluster: e.Cluster, ID: e.ID})
	}
	return all, nil
}

// Raw returns the bytes of an object as they are stored.
func (r *Repo) Raw(ctx context.Context, key string) ([]byte, error) {
	b, err := r.store.Get(ctx, key, storage.Range{}, nil)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	return b, nil
}
