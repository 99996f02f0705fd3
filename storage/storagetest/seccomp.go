package storagetest

import (
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// FailSync makes fsync of this process's descriptors from the given number on fail as on a disk that dies. It cannot be undone, so only children
// call it.
func FailSync(from int) error {
	const load, equal, atLeast, ret = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K,
		unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K, unix.BPF_RET | unix.BPF_K
	const number, firstArgument = 0, 16 // in seccomp_data
	return Install([]unix.SockFilter{
		{Code: load, K: number},
		{Code: equal, K: unix.SYS_FSYNC, Jf: 3},
		{Code: load, K: firstArgument},
		{Code: atLeast, K: uint32(from), Jf: 1},
		{Code: ret, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EIO)},
		{Code: ret, K: unix.SECCOMP_RET_ALLOW},
	})
}

// NextFile is the number that the next file will have which this process opens.
func NextFile() (int, error) {
	f, err := os.Open(os.DevNull)
	if err != nil {
		return 0, err
	}
	return int(f.Fd()), f.Close()
}

// Install puts a filter before all system calls of this process.
func Install(filter []unix.SockFilter) error {
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
