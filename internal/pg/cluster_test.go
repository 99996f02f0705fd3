package pg_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/test/pgtest"
)

// TestControlFileMatchesWhatTheServerSays compares every field with the server's own SQL functions, on all versions and on
// a standby, whose recovery fields are not zero.
func TestControlFileMatchesWhatTheServerSays(t *testing.T) {
	for i, version := range pgtest.AllVersions() {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			s := pgtest.New(t, version, pgtest.Options{
				WALSegMB:    1 << i,
				NoChecksums: i%2 == 1,
				Conf:        map[string]string{"track_commit_timestamp": onOff(i%2 == 0), "wal_log_hints": onOff(i%2 == 1), "wal_level": []string{"replica", "logical"}[i%2]},
			})
			s.Start(t)
			s.Exec(t, "CREATE TABLE t AS SELECT generate_series(1, 1000)")
			s.Exec(t, "CHECKPOINT")
			c := compareControl(t, s)
			if c.State != pg.StateInProduction || strconv.Itoa(c.Major()) != version {
				t.Errorf("state %q, major %d", c.State, c.Major())
			}
			if major, err := pg.ReadMajor(s.Dir); err != nil || strconv.Itoa(major) != version {
				t.Errorf("PG_VERSION: %d, %v", major, err)
			}
			if version == "13" || version == "18" {
				standby := s.NewStandby(t)
				standby.Start(t)
				standby.WaitQuery(t, "SELECT count(*) FROM t", "1000", 30*time.Second)
				s.Exec(t, "CHECKPOINT")
				standby.WaitQuery(t, fmt.Sprintf("SELECT pg_last_wal_replay_lsn() >= '%s'", s.Query(t, "SELECT pg_current_wal_lsn()")), "t", 30*time.Second)
				standby.Exec(t, "CHECKPOINT") // a restart point writes the file
				sc := compareControl(t, standby)
				if sc.State != pg.StateInArchiveRecovery || sc.MinRecoveryPoint == 0 || sc.MinRecoveryTimeline != 1 {
					t.Errorf("standby: state %q, minimum recovery point %s on %d", sc.State, sc.MinRecoveryPoint, sc.MinRecoveryTimeline)
				}
			}
			s.Stop(t, pgtest.Fast)
			if c, err := pg.ReadControl(s.Dir); err != nil || !c.State.Clean() || c.CheckpointLSN != c.RedoLSN {
				t.Errorf("after shutdown: %+v, %v", c, err)
			}
		})
	}
}

func onOff(b bool) string { return map[bool]string{true: "on", false: "off"}[b] }

const controlQuery = `SELECT system_identifier, pg_control_version, catalog_version_no, extract(epoch from pg_control_last_modified)::bigint,
	checkpoint_lsn, redo_lsn, timeline_id, prev_timeline_id, full_page_writes, next_xid, extract(epoch from checkpoint_time)::bigint,
	min_recovery_end_lsn, min_recovery_end_timeline, backup_start_lsn, backup_end_lsn, end_of_backup_record_required,
	current_setting('wal_level'), current_setting('wal_log_hints'), current_setting('track_commit_timestamp'),
	database_block_size, blocks_per_segment, wal_block_size, bytes_per_wal_segment, data_page_checksum_version
	FROM pg_control_system(), pg_control_checkpoint(), pg_control_recovery(), pg_control_init()`

// compareControl takes only an answer that was the same before and after it read the file.
func compareControl(t *testing.T, s *pgtest.Server) *pg.Control {
	t.Helper()
	for range 20 {
		want := s.Query(t, controlQuery)
		raw, c, err := pg.ReadControlBytes(s.Dir)
		if err != nil {
			t.Fatal(err)
		}
		if s.Query(t, controlQuery) != want {
			continue
		}
		if len(raw) != pg.ControlFileSize {
			t.Errorf("%d bytes", len(raw))
		}
		tf := func(b bool) string { return strconv.FormatBool(b)[:1] }
		got := strings.Join(strings.Fields(fmt.Sprint(c.SystemID, c.ControlVersion, c.CatalogVersion, c.Time.Unix(),
			c.CheckpointLSN, " ", c.RedoLSN, " ", uint32(c.Timeline), uint32(c.PrevTimeline), " ", tf(c.FullPageWrites), " ",
			fmt.Sprintf("%d:%d", c.NextXID>>32, uint32(c.NextXID)), " ", c.CheckpointTime.Unix(),
			c.MinRecoveryPoint, " ", uint32(c.MinRecoveryTimeline), c.BackupStartPoint, " ", c.BackupEndPoint, " ", tf(c.BackupEndRequired), " ",
			c.WALLevel, " ", onOff(c.WALLogHints), " ", onOff(c.TrackCommitTimestamp), " ",
			c.BlockSize, c.RelSegSize, c.WALBlockSize, uint32(c.WALSegmentSize), c.ChecksumVersion)), "|")
		if got != want {
			t.Errorf("control file read\n%s, the server says\n%s", got, want)
		}
		return c
	}
	t.Fatal("the control file changed all the time")
	return nil
}

