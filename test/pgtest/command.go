package pgtest

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// clientBin holds the client programs (psql, pgbench, pg_dumpall, ...): those
// of 15 talk to every server of the harness, and the packaged servers have none.
const clientBin = "/usr/lib/postgresql/15/bin"

// commandTimeout ends a program that hangs, before go test's own timeout would
// hide which one it was.
const commandTimeout = 5 * time.Minute

// Result is what a program left.
type Result struct {
	Stdout, Stderr string
	Code           int // exit code; 128 + number after a signal, as a shell has it
}

// Run runs cmd to its end, with whatever exit code, and fails the test when it
// cannot be started or hangs. Stdout and Stderr are captured in addition to
// nothing: cmd must not have them set.
func Run(t testing.TB, cmd *exec.Cmd) Result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", cmd.Path, err)
	}
	hung := time.AfterFunc(commandTimeout, func() { _ = cmd.Process.Kill() })
	err := cmd.Wait()
	if !hung.Stop() {
		t.Fatalf("%s: killed after %s\nstdout: %s\nstderr: %s", strings.Join(cmd.Args, " "), commandTimeout, &stdout, &stderr)
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s: %v", strings.Join(cmd.Args, " "), err)
	}
	return Result{Stdout: stdout.String(), Stderr: stderr.String(), Code: ExitCode(cmd.ProcessState)}
}

// MustRun runs cmd, fails the test unless it ends with exit code 0, and
// returns its standard output.
func MustRun(t testing.TB, cmd *exec.Cmd) string {
	t.Helper()
	r := Run(t, cmd)
	if r.Code != 0 {
		t.Fatalf("%s: exit code %d\nstdout: %s\nstderr: %s", strings.Join(cmd.Args, " "), r.Code, r.Stdout, r.Stderr)
	}
	return r.Stdout
}

// ExitCode is the exit code of an ended process, 128 + number after a signal.
func ExitCode(state *os.ProcessState) int {
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal())
	}
	return state.ExitCode()
}

// Command prepares a program that runs as the user that owns the clusters,
// without a server: HOME and the XDG directories are home and below it, and of
// the caller's environment only the path is kept. A name without a slash is
// pgtrove (Binary), a client program of PostgreSQL, or looked up in the path.
// Add to cmd.Env for more. The program dies with the test.
func Command(t testing.TB, home, name string, args ...string) *exec.Cmd {
	t.Helper()
	u, err := serverUser()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(resolve(t, "", name), args...)
	cmd.Dir = home
	cmd.Env = homeEnv(home)
	cmd.SysProcAttr = u.sysProcAttr(syscall.SIGKILL)
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// Command prepares a program as the package's Command does, and connects it to
// this server: PGHOST, PGPORT, PGUSER and PGDATABASE are set, and ExtraEnv.
// This version's own programs come before those of 15.
func (s *Server) Command(name string, args ...string) *exec.Cmd {
	s.t.Helper()
	cmd := Command(s.t, s.Home, resolve(s.t, s.Bin, name), args...)
	cmd.Env = append(append(cmd.Env, s.connEnv()...), s.ExtraEnv...)
	return cmd
}

// Env is the environment that Commands get.
func (s *Server) Env() []string {
	return append(append(homeEnv(s.Home), s.connEnv()...), s.ExtraEnv...)
}

func (s *Server) connEnv() []string {
	return []string{"PGHOST=" + s.SocketDir, "PGPORT=" + strconv.Itoa(s.Port), "PGUSER=postgres", "PGDATABASE=postgres"}
}

// baseEnv is the environment of the server, and so of archive_command.
func (s *Server) baseEnv() []string { return append(homeEnv(s.Home), s.ExtraEnv...) }

func homeEnv(home string) []string {
	env := []string{
		"HOME=" + home, "LC_ALL=C.UTF-8", "TZ=UTC",
		"PATH=" + clientBin + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"XDG_CONFIG_HOME=" + filepath.Join(home, "config"),
		"XDG_CACHE_HOME=" + filepath.Join(home, "cache"),
		"XDG_DATA_HOME=" + filepath.Join(home, "share"),
		"XDG_STATE_HOME=" + filepath.Join(home, "state"),
		"PGTROVE_CONFIG=" + os.DevNull, // not the machine's
	}
	if dir := os.Getenv("GOCOVERDIR"); dir != "" {
		env = append(env, "GOCOVERDIR="+dir)
	}
	return env
}

func resolve(t testing.TB, bin, name string) string {
	t.Helper()
	if strings.Contains(name, "/") {
		return name
	}
	if name == "pgtrove" {
		return Binary(t)
	}
	for _, dir := range []string{bin, clientBin} {
		if path := filepath.Join(dir, name); dir != "" && executable(path) {
			return path
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%v: is it installed? (make setup)", err)
	}
	return path
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o111 != 0
}

// Pgbench runs pgbench against the database postgres to its end and fails the
// test when it fails. To run it beside something else, start
// Command("pgbench", ...).
func (s *Server) Pgbench(t testing.TB, args ...string) {
	t.Helper()
	MustRun(t, s.Command("pgbench", args...))
}

// built is the one piece of state of the package: the binary is built once per
// test program.
var built = sync.OnceValues(build)

// Binary is the path of pgtrove, built from this checkout, readable by the
// user that runs the servers.
func Binary(t testing.TB) string {
	t.Helper()
	path, err := built()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// build puts pgtrove into the cache directory. Test programs of several
// packages run at once, so one builds while the others wait, and a new binary
// replaces the old by a rename: processes that run the old one keep it.
func build() (string, error) {
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	cache, err := SetupScript("cache-dir.sh")
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "build", strings.ReplaceAll(strings.Trim(root, "/"), "/", "-"))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", fmt.Errorf("lock %s: %w", dir, err)
	}
	fresh, used := filepath.Join(dir, "pgtrove.new"), filepath.Join(dir, "pgtrove")
	cmd := exec.Command("go", "build", "-o", fresh, "./cmd/pgtrove")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build pgtrove: %w\n%s", err, out)
	}
	return used, install(fresh, used)
}

// install copies fresh over used unless it is the same file still: go build
// leaves an up-to-date file alone, so the times tell.
func install(fresh, used string) error {
	f, err := os.Stat(fresh)
	if err != nil {
		return err
	}
	u, err := os.Stat(used)
	if err == nil && u.Size() == f.Size() && u.ModTime().Equal(f.ModTime()) {
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	b, err := os.ReadFile(fresh)
	if err != nil {
		return err
	}
	temp := used + ".temp"
	if err := os.WriteFile(temp, b, 0o755); err != nil {
		return err
	}
	if err := os.Chmod(temp, 0o755); err != nil { // whatever the umask is
		return err
	}
	if err := os.Chtimes(temp, time.Time{}, f.ModTime()); err != nil {
		return err
	}
	return os.Rename(temp, used)
}
