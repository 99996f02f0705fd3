package pgtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Server is one cluster and, while it runs, its postmaster. A test may use it
// from several goroutines, except Start, StartErr and Stop.
type Server struct {
	Version   string // major: "15"
	Dir       string // data directory
	Bin       string // where this version's own programs are
	Port      int    // the same for the life of the Server; on 127.0.0.1 and in SocketDir
	SocketDir string
	Home      string   // HOME of the server and of Commands; XDG directories are below it
	ExtraEnv  []string // added to the environment of the server (at its next start) and of Commands
	Args      []string // further arguments of postgres: "-c", "config_file=..."

	t    testing.TB
	user unixUser
	lock *os.File // reserves Port
	log  string
	proc *process
}

// process is a started postmaster. done is closed when it has been waited for;
// err is its exit then.
type process struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error
}

// StopMode is how a server is shut down, by the names of pg_ctl.
type StopMode string

// Smart waits for clients, Fast disconnects them, Immediate is a crash.
const (
	Smart     StopMode = "smart"
	Fast      StopMode = "fast"
	Immediate StopMode = "immediate"
)

// ExitError says that a server ended instead of accepting connections.
type ExitError struct {
	Code int    // exit code, -1 after a signal
	Log  string // what it wrote during this start
}

func (e *ExitError) Error() string {
	return fmt.Sprintf("server ended with exit code %d; its log:\n%s", e.Code, tail(e.Log, 40))
}

// startTimeout is long because recovery of a restored cluster counts in it.
const startTimeout = 3 * time.Minute

// baseConf keeps several servers small beside each other. What concerns
// durability stays as PostgreSQL has it.
const baseConf = `
max_connections = 40
shared_buffers = 16MB
huge_pages = off
max_wal_senders = 5
max_worker_processes = 4
max_parallel_workers_per_gather = 0
maintenance_work_mem = 32MB
jit = off
logging_collector = off
log_destination = stderr
log_line_prefix = '%m [%p] '
`

