package fs_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pgtrove/pgtrove/storage"
	"github.com/pgtrove/pgtrove/storage/fs"
	"github.com/pgtrove/pgtrove/storage/storagetest"
)

// forbid makes system calls of this process fail, as they do on file systems that lack them. It cannot be undone, so only
// children call it.
func forbid(calls map[uint32]unix.Errno) error {
	const load, equal, ret = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, unix.BPF_RET | unix.BPF_K
	filter := []unix.SockFilter{{Code: load, K: 0}} // seccomp_data.nr
	for call, errno := range calls {
		filter = append(filter,
			unix.SockFilter{Code: equal, K: call, Jf: 1},
			unix.SockFilter{Code: ret, K: unix.SECCOMP_RET_ERRNO | uint32(errno)})
	}
	filter = append(filter, unix.SockFilter{Code: ret, K: unix.SECCOMP_RET_ALLOW})
	return storagetest.Install(filter)
}

// withoutLinks runs in a child: root is on a file system without hard links.
func withoutLinks(s *fs.Store) error {
	if err := forbid(map[uint32]unix.Errno{unix.SYS_LINKAT: unix.EOPNOTSUPP}); err != nil {
		return err
	}
	for round := range 20 {
		key := fmt.Sprintf("race/%d", round)
		errs := make([]error, 16)
		var wg sync.WaitGroup
		for i := range errs {
			wg.Go(func() { errs[i] = s.Put(background, key, fmt.Appendf(nil, "%d", i)) })
		}
		wg.Wait()
		winner := ""
		for i, err := range errs {
			switch {
			case err == nil && winner != "":
				return fmt.Errorf("%s: both %s and %d won", key, winner, i)
			case err == nil:
				winner = fmt.Sprint(i)
			case !errors.Is(err, storage.ErrExist):
				return err
			}
		}
		if b, err := s.Get(background, key, storage.Range{}, nil); err != nil || string(b) != winner {
			return fmt.Errorf("%s: %q won, and the object is %q, %v", key, winner, b, err)
		}
	}
	return nil
}

// withNothing runs in a child: root is on a file system that cannot create without replacing.
func withNothing(s *fs.Store) error {
	err := forbid(map[uint32]unix.Errno{unix.SYS_LINKAT: unix.EPERM, unix.SYS_RENAMEAT2: unix.EINVAL})
	if err != nil {
		return err
	}
	return s.Put(background, "a/b", []byte("x"))
}

func TestCreateOnlyWithoutHardLinks(t *testing.T) {
	s, root := repository(t)
	cmd, out := startChild(t, childNoLinks, root)
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if keys, err := list(t, s, "race/"); err != nil || len(keys) != 20 {
		t.Errorf("listed %q, %v", keys, err)
	}
	if got := names(t, root); len(got) != 22 {
		t.Errorf("temporary files are left: %q", got)
	}
}

func TestAFileSystemThatCannotCreateOnlyIsRefused(t *testing.T) {
	_, root := repository(t)
	cmd, out := startChild(t, childNothing, root)
	if err := cmd.Run(); err == nil || !strings.Contains(out.String(), "put a/b: ") {
		t.Errorf("%v: %s", err, out)
	}
	if got := names(t, root); len(got) != 2 {
		t.Errorf("left: %q", got)
	}
}
