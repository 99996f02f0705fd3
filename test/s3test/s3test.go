// Package s3test runs a real S3 server, versitygw, for tests: on a free port of 127.0.0.1, in a scratch directory, with a root account and
// as many others as a test makes. It ends with the test. It never talks to a server that it did not start, and knows nothing of
// repositories. Tests and the programs below test/ use it; no package of the product does.
//
// A test needs no setup of its own: the server is built into the cache directory (test/setup/s3-server.sh) when it is first asked for.
//
// Environment: PGTROVE_TEST_CACHE is where the server is kept, PGTROVE_TEST_KEEP=1 leaves the scratch directories of failed tests.
package s3test

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/pgtrove/pgtrove/storage/s3"
	"github.com/pgtrove/pgtrove/test/pgtest"
)

// Region is the one that all servers say they are in.
const Region = "us-east-1"

const (
	startTimeout = 20 * time.Second
	stopTimeout  = 10 * time.Second
)

// Options of a server. The zero value is a server without TLS and without versions of objects.
type Options struct {
	TLS bool // with a certificate of its own: CAFile
	// Versions lets buckets keep every version of an object: those that Locked makes do, others when they are told to.
	Versions bool
	// Log keeps a line for each request, which Requests counts.
	Log bool
}

// Account is a key and its secret.
type Account struct{ AccessKey, SecretKey string }

// Server is one server. Its methods fail the test when they fail. Use New.
type Server struct {
	Addr     string // host:port
	Endpoint string // URL
	Root     Account
	CAFile   string // PEM; "" without TLS
	Dir      string // holds data (a directory for each bucket), the accounts and the log

	t      testing.TB
	opts   Options
	bin    string
	port   *os.File // the reservation
	mu     sync.Mutex
	frozen bool // started read-only
	cmd    *exec.Cmd
	exited chan struct{}
	n      int // buckets and accounts made
}

// New starts a server. It is stopped, and its data removed, when the test ends. What the machine's user has set for AWS is taken out of the
// environment of the test program, so that no test depends on it: set variables after the call.
func New(t testing.TB, o Options) *Server {
	t.Helper()
	forgetAWS(t)
	bin, err := pgtest.SetupScript("s3-server.sh")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "pgtrove-test-")
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{t: t, opts: o, bin: bin, Dir: dir, Root: Account{"test-root", "test-root-secret"}}
	t.Cleanup(s.remove)
	for _, sub := range []string{"data", "accounts", "versions"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	port, lock, err := pgtest.ReservePort()
	if err != nil {
		t.Fatal(err)
	}
	s.port = lock
	s.Addr = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	s.Endpoint = "http://" + s.Addr
	if o.TLS {
		s.Endpoint = "https://" + s.Addr
		s.CAFile = filepath.Join(dir, "cert.pem")
		if err := writeCertificate(s.CAFile, filepath.Join(dir, "key.pem")); err != nil {
			t.Fatal(err)
		}
	}
	s.Start()
	return s
}

