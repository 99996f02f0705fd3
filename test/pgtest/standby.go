package pgtest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// NewStandby copies this running server into a streaming standby of it, not
// started yet. The copy is made with the low-level backup functions and cp:
// the packaged servers come without pg_basebackup, and that of 15 refuses
// newer servers. For tests only: clusters without tablespaces.
func (s *Server) NewStandby(t testing.TB) *Server {
	t.Helper()
	dir := filepath.Join(TempDir(t), "data")
	standby := Adopt(t, s.Version, dir)
	label, err := s.copyTo(dir)
	if err != nil {
		t.Fatalf("copy server %s: %v", s.Version, err)
	}
	for name, content := range map[string]string{"backup_label": label, "standby.signal": ""} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	Own(t, dir)
	standby.Configure(t, map[string]string{"primary_conninfo": strings.TrimSuffix(s.DSN(), " connect_timeout=5")})
	return standby
}

// copyTo copies the data directory between start and stop of a backup and
// returns the backup_label. WAL comes by streaming: pg_wal is not copied, and
// wal_keep_size is not needed, since the standby starts at once.
func (s *Server) copyTo(dir string) (label string, err error) {
	ctx := context.Background()
	conn, err := s.Connect(ctx, "postgres")
	if err != nil {
		return "", err
	}
	defer conn.Close(ctx)
	start, stop := "pg_backup_start('standby', true)", "pg_backup_stop(false)"
	if major(s.Version) < 15 {
		start, stop = "pg_start_backup('standby', true, false)", "pg_stop_backup(false, false)"
	}
	if _, err := conn.Exec(ctx, "SELECT "+start).ReadAll(); err != nil {
		return "", err
	}
	// Files may vanish while tar reads them: exit code 1 says only that.
	script := `mkdir -m 0700 "$2" && tar -C "$1" --exclude=./pg_wal/?* --exclude=./postmaster.* --warning=no-file-changed ` +
		`--warning=no-file-removed --ignore-failed-read -cf - . | tar -C "$2" -xf -`
	var out bytes.Buffer
	cmd := exec.Command("sh", "-c", script, "sh", s.Dir, dir)
	cmd.Stderr = &out
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%w: %s", err, &out)
	}
	results, err := conn.Exec(ctx, "SELECT labelfile FROM "+stop).ReadAll()
	if err != nil {
		return "", err
	}
	// Archive recovery asks for pg_wal/archive_status on some versions.
	return string(results[0].Rows[0][0]), os.MkdirAll(filepath.Join(dir, "pg_wal", "archive_status"), 0o700)
}
