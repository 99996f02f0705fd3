package storagetest

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// CanMount reports whether the test goes on to mount file systems of its own. A user who is not root runs the whole test again in
// a child, as root of a user namespace, and this call then says no. Where the kernel forbids that too, it logs so.
func CanMount(t *testing.T) bool {
	t.Helper()
	if os.Geteuid() == 0 {
		return true
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	switch {
	case err == nil:
		t.Logf("run as root of a user namespace:\n%s", out)
	case errors.As(err, &exit):
		t.Errorf("in a user namespace: %v\n%s", err, out)
	default:
		t.Logf("NOT RUN on a file system of its own: not root, and no user namespace to be had: %v", err)
	}
	return false
}

// Tmpfs mounts a file system in memory on a new directory until the test ends; options are mount's ("size=1m"). Call CanMount first.
func Tmpfs(t *testing.T, options string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		t.Fatalf("mount a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			t.Error(err)
		}
	})
	return dir
}
