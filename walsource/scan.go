package walsource

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/pgtrove/pgtrove/internal/pg"
)

// XLogRecord, xlogrecord.h.
const (
	recordHeaderSize = 24
	recordAlign      = 8

	offRecordXID  = 4
	offRecordPrev = 8
	offRecordInfo = 16
	offRecordRmid = 17
	offRecordCRC  = 20
)

// scan walks over the records of one segment. It is made for one call of run.
type scan struct {
	data     []byte
	info     *Info
	base     pg.LSN // of data[0]
	pageSize int
	crcTable *crc32.Table

	pos      int         // of the next record, or of the page header before it
	timeline pg.Timeline // of the last page looked at
	prev     pg.LSN      // of the last whole record, 0 before the first
	tail     tail        // of the segment before
	long     longRecord  // the one that crosses pages, if any: here so that it costs no allocation
}

func newScan(data []byte, info *Info) *scan {
	return &scan{
		data:     data,
		info:     info,
		base:     info.Segment.Start(info.SegmentSize),
		pageSize: int(info.BlockSize),
		crcTable: crc32.MakeTable(crc32.Castagnoli),
	}
}

// stop is why no further record can be read.
type stop struct {
	pos    int // in the segment
	reason string
}

// run reads all records and completes the Info. It returns nil when the segment is filled to its end or ended by XLOG_SWITCH.
func (s *scan) run() *RecordError {
	s.info.EndOfData = s.base
	end := s.head()
	for end == nil && s.pos < len(s.data) && !s.info.Switched {
		end = s.record()
	}
	if end == nil {
		return nil
	}
	e := &RecordError{LSN: s.lsn(end.pos), Reason: end.reason, Err: ErrUnfinished}
	if s.writtenBehind(end.pos) {
		e.Err = ErrBroken
	}
	return e
}

// writtenBehind reports whether a page behind the one of pos was written for this place. The server writes pages in order, and a file
// that it recycles holds pages with older addresses.
func (s *scan) writtenBehind(pos int) bool {
	for at := pos - pos%s.pageSize + s.pageSize; at < len(s.data); at += s.pageSize {
		if h := readPageHeader(s.data[at:]); h.magic == s.info.Magic && h.addr == s.lsn(at) {
			return true
		}
	}
	return false
}

func (s *scan) lsn(pos int) pg.LSN { return s.base + pg.LSN(pos) }

// continued reports whether the segment begins in the midst of a record.
func (s *scan) continued() bool { return readPageHeader(s.data).info&flagContinued != 0 }

// headerSize is the size of the header of the page at pos.
func headerSize(pos int) int {
	if pos == 0 {
		return longHeaderSize
	}
	return shortHeaderSize
}

// pageAt checks the header of the page that begins at pos (XLogReaderValidatePageHeader).
func (s *scan) pageAt(pos int) (pageHeader, *stop) {
	h := readPageHeader(s.data[pos:])
	var reason string
	switch {
	case h.magic == 0 && h.addr == 0:
		reason = "the page was never written"
	case h.magic != s.info.Magic:
		reason = fmt.Sprintf("page magic %04X, the first page has %04X", h.magic, s.info.Magic)
	case h.addr != s.lsn(pos):
		reason = fmt.Sprintf("the page is that of %s", h.addr)
	case h.info&^allFlags != 0 || (h.info&flagLongHeader != 0) != (pos == 0):
		reason = fmt.Sprintf("page flags %04X", h.info)
	case h.timeline < s.timeline || h.timeline > s.info.Segment.Timeline:
		reason = fmt.Sprintf("the page is of timeline %d, after one of %d", h.timeline, s.timeline)
	default:
		s.timeline = h.timeline
		return h, nil
	}
	return h, &stop{pos, reason}
}

// head reads the rest of the record with which the segment before ends.
func (s *scan) head() *stop {
	h, bad := s.pageAt(0)
	if bad != nil || !s.continued() {
		return bad
	}
	s.start(s.base, int64(h.remLen))
	s.long.skip = true
	if t := s.tail; len(t.data) >= 4 && int64(binary.LittleEndian.Uint32(t.data)) == int64(len(t.data))+int64(h.remLen) {
		s.start(t.lsn, int64(binary.LittleEndian.Uint32(t.data)))
		s.add(t.data)
	}
	s.info.HeadUnread = s.long.skip
	return s.rest()
}

