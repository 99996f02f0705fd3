package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/pgtrove/pgtrove/pack"
	"github.com/pgtrove/pgtrove/test/pgtest"
)

// program is a backup program with a repository of its own.
type program struct {
	b   *bench
	s   *pgtest.Server
	dir string // everything of it
}

func (p program) repository() string { return filepath.Join(p.dir, "repository") }

// trove is pgtrove.
type trove struct {
	program
	kinds map[string]pack.Kind // of the packs
}

func newTrove(b *bench, s *pgtest.Server, name string) trove {
	p := trove{program{b, s, b.mkdir(name)}, map[string]pack.Kind{}}
	b.mkdir(name, "home")
	b.must(os.RemoveAll(filepath.Join(s.Dir, "pgtrove.last")))
	pgtest.MustRun(b, p.command("init"))
	return p
}

func (p trove) command(args ...string) *exec.Cmd {
	home := filepath.Join(p.dir, "home")
	cmd := p.s.Command(p.b.exe, args...)
	cmd.Env = append(cmd.Env, "HOME="+home, "XDG_CACHE_HOME="+home, "XDG_CONFIG_HOME="+home,
		"PGTROVE_REPO="+p.repository(), "PGTROVE_KEY_FILE="+filepath.Join(home, "identity.txt"))
	return cmd
}

// taken is a backup by pgtrove, and what it says of itself.
type taken struct {
	measurement
	stored footprint // by which the repository grew

	Type         string `json:"type"`
	Size         int64  `json:"size"`
	Read         int64  `json:"read"`
	Added        int64  `json:"added"`
	ChangedPages int64  `json:"changed_pages"`
	SkippedFiles int64  `json:"skipped_files_bytes"`
	SkippedPages int64  `json:"skipped_blocks_bytes"`
}

// backup takes a snapshot. It ends with 3: without WAL the snapshot is
// unproven.
func (p trove) backup() taken {
	before := p.weigh()
	cmd := p.command("backup", "--wal", "none", "--checkpoint", "fast", "--jobs", strconv.Itoa(p.b.o.jobs), "-q", "--json")
	m := measure(p.b, cmd, p.repository(), 0, 3)
	for line := range strings.Lines(m.stdout) {
		var t taken
		if err := json.Unmarshal([]byte(line), &t); err == nil && t.Type == "snapshot" {
			t.measurement, t.stored = m, p.weigh().minus(before)
			return t
		}
	}
	p.b.Fatalf("pgtrove backup --json printed no snapshot: %q", m.stdout)
	return taken{}
}

func (p trove) weigh() footprint {
	ctx := context.Background()
	r, err := openRepository(ctx, p.repository(), filepath.Join(p.dir, "home", "identity.txt"))
	p.b.must(err)
	f, err := weigh(ctx, r, p.kinds)
	p.b.must(err)
	return f
}

// verify makes sure that what was measured is a backup at all.
func (p trove) verify() { pgtest.MustRun(p.b, p.command("verify", "-q")) }

func (p trove) version() string {
	return "pgtrove " + strings.TrimPrefix(firstLine(pgtest.MustRun(p.b, p.command("version"))), "pgtrove ")
}

// pgbackrest is Debian's pgBackRest.
type pgbackrest struct {
	program
	conf string
}

func newPgbackrest(b *bench, s *pgtest.Server, name string) pgbackrest {
	p := configurePgbackrest(b, s, name, "")
	pgtest.MustRun(b, p.command("stanza-create"))
	return p
}

// configurePgbackrest makes the directory and the configuration, with more
// lines in it.
func configurePgbackrest(b *bench, s *pgtest.Server, name, more string) pgbackrest {
	p := pgbackrest{program: program{b, s, b.mkdir(name)}}
	p.conf = filepath.Join(p.dir, "pgbackrest.conf")
	b.must(os.WriteFile(p.conf, []byte(fmt.Sprintf(`[global]
repo1-path=%s
repo1-retention-full=9
log-path=%[2]s
lock-path=%[2]s
spool-path=%[2]s
log-level-console=warn
log-level-file=off
compress-type=zst
compress-level=1
process-max=%d
start-fast=y
archive-check=n
%s
[bench]
pg1-path=%s
pg1-socket-path=%s
pg1-port=%d
pg1-user=postgres
`, p.repository(), p.dir, b.o.jobs, more, s.Dir, s.SocketDir, s.Port)), 0o644))
	return p
}

func (p pgbackrest) command(args ...string) *exec.Cmd {
	return p.s.Command("pgbackrest", append([]string{"--config=" + p.conf, "--stanza=bench"}, args...)...)
}

// backup makes one of a kind: full, incr.
func (p pgbackrest) backup(kind string) measurement {
	return measure(p.b, p.command("--type="+kind, "backup"), p.repository(), 0)
}

func (p pgbackrest) version() string {
	return firstLine(pgtest.MustRun(p.b, p.s.Command("pgbackrest", "version")))
}

// restic backs up the files of the data directory as a file backup program
// does; it knows of no database.
type restic struct{ program }

func newRestic(b *bench, s *pgtest.Server, name string) restic {
	p := restic{program{b, s, b.mkdir(name)}}
	pgtest.MustRun(b, p.command("init"))
	return p
}

func (p restic) command(args ...string) *exec.Cmd {
	cmd := p.s.Command("restic", append([]string{"-q", "--repo", p.repository(), "--cache-dir", filepath.Join(p.dir, "cache")}, args...)...)
	cmd.Env = append(cmd.Env, "RESTIC_PASSWORD=bench")
	return cmd
}

func (p restic) backup() measurement {
	return measure(p.b, p.command("backup", "--exclude", "pg_wal", p.s.Dir), p.repository(), 0)
}

func (p restic) version() string {
	words := strings.Fields(pgtest.MustRun(p.b, p.s.Command("restic", "version")))
	return strings.Join(words[:min(2, len(words))], " ")
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	return line
}

// settle waits until what was written before is on disk, so that it does not
// slow the next run, and reads the cluster into the page cache.
func settle(b *bench, s *pgtest.Server) {
	if out, err := exec.Command("sync").CombinedOutput(); err != nil {
		b.Fatalf("sync: %v: %s", err, out)
	}
	warm(b, s.Dir)
	time.Sleep(200 * time.Millisecond)
}
