package pg

import (
	"fmt"
	"strings"
)

// SegmentSize is the size of a cluster's WAL segments in bytes.
type SegmentSize uint32

// Limits of SegmentSize (WalSegMinSize, WalSegMaxSize), and initdb's default.
const (
	MinSegmentSize     SegmentSize = 1 << 20
	MaxSegmentSize     SegmentSize = 1 << 30
	DefaultSegmentSize SegmentSize = 16 << 20
)

// Valid reports whether a server could have been initialised with the size: a power of two from 1 MiB to 1 GiB.
func (s SegmentSize) Valid() bool {
	return s >= MinSegmentSize && s <= MaxSegmentSize && s&(s-1) == 0
}

// perLog is how many segments share the middle 8 digits of a name (XLogSegmentsPerXLogId).
func (s SegmentSize) perLog() uint64 { return 1 << 32 / uint64(s) }

// Segment is a WAL segment of a cluster whose segment size is known from elsewhere.
type Segment struct {
	Timeline Timeline
	Number   uint64 // of segments since position 0
}

// SegmentOf is the segment that holds the byte at lsn.
func SegmentOf(tli Timeline, lsn LSN, size SegmentSize) Segment {
	return Segment{Timeline: tli, Number: uint64(lsn) / uint64(size)}
}

// SegmentBefore is the segment that holds the byte before lsn: the last one needed to get to lsn. A stop position on a
// boundary thus means the segment before (XLByteToPrevSeg). lsn must not be 0.
func SegmentBefore(tli Timeline, lsn LSN, size SegmentSize) Segment {
	return SegmentOf(tli, lsn-1, size)
}

// Name is the file name: 24 hexadecimal digits (XLogFileName). size must be valid.
func (s Segment) Name(size SegmentSize) string {
	n := size.perLog()
	return fmt.Sprintf("%08X%08X%08X", uint32(s.Timeline), uint32(s.Number/n), uint32(s.Number%n))
}

// Start is the position of the segment's first byte.
func (s Segment) Start(size SegmentSize) LSN { return LSN(s.Number * uint64(size)) }

// End is the position after the segment's last byte.
func (s Segment) End(size SegmentSize) LSN { return s.Start(size) + LSN(size) }

// Next is the segment after this one on the same timeline.
func (s Segment) Next() Segment { return Segment{s.Timeline, s.Number + 1} }

// ParseSegment reads a segment's file name. size must be valid.
// Errors: ErrSyntax, also when a segment of this size cannot have the name.
func ParseSegment(name string, size SegmentSize) (Segment, error) {
	if kind, err := ClassifyWALFile(name); err != nil || kind != KindSegment {
		return Segment{}, fmt.Errorf("segment name %q: %w", name, ErrSyntax)
	}
	return parsePosition(name, size)
}

// parsePosition reads the 24 digits that a checked name begins with.
func parsePosition(name string, size SegmentSize) (Segment, error) {
	tli, err := parseHex8(name[:8])
	log, err2 := parseHex8(name[8:16])
	no, err3 := parseHex8(name[16:24])
	if err != nil || err2 != nil || err3 != nil {
		return Segment{}, fmt.Errorf("segment name %q: %w", name, ErrSyntax)
	}
	n := size.perLog()
	if uint64(no) >= n {
		return Segment{}, fmt.Errorf("segment name %q with segments of %d bytes: %w", name, uint32(size), ErrSyntax)
	}
	return Segment{Timeline: Timeline(tli), Number: uint64(log)*n + uint64(no)}, nil
}

// FileKind is what a file of pg_wal is by its name.
type FileKind uint8

// The kinds of files that PostgreSQL archives. KindInvalid is none of them.
const (
	KindInvalid FileKind = iota
	KindSegment          // 24 digits: a full segment
	KindPartial          // <segment>.partial: the last segment of a timeline that was left behind
	KindBackup           // <segment>.<offset, 8 digits>.backup: a backup history file
	KindHistory          // <timeline>.history
)

func (k FileKind) String() string {
	switch k {
	case KindSegment:
		return "segment"
	case KindPartial:
		return "partial segment"
	case KindBackup:
		return "backup history file"
	case KindHistory:
		return "timeline history file"
	}
	return "invalid"
}

const (
	partialSuffix = ".partial"
	backupSuffix  = ".backup"
	historySuffix = ".history"
)

// ClassifyWALFile tells by a file's name, without directory, what archive_command or restore_command deals with.
// Errors: ErrSyntax when PostgreSQL archives no such file, timeline 0 included.
func ClassifyWALFile(name string) (FileKind, error) {
	kind := KindInvalid
	switch rest := trimHex(name); {
	case len(name)-len(rest) == 24 && rest == "":
		kind = KindSegment
	case len(name)-len(rest) == 24 && rest == partialSuffix:
		kind = KindPartial
	case len(name)-len(rest) == 24 && len(rest) == 1+8+len(backupSuffix) && rest[0] == '.' &&
		trimHex(rest[1:]) == backupSuffix:
		kind = KindBackup
	case len(name)-len(rest) == 8 && rest == historySuffix:
		kind = KindHistory
	}
	if kind == KindInvalid || strings.HasPrefix(name, "00000000") {
		return KindInvalid, fmt.Errorf("WAL file name %q: %w", name, ErrSyntax)
	}
	return kind, nil
}

// trimHex cuts the upper-case hexadecimal digits off the front.
func trimHex(s string) string { return strings.TrimLeft(s, "0123456789ABCDEF") }

// WALFileTimeline is the timeline in the name of a WAL file of any kind. Errors: ErrSyntax.
func WALFileTimeline(name string) (Timeline, error) {
	if _, err := ClassifyWALFile(name); err != nil {
		return 0, err
	}
	return ParseTimeline(name[:8])
}

// WALFileSegment is the segment that a segment, partial segment or backup history file belongs to. size must be valid.
// Errors: ErrSyntax.
func WALFileSegment(name string, size SegmentSize) (Segment, error) {
	kind, err := ClassifyWALFile(name)
	if err != nil {
		return Segment{}, err
	}
	if kind == KindHistory {
		return Segment{}, fmt.Errorf("segment of a history file %q: %w", name, ErrSyntax)
	}
	return parsePosition(name, size)
}
