// Package pgtest runs real PostgreSQL servers, 13 to 18, for tests. It makes
// clusters in scratch directories, starts and stops them, runs client programs
// and the pgtrove binary as the unprivileged user that owns them, and removes
// everything afterwards. It never touches a server it did not make, and knows
// nothing of repositories. Tests and the programs below test/ use it; no
// package of the product does.
//
// A test needs no setup of its own: a server that is not on the machine yet is
// fetched into the cache directory (test/setup/server.sh) when it is first
// asked for. As root, everything runs as the user postgres, or pgtrove-test
// where that does not exist; otherwise as the caller.
//
// Environment: PGTROVE_TEST_VERSIONS (majors separated by commas) chooses what
// Versions returns, PGTROVE_TEST_CACHE where servers and the built binary are
// kept, PGTROVE_TEST_KEEP=1 leaves the scratch directories of failed tests.
package pgtest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Options of a new cluster. The zero value is a cluster with checksums, 16 MB
// segments and the settings of baseConf.
type Options struct {
	WALSegMB    int               // size of a WAL segment in MiB, 0: 16
	NoChecksums bool              // initdb without page checksums
	Conf        map[string]string // lines of postgresql.conf, values as SQL would see them: quoted here
	InitdbArgs  []string          // further arguments of initdb
}

// AllVersions are the majors that the harness can run, ascending.
func AllVersions() []string { return []string{"13", "14", "15", "16", "17", "18"} }

// Versions are the majors that a full end-to-end test runs: 15 and 18, or what
// PGTROVE_TEST_VERSIONS says ("all" for every one).
func Versions(t testing.TB) []string {
	t.Helper()
	asked := os.Getenv("PGTROVE_TEST_VERSIONS")
	switch asked {
	case "":
		return []string{"15", "18"}
	case "all":
		return AllVersions()
	}
	var versions []string
	for _, v := range strings.Split(asked, ",") {
		v = strings.TrimSpace(v)
		if !slices.Contains(AllVersions(), v) {
			t.Fatalf("PGTROVE_TEST_VERSIONS: %q is none of %s", v, strings.Join(AllVersions(), ", "))
		}
		versions = append(versions, v)
	}
	return versions
}

// TempDir makes a directory for one test: owned by the user that runs the
// servers, mode 0700, and with a path short enough for a Unix socket below it
// (sun_path holds 107 bytes), which t.TempDir has not. It is removed at the
// end of the test, failed or not, after servers that programs of the test
// started in it or in a directory directly below (pg_ctl) have been stopped.
func TempDir(t testing.TB) string {
	t.Helper()
	u, err := serverUser()
	if err != nil {
		t.Fatal(err)
	}
	parent := os.TempDir()
	if len(parent) > 40 {
		parent = "/tmp"
	}
	dir, err := os.MkdirTemp(parent, "pgtrove-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := stopServersIn(dir); err != nil {
			t.Error(err)
		}
		if t.Failed() && os.Getenv("PGTROVE_TEST_KEEP") != "" {
			t.Logf("kept %s", dir)
			return
		}
		WaitNoPgtrove(t, dir)
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("remove scratch directory: %v", err)
		}
	})
	if err := os.Chown(dir, u.uid, u.gid); err != nil {
		t.Fatal(err)
	}
	return dir
}

// WaitNoPgtrove waits until no process of pgtrove has dir, or something below
// it, in its environment: what wal fetch started behind itself ends by itself.
func WaitNoPgtrove(t testing.TB, dir string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		pids := pgtroveIn(dir)
		if len(pids) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("processes of pgtrove that do not end: %v", pids)
			return
		}
	}
}

// pgtroveIn finds the processes.
func pgtroveIn(dir string) (pids []string) {
	all, _ := filepath.Glob("/proc/[0-9]*")
	for _, proc := range all {
		if exe, err := os.Readlink(filepath.Join(proc, "exe")); err != nil || !strings.HasPrefix(filepath.Base(exe), "pgtrove") {
			continue
		}
		env, err := os.ReadFile(filepath.Join(proc, "environ"))
		if err == nil && bytes.Contains(env, []byte("="+dir)) {
			pids = append(pids, filepath.Base(proc))
		}
	}
	return pids
}

// stopServersIn ends the postmasters whose data directories are in dir.
func stopServersIn(dir string) error {
	for _, pattern := range []string{"postmaster.pid", "*/postmaster.pid"} {
		files, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return err
		}
		for _, file := range files {
			if err := stopServer(file); err != nil {
				return fmt.Errorf("stop server of %s: %w", file, err)
			}
		}
	}
	return nil
}

func stopServer(pidFile string) error {
	b, err := os.ReadFile(pidFile)
	if err != nil {
		return err
	}
	line, _, _ := strings.Cut(string(b), "\n")
	pid, err := strconv.Atoi(line)
	if err != nil {
		return err
	}
	// A postmaster's working directory is its data directory: the file may be
	// a copy, or older than the process of that number.
	there := func() bool {
		cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid))
		return err == nil && cwd == filepath.Dir(pidFile)
	}
	for range 600 {
		if !there() {
			return nil
		}
		if err := syscall.Kill(pid, syscall.SIGQUIT); err != nil && !errors.Is(err, syscall.ESRCH) {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
	return fmt.Errorf("process %d does not end", pid)
}

// Own gives paths, and all below them, to the user that runs the servers.
// Tests that run as root need it for files they wrote themselves.
func Own(t testing.TB, paths ...string) {
	t.Helper()
	u, err := serverUser()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range paths {
		err := filepath.WalkDir(p, func(path string, _ os.DirEntry, err error) error {
			if err != nil {
				return err
			}
			return os.Lchown(path, u.uid, u.gid)
		})
		if err != nil {
			t.Fatalf("chown: %v", err)
		}
	}
}

// moduleRoot finds the checkout: go test runs in the directory of the package.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("no go.mod above the working directory")
		}
		dir = filepath.Dir(dir)
	}
}

// SetupScript runs a script of test/setup and returns the path that it prints.
func SetupScript(name string, args ...string) (string, error) {
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	cmd := exec.Command(filepath.Join(root, "test", "setup", name), args...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return strings.TrimSpace(string(out)), nil
}

// quoteConf writes a value as postgresql.conf wants it.
func quoteConf(v string) string {
	return "'" + strings.ReplaceAll(strings.ReplaceAll(v, `\`, `\\`), "'", "''") + "'"
}

// major is the number of a version string; callers have checked it.
func major(version string) int {
	n, err := strconv.Atoi(version)
	if err != nil {
		return 0
	}
	return n
}