func forgetAWS(t testing.TB) {
	t.Helper()
	for _, entry := range os.Environ() {
		name, _, _ := strings.Cut(entry, "=")
		if strings.HasPrefix(name, "AWS_") {
			if err := os.Unsetenv(name); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, name := range []string{"AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"} {
		if err := os.Setenv(name, os.DevNull); err != nil {
			t.Fatal(err)
		}
	}
}

// Start starts the server on its port, with the data that is there, and waits until it answers. New has called it.
func (s *Server) Start() {
	s.t.Helper()
	args := []string{"--port", s.Addr, "--region", Region, "--iam-dir", filepath.Join(s.Dir, "accounts"), "--iam-cache-disable", "--keep-alive", "--quiet"}
	if s.opts.TLS {
		args = append(args, "--cert", s.CAFile, "--key", filepath.Join(s.Dir, "key.pem"))
	}
	if s.frozen {
		args = append(args, "--readonly")
	}
	if s.opts.Log {
		args = append(args, "--access-log", s.accessLog())
	}
	args = append(args, "posix")
	if s.opts.Versions {
		args = append(args, "--versioning-dir", filepath.Join(s.Dir, "versions"))
	}
	cmd := exec.Command(s.bin, append(args, filepath.Join(s.Dir, "data"))...)
	// Not in the arguments, which every user of the machine can read.
	cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY="+s.Root.AccessKey, "ROOT_SECRET_KEY="+s.Root.SecretKey)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // also when the test program runs no cleanup
	log, err := os.OpenFile(s.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		s.t.Fatalf("start the S3 server: %v", err)
	}
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait() // it is always killed
		close(exited)
	}()
	s.mu.Lock()
	s.cmd, s.exited = cmd, exited
	s.mu.Unlock()
	for deadline := time.Now().Add(startTimeout); ; time.Sleep(10 * time.Millisecond) {
		if c, err := net.Dial("tcp", s.Addr); err == nil {
			c.Close()
			return
		}
		select {
		case <-exited:
			s.t.Fatalf("the S3 server ended: %s", s.log())
		default:
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("the S3 server does not listen after %s: %s", startTimeout, s.log())
		}
	}
}

// Stop kills the server: connections break, the data stays. It does nothing when the server is stopped.
func (s *Server) Stop() {
	s.t.Helper()
	s.mu.Lock()
	cmd, exited := s.cmd, s.exited
	s.cmd = nil
	s.mu.Unlock()
	if cmd == nil {
		return
	}
	_ = cmd.Process.Kill() // fails only when it has ended
	select {
	case <-exited:
	case <-time.After(stopTimeout):
		s.t.Errorf("the S3 server does not end")
	}
}

// Freeze starts the server anew as one that refuses every write.
func (s *Server) Freeze() {
	s.t.Helper()
	s.Stop()
	s.frozen = true
	s.Start()
}

func (s *Server) remove() {
	s.Stop()
	if s.port != nil {
		s.port.Close()
	}
	if s.t.Failed() {
		s.t.Logf("log of the S3 server: %s", s.log())
		if os.Getenv("PGTROVE_TEST_KEEP") == "1" {
			s.t.Logf("the S3 server's directory stays: %s", s.Dir)
			return
		}
	}
	if err := os.RemoveAll(s.Dir); err != nil {
		s.t.Error(err)
	}
}

func (s *Server) logFile() string { return filepath.Join(s.Dir, "log") }

func (s *Server) log() string {
	b, err := os.ReadFile(s.logFile())
	if err != nil {
		return err.Error()
	}
	const most = 4000
	return string(bytes.TrimSpace(b[max(0, len(b)-most):]))
}

// Bucket makes an empty bucket of the root account and returns its name.
func (s *Server) Bucket() string { return s.bucket(minio.MakeBucketOptions{Region: Region}) }

// Locked makes a bucket whose objects can have a retention. With Options.Versions it keeps versions, as all buckets of that kind do at AWS, so a put
// over a locked object makes a new version; without, this server refuses such a put.
func (s *Server) Locked() string {
	return s.bucket(minio.MakeBucketOptions{Region: Region, ObjectLocking: true})
}

func (s *Server) bucket(o minio.MakeBucketOptions) string {
	s.t.Helper()
	name := fmt.Sprintf("bucket-%d", s.next())
	if err := s.Admin().MakeBucket(s.t.Context(), name, o); err != nil {
		s.t.Fatalf("make a bucket: %v", err)
	}
	return name
}

// Account makes an account that may do nothing until a bucket's policy allows it. Its name in a policy is its access key.
func (s *Server) Account() Account {
	s.t.Helper()
	n := s.next()
	a := Account{fmt.Sprintf("account-%d", n), fmt.Sprintf("account-%d-secret", n)}
	args := []string{"admin", "--endpoint-url", s.Endpoint, "--region", Region, "--allow-insecure",
		"create-user", "--access", a.AccessKey, "--secret", a.SecretKey, "--role", "user"}
	cmd := exec.Command(s.bin, args...)
	cmd.Env = append(os.Environ(), "ADMIN_ACCESS_KEY="+s.Root.AccessKey, "ADMIN_SECRET_KEY="+s.Root.SecretKey)
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Fatalf("make an account: %v: %s", err, out)
	}
	return a
}

