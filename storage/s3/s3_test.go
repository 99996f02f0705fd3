package s3_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/pgtrove/pgtrove/storage"
	"github.com/pgtrove/pgtrove/storage/s3"
	"github.com/pgtrove/pgtrove/storage/storagetest"
	"github.com/pgtrove/pgtrove/test/s3test"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	server := s3test.New(t, s3test.Options{})
	t.Run("part of a bucket", func(t *testing.T) {
		storagetest.Run(t, func(t *testing.T) storage.Store {
			bucket := server.Bucket()
			for _, prefix := range []string{"", "there", "there/i", "there/is2", "thera/is"} { // neighbours
				put(t, server.Store(bucket, prefix, server.Root), "neighbour", "x")
			}
			return server.Store(bucket, "there/is", server.Root)
		})
	})
	t.Run("a bucket, over TLS", func(t *testing.T) {
		server := s3test.New(t, s3test.Options{TLS: true})
		storagetest.Run(t, func(*testing.T) storage.Store { return server.Store(server.Bucket(), "", server.Root) })
	})
}

func TestAStoppedServerIsNoEmptyStorage(t *testing.T) {
	t.Parallel()
	storagetest.RunOutage(t, func(t *testing.T) (storage.Store, storagetest.Switch) {
		server := s3test.New(t, s3test.Options{})
		return server.Store(server.Bucket(), "", server.Root), storagetest.Switch{Away: server.Stop, Back: server.Start}
	})
}

func TestAnAnswerThatBreaksOffIsAnError(t *testing.T) {
	t.Parallel()
	server := s3test.New(t, s3test.Options{})
	storagetest.RunCut(t, func(t *testing.T) (storage.Store, func(requests, answers int64)) {
		s, proxy := behindProxy(t, server, 0)
		return s, func(requests, answers int64) {
			proxy.Set(s3test.Faults{CutRequests: requests, CutAnswers: answers})
		}
	})
}

func behindProxy(t *testing.T, server *s3test.Server, patience time.Duration) (*s3.Store, *s3test.Proxy) {
	t.Helper()
	proxy := s3test.NewProxy(t, server.Addr)
	o := server.Options(server.Bucket(), "", server.Root)
	o.Endpoint, o.Patience = "http://"+proxy.Addr, patience
	return open(t, o), proxy
}

func TestAConnectionThatStandsStillIsGivenUp(t *testing.T) {
	server := s3test.New(t, s3test.Options{})
	s, proxy := behindProxy(t, server, 300*time.Millisecond)
	put(t, s, "k", strings.Repeat("x", 5<<20))
	for name, call := range map[string]func() error{
		"get":  func() error { _, err := s.Get(t.Context(), "k", storage.Range{}, nil); return err },
		"put":  func() error { return s.Put(t.Context(), "new", make([]byte, 20<<20)) },
		"list": func() error { return s.List(t.Context(), "", func(storage.Info) error { return nil }) },
	} {
		proxy.Set(s3test.Faults{Stall: true})
		start := time.Now()
		wantErr(t, name, call(), storage.ErrUnreachable)
		if d := time.Since(start); d > 5*time.Second {
			t.Errorf("%s: given up after %s", name, d)
		}
	}
}

func TestACallThatWaitsEndsWithItsContext(t *testing.T) {
	server := s3test.New(t, s3test.Options{})
	s, proxy := behindProxy(t, server, 0)
	put(t, s, "k", "x")
	proxy.Set(s3test.Faults{Stall: true})
	for name, call := range map[string]func(context.Context) error{
		"get":    func(ctx context.Context) error { _, err := s.Get(ctx, "k", storage.Range{}, nil); return err },
		"put":    func(ctx context.Context) error { return s.Put(ctx, "new", make([]byte, 20<<20)) },
		"list":   func(ctx context.Context) error { return s.List(ctx, "", func(storage.Info) error { return nil }) },
		"delete": func(ctx context.Context) error { return s.Delete(ctx, "k") },
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		start := time.Now()
		err := call(ctx)
		cancel()
		wantErr(t, name, err, context.DeadlineExceeded)
		if d := time.Since(start); d > 5*time.Second {
			t.Errorf("%s: ended after %s", name, d)
		}
	}
}

