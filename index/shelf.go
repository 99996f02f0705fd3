package index

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"sync"
)

// shelf is the file that large notes stand in, beside the database, which keeps only their places: page digests are as much for a
// terabyte as the whole index, all of them change with every snapshot of a busy cluster, and a tree that sorts and merges what
// it holds would write them several times and keep the old ones for long.
//
// The file is divided into blocks; what is freed is used again at once. Nothing says what a block holds: a note whose place was
// given to another (after a crash the database may be older than the file) is told by whoever authenticates it.
//
// It is safe for concurrent use.
type shelf struct {
	f *os.File

	mu   sync.Mutex
	free []span // in order, never adjacent
	end  int64  // blocks of the file in use
}

// span is a run of blocks.
type span struct{ at, n int64 }

const shelfBlock = 4 << 10

func blocks(size int) int64 { return (int64(size) + shelfBlock - 1) / shelfBlock }

// openShelf opens the file, in which the given spans are in use.
func openShelf(path string, used []span) (*shelf, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	s := &shelf{f: f}
	slices.SortFunc(used, func(a, b span) int { return cmp.Compare(a.at, b.at) })
	for _, u := range used {
		if u.at > s.end {
			s.free = append(s.free, span{s.end, u.at - s.end})
		}
		s.end = max(s.end, u.at+u.n)
	}
	if err := s.trim(); err != nil {
		_ = f.Close()
		return nil, err
	}
	return s, nil
}

// trim gives the end of the file back to the file system.
func (s *shelf) trim() error {
	if n := len(s.free); n > 0 && s.free[n-1].at+s.free[n-1].n == s.end {
		s.end = s.free[n-1].at
		s.free = s.free[:n-1]
	}
	info, err := s.f.Stat()
	if err != nil || info.Size() <= s.end*shelfBlock {
		return err
	}
	return s.f.Truncate(s.end * shelfBlock)
}

// put writes a note and returns its first block.
func (s *shelf) put(b []byte) (at int64, err error) {
	at = s.take(blocks(len(b)))
	if _, err := s.f.WriteAt(b, at*shelfBlock); err != nil {
		s.release([]span{{at, blocks(len(b))}})
		return 0, fmt.Errorf("write note: %w", err)
	}
	return at, nil
}

// take finds n free blocks: the first that fit, else new ones at the end.
func (s *shelf) take(n int64) (at int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.free {
		if f := &s.free[i]; f.n >= n {
			at = f.at
			f.at, f.n = f.at+n, f.n-n
			if f.n == 0 {
				s.free = slices.Delete(s.free, i, i+1)
			}
			return at
		}
	}
	at = s.end
	s.end += n
	return at
}

// release frees spans. A span that is not in use is let be: two database records may name the same place after a crash.
func (s *shelf) release(spans []span) {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := append(s.free, spans...)
	slices.SortFunc(all, func(a, b span) int { return cmp.Compare(a.at, b.at) })
	s.free = nil
	for _, f := range all {
		f.n = min(f.n, s.end-f.at)
		if f.n <= 0 {
			continue
		}
		if n := len(s.free); n > 0 && s.free[n-1].at+s.free[n-1].n >= f.at {
			last := &s.free[n-1]
			last.n = max(last.n, f.at+f.n-last.at)
			continue
		}
		s.free = append(s.free, f)
	}
	_ = s.trim() // what stays takes room, no more
}

// get appends size bytes from block at to dst. The file may be shorter than it was.
func (s *shelf) get(dst []byte, at int64, size int) ([]byte, error) {
	have := len(dst)
	dst = slices.Grow(dst, size)[:have+size]
	if _, err := s.f.ReadAt(dst[have:], at*shelfBlock); err != nil {
		return dst[:have], err
	}
	return dst, nil
}

func (s *shelf) close() error { return s.f.Close() }
