package main

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/pgtrove/pgtrove/walarchive"
)

// seenHeaders reads each header once, and notes what is damaged.
type seenHeaders struct {
	walarchive.Headers
	seen   map[string]*walarchive.Header
	broken map[string]error
}

func newSeenHeaders(h walarchive.Headers) *seenHeaders {
	return &seenHeaders{Headers: h, seen: map[string]*walarchive.Header{}, broken: map[string]error{}}
}

// Header implements walarchive.Headers.
func (s *seenHeaders) Header(ctx context.Context, file string) (*walarchive.Header, error) {
	if h := s.seen[file]; h != nil {
		return h, nil
	}
	h, err := s.Headers.Header(ctx, file)
	if err == nil {
		s.seen[file] = h
	} else if errors.Is(err, walarchive.ErrDamaged) || errors.Is(err, walarchive.ErrInvalid) {
		s.broken[file] = err
	}
	return h, err
}

// tellDoubts warns of what of an archive could not be read.
func (a *app) tellDoubts(c *walarchive.Coverage, headers *seenHeaders) {
	for _, tli := range c.Timelines() {
		if err := c.Doubt(tli); err != nil {
			a.out.warn("what can be recovered on timeline %d of cluster %s is not known: %v", uint32(tli), c.Cluster, err)
		}
	}
	for _, file := range slices.Sorted(maps.Keys(headers.broken)) {
		a.out.warn("recovery of cluster %s comes no further than to WAL segment %s: %v", c.Cluster, file, headers.broken[file])
	}
}
