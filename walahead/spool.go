package walahead

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/zeebo/blake3"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/internal/durable"
	"github.com/pgtrove/pgtrove/internal/pg"
)

// Spool holds segments that recovery of one data directory will ask for next. One process fills it (Lead), the calls of restore_command empty it.
//
// A file is served only if a seal beside it says that it is the very file that was put there, unchanged since: a keyed digest over its name, its FileState
// and all that tells this spool from others. Who cannot open the repository cannot make one.
type Spool struct {
	dir    string
	key    chunk.ID // of the seals: it tells spools and repositories apart
	size   pg.SegmentSize
	window uint64 // segments behind the one asked for last
}

const (
	spoolKept = time.Hour
	// served is for how long after it was put a segment is served: so long ago somebody has verified every byte of it. What recovery comes for later
	// may have been read from a disk that spoiled it, and is fetched again.
	served      = 10 * time.Minute
	sealSuffix  = ".seal"
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

// seal is the text beside a segment's file.
func (s *Spool) seal(name string, f FileState) ([]byte, error) {
	h, err := blake3.NewKeyed(s.key[:])
	if err != nil {
		return nil, err
	}
	_, _ = fmt.Fprintf(h, "%s\n%d %d %d %d %d %x\n", name, f.Device, f.Inode, f.Size, f.Mtime, f.Ctime, f.Ends) // never fails
	return fmt.Appendf(nil, "%s %x\n", name, h.Sum(nil)), nil
}

// Put adds a segment, every byte of which the caller has verified. It is there for others when its seal is, which comes last.
func (s *Spool) Put(name string, content []byte) error {
	if err := s.put(name, content); err != nil {
		return fmt.Errorf("spool %s: %w", name, err)
	}
	return nil
}

func (s *Spool) put(name string, content []byte) error {
	f, err := os.CreateTemp(s.dir, tempPrefix+"*")
	if err != nil {
		return err
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
		err = os.Rename(f.Name(), s.path(name))
	}
	if err != nil {
		return err
	}
	state, err := StateOf(s.path(name)) // after the rename, which changes the inode
	if err != nil {
		return err
	}
	seal, err := s.seal(name, state)
	if err != nil {
		return err
	}
	return replace(s.path(name+sealSuffix), seal)
}

// Has says whether there is a sealed file for the segment; whether it is good Take finds out.
func (s *Spool) Has(name string) bool {
	for _, path := range []string{s.path(name + sealSuffix), s.path(name)} {
		if _, err := os.Lstat(path); err != nil {
			return false
		}
	}
	return true
}

// Take brings the segment to path, in one step, if the spool holds it and it is as it was put. What is wrong is removed. An error is one of writing
// to path.
//
// Its content is on disk before it has its new name. The name may be lost in a crash, and the server asks again then.
func (s *Spool) Take(name, path string) (taken bool, err error) {
	seal := readOwn(s.path(name + sealSuffix))
	if seal == nil {
		return false, nil // not there, or not yet
	}
	defer s.remove(name)
	state, ok := s.sealed(name, seal)
	if !ok {
		return false, nil
	}
	if os.Rename(s.path(name), path) == nil {
		return true, nil
	}
	// To another file system: what is written is what was read of a file that has not changed.
	content := make([]byte, s.size)
	f, err := os.Open(s.path(name))
	if err != nil {
		return false, nil
	}
	defer f.Close()
	if _, err := io.ReadFull(f, content); err != nil {
		return false, nil
	}
	if again, ok := s.sealed(name, seal); !ok || again != state {
		return false, nil
	}
	return true, durable.Replace(path, 0o600, content)
}

// sealed says whether the segment's file is the one that was put there, not long ago.
func (s *Spool) sealed(name string, seal []byte) (FileState, bool) {
	state, err := StateOf(s.path(name))
	if err != nil || state.Size != int64(s.size) {
		return state, false
	}
	if age := time.Since(time.Unix(0, state.Mtime)); age < -settled || age > served { // the kernel's clock for files is late, that of a file server its own
		return state, false
	}
	want, err := s.seal(name, state)
	return state, err == nil && bytes.Equal(seal, want)
}

func (s *Spool) remove(name string) {
	_ = os.Remove(s.path(name))
	_ = os.Remove(s.path(name + sealSuffix))
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
			bare := strings.TrimSuffix(strings.TrimSuffix(name, sealSuffix), claimSuffix)
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
