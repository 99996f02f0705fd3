package walahead

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/zeebo/blake3"
	"golang.org/x/sys/unix"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/internal/durable"
	"github.com/pgtrove/pgtrove/internal/pg"
)

// Spool holds segments that recovery of one data directory will ask for next. One process fills it (Lead), the calls of restore_command empty it.
//
// A file is served only with a keyed digest beside it, over its content, its name and all that tells this spool from others: who cannot
// open the repository cannot make one.
type Spool struct {
	dir    string
	key    chunk.ID // of the digests: it tells spools and repositories apart
	size   pg.SegmentSize
	window uint64 // segments behind the one asked for last
}

const (
	spoolKept   = time.Hour
	sumSuffix   = ".sum"
	claimSuffix = ".claim"
	askedName   = "asked"
	leadName    = "lead"
	tempPrefix  = ".new-"
	fewest      = 3 // segments, however large
)

// SpoolOptions say whose spool it is, and how large.
type SpoolOptions struct {
	Owner Owner
	Key   chunk.Key // of the repository
	// PGData is the data directory that recovers: the spool is bound to its device and inode, so servers on one host share none.
	PGData      string
	SegmentSize pg.SegmentSize
	Bytes       int64 // at most, but three segments in any case
}

// OpenSpool finds, or makes, the spool in a cache directory. Errors are those of making it; the spool is then done without.
func OpenSpool(cache string, o SpoolOptions) (*Spool, error) {
	info, err := os.Stat(o.PGData)
	if err != nil {
		return nil, fmt.Errorf("open spool: %w", err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || cache == "" || !o.SegmentSize.Valid() {
		return nil, fmt.Errorf("open spool: %w", fs.ErrInvalid)
	}
	s := &Spool{
		dir:  o.Owner.dir(filepath.Join(cache, spoolsDir), st.Dev, st.Ino),
		size: o.SegmentSize, window: uint64(max(o.Bytes/int64(o.SegmentSize), fewest)),
	}
	s.key = chunk.NewHasher(o.Key).StreamID(fmt.Appendf(nil, "pgtrove fetched 1\n%q %q %q %d\n%d %d\n",
		o.Owner.Place, o.Owner.Repository, o.Owner.Cluster, o.Owner.System, st.Dev, st.Ino))
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, fmt.Errorf("open spool: %w", err)
	}
	return s, nil
}

func (s *Spool) path(name string) string { return filepath.Join(s.dir, name) }

// sum is the text beside a segment's file, whose content is read from r to its end.
func (s *Spool) sum(name string, r io.Reader) ([]byte, error) {
	h, err := blake3.NewKeyed(s.key[:])
	if err != nil {
		return nil, err
	}
	_, _ = h.WriteString(name + "\n") // never fails
	n, err := io.CopyBuffer(h, struct{ io.Reader }{r}, make([]byte, 128<<10))
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, "%s %d %x\n", name, n, h.Sum(nil)), nil
}

// Put adds a segment, which the caller has verified.
func (s *Spool) Put(name string, content []byte) error {
	f, err := os.CreateTemp(s.dir, tempPrefix+"*")
	if err != nil {
		return fmt.Errorf("spool %s: %w", name, err)
	}
	defer func() { _ = os.Remove(f.Name()) }() // what is left of a failure
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync() // here, where nobody waits: Take moves the file
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		var sum []byte
		if sum, err = s.sum(name, bytes.NewReader(content)); err == nil {
			err = replace(s.path(name+sumSuffix), sum)
		}
	}
	if err == nil {
		err = os.Rename(f.Name(), s.path(name))
	}
	if err != nil {
		return fmt.Errorf("spool %s: %w", name, err)
	}
	return nil
}

// Has says whether there is a file for the segment; whether it is good Take finds out.
func (s *Spool) Has(name string) bool {
	_, err := os.Lstat(s.path(name))
	return err == nil
}