func (s *Server) next() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n++
	return s.n
}

// Policy gives the bucket this policy (JSON), in place of the one that it had.
func (s *Server) Policy(bucket, policy string) {
	s.t.Helper()
	if err := s.Admin().SetBucketPolicy(s.t.Context(), bucket, policy); err != nil {
		s.t.Fatalf("set the policy of %s: %v", bucket, err)
	}
}

// Admin is a client of the root account, for what a Store cannot do.
func (s *Server) Admin() *minio.Client { return s.Client(s.Root) }

// Client is a client of that account, for what a Store does not do.
func (s *Server) Client(a Account) *minio.Client {
	s.t.Helper()
	c, err := minio.New(s.Addr, &minio.Options{
		Creds: credentials.NewStaticV4(a.AccessKey, a.SecretKey, ""), Region: Region,
		Secure: s.opts.TLS, Transport: s.transport(),
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

func (s *Server) transport() http.RoundTripper {
	if !s.opts.TLS {
		return nil
	}
	tls, err := clientTLS(s.CAFile)
	if err != nil {
		s.t.Fatal(err)
	}
	return &http.Transport{TLSClientConfig: tls}
}

// Asked gives what the account asked the server for since New, by the server's names: how often for each kind of request, and how often in vain, for want
// of a right. It needs Options.Log.
func (s *Server) Asked(a Account) (kinds map[string]int, denied int) {
	s.t.Helper()
	text, err := os.ReadFile(s.accessLog())
	if err != nil {
		s.t.Fatal(err)
	}
	kinds = map[string]int{}
	for line := range strings.Lines(string(text)) {
		// owner, bucket, two for the time, address, who asks, an ID, the kind, key, address, answer
		f := strings.Fields(line)
		if len(f) < 11 || f[5] != a.AccessKey {
			continue
		}
		kinds[f[7]]++
		if f[10] == strconv.Itoa(http.StatusForbidden) {
			denied++
		}
	}
	return kinds, denied
}

// Options opens the part of a bucket under prefix ("": all of it) as that account.
func (s *Server) Options(bucket, prefix string, a Account) s3.Options {
	return s3.Options{
		Location: s3.Location{Bucket: bucket, Prefix: prefix}, Endpoint: s.Endpoint, Region: Region, CAFile: s.CAFile,
		Credentials: s3.Credentials{AccessKey: a.AccessKey, SecretKey: a.SecretKey},
	}
}

// Store opens a bucket as Options says.
func (s *Server) Store(bucket, prefix string, a Account) *s3.Store {
	s.t.Helper()
	store, err := s3.Open(s.Options(bucket, prefix, a))
	if err != nil {
		s.t.Fatalf("open %s/%s: %v", bucket, prefix, err)
	}
	return store
}

// Env is the environment in which a program uses the server as that account.
func (s *Server) Env(a Account) []string {
	env := []string{
		"AWS_ACCESS_KEY_ID=" + a.AccessKey, "AWS_SECRET_ACCESS_KEY=" + a.SecretKey, "AWS_REGION=" + Region,
		"AWS_ENDPOINT_URL_S3=" + s.Endpoint, "AWS_CONFIG_FILE=" + os.DevNull, "AWS_SHARED_CREDENTIALS_FILE=" + os.DevNull,
	}
	if s.CAFile != "" {
		env = append(env, "AWS_CA_BUNDLE="+s.CAFile)
	}
	return env
}
