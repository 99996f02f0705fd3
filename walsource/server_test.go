package walsource_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/test/pgtest"
	"github.com/pgtrove/pgtrove/walsource"
)

// archiving is a running server whose archive_command copies into a directory.
type archiving struct {
	*pgtest.Server
	archive string
	expect  walsource.Expect
}

func startArchiving(t testing.TB, version string, segMB int, conf map[string]string) *archiving {
	t.Helper()
	archive := pgtest.TempDir(t)
	all := map[string]string{"archive_mode": "on", "archive_command": fmt.Sprintf("cp %%p %s/%%f.tmp && mv %s/%%f.tmp %s/%%f", archive, archive, archive),
		"autovacuum": "off", "max_wal_size": "1GB", "checkpoint_timeout": "1h"}
	for k, v := range conf {
		all[k] = v
	}
	s := &archiving{Server: pgtest.New(t, version, pgtest.Options{WALSegMB: segMB, Conf: all}), archive: archive}
	s.Start(t)
	control, err := pg.ReadControl(s.Dir)
	if err != nil {
		t.Fatal(err)
	}
	s.expect = walsource.ExpectControl(control)
	return s
}

// flush ends the current segment and waits until it is archived. It returns its name.
func (s *archiving) flush(t testing.TB) string {
	t.Helper()
	name := s.SwitchWAL(t)
	s.WaitArchived(t, name)
	return name
}

// read reads an archived file. Segments before it lie beside it.
func (s *archiving) read(t testing.TB, name string) *walsource.File {
	t.Helper()
	f, err := walsource.ReadFile(filepath.Join(s.archive, name), s.expect)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return f
}

// segments reads all archived segments, in order.
func (s *archiving) segments(t testing.TB) []*walsource.Info {
	t.Helper()
	entries, err := os.ReadDir(s.archive)
	if err != nil {
		t.Fatal(err)
	}
	var all []*walsource.Info
	for _, e := range entries {
		if kind, err := pg.ClassifyWALFile(e.Name()); err == nil && kind == pg.KindSegment {
			all = append(all, s.read(t, e.Name()).Info)
		}
	}
	return all
}

