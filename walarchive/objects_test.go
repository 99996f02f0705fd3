package walarchive

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/internal/pg"
)

const (
	testSize   = pg.MinSegmentSize
	testSystem = pg.SystemID(7300000000000000001)
)

// memObjects keeps archive files in memory and counts what is asked of it.
type memObjects struct {
	mu      sync.Mutex
	files   map[string]memFile
	gets    int
	lists   int
	damaged string // key of an object that does not open
}

type memFile struct{ header, content []byte }

func (m *memObjects) PutArchive(_ context.Context, key string, header, content []byte) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if there, ok := m.files[key]; ok {
		if bytes.Equal(there.content, content) {
			return true, nil
		}
		return false, fmt.Errorf("put %s: %w", key, ErrConflict)
	}
	m.files[key] = memFile{bytes.Clone(header), bytes.Clone(content)}
	return false, nil
}

func (m *memObjects) GetArchive(_ context.Context, key string) ([]byte, []byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.gets++
	f, ok := m.files[key]
	if !ok {
		return nil, nil, fmt.Errorf("get %s: %w", key, ErrNotExist)
	}
	if key == m.damaged {
		return nil, nil, fmt.Errorf("get %s: %w", key, ErrDamaged)
	}
	return bytes.Clone(f.header), bytes.Clone(f.content), nil
}

func (m *memObjects) ArchiveHeader(ctx context.Context, key string) ([]byte, int64, error) {
	h, c, err := m.GetArchive(ctx, key)
	return h, int64(len(c)), err
}

func (m *memObjects) List(_ context.Context, prefix string, fn func(string, int64) error) error {
	m.mu.Lock()
	m.lists++
	keys := slices.Sorted(maps.Keys(m.files))
	m.mu.Unlock()
	for _, k := range keys {
		if strings.HasPrefix(k, prefix) {
			if err := fn(k, 100); err != nil {
				return err
			}
		}
	}
	return nil
}

func newArchive() (Archive, *memObjects) {
	m := &memObjects{files: map[string]memFile{}}
	return Archive{Objects: m, Cluster: "main", System: testSystem}, m
}

// segmentName is the name of a segment of testSize.
func segmentName(tli pg.Timeline, n uint64) string {
	return pg.Segment{Timeline: tli, Number: n}.Name(testSize)
}

func segmentFacts(tli pg.Timeline, n uint64) Facts {
	return Facts{SegmentSize: testSize, Major: 15, End: pg.Segment{Timeline: tli, Number: n}.End(testSize)}
}

// pushSegments pushes segments first to last, each with a commit at minute(number).
func pushSegments(t testing.TB, a Archive, tli pg.Timeline, first, last uint64) {
	t.Helper()
	for n := first; n <= last; n++ {
		f := segmentFacts(tli, n)
		f.FirstCommit, f.LastCommit = minute(n), minute(n)
		push(t, a, segmentName(tli, n), make([]byte, testSize), f)
	}
}

func push(t testing.TB, a Archive, file string, content []byte, f Facts) {
	t.Helper()
	if _, err := a.Push(t.Context(), file, content, f); err != nil {
		t.Fatal(err)
	}
}

func pushHistory(t testing.TB, a Archive, tli pg.Timeline, lines string) {
	t.Helper()
	push(t, a, tli.HistoryName(), []byte(lines), Facts{})
}

func minute(n uint64) time.Time {
	return time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(n) * time.Minute)
}

// at is the position so many bytes into segment n.
func at(n uint64, bytes uint64) pg.LSN { return pg.LSN(n*uint64(testSize) + bytes) }

func scan(t testing.TB, a Archive) *Coverage {
	t.Helper()
	c, err := a.Scan(t.Context(), testSize)
	if err != nil {
		t.Fatal(err)
	}
	return c
}
