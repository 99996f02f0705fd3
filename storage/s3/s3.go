// Package s3 is a Store on S3-compatible object storage, by minio-go.
//
// Creating depends on the storage's conditional writes: every object is one PUT of known size with If-None-Match: *, never a multipart upload, for
// which the condition is lost on some servers. storage.SelfTest tells whether a storage honours it. It never retries, and turns the
// client's own retries off: only the caller knows what a repeated PUT may find. Nothing that it returns holds a
// secret. It is used by cmd, beside storage/fs.
package s3

import (
	"bytes"
	"context"
	"crypto/md5" //nolint:gosec // S3's own check of a transfer
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"net/http"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/encrypt"

	"github.com/pgtrove/pgtrove/storage"
)

// Store is a bucket, or the part of it under a prefix. Use Open.
type Store struct {
	core   minio.Core
	bucket string
	prefix string // "" or ends in a slash
	put    putSettings
}

type putSettings struct {
	class    string
	encrypt  encrypt.ServerSide
	checksum string
	lock     time.Duration // retention of what is written; 0: none
	sign     bool          // the body too: without TLS, nothing else vouches for it
}

// What Options.Checksum can be.
const (
	checksumCRC32C = "crc32c"
	checksumMD5    = "md5"
	checksumNone   = "none"
)

// maxPut is the largest object that one PUT takes, in bytes.
const maxPut = 5 << 30

// A Put is repeated this often when the server refused it because another call was under way (isConflict), after waits that
// grow by this much.
const (
	conflictTries = 20
	conflictWait  = 20 * time.Millisecond
)

// Get implements storage.Store: one request, and a second one where a server refuses the last bytes of an object that has fewer.
func (s *Store) Get(ctx context.Context, key string, r storage.Range, dst []byte) ([]byte, error) {
	ctx, err := begin(ctx, "get", key, storage.CheckKey)
	if err != nil {
		return nil, err
	}
	body, info, header, err := s.ask(ctx, key, rangeHeader(r))
	if isPastEnd(err) {
		if r.Off >= 0 {
			return dst, nil // the object is there, and has nothing of that range
		}
		body, info, header, err = s.ask(ctx, key, "")
	}
	if err != nil {
		return nil, wrap(ctx, "get", key, err)
	}
	defer body.Close()
	skip, n, err := place(r, info.Size, header)
	if err != nil {
		return nil, wrap(ctx, "get", key, err)
	}
	if _, err := io.CopyN(io.Discard, body, skip); err != nil {
		return nil, wrap(ctx, "get", key, fmt.Errorf("in the middle of the answer: %w", err))
	}
	out := dst
	if int64(cap(dst)-len(dst)) < n {
		out = make([]byte, len(dst), int64(len(dst))+n)
		copy(out, dst)
	}
	out = out[:int64(len(dst))+n]
	if _, err := io.ReadFull(body, out[len(dst):]); err != nil {
		return nil, wrap(ctx, "get", key, fmt.Errorf("in the middle of the answer: %w", err))
	}
	return out, nil
}

func (s *Store) ask(ctx context.Context, key, part string) (io.ReadCloser, minio.ObjectInfo, http.Header, error) {
	var o minio.GetObjectOptions
	if part != "" {
		o.Set("Range", part)
	}
	return s.core.GetObject(ctx, s.bucket, s.prefix+key, o)
}

// rangeHeader asks for r, or for more where a header cannot say it: an offset that overflows, or that no object reaches.
func rangeHeader(r storage.Range) string {
	switch {
	case r.Off < -maxPut:
		return ""
	case r.Off < 0:
		return fmt.Sprintf("bytes=%d", r.Off)
	case r.Len > 0 && r.Off <= math.MaxInt64-r.Len:
		return fmt.Sprintf("bytes=%d-%d", r.Off, r.Off+r.Len-1)
	case r.Off > 0:
		return fmt.Sprintf("bytes=%d-", r.Off)
	}
	return ""
}

// Answers that cannot be trusted with what was asked for.
var (
	errNoLength = errors.New("the answer does not say its length")
	errNotAsked = errors.New("the answer is another part than the one asked for")
)

// place says where r lies in an answer of that length: n bytes after the first skip. A server that knows no ranges sends everything.
func place(r storage.Range, length int64, header http.Header) (skip, n int64, err error) {
	if length < 0 {
		return 0, 0, errNoLength
	}
	part := header.Get("Content-Range")
	if part == "" {
		skip, n = r.Resolve(length)
		return skip, n, nil
	}
	var from, to, size int64
	if _, err := fmt.Sscanf(part, "bytes %d-%d/%d", &from, &to, &size); err != nil {
		return 0, 0, fmt.Errorf("%w: Content-Range %q", errNotAsked, part)
	}
	off, n := r.Resolve(size)
	if from != off || to-from+1 != length || length < n {
		return 0, 0, fmt.Errorf("%w: Content-Range %q with %d bytes, asked for %d from %d", errNotAsked, part, length, n, off)
	}
	return 0, n, nil
}