func lsn(t *testing.T, s string) pg.LSN {
	t.Helper()
	v, err := pg.ParseLSN(s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// serverTime reads what extract(epoch from ...) * 1000000 gave.
func serverTime(t *testing.T, micros string) time.Time {
	t.Helper()
	v, err := strconv.ParseInt(micros, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return time.UnixMicro(v).UTC()
}

// TestSegmentSaysWhatTheServerDid compares what the records say with the server's own knowledge, on every version.
func TestSegmentSaysWhatTheServerDid(t *testing.T) {
	for _, version := range pgtest.AllVersions() {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			s := startArchiving(t, version, 1, map[string]string{"track_commit_timestamp": "on", "max_prepared_transactions": "5",
				"wal_level": "logical", "synchronous_commit": "off", "log_min_messages": "fatal", "log_min_error_statement": "fatal"})
			s.Exec(t, "CREATE TABLE t (i int); CREATE TABLE dropped1 (i int); CREATE TABLE dropped2 (i int primary key)")
			t.Run("commits", func(t *testing.T) { checkCommits(t, s) })
			t.Run("prepared and rolled back", func(t *testing.T) { checkPrepared(t, s) })
			t.Run("full page writes", func(t *testing.T) { checkFullPageWrites(t, s) })
			t.Run("backup history", func(t *testing.T) { checkBackupHistory(t, s) })
			if slices.Contains(pgtest.Versions(t), version) {
				t.Run("crossing segments", func(t *testing.T) { checkCrossing(t, s) })
			}
		})
	}
}

func checkCommits(t *testing.T, s *archiving) {
	s.flush(t)
	var xids []string
	for range 5 {
		xids = append(xids, s.Query(t, "INSERT INTO t VALUES (1); SELECT txid_current()"))
	}
	point := s.Query(t, "SELECT pg_create_restore_point('before the accident ü')")
	now := serverTime(t, s.Query(t, "SELECT (extract(epoch from clock_timestamp()) * 1000000)::bigint"))
	s.Exec(t, "BEGIN; INSERT INTO t VALUES (1); COMMIT") // a later one than the point's
	xids = append(xids, s.Query(t, "SELECT max(xmin::text::bigint) FROM t"))
	end := lsn(t, s.Query(t, "SELECT pg_switch_wal()"))
	name := s.Query(t, fmt.Sprintf("SELECT pg_walfile_name('%s')", end))
	s.WaitArchived(t, name)
	info := s.read(t, name).Info
	times := strings.Split(s.Query(t, fmt.Sprintf("SELECT (extract(epoch from pg_xact_commit_timestamp(x::text::xid)) * 1000000)::bigint FROM unnest(ARRAY[%s]) x ORDER BY 1",
		strings.Join(xids, ","))), "\n")
	want := walsource.Ends{Commits: 6, FirstCommit: serverTime(t, times[0]), LastCommit: serverTime(t, times[5])}
	for i, x := range []*uint32{&want.MinXID, &want.MaxXID} {
		v, err := strconv.ParseUint(xids[i*5], 10, 32)
		if err != nil {
			t.Fatal(err)
		}
		*x = uint32(v)
	}
	if info.Ends != want {
		t.Errorf("read %+v, the server says %+v", info.Ends, want)
	}
	if len(info.RestorePoints) != 1 || info.RestorePoints[0].Name != "before the accident ü" || info.RestorePoints[0].LSN != lsn(t, point) ||
		now.Sub(info.RestorePoints[0].Time).Abs() > time.Minute || info.RestorePoints[0].Time.After(now) {
		t.Errorf("restore points %+v, created at %s", info.RestorePoints, point)
	}
	if !info.Switched || info.EndOfData != end || info.FullPageWritesOff || info.HeadUnread || info.Unknown != 0 || info.Partial ||
		strconv.Itoa(info.Major) != s.Version || info.SystemID != s.expect.SystemID || info.FirstTimeline != 1 || info.BlockSize != 8192 {
		t.Errorf("%+v, switched at %s", info, end)
	}
}

// checkPrepared ends prepared transactions whose records have every optional part in front of the xid: subtransactions, dropped files,
// dropped statistics (other sizes in 18), invalidations.
func checkPrepared(t *testing.T, s *archiving) {
	prepare := func(gid, table string) string {
		return s.Query(t, fmt.Sprintf("BEGIN; SELECT txid_current(); SAVEPOINT a; INSERT INTO t VALUES (1); SAVEPOINT b; INSERT INTO t VALUES (2); "+
			"DROP TABLE %s; CREATE TABLE new_%s (i int); PREPARE TRANSACTION '%s'", table, table, gid))
	}
	committed, rolledBack := prepare("c", "dropped1"), prepare("r", "dropped2")
	s.flush(t)
	s.Exec(t, "COMMIT PREPARED 'c'")
	info := s.read(t, s.flush(t)).Info
	// SwitchWAL's own transaction commits too.
	if info.Commits != 2 || info.Aborts != 0 || fmt.Sprint(info.MinXID) != committed || info.Unknown != 0 {
		t.Errorf("commit of prepared %s: %+v", committed, info)
	}
	if want := serverTime(t, s.Query(t, fmt.Sprintf("SELECT (extract(epoch from pg_xact_commit_timestamp('%s'::xid)) * 1000000)::bigint", committed))); !info.FirstCommit.Equal(want) {
		t.Errorf("commit of prepared: %s, want %s", info.FirstCommit, want)
	}
	s.Exec(t, "ROLLBACK PREPARED 'r'")
	info = s.read(t, s.flush(t)).Info
	if info.Commits != 1 || info.Aborts != 1 || fmt.Sprint(info.MinXID) != rolledBack || info.Unknown != 0 {
		t.Errorf("rollback of prepared %s: %+v", rolledBack, info)
	}
	aborted := s.Query(t, "BEGIN; INSERT INTO t VALUES (3); SELECT txid_current(); ROLLBACK")
	info = s.read(t, s.flush(t)).Info
	if info.Aborts != 1 || fmt.Sprint(info.MinXID) != aborted {
		t.Errorf("rollback of %s: %+v", aborted, info)
	}
}

func checkFullPageWrites(t *testing.T, s *archiving) {
	set := func(value string) {
		s.Exec(t, "ALTER SYSTEM SET full_page_writes = "+value)
		s.Reload(t)
		s.WaitQuery(t, "SHOW full_page_writes", value, time.Minute)
		s.Exec(t, "CHECKPOINT") // the checkpointer has taken over the setting when this is done
	}
	s.flush(t)
	set("off")
	if info := s.read(t, s.flush(t)).Info; !info.FullPageWritesOff {
		t.Error("switching full_page_writes off was not seen")
	}
	s.Exec(t, "CHECKPOINT")
	if info := s.read(t, s.flush(t)).Info; !info.FullPageWritesOff {
		t.Error("a checkpoint with full_page_writes off was not seen")
	}
	set("on")
	s.flush(t)
	s.Exec(t, "CHECKPOINT")
	if info := s.read(t, s.flush(t)).Info; info.FullPageWritesOff {
		t.Error("full_page_writes is on again")
	}
}

// checkCrossing fills segments with ends of transactions and restore points, so that some of them cross from one into the next, and
// finds each of them exactly once.
func checkCrossing(t *testing.T, s *archiving) {
	first := s.flush(t)
	points := map[string]pg.LSN{}
	for round := range 5 {
		out := s.Query(t, fmt.Sprintf("SELECT pg_create_restore_point(format('%%s-%%s', %d, i)) FROM generate_series(1, 5000) i", round))
		for i, text := range strings.Split(out, "\n") {
			points[fmt.Sprintf("%d-%d", round, i+1)] = lsn(t, text)
		}
		s.Exec(t, "DO $$ BEGIN FOR i IN 1..6000 LOOP INSERT INTO t VALUES (i); IF i % 3 = 0 THEN ROLLBACK; ELSE COMMIT; END IF; END LOOP; END $$")
	}
	s.flush(t)
	var ends walsource.Ends
	var previous *walsource.Info
	unread, filled := 0, 0
	for _, info := range s.segments(t) {
		name := info.Segment.Name(info.SegmentSize)
		if name <= first {
			continue
		}
		if info.HeadUnread || info.Unknown != 0 {
			t.Errorf("%s: %+v", name, info)
		}
		for _, p := range info.RestorePoints {
			if points[p.Name] != p.LSN || p.LSN <= info.Segment.Start(info.SegmentSize) || p.LSN > info.Segment.End(info.SegmentSize) {
				t.Errorf("%s: restore point %q at %s, want %s", name, p.Name, p.LSN, points[p.Name])
			}
			delete(points, p.Name)
		}
		if !info.Switched {
			filled++
			if info.EndOfData != info.Segment.End(info.SegmentSize) {
				t.Errorf("%s: filled up to %s", name, info.EndOfData)
			}
		}
		ends.Commits += info.Commits
		ends.Aborts += info.Aborts
		if previous != nil && info.Commits > 0 && previous.Commits > 0 && (info.MinXID <= previous.MaxXID || info.FirstCommit.Before(previous.LastCommit)) {
			t.Errorf("%s: %+v after %+v", name, info.Ends, previous.Ends)
		}
		previous = info
		unread += s.readAlone(t, name, info)
	}
	if len(points) != 0 || ends.Commits != 5*4000+1 || ends.Aborts != 5*2000 {
		t.Errorf("%d restore points not found, %d commits, %d aborts", len(points), ends.Commits, ends.Aborts)
	}
	if filled < 4 || unread == 0 {
		t.Errorf("%d filled segments, %d begin in a record: the test needs more WAL", filled, unread)
	}
}

// readAlone reads the segment without the one before it: only a record that began there may be missing. It returns 1 if so.
func (s *archiving) readAlone(t *testing.T, name string, with *walsource.Info) int {
	t.Helper()
	data, err := walsource.ReadSegment(filepath.Join(s.archive, name), s.expect)
	if err != nil {
		t.Fatal(err)
	}
	alone, err := walsource.Validate(name, data, s.expect)
	if err != nil {
		t.Fatal(err)
	}
	missing := with.Records - alone.Records
	if alone.EndOfData != with.EndOfData || missing < 0 || missing > 1 || (missing == 1) != alone.HeadUnread {
		t.Errorf("%s: %+v, with the segment before %+v", name, alone, with)
	}
	return missing
}

func checkBackupHistory(t *testing.T, s *archiving) {
	start, stop := "pg_backup_start('a label', true)", "pg_backup_stop(false)"
	if s.Version < "15" {
		start, stop = "pg_start_backup('a label', true, false)", "pg_stop_backup(false, false)"
	}
	lines := strings.Split(s.Query(t, fmt.Sprintf("SELECT %s; SELECT lsn FROM %s", start, stop)), "\n")
	from, to := lsn(t, lines[0]), lsn(t, lines[1])
	s.flush(t)
	files, err := filepath.Glob(filepath.Join(s.archive, "*.backup"))
	if err != nil || len(files) != 1 {
		t.Fatalf("%v, %v", files, err)
	}
	f := s.read(t, filepath.Base(files[0]))
	if b := f.Backup; f.Kind != pg.KindBackup || b.Start != from || b.Stop != to || b.Label != "a label" || b.StartTime == "" || b.StopTime == "" {
		t.Errorf("%+v, started at %s, stopped at %s", f.Backup, from, to)
	}
	segment, offset := f.Name[:24], f.Name[25:33]
	for _, wrong := range []string{segment[:23] + "0." + offset, segment + ".00000001"} {
		if _, err := walsource.ValidateBackup(wrong+".backup", f.Data, s.expect); wrong != segment+"."+offset && !errors.Is(err, walsource.ErrMisnamed) {
			t.Errorf("%s: %v", wrong, err)
		}
	}
}
