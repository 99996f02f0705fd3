package pg_test

import (
	"encoding/binary"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/pgtrove/pgtrove/internal/pg"
)

func goldenPage(t testing.TB) []byte {
	t.Helper()
	page, err := os.ReadFile("testdata/page-1262-0.bin")
	if err != nil {
		t.Fatal(err)
	}
	return page
}

func TestPageChecksumOfARealPage(t *testing.T) {
	page := goldenPage(t)
	if got, want := pg.PageChecksum(page, 0), pg.PageStoredChecksum(page); got != want {
		t.Errorf("computed %04X, stored %04X", got, want)
	}
	if pg.PageIsNew(page) || pg.PageIsZero(page) {
		t.Error("the page is not new")
	}
}

// slowChecksum is checksum_impl.h word for word, on a copy.
func slowChecksum(page []byte, blockNo uint32) uint16 {
	page = append([]byte(nil), page...)
	page[8], page[9] = 0, 0
	sums := [32]uint32{
		0x5B1F36E9, 0xB8525960, 0x02AB50AA, 0x1DE66D2A, 0x79FF467A, 0x9BB9F8A3, 0x217E7CD2, 0x83E13D2C,
		0xF8D4474F, 0xE39EB970, 0x42C6AE16, 0x993216FA, 0x7B093B5D, 0x98DAFF3C, 0xF718902A, 0x0B1C9CDB,
		0xE58F764B, 0x187636BC, 0x5D7B3BB1, 0xE73DE7DE, 0x92BEC979, 0xCCA6C0B2, 0x304A0979, 0x85AA43D4,
		0x783125BB, 0x6CA8EAA2, 0xE407EAC6, 0x4B5CFC3E, 0x9FBF8C76, 0x15CA20BE, 0xF2CA9FD3, 0x959BD756,
	}
	comp := func(sum *uint32, v uint32) {
		tmp := *sum ^ v
		*sum = tmp*16777619 ^ tmp>>17
	}
	for i := 0; i < len(page); i += 4 {
		comp(&sums[i/4%32], binary.LittleEndian.Uint32(page[i:]))
	}
	var result uint32
	for i := range sums {
		comp(&sums[i], 0)
		comp(&sums[i], 0)
		result ^= sums[i]
	}
	return uint16((result^blockNo)%65535 + 1)
}

func TestPageChecksumOfEveryBlockSize(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for size := 1024; size <= 32768; size *= 2 {
		for range 20 {
			page := make([]byte, size)
			for i := range page {
				page[i] = byte(random.Uint32())
			}
			block := random.Uint32()
			got := pg.PageChecksum(page, block)
			if want := slowChecksum(page, block); got != want {
				t.Fatalf("%d bytes: %04X, want %04X", size, got, want)
			}
			page[8], page[9] = ^page[8], ^page[9]
			if pg.PageChecksum(page, block) != got {
				t.Fatal("depends on the stored checksum")
			}
			at := random.IntN(size)
			if at == 8 || at == 9 {
				continue
			}
			page[at] ^= 1 << random.IntN(8)
			if pg.PageChecksum(page, block) == got {
				t.Fatalf("a flipped bit at %d of %d passed", at, size)
			}
		}
	}
}

func TestZeroPagesAreFound(t *testing.T) {
	for _, size := range []int{0, 24, 33, 8192} {
		page := make([]byte, size)
		if !pg.PageIsZero(page) {
			t.Errorf("%d bytes", size)
		}
		for i := range page {
			page[i] = 0x80
			if pg.PageIsZero(page) {
				t.Fatalf("byte %d of %d", i, size)
			}
			page[i] = 0
		}
	}
}

func TestPageChecksumDoesNotAllocate(t *testing.T) {
	page := goldenPage(t)
	var sum uint16
	if n := testing.AllocsPerRun(100, func() { sum += pg.PageChecksum(page, 7) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkPageChecksum(b *testing.B) {
	page := goldenPage(b)
	b.SetBytes(int64(len(page)))
	b.ReportAllocs()
	var sum uint16
	for b.Loop() {
		sum ^= pg.PageChecksum(page, 7)
	}
	_ = sum
}

func BenchmarkPageIsZero(b *testing.B) {
	page := make([]byte, 8192)
	b.SetBytes(int64(len(page)))
	for b.Loop() {
		if !pg.PageIsZero(page) {
			b.Fatal("not zero")
		}
	}
}