func TestErrorsOfARealServerHaveAClass(t *testing.T) {
	server := s3test.New(t, s3test.Options{})
	bucket := server.Bucket()
	put(t, server.Store(bucket, "", server.Root), "k", "x")
	stranger := server.Account()
	wrong := server.Root
	wrong.SecretKey = "wrong-secret"
	for name, c := range map[string]struct {
		s    *s3.Store
		want error
	}{
		"a wrong secret":     {server.Store(bucket, "", wrong), storage.ErrDenied},
		"an unknown account": {server.Store(bucket, "", s3test.Account{AccessKey: "nobody", SecretKey: "wrong-secret"}), storage.ErrDenied},
		"no permission":      {server.Store(bucket, "", stranger), storage.ErrDenied},
		"a bucket not there": {server.Store("no-such-bucket", "", server.Root), storage.ErrUnreachable},
	} {
		t.Run(name, func(t *testing.T) {
			for verb, err := range everyVerb(t, c.s) {
				wantErr(t, verb, err, c.want)
				for _, secret := range []string{wrong.SecretKey, server.Root.SecretKey, stranger.SecretKey} {
					if strings.Contains(err.Error(), secret) {
						t.Errorf("%s tells a secret: %v", verb, err)
					}
				}
			}
		})
	}
	server.Freeze()
	s := server.Store(bucket, "", server.Root)
	wantErr(t, "put into a frozen server", s.Put(t.Context(), "new", nil), storage.ErrDenied)
	wantErr(t, "delete from a frozen server", s.Delete(t.Context(), "k"), storage.ErrDenied)
}

// everyVerb calls each verb once and gives the errors by its name.
func everyVerb(t *testing.T, s storage.Store) map[string]error {
	t.Helper()
	_, get := s.Get(t.Context(), "k", storage.Range{}, nil)
	_, absent := s.Get(t.Context(), "absent", storage.Range{Off: -8}, nil)
	return map[string]error{
		"get": get, "get absent": absent,
		"put":    s.Put(t.Context(), "new", []byte("y")),
		"list":   s.List(t.Context(), "", func(storage.Info) error { return nil }),
		"delete": s.Delete(t.Context(), "k"),
	}
}

func TestRetentionKeepsAnObject(t *testing.T) {
	server := s3test.New(t, s3test.Options{Versions: true})
	for _, checksum := range []string{"", "md5", "none"} {
		bucket := server.Locked()
		o := server.Options(bucket, "", server.Root)
		o.ObjectLock, o.Checksum = time.Hour, checksum
		s := open(t, o)
		put(t, s, "k", "x")
		info, err := server.Admin().StatObject(t.Context(), bucket, "k", minio.StatObjectOptions{})
		if err != nil {
			t.Fatal(err)
		}
		mode, stated := info.Metadata.Get("X-Amz-Object-Lock-Mode"), info.Metadata.Get("X-Amz-Object-Lock-Retain-Until-Date")
		until, err := time.Parse(time.RFC3339, stated)
		if left := time.Until(until); err != nil || mode != "GOVERNANCE" || left < 55*time.Minute || left > time.Hour {
			t.Errorf("mode %s until %s", mode, stated)
		}
	}
	o := server.Options(server.Bucket(), "", server.Root)
	o.ObjectLock = time.Hour
	if err := open(t, o).Put(t.Context(), "k", nil); err == nil {
		t.Error("an object with a retention was taken by a bucket without object lock")
	}
}

