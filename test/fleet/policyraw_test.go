package fleet

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/minio/minio-go/v7"

	"github.com/pgtrove/pgtrove/test/s3test"
)

// account is what whoever has stolen a host's credentials has: no pgtrove, only requests.
type account struct {
	*host
	*minio.Client
}

func (h *host) stolen() account { return account{h, h.Client(h.account)} }

// put sends data for that key of the bucket.
func (a account) put(key string, data []byte, o minio.PutObjectOptions) error {
	o.DisableMultipart, o.SendContentMd5 = true, true
	_, err := a.PutObject(a.t.Context(), a.bucket, key, bytes.NewReader(data), int64(len(data)), o)
	return err
}

// createOnly is the condition that pgtrove's own requests have.
func createOnly() (o minio.PutObjectOptions) {
	o.SetMatchETagExcept("*")
	return o
}

func (a account) get(key string) error {
	_, err := a.StatObject(a.t.Context(), a.bucket, key, minio.StatObjectOptions{})
	return err
}

func (a account) remove(key string) error {
	return a.RemoveObject(a.t.Context(), a.bucket, key, minio.RemoveObjectOptions{})
}

// removeMany is the request that deletes several objects at once.
func (a account) removeMany(key string) (err error) {
	objects := make(chan minio.ObjectInfo, 1)
	objects <- minio.ObjectInfo{Key: key}
	close(objects)
	for e := range a.RemoveObjects(a.t.Context(), a.bucket, objects, minio.RemoveObjectsOptions{}) {
		err = e.Err
	}
	return err
}

// upload begins an object in parts, and gives it up.
func (a account) upload(key string) error {
	core := minio.Core{Client: a.Client}
	id, err := core.NewMultipartUpload(a.t.Context(), a.bucket, key, minio.PutObjectOptions{})
	if err == nil {
		_ = (minio.Core{Client: a.Admin()}).AbortMultipartUpload(a.t.Context(), a.bucket, key, id) // leaves nothing that the test looks at
	}
	return err
}

func denied(err error) bool { return minio.ToErrorResponse(err).Code == "AccessDenied" }

// check says where what happened is not what should.
func (a account) check(what, key string, allowed bool, err error) {
	a.t.Helper()
	switch {
	case allowed && err != nil:
		a.t.Errorf("%s of %s, which is allowed: %v", what, key, err)
	case !allowed && !denied(err):
		a.t.Errorf("%s of %s is not denied: %v", what, key, err)
	}
}

// kinds is one name of every kind in a repository; of those that belong to a cluster, also of clusters that are not the host's own.
func kinds() []string {
	return []string{"config", "keys/0a", "sessions/s", "packs/s/1-0a", "index/s/1", "snapshots/main/s", "snapshots/other/s", "snapshots/main2/s",
		"snapshots/_prune/s", "wal/main/7/00000001/w", "wal/main/7/h", "wal/other/7/00000001/w", "wal/main2/7/h", "gc/0000000001", "base/0000000001/n-0",
		"forget/s", "pins/s", "selftest/x/y", "unheard-of/x"}
}

func TestARoleMayDoWhatItsPolicySaysAndNothingElse(t *testing.T) {
	f := newFleet(t, s3test.Options{}, (*s3test.Server).Bucket)
	forOthers := []string{"snapshots/other/s", "snapshots/main2/s", "snapshots/_prune/s", "wal/other/7/00000001/w", "wal/main2/7/h"}
	written := []string{"sessions/s", "packs/s/1-0a", "index/s/1", "snapshots/main/s"}
	pruned := append(append([]string{"gc/0000000001", "base/0000000001/n-0", "forget/s", "pins/s"}, written...), forOthers[:3]...)
	for role, may := range map[role]struct{ create, remove []string }{
		databaseHost: {create: append([]string{"wal/main/7/00000001/w", "wal/main/7/h"}, written...)},
		readingHost:  {},
		pruningHost:  {create: pruned, remove: append([]string{"wal/main/7/00000001/w", "wal/other/7/00000001/w"}, pruned...)},
		owner:        {create: []string{"config", "keys/0a", "selftest/x/y"}, remove: []string{"selftest/x/y"}},
	} {
		f.host(role, "main").stolen().tryAll(may.create, may.remove)
	}
}

// tryAll tries every request for every kind of object.
func (a account) tryAll(create, remove []string) {
	a.t.Helper()
	ctx, root := a.t.Context(), account{a.host, a.Admin()}
	must := func(err error) {
		a.t.Helper()
		if err != nil {
			a.t.Fatal(err)
		}
	}
	var keys []string
	for _, kind := range kinds() {
		keys = append(keys, prefix+"/"+kind)
	}
	// Beside the repository: the same names without its prefix, and below a prefix that begins like it.
	keys = append(keys, "packs/s/1-0a", prefix+"2/packs/s/1-0a")
	for _, key := range keys {
		name, inside := strings.CutPrefix(key, prefix+"/")
		mayCreate, mayRemove := inside && slices.Contains(create, name), inside && slices.Contains(remove, name)
		a.check("create", key, mayCreate, a.put(key, []byte("theirs"), createOnly()))
		a.check("upload", key, mayCreate, a.upload(key))
		must(root.put(key, []byte("ours"), minio.PutObjectOptions{}))
		a.check("get", key, inside, a.get(key))
		if !mayCreate {
			a.check("overwrite", key, false, a.put(key, []byte("theirs"), minio.PutObjectOptions{}))
			_, err := a.CopyObject(ctx, minio.CopyDestOptions{Bucket: a.bucket, Object: key},
				minio.CopySrcOptions{Bucket: a.bucket, Object: keys[0]})
			a.check("copy", key, false, err)
		}
		a.check("delete", key, mayRemove, a.remove(key))
		must(root.put(key, []byte("ours"), minio.PutObjectOptions{}))
		a.check("delete with others", key, mayRemove, a.removeMany(key))
		must(root.remove(key))
	}
	for what, err := range a.bucketRequests() {
		a.check(what, a.bucket, false, err)
	}
	for range a.ListObjects(ctx, a.bucket, minio.ListObjectsOptions{Prefix: prefix + "/", Recursive: true}) {
		a.t.Errorf("an object is left")
	}
}

// bucketRequests tries what would change the bucket itself.
func (a account) bucketRequests() map[string]error {
	ctx, days, unit := a.t.Context(), uint(1), minio.Days
	mode := minio.Governance
	return map[string]error{
		"setting the policy":     a.SetBucketPolicy(ctx, a.bucket, ""),
		"setting the versioning": a.SuspendVersioning(ctx, a.bucket),
		"setting the lock":       a.SetObjectLockConfig(ctx, a.bucket, &mode, &days, &unit),
		"deleting":               a.RemoveBucket(ctx, a.bucket),
	}
}
