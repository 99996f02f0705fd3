package pgsource_test

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/pgsource"
	"github.com/pgtrove/pgtrove/test/pgtest"
)

func TestSegments(t *testing.T) {
	eachVersion(t, func(t *testing.T, version string) {
		s := running(t, version, pgtest.Options{WALSegMB: 1})
		c := connect(t, s)
		size := c.Info().Layout.WALSegmentSize
		info := stop(t, start(t, c))
		last := pg.SegmentBefore(1, info.StopLSN, size)
		data, err := c.WALSegment(t.Context(), last)
		if err != nil {
			t.Fatal(err)
		}
		if len(data) != 1<<20 || pg.MajorFromWALMagic(binary.LittleEndian.Uint16(data)) != c.Info().Major() {
			t.Errorf("%d bytes, % x", len(data), data[:20])
		}
		if got := pg.LSN(binary.LittleEndian.Uint64(data[8:])); got != last.Start(size) {
			t.Errorf("the segment begins at %s, not %s", got, last.Start(size))
		}
		if _, err := c.WALSegment(t.Context(), last.Next()); !errors.Is(err, pgsource.ErrSegmentIncomplete) {
			t.Errorf("the next: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		if err := connect(t, s).WaitSegment(ctx, last.Next()); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("waiting for the next: %v", err)
		}
		s.SwitchWAL(t)
		if err := c.WaitSegment(t.Context(), last.Next()); err != nil {
			t.Error(err)
		}
		if err := os.Remove(filepath.Join(s.Dir, "pg_wal", last.Name(size))); err != nil {
			t.Fatal(err)
		}
		if _, err := c.WALSegment(t.Context(), last); !errors.Is(err, pgsource.ErrSegmentRemoved) {
			t.Errorf("removed: %v", err)
		}
	})
}
