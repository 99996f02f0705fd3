package pgsource_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/pgsource"
	"github.com/pgtrove/pgtrove/snapshot"
	"github.com/pgtrove/pgtrove/test/pgtest"
)

// eachVersion runs a test on servers of the versions that are asked for, several at once: most of the time they wait.
func eachVersion(t *testing.T, test func(t *testing.T, version string)) {
	for _, v := range pgtest.Versions(t) {
		t.Run(v, func(t *testing.T) {
			t.Parallel()
			test(t, v)
		})
	}
}

func running(t *testing.T, version string, o pgtest.Options) *pgtest.Server {
	t.Helper()
	s := pgtest.New(t, version, o)
	s.Start(t)
	return s
}

func connect(t *testing.T, s *pgtest.Server) *pgsource.Cluster {
	t.Helper()
	c, err := pgsource.Connect(t.Context(), pgsource.Options{DSN: s.DSN()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return c
}

func start(t *testing.T, c *pgsource.Cluster) *pgsource.Backup {
	t.Helper()
	b, err := c.Start(t.Context(), "pgtrove test", true)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func stop(t *testing.T, b *pgsource.Backup) *pgsource.StopInfo {
	t.Helper()
	s, err := b.Stop(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// list returns the files of a backup by path.
func list(t *testing.T, b *pgsource.Backup) map[string]pgsource.File {
	t.Helper()
	files, err := b.Files(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	byPath := make(map[string]pgsource.File)
	last := ""
	for _, f := range files {
		if f.Entry.Path <= last {
			t.Errorf("%s is listed after %s", f.Entry.Path, last)
		}
		last = f.Entry.Path
		byPath[f.Entry.Path] = f
	}
	return byPath
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func symlink(t *testing.T, target, path string) {
	t.Helper()
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
}

// copyTo builds a data directory from what a backup lists, as a restore would: links are plain files and directories, tablespaces go
// below spaces.
func copyTo(t *testing.T, b *pgsource.Backup, dir, spaces string) {
	t.Helper()
	files, err := b.Files(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range b.Sources(t.Context(), files, b.Verifier(), nil) {
		rel, ok := strings.CutPrefix(s.Path, snapshot.DataRoot)
		if !ok || s.Last {
			continue
		}
		if err := copySource(t.Context(), s, filepath.Join(dir, rel), spaces); err != nil {
			t.Fatalf("copy %s: %v", s.Path, err)
		}
	}
	control, err := b.ReadControlFile(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, pg.ControlPath), string(control))
}

func copySource(ctx context.Context, s snapshot.Source, to, spaces string) error {
	switch s.Type {
	case snapshot.Dir:
		return os.MkdirAll(to, fs.FileMode(s.Mode))
	case snapshot.Symlink:
		return os.Symlink(s.Link, to)
	case snapshot.Tablespace:
		location := filepath.Join(spaces, filepath.Base(to))
		return errors.Join(os.MkdirAll(location, fs.FileMode(s.Mode)), os.Symlink(location, to))
	}
	content, err := s.Open()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer content.Close()
	size, err := content.Size()
	if err != nil {
		return err
	}
	data, err := io.ReadAll(io.NewSectionReader(content, 0, size))
	if err != nil {
		return err
	}
	if s.Check != nil {
		page := 1 << s.Form
		data = data[:len(data)/page*page]
		checked, err := s.Check(ctx, data, 0)
		if err != nil {
			return err
		}
		if len(checked.Damaged) > 0 {
			return fmt.Errorf("damaged: %+v", checked.Damaged)
		}
	}
	return os.WriteFile(to, data, fs.FileMode(s.Mode))
}

// restore makes a server of a copy: label and WAL from start to stop.
func restore(t *testing.T, c *pgsource.Cluster, version, dir string, s *pgsource.StopInfo) *pgtest.Server {
	t.Helper()
	write(t, filepath.Join(dir, "backup_label"), string(s.BackupLabel))
	size := c.Info().Layout.WALSegmentSize
	for seg := pg.SegmentOf(s.Timeline, s.StartLSN, size); ; seg = seg.Next() {
		data, err := c.WALSegment(t.Context(), seg)
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, "pg_wal", seg.Name(size)), string(data))
		if seg == pg.SegmentBefore(s.StopTimeline, s.StopLSN, size) {
			break
		}
	}
	pgtest.Own(t, dir)
	return pgtest.Adopt(t, version, dir)
}

// eventually repeats a question for some seconds.
func eventually(t *testing.T, what string, ask func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ask(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not %s after 20 s", what)
		}
	}
}

// startTimeout is for what a server does soon.
const startTimeout = 20 * time.Second

// noticeBackups prepares a server for backupRuns. Without page checksums, a server writes full pages with full_page_writes off only
// while a backup runs (doPageWrites in xlog.c).
func noticeBackups() pgtest.Options {
	return pgtest.Options{NoChecksums: true, Conf: map[string]string{"full_page_writes": "off", "autovacuum": "off"}}
}

// backupRuns asks the server whether a backup runs on it. There is no function for it: this looks at the WAL of an update.
func backupRuns(t *testing.T, s *pgtest.Server) bool {
	t.Helper()
	s.Exec(t, "CREATE TABLE IF NOT EXISTS notice AS SELECT 1 AS n")
	s.Exec(t, "CHECKPOINT")
	plan := s.Query(t, "EXPLAIN (ANALYZE, WAL, COSTS OFF, TIMING OFF) UPDATE notice SET n = n + 1")
	if !strings.Contains(plan, "WAL: records=") {
		t.Fatalf("no WAL in the plan:\n%s", plan)
	}
	return strings.Contains(plan, "fpi=")
}

func itoa(n uint64) string { return fmt.Sprint(n) }
