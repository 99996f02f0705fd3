package fleet

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/pgtrove/pgtrove/test/pgtest"
	"github.com/pgtrove/pgtrove/test/s3test"
)

// objects are the repository's objects as a reader sees them: by name, what tells their contents.
func (a account) objects() map[string]string {
	a.t.Helper()
	all := map[string]string{}
	for o := range a.ListObjects(a.t.Context(), a.bucket, minio.ListObjectsOptions{Prefix: prefix + "/", Recursive: true}) {
		if o.Err != nil {
			a.t.Fatal(o.Err)
		}
		all[o.Key] = o.ETag + " " + o.LastModified.String()
	}
	return all
}

// first is the first object whose name begins so.
func (a account) first(kind string) string {
	a.t.Helper()
	for _, key := range slices.Sorted(maps.Keys(a.objects())) {
		if strings.HasPrefix(key, prefix+"/"+kind) {
			return key
		}
	}
	a.t.Fatalf("no object %s", kind)
	return ""
}

// overwrite tries to put other contents into the place of an object, in every way that there is.
func (a account) overwrite(key string) map[string]error {
	ctx, core := a.t.Context(), minio.Core{Client: a.Client}
	locked := minio.PutObjectOptions{Mode: minio.Governance, RetainUntilDate: time.Now().Add(48 * time.Hour).UTC()}
	ways := map[string]error{
		"put":                a.put(key, []byte("theirs"), minio.PutObjectOptions{}),
		"put with retention": a.put(key, []byte("theirs"), locked),
	}
	_, ways["copy"] = a.CopyObject(ctx, minio.CopyDestOptions{Bucket: a.bucket, Object: key},
		minio.CopySrcOptions{Bucket: a.bucket, Object: prefix + "/config"})
	id, err := core.NewMultipartUpload(ctx, a.bucket, key, minio.PutObjectOptions{})
	if err == nil {
		var part minio.ObjectPart
		part, err = core.PutObjectPart(ctx, a.bucket, key, id, 1, strings.NewReader("theirs"), 6, minio.PutObjectPartOptions{})
		if err == nil {
			_, err = core.CompleteMultipartUpload(ctx, a.bucket, key, id, []minio.CompletePart{{PartNumber: 1, ETag: part.ETag}}, minio.PutObjectOptions{})
		}
	}
	ways["upload in parts"] = err
	return ways
}

// TestNobodyOverwritesWhatIsLockedWithoutVersions: this server, when it keeps no versions, refuses whatever would replace or delete an object with
// a retention.
func TestNobodyOverwritesWhatIsLockedWithoutVersions(t *testing.T) {
	f := newFleet(t, s3test.Options{}, (*s3test.Server).Locked)
	admin, db, reader, pruner := f.host(owner, "main"), f.host(databaseHost, "main"), f.host(readingHost, "main"), f.host(pruningHost, "main")
	admin.ok("init", "--object-lock", "14d")
	db.server("15")
	snapshot := db.backup()
	db.backup()
	db.archived()

	before := account{admin, f.Admin()}.objects()
	for _, h := range []*host{db, pruner, admin} {
		a := h.stolen()
		for key := range before {
			for way, err := range a.overwrite(key) {
				a.check(way, key, false, err)
			}
			if h == pruner {
				a.check("delete", key, false, a.remove(key))
			}
			mode, soon := minio.Governance, time.Now().Add(time.Minute).UTC()
			err := a.PutObjectRetention(t.Context(), a.bucket, key,
				minio.PutObjectRetentionOptions{Mode: &mode, RetainUntilDate: &soon, GovernanceBypass: true})
			a.check("shorter retention", key, false, err)
		}
	}
	if after := (account{admin, f.Admin()}).objects(); !maps.Equal(before, after) {
		t.Errorf("objects were changed:\n%v\n%v", before, after)
	}
	pushTwice(t, db)

	// A prune cannot delete either, for as long as the retention lasts, and says so. It is no failure of it.
	pruner.ok("forget", snapshot)
	for range 2 {
		if said := pruner.ok("prune", "--max-delete", "100%"); !strings.Contains(said, "locked yet, and deleted by a later run") {
			t.Error(said)
		}
	}
	db.backup()
	reader.ok("verify", "--read-data")
	reader.ok("restore", "--to", filepath.Join(reader.home, "restored"))
}

// pushTwice: that a name is taken is found out though the server says "denied" where others say "taken".
func pushTwice(t *testing.T, h *host) {
	t.Helper()
	file := filepath.Join(h.home, "00000007.history")
	for _, c := range []struct {
		code int
		say  string
		text string
	}{{0, "archived 00000007.history", "1\t0/3000000\tone\n"}, {0, "archived before", "1\t0/3000000\tone\n"}, {5, "", "1\t0/3000000\tother\n"}} {
		if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		pgtest.Own(t, file)
		h.fails(c.code, c.say, "-v", "--pgdata", h.pg.Dir, "wal", "push", file)
	}
}

