// Package walrules holds pgtrove to what PostgreSQL demands of archive_command and restore_command, and `pgtrove check` to what it says of
// them, on real servers of every version. Every test ends in a full check of the repository that it wrote.
package walrules

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/test/pgtest"
)

// TestMain lets more tests run at once than there are processors: most of the time they wait for a server.
func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "5"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	os.Exit(m.Run())
}

// archive is a repository, in a directory unless a test says otherwise.
type archive struct {
	t    *testing.T
	dir  string // scratch
	repo string
	key  string
	more []string // environment
}

func newArchive(t *testing.T) *archive {
	t.Helper()
	a := &archive{t: t, dir: pgtest.TempDir(t)}
	a.repo, a.key = filepath.Join(a.dir, "repo"), filepath.Join(a.dir, "identity.txt")
	a.init()
	return a
}

func (a *archive) init() {
	a.t.Helper()
	pgtest.MustRun(a.t, a.command("init"))
	a.t.Cleanup(func() {
		if !a.t.Failed() {
			pgtest.MustRun(a.t, a.command("verify", "--read-data"))
		}
	})
}

func (a *archive) env() []string {
	return append([]string{"PGTROVE_REPO=" + a.repo, "PGTROVE_KEY_FILE=" + a.key}, a.more...)
}

// command prepares pgtrove without a server.
func (a *archive) command(args ...string) *exec.Cmd {
	cmd := pgtest.Command(a.t, a.dir, "pgtrove", args...)
	cmd.Env = append(cmd.Env, a.env()...)
	return cmd
}

// server starts a cluster with small segments that archives here, unless o says otherwise.
func (a *archive) server(version string, o pgtest.Options) *pgtest.Server {
	a.t.Helper()
	conf := map[string]string{"archive_mode": "on", "archive_command": push(a.t), "autovacuum": "off", "checkpoint_timeout": "1h"}
	for k, v := range o.Conf {
		conf[k] = v
	}
	o.Conf = conf
	if o.WALSegMB == 0 {
		o.WALSegMB = 1
	}
	s := pgtest.New(a.t, version, o)
	s.ExtraEnv = a.env()
	s.Start(a.t)
	return s
}

// push is an archive_command.
func push(t *testing.T, flags ...string) string {
	return strings.Join(append(append([]string{pgtest.Binary(t), "wal", "push"}, flags...), "%p"), " ")
}

// inData prepares pgtrove as the server runs it.
func inData(s *pgtest.Server, args ...string) *exec.Cmd {
	cmd := s.Command("pgtrove", args...)
	cmd.Dir = s.Dir
	return cmd
}

// set changes settings of a running server, which has taken them over when it returns.
func set(t *testing.T, s *pgtest.Server, conf map[string]string) {
	t.Helper()
	s.Configure(t, conf)
	s.Reload(t)
	for name, value := range conf {
		s.WaitQuery(t, "SELECT current_setting('"+name+"') IN ('"+strings.ReplaceAll(value, "'", "''")+"', '(disabled)')", "t", time.Minute)
	}
}

// fetched is what the repository holds under a name; nil where that is nothing.
func (a *archive) fetched(s *pgtest.Server, name string, flags ...string) []byte {
	a.t.Helper()
	to := filepath.Join(a.dir, "fetched")
	r := pgtest.Run(a.t, inData(s, append([]string{"wal", "fetch", "--ahead", "0", name, to}, flags...)...))
	switch r.Code {
	case 4:
		return nil
	case 0:
		return read(a.t, to)
	}
	a.t.Fatalf("fetch %s: exit %d\n%s", name, r.Code, r.Stderr)
	return nil
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
		t.Fatal(err)
	}
	pgtest.Own(t, path)
}

// inWAL is a file of pg_wal.
func inWAL(s *pgtest.Server, name string) string { return filepath.Join(s.Dir, "pg_wal", name) }

// eventually waits for something that takes as long as it takes.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not so after two minutes", what)
		}
	}
}

// finding is a line of check.
type finding struct{ Name, Status, Text, Hint string }

func (f finding) says(status string, parts ...string) bool {
	for _, p := range parts {
		if !strings.Contains(f.Text+"\n"+f.Hint, p) {
			return false
		}
	}
	return f.Status == status
}

// check runs pgtrove check and returns what it found under a name.
func check(t *testing.T, s *pgtest.Server, name string, with ...string) (all []finding) {
	t.Helper()
	cmd := s.Command("pgtrove", "check", "--json")
	for _, w := range with {
		if strings.HasPrefix(w, "-") {
			cmd.Args = append(cmd.Args, w)
		} else {
			cmd.Env = append(cmd.Env, w)
		}
	}
	r := pgtest.Run(t, cmd)
	problems := 0
	for line := range bytes.Lines([]byte(r.Stdout)) {
		var f finding
		if err := json.Unmarshal(line, &f); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if f.Status == "problem" {
			problems++
		}
		if f.Name == name {
			all = append(all, f)
		}
	}
	if want := min(problems, 1) * 3; r.Code != want {
		t.Fatalf("check: exit %d with %d problems\n%s%s", r.Code, problems, r.Stdout, r.Stderr)
	}
	return all
}

// finds fails the test unless check finds exactly this under a name.
func finds(t *testing.T, s *pgtest.Server, name, status string, parts []string, with ...string) {
	t.Helper()
	if all := check(t, s, name, with...); len(all) != 1 || !all[0].says(status, parts...) {
		t.Errorf("check finds %+v, want one that is %q and says %q", all, status, parts)
	}
}
