package restore

import (
	"bytes"
	"errors"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/pack"
	"github.com/pgtrove/pgtrove/snapshot"
)

// local is a file of the snapshot, and what of it may be on this host already.
type local struct {
	number  uint32 // in the batch
	size    int64
	extents []snapshot.Extent
	own     place // where it is to be
	fresh   bool  // nothing is there but holes
	donor   *place

	// of each extent
	right []bool // nothing is to be fetched for it
	looks []look // what was found in its place, where that was not proved
}

// look is what stands in the place of an extent: the digests of its pages. nil: it could not be read.
type look struct{ own, donor []chunk.Digest }

// counts says how much was found, in bytes. It is safe for concurrent use.
type counts struct {
	mu     sync.Mutex
	kept   int64 // right as it was
	copied int64 // from the donor
}

func (c *counts) add(kept, copied int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kept += kept
	c.copied += copied
}

// scanner compares what is on this host with what a recipe names. It is used by one goroutine.
type scanner struct {
	hasher *chunk.Hasher
	dry    bool // changes nothing
	found  *counts

	buf     []byte
	old     []byte
	digests []chunk.Digest
}

// scan looks at the extents from to to of a file, the first of which stands at offset at. A file that cannot be read, in
// whole or in part, has not got what it should: it is fetched.
func (s *scanner) scan(f *local, from, to int, at int64) error {
	own, err := s.openOwn(f)
	if err != nil {
		return err
	}
	if own != nil {
		defer own.Close() // made durable in the end, through another handle
	}
	donor := openDonor(f)
	if donor != nil {
		defer donor.Close() // only read
	}
	for i := from; i < to; i++ {
		e := &f.extents[i]
		n := e.Bytes()
		switch {
		case e.Zero:
			f.right[i] = true
			err = s.zero(f, own, at, n)
		default:
			err = s.extent(f, i, own, donor, at)
		}
		if err != nil {
			return err
		}
		at += n
	}
	return nil
}

// openOwn opens the file in its place; nil where there is none, in a dry run.
func (s *scanner) openOwn(f *local) (*os.File, error) {
	if s.dry {
		if f.fresh {
			return nil, nil
		}
		return f.own.root.Open(f.own.rel)
	}
	return f.own.root.OpenFile(f.own.rel, os.O_RDWR, 0)
}

func openDonor(f *local) *os.File {
	if f.donor == nil {
		return nil
	}
	d, err := f.donor.root.OpenFile(f.donor.rel, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil // it may vanish at any time
	}
	if info, err := d.Stat(); err != nil || !info.Mode().IsRegular() {
		_ = d.Close() // only read
		return nil
	}
	return d
}

// extent looks for the content of an extent, first where it belongs and then with the donor. What is proved to be all of
// a chunk is right; of the rest the digests are kept.
func (s *scanner) extent(f *local, i int, own, donor *os.File, at int64) error {
	e := &f.extents[i]
	n := e.Bytes()
	if !f.fresh && own != nil {
		proved, digests := s.look(own, e, at)
		if proved {
			f.right[i] = true
			s.found.add(n, 0)
			return nil
		}
		f.looks[i].own = slices.Clone(digests)
	}
	if donor == nil {
		return nil
	}
	proved, digests := s.look(donor, e, at)
	if !proved {
		f.looks[i].donor = slices.Clone(digests)
		return nil
	}
	f.right[i] = true
	s.found.add(0, n)
	return s.put(f, own, s.buf[:n], at)
}

// look reads what a file has in the place of an extent. proved says that it is the extent's chunk, all of it, by its
// name. Else it returns the digests of the pages, which are valid until the next call; none for a stream.
func (s *scanner) look(file *os.File, e *snapshot.Extent, at int64) (proved bool, digests []chunk.Digest) {
	if e.Bytes() > pack.MaxPlain {
		return false, nil // no chunk is as long; the plan says so
	}
	b, ok := s.read(file, at, e.Bytes())
	if !ok {
		return false, nil
	}
	if e.Form == chunk.FormBytes {
		return s.hasher.StreamID(b) == e.ID, nil
	}
	s.digests = s.hasher.PageDigests(s.digests[:0], e.Form, b)
	return e.First == 0 && s.hasher.RunID(s.digests) == e.ID, s.digests
}

// read reads exactly n bytes, into s.buf.
func (s *scanner) read(file *os.File, at, n int64) ([]byte, bool) {
	s.buf = slices.Grow(s.buf[:0], int(n))[:n]
	got, _ := file.ReadAt(s.buf, at)
	return s.buf, got == int(n)
}

// put writes what was checked. What is there already is not written again.
func (s *scanner) put(f *local, own *os.File, b []byte, at int64) error {
	if s.dry {
		return nil
	}
	if f.fresh {
		_, err := own.WriteAt(b, at)
		return err
	}
	var err error
	s.old, _, err = writeDiffering(own, b, at, s.old)
	return err
}

// differs is the unit in which old and new content are compared before it is written, in bytes. PostgreSQL's pages are
// multiples of it, but for the smallest.
const differs = 4096

// writeDiffering writes those parts of b that are not what the file has there. old is a buffer to use again. What cannot
// be read is written.
func writeDiffering(file *os.File, b []byte, at int64, old []byte) (_ []byte, written int64, err error) {
	old = slices.Grow(old[:0], len(b))[:len(b)]
	n, _ := file.ReadAt(old, at)
	same := func(from int) bool {
		to := min(from+differs, len(b))
		return to <= n && bytes.Equal(b[from:to], old[from:to])
	}
	for from := 0; from < len(b); {
		if same(from) {
			from += differs
			continue
		}
		to := from + differs
		for to < len(b) && !same(to) {
			to += differs
		}
		to = min(to, len(b))
		if _, err := file.WriteAt(b[from:to], at+int64(from)); err != nil {
			return old, written, err
		}
		written += int64(to - from)
		from = to
	}
	return old, written, nil
}

// zeroPiece bounds what is compared with zeros at once, in bytes.
const zeroPiece = 1 << 20

// zero makes a stretch of a file zero if it is not.
func (s *scanner) zero(f *local, own *os.File, at, n int64) error {
	if f.fresh || own == nil {
		return nil
	}
	for end := at + n; at < end; {
		n := min(end-at, zeroPiece)
		if b, ok := s.read(own, at, n); ok && allZero(b) {
			s.found.add(n, 0)
		} else if !s.dry {
			if err := punch(own, at, n); err != nil {
				return err
			}
		}
		at += n
	}
	return nil
}

func allZero(b []byte) bool {
	for len(b) >= 8 {
		if b[0]|b[1]|b[2]|b[3]|b[4]|b[5]|b[6]|b[7] != 0 {
			return false
		}
		b = b[8:]
	}
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// punch makes a hole; where the file system has none, zeros.
func punch(file *os.File, at, n int64) error {
	err := punchHole(file, at, n)
	if err == nil || !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.ENOSYS) {
		return err
	}
	_, err = file.WriteAt(make([]byte, n), at)
	return err
}