// TestWhatIsOverwrittenIsNoticedAndComesBack: where versions are kept, a put without a condition is what readers see from then on, and what was there
// stays.
func TestWhatIsOverwrittenIsNoticedAndComesBack(t *testing.T) {
	f := newFleet(t, s3test.Options{Versions: true}, (*s3test.Server).Locked)
	admin, db, reader, pruner := f.host(owner, "main"), f.host(databaseHost, "main"), f.host(readingHost, "main"), f.host(pruningHost, "main")
	admin.ok("init", "--object-lock", "14d")
	db.server("15")
	db.backup()
	db.archived()
	thief, root := db.stolen(), account{admin, f.Admin()}
	before := root.objects()
	// What a session announces is only asked for where its outcome leaves a doubt.
	for kind, code := range map[string]int{"packs/": 9, "index/": 9, "sessions/": 0, "snapshots/": 9, "wal/": 9} {
		key := thief.first(kind)
		if err := thief.put(key, []byte("theirs"), createOnly()); minio.ToErrorResponse(err).Code != "PreconditionFailed" {
			t.Errorf("%s is created twice: %v", key, err)
		}
		if err := thief.put(key, []byte("theirs"), minio.PutObjectOptions{}); err != nil {
			t.Errorf("this server refuses to overwrite %s (%v): then the document says too little of it", key, err)
		}
		// With a cache of its own: what a host has read before it would not read again.
		r := pgtest.Run(t, reader.command("verify", "--read-data", "--cache-dir", filepath.Join(reader.home, kind)))
		if r.Code != code {
			t.Errorf("%s is overwritten, and verify ends with %d:\n%s%s", key, r.Code, r.Stdout, r.Stderr)
		}
		for _, version := range root.versions(key) {
			thief.check("delete of a version", key, false, thief.removeVersion(key, version))
		}
		root.takeBack(key)
		reader.ok("verify", "--read-data")
	}

	// What the document tells people to try does no harm.
	if err := thief.put(prefix+"/packs/try", []byte("theirs"), minio.PutObjectOptions{}); err != nil {
		t.Error(err)
	}
	pruner.ok("prune", "--max-delete", "100%")
	reader.ok("verify", "--read-data")
	before = root.objects()

	// A pruning host's credentials delete everything that they may.
	thief = pruner.stolen()
	for key := range before {
		if err := thief.remove(key); err != nil && !denied(err) {
			t.Fatal(err)
		}
		for _, version := range root.versions(key) {
			thief.check("delete of a version", key, false, thief.removeVersion(key, version))
		}
	}
	for key := range root.objects() {
		if kind := strings.TrimPrefix(key, prefix+"/"); kind != "config" && !strings.HasPrefix(kind, "keys/") && !strings.HasSuffix(kind, ".history") {
			t.Errorf("%s is left: nothing was tried", key)
		}
	}
	for key := range before {
		if err := root.get(key); err != nil {
			root.takeBack(key)
		}
	}
	after := root.objects()
	if !slices.Equal(slices.Sorted(maps.Keys(before)), slices.Sorted(maps.Keys(after))) {
		t.Errorf("not everything is back:\n%v\n%v", before, after)
	}
	reader.ok("verify", "--read-data")
	db.backup()
}

// versions are those of an object, the newest first, delete markers among them.
func (a account) versions(key string) (ids []string) {
	a.t.Helper()
	for o := range a.ListObjects(a.t.Context(), a.bucket, minio.ListObjectsOptions{Prefix: key, Recursive: true, WithVersions: true}) {
		if o.Err != nil {
			a.t.Fatal(o.Err)
		}
		if o.Key == key {
			ids = append(ids, o.VersionID)
		}
	}
	return ids
}

func (a account) removeVersion(key, version string) error {
	return a.RemoveObject(a.t.Context(), a.bucket, key, minio.RemoveObjectOptions{VersionID: version, GovernanceBypass: true})
}

// takeBack removes an object's newest version, which is what the document says to do.
func (a account) takeBack(key string) {
	a.t.Helper()
	all := a.versions(key)
	if len(all) != 2 {
		a.t.Fatalf("%s has %d versions", key, len(all))
	}
	if err := a.removeVersion(key, all[0]); err != nil {
		a.t.Fatal(err)
	}
}

// TestThisServerDoesNotKnowTheConditionThatForbidsToOverwrite: when a newer one does, the tests above are to run with it.
func TestThisServerDoesNotKnowTheConditionThatForbidsToOverwrite(t *testing.T) {
	f := newFleet(t, s3test.Options{}, (*s3test.Server).Bucket)
	db := f.host(databaseHost, "main")
	err := f.Admin().SetBucketPolicy(t.Context(), f.bucket, db.fill(documented(t, everybody)))
	if minio.ToErrorResponse(err).Code != "MalformedPolicy" || !strings.Contains(err.Error(), "condition key") {
		t.Errorf("the policy is taken, or something else is wrong with it: %v", err)
	}
}
