package walsource_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/test/pgtest"
	"github.com/pgtrove/pgtrove/walsource"
)

// add takes over what another segment says.
func add(sum *walsource.Ends, e walsource.Ends) {
	sum.Commits += e.Commits
	sum.Aborts += e.Aborts
	if sum.FirstCommit.IsZero() || !e.FirstCommit.IsZero() && e.FirstCommit.Before(sum.FirstCommit) {
		sum.FirstCommit = e.FirstCommit
	}
	if e.LastCommit.After(sum.LastCommit) {
		sum.LastCommit = e.LastCommit
	}
	if e.MinXID != 0 && (sum.MinXID == 0 || e.MinXID < sum.MinXID) {
		sum.MinXID = e.MinXID
	}
	sum.MaxXID = max(sum.MaxXID, e.MaxXID)
}

// TestRecordsAreThoseOfWaldump compares all records and all ends of transactions of a row of segments with pg_waldump 15.
func TestRecordsAreThoseOfWaldump(t *testing.T) {
	s := startArchiving(t, "15", 1, map[string]string{"wal_level": "logical"})
	s.Pgbench(t, "-i", "-q", "-s", "1")
	s.Pgbench(t, "-c", "4", "-t", "300", "-n")
	s.Exec(t, "SELECT pg_logical_emit_message(false, 'big', repeat('x', 3000000))") // whole segments within one record
	s.Exec(t, "CREATE TABLE x AS SELECT i FROM generate_series(1, 20000) i; CREATE INDEX ON x (i)")
	s.Exec(t, "BEGIN; DELETE FROM x; ROLLBACK")
	s.flush(t)
	all := s.segments(t)
	var got walsource.Ends
	records, within := 0, 0
	for _, info := range all {
		records += info.Records
		add(&got, info.Ends)
		if info.HeadUnread && info.Records == 0 {
			within++
		}
	}
	first, last := all[0].Segment.Name(1<<20), all[len(all)-1].Segment.Name(1<<20)
	r := pgtest.Run(t, s.Command("pg_waldump", filepath.Join(s.archive, first), last)) // complains about the end
	want, dumped := parseWaldump(t, r.Stdout)
	// The record that runs over whole segments is the one whose beginning is not found in the segment before.
	if records != dumped && records != dumped-1 || got != want {
		t.Errorf("%d records, %+v; pg_waldump of %s to %s says %d, %+v\n%s", records, got, first, last, dumped, want, r.Stderr)
	}
	if within < 1 || len(all) < 10 || want.Commits < 1200 || want.Aborts == 0 {
		t.Errorf("%d segments, %d within one record: the test needs more WAL", len(all), within)
	}
}

func parseWaldump(t *testing.T, out string) (e walsource.Ends, records int) {
	t.Helper()
	for line := range strings.Lines(out) {
		if !strings.HasPrefix(line, "rmgr:") {
			continue
		}
		records++
		_, desc, _ := strings.Cut(line, "desc: ")
		op, rest, _ := strings.Cut(desc, " ")
		if !strings.HasPrefix(line, "rmgr: Transaction") || op != "COMMIT" && op != "ABORT" {
			continue
		}
		text, _, _ := strings.Cut(rest, " UTC")
		at, err := time.Parse("2006-01-02 15:04:05.999999", text)
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		_, tx, _ := strings.Cut(line, "tx:")
		tx, _, _ = strings.Cut(tx, ",")
		xid, err := strconv.ParseUint(strings.TrimSpace(tx), 10, 32)
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		one := walsource.Ends{Commits: 1, FirstCommit: at, LastCommit: at, MinXID: uint32(xid), MaxXID: uint32(xid)}
		if op == "ABORT" {
			one.Commits, one.Aborts = 0, 1
		}
		add(&e, one)
	}
	return e, records
}

// TestSegmentsOfACrashingServerAreWhole kills the server while it writes large records: it then goes on behind the part of a record that
// had been written, and says so in a page header.
func TestSegmentsOfACrashingServerAreWhole(t *testing.T) {
	for _, version := range pgtest.Versions(t) {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			s := startArchiving(t, version, 1, map[string]string{"wal_buffers": "64kB", "log_min_messages": "fatal", "log_min_error_statement": "fatal",
				// Or most crashes would hit the end of a segment, where the server waits for these.
				"fsync": "off", "wal_init_zero": "off"})
			s.Exec(t, "CREATE TABLE t (i int)")
			first := s.flush(t)
			for crashes := 0; crashes < 3 || crashes < 40 && s.cutRecords(t) == 0; crashes++ {
				s.crashUnderLoad(t)
			}
			rows := s.Query(t, "SELECT count(*) FROM t")
			s.flush(t)
			commits := 0
			for _, info := range s.segments(t) {
				if info.Segment.Name(info.SegmentSize) > first {
					commits += info.Commits
				}
				if info.Unknown != 0 {
					t.Errorf("%+v", info)
				}
			}
			if s.cutRecords(t) == 0 {
				t.Error("no crash cut off a record")
			}
			// One is flush's own.
			if fmt.Sprint(commits-1) != rows {
				t.Errorf("%d commits, %s rows", commits, rows)
			}
		})
	}
}