// Put implements storage.Store: one request, unless another call is in its way.
func (s *Store) Put(ctx context.Context, key string, data []byte) error {
	ctx, err := begin(ctx, "put", key, storage.CheckKey)
	if err != nil {
		return err
	}
	if len(data) > maxPut {
		return &storage.Error{Op: "put", Key: key, Err: fmt.Errorf("%d bytes, and one request takes %d", len(data), int64(maxPut))}
	}
	o, sum, hash := s.put.request(data, time.Now())
	for try := 1; ; try++ {
		_, err := s.core.PutObject(ctx, s.bucket, s.prefix+key, bytes.NewReader(data), int64(len(data)), sum, hash, o)
		if err == nil {
			return nil
		}
		if !isConflict(err) || try == conflictTries {
			return wrap(ctx, "put", key, err)
		}
		select {
		case <-ctx.Done():
			return wrap(ctx, "put", key, ctx.Err())
		case <-time.After(time.Duration(try) * conflictWait):
		}
	}
}

// request is what goes with the data: options, the MD5 in base64 and the SHA-256 in hexadecimal, each "" where it is not sent.
// The checksum is a header, not a trailer: servers that do not know the one ignore it, of the other they make part of the object.
func (p putSettings) request(data []byte, now time.Time) (o minio.PutObjectOptions, sum, hash string) {
	o = minio.PutObjectOptions{
		ContentType: "application/octet-stream", StorageClass: p.class, ServerSideEncryption: p.encrypt,
		DisableContentSha256: true, // in pieces
	}
	o.SetMatchETagExcept("*")
	if p.lock > 0 {
		o.Mode, o.RetainUntilDate = minio.Governance, now.Add(p.lock).UTC()
	}
	switch p.checksum {
	case checksumCRC32C:
		crc := binary.BigEndian.AppendUint32(nil, crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli)))
		o.UserMetadata = map[string]string{"x-amz-checksum-crc32c": base64.StdEncoding.EncodeToString(crc)}
	case checksumMD5:
		h := md5.Sum(data) //nolint:gosec // see above
		sum = base64.StdEncoding.EncodeToString(h[:])
	}
	if p.sign {
		h := sha256.Sum256(data)
		hash = hex.EncodeToString(h[:])
	}
	return o, sum, hash
}

// List implements storage.Store: one request for each thousand objects.
func (s *Store) List(ctx context.Context, prefix string, fn func(storage.Info) error) error {
	ctx, err := begin(ctx, "list", prefix, storage.CheckPrefix)
	if err != nil {
		return err
	}
	noOwner := false
	last := ""
	for o := range s.core.ListObjectsIter(ctx, s.bucket, minio.ListObjectsOptions{Prefix: s.prefix + prefix, Recursive: true, FetchOwner: &noOwner}) {
		if o.Err != nil {
			return wrap(ctx, "list", prefix, o.Err)
		}
		if err := ctx.Err(); err != nil {
			return wrap(ctx, "list", prefix, err)
		}
		key, ours := strings.CutPrefix(o.Key, s.prefix)
		if !ours || !strings.HasPrefix(key, prefix) {
			return wrap(ctx, "list", prefix, fmt.Errorf("%w: it lists %q", errNoListing, o.Key))
		}
		if storage.CheckKey(key) != nil {
			continue // another program's
		}
		if key <= last {
			return wrap(ctx, "list", prefix, fmt.Errorf("%w: %q comes after %q", errNoListing, key, last))
		}
		last = key
		if err := fn(storage.Info{Key: key, Size: o.Size, ModTime: o.LastModified}); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil { // the library ends without a word
		return wrap(ctx, "list", prefix, err)
	}
	return nil
}

// Delete implements storage.Store. In a bucket with versions the object's content stays, as a version that no listing shows. If it is refused, a second
// request asks whether that is because of a lock, for which servers have no word of their own.
func (s *Store) Delete(ctx context.Context, key string) error {
	ctx, err := begin(ctx, "delete", key, storage.CheckKey)
	if err != nil {
		return err
	}
	err = s.core.RemoveObject(ctx, s.bucket, s.prefix+key, minio.RemoveObjectOptions{})
	var r minio.ErrorResponse
	if err == nil || errors.As(err, &r) && r.StatusCode == http.StatusOK { // S3 says 204
		return nil
	}
	err = wrap(ctx, "delete", key, err)
	switch {
	case errors.Is(err, storage.ErrNotExist):
		return nil
	case errors.Is(err, storage.ErrDenied):
		if info, ask := s.core.StatObject(ctx, s.bucket, s.prefix+key, minio.StatObjectOptions{}); ask == nil && keptUntil(info).After(time.Now()) {
			return &storage.Error{Op: "delete", Key: key, Class: storage.ErrLocked, Err: errors.Unwrap(err)}
		}
	}
	return err
}

// begin gives the context for a call's requests, which notes what their answers say besides.
func begin(ctx context.Context, op, key string, check func(string) error) (context.Context, error) {
	if err := ctx.Err(); err != nil {
		return nil, &storage.Error{Op: op, Key: key, Err: err}
	}
	if err := check(key); err != nil {
		return nil, &storage.Error{Op: op, Key: key, Err: err}
	}
	return withNote(ctx), nil
}
