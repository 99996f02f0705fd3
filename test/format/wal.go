package format

import (
	"encoding/json"
	"fmt"
	"math"
	"math/bits"
	"path"
	"strconv"
	"strings"
)

// WALHeader is section 10.2.
type WALHeader struct {
	Kind             byte
	System           uint64
	Timeline         uint32
	Cluster, File    string
	Inline           []byte
	SegmentSize      uint64
	Major            uint64
	Earliest, Latest Time
	Lowest, Highest  uint64 // transaction IDs
	End              uint64 // LSN
	Flags            byte
	Points           []RestorePoint
}

// Time is microseconds since 1970, if it is known.
type Time struct {
	Known        bool
	Microseconds int64
}

// RestorePoint is a restore point in a WAL file.
type RestorePoint struct {
	Name string
	LSN  uint64
	Time Time
}

// The kinds of WAL files.
const (
	walSegment = 1
	walPartial = 2
	walBackup  = 3
	walHistory = 4
	walGap     = 5
	walPart    = 6
	walReceive = 7
)

// hasInline says whether the header of a kind has the whole content.
func hasInline(kind byte) bool { return kind == walHistory || kind == walGap || kind == walReceive }

func (c *cursor) time() (t Time) {
	switch known := c.u8(); known {
	case 0:
	case 1:
		t = Time{true, c.svarint()}
	default:
		c.fail("time of kind %d", known)
	}
	return t
}

func parseWALHeader(plain []byte) (*WALHeader, error) {
	c := cursor{b: plain}
	c.version("WAL header")
	h := &WALHeader{
		Kind: c.u8(), System: c.u64(), Timeline: c.u32(),
		Cluster: c.text("cluster", 1, 200), File: c.text("file", 1, 200), Inline: c.bytes("content", 0, 65536),
		SegmentSize: c.uvarint(), Major: c.limited("major version", 0, 1000),
		Earliest: c.time(), Latest: c.time(),
		Lowest: c.limited("transaction ID", 0, math.MaxUint32), Highest: c.limited("transaction ID", 0, math.MaxUint32),
		End: c.uvarint(), Flags: c.u8(),
	}
	if len(h.Inline) == 0 {
		h.Inline = nil
	}
	for range c.count("restore points", 0, 8192, 4) {
		h.Points = append(h.Points, RestorePoint{c.text("restore point", 1, 63), c.uvarint(), c.time()})
	}
	if c.err == nil {
		h.check(&c)
	}
	return h, c.end("WAL header")
}

func (h *WALHeader) check(c *cursor) {
	kind, timeline := fileKind(h.File)
	isSegment := kind == walSegment || kind == walPartial || kind == walPart
	switch size := h.SegmentSize; {
	case kind == 0 || kind != h.Kind:
		c.fail("kind %d of the file %q", h.Kind, h.File)
	case timeline != h.Timeline:
		c.fail("timeline %d of the file %q", h.Timeline, h.File)
	case hasInline(h.Kind) != (len(h.Inline) > 0):
		c.fail("%d bytes of content in a header of kind %d", len(h.Inline), h.Kind)
	case (size != 0 || isSegment || kind == walGap) && (size < 1<<20 || size > 1<<30 || bits.OnesCount64(size) != 1):
		c.fail("segments of %d bytes", size)
	case h.Earliest.Known != h.Latest.Known || h.Earliest.Microseconds > h.Latest.Microseconds:
		c.fail("times from %v to %v", h.Earliest, h.Latest)
	case (h.Lowest == 0) != (h.Highest == 0) || int32(uint32(h.Highest)-uint32(h.Lowest)) < 0:
		c.fail("transactions %d to %d", h.Lowest, h.Highest)
	case h.Flags > 7:
		c.fail("flags %#x", h.Flags)
	case !isSegment && (h.Earliest.Known || h.Highest != 0 || h.End != 0 || h.Flags != 0 || len(h.Points) > 0):
		c.fail("a header of kind %d with records", h.Kind)
	case isSegment && h.End != 0:
		log, _ := strconv.ParseUint(h.File[8:16], 16, 32)
		seg, _ := strconv.ParseUint(h.File[16:24], 16, 32)
		start, there := log<<32+seg*size, size
		if p, ok := parsePart(h.File); ok {
			there = p.to
		}
		if h.End < start || h.End-start > there {
			c.fail("records end at %X of %s", h.End, h.File)
		}
	}
	if p, ok := parsePart(h.File); ok && p.to > h.SegmentSize {
		c.fail("%s in segments of %d bytes", h.File, h.SegmentSize)
	}
}

