package repo

import (
	"context"
	"sync"

	"github.com/pgtrove/pgtrove/pack"
)

const (
	aheadGap   = 32 << 10  // bytes that may be passed over without the reading counting as one in a row
	aheadFirst = 64 << 10  // bytes of the first reading ahead; each further one is twice as long,
	aheadMost  = 512 << 10 // up to this
	aheadPacks = 4         // packs whose last reading is kept
)

// readAhead is for metadata that is read in the order in which it was written, as a listing is: small chunks of one pack, one after the other, would each be
// a request. Who reads here and there reads no byte more than that. What is kept is sealed; who gets it opens and verifies it. The zero value is ready.
type readAhead struct {
	mu   sync.Mutex
	last []*aheadSpan // newest use last
}

// aheadSpan is the last reading of one pack.
type aheadSpan struct {
	key  string
	off  int64  // of b in the pack
	b    []byte // never changed, only exchanged
	next int64  // where a reading in a row goes on
	step int64  // how much was read ahead; 0: nothing yet
}

// read returns the sealed bytes of a chunk, for reading only. get is View.ReadPack.
func (a *readAhead) read(ctx context.Context, loc pack.Location, get func(ctx context.Context, key string, off, n int64, dst []byte) ([]byte, error)) ([]byte, error) {
	off, n := int64(loc.Offset), int64(loc.Sealed)
	b, step := a.kept(loc.Pack, off, n)
	if b != nil {
		return b, nil
	}
	b, err := get(ctx, loc.Pack, off, max(n, step), nil)
	if err != nil {
		return nil, err
	}
	a.keep(&aheadSpan{key: loc.Pack, off: off, b: b, next: off + n, step: step})
	return b[:min(n, int64(len(b)))], nil // a pack that is cut short gives less, which opening it finds
}

// kept returns the bytes if they were read before, or else how many are to be read at once.
func (a *readAhead) kept(key string, off, n int64) (b []byte, step int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i, s := range a.last {
		if s.key != key {
			continue
		}
		at := off - s.off
		row := off >= s.next && off-s.next <= aheadGap
		if row {
			s.next = off + n
		}
		if at >= 0 && at+n <= int64(len(s.b)) {
			a.last = append(append(a.last[:i:i], a.last[i+1:]...), s)
			return s.b[at : at+n : at+n], 0
		}
		if row {
			step = min(max(2*s.step, aheadFirst), aheadMost)
		}
		return nil, step
	}
	return nil, 0
}

func (a *readAhead) keep(s *aheadSpan) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i, old := range a.last {
		if old.key == s.key {
			a.last = append(a.last[:i:i], a.last[i+1:]...)
			break
		}
	}
	if len(a.last) == aheadPacks {
		a.last = append(a.last[:0:0], a.last[1:]...)
	}
	a.last = append(a.last, s)
}
