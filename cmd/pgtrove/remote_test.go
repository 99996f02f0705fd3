package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/pgtrove/pgtrove/storage"
	"github.com/pgtrove/pgtrove/test/s3test"
)

// remote is the program as it runs on a host whose repository is in a bucket.
type remote struct {
	t      *testing.T
	server *s3test.Server
	bucket string
	args   []string
}

func newRemote(t *testing.T) *remote {
	server := s3test.New(t, s3test.Options{Versions: true})
	h := &remote{t: t, server: server, bucket: server.Bucket()}
	for _, v := range server.Env(server.Root) {
		name, value, _ := strings.Cut(v, "=")
		t.Setenv(name, value)
	}
	dir := t.TempDir()
	h.args = []string{"--config", os.DevNull, "--repo", "s3://" + h.bucket + "/fleet", "--key-file", filepath.Join(dir, "key"), "--cache-dir", filepath.Join(dir, "cache")}
	return h
}

// run runs the program in this process.
func (h *remote) run(args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	a := newApp()
	a.stdin, a.stdout, a.stderr = nil, &out, &errs
	a.out = &output{stdout: &out, stderr: &errs}
	root := newRootCommand(a)
	root.SetArgs(append(h.args, args...))
	code = a.report(root.ExecuteContext(h.t.Context()), exitPolicyOf(root, args))
	return code, out.String(), errs.String()
}

func (h *remote) want(code int, say string, args ...string) (stdout, stderr string) {
	h.t.Helper()
	got, stdout, stderr := h.run(args...)
	if got != code || !strings.Contains(stdout+stderr, say) {
		h.t.Fatalf("pgtrove %s: exit %d, want %d, %q\n%s%s", strings.Join(args, " "), got, code, say, stdout, stderr)
	}
	return stdout, stderr
}

