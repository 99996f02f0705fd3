package walarchive

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/pgtrove/pgtrove/internal/pg"
)

const (
	headerVersion = 1

	maxCluster       = 200      // bytes, as an object key's part
	maxRestorePoints = 1 << 13  // in one header
	maxPointName     = 63       // MAXFNAMELEN-1, PostgreSQL's bound (src/include/access/xlog_internal.h)
	maxInline        = 64 << 10 // bytes of a history file, or a GapNote
)

// Header says what a WAL object holds, without opening its content. docs/format.md, section "WAL object", has its
// binary form.
type Header struct {
	Kind     Kind        `json:"kind"`
	Cluster  string      `json:"cluster"`
	System   pg.SystemID `json:"system_id"`
	Timeline pg.Timeline `json:"timeline"`
	Name     string      `json:"name"`             // of the file
	Inline   []byte      `json:"inline,omitempty"` // the whole content of a history file or a note of ours; nil for other kinds
	Facts
}

// inline says whether files of the kind stand in their headers, where every role can read them.
func (k Kind) inline() bool { return k == History || k == Dropped || k == Receivers }

// Facts are what the side that pushes found in a file. The zero value says that nothing is known.
type Facts struct {
	SegmentSize pg.SegmentSize `json:"segment_size"` // 0 only for history and backup files
	Major       int            `json:"major"`        // PostgreSQL's major version; 0: unknown
	// FirstCommit and LastCommit are the earliest and the latest time that a commit or an abort record in the file
	// carries: the times that recovery_target_time is compared with. Both are zero if it has none. The header holds
	// whole microseconds.
	FirstCommit time.Time `json:"first_commit"`
	LastCommit  time.Time `json:"last_commit"`
	// MinXID and MaxXID are the lowest and the highest transaction ID (lower half) whose commit or abort record
	// begins in the file, in the order that wraps around; 0 if there is none.
	MinXID        uint32         `json:"min_xid"`
	MaxXID        uint32         `json:"max_xid"`
	RestorePoints []RestorePoint `json:"restore_points,omitempty"` // in order of LSN
	// End is the position behind the last record that is whole in the file; the segment's end where a record runs into
	// the next one. What follows is padding. 0: no record was read.
	End pg.LSN `json:"end_lsn"`
	// Broken says that the chain of records ends at End though the segment goes on: replay comes no further.
	Broken bool `json:"broken,omitempty"`
	// Unsure says that some record could not be read, such as one that began in a segment that was not at hand: times,
	// transactions and restore points may be missing above.
	Unsure bool `json:"unsure,omitempty"`
	// FullPageWritesOff says that full_page_writes was off at some time: no backup of a standby holds across it.
	FullPageWritesOff bool `json:"full_page_writes_off,omitempty"`
}

// The bits of the header's flags.
const (
	flagBroken = 1 << iota
	flagUnsure
	flagFullPageWritesOff
	flagsKnown = 1<<iota - 1
)

func (f *Facts) flags() byte {
	var b byte
	for bit, set := range map[byte]bool{flagBroken: f.Broken, flagUnsure: f.Unsure, flagFullPageWritesOff: f.FullPageWritesOff} {
		if set {
			b |= bit
		}
	}
	return b
}

func (f *Facts) setFlags(b byte) {
	f.Broken, f.Unsure, f.FullPageWritesOff = b&flagBroken != 0, b&flagUnsure != 0, b&flagFullPageWritesOff != 0
}

// RestorePoint is what pg_create_restore_point left.
type RestorePoint struct {
	Name string    `json:"name"`
	LSN  pg.LSN    `json:"lsn"` // where its record ends, as pg_create_restore_point returned it
	Time time.Time `json:"time"`
}

