package fs_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pgtrove/pgtrove/internal/durable"
	"github.com/pgtrove/pgtrove/storage"
	"github.com/pgtrove/pgtrove/storage/fs"
	"github.com/pgtrove/pgtrove/storage/storagetest"
)

// nobody is the user that root's tests become where permissions matter.
const nobody = 65534

// unprivileged runs fn on a thread whose file accesses root's powers do not help; root is a directory that is made over to
// that user. fn must not start goroutines that touch files.
func unprivileged(t *testing.T, root string, fn func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		fn()
		return
	}
	// The directories above belong to root with mode 0700.
	for dir := filepath.Dir(root); dir != "/" && dir != os.TempDir(); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	err := filepath.Walk(root, func(path string, _ os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, nobody, nobody)
	})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := unix.Setfsgid(nobody); err != nil {
			t.Error(err)
		}
		if err := unix.Setfsuid(nobody); err != nil {
			t.Error(err)
		}
		fn()
	}()
	<-done
}

func TestPermissionsAreTold(t *testing.T) {
	s, root := repository(t)
	put(t, s, "a/b", "x")
	put(t, s, "c/d", "x")
	put(t, s, "e", "x")
	for path, mode := range map[string]os.FileMode{"a": 0o500, "c": 0, "e": 0} {
		if err := os.Chmod(filepath.Join(root, path), mode); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		for _, dir := range []string{"a", "c"} {
			_ = os.Chmod(filepath.Join(root, dir), 0o700)
		}
	})
	unprivileged(t, root, func() {
		_, err := get(t, s, "a/b")
		if err != nil {
			t.Errorf("a readable object: %v", err)
		}
		wantErr(t, "Put", s.Put(t.Context(), "a/new", nil), storage.ErrDenied)
		wantErr(t, "Put into a directory to be made", s.Put(t.Context(), "a/new/x", nil), storage.ErrDenied)
		wantErr(t, "Delete", s.Delete(t.Context(), "a/b"), storage.ErrDenied)
		_, err = get(t, s, "e")
		wantErr(t, "Get", err, storage.ErrDenied)
		if !errors.Is(err, syscall.EACCES) || !strings.Contains(err.Error(), "get e: access denied: ") {
			t.Errorf("the error does not tell where it comes from: %v", err)
		}
		_, err = get(t, s, "c/d")
		wantErr(t, "Get in a closed directory", err, storage.ErrDenied)
		_, err = get(t, s, "c/absent")
		wantErr(t, "Get of an absent object in a closed directory", err, storage.ErrDenied)
		_, err = list(t, s, "")
		wantErr(t, "List", err, storage.ErrDenied)
		if keys, err := list(t, s, "a/"); err != nil || len(keys) != 1 {
			t.Errorf("List of what may be read: %q, %v", keys, err)
		}
	})
	if err := os.Chmod(root, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chmod(root, 0o700) })
	unprivileged(t, root, func() {
		_, err := get(t, s, "a/b")
		wantErr(t, "Get in a closed root", err, storage.ErrDenied)
		_, err = fs.Create(root)
		wantErr(t, "Create in a closed root", err, storage.ErrDenied)
	})
}

func TestAFullFileSystem(t *testing.T) {
	if !storagetest.CanMount(t) {
		return
	}
	s, root := repositoryIn(t, filepath.Join(storagetest.Tmpfs(t, "size=2m"), "repo"))
	put(t, s, "a/small", "x")
	before := names(t, root)
	err := s.Put(t.Context(), "a/big", make([]byte, 3<<20))
	wantErr(t, "Put", err, storage.ErrFull)
	wantErr(t, "Put", err, syscall.ENOSPC)
	if got := names(t, root); !slices.Equal(got, before) {
		t.Errorf("left: %q", got)
	}
	put(t, s, "a/big", strings.Repeat("y", 1<<20)) // the room of the failed one is free again

	tight, root := repositoryIn(t, filepath.Join(storagetest.Tmpfs(t, "size=1m,nr_inodes=6"), "repo"))
	put(t, tight, "a/1", "x")
	wantErr(t, "Put without an inode", tight.Put(t.Context(), "b/c/2", nil), storage.ErrFull)
	if keys, err := list(t, tight, ""); err != nil || !slices.Equal(keys, []string{"a/1", "config"}) {
		t.Errorf("listed %q, %v; there are %q", keys, err, names(t, root))
	}
}

