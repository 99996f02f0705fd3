package restore

import "golang.org/x/sys/unix"

// attached counts the processes that have the System V shared memory id attached; 0 where it is gone, is another one by now
// (key), or is not ours to ask about.
func attached(key, id int) uint64 {
	var desc unix.SysvShmDesc
	if _, err := unix.SysvShmCtl(id, unix.IPC_STAT, &desc); err != nil || desc.Perm.Key != int32(key) {
		return 0
	}
	return uint64(desc.Nattch)
}
