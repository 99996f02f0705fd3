package main

import (
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/internal/pg"
)

// TestOnASlowLinkNoMoreIsPushedAheadThanCanBeDone: what is given up was sent for nothing, and is sent again by the next call.
func TestOnASlowLinkNoMoreIsPushedAheadThanCanBeDone(t *testing.T) {
	const mib = 1 << 20
	for _, c := range []struct {
		jobs int
		size int64
		took time.Duration
		want int
	}{
		{4, 16 * mib, 0, 5},
		{4, 16 * mib, time.Second, 5},
		{4, 16 * mib, 10 * time.Second, 3},
		{4, 16 * mib, 29 * time.Second, 1},
		{4, 16 * mib, 33 * time.Second, 0},
		{4, 16 * mib, time.Hour, 0},
		{4, 64 * mib, time.Second, 4}, // as many as memory has room for
		{4, 256 * mib, time.Second, 0},
	} {
		got := aheadWidth(c.jobs, pg.SegmentSize(c.size), c.took)
		if got != c.want {
			t.Errorf("%d MiB that took %s: %d at once, want %d", c.size/mib, c.took, got, c.want)
		}
		if time.Duration(got)*c.took > aheadEnd {
			t.Errorf("%d that take %s each are not done in %s", got, c.took, aheadEnd)
		}
	}
}
