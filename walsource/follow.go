package walsource

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// Follower reads the records of a segment while it is received. It is for one goroutine.
type Follower struct {
	name   string
	data   []byte // of the whole segment; zero behind what was received
	expect Expect
	before []byte // the segment before, nil if it is not at hand
	scan   *scan  // nil until the first page's header was received
	wait   int    // nothing more can be read before so much was received
	head   bool   // the record with which the segment before ends was dealt with
}

// Follow makes ready to read the segment or partial segment name. data is the memory that it is received into: as long as the segment, zero where nothing
// was received yet. before is the segment before, for a record that runs over from it; nil where it is not at hand. Neither is written to.
func Follow(name string, data []byte, expect Expect, before []byte) *Follower {
	return &Follower{name: name, data: data, expect: expect, before: before}
}

// Extend reads on in what was received, up to the offset to, and says what is known of the segment up to there: nil before its first page's header.
// to never goes back. What Info points to is valid until the next call.
//
// Errors: those of Validate about a first page that is not what the name says. A chain of records that ends before to is none, for the rest of a record may
// be still to come; at the segment's end it is a RecordError, as of Validate.
func (f *Follower) Extend(to int) (*Info, error) {
	if f.scan == nil {
		if to < longHeaderSize {
			return nil, nil
		}
		if err := f.begin(); err != nil {
			return nil, err
		}
	}
	for to >= f.wait && !f.done() {
		if f.wait = f.need(to); to < f.wait {
			break
		}
		if bad := f.step(); bad != nil && to == len(f.data) {
			return f.scan.info, f.broken(bad)
		} else if bad != nil {
			f.wait = to + 1
		}
	}
	// Records are padded to multiples of 8 bytes, and the padding may be still to come.
	f.scan.info.EndOfData = min(f.scan.info.EndOfData, f.scan.lsn(to))
	return f.scan.info, nil
}

func (f *Follower) broken(bad *stop) *RecordError {
	e := &RecordError{Name: f.name, LSN: f.scan.lsn(bad.pos), Reason: bad.reason, Err: ErrUnfinished}
	if f.scan.writtenBehind(bad.pos) {
		e.Err = ErrBroken
	}
	return e
}

func (f *Follower) done() bool { return f.scan.pos >= len(f.data) || f.scan.info.Switched }

// begin judges the first page.
func (f *Follower) begin() error {
	info := &Info{}
	var err error
	if info.Header, err = checkHeader(f.data, f.expect); err == nil {
		err = checkName(info, f.name, readPageHeader(f.data).addr)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", f.name, err)
	}
	f.scan = newScan(f.data, info)
	info.EndOfData = f.scan.base
	if f.scan.continued() && len(f.before) == len(f.data) {
		f.scan.tail = readTail(bytes.NewReader(f.before), info)
	}
	f.before = nil
	return nil
}

// step reads one record. Where that fails all stays as it was.
func (f *Follower) step() *stop {
	s := f.scan
	pos, timeline, end, unread := s.pos, s.timeline, s.info.EndOfData, s.info.HeadUnread
	read := s.record
	if !f.head {
		read = s.head
	}
	bad := read()
	if bad != nil {
		s.pos, s.timeline, s.info.EndOfData, s.info.HeadUnread = pos, timeline, end, unread
		return bad
	}
	f.head = true
	return nil
}

// need is up to where the segment must have been received before the next record can be read.
func (f *Follower) need(to int) int {
	s := f.scan
	if !f.head {
		if !s.continued() {
			return longHeaderSize
		}
		return f.end(longHeaderSize, int64(readPageHeader(f.data).remLen))
	}
	at := s.pos
	if at%s.pageSize == 0 {
		at += headerSize(at)
	}
	if at+4 > to {
		return at + 4
	}
	return f.end(at, int64(binary.LittleEndian.Uint32(f.data[at:])))
}

// end is where a record of so many bytes, without page headers, ends that begins at the offset at: at the segment's end, if it goes on in the next one.
func (f *Follower) end(at int, total int64) int {
	for at < len(f.data) {
		room := f.scan.pageSize - at%f.scan.pageSize
		if total <= int64(room) {
			return at + int(total)
		}
		total -= int64(room)
		at += room + shortHeaderSize
	}
	return len(f.data)
}