// TestPageChecksumIsThatOfTheServer checks every page of a cluster's relations, of more than one block size of row data, and that a
// changed byte anywhere in a page, and another block number, make another checksum.
func TestPageChecksumIsThatOfTheServer(t *testing.T) {
	for _, version := range []string{"13", "18"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			s := pgtest.New(t, version, pgtest.Options{})
			s.Start(t)
			s.Exec(t, "CREATE TABLE t AS SELECT i, random() r, repeat(md5(i::text), 5) x FROM generate_series(1, 20000) i; CREATE INDEX ON t (r); CREATE UNLOGGED TABLE u (x text)")
			s.Exec(t, "VACUUM t")
			filenode := s.Query(t, "SELECT pg_relation_filepath('t')")
			s.Stop(t, pgtest.Fast)
			pages, forks := 0, map[pg.Fork]int{}
			walkRelations(t, s.Dir, func(path string, r pg.RelFile, data []byte) {
				forks[r.Fork]++
				if len(data)%8192 != 0 {
					t.Errorf("%s: %d bytes", path, len(data))
				}
				for block := 0; block*8192 < len(data); block++ {
					page := data[block*8192:][:8192]
					if pg.PageIsNew(page) {
						if !pg.PageIsZero(page) {
							t.Errorf("%s block %d: new but not zero", path, block)
						}
						continue
					}
					pages++
					before := bytes.Clone(page)
					if got, want := pg.PageChecksum(page, uint32(block)), pg.PageStoredChecksum(page); got != want {
						t.Errorf("%s block %d: computed %04X, stored %04X", path, block, got, want)
					}
					if !bytes.Equal(before, page) {
						t.Fatalf("%s block %d: the page was written to", path, block)
					}
				}
			})
			if pages < 1000 || forks[pg.ForkFSM] == 0 || forks[pg.ForkVM] == 0 || forks[pg.ForkInit] == 0 {
				t.Errorf("only %d pages, forks %v", pages, forks)
			}
			if r, ok := pg.ParseRelPath(filenode); !ok || r.Fork != pg.ForkMain || r.DB == 0 {
				t.Errorf("%s: %+v, %v", filenode, r, ok)
			}
		})
	}
}

// walkRelations calls fn with every relation file below dir and fails on names with digits that look like one and are not taken.
func walkRelations(t *testing.T, dir string, fn func(path string, r pg.RelFile, data []byte)) {
	t.Helper()
	for _, top := range []string{"base", "global"} {
		err := filepath.WalkDir(filepath.Join(dir, top), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			rel, err := filepath.Rel(dir, path)
			if err != nil {
				return err
			}
			r, ok := pg.ParseRelPath(rel)
			if base := filepath.Base(rel); ok == (base == "PG_VERSION" || strings.HasPrefix(base, "pg_")) {
				t.Errorf("%s: relation file %v", rel, ok)
			}
			if !ok {
				return nil
			}
			data, err := os.ReadFile(path)
			if err == nil {
				fn(rel, r, data)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestPageLSNIsThatOfTheLastRecord(t *testing.T) {
	s := pgtest.New(t, "15", pgtest.Options{})
	s.Start(t)
	s.Exec(t, "CREATE TABLE t (i int); INSERT INTO t VALUES (1)")
	before := parseLSN(t, s.Query(t, "SELECT pg_current_wal_insert_lsn()"))
	path := s.Query(t, "SELECT pg_relation_filepath('t')")
	s.Exec(t, "INSERT INTO t VALUES (2)")
	s.Exec(t, "CHECKPOINT")
	after := parseLSN(t, s.Query(t, "SELECT pg_current_wal_insert_lsn()"))
	page, err := os.ReadFile(filepath.Join(s.Dir, path))
	if err != nil {
		t.Fatal(err)
	}
	if lsn := pg.PageLSN(page); lsn <= before || lsn > after {
		t.Errorf("page LSN %s, not in (%s, %s]", lsn, before, after)
	}
	if sum := pg.PageChecksum(page, 1<<17); sum == binary.LittleEndian.Uint16(page[8:]) {
		t.Error("the checksum does not depend on the block number")
	}
}

func parseLSN(t *testing.T, s string) pg.LSN {
	t.Helper()
	lsn, err := pg.ParseLSN(s)
	if err != nil {
		t.Fatal(err)
	}
	return lsn
}
