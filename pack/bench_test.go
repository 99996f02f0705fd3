package pack

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/pgtrove/pgtrove/chunk"
)

const benchChunk = 128 << 10

// heapPages makes n bytes of heap pages: header and line pointers for tuples
// of the given size, and lets fill write each tuple's data behind its header.
func heapPages(n, tuple int, fill func(row int, data []byte)) []byte {
	const pageSize, headerSize, tupleHeader = 8192, 24, 24
	out := make([]byte, n)
	row := 0
	for off := 0; off < n; off += pageSize {
		p := out[off : off+pageSize]
		size := tupleHeader + (tuple+7)&^7
		count := (pageSize - headerSize) / (size + 4)
		upper := pageSize
		for i := range count {
			upper -= size
			binary.LittleEndian.PutUint32(p[headerSize+4*i:], uint32(upper)|1<<15|uint32(tupleHeader+tuple)<<17)
			t := p[upper : upper+size]
			binary.LittleEndian.PutUint32(t, 731)
			binary.LittleEndian.PutUint32(t[12:], uint32(off/pageSize))
			binary.LittleEndian.PutUint16(t[16:], uint16(i+1))
			binary.LittleEndian.PutUint16(t[18:], 4)
			binary.LittleEndian.PutUint16(t[20:], 0x0902)
			t[22] = 24
			fill(row, t[tupleHeader:tupleHeader+tuple])
			row++
		}
		binary.LittleEndian.PutUint64(p, 0x0000000012345678+uint64(off))
		binary.LittleEndian.PutUint16(p[8:], uint16(off/pageSize*31))
		binary.LittleEndian.PutUint16(p[12:], uint16(headerSize+4*count))
		binary.LittleEndian.PutUint16(p[14:], uint16(upper))
		binary.LittleEndian.PutUint16(p[16:], 8192)
		binary.LittleEndian.PutUint16(p[18:], 8192|4)
	}
	return out
}

// pgbenchPages are like pgbench_accounts: aid, bid, abalance, filler of
// blanks.
func pgbenchPages(n int) []byte {
	return heapPages(n, 97, func(row int, b []byte) {
		binary.LittleEndian.PutUint32(b, uint32(row+1))
		binary.LittleEndian.PutUint32(b[4:], 1)
		b[12] = 0xab
		for i := range b[13:] {
			b[13+i] = ' '
		}
	})
}

// floatPages are rows of an id and eight random float8.
func floatPages(n int) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	return heapPages(n, 8+8*128, func(row int, b []byte) {
		binary.LittleEndian.PutUint64(b, uint64(row))
		for i := 8; i < len(b); i += 8 {
			binary.LittleEndian.PutUint64(b[i:], r.Uint64()&0x000fffffffffffff|0x3fe0000000000000)
		}
	})
}

func textPages(n int) []byte {
	words := []string{"order", "customer", "delivered", "pending", "2026-03-01", "invoice", "the", "of", "and",
		"street", "Berlin", "Wien", "returned", "blue", "shirt", "size", "large", "payment", "failed", "retry"}
	r := rand.New(rand.NewPCG(3, 4))
	return heapPages(n, 200, func(row int, b []byte) {
		s := fmt.Appendf(nil, "%08d", row)
		for len(s) < len(b) {
			s = append(s, ' ')
			s = append(s, words[r.IntN(len(words))]...)
		}
		copy(b, s)
	})
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{7}).Read(b)
	return b
}

// benchData are the three kinds of pages that a cluster is made of, and what
// cannot be compressed at all.
var benchData = []struct {
	name string
	make func(int) []byte
}{{"pgbench", pgbenchPages}, {"text", textPages}, {"float8", floatPages}, {"random", randomBytes}}

// BenchmarkCompress includes decompressing and comparing.
func BenchmarkCompress(b *testing.B) {
	for _, data := range benchData {
		for _, l := range []Level{Fastest, Default} {
			b.Run(fmt.Sprintf("%s/level%d", data.name, l), func(b *testing.B) {
				plain, c := data.make(benchChunk), newCompressor(b, l)
				out := make([]byte, 0, len(plain)+1024)
				b.SetBytes(int64(len(plain)))
				b.ReportAllocs()
				for b.Loop() {
					var err error
					if out, _, err = c.Compress(out[:0], plain); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(100*float64(len(out))/float64(len(plain)), "%size")
			})
		}
	}
}

// BenchmarkEncode is Compress without decompressing and comparing.
func BenchmarkEncode(b *testing.B) {
	for _, data := range benchData {
		b.Run(data.name, func(b *testing.B) {
			plain, c := data.make(benchChunk), newCompressor(b, Fastest)
			out := make([]byte, 0, len(plain)+1024)
			b.SetBytes(int64(len(plain)))
			b.ReportAllocs()
			for b.Loop() {
				out, _ = c.encode(out[:0], plain)
			}
		})
	}
}

func BenchmarkDecompress(b *testing.B) {
	for _, data := range benchData {
		b.Run(data.name, func(b *testing.B) {
			plain, c := data.make(benchChunk), newCompressor(b, Fastest)
			src, enc, err := c.Compress(nil, plain)
			if err != nil {
				b.Fatal(err)
			}
			out := make([]byte, 0, len(plain)+decodeSlack)
			b.SetBytes(int64(len(plain)))
			b.ReportAllocs()
			for b.Loop() {
				if out, err = c.dec.Decompress(out[:0], src, enc, len(plain)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkBuilder fills and finishes packs of 32 MiB from incompressible
// chunks: a copy and a SHA-256 of each byte.
func BenchmarkBuilder(b *testing.B) {
	sealed, digests := randomBytes(benchChunk+16), make([]chunk.Digest, benchChunk/8192)
	builder := NewBuilder(Data, testSealer{1}, testAAD)
	b.SetBytes(TargetSize)
	b.ReportAllocs()
	for b.Loop() {
		builder.Reset(Data, testAAD)
		if _, err := builder.AddSession(Session{SID: "s", Encapsulation: make([]byte, 1129)}); err != nil {
			b.Fatal(err)
		}
		for i := 0; builder.Size() < TargetSize; i++ {
			e := Entry{ID: chunk.ID{byte(i), byte(i >> 8)}, Form: 13, Plain: benchChunk, Nonce: uint64(i)}
			if err := builder.Add(e, sealed, digests); err != nil {
				b.Fatal(err)
			}
		}
		if _, _, _, err := builder.Finish(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParseDirectory(b *testing.B) {
	d := validDirectory(b, Data)
	for len(d.Entries) < 2000 {
		e := d.Entries[1]
		e.ID, e.Offset = chunk.ID{byte(len(d.Entries)), byte(len(d.Entries) >> 8)}, uint32(d.End())
		d.Entries = append(d.Entries, e)
	}
	plain, err := d.Marshal(nil)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(plain)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseDirectory(plain); err != nil {
			b.Fatal(err)
		}
	}
}