func TestAReadOnlyFileSystem(t *testing.T) {
	if !storagetest.CanMount(t) {
		return
	}
	mount := storagetest.Tmpfs(t, "size=1m")
	s, _ := repositoryIn(t, filepath.Join(mount, "repo"))
	put(t, s, "a/b", "x")
	if err := unix.Mount("", mount, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	wantErr(t, "Put", s.Put(t.Context(), "a/c", nil), storage.ErrReadOnly)
	wantErr(t, "Put into a directory to be made", s.Put(t.Context(), "d/e", nil), storage.ErrReadOnly)
	wantErr(t, "Put of what is there", s.Put(t.Context(), "a/b", nil), storage.ErrExist)
	wantErr(t, "Delete", s.Delete(t.Context(), "a/b"), storage.ErrReadOnly)
	if got, err := get(t, s, "a/b"); err != nil || got != "x" {
		t.Errorf("Get: %q, %v", got, err)
	}
	if keys, err := list(t, s, "a"); err != nil || len(keys) != 1 {
		t.Errorf("List: %q, %v", keys, err)
	}
	_, err := fs.Create(filepath.Join(mount, "other"))
	wantErr(t, "Create", err, storage.ErrReadOnly)
}

func TestAnUnmountedFileSystem(t *testing.T) {
	if !storagetest.CanMount(t) {
		return
	}
	mount := storagetest.Tmpfs(t, "size=1m")
	s, _ := repositoryIn(t, mount)
	put(t, s, "wal/there", "x")
	if err := unix.Unmount(mount, 0); err != nil {
		t.Fatal(err)
	}
	unreachable(t, s)
	if got := names(t, mount); len(got) > 0 {
		t.Errorf("something was written under the mount point: %q", got)
	}
}

// TestAFileSystemThatVanishesUnderAPut: what had not ended by then is not acknowledged, and nothing is written into the mount point.
func TestAFileSystemThatVanishesUnderAPut(t *testing.T) {
	if !storagetest.CanMount(t) {
		return
	}
	mount := storagetest.Tmpfs(t, "size=64m")
	s, _ := repositoryIn(t, mount)
	put(t, s, "wal/there", "x")
	begun := make(chan struct{}, 4)
	errs := make(chan error, 4)
	for w := range cap(errs) {
		go func() {
			for i := 0; ; i++ {
				err := s.Put(t.Context(), fmt.Sprintf("wal/%d-%d", w, i), make([]byte, 10<<10))
				if i == 3 {
					begun <- struct{}{}
				}
				if err != nil {
					errs <- err
					return
				}
			}
		}()
	}
	for range cap(begun) {
		<-begun
	}
	if err := unix.Unmount(mount, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	for range cap(errs) {
		wantErr(t, "Put", <-errs, storage.ErrUnreachable)
	}
	unreachable(t, s)
	if got := names(t, mount); len(got) > 0 {
		t.Errorf("something was written under the mount point: %q", got)
	}
}

// The tests below run this program again as a child; it does one of these and exits.
const (
	childEnv   = "PGTROVE_TEST_CHILD"
	childLimit = "limit" // Put more than RLIMIT_FSIZE allows
	childRace  = "race"  // Put one key when the parent says so
	childLoop  = "loop"  // Put until killed

	childNoLinks = "nolinks" // withoutLinks
	childNothing = "nothing" // withNothing
	childNoSync  = "nosync"  // withoutSync
)

// background is a child's context: it has no test.
var background = context.Background()

func TestMain(m *testing.M) {
	what, root, ok := strings.Cut(os.Getenv(childEnv), ":")
	if !ok {
		os.Exit(m.Run())
	}
	if err := child(what, root); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(0)
}

func child(what, root string) error {
	s, err := fs.Open(root)
	if err != nil {
		return err
	}
	switch what {
	case childLimit:
		if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 1 << 20, Max: 1 << 20}); err != nil {
			return err
		}
		return s.Put(background, "a/big", make([]byte, 2<<20))
	case childRace:
		var b [1]byte
		if _, err := os.Stdin.Read(b[:]); err == nil {
			return fmt.Errorf("read %q instead of the end", b)
		}
		return s.Put(background, "race/key", fmt.Appendf(nil, "%d", os.Getpid()))
	case childLoop:
		for i := 0; ; i++ {
			if err := s.Put(background, fmt.Sprintf("loop/%d/%d", os.Getpid(), i), bytes.Repeat([]byte("z"), 300<<10)); err != nil {
				return err
			}
		}
	case childNoLinks:
		return withoutLinks(s)
	case childNothing:
		return withNothing(s)
	case childNoSync:
		return withoutSync(s, root)
	}
	return errors.New("unknown child")
}

