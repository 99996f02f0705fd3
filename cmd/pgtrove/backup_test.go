package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/test/pgtest"
)

// site is a server, and a repository that its archive_command knows nothing of unless a test says so.
type site struct {
	*pgtest.Server
	t   *testing.T
	dir string
}

func newSite(t *testing.T, archiveCommand string) *site {
	t.Helper()
	dir := pgtest.TempDir(t)
	conf := map[string]string{"archive_mode": "on", "archive_command": strings.ReplaceAll(archiveCommand, "DIR", dir)}
	s := &site{pgtest.New(t, "15", pgtest.Options{WALSegMB: 1, Conf: conf}), t, dir}
	s.ExtraEnv = []string{"PGTROVE_REPO=" + filepath.Join(dir, "repo"), "PGTROVE_KEY_FILE=" + filepath.Join(dir, "key")}
	if err := os.Mkdir(filepath.Join(dir, "elsewhere"), 0o700); err != nil {
		t.Fatal(err)
	}
	pgtest.Own(t, filepath.Join(dir, "elsewhere"))
	s.Start(t)
	pgtest.MustRun(t, s.Command("pgtrove", "init"))
	t.Cleanup(func() {
		if !t.Failed() {
			pgtest.MustRun(t, s.Command("pgtrove", "verify", "--read-data"))
		}
	})
	return s
}

// taken is what a test looks at of backup --json.
type taken struct {
	ID       string `json:"id"`
	WAL      string `json:"wal"`
	StartLSN string `json:"start_lsn"`
}

// backup runs a backup and returns its result, and what it said.
func (s *site) backup(code int, args ...string) (taken, string) {
	s.t.Helper()
	r := pgtest.Run(s.t, s.Command("pgtrove", append([]string{"backup", "--json"}, args...)...))
	if r.Code != code {
		s.t.Fatalf("backup %v: exit %d, want %d\n%s", args, r.Code, code, r.Stderr)
	}
	var got taken
	if err := json.Unmarshal([]byte(r.Stdout), &got); err != nil {
		s.t.Fatalf("backup %v: %v in %q", args, err, r.Stdout)
	}
	return got, r.Stderr
}

// writeMuch fills segments, and makes the server remove those that it has archived.
func (s *site) writeMuch(stop <-chan struct{}, done chan<- struct{}) {
	defer close(done)
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		default:
		}
		sql := fmt.Sprintf("CREATE TABLE IF NOT EXISTS filler (t text); INSERT INTO filler SELECT repeat(md5(n::text), 20) FROM generate_series(%d, %d) n", i*2000, i*2000+1999)
		if _, err := s.QueryErr(s.t.Context(), "postgres", sql); err != nil {
			return
		}
		time.Sleep(2 * time.Second) // an ordinary checkpoint takes its time
		_, _ = s.QueryErr(s.t.Context(), "postgres", "CHECKPOINT")
	}
}

func TestWALArchivedElsewhereIsReadFromTheServerWhileTheBackupRuns(t *testing.T) {
	s := newSite(t, "cp %p DIR/elsewhere/%f")
	// That the last file of the archiver is in the repository says nothing: here an earlier backup brought it.
	s.backup(0, "--wal", "include")
	last := s.Query(t, "SELECT pg_walfile_name(pg_switch_wal())")
	s.WaitQuery(t, "SELECT last_archived_wal >= '"+last+"' FROM pg_stat_archiver", "t", time.Minute)
	s.backup(0, "--wal", "include")
	stop, done := make(chan struct{}), make(chan struct{})
	go s.writeMuch(stop, done)
	defer func() {
		close(stop)
		<-done
	}()
	// A file of nothing keeps the backup busy for some checkpoints, and the disk idle. Fast machines need a longer one.
	nothing := filepath.Join(s.Dir, "nothing")
	if err := os.WriteFile(nothing, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	pgtest.Own(t, nothing)
	for size := int64(1 << 30); size <= 64<<30; size *= 2 {
		if err := os.Truncate(nothing, size); err != nil {
			t.Fatal(err)
		}
		snap, said := s.backup(0, "--wal-timeout", "30s", "--jobs", "1")
		if snap.WAL != "complete" {
			t.Fatalf("the snapshot's WAL is %q\n%s", snap.WAL, said)
		}
		first := s.Query(t, "SELECT pg_walfile_name('"+snap.StartLSN+"')")
		if _, err := os.Stat(filepath.Join(s.Dir, "pg_wal", first)); err != nil {
			return // removed by the server before the backup ended, and in the repository all the same
		}
	}
	t.Fatal("the server kept the first segment: the backups were too short to tell anything")
}

func TestAFailingArchiverIsNamedAndDoesNotMakeTheSnapshotIncomplete(t *testing.T) {
	s := newSite(t, "false")
	snap, said := s.backup(0, "--wal-timeout", "5s")
	if snap.WAL != "complete" || !strings.Contains(said, "archiver") {
		t.Errorf("WAL %q, and it said:\n%s", snap.WAL, said)
	}
	snap, said = s.backup(3, "--wal", "archive", "--wal-timeout", "3s")
	if snap.WAL != "missing" || !strings.Contains(said, "is stored but incomplete") || !strings.Contains(said, "hint: ") {
		t.Errorf("WAL %q, and it said:\n%s", snap.WAL, said)
	}
	if r := pgtest.Run(t, s.Command("pgtrove", "verify")); r.Code != codeIncomplete || !strings.Contains(r.Stderr, snap.ID) {
		t.Errorf("verify: exit %d\n%s", r.Code, r.Stderr)
	}
	pgtest.MustRun(t, s.Command("pgtrove", "forget", snap.ID))
}

func TestABackupWaitsForTheArchiveOnlyAsLongAsItTakes(t *testing.T) {
	s := newSite(t, "sleep 2; "+pgtest.Binary(t)+" wal push %p")
	begun := time.Now()
	snap, said := s.backup(0, "--wal", "auto")
	if snap.WAL != "complete" || strings.Contains(said, "read from the server") {
		t.Errorf("WAL %q, and it said:\n%s", snap.WAL, said)
	}
	if took := time.Since(begun); took > time.Minute {
		t.Errorf("took %s", took)
	}
}

func TestBackupsListEveryDamagedPage(t *testing.T) {
	s := newSite(t, "true")
	s.Pgbench(t, "-i", "-s", "1", "-q")
	s.Exec(t, "CHECKPOINT")
	rel := s.Query(t, "SELECT pg_relation_filepath('pgbench_accounts')")
	f, err := os.OpenFile(filepath.Join(s.Dir, rel), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, block := range []int64{3, 700} {
		if _, err := f.WriteAt([]byte("rotten"), block*8192+5000); err != nil {
			t.Fatal(err)
		}
	}
	_, said := s.backup(3)
	for _, want := range []string{rel + ", block 3:", rel + ", block 700:", "2 pages were damaged in the data directory"} {
		if !strings.Contains(said, want) {
			t.Errorf("%q is not said:\n%s", want, said)
		}
	}
	list := pgtest.MustRun(t, s.Command("pgtrove", "snapshots"))
	if !strings.Contains(list, "damaged pages") {
		t.Errorf("the list does not mark it:\n%s", list)
	}
}
