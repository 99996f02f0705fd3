package restore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/pack"
	"github.com/pgtrove/pgtrove/snapshot"
)

// trailer ends every pack.
const trailer = "\x00\x00\x00\x00\x00\x00\x00\x54PGTPACK\x01"

var errBroken = errors.New("broken object")

// memRepo keeps packs in memory. A "sealed" chunk is its bytes inverted, and a checksum.
type memRepo struct {
	mu     sync.Mutex
	open   map[pack.Kind]*openPack
	packs  map[string][]byte
	dirs   map[string]*pack.Directory
	index  map[chunk.ID]pack.Location
	reads  map[string]int64 // bytes read of each pack
	opened map[chunk.ID]int
	asked  map[chunk.ID]int // how often for metadata
	limit  int              // bytes of a pack
	tail   int              // bytes of a pack's end that are read first

	failRead error // returned by ReadPack
}

type openPack struct {
	b       []byte
	entries []pack.Entry
}

func newMemRepo() *memRepo {
	return &memRepo{
		open: map[pack.Kind]*openPack{}, packs: map[string][]byte{}, dirs: map[string]*pack.Directory{},
		index: map[chunk.ID]pack.Location{}, reads: map[string]int64{}, opened: map[chunk.ID]int{}, asked: map[chunk.ID]int{}, limit: 1 << 20, tail: 1000,
	}
}

func (m *memRepo) put(kind pack.Kind, id chunk.ID, form chunk.Form, plain []byte) (chunk.ID, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.index[id]; ok {
		return id, nil
	}
	p := m.open[kind]
	if p == nil {
		p = &openPack{b: make([]byte, 8)}
		m.open[kind] = p
	}
	e := pack.Entry{ID: id, Form: form, Offset: uint32(len(p.b)), Plain: uint32(len(plain)), Sealed: uint32(len(plain) + 4)}
	for _, c := range plain {
		p.b = append(p.b, ^c)
	}
	p.b = binary.BigEndian.AppendUint32(p.b, crc32.ChecksumIEEE(plain))
	p.entries = append(p.entries, e)
	m.index[id] = pack.Location{}
	if len(p.b) >= m.limit {
		m.finish(kind)
	}
	return id, nil
}

func (m *memRepo) finish(kind pack.Kind) {
	p := m.open[kind]
	if p == nil {
		return
	}
	delete(m.open, kind)
	p.b = append(p.b, make([]byte, 84)...) // a directory
	p.b = append(p.b, trailer...)
	key := fmt.Sprintf("packs/s/%d-%x", len(m.packs), sha256.Sum256(p.b))
	dir := &pack.Directory{Kind: kind, Entries: p.entries}
	if kind == pack.Data {
		dir.Sessions = []pack.Session{{SID: "s", Encapsulation: []byte{1}}}
	}
	m.packs[key], m.dirs[key] = p.b, dir
	for i := range dir.Entries {
		m.index[dir.Entries[i].ID] = dir.Location(key, i)
	}
}

// fail makes every later read of a pack fail.
func (m *memRepo) fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.failRead = err
}

func (m *memRepo) Pages(_ context.Context, form chunk.Form, d []chunk.Digest, pages []byte) (chunk.ID, error) {
	return m.put(pack.Data, chunk.NewHasher(testKey()).RunID(d), form, pages)
}

func (m *memRepo) Bytes(_ context.Context, b []byte) (chunk.ID, error) {
	return m.put(pack.Data, chunk.NewHasher(testKey()).StreamID(b), 0, b)
}

func (m *memRepo) Meta(_ context.Context, b []byte) (chunk.ID, error) {
	return m.put(pack.Meta, chunk.NewHasher(testKey()).MetaID(b), 0, b)
}

func testKey() chunk.Key { return chunk.Key{1} }

func (m *memRepo) Locate(id chunk.ID) (pack.Location, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	loc, ok := m.index[id]
	if !ok {
		return loc, fmt.Errorf("chunk %s: %w", id.Short(), errBroken)
	}
	return loc, nil
}

func (m *memRepo) ReadPack(_ context.Context, key string, off, n int64, dst []byte) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.failRead != nil {
		return nil, m.failRead
	}
	b, ok := m.packs[key]
	if !ok {
		return nil, fmt.Errorf("%s: %w", key, errBroken)
	}
	if off < 0 {
		off = max(0, int64(len(b))+off)
	} else {
		m.reads[key] += max(0, min(n, int64(len(b))-off))
	}
	off = min(off, int64(len(b)))
	n = min(n, int64(len(b))-off)
	return append(dst, b[off:off+n]...), nil
}

