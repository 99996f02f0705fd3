package walahead

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pgtrove/pgtrove/internal/durable"
)

const (
	// ledgerLock is beside the ledger while somebody changes it. A killed process may leave it, which hinders nobody.
	ledgerLock = durable.TempPrefix + LedgerFile + ".lock"
	// ledgerPatience is for how long another process may be changing the ledger: that takes it milliseconds.
	ledgerPatience = 10 * time.Second
)

// ErrLedgerBusy says that another process has been changing the ledger all the time.
var ErrLedgerBusy = errors.New("the record of gaps is being changed by another process")

// ChangeLedger reads the ledger of a data directory, lets change change it, and makes that durable. Several calls at once, in any processes of this
// host, come one after another: an archiver that was killed may leave a push running beside those of the next one. change must not take long.
// Errors: ErrLedger, and nothing was changed; ErrLedgerBusy; those of change, of reading and of writing.
func ChangeLedger(pgdata string, change func(*Ledger) error) error {
	unlock, err := lockLedger(filepath.Join(pgdata, ledgerLock))
	if err != nil {
		return fmt.Errorf("change record of gaps: %w", err)
	}
	defer unlock()
	l, err := ReadLedger(pgdata)
	if err != nil {
		return err
	}
	if err := change(l); err != nil {
		return err
	}
	return l.save()
}

// lockLedger waits until nobody else has the lock. Who has it removes its file, so the one that was locked may be gone: then it begins again.
func lockLedger(path string) (unlock func(), err error) {
	for end := time.Now().Add(ledgerPatience); ; {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			return nil, err
		}
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil && isAt(f, path) {
			return func() {
				_ = os.Remove(path)
				f.Close()
			}, nil
		}
		f.Close()
		switch {
		case err == nil || errors.Is(err, unix.EINTR):
			continue
		case !errors.Is(err, unix.EWOULDBLOCK):
			return nil, fmt.Errorf("lock %s: %w", path, err)
		case time.Now().After(end):
			return nil, ErrLedgerBusy
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// isAt says whether the open file is the one that path names.
func isAt(f *os.File, path string) bool {
	a, err := f.Stat()
	b, err2 := os.Lstat(path)
	return err == nil && err2 == nil && os.SameFile(a, b)
}