// Validate checks what readers rely on; the error wraps ErrInvalid.
func (h *Header) Validate() error {
	n, err := ParseName(h.Name)
	switch {
	case err != nil:
		return err
	case n.Kind != h.Kind || n.Timeline != h.Timeline:
		return invalid(h, "name of a %s on timeline %s", n.Kind, n.Timeline)
	case h.Cluster == "" || len(h.Cluster) > maxCluster:
		return invalid(h, "cluster name of %d bytes", len(h.Cluster))
	case h.SegmentSize != 0 && !h.SegmentSize.Valid():
		return invalid(h, "segment size %d", h.SegmentSize)
	case h.Major < 0 || h.Major > 1000:
		return invalid(h, "PostgreSQL major version %d", h.Major)
	case h.Kind.inline() != (len(h.Inline) > 0):
		return invalid(h, "text of %d bytes", len(h.Inline))
	case len(h.Inline) > maxInline:
		return invalid(h, "text of %d bytes, at most %d", len(h.Inline), maxInline)
	}
	switch h.Kind {
	case Dropped:
		if _, err := gapSpan(h.Name, h.SegmentSize); err != nil {
			return err
		}
		return h.validateNoRecords()
	case History, Backup, Receivers:
		return h.validateNoRecords()
	}
	return h.validateRecords(n)
}

func (h *Header) validateNoRecords() error {
	f := h.Facts
	if !f.FirstCommit.IsZero() || !f.LastCommit.IsZero() || f.MinXID != 0 || f.MaxXID != 0 || f.End != 0 || len(f.RestorePoints) > 0 || f.flags() != 0 {
		return invalid(h, "a %s file has no records", h.Kind)
	}
	return nil
}

func (h *Header) validateRecords(n Name) error {
	if h.SegmentSize == 0 {
		return invalid(h, "no segment size")
	}
	seg, err := n.number(h.SegmentSize)
	if err != nil {
		return invalid(h, "%v", err)
	}
	low, high := seg.Start(h.SegmentSize), seg.End(h.SegmentSize)
	if n.Kind == PartKind {
		p, err := parsePartName(h.Name)
		if err != nil || p.To > int64(h.SegmentSize) {
			return invalid(h, "a segment has %d bytes", h.SegmentSize)
		}
		high = low + pg.LSN(p.To)
	}
	switch {
	case h.FirstCommit.IsZero() != h.LastCommit.IsZero() || h.LastCommit.Before(h.FirstCommit):
		return invalid(h, "commit times %s to %s", h.FirstCommit, h.LastCommit)
	case (h.MinXID == 0) != (h.MaxXID == 0):
		return invalid(h, "transaction IDs %d to %d", h.MinXID, h.MaxXID)
	case h.End != 0 && (h.End < low || h.End > high):
		return invalid(h, "records end at %s, outside of what is there", h.End)
	case len(h.RestorePoints) > maxRestorePoints:
		return invalid(h, "%d restore points, at most %d", len(h.RestorePoints), maxRestorePoints)
	}
	for _, p := range h.RestorePoints {
		if p.Name == "" || len(p.Name) > maxPointName {
			return invalid(h, "restore point with a name of %d bytes", len(p.Name))
		}
	}
	return nil
}

func invalid(h *Header, format string, args ...any) error {
	return fmt.Errorf("%w: header of %q: %s", ErrInvalid, h.Name, fmt.Sprintf(format, args...))
}

// Marshal returns the binary form of a valid header.
func (h *Header) Marshal() ([]byte, error) {
	if err := h.Validate(); err != nil {
		return nil, err
	}
	b := []byte{headerVersion, byte(h.Kind)}
	b = binary.BigEndian.AppendUint64(b, uint64(h.System))
	b = binary.BigEndian.AppendUint32(b, uint32(h.Timeline))
	b = appendBytes(b, h.Cluster)
	b = appendBytes(b, h.Name)
	b = appendBytes(b, h.Inline)
	b = binary.AppendUvarint(b, uint64(h.SegmentSize))
	b = binary.AppendUvarint(b, uint64(h.Major))
	b = appendTime(b, h.FirstCommit)
	b = appendTime(b, h.LastCommit)
	b = binary.AppendUvarint(b, uint64(h.MinXID))
	b = binary.AppendUvarint(b, uint64(h.MaxXID))
	b = binary.AppendUvarint(b, uint64(h.End))
	b = append(b, h.flags())
	b = binary.AppendUvarint(b, uint64(len(h.RestorePoints)))
	for _, p := range h.RestorePoints {
		b = appendBytes(b, p.Name)
		b = binary.AppendUvarint(b, uint64(p.LSN))
		b = appendTime(b, p.Time)
	}
	return b, nil
}

