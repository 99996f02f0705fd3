package restore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/snapshot"
)

// segmentAt makes a segment whose first page has an address.
func segmentAt(t *testing.T, path string, size pg.SegmentSize, address uint64) {
	t.Helper()
	b := make([]byte, size)
	binary.LittleEndian.PutUint64(b[8:], address)
	put(t, path, string(b))
}

func aside(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(dir, snapshot.UnarchivedDir))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// A standby takes for archived whatever it has received.
func TestWALThatTheArchiveHasNotIsMovedAsideWhateverItsServerSays(t *testing.T) {
	c, m := sampleCluster(t)
	dir := c.fresh(t, m)
	for n := 2; n < 5; n++ {
		name := fmt.Sprintf("00000001000000000000000%d", n)
		segmentAt(t, filepath.Join(dir, "pg_wal", name), pg.MinSegmentSize, uint64(n)<<20)
		if n < 4 {
			put(t, filepath.Join(dir, "pg_wal/archive_status", name+".done"), "")
		}
	}
	o := c.options(m, dir)
	o.Delta = true
	o.Archived = func(name string) bool { return name != "000000010000000000000003" }
	report, err := Run(t.Context(), c.repo, o)
	must(t, err)
	if got := aside(t, dir); fmt.Sprint(got) != "[000000010000000000000003 000000010000000000000004]" || report.Unarchived != 2 {
		t.Errorf("moved %v, reported %d", got, report.Unarchived)
	}
}

func TestUnarchivedWALIsKnownAlsoWhereTheSizeOfSegmentsHasChanged(t *testing.T) {
	c, m := sampleCluster(t)
	dir := c.fresh(t, m)
	segmentAt(t, filepath.Join(dir, "pg_wal/000000010000000000000002"), 2*pg.MinSegmentSize, 2<<21)
	segmentAt(t, filepath.Join(dir, "pg_wal/000000010000000000000003"), 2*pg.MinSegmentSize, 3<<20) // recycled
	if c.delta(t, m, dir); fmt.Sprint(aside(t, dir)) != "[000000010000000000000002]" {
		t.Errorf("moved %v", aside(t, dir))
	}
}

// Where pg_wal is behind a link, it may be on another file system, as if it were a mount point.
func TestUnarchivedWALComesOutOfALinkedDirectory(t *testing.T) {
	memory, err := os.MkdirTemp("/dev/shm", "pgtrove-test-")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(memory) })
	for _, outside := range []string{filepath.Join(memory, "outside"), filepath.Join(t.TempDir(), "outside")} {
		c, m := tied(t, outside)
		o := c.options(m, filepath.Join(t.TempDir(), "data"))
		o.LinkAll = true
		d, err := o.foresee(t.Context(), c.repo)
		must(t, err)
		_, err = Run(t.Context(), c.repo, o)
		must(t, err)
		marker, err := d.claim(&o) // power was lost before it was gone for good, and the server was run
		must(t, errors.Join(err, marker.Close()))
		const name = "000000010000000000000002"
		segmentAt(t, filepath.Join(outside, "wal", name), pg.MinSegmentSize, 2<<20)
		before, err := os.ReadFile(filepath.Join(outside, "wal", name))
		must(t, err)
		o.Delta = true
		_, err = Run(t.Context(), c.repo, o)
		must(t, err)
		if after, err := os.ReadFile(filepath.Join(o.To, snapshot.UnarchivedDir, name)); err != nil || !slices.Equal(before, after) {
			t.Errorf("it is not aside: %v", err)
		}
		if left, err := filepath.Glob(filepath.Join(outside, "wal/*[0-9]")); err != nil || len(left) > 0 || len(aside(t, o.To)) != 1 {
			t.Errorf("left: %v, aside: %v", left, aside(t, o.To))
		}
	}
}
