package walahead

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// beat is how often the file of a claim gets a new time while its process runs.
	beat = 500 * time.Millisecond
	// standsStill is for how long it has no new one when the process is taken to stand still: it was stopped, its cgroup is frozen, or its disk hangs.
	// Where it was only slow, a segment is fetched twice.
	standsStill = 5 * time.Second
)

// ErrStandsStill says that the process that fetches a segment does nothing.
var ErrStandsStill = errors.New("stands still")

// lock takes a lock that ends with its process, or says that somebody has it.
func (s *Spool) lock(name string) (f *os.File, ok bool) {
	f, err := os.OpenFile(s.path(name), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, false
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, false
	}
	return f, true
}

// unlock removes the file too; who waits on one that is gone does work twice, and no harm.
func (s *Spool) unlock(name string, f *os.File) {
	_ = os.Remove(s.path(name))
	f.Close()
}

// locked opens the file of a lock if somebody has it, and gives nil otherwise. The caller closes it.
func (s *Spool) locked(name string) *os.File {
	f, err := os.OpenFile(s.path(name), os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil
	}
	if !errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK) {
		f.Close()
		return nil
	}
	return f
}

// Claim says to all others that the segment is being fetched, until release; false if somebody else does.
func (s *Spool) Claim(name string) (release func(), ok bool) {
	f, ok := s.lock(name + claimSuffix)
	if !ok {
		return nil, false
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			case <-time.After(beat):
				now := time.Now()
				_ = os.Chtimes(f.Name(), now, now)
			}
		}
	}()
	return func() {
		close(stop)
		s.unlock(name+claimSuffix, f)
		<-stopped
	}, true
}

// Wait returns when nobody fetches the segment: it is there now, or it failed. Errors: ErrStandsStill, the context's.
func (s *Spool) Wait(ctx context.Context, name string) error {
	var w watch
	for {
		f := s.locked(name + claimSuffix)
		if f == nil {
			return nil
		}
		info, err := f.Stat()
		f.Close()
		if err == nil && w.still(info, time.Now()) {
			return fmt.Errorf("what fetches %s %w", name, ErrStandsStill)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// watch tells by the file of a claim whether its process runs. The clock of the file's times is not compared with ours.
type watch struct {
	last  fs.FileInfo
	since time.Time
}

// still says whether the file has looked so for as long as standsStill.
func (w *watch) still(f fs.FileInfo, now time.Time) bool {
	if w.last == nil || !os.SameFile(w.last, f) || !w.last.ModTime().Equal(f.ModTime()) {
		w.last, w.since = f, now
	}
	return now.Sub(w.since) >= standsStill
}

// Lead makes the caller the one that fills the spool, until release; false if another process is.
func (s *Spool) Lead() (release func(), ok bool) {
	f, ok := s.lock(leadName)
	if !ok {
		return nil, false
	}
	return func() { s.unlock(leadName, f) }, true
}

// Led says whether a process fills the spool.
func (s *Spool) Led() bool {
	f := s.locked(leadName)
	if f == nil {
		return false
	}
	f.Close()
	return true
}
