package s3

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/pgtrove/pgtrove/storage"
)

// Retain sets for how long nobody may delete what is put from now on (governance mode), in the place of Options.ObjectLock; 0: no retention but what
// the bucket sets. It is for who learns it from an object of the storage, before others use the Store.
func (s *Store) Retain(d time.Duration) {
	s.put.lock = d
	if d > 0 && s.put.checksum == checksumNone {
		s.put.checksum = checksumMD5 // S3 takes no object with a retention without one
	}
}

// Lock implements storage.Locker: in governance mode, or in the stricter one that the object is in already. It takes two requests, one if the object is
// kept for long enough: not every server that takes a retention keeps one from being shortened by it. To see it the account needs the permission
// GetObjectRetention; without it, only the server's own refusal to shorten is left.
func (s *Store) Lock(ctx context.Context, key string, until time.Time) error {
	ctx, err := begin(ctx, "lock", key, storage.CheckKey)
	if err != nil {
		return err
	}
	until = until.UTC().Truncate(time.Second)
	mode := minio.Governance
	// Not GetObjectRetention, of whose answers the library knows only AWS's.
	info, err := s.core.StatObject(ctx, s.bucket, s.prefix+key, minio.StatObjectOptions{})
	var refused minio.ErrorResponse
	switch {
	case err == nil:
		if !keptUntil(info).Before(until) {
			return nil
		}
		if minio.RetentionMode(info.Metadata.Get("X-Amz-Object-Lock-Mode")) == minio.Compliance {
			mode = minio.Compliance // which is never turned into the other one
		}
	case errors.As(err, &refused) && (refused.StatusCode == http.StatusNotFound || class("lock", refused) != storage.ErrUnreachable):
		// An answer without a word, to this kind of request. The next one says why.
	default:
		return wrap(ctx, "lock", key, err)
	}
	err = s.core.PutObjectRetention(ctx, s.bucket, s.prefix+key, minio.PutObjectRetentionOptions{Mode: &mode, RetainUntilDate: &until})
	if err != nil {
		return wrap(ctx, "lock", key, err)
	}
	return nil
}

// keptUntil is the end of an object's retention, the zero time if it has none, or this account may not see it.
func keptUntil(info minio.ObjectInfo) time.Time {
	t, _ := time.Parse(time.RFC3339, info.Metadata.Get("X-Amz-Object-Lock-Retain-Until-Date"))
	return t
}

var _ storage.Locker = (*Store)(nil)