func TestALockIsExtendedAndNeverShortened(t *testing.T) {
	server := s3test.New(t, s3test.Options{Versions: true})
	bucket := server.Locked()
	o := server.Options(bucket, "p", server.Root)
	o.ObjectLock = time.Hour
	s := open(t, o)
	put(t, s, "short", "x")
	put(t, server.Store(bucket, "p", server.Root), "free", "x")
	kept := func(key string) (mode string, until time.Time) {
		t.Helper()
		info, err := server.Admin().StatObject(t.Context(), bucket, "p/"+key, minio.StatObjectOptions{})
		if err != nil {
			t.Fatal(err)
		}
		until, err = time.Parse(time.RFC3339, info.Metadata.Get("X-Amz-Object-Lock-Retain-Until-Date"))
		if err != nil {
			t.Fatal(err)
		}
		return info.Metadata.Get("X-Amz-Object-Lock-Mode"), until
	}
	compliance, strict := minio.Compliance, time.Now().Add(time.Hour)
	put(t, s, "strict", "x")
	admin := server.Admin()
	if err := admin.PutObjectRetention(t.Context(), bucket, "p/strict", minio.PutObjectRetentionOptions{Mode: &compliance, RetainUntilDate: &strict,
		GovernanceBypass: true}); err != nil {
		t.Fatal(err)
	}
	day := time.Now().Add(24 * time.Hour).UTC().Truncate(time.Second)
	for key, mode := range map[string]string{"short": "GOVERNANCE", "free": "GOVERNANCE", "strict": "COMPLIANCE"} {
		for _, until := range []time.Time{day, day.Add(-time.Hour)} {
			if err := s.Lock(t.Context(), key, until); err != nil {
				t.Errorf("%s until %s: %v", key, until, err)
			}
			if m, got := kept(key); m != mode || !got.Equal(day) {
				t.Errorf("%s: %s until %s, want %s until %s", key, m, got, mode, day)
			}
		}
	}
	wantErr(t, "an absent object", s.Lock(t.Context(), "absent", day), storage.ErrNotExist)
	wantErr(t, "a wrong key", s.Lock(t.Context(), "a//b", day), storage.ErrKey)
	free := server.Store(server.Bucket(), "", server.Root)
	put(t, free, "k", "x")
	wantErr(t, "a bucket without object lock", free.Lock(t.Context(), "k", day), storage.ErrDenied)
	server.Stop()
	wantErr(t, "a stopped server", s.Lock(t.Context(), "short", day.Add(time.Hour)), storage.ErrUnreachable)
}

// TestADeletionThatALockForbidsIsToldFromOneThatNobodyMayDo, by a server that keeps no versions.
func TestADeletionThatALockForbidsIsToldFromOneThatNobodyMayDo(t *testing.T) {
	server := s3test.New(t, s3test.Options{})
	bucket, reader := server.Locked(), server.Account()
	server.Policy(bucket, `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":["`+reader.AccessKey+`"]},
		"Action":["s3:GetObject","s3:GetObjectRetention"],"Resource":"arn:aws:s3:::`+bucket+`/*"}]}`)
	o := server.Options(bucket, "", server.Root)
	o.ObjectLock = time.Hour
	put(t, open(t, o), "locked", "x")
	put(t, server.Store(bucket, "", server.Root), "free", "x")
	err := open(t, o).Delete(t.Context(), "locked")
	wantErr(t, "Delete", err, storage.ErrLocked)
	wantErr(t, "Delete", err, storage.ErrDenied)
	err = server.Store(bucket, "", reader).Delete(t.Context(), "free")
	wantErr(t, "Delete as a reader", err, storage.ErrDenied)
	if errors.Is(err, storage.ErrLocked) {
		t.Errorf("nothing is locked: %v", err)
	}
	if err := open(t, o).Delete(t.Context(), "free"); err != nil {
		t.Error(err)
	}
}

func open(t *testing.T, o s3.Options) *s3.Store {
	t.Helper()
	s, err := s3.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func put(t *testing.T, s storage.Store, key, data string) {
	t.Helper()
	if err := s.Put(t.Context(), key, []byte(data)); err != nil {
		t.Fatal(err)
	}
}

func wantErr(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

func TestTheSelfTestOnARealServer(t *testing.T) {
	server := s3test.New(t, s3test.Options{Versions: true})
	bucket := server.Bucket()
	for name, s := range map[string]*s3.Store{
		"a bucket":               server.Store(bucket, "p", server.Root),
		"a bucket with versions": server.Store(server.Locked(), "", server.Root),
	} {
		v, err := storage.SelfTest(t.Context(), s)
		if err != nil || len(v.Problems) > 0 || v.Keeps {
			t.Errorf("%s: %+v, %v", name, v, err)
		}
	}
	host := server.Account()
	server.Policy(bucket, `{"Version":"2012-10-17","Statement":[
		{"Effect":"Allow","Principal":{"AWS":["`+host.AccessKey+`"]},"Action":["s3:GetObject","s3:PutObject"],"Resource":"arn:aws:s3:::`+bucket+`/*"},
		{"Effect":"Allow","Principal":{"AWS":["`+host.AccessKey+`"]},"Action":"s3:ListBucket","Resource":"arn:aws:s3:::`+bucket+`"}]}`)
	v, err := storage.SelfTest(t.Context(), server.Store(bucket, "p", host))
	if err != nil || len(v.Problems) > 0 || !v.Keeps || len(v.Left) == 0 {
		t.Errorf("as one who may not delete: %+v, %v", v, err)
	}
}