func appendBytes[T []byte | string](b []byte, s T) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

// A time is a byte that says whether it is known, and if so microseconds since 1970-01-01 00:00 UTC.
func appendTime(b []byte, t time.Time) []byte {
	if t.IsZero() {
		return append(b, 0)
	}
	return binary.AppendVarint(append(b, 1), t.UnixMicro())
}

// ParseHeader reads what Marshal wrote, all of b, and validates it. The result shares no memory with b. Errors wrap
// ErrInvalid.
func ParseHeader(b []byte) (*Header, error) {
	if len(b) == 0 || b[0] != headerVersion {
		return nil, fmt.Errorf("%w: header is not of version %d", ErrInvalid, headerVersion)
	}
	d := decoder{b: b[1:]}
	h := &Header{
		Kind:     Kind(d.byte()),
		System:   pg.SystemID(binary.BigEndian.Uint64(d.take(8))),
		Timeline: pg.Timeline(binary.BigEndian.Uint32(d.take(4))),
		Cluster:  string(d.bytes(maxCluster)),
		Name:     string(d.bytes(maxCluster)),
		Inline:   bytes.Clone(d.bytes(maxInline)),
		Facts: Facts{
			SegmentSize: pg.SegmentSize(d.uvarint(1 << 30)),
			Major:       int(d.uvarint(1000)),
			FirstCommit: d.time(),
			LastCommit:  d.time(),
			MinXID:      uint32(d.uvarint(1<<32 - 1)),
			MaxXID:      uint32(d.uvarint(1<<32 - 1)),
			End:         pg.LSN(d.uvarint(1<<64 - 1)),
		},
	}
	flags := d.byte()
	h.setFlags(flags)
	for n := d.uvarint(maxRestorePoints); n > 0 && !d.bad; n-- {
		p := RestorePoint{Name: string(d.bytes(maxPointName)), LSN: pg.LSN(d.uvarint(1<<64 - 1)), Time: d.time()}
		h.RestorePoints = append(h.RestorePoints, p)
	}
	if d.bad || len(d.b) > 0 || flags&^flagsKnown != 0 {
		return nil, fmt.Errorf("%w: header cut short, too long, or out of range", ErrInvalid)
	}
	if len(h.Inline) == 0 {
		h.Inline = nil
	}
	return h, h.Validate()
}

// decoder reads a header. The first failure sticks, and every later read gives zeros.
type decoder struct {
	b   []byte
	bad bool
}

// take returns the next n bytes, or n zeros behind a failure; n is small or checked against a bound by the caller.
func (d *decoder) take(n int) []byte {
	if n > len(d.b) {
		d.bad, d.b = true, nil
		return make([]byte, n)
	}
	v := d.b[:n]
	d.b = d.b[n:]
	return v
}

func (d *decoder) byte() byte { return d.take(1)[0] }

// uvarint reads a number in its one shortest form.
func (d *decoder) uvarint(limit uint64) uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 || n > 1 && d.b[n-1] == 0 || v > limit {
		d.bad, d.b = true, nil
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) bytes(limit uint64) []byte {
	n := d.uvarint(limit)
	if n > uint64(len(d.b)) {
		d.bad, d.b = true, nil
		return nil
	}
	return d.take(int(n))
}

func (d *decoder) time() time.Time {
	switch d.byte() {
	case 0:
		return time.Time{}
	case 1:
		v, n := binary.Varint(d.b)
		t := time.UnixMicro(v).UTC()
		if n > 0 && (n == 1 || d.b[n-1] != 0) && !t.IsZero() {
			d.b = d.b[n:]
			return t
		}
	}
	d.bad, d.b = true, nil
	return time.Time{}
}
