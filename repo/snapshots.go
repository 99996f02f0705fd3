package repo

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/pgtrove/pgtrove/storage"
)

// Commit is the payload of a committed session.
type Commit struct {
	Cluster  string
	ID       string
	Manifest []byte
	Err      error // the object is there but does not open or parse; Manifest is nil
}

// Commits calls fn for every committed session of a cluster, or of all clusters where cluster is "", in order of
// name: by cluster, and in each by the time of the session. A session without the object sessions/<sid> does not
// count; a commit that is damaged is reported, not passed over.
func (r *Repo) Commits(ctx context.Context, cluster string, fn func(Commit) error) error {
	prefix := snapshotsPrefix
	if cluster != "" {
		prefix += cluster + "/"
	}
	var names []string
	if err := r.store.List(ctx, prefix, func(i storage.Info) error {
		names = append(names, i.Key)
		return nil
	}); err != nil {
		return fmt.Errorf("list snapshots: %w", err)
	}
	sessions, err := r.sessions(ctx)
	if err != nil {
		return err
	}
	for _, key := range names {
		cluster, sid, ok := strings.Cut(strings.TrimPrefix(key, snapshotsPrefix), "/")
		if !ok || !sessions[sid] {
			continue
		}
		o, err := r.outcome(ctx, key)
		switch {
		case errors.Is(err, storage.ErrNotExist):
			continue // removed since
		case errors.Is(err, ErrDamaged):
			err = fn(Commit{Cluster: cluster, ID: sid, Err: err})
		case err != nil:
			return err
		case o.Outcome == outcomeSnapshot:
			err = fn(Commit{Cluster: cluster, ID: sid, Manifest: o.Manifest})
		}
		if err != nil {
			return err
		}
	}
	return nil
}
