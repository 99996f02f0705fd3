package main

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"time"
)

// readShare is what --read-data asks for.
type readShare struct {
	slices uint64 // how many runs read everything together; 0: nothing is read
}

const wholeShare = "100%"

// maxSlices bounds how small a share may be: a hundredth of a percent.
const maxSlices = 10_000

func parseReadShare(text string) (readShare, error) {
	share, err := parsePercent(text)
	if err != nil || share <= 0 || share < 1.0/maxSlices {
		return readShare{}, fmt.Errorf("%q: give a share of more than 0%%, up to 100%%", text)
	}
	return readShare{uint64(math.Ceil(1/share - 1e-9))}, nil
}

// objects are divided by the hashes of their keys: a slice is a part of all hashes, and so is what was read when. What comes and goes between two
// runs moves nothing from one slice to another.
func position(key string) uint64 {
	sum := sha256.Sum256([]byte(key))
	return binary.BigEndian.Uint64(sum[:])
}

// stretch is a row of positions, both ends included, and when what stands there was read.
type stretch struct {
	From uint64    `json:"from"`
	To   uint64    `json:"to"`
	Read time.Time `json:"read"`
}

func (s stretch) has(position uint64) bool { return s.From <= position && position <= s.To }

// slice is the k-th of n, from 0.
func slice(k, n uint64) stretch {
	begin := func(k uint64) uint64 {
		q, rest := bits.Div64(k, 0, n) // k < n
		if rest > 0 {
			q++
		}
		return q
	}
	s := stretch{From: begin(k), To: math.MaxUint64}
	if k+1 < n {
		s.To = begin(k+1) - 1
	}
	return s
}

// coverage is what was read when: stretches in order, none of which overlap.
type coverage []stretch

// since is the time of what was read longest ago in a stretch; zero: not all of it was read.
func (c coverage) since(s stretch) (oldest time.Time) {
	next := s.From
	for _, p := range c {
		if p.To < next {
			continue
		}
		if p.From > next {
			return time.Time{}
		}
		if oldest.IsZero() || p.Read.Before(oldest) {
			oldest = p.Read
		}
		if p.To >= s.To {
			return oldest
		}
		next = p.To + 1
	}
	return time.Time{}
}

// next is the slice of n that was read longest ago, or never.
func (c coverage) next(n uint64) (k uint64) {
	var oldest time.Time
	for i := range n {
		at := c.since(slice(i, n))
		if at.IsZero() {
			return i
		}
		if oldest.IsZero() || at.Before(oldest) {
			k, oldest = i, at
		}
	}
	return k
}

// with is the coverage after s was read.
func (c coverage) with(s stretch) coverage {
	var all coverage
	for _, p := range c {
		if p.From < s.From {
			all = append(all, stretch{p.From, min(p.To, s.From-1), p.Read})
		}
		if p.To > s.To {
			all = append(all, stretch{max(p.From, s.To+1), p.To, p.Read})
		}
	}
	all = append(all, s)
	slices.SortFunc(all, func(a, b stretch) int {
		if a.From < b.From {
			return -1
		}
		return 1
	})
	return all
}

// left is how many of n slices were not read yet.
func (c coverage) left(n uint64) (left uint64) {
	for k := range n {
		if c.since(slice(k, n)).IsZero() {
			left++
		}
	}
	return left
}
