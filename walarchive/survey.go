package walarchive

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/pgtrove/pgtrove/internal/pg"
)

// keyReader takes apart keys that come in order: of most only the end differs from the one before.
type keyReader struct {
	dir string // of the last one, with its slash; "": none
	at  place
}

// read is ParseKey. false: no WAL object is called so.
func (r *keyReader) read(key string) (place, Name, bool) {
	if file, ok := strings.CutPrefix(key, r.dir); ok && r.dir != "" {
		if n, err := ParseName(file); err == nil && n.Timeline == r.at.timeline && inTimeline(n) {
			return r.at, n, true
		}
	}
	cluster, system, n, err := ParseKey(key)
	if err != nil {
		return place{}, Name{}, false
	}
	p := place{lineage{cluster, system}, n.Timeline}
	if inTimeline(n) {
		r.dir, r.at = key[:len(key)-len(n.File)], p
	}
	return p, n, true
}

// inTimeline says whether a file stands in the directory of its timeline.
func inTimeline(n Name) bool { return n.Kind != History && n.Kind != Receivers }

// Survey makes coverages of all archives that one listing shows, so that nobody lists a million segments twice. It holds no more than the
// coverages do, and is not safe for concurrent use.
type Survey struct {
	objects Objects
	keys    keyReader
	all     map[lineage]*surveyed
}

type surveyed struct {
	*Coverage
	waiting []Name // files from before it was known how long segments are
}

// NewSurvey returns an empty survey, which reads headers from objects.
func NewSurvey(objects Objects) *Survey {
	return &Survey{objects: objects, all: map[lineage]*surveyed{}}
}

// Expect makes an archive part of the survey even if nothing of it is listed, and says how long its segments are.
func (s *Survey) Expect(a Archive, size pg.SegmentSize) {
	s.all[lineage{a.Cluster, a.System}] = &surveyed{Coverage: newCoverage(a, size)}
}

// headersAsked is how many files are asked at most how long segments are. Files of some kinds do not know.
const headersAsked = 8

// Add takes the next object of the listing. What is no WAL file is passed over. Where nobody said how long an archive's segments are, its first files
// are asked, as far as they can be read; errors are those of the storage.
func (s *Survey) Add(ctx context.Context, key string, bytes int64) error {
	p, n, ok := s.keys.read(key)
	if !ok {
		return nil
	}
	c := s.all[p.lineage]
	if c == nil {
		c = &surveyed{Coverage: newCoverage(s.archive(p.lineage), 0)}
		s.all[p.lineage] = c
	}
	c.Files++
	c.Bytes += bytes
	if !inTimeline(n) || c.SegmentSize != 0 {
		c.take(n)
		return nil
	}
	h, err := s.archive(p.lineage).Header(ctx, n.File)
	if err != nil && !unreadable(err) {
		return err
	}
	c.waiting = append(c.waiting, n)
	if err == nil && h.SegmentSize.Valid() {
		c.settle(h.SegmentSize)
	} else if len(c.waiting) == headersAsked {
		c.settle(pg.DefaultSegmentSize)
	}
	return nil
}

func (s *Survey) archive(l lineage) Archive {
	return Archive{Objects: s.objects, Cluster: l.cluster, System: l.system}
}

// settle says how long segments are.
func (c *surveyed) settle(size pg.SegmentSize) {
	c.SegmentSize = size
	for _, n := range c.waiting {
		c.take(n)
	}
	c.waiting = nil
}

// Coverages reads the history files and returns what the archives hold, by cluster and system.
func (s *Survey) Coverages(ctx context.Context) ([]*Coverage, error) {
	var all []*Coverage
	for l, c := range s.all {
		if c.SegmentSize == 0 {
			c.settle(pg.DefaultSegmentSize) // it means nothing: no segment is there
		}
		c.settleParts()
		if err := c.readHistories(ctx, s.archive(l)); err != nil {
			return nil, err
		}
		all = append(all, c.Coverage)
	}
	slices.SortFunc(all, func(a, b *Coverage) int {
		return cmp.Or(cmp.Compare(a.Cluster, b.Cluster), cmp.Compare(a.System, b.System))
	})
	return all, nil
}
