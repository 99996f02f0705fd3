package main

import (
	"context"
	"fmt"

	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/pgsource"
	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/storage"
	"github.com/pgtrove/pgtrove/walarchive"
)

// stayingWAL is the archive as a backup sees it: what a prune is about to delete, because no snapshot needed it when the session began, is
// not there for it.
type stayingWAL struct {
	walObjects
	loses func(key string) bool
}

// ArchiveHeader implements walarchive.Objects.
func (w stayingWAL) ArchiveHeader(ctx context.Context, key string) ([]byte, int64, error) {
	if w.loses(key) {
		return nil, 0, asArchive(fmt.Errorf("%w: %s is about to be removed by a prune", storage.ErrNotExist, key))
	}
	return w.walObjects.ArchiveHeader(ctx, key)
}

// GetArchive implements walarchive.Objects.
func (w stayingWAL) GetArchive(ctx context.Context, key string) (header, content []byte, err error) {
	if w.loses(key) {
		return nil, nil, asArchive(fmt.Errorf("%w: %s is about to be removed by a prune", storage.ErrNotExist, key))
	}
	return w.walObjects.GetArchive(ctx, key)
}

// List implements walarchive.Objects.
func (w stayingWAL) List(ctx context.Context, prefix string, fn func(key string, size int64) error) error {
	return w.walObjects.List(ctx, prefix, func(key string, size int64) error {
		if w.loses(key) {
			return nil
		}
		return fn(key, size)
	})
}

// stayingArchive is where a session looks for the WAL of its backup.
func (b *backupRun) stayingArchive(s *repo.Session) walarchive.Archive {
	k := archiveKey{b.name, b.cluster.Info().SystemID}
	return walarchive.Archive{Objects: stayingWAL{walObjects{b.repo}, s.LosesWAL}, Cluster: k.cluster, System: k.system}
}

// mustKeepWAL refuses, before anything is read, a backup whose WAL is about to be removed. Only a standby begins so early: at its last restart
// point, which may lie before all snapshots that are left.
func mustKeepWAL(s *repo.Session, a walarchive.Archive, backup *pgsource.Backup, size pg.SegmentSize) error {
	file := pg.SegmentOf(backup.Timeline, backup.StartLSN, size).Name(size)
	n, err := walarchive.ParseName(file)
	if err != nil || !s.LosesWAL(a.Key(n)) {
		return err
	}
	return withHint(refused("the backup would begin in WAL segment %s, which no snapshot needed when a prune looked, and which the next one removes", file),
		"a standby begins at its last restart point: CHECKPOINT on the primary, and once the standby has replayed that, CHECKPOINT on the standby; then back up again")
}