func (m *memRepo) OpenChunk(dst []byte, loc pack.Location, sealed []byte) ([]byte, error) {
	bad := func() ([]byte, error) {
		return nil, fmt.Errorf("chunk %s in %s: %w", loc.ID.Short(), loc.Pack, errBroken)
	}
	if len(sealed) != int(loc.Sealed) {
		return bad()
	}
	have := len(dst)
	for _, c := range sealed[:len(sealed)-4] {
		dst = append(dst, ^c)
	}
	plain := dst[have:]
	h := chunk.NewHasher(testKey())
	switch {
	case binary.BigEndian.Uint32(sealed[len(sealed)-4:]) != crc32.ChecksumIEEE(plain):
		return bad()
	case loc.Kind == pack.Meta && h.MetaID(plain) != loc.ID, loc.Kind == pack.Data && !h.Verify(loc.ID, loc.Form, plain):
		return bad()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.opened[loc.ID]++
	return dst, nil
}

func (m *memRepo) MetaChunk(_ context.Context, id chunk.ID) ([]byte, error) {
	loc, err := m.Locate(id)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	b, ok := m.packs[loc.Pack]
	m.asked[id]++
	m.mu.Unlock()
	if !ok || int(loc.End()) > len(b) {
		return nil, fmt.Errorf("%s: %w", loc.Pack, errBroken)
	}
	return m.OpenChunk(nil, loc, b[loc.Offset:loc.End()])
}

func (m *memRepo) PackEnd(_ context.Context, key string) (*pack.Directory, []byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b, ok := m.packs[key]
	if !ok || len(b) < 100 || !bytes.HasSuffix(b, []byte(trailer)) {
		return nil, nil, fmt.Errorf("%s: %w", key, errBroken)
	}
	tail := b[max(0, len(b)-m.tail):]
	m.reads[key] += int64(len(tail))
	return m.dirs[key], tail, nil
}

func (m *memRepo) List(_ context.Context, prefix string, fn func(string, int64) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, key := range slices.Sorted(maps.Keys(m.packs)) {
		if strings.HasPrefix(key, prefix) {
			if err := fn(key, int64(len(m.packs[key]))); err != nil {
				return err
			}
		}
	}
	return nil
}

// cluster is what a test backs up: files by path, and other entries.
type cluster struct {
	repo    *memRepo
	files   map[string][]byte
	entries []snapshot.Entry
	links   map[string]string // where a file was, if it was elsewhere
}

type content struct{ *bytes.Reader }

func (content) Close() error           { return nil }
func (c content) Size() (int64, error) { return c.Reader.Size(), nil }

var modified = time.Date(2026, 3, 4, 5, 6, 7, 89_000, time.UTC)

// newCluster has a control file of PostgreSQL 15 and little else.
func newCluster(t testing.TB) *cluster {
	t.Helper()
	control, err := os.ReadFile("../internal/pg/testdata/control-15.bin")
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{repo: newMemRepo(), links: map[string]string{}, files: map[string][]byte{
		"data/global/pg_control": control,
		"data/PG_VERSION":        []byte("15\n"),
	}}
	for _, dir := range []string{"data", "data/global", "data/base", "data/base/1", "data/pg_wal", "data/pg_tblspc", "data/pg_xact"} {
		c.dir(dir, 0o700)
	}
	return c
}

func (c *cluster) dir(path string, mode uint32) {
	c.entries = append(c.entries, snapshot.Entry{Path: path, Type: snapshot.Dir, Mode: mode, Owner: me(), Stat: snapshot.Stat{ModTime: modified.UnixNano()}})
}

func me() snapshot.Owner { return snapshot.Owner{UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())} }

// take makes a snapshot of the cluster as it is.
func (c *cluster) take(t testing.TB, id string) *snapshot.Manifest {
	t.Helper()
	var sources []snapshot.Source
	for _, e := range c.entries {
		sources = append(sources, snapshot.Source{Entry: e})
	}
	for path, b := range c.files {
		form := chunk.Form(0)
		if strings.Contains(path, "/base/") || strings.Contains(path, "/PG_15_") {
			form = 13
		}
		sources = append(sources, snapshot.Source{
			Entry: snapshot.Entry{
				Path: path, Type: snapshot.File, Mode: 0o600, Owner: me(), Size: int64(len(b)), Stat: snapshot.Stat{ModTime: modified.UnixNano()},
				Link: c.links[path],
			},
			Form: form, Last: strings.HasSuffix(path, pg.ControlPath),
			Open: func() (snapshot.Content, error) {
				if b == nil {
					return nil, fs.ErrNotExist
				}
				return content{bytes.NewReader(b)}, nil
			},
		})
	}
	res, err := snapshot.Take(t.Context(), sources, snapshot.Options{
		Jobs: 2, Key: testKey(), NewWriter: func() (snapshot.Writer, error) { return c.repo, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	c.repo.finish(pack.Data)
	c.repo.finish(pack.Meta)
	control, err := pg.ParseControl(c.files["data/global/pg_control"])
	if err != nil {
		t.Fatal(err)
	}
	return &snapshot.Manifest{
		Version: snapshot.Version, ID: id, Cluster: "main",
		Server: snapshot.Server{
			SystemID: control.SystemID, Version: 150018, BlockSize: 8192, WALSegmentSize: pg.MinSegmentSize, DataDirectory: "/was/here",
		},
		Totals:      snapshot.Totals{Size: res.Size, Files: res.Files},
		BackupLabel: []byte("START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\n"),
		Root:        res.Root,
	}
}

// pages makes relation pages: random ones, zero ones, and some that repeat.
func pages(r *rand.Rand, n int) []byte {
	b := make([]byte, 0, n*8192)
	rnd := rand.NewChaCha8([32]byte{byte(r.Uint32()), byte(r.Uint32())})
	for len(b) < n*8192 {
		run := make([]byte, min((1+r.IntN(60))*8192, n*8192-len(b)))
		if r.IntN(3) > 0 {
			_, _ = rnd.Read(run)
		}
		b = append(b, run...)
	}
	return b
}
