package walarchive

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pgtrove/pgtrove/internal/pg"
)

// Wait says how WaitComplete waits.
type Wait struct {
	Timeout time.Duration // after it the answer is an *IncompleteError; 0: look once
	Poll    time.Duration // between two looks; 0: a second
	// Missing is called after every look that did not find all, with how many segments are not there yet and the
	// first of them.
	Missing func(count uint64, first string)
}

// IncompleteError says which segments did not come.
type IncompleteError struct {
	Missing []Span
	Waited  time.Duration
	size    pg.SegmentSize
}

// Names returns the missing files, at most limit.
func (e *IncompleteError) Names(limit int) []string {
	var names []string
	for _, s := range e.Missing {
		names = append(names, s.Names(e.size, limit-len(names))...)
	}
	return names
}

// Count is the number of missing files.
func (e *IncompleteError) Count() uint64 { return count(e.Missing) }

func count(spans []Span) (n uint64) {
	for _, s := range spans {
		n += s.Segments()
	}
	return n
}

func (e *IncompleteError) Error() string {
	return fmt.Sprintf("%d WAL segments are not in the archive, the first is %s", e.Count(), e.Names(1)[0])
}

// WaitComplete returns nil once the archive holds every segment that replay from start to stop on the way to tli needs,
// *IncompleteError if it still does not when the time is over, and any other error at once. Each look reads the listing
// of the segments in question only.
func (a Archive) WaitComplete(ctx context.Context, size pg.SegmentSize, start, stop pg.LSN, tli pg.Timeline, w Wait) error {
	if w.Poll <= 0 {
		w.Poll = time.Second
	}
	begin := time.Now()
	for {
		missing, err := a.missing(ctx, size, start, stop, tli)
		if err != nil {
			return err
		}
		if len(missing) == 0 {
			return nil
		}
		e := &IncompleteError{Missing: missing, Waited: time.Since(begin), size: size}
		if w.Missing != nil {
			w.Missing(e.Count(), e.Names(1)[0])
		}
		left := w.Timeout - e.Waited
		if left <= 0 {
			return e
		}
		timer := time.NewTimer(min(w.Poll, left))
		select {
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("wait for WAL: %w", context.Cause(ctx))
		case <-timer.C:
		}
	}
}

// missing is what Coverage.Missing says, at the cost of the segments from start to stop. Parts do not count: the segment is still to come.
func (a Archive) missing(ctx context.Context, size pg.SegmentSize, start, stop pg.LSN, tli pg.Timeline) ([]Span, error) {
	c := newCoverage(a, size)
	h, err := a.history(ctx, tli)
	switch {
	case err == nil:
		c.histories[tli] = h
	case !errors.Is(err, ErrNotExist):
		return nil, err
	}
	p := c.PathTo(tli)
	first, last := p.bounds(start, stop)
	for i, s := range p.history {
		from, to := max(first, p.first[i]), last
		if from > to || p.next(i) <= from {
			continue
		}
		prefix := a.prefix() + s.Timeline.String() + "/" + commonPrefix(
			pg.Segment{Timeline: s.Timeline, Number: from}.Name(size), pg.Segment{Timeline: s.Timeline, Number: to}.Name(size))
		err := a.Objects.List(ctx, prefix, func(key string, _ int64) error {
			c.addWhole(key)
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("list WAL: %w", err)
		}
	}
	return p.Missing(start, stop), nil
}

func commonPrefix(a, b string) string {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return a[:n]
}