// New makes a cluster with initdb (UTF8, locale C, superuser postgres, trust)
// and does not start it. At the end of the test the server is stopped and the
// cluster removed.
func New(t testing.TB, version string, o Options) *Server {
	t.Helper()
	s := prepare(t, version, filepath.Join(TempDir(t), "data"))
	args := []string{"-D", s.Dir, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"}
	if o.WALSegMB != 0 {
		args = append(args, "--wal-segsize="+strconv.Itoa(o.WALSegMB))
	}
	if !o.NoChecksums {
		args = append(args, "--data-checksums")
	} else if major(version) >= 18 {
		args = append(args, "--no-data-checksums") // 18 has them by default
	}
	args = append(args, o.InitdbArgs...)
	cmd := s.Command(filepath.Join(s.Bin, "initdb"), args...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("initdb of %s: %v\n%s", version, err, out)
	}
	s.appendConf(t, baseConf)
	// Start says this on the command line; here it is for whoever starts a
	// restored copy in the way of a person, with pg_ctl.
	s.Configure(t, map[string]string{"port": strconv.Itoa(s.Port), "unix_socket_directories": s.SocketDir, "listen_addresses": "127.0.0.1"})
	s.Configure(t, o.Conf)
	return s
}

// Adopt takes an existing data directory, a restored one for example, and does
// not start it. Port and socket are given on the command line and so win over
// the directory's own settings. The server is stopped at the end of the test;
// the directory stays the caller's.
func Adopt(t testing.TB, version, dir string) *Server {
	t.Helper()
	return prepare(t, version, dir)
}

func prepare(t testing.TB, version, dataDir string) *Server {
	t.Helper()
	bin, err := SetupScript("server.sh", version)
	if err != nil {
		t.Fatal(err)
	}
	u, err := serverUser()
	if err != nil {
		t.Fatal(err)
	}
	run := TempDir(t)
	s := &Server{Version: version, Dir: dataDir, Bin: bin, SocketDir: run, Home: filepath.Join(run, "home"),
		t: t, user: u, log: filepath.Join(run, "log")}
	if err := os.Mkdir(s.Home, 0o700); err != nil {
		t.Fatal(err)
	}
	Own(t, s.Home)
	if s.Port, s.lock, err = ReservePort(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.cleanup)
	return s
}

func (s *Server) cleanup() {
	if s.t.Failed() {
		s.t.Logf("log of server %s on port %d:\n%s", s.Version, s.Port, tail(s.Log(), 60))
	}
	if err := s.stop(Immediate); err != nil {
		s.t.Errorf("stop server %s: %v", s.Version, err)
	}
	s.lock.Close()
}

// Configure appends settings to postgresql.conf, where the last line wins. A
// running server sees them after Reload or a restart.
func (s *Server) Configure(t testing.TB, conf map[string]string) {
	t.Helper()
	names := make([]string, 0, len(conf))
	for name := range conf {
		names = append(names, name)
	}
	sort.Strings(names)
	var b strings.Builder
	for _, name := range names {
		fmt.Fprintf(&b, "%s = %s\n", name, quoteConf(conf[name]))
	}
	s.appendConf(t, b.String())
}

func (s *Server) appendConf(t testing.TB, text string) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(s.Dir, "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteString(text)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

// Start starts the server and waits until it accepts connections: after
// recovery, or on a standby and in a paused recovery once it is consistent.
func (s *Server) Start(t testing.TB) {
	t.Helper()
	if err := s.StartErr(); err != nil {
		t.Fatalf("start server %s: %v", s.Version, err)
	}
}

// StartErr is Start for servers that are expected to fail: errors.As finds an
// *ExitError when the server ended by itself, with whatever exit code (a
// recovery with target action shutdown ends with 0).
func (s *Server) StartErr() error {
	if s.Running() {
		return errors.New("it runs already")
	}
	before := len(s.Log())
	log, err := os.OpenFile(s.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	args := append([]string{"-D", s.Dir, "-p", strconv.Itoa(s.Port), "-k", s.SocketDir, "-c", "listen_addresses=127.0.0.1"}, s.Args...)
	cmd := exec.Command(filepath.Join(s.Bin, "postgres"), args...)
	cmd.Dir = s.Home
	cmd.Env = s.baseEnv()
	cmd.Stdout, cmd.Stderr = log, log
	// SIGQUIT to a postmaster is an immediate shutdown of all its processes.
	cmd.SysProcAttr = s.user.sysProcAttr(syscall.SIGQUIT)
	if err := cmd.Start(); err != nil {
		return err
	}
	p := &process{cmd: cmd, done: make(chan struct{})}
	s.proc = p
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	err = s.WaitReady(startTimeout)
	var exit *ExitError
	if errors.As(err, &exit) {
		exit.Log = s.Log()[before:]
	}
	return err
}

// Running says whether the postmaster is there.
func (s *Server) Running() bool {
	if s.proc == nil {
		return false
	}
	select {
	case <-s.proc.done:
		return false
	default:
		return true
	}
}

// WaitReady waits until the server accepts connections; an *ExitError when it
// ends instead.
func (s *Server) WaitReady(timeout time.Duration) error {
	if s.proc == nil {
		return errors.New("it was not started")
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	for {
		conn, err := s.Connect(ctx, "postgres")
		if err == nil {
			return conn.Close(ctx)
		}
		select {
		case <-s.proc.done:
			return &ExitError{Code: s.proc.cmd.ProcessState.ExitCode(), Log: s.Log()}
		case <-ctx.Done():
			return fmt.Errorf("not ready after %s: %w; its log:\n%s", timeout, err, tail(s.Log(), 40))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// WaitExit waits until the server has ended by itself and returns its exit code.
func (s *Server) WaitExit(t testing.TB, timeout time.Duration) int {
	t.Helper()
	if s.proc == nil {
		t.Fatal("server was not started")
	}
	select {
	case <-s.proc.done:
	case <-time.After(timeout):
		t.Fatalf("server %s still runs after %s; its log:\n%s", s.Version, timeout, tail(s.Log(), 40))
	}
	return s.proc.cmd.ProcessState.ExitCode()
}

// Stop shuts the server down and waits for its end. A server that does not run
// is fine.
func (s *Server) Stop(t testing.TB, mode StopMode) {
	t.Helper()
	if err := s.stop(mode); err != nil {
		t.Fatalf("stop server %s: %v", s.Version, err)
	}
}

func (s *Server) stop(mode StopMode) error {
	if !s.Running() {
		return nil
	}
	signals := map[StopMode]syscall.Signal{Smart: syscall.SIGTERM, Fast: syscall.SIGINT, Immediate: syscall.SIGQUIT}
	sig, ok := signals[mode]
	if !ok {
		return fmt.Errorf("no mode %q", mode)
	}
	if err := s.proc.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-s.proc.done:
		return nil
	case <-time.After(time.Minute):
		err := s.proc.cmd.Process.Kill()
		return errors.Join(fmt.Errorf("still there a minute after a %s shutdown, killed; its log:\n%s", mode, tail(s.Log(), 40)), err)
	}
}

// Reload makes the server read its configuration again.
func (s *Server) Reload(t testing.TB) {
	t.Helper()
	s.Exec(t, "SELECT pg_reload_conf()")
}

// Log is everything that the server wrote so far.
func (s *Server) Log() string {
	b, err := os.ReadFile(s.log)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err.Error()
	}
	return string(b)
}

func tail(text string, lines int) string {
	all := strings.Split(strings.TrimRight(text, "\n"), "\n")
	if len(all) > lines {
		all = all[len(all)-lines:]
	}
	return strings.Join(all, "\n")
}
