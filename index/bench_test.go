package index_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/index"
	"github.com/pgtrove/pgtrove/pack"
)

// In a 32 MiB pack of half-compressed runs of 16 pages are about 500 chunks; a segment is published every few packs.
const (
	benchChunks = 500
	benchPacks  = 20
)

// benchID is cheap, and as random as an ID.
func benchID(n uint64) (id chunk.ID) {
	for i := 0; i < len(id); i += 8 {
		n += 0x9e3779b97f4a7c15
		z := n
		z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		binary.BigEndian.PutUint64(id[i:], z^z>>31)
	}
	return id
}

func benchSegment(i int) (string, *index.Segment) {
	var s index.Segment
	for j := range benchPacks {
		p := packOf(fmt.Sprintf("packs/20250102T030405Z-0123456789abcdef/%d-%064x", i*benchPacks+j, j))
		end := p.End()
		for k := range benchChunks {
			n := uint64((i*benchPacks+j)*benchChunks+k) << 8
			p.Entries = append(p.Entries, pack.Entry{ID: benchID(n), Form: 13, Encoding: pack.Zstd, Offset: uint32(end),
				Sealed: 50_000 + uint32(n%9999), Plain: 16 << 13, Nonce: n >> 8})
			end = p.End()
		}
		p.Size = end + 1000
		s.Packs = append(s.Packs, p)
	}
	return fmt.Sprintf("index/20250102T030405Z-0123456789abcdef/%d", i), &s
}

func benchCache(b *testing.B, dir string, chunks int) *index.Cache {
	b.Helper()
	c, err := index.OpenCache(dir, repositoryID)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = c.Close() })
	for i := range chunks / benchChunks / benchPacks {
		if _, err := c.Add(benchSegment(i)); err != nil {
			b.Fatal(err)
		}
	}
	return c
}

func BenchmarkSegmentMarshal(b *testing.B) {
	_, s := benchSegment(0)
	text, err := s.Marshal()
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(text)))
	b.ReportMetric(float64(len(text))/benchChunks/benchPacks, "B/chunk")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Marshal(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSegmentParse(b *testing.B) {
	_, s := benchSegment(0)
	text, err := s.Marshal()
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := index.Parse(text); err != nil {
			b.Fatal(err)
		}
	}
}

// One operation is one chunk.
func BenchmarkCacheAdd(b *testing.B) {
	c := benchCache(b, b.TempDir(), 0)
	b.ReportAllocs()
	for n, i := 0, 0; n < b.N; i++ {
		b.StopTimer()
		name, s := benchSegment(i)
		b.StartTimer()
		if _, err := c.Add(name, s); err != nil {
			b.Fatal(err)
		}
		n += benchChunks * benchPacks
	}
}

const million = 1_000_000

func BenchmarkCacheLookup(b *testing.B) {
	c := benchCache(b, b.TempDir(), million)
	for name, first := range map[string]uint64{"present": 0, "absent": 1} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			r := rand.New(rand.NewPCG(1, 2))
			for b.Loop() {
				_, ok, err := c.Lookup(benchID(r.Uint64N(million)<<8+first), all, nil)
				if err != nil || ok != (first == 0) {
					b.Fatal(ok, err)
				}
			}
		})
	}
}

// BenchmarkCacheMillion tells, in a process of its own, what a cache of a million chunks (128 GB of pages) takes.
func BenchmarkCacheMillion(b *testing.B) {
	for b.Loop() {
		dir := b.TempDir()
		cmd, out := childCommand(childMillion, dir)
		if err := cmd.Run(); err != nil {
			b.Fatalf("%v: %s", err, out)
		}
		var fill, look, open, peak float64
		if _, err := fmt.Sscan(out.String(), &fill, &look, &open, &peak); err != nil {
			b.Fatalf("%v: %s", err, out)
		}
		b.ReportMetric(million/fill, "adds/s")
		b.ReportMetric(million/look, "lookups/s")
		b.ReportMetric(open*1000, "ms-to-open")
		b.ReportMetric(peak, "MB-peak") // with the mapped files
		b.ReportMetric(float64(diskUse(b, dir))/million, "disk-B/chunk")
	}
}

func diskUse(b *testing.B, dir string) (n int64) {
	err := filepath.Walk(dir, func(_ string, info os.FileInfo, err error) error {
		n += info.Size()
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	return n
}

// useMillion is the child: it prints the seconds that filling, looking up and opening took, and the highest memory.
func useMillion(c *index.Cache, dir string) error {
	start := time.Now()
	for i := range million / benchChunks / benchPacks {
		if _, err := c.Add(benchSegment(i)); err != nil {
			return err
		}
	}
	fmt.Println(time.Since(start).Seconds())
	start = time.Now()
	r := rand.New(rand.NewPCG(1, 2))
	for i := range uint64(million) {
		if _, ok, err := c.Lookup(benchID(r.Uint64N(million)<<8+i%2), all, nil); err != nil || ok != (i%2 == 0) {
			return fmt.Errorf("%v, %v", ok, err)
		}
	}
	fmt.Println(time.Since(start).Seconds())
	if err := c.Close(); err != nil {
		return err
	}
	start = time.Now()
	c, err := index.OpenCache(dir, repositoryID)
	if err != nil {
		return err
	}
	fmt.Println(time.Since(start).Seconds(), peakMemory())
	return c.Close()
}

// peakMemory is the highest resident memory of this process, in MB.
func peakMemory() float64 {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	_, line, _ := strings.Cut(string(b), "VmHWM:")
	var kB float64
	_, _ = fmt.Sscan(line, &kB)
	return kB / 1024
}
