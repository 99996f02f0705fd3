package walsource

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"hash/crc32"
	"io"
	"os"
	"testing"

	"github.com/pgtrove/pgtrove/internal/pg"
)

func goldenPages(f *testing.F, version string) []byte {
	f.Helper()
	file, err := os.Open("testdata/segment-" + version + ".gz")
	if err != nil {
		f.Fatal(err)
	}
	defer file.Close()
	z, err := gzip.NewReader(file)
	if err != nil {
		f.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		f.Fatal(err)
	}
	return b
}

// FuzzScan reads pages of 1 KiB: a real segment's first pages cut down and made whole again, so that the fuzzer has little to carry around and
// gets behind the checksums.
func FuzzScan(f *testing.F) {
	for _, version := range []string{"13", "15", "18"} {
		f.Add(goldenPages(f, version)[:4<<10], false)
		f.Add(goldenPages(f, version)[8<<10:12<<10], true)
	}
	f.Fuzz(func(t *testing.T, data []byte, repair bool) {
		const page = 1 << 10
		data = append(bytes.Clone(data), make([]byte, (page-len(data)%page)%page)...)
		if len(data) == 0 {
			return
		}
		segment := pg.Segment{Timeline: 7, Number: 9}
		info := &Info{Segment: segment, Header: Header{SegmentSize: 1 << 20, BlockSize: page, Magic: 0xD110, Major: 15}}
		s := newScan(data, info)
		if repair {
			repairPages(s)
		}
		end := s.run()
		if info.EndOfData < s.base || info.EndOfData > s.lsn(len(data)) || (end != nil && end.LSN < s.base) {
			t.Errorf("%+v, %v", info, end)
		}
		if end == nil && !info.Switched && info.EndOfData != s.lsn(len(data)) {
			t.Errorf("neither whole nor broken: %+v", info)
		}
	})
}

// repairPages gives each page a header that fits, and records that stay on a page their checksum and pointer back.
func repairPages(s *scan) {
	le := binary.LittleEndian
	prev := pg.LSN(0)
	for at := 0; at < len(s.data); at += s.pageSize {
		page := s.data[at : at+s.pageSize]
		le.PutUint16(page, s.info.Magic)
		flags := le.Uint16(page[2:]) & (flagContinued | flagOverwrite)
		if at == 0 {
			flags |= flagLongHeader
		}
		le.PutUint16(page[2:], flags)
		le.PutUint32(page[4:], 1)
		le.PutUint64(page[8:], uint64(s.lsn(at)))
		begin := headerSize(at)
		if flags&flagContinued != 0 {
			begin = align(begin + int(le.Uint32(page[16:])%2048))
		}
		for begin+recordHeaderSize <= len(page) {
			total := int(le.Uint32(page[begin:]) % 512)
			if total < recordHeaderSize || begin+total > len(page) {
				break
			}
			r := page[begin : begin+total]
			le.PutUint32(r, uint32(total))
			le.PutUint64(r[offRecordPrev:], uint64(prev))
			crc := crc32.Update(crc32.Checksum(r[recordHeaderSize:], s.crcTable), s.crcTable, r[:offRecordCRC])
			le.PutUint32(r[offRecordCRC:], crc)
			prev = s.lsn(at + begin)
			begin = align(begin + total)
		}
	}
}

// FuzzContent gives any body to the readers of records, which a checksum keeps the other fuzzer from.
func FuzzContent(f *testing.F) {
	f.Add(byte(rmXact), byte(xactCommit), []byte{255, 8, 1, 2, 3, 4, 5, 6, 7, 8}, false)
	f.Add(byte(rmXact), byte(xactCommitPrepared|xactHasInfo), append([]byte{252, 1, 2, 3, 4, 254, 40, 0, 0, 0}, make([]byte, 40)...), true)
	f.Add(byte(rmXLOG), byte(xlogRestorePoint), append([]byte{255, 72}, make([]byte, 72)...), false)
	f.Add(byte(rmXLOG), byte(xlogCheckpointOnline), append([]byte{253, 0, 0, 255, 88}, make([]byte, 88)...), true)
	f.Add(byte(rmXact), byte(xactAbort), []byte{255, 8, 0, 0, 0, 0, 0, 0, 0, 0x80}, true) // long before year 1
	f.Add(byte(rmXLOG), byte(xlogSwitch), []byte{}, true)
	f.Fuzz(func(t *testing.T, rmid, op byte, body []byte, newest bool) {
		info := &Info{Header: Header{Major: 13}}
		if newest {
			info.Major = 18
		}
		header := make([]byte, recordHeaderSize)
		header[offRecordRmid], header[offRecordInfo] = rmid, op
		header[offRecordXID] = 5
		if !ofInterest(header) {
			return
		}
		info.take(header, body)
		if n := info.Commits + info.Aborts; n > 1 || n == 1 && (info.FirstCommit != info.LastCommit || info.MinXID != info.MaxXID) {
			t.Errorf("%+v", info)
		}
	})
}

// FuzzTail gives any bytes as the segment before.
func FuzzTail(f *testing.F) {
	f.Add(goldenPages(f, "15")[8<<10 : 16<<10])
	f.Fuzz(func(t *testing.T, data []byte) {
		const size = 1 << 14
		info := &Info{Segment: pg.Segment{Timeline: 1, Number: 3}, Header: Header{SegmentSize: size, BlockSize: 1 << 10, Magic: 0xD110}}
		b := append(bytes.Clone(data[:min(len(data), size)]), make([]byte, size-min(len(data), size))...)
		for at := 0; at < size; at += 1 << 10 {
			binary.LittleEndian.PutUint16(b[at:], 0xD110)
			binary.LittleEndian.PutUint64(b[at+8:], uint64(2*size+at))
		}
		got := readTail(bytes.NewReader(b), info)
		if len(got.data) > size || len(got.data) > 0 && (got.lsn < 2*size || got.lsn >= 3*size) {
			t.Errorf("%d bytes at %s", len(got.data), got.lsn)
		}
	})
}
