package pgsource

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/pgtrove/pgtrove/internal/pg"
)

// WALSegment reads a complete segment from pg_wal; the bytes are the caller's. They are not validated here.
//
// The server keeps a segment after a backup only as long as something holds it (a slot, wal_keep_size, an archive that is
// behind): from the checkpoint after next on it may be gone. Read the segments of a backup right after Stop.
//
// Errors: ErrSegmentIncomplete, ErrSegmentRemoved, ErrConnectionLost.
func (c *Cluster) WALSegment(ctx context.Context, seg pg.Segment) ([]byte, error) {
	name := seg.Name(c.info.Layout.WALSegmentSize)
	complete, err := c.segmentComplete(ctx, seg)
	if err != nil {
		return nil, fmt.Errorf("read WAL segment %s: %w", name, err)
	}
	if !complete {
		return nil, fmt.Errorf("read WAL segment %s: %w", name, ErrSegmentIncomplete)
	}
	data, err := c.readSegment(name)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: a checkpoint removed or recycled it", ErrSegmentRemoved)
	}
	if err != nil {
		return nil, fmt.Errorf("read WAL segment %s: %w", name, err)
	}
	return data, nil
}

// readSegment reads a file of pg_wal. A checkpoint may rename it meanwhile to the name of a segment to come, and the server then
// writes over what we read: so it must have its name still when it was read.
func (c *Cluster) readSegment(name string) ([]byte, error) {
	path := filepath.Join(c.root, "pg_wal", name)
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data := make([]byte, c.info.Layout.WALSegmentSize)
	if _, err := io.ReadFull(f, data); err != nil {
		return nil, err
	}
	read, err := f.Stat()
	if err != nil {
		return nil, err
	}
	named, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !os.SameFile(read, named) {
		return nil, fmt.Errorf("%w: it was recycled while it was read", ErrSegmentRemoved)
	}
	return data, nil
}

// segmentComplete reports whether all bytes of a segment are on disk: flushed by the primary, or received or replayed by the
// standby.
func (c *Cluster) segmentComplete(ctx context.Context, seg pg.Segment) (bool, error) {
	const sql = "SELECT (CASE WHEN pg_is_in_recovery() THEN greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) " +
		"ELSE pg_current_wal_flush_lsn() END)::text"
	done, err := c.position(ctx, sql)
	if err != nil {
		return false, err
	}
	return seg.End(c.info.Layout.WALSegmentSize) <= done, nil
}

// segmentPause is how often WaitSegment looks.
const segmentPause = 200 * time.Millisecond

// WaitSegment waits until a segment is complete, or ctx ends. On a primary that does nothing this can take forever, unless
// archive_timeout or ForceSegment ends the segment; a standby depends on its primary for either.
//
// Errors: ErrConnectionLost, ctx's.
func (c *Cluster) WaitSegment(ctx context.Context, seg pg.Segment) error {
	for {
		complete, err := c.segmentComplete(ctx, seg)
		if err != nil || complete {
			return err
		}
		select {
		case <-time.After(segmentPause):
		case <-ctx.Done():
			return fmt.Errorf("wait for WAL segment %s: %w", seg.Name(c.info.Layout.WALSegmentSize), ctx.Err())
		}
	}
}

// HistoryFile reads the history of a timeline from pg_wal. Errors: fs.ErrNotExist, as for timeline 1, which has none.
func (c *Cluster) HistoryFile(tli pg.Timeline) ([]byte, error) {
	data, err := os.ReadFile(filepath.Join(c.root, "pg_wal", tli.String()+".history"))
	if err != nil {
		return nil, fmt.Errorf("read history of timeline %s: %w", tli, err)
	}
	return data, nil
}
