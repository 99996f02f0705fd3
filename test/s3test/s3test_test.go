package s3test_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/storage"
	"github.com/pgtrove/pgtrove/test/s3test"
)

func TestServerKeepsItsDataAndItsPort(t *testing.T) {
	s := s3test.New(t, s3test.Options{})
	store := s.Store(s.Bucket(), "", s.Root)
	if err := store.Put(t.Context(), "k", []byte("x")); err != nil {
		t.Fatal(err)
	}
	s.Stop()
	if c, err := net.Dial("tcp", s.Addr); err == nil {
		c.Close()
		t.Error("a stopped server listens")
	}
	s.Start()
	if got, err := store.Get(t.Context(), "k", storage.Range{}, nil); err != nil || string(got) != "x" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestAnAccountMayDoWhatThePolicySays(t *testing.T) {
	s := s3test.New(t, s3test.Options{})
	bucket, reader, stranger := s.Bucket(), s.Account(), s.Account()
	s.Policy(bucket, fmt.Sprintf(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":[%q]},
		"Action":"s3:GetObject","Resource":"arn:aws:s3:::%s/open/*"}]}`, reader.AccessKey, bucket))
	for _, key := range []string{"open/k", "closed/k"} {
		if err := s.Store(bucket, "", s.Root).Put(t.Context(), key, nil); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		a     s3test.Account
		key   string
		allow bool
	}{{reader, "open/k", true}, {reader, "closed/k", false}, {stranger, "open/k", false}} {
		_, err := s.Store(bucket, "", c.a).Get(t.Context(), c.key, storage.Range{}, nil)
		if c.allow && err != nil || !c.allow && !errors.Is(err, storage.ErrDenied) {
			t.Errorf("%s gets %s: %v", c.a.AccessKey, c.key, err)
		}
	}
	if err := s.Store(bucket, "", reader).Put(t.Context(), "open/new", nil); !errors.Is(err, storage.ErrDenied) {
		t.Errorf("a reader puts: %v", err)
	}
}

func TestAProxyCutsWhereItIsTold(t *testing.T) {
	s := s3test.New(t, s3test.Options{})
	proxy := s3test.NewProxy(t, s.Addr)
	bucket := s.Bucket()
	direct := s.Store(bucket, "", s.Root)
	s.Endpoint = "http://" + proxy.Addr
	through := s.Store(bucket, "", s.Root)
	if err := through.Put(t.Context(), "a", make([]byte, 100_000)); err != nil {
		t.Fatal(err)
	}
	if requests, answers := proxy.Passed(); requests < 100_000 || answers == 0 {
		t.Errorf("%d and %d bytes passed", requests, answers)
	}
	proxy.Set(s3test.Faults{CutRequests: 50_000})
	if err := through.Put(t.Context(), "b", make([]byte, 100_000)); !errors.Is(err, storage.ErrUnreachable) {
		t.Errorf("Put, cut in its request: %v", err)
	}
	if _, err := direct.Get(t.Context(), "b", storage.Range{}, nil); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("Get of what was cut: %v", err)
	}
	proxy.Set(s3test.Faults{CutAnswers: -1})
	if err := through.Put(t.Context(), "c", make([]byte, 100_000)); !errors.Is(err, storage.ErrUnreachable) {
		t.Errorf("Put, its answer lost: %v", err)
	}
	if got, err := direct.Get(t.Context(), "c", storage.Range{}, nil); err != nil || len(got) != 100_000 {
		t.Errorf("Get of what was put: %d bytes, %v", len(got), err)
	}
	proxy.Set(s3test.Faults{Refuse: true})
	if _, err := through.Get(t.Context(), "c", storage.Range{}, nil); !errors.Is(err, storage.ErrUnreachable) {
		t.Errorf("Get through a proxy that refuses: %v", err)
	}
}

// The test runs itself: the child starts a server, says where, and is killed.
func TestServerDiesWithItsTestProgram(t *testing.T) {
	if os.Getenv("S3TEST_CHILD") != "" {
		s := s3test.New(t, s3test.Options{})
		fmt.Println("addr", s.Addr)
		fmt.Println("dir", s.Dir)
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), "S3TEST_CHILD=1")
	out, err := cmd.Output()
	if err == nil {
		t.Fatalf("the child was not killed: %s", out)
	}
	var addr, dir string
	if _, err := fmt.Sscanf(string(out), "addr %s\ndir %s\n", &addr, &dir); err != nil {
		t.Fatalf("the child printed %q: %v", out, err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			return
		}
		c.Close()
		if time.Now().After(deadline) {
			t.Fatal("the server is still there")
		}
	}
}

func TestRequestsAreCounted(t *testing.T) {
	s := s3test.New(t, s3test.Options{Log: true})
	bucket := s.Bucket()
	before := s.Requests()
	store := s.Store(bucket, "", s.Root)
	for _, key := range []string{"a", "b"} {
		if err := store.Put(t.Context(), key, []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	if n := s.Requests() - before; n != 2 {
		t.Errorf("two puts were %d requests", n)
	}
}
