package s3

import (
	"errors"
	"fmt"
	"strings"

	"github.com/minio/minio-go/v7/pkg/s3utils"

	"github.com/pgtrove/pgtrove/storage"
)

// Scheme begins the name of every repository that this package opens.
const Scheme = "s3://"

// maxPrefix leaves room for the longest key in the 1024 bytes that S3 allows, in bytes.
const maxPrefix = 1024 - storage.MaxKey - 1

// ErrOptions is what is wrong with Options or with the environment they are completed from: asking again is of no use.
var ErrOptions = errors.New("S3 settings")

// Location is a bucket, or a part of one.
type Location struct {
	Bucket string
	Prefix string // without slashes at its ends; "" is the whole bucket
}

// ParseLocation reads s3://bucket/prefix. Errors are ErrOptions, and never repeat a user name or password that somebody wrote into
// the address.
func ParseLocation(s string) (Location, error) {
	rest, ok := strings.CutPrefix(s, Scheme)
	if !ok {
		return Location{}, fmt.Errorf("%w: the address does not begin with %s", ErrOptions, Scheme)
	}
	bucket, prefix, _ := strings.Cut(rest, "/")
	if strings.ContainsAny(bucket, "@:") {
		return Location{}, fmt.Errorf("%w: the address begins with the bucket: keys and hosts do not belong into it", ErrOptions)
	}
	if err := s3utils.CheckValidBucketName(bucket); err != nil {
		return Location{}, fmt.Errorf("%w: bucket %q: %w", ErrOptions, bucket, err)
	}
	prefix = strings.TrimSuffix(prefix, "/")
	if prefix == "" {
		return Location{Bucket: bucket}, nil
	}
	if err := storage.CheckKey(prefix); err != nil {
		return Location{}, fmt.Errorf("%w: prefix: %w", ErrOptions, err)
	}
	if len(prefix) > maxPrefix {
		return Location{}, fmt.Errorf("%w: the prefix has %d bytes, at most %d are possible", ErrOptions, len(prefix), maxPrefix)
	}
	return Location{Bucket: bucket, Prefix: prefix}, nil
}

// String is what ParseLocation reads.
func (l Location) String() string {
	if l.Prefix == "" {
		return Scheme + l.Bucket
	}
	return Scheme + l.Bucket + "/" + l.Prefix
}
