package format

import (
	"bytes"
	"regexp"
	"strconv"
	"strings"
)

// part is section 10.5: the name of a piece of a segment.
type part struct {
	segment  string
	from, to uint64
	receiver string
	name     string // of the file
}

var errNoParts = damaged("no parts from the segment's first byte on")

// parsePart is section 10.1.
func parsePart(file string) (p part, ok bool) {
	m := regexp.MustCompile(`^([0-9A-F]{24})\.part/([0-9a-f]{8})-([0-9a-f]{8})-([0-9]{8}T[0-9]{6}Z-[0-9a-f]{16})$`).FindStringSubmatch(file)
	if m == nil {
		return p, false
	}
	p.segment, p.receiver, p.name = m[1], m[4], file
	p.from, _ = strconv.ParseUint(m[2], 16, 32)
	p.to, _ = strconv.ParseUint(m[3], 16, 32)
	return p, p.from < p.to && p.to <= 1<<30
}

// Received puts a segment together from its parts, as section 10.5 says, and says up to where they are. dir is the name of the segment's object.
func (r *Repository) Received(dir string) (content []byte, reach uint64, err error) {
	base := dir[:strings.LastIndexByte(dir, '/')+1]
	rows := map[string][]byte{} // by receiver: what it has from the first byte on
	byReceiver := map[string][]part{}
	for _, name := range r.Names(dir + ".part/") {
		if p, ok := parsePart(strings.TrimPrefix(name, base)); ok {
			byReceiver[p.receiver] = append(byReceiver[p.receiver], p)
		}
	}
	var size uint64
	for receiver, parts := range byReceiver {
		for grown := true; grown; {
			grown = false
			for _, p := range parts {
				row := rows[receiver]
				if there := uint64(len(row)); p.from > there || p.to <= there {
					continue
				}
				h, b, err := r.WAL(base + p.name)
				if err != nil {
					return nil, 0, err
				}
				size, grown = h.SegmentSize, true
				rows[receiver] = append(row, b[uint64(len(row))-p.from:]...)
			}
		}
	}
	for _, row := range rows {
		if n := min(len(row), len(content)); !bytes.Equal(row[:n], content[:n]) {
			return nil, 0, damaged("two receivers have different bytes of %s", dir)
		}
		if len(row) > len(content) {
			content = row
		}
	}
	if len(content) == 0 {
		return nil, 0, errNoParts
	}
	reach = uint64(len(content))
	return append(content, make([]byte, size-reach)...), reach, nil
}
