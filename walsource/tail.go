package walsource

import (
	"encoding/binary"
	"io"

	"github.com/pgtrove/pgtrove/internal/pg"
)

// tail is the beginning of a record that goes on in the next segment, without page headers.
type tail struct {
	lsn  pg.LSN
	data []byte // empty: not at hand
}

// readTail finds the beginning of the record that runs over the end of the segment before the one that info describes. It reads pages
// from its last one backwards, up to the one on which that record begins. It returns an empty tail for a segment that is not that
// one, or cannot be read: what it returns is judged by the record's checksum.
func readTail(prev io.ReaderAt, info *Info) tail {
	size, page := int64(info.SegmentSize), int64(info.BlockSize)
	base := info.Segment.Start(info.SegmentSize) - pg.LSN(size)
	var bodies [][]byte // of the pages behind, last one first
	for at := size - page; at >= 0; at -= page {
		b := make([]byte, page)
		if _, err := prev.ReadAt(b, at); err != nil {
			return tail{}
		}
		h := readPageHeader(b)
		if h.magic != info.Magic || h.addr != base+pg.LSN(at) {
			return tail{}
		}
		begin := int64(headerSize(int(at)))
		if h.info&flagContinued != 0 && int64(h.remLen) >= page-begin {
			bodies = append(bodies, b[begin:])
			continue
		}
		if h.info&flagContinued != 0 {
			begin = int64(align(int(begin) + int(h.remLen)))
		}
		start := lastRecord(b, int(begin))
		if start < 0 {
			return tail{}
		}
		t := tail{lsn: base + pg.LSN(at) + pg.LSN(start), data: b[start:]}
		for i := len(bodies) - 1; i >= 0; i-- {
			t.data = append(t.data, bodies[i]...)
		}
		return t
	}
	return tail{}
}

// lastRecord walks over the records of a page from begin on to the one that runs over its end; -1 when there is none.
func lastRecord(page []byte, begin int) int {
	for begin < len(page) {
		total := int64(binary.LittleEndian.Uint32(page[begin:]))
		if total < recordHeaderSize {
			return -1
		}
		if int64(begin)+total > int64(len(page)) {
			return begin
		}
		begin = align(begin + int(total))
	}
	return -1
}