// Take brings the segment to path, in one step and durably, if the spool holds it and every byte of it is right. What is wrong is removed. An error
// is one of writing to path.
func (s *Spool) Take(name, path string) (served bool, err error) {
	f, err := os.OpenFile(s.path(name), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return false, nil
	}
	defer f.Close()
	defer s.remove(name)
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() || info.Mode().Perm() != 0o600 || info.Size() != int64(s.size) {
		return false, nil
	}
	kept := readOwn(s.path(name + sumSuffix))
	if sum, err := s.sum(name, f); err != nil || !bytes.Equal(kept, sum) {
		return false, nil
	}
	if err := f.Sync(); err == nil && os.Rename(s.path(name), path) == nil {
		return true, durable.SyncDir(filepath.Dir(path))
	}
	// To another file system: what is written is what was compared.
	content := make([]byte, info.Size())
	if _, err := f.ReadAt(content, 0); err != nil {
		return false, nil
	}
	if sum, err := s.sum(name, bytes.NewReader(content)); err != nil || !bytes.Equal(kept, sum) {
		return false, nil
	}
	return true, durable.Replace(path, 0o600, content)
}

func (s *Spool) remove(name string) {
	_ = os.Remove(s.path(name))
	_ = os.Remove(s.path(name + sumSuffix))
}

// lock takes a lock that ends with its process, or says that somebody has it. The file goes when it is released; who waits on one that is gone
// does work twice, and no harm.
func (s *Spool) lock(name string) (release func(), ok bool) {
	f, err := os.OpenFile(s.path(name), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, false
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, false
	}
	return func() {
		_ = os.Remove(s.path(name))
		f.Close()
	}, true
}

// Claim says to all others that the segment is being fetched, until release; false if somebody else does.
func (s *Spool) Claim(name string) (release func(), ok bool) { return s.lock(name + claimSuffix) }

// Wait returns when nobody fetches the segment: it is there now, or it failed. Errors: the context's.
func (s *Spool) Wait(ctx context.Context, name string) error {
	for {
		f, err := os.OpenFile(s.path(name+claimSuffix), os.O_RDWR|unix.O_NOFOLLOW, 0)
		if err != nil {
			return nil
		}
		err = unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB)
		f.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// Lead makes the caller the one that fills the spool, until release; false if another process is.
func (s *Spool) Lead() (release func(), ok bool) { return s.lock(leadName) }

// Led says whether a process fills the spool.
func (s *Spool) Led() bool {
	f, err := os.OpenFile(s.path(leadName), os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	return errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK)
}

// Ask notes that recovery has got this segment, and removes what it will not ask for any more: earlier segments, those of another timeline,
// and what a killed process left.
func (s *Spool) Ask(seg pg.Segment) error {
	led := s.Led()
	files, err := os.ReadDir(s.dir)
	if err != nil {
		return fmt.Errorf("tidy spool: %w", err)
	}
	for _, f := range files {
		name := f.Name()
		switch {
		case name == askedName, name == leadName:
		case strings.HasPrefix(name, tempPrefix):
			if !led {
				_ = os.Remove(s.path(name))
			}
		default:
			bare := strings.TrimSuffix(strings.TrimSuffix(name, sumSuffix), claimSuffix)
			other, err := pg.ParseSegment(bare, s.size)
			if err != nil || !s.wanted(seg, other) {
				_ = os.Remove(s.path(name))
			}
		}
	}
	if err := replace(s.path(askedName), []byte(seg.Name(s.size))); err != nil {
		return fmt.Errorf("tidy spool: %w", err)
	}
	return nil
}

func (s *Spool) wanted(asked, seg pg.Segment) bool {
	return seg.Timeline == asked.Timeline && seg.Number > asked.Number && seg.Number-asked.Number <= s.window
}

// Wanted are the segments that recovery will ask for next, as far as there is room for them; none where nobody has asked.
func (s *Spool) Wanted() []pg.Segment {
	asked, err := pg.ParseSegment(string(readOwn(s.path(askedName))), s.size)
	if err != nil {
		return nil
	}
	var all []pg.Segment
	for range s.window {
		asked = asked.Next()
		all = append(all, asked)
	}
	return all
}

// Low says whether the spool is less than half full, so that it is time to fill it.
func (s *Spool) Low() bool {
	n := uint64(0)
	for _, seg := range s.Wanted() {
		if !s.Has(seg.Name(s.size)) {
			break
		}
		n++
	}
	return n < (s.window+1)/2
}