// fileKind is what the name of a WAL file says; 0 for what is none.
func fileKind(file string) (kind byte, timeline uint32) {
	if file == "receive" {
		return walReceive, 0
	}
	first, rest, _ := strings.Cut(file, ".")
	_, isPart := parsePart(file)
	isUpper := func(s string, n int) bool {
		return len(s) == n && strings.Trim(s, "0123456789ABCDEF") == ""
	}
	switch {
	case isUpper(first, 24) && first == file:
		kind = walSegment
	case isPart:
		kind = walPart
	case isUpper(first, 24) && rest == "partial":
		kind = walPartial
	case isUpper(first, 24) && strings.HasSuffix(rest, ".backup") && isUpper(strings.TrimSuffix(rest, ".backup"), 8):
		kind = walBackup
	case len(first) == 49 && first[24] == '-' && isUpper(first[:24], 24) && isUpper(first[25:], 24) && rest == "gap":
		if first[:8] != first[25:33] || first[:24] > first[25:] {
			return 0, 0
		}
		kind = walGap
	case isUpper(first, 8) && rest == "history":
		kind = walHistory
	default:
		return 0, 0
	}
	tli, _ := strconv.ParseUint(first[:8], 16, 32)
	return kind, uint32(tli)
}

// Gap is section 10.4.
type Gap struct {
	Version     int
	First, Last string
	Reason      string
	Limit       int64
	Waiting     int64
	From, To    string
	Host, Error string
	Files       []string
}

// Gap reads the note that the header holds.
func (h *WALHeader) Gap() (*Gap, error) {
	g := &Gap{}
	if err := json.Unmarshal(h.Inline, g); err != nil {
		return nil, damaged("the note of a gap: %v", err)
	}
	if h.Kind != walGap || g.Version < 1 || g.First+"-"+g.Last+".gap" != h.File {
		return nil, damaged("version %d, of %s to %s, in %s", g.Version, g.First, g.Last, h.File)
	}
	return g, nil
}

// walName is section 10.1.
func walName(cluster string, system uint64, file string) string {
	kind, _ := fileKind(file)
	dir := path.Join("wal", cluster, strconv.FormatUint(system, 10))
	if kind == walHistory || kind == walReceive {
		return path.Join(dir, file)
	}
	return path.Join(dir, file[:8], file)
}

// WAL reads an archived file.
func (r *Repository) WAL(name string) (*WALHeader, []byte, error) {
	object, err := r.Object(name)
	if err != nil {
		return nil, nil, err
	}
	p, err := r.Bundle.OpenPack(name, object)
	if err != nil {
		return nil, nil, err
	}
	h, content, err := p.wal()
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", name, err)
	}
	return h, content, nil
}

// wal is section 7.6.
func (p *Pack) wal() (*WALHeader, []byte, error) {
	if p.Kind != kindArchive || len(p.sessions) != 1 || p.sessions[0].sid != "archive" {
		return nil, nil, damaged("no archive of one session")
	}
	c := cursor{b: p.Header}
	version := c.u8()
	if c.err == nil && version != 1 && version != 2 {
		return nil, nil, fmt.Errorf("%w: archive header of version %d", ErrVersion, version)
	}
	digest, length := c.id(), c.uvarint()
	if c.err != nil {
		return nil, nil, c.err
	}
	h, err := parseWALHeader(c.b)
	if err != nil {
		return nil, nil, err
	}
	if walName(h.Cluster, h.System, h.File) != p.Key {
		return nil, nil, damaged("it is %s of %s, system %d", h.File, h.Cluster, h.System)
	}
	var content, ids []byte
	for i, e := range p.Chunks {
		if e.Form != 0 || e.Plain > 4<<20 || e.Plain < 4<<20 && i < len(p.Chunks)-1 {
			return nil, nil, damaged("chunk %d: form %d, %d bytes", i, e.Form, e.Plain)
		}
		ids = append(ids, e.ID[:]...)
		plain, err := p.Chunk(i)
		if err != nil {
			return nil, nil, err
		}
		content = append(content, plain...)
	}
	digested := ids
	if version == 1 {
		digested = content
	}
	switch {
	case uint64(len(content)) != length || p.bundle.keyed("byte stream ID", digested) != digest:
		return nil, nil, damaged("%d bytes, not the %d of the header", len(content), length)
	case (h.Kind == walSegment || h.Kind == walPartial) && length != h.SegmentSize:
		return nil, nil, damaged("%d bytes in segments of %d", length, h.SegmentSize)
	case hasInline(h.Kind) && string(content) != string(h.Inline):
		return nil, nil, damaged("the header has another content")
	}
	if p, ok := parsePart(h.File); ok && length != p.to-p.from {
		return nil, nil, damaged("%d bytes in %s", length, h.File)
	}
	return h, content, nil
}
