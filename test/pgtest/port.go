package pgtest

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// Ports below the range from which the kernel takes those of outgoing
// connections, so that none of these is taken between check and use.
const (
	firstPort = 21000
	lastPort  = 31999
)

// ReservePort finds a TCP port that nobody listens on and that no other test
// program has reserved: the returned file holds a lock until it is closed, and
// a program that dies gives its locks back.
func ReservePort() (int, *os.File, error) {
	dir := filepath.Join(os.TempDir(), "pgtrove-test-ports-"+strconv.Itoa(os.Getuid()))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return 0, nil, err
	}
	for range 200 {
		port := firstPort + rand.IntN(lastPort-firstPort+1)
		f, err := os.OpenFile(filepath.Join(dir, strconv.Itoa(port)), os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return 0, nil, err
		}
		if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
			l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port))
			if err == nil {
				l.Close()
				return port, f, nil
			}
		}
		f.Close()
	}
	return 0, nil, fmt.Errorf("no free port between %d and %d", firstPort, lastPort)
}
