package walahead

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Records remember which segments were pushed before PostgreSQL asked for it, so that archive_command can say "done" without asking the storage.
// A record is about one file, not about a name: another branch's segment of the same name is another file.
type Records struct {
	base, dir string
	owner     Owner
}

const (
	// recordKept is for how long a record is believed. What it says was true when it was written; nobody takes newly archived WAL
	// away again, but an archiver that comes back after hours had better look.
	recordKept = time.Hour
	// settled is for how long a file must not have changed before it is read, so that a change made while it is read shows in its
	// times: the kernel's clock for these is late by up to a tick, and a file server has a clock of its own.
	settled = time.Second
)

// NewRecords finds the owner's records in a cache directory; "" is no directory, and there are none then.
func NewRecords(cache string, o Owner) Records {
	if cache == "" {
		return Records{}
	}
	base := filepath.Join(cache, recordsDir)
	return Records{base: base, dir: o.dir(base), owner: o}
}

// AnyRecord says whether there is a record of that name in the cache directory, whoever's: if not, it is not worth finding out.
func AnyRecord(cache, name string) bool {
	if cache == "" {
		return false
	}
	found, err := filepath.Glob(filepath.Join(globQuote(filepath.Join(cache, recordsDir)), "*", name))
	return err == nil && len(found) > 0
}

// globQuote lets a path stand for itself in a pattern.
func globQuote(path string) string {
	var b bytes.Buffer
	for _, c := range []byte(path) {
		if bytes.IndexByte([]byte(`*?[\`), c) >= 0 {
			b.WriteByte('\\')
		}
		b.WriteByte(c)
	}
	return b.String()
}

// FileState tells a file, and what is in it, from every other one as well as a look from outside can.
type FileState struct {
	Device, Inode uint64
	Size          int64
	Mtime, Ctime  int64    // nanoseconds since 1970
	Ends          [32]byte // SHA-256 of the first and last 8 KiB, for file systems whose inodes and times say little
}

const endSize = 8 << 10

// StateOf looks at the file at path. Errors are those of reading, and fs.ErrInvalid where it is no regular file.
func StateOf(path string) (FileState, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return FileState{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return FileState{}, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.Mode().IsRegular() {
		return FileState{}, &fs.PathError{Op: "look at", Path: path, Err: fs.ErrInvalid}
	}
	s := FileState{Device: uint64(st.Dev), Inode: st.Ino, Size: st.Size, Mtime: st.Mtim.Nano(), Ctime: st.Ctim.Nano()}
	var ends [2 * endSize]byte
	n, err := f.ReadAt(ends[:endSize], 0)
	if err != nil && s.Size >= endSize {
		return FileState{}, err
	}
	if s.Size > endSize {
		m, err := f.ReadAt(ends[n:n+endSize], s.Size-endSize)
		if err != nil {
			return FileState{}, err
		}
		n += m
	}
	s.Ends = sha256.Sum256(ends[:n])
	return s, nil
}

// Settled says whether the file last changed so long ago that another change would show.
func (s FileState) Settled(now time.Time) bool {
	return max(s.Mtime, s.Ctime) <= now.Add(-settled).UnixNano()
}

// text is what a record says, with a checksum of it all in the end.
func (r Records) text(name string, s FileState, written time.Time) []byte {
	b := fmt.Appendf(nil, "pgtrove pushed 1\n%q %q %q %d\n%s %d\n%d %d %d %d %d %x\n", r.owner.Place, r.owner.Repository, r.owner.Cluster, r.owner.System,
		name, written.UnixNano(), s.Device, s.Inode, s.Size, s.Mtime, s.Ctime, s.Ends)
	sum := sha256.Sum256(b)
	return append(b, hex.EncodeToString(sum[:])...)
}

var errNoRecords = errors.New("no cache directory")

// Keep remembers that the file that was found in this state is durable in the archive under its name. Where that fails the file is pushed
// once more, which does no harm.
func (r Records) Keep(name string, s FileState, now time.Time) error {
	if r.dir == "" {
		return errNoRecords
	}
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return err
	}
	return replace(filepath.Join(r.dir, name), r.text(name, s, now))
}

// Has says whether the file in this state is known to be durable in the archive under its name.
func (r Records) Has(name string, s FileState, now time.Time) bool {
	if r.dir == "" {
		return false
	}
	found := readOwn(filepath.Join(r.dir, name))
	lines := bytes.SplitN(found, []byte("\n"), 4)
	if len(lines) != 4 {
		return false
	}
	var written int64
	var its string
	if n, err := fmt.Sscanf(string(lines[2]), "%s %d", &its, &written); n != 2 || err != nil {
		return false
	}
	at := time.Unix(0, written)
	return bytes.Equal(found, r.text(name, s, at)) && !at.After(now) && now.Sub(at) < recordKept
}

// Drop forgets the record, which was used.
func (r Records) Drop(name string) {
	if r.dir != "" {
		_ = os.Remove(filepath.Join(r.dir, name))
	}
}
