package index_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"reflect"
	"runtime"
	"testing"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/index"
	"github.com/pgtrove/pgtrove/pack"
)

var update = flag.Bool("update", false, "write the golden files")

// id makes chunk IDs that tests can tell apart.
func id(n uint64) (id chunk.ID) {
	r := rand.NewPCG(n, 7)
	for i := 0; i < len(id); i += 8 {
		binary.BigEndian.PutUint64(id[i:], r.Uint64())
	}
	return id
}

// packOf makes a data pack that holds the chunks with the given numbers.
func packOf(key string, chunks ...uint64) index.Pack {
	p := index.Pack{Key: key}
	p.Kind = pack.Data
	p.Sessions = []pack.Session{{SID: "20250102T030405Z-0123456789abcdef", Encapsulation: bytes.Repeat([]byte{0xe5}, 1120)}}
	end := p.End()
	for i, n := range chunks {
		p.Entries = append(p.Entries, pack.Entry{ID: id(n), Form: 13, Encoding: pack.Zstd, Offset: uint32(end),
			Sealed: 20_000 + uint32(n%1000), Plain: 16 << 13, Nonce: uint64(i)})
		end = p.End()
	}
	p.Size = end + 1000
	return p
}

func segmentOf(packs ...index.Pack) *index.Segment { return &index.Segment{Packs: packs} }

// example has everything that the format can say.
func example() *index.Segment {
	data := packOf("packs/20250102T030405Z-0123456789abcdef/1-"+fmt.Sprintf("%064x", 1), 1, 2, 3)
	data.Sessions = []pack.Session{{SID: "s1", Encapsulation: []byte{1, 2, 3}}, {SID: "s2", Encapsulation: []byte{4}}}
	data.Entries[1].Session = 1
	data.Entries[1].Nonce = 1 << 40
	data.Entries[2].Offset += 100 // a gap
	data.Entries[2].Form = chunk.FormBytes
	data.Entries[2].Encoding = pack.Raw
	data.Entries[2].Plain = 12345
	data.Size += 100
	meta := index.Pack{Key: "packs/m/2-ff", Size: 5000}
	meta.Kind = pack.Meta
	meta.Entries = []pack.Entry{{ID: id(4), Encoding: pack.Zstd, Offset: 8, Sealed: 400, Plain: 2000}}
	return segmentOf(data, meta)
}

func TestASegmentComesBackAsItWasWritten(t *testing.T) {
	for name, s := range map[string]*index.Segment{"empty": segmentOf(), "example": example()} {
		b, err := s.Marshal()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got, err := index.Parse(b)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if len(s.Packs) == 0 && len(got.Packs) == 0 {
			continue
		}
		if !reflect.DeepEqual(got, s) {
			t.Errorf("%s: got %+v, want %+v", name, got, s)
		}
	}
}

func TestTheFormatDoesNotChange(t *testing.T) {
	b, err := example().Marshal()
	if err != nil {
		t.Fatal(err)
	}
	const path = "testdata/segment.golden"
	if *update {
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b, want) {
		t.Errorf("the example is now\n%x, and was\n%x", b, want)
	}
	s, err := index.Parse(want)
	if err != nil || !reflect.DeepEqual(s, example()) {
		t.Errorf("the old bytes read as %+v, %v", s, err)
	}
}

func TestASegmentIsCompact(t *testing.T) {
	const chunks = 500
	numbers := make([]uint64, chunks)
	for i := range numbers {
		numbers[i] = uint64(i)
	}
	p := packOf("packs/20250102T030405Z-0123456789abcdef/1-"+fmt.Sprintf("%064x", 1), numbers...)
	b, err := segmentOf(p).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	fixed := len(p.Key) + len(p.Sessions[0].SID) + len(p.Sessions[0].Encapsulation) + 32
	if per := float64(len(b)-fixed) / chunks; per > 32+13 {
		t.Errorf("%.1f bytes per chunk", per)
	}
}

func TestInvalidSegmentsAreNotWritten(t *testing.T) {
	for name, spoil := range map[string]func(*index.Segment){
		"no key":              func(s *index.Segment) { s.Packs[0].Key = "" },
		"a key that is none":  func(s *index.Segment) { s.Packs[0].Key = "../x" },
		"a key twice":         func(s *index.Segment) { s.Packs[1].Key = s.Packs[0].Key },
		"smaller than chunks": func(s *index.Segment) { s.Packs[0].Size = s.Packs[0].End() - 1 },
		"too large":           func(s *index.Segment) { s.Packs[0].Size = pack.MaxObject + 1 },
		"no chunks":           func(s *index.Segment) { s.Packs[0].Entries = nil },
		"an archive": func(s *index.Segment) {
			s.Packs[0].Kind = pack.Archive
		},
		"a bad directory": func(s *index.Segment) { s.Packs[0].Entries[0].Plain = 0 },
		"too many packs":  func(s *index.Segment) { s.Packs = make([]index.Pack, index.MaxPacks+1) },
	} {
		s := example()
		spoil(s)
		if _, err := s.Marshal(); !errors.Is(err, index.ErrFormat) {
			t.Errorf("%s: %v, want ErrFormat", name, err)
		}
	}
}

func TestEveryCutAndForeignByteIsNoticed(t *testing.T) {
	b, err := example().Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for n := range b {
		if _, err := index.Parse(b[:n]); !errors.Is(err, index.ErrFormat) {
			t.Errorf("the first %d bytes: %v, want ErrFormat", n, err)
		}
	}
	if _, err := index.Parse(append(bytes.Clone(b), 0)); !errors.Is(err, index.ErrFormat) {
		t.Errorf("a byte behind the end: %v, want ErrFormat", err)
	}
	for version := range 256 {
		if version == 1 {
			continue
		}
		c := bytes.Clone(b)
		c[0] = byte(version)
		if _, err := index.Parse(c); !errors.Is(err, index.ErrVersion) {
			t.Errorf("version %d: %v, want ErrVersion", version, err)
		}
	}
}

// A few bytes must not make a decoder allocate for what they claim.
func TestClaimsDoNotAllocate(t *testing.T) {
	claims := [][]byte{
		binary.AppendUvarint([]byte{1}, index.MaxPacks),
		binary.AppendUvarint([]byte{1}, 1<<63),
		binary.AppendUvarint([]byte{1, 1}, 700),
		append(binary.AppendUvarint([]byte{1, 1, 1, 'k', 1}, 200<<20), 1, 1, 0),
	}
	for _, b := range claims {
		b = append(b, make([]byte, 100)...)
		const times = 100
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range times {
			if _, err := index.Parse(b); err == nil {
				t.Fatalf("%x was accepted", b)
			}
		}
		runtime.ReadMemStats(&after)
		if got := (after.TotalAlloc - before.TotalAlloc) / times; got > 10_000 {
			t.Errorf("%x: %d bytes allocated", b, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []*index.Segment{segmentOf(), example(), segmentOf(packOf("a/b", 1))} {
		b, err := s.Marshal()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := index.Parse(b)
		if err != nil {
			if !errors.Is(err, index.ErrFormat) && !errors.Is(err, index.ErrVersion) {
				t.Errorf("an error without a kind: %v", err)
			}
			return
		}
		again, err := s.Marshal()
		if err != nil || !bytes.Equal(again, b) {
			t.Errorf("%x was accepted and writes as %x, %v", b, again, err)
		}
	})
}
