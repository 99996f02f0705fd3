package walsource

import (
	"encoding/binary"
	"fmt"

	"github.com/pgtrove/pgtrove/internal/pg"
)

// Sizes and flags of page headers, xlog_internal.h.
const (
	shortHeaderSize = 24
	longHeaderSize  = 40

	flagContinued  = 0x0001 // XLP_FIRST_IS_CONTRECORD
	flagLongHeader = 0x0002 // XLP_LONG_HEADER
	flagOverwrite  = 0x0008 // XLP_FIRST_IS_OVERWRITE_CONTRECORD
	allFlags       = 0x000F // XLP_ALL_FLAGS
)

// pageHeader is XLogPageHeaderData.
type pageHeader struct {
	magic    uint16
	info     uint16
	timeline pg.Timeline
	addr     pg.LSN
	remLen   uint32 // bytes of a record that began on an earlier page, this page's included
}

func readPageHeader(b []byte) pageHeader {
	return pageHeader{
		magic:    binary.LittleEndian.Uint16(b),
		info:     binary.LittleEndian.Uint16(b[2:]),
		timeline: pg.Timeline(binary.LittleEndian.Uint32(b[4:])),
		addr:     pg.LSN(binary.LittleEndian.Uint64(b[8:])),
		remLen:   binary.LittleEndian.Uint32(b[16:]),
	}
}

// Validate checks that data is the content of the segment or partial segment name, and reads its records. data is only read, and not kept.
//
// Errors: pg.ErrSyntax for a name that is none of a segment; those of this package. With a RecordError Info is valid up to there;
// with any other error it is nil.
func Validate(name string, data []byte, expect Expect) (*Info, error) {
	return validate(name, data, expect, nil)
}

// validate asks previous, if it is not nil, for the tail of the segment before the one whose header it found valid, when a record began
// there.
func validate(name string, data []byte, expect Expect, previous func(*Info) tail) (*Info, error) {
	kind, err := pg.ClassifyWALFile(name)
	if err != nil {
		return nil, err
	}
	if kind != pg.KindSegment && kind != pg.KindPartial {
		return nil, fmt.Errorf("%s is a %s, not a segment: %w", name, kind, pg.ErrSyntax)
	}
	info := &Info{Partial: kind == pg.KindPartial}
	if info.Header, err = checkHeader(data, expect); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if err := checkName(info, name, readPageHeader(data).addr); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	s := newScan(data, info)
	if s.continued() && previous != nil {
		s.tail = previous(info)
	}
	if stop := s.run(); stop != nil && !info.Partial {
		stop.Name = name
		return info, stop
	}
	return info, nil
}

// checkHeader judges a segment's first page and the size of the whole.
func checkHeader(data []byte, expect Expect) (Header, error) {
	if len(data) == 0 {
		return Header{}, fmt.Errorf("%w: 0 bytes", ErrEmpty)
	}
	if pg.PageIsZero(data) {
		return Header{}, fmt.Errorf("%w: %d bytes, all zero", ErrEmpty, len(data))
	}
	if len(data) < longHeaderSize {
		return Header{}, fmt.Errorf("%w: %d bytes", ErrTruncated, len(data))
	}
	page := readPageHeader(data)
	h := Header{
		SystemID:      pg.SystemID(binary.LittleEndian.Uint64(data[24:])),
		SegmentSize:   pg.SegmentSize(binary.LittleEndian.Uint32(data[32:])),
		BlockSize:     binary.LittleEndian.Uint32(data[36:]),
		Magic:         page.magic,
		Major:         pg.MajorFromWALMagic(page.magic),
		FirstTimeline: page.timeline,
	}
	switch known := h.Major != 0; {
	case !known && page.magic>>8 != 0xD0 && page.magic>>8 != 0xD1: // 8.0 to today
		return Header{}, fmt.Errorf("%w: it begins with %04X, WAL of PostgreSQL 13 to 18 with D106 to D118", ErrNotWAL, page.magic)
	case !known:
		return Header{}, fmt.Errorf("%w: page magic %04X, known are those of PostgreSQL %d to %d", ErrVersion, page.magic, pg.OldestMajor, pg.NewestMajor)
	case page.info&flagLongHeader == 0 || page.info&^allFlags != 0:
		return Header{}, fmt.Errorf("%w: flags %04X on its first page", ErrNotWAL, page.info)
	case expect.SystemID != 0 && h.SystemID != expect.SystemID:
		return Header{}, fmt.Errorf("%w: system identifier %s, this cluster has %s", ErrForeign, h.SystemID, expect.SystemID)
	case !h.SegmentSize.Valid():
		return Header{}, fmt.Errorf("%w: segment size %d", ErrNotWAL, uint32(h.SegmentSize))
	case expect.SegmentSize != 0 && h.SegmentSize != expect.SegmentSize:
		return Header{}, fmt.Errorf("%w: segment size %d, this cluster has %d", ErrForeign, uint32(h.SegmentSize), uint32(expect.SegmentSize))
	case h.BlockSize < 1<<10 || h.BlockSize > 64<<10 || h.BlockSize&(h.BlockSize-1) != 0:
		return Header{}, fmt.Errorf("%w: WAL block size %d", ErrNotWAL, h.BlockSize)
	case expect.BlockSize != 0 && h.BlockSize != expect.BlockSize:
		return Header{}, fmt.Errorf("%w: WAL block size %d, this cluster has %d", ErrForeign, h.BlockSize, expect.BlockSize)
	case uint64(len(data)) < uint64(h.SegmentSize):
		return Header{}, fmt.Errorf("%w: %d of %d bytes", ErrTruncated, len(data), uint32(h.SegmentSize))
	case uint64(len(data)) > uint64(h.SegmentSize):
		return Header{}, fmt.Errorf("%w: %d bytes, its first page says %d", ErrNotWAL, len(data), uint32(h.SegmentSize))
	}
	return h, nil
}

// checkName compares the first page with what the name says, and completes info.
func checkName(info *Info, name string, addr pg.LSN) error {
	var err error
	if info.Segment, err = pg.WALFileSegment(name, info.SegmentSize); err != nil {
		return fmt.Errorf("%w: %w", ErrMisnamed, err)
	}
	if want := info.Segment.Start(info.SegmentSize); addr != want {
		return fmt.Errorf("%w: it begins at %s, the name says %s", ErrMisnamed, addr, want)
	}
	// Below it where the timeline forked off in this segment: the pages before the fork are the ancestor's.
	if info.FirstTimeline > info.Segment.Timeline || info.FirstTimeline == 0 {
		return fmt.Errorf("%w: it begins on timeline %d, the name says %d", ErrMisnamed, info.FirstTimeline, info.Segment.Timeline)
	}
	return nil
}
