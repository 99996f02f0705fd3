package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"time"

	"github.com/pgtrove/pgtrove/snapshot"
)

const (
	segmentBytes = 1 << 30
	pageForm     = 13 // 1<<13 is pageSize
)

// simulate makes the files of a cluster whose pages come into being while they
// are read. A page depends on its place and on how often it has changed.
func simulate(phase string, segments int64) []snapshot.Source {
	state := 0 // how many times 0.1 % of the pages have changed
	switch phase {
	case "changed":
		state = 1
	case "listed":
		state = 2
	}
	template := pageTemplate()
	sources := []snapshot.Source{
		{Entry: snapshot.Entry{Path: "data", Type: snapshot.Dir, Mode: 0o700}},
		{Entry: snapshot.Entry{Path: "data/base", Type: snapshot.Dir, Mode: 0o700}},
	}
	written := time.Date(2025, 1, 1, state, 0, 0, 0, time.UTC).UnixNano()
	for n := range segments {
		c := &simulated{number: uint64(n), state: state, template: template}
		s := snapshot.Source{
			Entry: snapshot.Entry{
				Path: fmt.Sprintf("data/base/16384.%d", n+1), Type: snapshot.File, Mode: 0o600, Size: segmentBytes,
				Stat: snapshot.Stat{ModTime: written, ChangeTime: written, Device: 1, Inode: uint64(n)},
			},
			Form: pageForm,
			Open: func() (snapshot.Content, error) { return c, nil },
		}
		if phase == "listed" {
			s.Changed = c
		}
		sources = append(sources, s)
	}
	return sources
}

// simulated is one segment.
type simulated struct {
	number   uint64
	state    int
	template []byte
}

func (*simulated) Close() error         { return nil }
func (*simulated) Size() (int64, error) { return segmentBytes, nil }

// Has says whether the page was among those of the last change.
func (s *simulated) Has(page int64) bool {
	return s.state > 0 && mix(s.number<<32|uint64(page))%1000 == uint64(s.state)
}

// ReadAt makes whole pages.
func (s *simulated) ReadAt(p []byte, off int64) (int, error) {
	if off%pageSize != 0 || len(p)%pageSize != 0 {
		return 0, fmt.Errorf("read of %d bytes at %d: the simulation makes whole pages", len(p), off)
	}
	n := min(int64(len(p)), segmentBytes-off)
	for at := int64(0); at < n; at += pageSize {
		s.page(p[at:at+pageSize], (off+at)/pageSize)
	}
	if n < int64(len(p)) {
		return int(n), io.EOF
	}
	return int(n), nil
}

func (s *simulated) page(p []byte, number int64) {
	place := s.number<<32 | uint64(number)
	change := uint64(0)
	if at := mix(place) % 1000; at >= 1 && at <= uint64(s.state) {
		change = 1
	}
	v := mix(place<<8 | change)
	copy(p, s.template)
	binary.LittleEndian.PutUint64(p, v&0xffffffffff) // pd_lsn
	binary.LittleEndian.PutUint32(p[4000:], uint32(v>>40))
}

// pageTemplate is a page of a table: a header as PostgreSQL has it, pointers,
// and rows that are all alike.
func pageTemplate() []byte {
	p := make([]byte, pageSize)
	binary.LittleEndian.PutUint16(p[12:], 24+4*60)    // pd_lower
	binary.LittleEndian.PutUint16(p[14:], 512)        // pd_upper
	binary.LittleEndian.PutUint16(p[16:], pageSize)   // pd_special
	binary.LittleEndian.PutUint16(p[18:], pageSize|4) // size and layout version
	for i := range 60 {
		binary.LittleEndian.PutUint32(p[24+4*i:], uint32(pageSize-128*(i+1)))
	}
	const text = "a row of a table that was made for a measurement; "
	for at := 512; at < pageSize; {
		at += copy(p[at:], text)
	}
	return p
}

// mix scatters numbers (SplitMix64).
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