// crashUnderLoad leaves the server running again. A record that is larger than wal_buffers is on disk in part while it is inserted.
func (s *archiving) crashUnderLoad(t *testing.T) {
	t.Helper()
	const load = "DO $$ BEGIN LOOP PERFORM pg_logical_emit_message(false, 'x', repeat('x', 700000)); INSERT INTO t VALUES (1); COMMIT; END LOOP; END $$"
	from := s.Query(t, "SELECT pg_current_wal_insert_lsn()")
	done := make(chan error, 1)
	go func() {
		_, err := s.QueryErr(t.Context(), "postgres", load)
		done <- err
	}()
	s.WaitQuery(t, fmt.Sprintf("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '%s') > 3000000", from), "t", time.Minute)
	s.Stop(t, pgtest.Immediate)
	if err := <-done; err == nil {
		t.Error("the load ended by itself")
	}
	s.Start(t)
}

// cutRecords counts the pages with which archived segments go on behind a record that a crash cut off. Those that begin a
// segment do not count: there, the record just runs over the end of the one before.
func (s *archiving) cutRecords(t *testing.T) int {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(s.archive, "????????????????????????"))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for at := 8192; at < len(data); at += 8192 {
			if data[at+2]&0x08 != 0 { // XLP_FIRST_IS_OVERWRITE_CONTRECORD
				n++
			}
		}
	}
	return n
}

// TestPromotionLeavesValidFiles covers .partial, .history and the first segment of a timeline.
func TestPromotionLeavesValidFiles(t *testing.T) {
	for _, version := range pgtest.Versions(t) {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			primary := startArchiving(t, version, 1, map[string]string{"wal_keep_size": "64MB"})
			primary.Exec(t, "CREATE TABLE t AS SELECT generate_series(1, 30000) i")
			s := &archiving{Server: primary.NewStandby(t), archive: primary.archive, expect: primary.expect}
			s.Start(t)
			s.WaitQuery(t, "SELECT count(*) FROM t", "30000", time.Minute)
			primary.Stop(t, pgtest.Fast)
			s.Exec(t, "SELECT pg_promote()")
			s.WaitPromoted(t)
			s.Exec(t, "INSERT INTO t VALUES (0)")
			name := s.flush(t)
			if !strings.HasPrefix(name, "00000002") {
				t.Fatalf("segment %s after the promotion", name)
			}
			history := s.read(t, "00000002.history").History
			at, ok := history.SwitchPoint(1)
			if !ok || history.Timeline() != 2 {
				t.Fatalf("%+v", history)
			}
			fork := pg.SegmentOf(2, at, s.expect.SegmentSize)
			info := s.read(t, fork.Name(s.expect.SegmentSize)).Info
			if info.FirstTimeline != 1 || info.Segment.Timeline != 2 || info.Commits == 0 {
				t.Errorf("first of the timeline: %+v", info)
			}
			partial := s.read(t, pg.Segment{Timeline: 1, Number: fork.Number}.Name(s.expect.SegmentSize)+".partial").Info
			if !partial.Partial || partial.Switched || partial.EndOfData != at || partial.Records == 0 {
				t.Errorf("last of the old timeline, which ends at %s: %+v", at, partial)
			}
		})
	}
}

// TestLiveSegmentIsUnfinished reads the segment that the server is writing, fresh and recycled.
func TestLiveSegmentIsUnfinished(t *testing.T) {
	for _, version := range pgtest.Versions(t) {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			s := startArchiving(t, version, 1, map[string]string{"max_wal_size": "4MB", "min_wal_size": "4MB"})
			s.Exec(t, "CREATE TABLE t (i int)")
			for range 12 {
				s.Exec(t, "INSERT INTO t VALUES (1)")
				name := s.Query(t, "SELECT pg_walfile_name(pg_current_wal_insert_lsn())")
				f, err := walsource.ReadFile(filepath.Join(s.Dir, "pg_wal", name), s.expect)
				if !errors.Is(err, walsource.ErrUnfinished) || f != nil || !strings.Contains(err.Error(), name) {
					t.Errorf("%+v, %v", f, err)
				}
				s.Exec(t, "INSERT INTO t SELECT generate_series(1, 1000)")
				s.flush(t)
				s.Exec(t, "CHECKPOINT")
			}
			// One that is kept for later, under a name of its own, with whatever content.
			next := pg.Segment{Timeline: 1, Number: 1 << 20}.Name(s.expect.SegmentSize)
			newest := s.Query(t, "SELECT max(name) FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$'")
			data, err := os.ReadFile(filepath.Join(s.Dir, "pg_wal", newest))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := walsource.Validate(next, data, s.expect); !errors.Is(err, walsource.ErrMisnamed) && !errors.Is(err, walsource.ErrEmpty) {
				t.Errorf("%s as %s: %v", newest, next, err)
			}
			if _, err := walsource.Validate(newest, data, s.expect); !errors.Is(err, walsource.ErrMisnamed) && !errors.Is(err, walsource.ErrEmpty) {
				t.Errorf("recycled %s: %v", newest, err)
			}
		})
	}
}
