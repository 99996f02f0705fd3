// Package index knows where a chunk lives: the codec of index segments, which a writing session publishes, and a
// local cache of many of them that answers for one chunk, for many at once, or for all in turn. The cache also keeps notes for its
// user, which it does not understand. A Set marks chunks.
//
// It never decides what is live and which segments count; the caller names those. It does no I/O on a repository
// and holds no keys: repo reads, opens, seals and writes segments. It is used by repo and by gc.
package index

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/pgtrove/pgtrove/pack"
	"github.com/pgtrove/pgtrove/storage"
)

// Bounds of a segment. A decoder allocates nothing before it has checked them.
const (
	// MaxSegment is the largest segment, in bytes before it is sealed. A writing session publishes long before.
	MaxSegment = 256 << 20
	// MaxPacks is the largest number of packs in a segment.
	MaxPacks = 1 << 16
)

const segmentVersion = 1

// minPackSize is the least a pack takes: its key's length and first character, its size, and a directory.
const minPackSize = 2 + 1 + 1 + 8

var (
	// ErrFormat says that bytes are no index segment, or that a segment breaks a rule of the format.
	ErrFormat = errors.New("malformed index segment")
	// ErrVersion says that a newer program wrote this.
	ErrVersion = errors.New("unknown index segment version")
)

// Pack is a pack as an index knows it: the object and what it holds.
type Pack struct {
	Key  string // of the object
	Size int64  // bytes of the object
	pack.Directory
}

// Segment is what an object index/<sid>/<n> holds: some packs, in the order of their upload. None at all is valid: a
// session also publishes as a sign of life.
type Segment struct {
	Packs []Pack
}

// Validate checks every rule of the format; errors wrap ErrFormat.
func (s *Segment) Validate() error {
	if len(s.Packs) > MaxPacks {
		return malformed("%d packs, at most %d", len(s.Packs), MaxPacks)
	}
	seen := make(map[string]struct{}, len(s.Packs))
	for i := range s.Packs {
		p := &s.Packs[i]
		if err := p.Validate(); err != nil {
			return fmt.Errorf("pack %d: %w", i, err)
		}
		if _, ok := seen[p.Key]; ok {
			return malformed("pack %s stands in it twice", p.Key)
		}
		seen[p.Key] = struct{}{}
	}
	return nil
}

// Validate checks one pack of a segment; errors wrap ErrFormat.
func (p *Pack) Validate() error {
	if err := storage.CheckKey(p.Key); err != nil {
		return malformed("%v", err)
	}
	if err := p.Directory.Validate(); err != nil {
		return malformed("%s: %v", p.Key, err)
	}
	switch {
	case p.Kind == pack.Archive:
		return malformed("%s: archive objects have no index", p.Key)
	case p.Size < p.End() || p.Size > pack.MaxObject:
		return malformed("%s: %d bytes, and its chunks end at %d", p.Key, p.Size, p.End())
	}
	return nil
}

// Marshal gives the binary form. It fails, with ErrFormat, for what Validate refuses, and for more than MaxSegment bytes:
// what it wrote, Parse reads.
func (s *Segment) Marshal() ([]byte, error) {
	if err := s.Validate(); err != nil {
		return nil, fmt.Errorf("write index segment: %w", err)
	}
	b := []byte{segmentVersion}
	b = binary.AppendUvarint(b, uint64(len(s.Packs)))
	var dir []byte
	for i := range s.Packs {
		p := &s.Packs[i]
		var err error
		if dir, err = p.Directory.Marshal(dir[:0]); err != nil {
			return nil, fmt.Errorf("write index segment: %w", err)
		}
		b = binary.AppendUvarint(b, uint64(len(p.Key)))
		b = append(b, p.Key...)
		b = binary.AppendUvarint(b, uint64(p.Size))
		b = binary.AppendUvarint(b, uint64(len(dir)))
		b = append(b, dir...)
	}
	if len(b) > MaxSegment {
		return nil, fmt.Errorf("write index segment: %w", malformed("%d bytes, at most %d", len(b), MaxSegment))
	}
	return b, nil
}

// Parse reads what Marshal wrote, all of b, and validates it. The result shares no memory with b. Errors wrap
// ErrFormat or ErrVersion.
func Parse(b []byte) (*Segment, error) {
	s, err := parse(b)
	if err != nil {
		return nil, fmt.Errorf("read index segment: %w", err)
	}
	return s, nil
}

func parse(b []byte) (*Segment, error) {
	if len(b) == 0 || len(b) > MaxSegment {
		return nil, malformed("%d bytes, want 1 to %d", len(b), MaxSegment)
	}
	if b[0] != segmentVersion {
		return nil, fmt.Errorf("%w: %d, this program knows %d", ErrVersion, b[0], segmentVersion)
	}
	r := reader{b: b[1:]}
	n := r.uvarint(MaxPacks)
	if n > uint64(len(r.b)/minPackSize) {
		return nil, malformed("%d packs in %d bytes", n, len(r.b))
	}
	s := &Segment{Packs: make([]Pack, n)}
	for i := range s.Packs {
		p := &s.Packs[i]
		p.Key = string(r.take(r.uvarint(storage.MaxKey)))
		p.Size = int64(r.uvarint(pack.MaxObject))
		dir := r.take(r.uvarint(MaxSegment))
		if r.err != nil {
			return nil, fmt.Errorf("pack %d: %w", i, r.err)
		}
		d, err := pack.ParseDirectory(dir)
		if errors.Is(err, pack.ErrVersion) {
			return nil, fmt.Errorf("pack %d: %w: %w", i, ErrVersion, err)
		}
		if err != nil {
			return nil, fmt.Errorf("pack %d: %w: %w", i, ErrFormat, err)
		}
		p.Directory = *d
	}
	if r.err != nil {
		return nil, r.err
	}
	if len(r.b) > 0 {
		return nil, malformed("%d bytes behind it", len(r.b))
	}
	if err := s.Validate(); err != nil {
		return nil, err
	}
	return s, nil
}

// reader takes bytes apart; the first failure sticks, and every later read gives zeros.
type reader struct {
	b   []byte
	err error
}

func (r *reader) fail(what string) {
	if r.err == nil {
		r.err = malformed("%s", what)
	}
	r.b = nil
}

// uvarint reads a number in its one shortest form: a segment has exactly one encoding.
func (r *reader) uvarint(limit uint64) uint64 {
	v, n := binary.Uvarint(r.b)
	switch {
	case r.err != nil:
		return 0
	case n <= 0 || n > 1 && r.b[n-1] == 0:
		r.fail("bad number")
		return 0
	case v > limit:
		r.fail(fmt.Sprintf("number %d, at most %d", v, limit))
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) take(n uint64) []byte {
	if n > uint64(len(r.b)) {
		r.fail("ends early")
		return nil
	}
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrFormat}, args...)...)
}