func startChild(t *testing.T, what, root string) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+what+":"+root)
	out := new(bytes.Buffer)
	cmd.Stdout, cmd.Stderr = out, out
	return cmd, out
}

func TestTheFileSizeLimitIsAFullStorage(t *testing.T) {
	s, root := repository(t)
	cmd, out := startChild(t, childLimit, root)
	if err := cmd.Run(); err == nil || !strings.Contains(out.String(), "put a/big: storage full: ") {
		t.Errorf("%v: %s", err, out)
	}
	if keys, err := list(t, s, ""); err != nil || len(keys) != 1 {
		t.Errorf("listed %q, %v", keys, err)
	}
	if got := names(t, root); !slices.Equal(got, []string{"a", "config"}) {
		t.Errorf("left: %q", got)
	}
}

func TestOfSixteenProcessesOneWins(t *testing.T) {
	s, root := repository(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	var cmds []*exec.Cmd
	var outs []*bytes.Buffer
	for range 16 {
		cmd, out := startChild(t, childRace, root)
		cmd.Stdin = r
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		cmds, outs = append(cmds, cmd), append(outs, out)
	}
	time.Sleep(100 * time.Millisecond) // most of them wait now; the test holds either way
	w.Close()
	r.Close()
	winner := 0
	for i, cmd := range cmds {
		err := cmd.Wait()
		switch {
		case err == nil && winner != 0:
			t.Errorf("processes %d and %d both won", winner, cmd.Process.Pid)
		case err == nil:
			winner = cmd.Process.Pid
		case !strings.Contains(outs[i].String(), storage.ErrExist.Error()):
			t.Errorf("%v: %s", err, outs[i])
		}
	}
	if got, err := get(t, s, "race/key"); err != nil || got != fmt.Sprint(winner) {
		t.Errorf("the object is %q, %v; the winner is %d", got, err, winner)
	}
}

func TestAKilledPutLeavesNothingVisible(t *testing.T) {
	s, root := repository(t)
	leftovers := func() (n int) {
		for _, name := range names(t, root) {
			if strings.HasPrefix(filepath.Base(name), durable.TempPrefix) {
				n++
			}
		}
		return n
	}
	for round := 0; leftovers() < 3; round++ {
		if round == 300 {
			t.Fatal("300 kills, and never between the creation of a temporary file and its removal")
		}
		cmd, out := startChild(t, childLoop, root)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(20+round*7%40) * time.Millisecond)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err == nil || out.Len() > 0 {
			t.Fatalf("the child ended by itself: %v %s", err, out)
		}
		err := s.List(t.Context(), "loop/", func(i storage.Info) error {
			if i.Size != 300<<10 {
				return fmt.Errorf("%s is listed with %d bytes", i.Key, i.Size)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
