package fs_test

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/pgtrove/pgtrove/storage"
	"github.com/pgtrove/pgtrove/storage/fs"
)

// failSync makes fsync of this process's descriptors from the given number on fail as on a disk that dies. It cannot be undone, so only children
// call it.
func failSync(from int) error {
	const load, equal, atLeast, ret = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K,
		unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K, unix.BPF_RET | unix.BPF_K
	const number, firstArgument = 0, 16 // in seccomp_data
	return install([]unix.SockFilter{
		{Code: load, K: number},
		{Code: equal, K: unix.SYS_FSYNC, Jf: 3},
		{Code: load, K: firstArgument},
		{Code: atLeast, K: uint32(from), Jf: 1},
		{Code: ret, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EIO)},
		{Code: ret, K: unix.SECCOMP_RET_ALLOW},
	})
}

// install puts a filter before all system calls of this process.
func install(filter []unix.SockFilter) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no new privileges: %w", err)
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC,
		uintptr(unsafe.Pointer(&program)))
	if errno != 0 {
		return fmt.Errorf("seccomp: %w", errno)
	}
	return nil
}

// withoutSync runs in a child: what is not on disk must not be acknowledged.
func withoutSync(s *fs.Store) error {
	if err := s.Put(background, "a/first", []byte("x")); err != nil {
		return err
	}
	next, err := os.Open(os.DevNull) // has the number that the next file will have
	if err != nil {
		return err
	}
	number := int(next.Fd())
	if err := next.Close(); err != nil {
		return err
	}
	fails := func(what string, err error, say string) error {
		if !errors.Is(err, storage.ErrUnreachable) || !errors.Is(err, unix.EIO) || !strings.Contains(err.Error(), say) {
			return fmt.Errorf("%s: %v, want %q", what, err, say)
		}
		return nil
	}
	// The object's file is synced while its directory, opened beside it, cannot be.
	if err := failSync(number + 1); err != nil {
		return err
	}
	if err := fails("a name that is not durable", s.Put(background, "a/second", []byte("x")), "sync directory"); err != nil {
		return err
	}
	if err := failSync(number); err != nil {
		return err
	}
	content := s.Put(background, "a/third", []byte("x"))
	_, there := s.Get(background, "a/third", storage.Range{}, nil)
	if !errors.Is(there, storage.ErrNotExist) {
		return fmt.Errorf("what was not synced is there: %v", there)
	}
	return errors.Join(
		fails("content that is not durable", content, "/.tmp-"),
		fails("an object of which another writer may know no better", s.Put(background, "a/second", []byte("x")), "sync directory"),
		fails("a directory that is not durable", s.Put(background, "b/c/d", []byte("x")), "sync directory"),
		fails("a removal that is not durable", s.Delete(background, "a/first"), "sync directory"),
		fails("one that was not durable before", s.Delete(background, "a/first"), "sync directory"),
	)
}

func TestNothingIsAcknowledgedBeforeItIsSynced(t *testing.T) {
	_, root := repository(t)
	cmd, out := startChild(t, childNoSync, root)
	if err := cmd.Run(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}