// record reads the record at pos, or the page header there and the record behind it. It may be one that goes on in the next segment,
// or that a crash cut off: then only pos moves.
func (s *scan) record() *stop {
	if s.pos%s.pageSize == 0 {
		h, bad := s.pageAt(s.pos)
		if bad != nil {
			return bad
		}
		if h.info&flagContinued != 0 {
			return &stop{s.pos, "the page continues a record that ended before it"}
		}
		s.pos += headerSize(s.pos)
	}
	start, pageEnd := s.pos, s.pos-s.pos%s.pageSize+s.pageSize
	onPage := s.data[start:pageEnd]
	total := int64(binary.LittleEndian.Uint32(onPage)) // never split: records begin at multiples of 8
	switch {
	case total == 0:
		return &stop{start, "no record"}
	case total < recordHeaderSize:
		return &stop{start, fmt.Sprintf("a record of %d bytes", total)}
	case len(onPage) >= recordHeaderSize && !s.follows(onPage, s.lsn(start)):
		return &stop{start, fmt.Sprintf("a record that says it follows the one at %s", recordPrev(onPage))}
	case total <= int64(len(onPage)):
		body := onPage[recordHeaderSize:total]
		s.pos = align(start + int(total))
		return s.finish(s.lsn(start), onPage[:recordHeaderSize], body, crc32.Update(0, s.crcTable, body))
	}
	s.start(s.lsn(start), total)
	s.add(onPage)
	s.pos = pageEnd
	return s.rest()
}

func align(pos int) int { return (pos + recordAlign - 1) &^ (recordAlign - 1) }

func recordPrev(header []byte) pg.LSN {
	return pg.LSN(binary.LittleEndian.Uint64(header[offRecordPrev:]))
}

// follows reports whether the record's pointer back is right, as far as is known (ValidXLogRecordHeader).
func (s *scan) follows(header []byte, lsn pg.LSN) bool {
	if s.prev == 0 {
		return recordPrev(header) < lsn
	}
	return recordPrev(header) == s.prev
}

// longRecord is a record that crosses pages, while it is put together.
type longRecord struct {
	lsn    pg.LSN
	total  int64 // bytes; of a skipped one only those in this segment
	got    int64
	header [recordHeaderSize]byte
	crc    uint32 // of what follows the header
	body   []byte // what follows the header, kept only if it is of interest
	skip   bool   // its beginning is not at hand
}

// start begins to put together the record at lsn.
func (s *scan) start(lsn pg.LSN, total int64) {
	s.long = longRecord{lsn: lsn, total: total, body: s.long.body[:0]}
}

// add takes the next piece of the record.
func (s *scan) add(p []byte) {
	r := &s.long
	if r.got < recordHeaderSize && !r.skip {
		n := copy(r.header[r.got:], p)
		r.got += int64(n)
		p = p[n:]
	}
	r.got += int64(len(p))
	if r.skip || len(p) == 0 {
		return
	}
	r.crc = crc32.Update(r.crc, s.crcTable, p)
	if ofInterest(r.header[:]) {
		r.body = append(r.body, p...)
	}
}

// rest reads the pages from pos on, over which the record goes on.
func (s *scan) rest() *stop {
	r := &s.long
	for r.got < r.total {
		if s.pos == len(s.data) {
			s.info.EndOfData = s.lsn(s.pos)
			return nil
		}
		h, bad := s.pageAt(s.pos)
		if bad != nil {
			return bad
		}
		// The server crashed before it wrote this page, and went on here after its recovery.
		if h.info&flagOverwrite != 0 {
			return nil
		}
		if h.info&flagContinued == 0 || int64(h.remLen) != r.total-r.got {
			return &stop{s.pos, fmt.Sprintf("the page continues %d bytes of a record, the record has %d left", h.remLen, r.total-r.got)}
		}
		begin := s.pos + headerSize(s.pos)
		end := min(int64(s.pos+s.pageSize), int64(begin)+r.total-r.got)
		s.add(s.data[begin:end])
		s.pos = int(end)
	}
	s.pos = align(s.pos)
	if r.skip {
		s.info.EndOfData = s.lsn(s.pos)
		return nil
	}
	return s.finish(r.lsn, r.header[:], r.body, r.crc)
}

// finish checks a whole record, which ends at pos, and takes out of it what is of interest.
func (s *scan) finish(lsn pg.LSN, header, body []byte, crc uint32) *stop {
	if got, want := crc32.Update(crc, s.crcTable, header[:offRecordCRC]), binary.LittleEndian.Uint32(header[offRecordCRC:]); got != want {
		return s.bad(lsn, fmt.Sprintf("the record's checksum is %08X, stored is %08X", got, want))
	}
	if !s.follows(header, lsn) {
		return s.bad(lsn, fmt.Sprintf("a record that says it follows the one at %s", recordPrev(header)))
	}
	s.prev = lsn
	s.info.Records++
	s.info.EndOfData = s.lsn(s.pos)
	if ofInterest(header) {
		s.info.take(header, body)
	}
	return nil
}

// bad stops at a record, which may have begun in the segment before.
func (s *scan) bad(lsn pg.LSN, reason string) *stop {
	if lsn < s.base {
		return &stop{0, reason}
	}
	return &stop{int(lsn - s.base), reason}
}
