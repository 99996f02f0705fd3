package pgtest_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/test/pgtest"
)

// The test runs itself: the child starts a server, says where, and is killed.
func TestServerDiesWithItsTestProgram(t *testing.T) {
	if os.Getenv("PGTEST_CHILD") != "" {
		s := pgtest.New(t, "15", pgtest.Options{})
		s.Start(t)
		fmt.Println("dir", filepath.Dir(s.Dir))
		fmt.Println("run", s.SocketDir)
		pid, err := os.ReadFile(filepath.Join(s.Dir, "postmaster.pid"))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Println("pid", strings.SplitN(string(pid), "\n", 2)[0])
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), "PGTEST_CHILD=1")
	out, err := cmd.Output()
	if err == nil {
		t.Fatalf("child was not killed: %s", out)
	}
	var dir, run string
	var pid int
	if _, err := fmt.Sscanf(string(out), "dir %s\nrun %s\npid %d\n", &dir, &run, &pid); err != nil {
		t.Fatalf("child printed %q: %v", out, err)
	}
	t.Cleanup(func() {
		for _, d := range []string{dir, run} {
			if err := os.RemoveAll(d); err != nil {
				t.Error(err)
			}
		}
	})
	deadline := time.Now().Add(30 * time.Second)
	for !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
		if time.Now().After(deadline) {
			t.Fatal("postmaster " + strconv.Itoa(pid) + " is still there")
		}
		time.Sleep(20 * time.Millisecond)
	}
}