// requests is what -v says at the end.
func requests(t *testing.T, stderr string) int {
	t.Helper()
	m := regexp.MustCompile(`(?m)^storage: (\d+) requests? \(longest [^)]+\), \S+ \S+ up, \S+ \S+ down$`).FindStringSubmatch(stderr)
	if m == nil {
		t.Fatalf("no count of requests: %s", stderr)
	}
	n, err := strconv.Atoi(m[1])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// dataDirectory makes what wal push looks at: a control file, and a WAL file to push.
func (h *remote) dataDirectory() (pgdata, file string) {
	h.t.Helper()
	pgdata = filepath.Join(h.t.TempDir(), "pgdata")
	file = filepath.Join(pgdata, "pg_wal", "00000002.history")
	control, err := os.ReadFile(filepath.Join("..", "..", "internal", "pg", "testdata", "control-15.bin"))
	if err == nil {
		err = errors.Join(os.MkdirAll(filepath.Join(pgdata, "global"), 0o700), os.MkdirAll(filepath.Dir(file), 0o700),
			os.WriteFile(filepath.Join(pgdata, "global", "pg_control"), control, 0o600), os.WriteFile(file, []byte(history), 0o600))
	}
	if err != nil {
		h.t.Fatal(err)
	}
	return pgdata, file
}

func TestARepositoryInABucket(t *testing.T) {
	h := newRemote(t)
	h.want(4, "check the bucket and the prefix", "snapshots")
	h.want(0, "made in s3://"+h.bucket+"/fleet", "init")
	h.want(5, "another prefix", "init")
	h.want(0, "no snapshots", "snapshots")
	stdout, _ := h.want(0, "", "inspect", "config")
	if !strings.Contains(stdout, "create_only") {
		t.Errorf("config says nothing of the storage's test: %s", stdout)
	}

	pgdata, file := h.dataDirectory()
	h.want(0, "", "wal", "push", file)
	_, stderr := h.want(0, "archived before", "-v", "wal", "push", file)
	if n := requests(t, stderr); n > 2 {
		t.Errorf("push of what is there: %d requests", n)
	}
	other := filepath.Join(filepath.Dir(file), "00000003.history")
	if err := os.WriteFile(other, []byte(history), 0o600); err != nil {
		t.Fatal(err)
	}
	_, stderr = h.want(0, "archived 00000003.history", "-v", "wal", "push", other)
	if n := requests(t, stderr); n > 2 {
		t.Errorf("push: %d requests", n)
	}
	to := filepath.Join(pgdata, "pg_wal", "RECOVERYHISTORY")
	_, stderr = h.want(0, "fetched", "-v", "wal", "fetch", "00000003.history", to)
	if n := requests(t, stderr); n != 1 {
		t.Errorf("fetch: %d requests", n)
	}
	_, stderr = h.want(4, "not in the archive", "-v", "wal", "fetch", "00000004.history", to)
	if n := requests(t, stderr); n != 1 {
		t.Errorf("fetch of what is not there: %d requests", n)
	}

	begun := time.Now()
	h.want(0, "", "--limit-upload", "1MB", "init", "--repo", "s3://"+h.bucket+"/slow", "--key-file", filepath.Join(t.TempDir(), "key"))
	if took := time.Since(begun); took < 2500*time.Millisecond { // the test of the storage alone puts 3 MB
		t.Errorf("3 MB at 1 MB a second took %s", took)
	}

	h.server.Stop()
	h.want(126, "tried", "--retry-time", "700ms", "wal", "fetch", "00000003.history", to)
	h.want(7, "tried", "--retry-time", "700ms", "wal", "push", file)
	h.want(7, "unreachable", "--retry-time", "0", "snapshots")
}

func TestWhatIsWrongWithABucketIsSaid(t *testing.T) {
	h := newRemote(t)
	h.want(4, "no bucket", "--repo", "s3://absent-bucket/x", "snapshots")
	h.want(4, "", "--repo", "s3://absent-bucket/x", "init")
	h.want(2, "S3 settings", "--s3-encrypt", "rot13", "snapshots")
	h.want(2, "s3://bucket/prefix", "--repo", "gs://bucket/x", "snapshots")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
	_, stderr := h.want(8, "access denied", "snapshots")
	if strings.Contains(stderr, "not-the-secret") {
		t.Errorf("a secret is shown: %s", stderr)
	}
}

// TestAPushWhoseAnswersAreLostIsStoredOnce: the server does the work, and the connection breaks before it can say so.
func TestAPushWhoseAnswersAreLostIsStoredOnce(t *testing.T) {
	h := newRemote(t)
	proxy := s3test.NewProxy(t, h.server.Addr)
	t.Setenv("AWS_ENDPOINT_URL_S3", "http://"+proxy.Addr)
	h.want(0, "", "init")
	pgdata, file := h.dataDirectory()
	next := filepath.Join(filepath.Dir(file), "00000003.history")
	if err := os.WriteFile(next, []byte(history), 0o600); err != nil {
		t.Fatal(err)
	}
	h.want(0, "", "wal", "push", file) // and remembers the repository

	proxy.Set(s3test.Faults{CutAnswers: -1})
	h.want(7, "tried", "--retry-time", "1s", "wal", "push", next)
	mended := time.AfterFunc(2*time.Second, func() { proxy.Set(s3test.Faults{}) })
	defer mended.Stop()
	_, stderr := h.want(0, "trying again", "-v", "--retry-time", "1m", "wal", "push", next)
	if n := requests(t, stderr); n < 3 {
		t.Errorf("%d requests: nothing failed", n)
	}
	h.want(0, "fetched", "-v", "--pgdata", pgdata, "wal", "fetch", "00000003.history", filepath.Join(pgdata, "fetched"))
	got, err := os.ReadFile(filepath.Join(pgdata, "fetched"))
	if err != nil || string(got) != history {
		t.Errorf("%q, %v", got, err)
	}
}

func TestObjectLockHoldsForEveryCommandThatWrites(t *testing.T) {
	h := newRemote(t)
	_, stderr := h.want(5, "", "init", "--object-lock", "14d")
	if !strings.Contains(stderr, "hint: --object-lock needs a bucket that was made with object lock") {
		t.Errorf("a bucket without object lock: %s", stderr)
	}
	h.want(2, "14d", "init", "--object-lock", "14")
	h.want(2, "directory", "init", "--object-lock", "14d", "--repo", t.TempDir())

	locked := "s3://" + h.server.Locked() + "/fleet"
	h.want(0, "locked for 14 days", "init", "--object-lock", "14d", "--repo", locked)
	bucket := strings.Split(locked, "/")[2]
	store := h.server.Store(bucket, "fleet", h.server.Root)
	pgdata, file := h.dataDirectory()
	for range 2 { // with what the repository says, and with what is remembered of it
		h.want(0, "", "--repo", locked, "--pgdata", pgdata, "wal", "push", file)
		next := filepath.Join(filepath.Dir(file), "00000003.history")
		if err := os.Rename(file, next); err != nil {
			t.Fatal(err)
		}
		file = next
	}
	objects := 0
	if err := store.List(t.Context(), "", func(i storage.Info) error {
		objects++
		info, err := h.server.Admin().StatObject(t.Context(), bucket, "fleet/"+i.Key, minio.StatObjectOptions{})
		if err != nil {
			return err
		}
		until, err := time.Parse(time.RFC3339, info.Metadata.Get("X-Amz-Object-Lock-Retain-Until-Date"))
		if err != nil || time.Until(until) < 13*24*time.Hour {
			t.Errorf("%s is kept until %v, %v", i.Key, until, err)
		}
		return nil
	}); err != nil || objects != 5 {
		t.Errorf("%d objects, %v", objects, err)
	}
	for range 3 { // the second and third one delete what is locked, of the run before: a bucket with versions lets them
		stdout, _ := h.want(0, "", "--repo", locked, "--json", "prune")
		if !strings.Contains(stdout, `"object_lock":{"until":"20`) || !strings.Contains(stdout, `"locked":[]`) {
			t.Error(stdout)
		}
	}
}

// TestAFailedInitIsFollowedByOneThatSucceeds: an account may put everything but config.
func TestAFailedInitIsFollowedByOneThatSucceeds(t *testing.T) {
	h := newRemote(t)
	for _, deletes := range []bool{true, false} {
		bucket, account := h.server.Bucket(), h.server.Account()
		also := ""
		if deletes {
			also = `,"s3:DeleteObject"`
		}
		h.server.Policy(bucket, fmt.Sprintf(`{"Version":"2012-10-17","Statement":[
			{"Effect":"Allow","Principal":{"AWS":[%[1]q]},"Action":"s3:ListBucket","Resource":"arn:aws:s3:::%[2]s"},
			{"Effect":"Allow","Principal":{"AWS":[%[1]q]},"Action":["s3:GetObject","s3:PutObject"%[3]s],"Resource":"arn:aws:s3:::%[2]s/*"},
			{"Effect":"Deny","Principal":{"AWS":[%[1]q]},"Action":"s3:PutObject","Resource":"arn:aws:s3:::%[2]s/fleet/config"}]}`, account.AccessKey, bucket, also))
		key := filepath.Join(t.TempDir(), "key")
		init := []string{"init", "--repo", "s3://" + bucket + "/fleet", "--key-file", key}
		t.Setenv("AWS_ACCESS_KEY_ID", account.AccessKey)
		t.Setenv("AWS_SECRET_ACCESS_KEY", account.SecretKey)
		_, stderr := h.want(8, "s3:PutObject on config", init...)
		var left []string
		if err := h.server.Store(bucket, "fleet", h.server.Root).List(t.Context(), "", func(i storage.Info) error {
			left = append(left, i.Key)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if deletes && len(left) > 0 || !deletes && (len(left) < 2 || !strings.Contains(stderr, left[0]+" may be left")) {
			t.Errorf("deletes %v: it left %v and says %s", deletes, left, stderr)
		}
		if _, err := os.Stat(key); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the identity file: %v", err)
		}
		t.Setenv("AWS_ACCESS_KEY_ID", h.server.Root.AccessKey)
		t.Setenv("AWS_SECRET_ACCESS_KEY", h.server.Root.SecretKey)
		h.want(0, "made in", init...)
		h.want(0, "no snapshots", "--repo", "s3://"+bucket+"/fleet", "--key-file", key, "snapshots")
	}
}

// TestAnInitWhoseEndIsNotKnownKeepsTheIdentity: it may be all that opens the repository.
func TestAnInitWhoseEndIsNotKnownKeepsTheIdentity(t *testing.T) {
	h := newRemote(t)
	front := s3test.NewFront(t, h.server.Addr)
	t.Setenv("AWS_ENDPOINT_URL_S3", "http://"+front.Addr)
	for prefix, c := range map[string]struct {
		fate s3test.Answer
		made bool
	}{"made": {s3test.Answer{Lose: true}, true}, "notmade": {s3test.Answer{Busy: true}, false}} {
		config := h.bucket + "/" + prefix + "/config"
		front.Set(func(r s3test.Request) s3test.Answer {
			if r.Method == http.MethodPut && r.Key == config {
				return c.fate
			}
			return s3test.Answer{}
		})
		key := filepath.Join(t.TempDir(), "key")
		in := []string{"--repo", "s3://" + h.bucket + "/" + prefix, "--key-file", key}
		_, stderr := h.want(7, "remove the identity file "+key, append(in, "--retry-time", "0", "init")...)
		if !strings.Contains(stderr, "write config") {
			t.Errorf("it failed elsewhere: %s", stderr)
		}
		front.Set(nil)
		if c.made {
			h.want(0, "no snapshots", append(in, "snapshots")...)
			h.want(5, "exists already", append(in, "init")...)
			continue
		}
		h.want(4, "no repository", append(in, "snapshots")...)
		if err := os.Remove(key); err != nil { // as the hint says
			t.Fatal(err)
		}
		h.want(0, "made in", append(in, "init")...)
		h.want(0, "no snapshots", append(in, "snapshots")...)
	}
}

func TestUnsafeStorageIsRefused(t *testing.T) {
	a := &app{out: &output{stdout: io.Discard, stderr: io.Discard}}
	bad := storage.Verdict{Problems: []storage.Problem{storage.ProblemOverwrite, storage.ProblemUnlisted}}
	_, err := a.judgeStorage(bad, false)
	if classify(err).code != codeRefused || !strings.Contains(fmt.Sprint(err), string(storage.ProblemUnlisted)) {
		t.Errorf("%v", err)
	}
	var text bytes.Buffer
	a.out.stderr = &text
	tested, err := a.judgeStorage(bad, true)
	if err != nil || tested.CreateOnly || len(tested.Problems) != 2 || !strings.Contains(text.String(), "warning") {
		t.Errorf("%+v, %v, %s", tested, err, text.String())
	}
	if tested, err := a.judgeStorage(storage.Verdict{Keeps: true, Left: []string{"k"}}, false); err != nil || !tested.CreateOnly {
		t.Errorf("%+v, %v", tested, err)
	}
}
