package pgsource_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/pgsource"
	"github.com/pgtrove/pgtrove/snapshot"
	"github.com/pgtrove/pgtrove/test/pgtest"
)

// tryChanges takes a backup and returns what Changes said.
func tryChanges(t *testing.T, s *pgtest.Server, parent *snapshot.Manifest) (*pgsource.Changes, error) {
	t.Helper()
	c := connect(t, s)
	defer closeNow(t, c)
	b := start(t, c)
	changes, err := b.ChangesWithin(t.Context(), parent, startTimeout)
	stop(t, b)
	return changes, err
}

func mustHaveSummaries(t *testing.T, s *pgtest.Server, parent *snapshot.Manifest) {
	t.Helper()
	if _, err := tryChanges(t, s, parent); err != nil {
		t.Errorf("with all summaries: %v", err)
	}
}

// mustHaveNoSummaries wants the error to say why.
func mustHaveNoSummaries(t *testing.T, s *pgtest.Server, parent *snapshot.Manifest, why string) {
	t.Helper()
	if _, err := tryChanges(t, s, parent); !errors.Is(err, pgsource.ErrNoSummaries) || !strings.Contains(err.Error(), why) {
		t.Errorf("%v, want ... %s", err, why)
	}
}

func TestSummariesMustBeComplete(t *testing.T) {
	eachSummaryVersion(t, func(t *testing.T, version string) {
		s := summarizing(t, version)
		s.Exec(t, "CREATE TABLE x (n int); INSERT INTO x VALUES (1)")
		p := takeManifest(t, s, "one")
		for range 3 {
			s.Exec(t, "UPDATE x SET n = n + 1")
			s.Exec(t, "CHECKPOINT")
		}
		mustHaveSummaries(t, s, p)
		t.Run("a file is missing", func(t *testing.T) { missingFileIsNoticed(t, s, p) })
		t.Run("a file is damaged", func(t *testing.T) { damagedFileIsNoticed(t, s, p) })
		t.Run("a file of another timeline", func(t *testing.T) { otherTimelinesDoNotCount(t, s, p) })
		t.Run("the future", func(t *testing.T) { parentMustBeOfThePast(t, s, p) })
		t.Run("a grant is missing", func(t *testing.T) { missingGrantIsNamed(t, s, p) })
		t.Run("the summarizer is behind", func(t *testing.T) { summarizerIsWaitedFor(t, s, p) })
		t.Run("the summarizer is stuck", func(t *testing.T) { stuckSummarizerIsGivenUp(t, s, p) })
		t.Run("nothing to summarize", func(t *testing.T) { nothingNeedsNoSummaries(t, s, p) })
		t.Run("switched off", func(t *testing.T) { switchedOffIsNoticed(t, s, p) })
	})
}

// summaryFiles are those that a parent's successor needs, in the order of their positions.
func summaryFiles(t *testing.T, s *pgtest.Server, p *snapshot.Manifest) []string {
	t.Helper()
	text := s.Query(t, fmt.Sprintf("SELECT lpad(upper(to_hex(tli)), 8, '0') || ' ' || start_lsn || ' ' || end_lsn "+
		"FROM pg_available_wal_summaries() WHERE end_lsn > '%s' ORDER BY start_lsn", p.Window.StartLSN))
	var files []string
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		from, err1 := pg.ParseLSN(words[1])
		to, err2 := pg.ParseLSN(words[2])
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		files = append(files, filepath.Join(s.Dir, "pg_wal", "summaries", fmt.Sprintf("%s%016X%016X.summary", words[0], uint64(from), uint64(to))))
	}
	return files
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

func missingFileIsNoticed(t *testing.T, s *pgtest.Server, p *snapshot.Manifest) {
	files := summaryFiles(t, s, p)
	for _, i := range []int{0, len(files) / 2, len(files) - 1} {
		rename(t, files[i], files[i]+".away")
		mustHaveNoSummaries(t, s, p, "there is no summary from ")
		rename(t, files[i]+".away", files[i])
	}
	mustHaveSummaries(t, s, p)
}

func damagedFileIsNoticed(t *testing.T, s *pgtest.Server, p *snapshot.Manifest) {
	file := summaryFiles(t, s, p)[1]
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	damaged := slices.Clone(data)
	damaged[len(damaged)/2] ^= 1
	for _, content := range [][]byte{damaged, data} {
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if &content[0] == &damaged[0] {
			mustHaveNoSummaries(t, s, p, "read WAL summary ")
		} else {
			mustHaveSummaries(t, s, p)
		}
	}
}

// A summary of the same positions on a timeline that is none of ours says nothing of our WAL.
func otherTimelinesDoNotCount(t *testing.T, s *pgtest.Server, p *snapshot.Manifest) {
	file := summaryFiles(t, s, p)[1]
	other := filepath.Join(filepath.Dir(file), "00000005"+filepath.Base(file)[8:])
	rename(t, file, other)
	mustHaveNoSummaries(t, s, p, "there is no summary from ")
	rename(t, other, file)
	mustHaveSummaries(t, s, p)
}

func parentMustBeOfThePast(t *testing.T, s *pgtest.Server, p *snapshot.Manifest) {
	later, other := *p, *p
	later.Window.StartLSN += 1 << 40
	other.Window.Timeline = 2
	for _, m := range []*snapshot.Manifest{&later, &other} {
		mustHaveNoSummaries(t, s, m, "is not in the past of")
	}
}

func missingGrantIsNamed(t *testing.T, s *pgtest.Server, p *snapshot.Manifest) {
	s.Exec(t, `CREATE ROLE saver LOGIN; GRANT pg_read_all_settings TO saver; GRANT EXECUTE ON FUNCTION pg_backup_start(text, boolean) TO saver;
		GRANT EXECUTE ON FUNCTION pg_backup_stop(boolean) TO saver`)
	c, err := pgsource.Connect(t.Context(), pgsource.Options{DSN: strings.ReplaceAll(s.DSN(), "user=postgres", "user=saver")})
	if err != nil {
		t.Fatal(err)
	}
	defer closeNow(t, c)
	for _, f := range []string{"pg_get_wal_summarizer_state()", "pg_available_wal_summaries()", "pg_wal_summary_contents(bigint, pg_lsn, pg_lsn)"} {
		s.Exec(t, "REVOKE EXECUTE ON FUNCTION "+f+" FROM PUBLIC")
		b := start(t, c)
		_, err := b.Changes(t.Context(), p)
		var lacks *pgsource.PrivilegeError
		if want := "GRANT EXECUTE ON FUNCTION pg_catalog." + f + " TO saver;"; !errors.Is(err, pgsource.ErrNoSummaries) ||
			!errors.As(err, &lacks) || !slices.Equal(lacks.Missing, []string{want}) {
			t.Errorf("%v, want %s", err, want)
		}
		stop(t, b) // the backup goes on
		s.Exec(t, "GRANT EXECUTE ON FUNCTION "+f+" TO PUBLIC")
	}
}

// pauseSummarizer makes the summarizer stand still until the function that it returns is called, or the test ends.
func pauseSummarizer(t *testing.T, s *pgtest.Server) (goOn func()) {
	t.Helper()
	pid, err := strconv.Atoi(s.Query(t, "SELECT summarizer_pid FROM pg_get_wal_summarizer_state()"))
	if err != nil {
		t.Fatal(err)
	}
	signal := func(sig syscall.Signal) {
		if err := syscall.Kill(pid, sig); err != nil {
			t.Error(err)
		}
	}
	signal(syscall.SIGSTOP)
	going := false
	goOn = func() {
		if !going {
			going = true
			signal(syscall.SIGCONT)
		}
	}
	t.Cleanup(goOn)
	return goOn
}

func summarizerIsWaitedFor(t *testing.T, s *pgtest.Server, p *snapshot.Manifest) {
	goOn := pauseSummarizer(t, s)
	s.Exec(t, "UPDATE x SET n = n + 1")
	c := connect(t, s)
	b := start(t, c)
	result := make(chan error)
	go func() {
		_, err := b.Changes(t.Context(), p)
		result <- err
	}()
	select {
	case err := <-result:
		t.Fatalf("while the summarizer stands still: %v", err)
	case <-time.After(500 * time.Millisecond):
	}
	goOn()
	if err := <-result; err != nil {
		t.Error(err)
	}
	stop(t, b)
}

func stuckSummarizerIsGivenUp(t *testing.T, s *pgtest.Server, p *snapshot.Manifest) {
	pauseSummarizer(t, s)
	s.Exec(t, "UPDATE x SET n = n + 1")
	c := connect(t, s)
	b := start(t, c)
	begun := time.Now()
	if _, err := b.ChangesWithin(t.Context(), p, time.Second); !errors.Is(err, pgsource.ErrNoSummaries) || time.Since(begun) < time.Second {
		t.Errorf("after %s: %v", time.Since(begun), err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := b.Changes(ctx, p); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, pgsource.ErrNoSummaries) {
		t.Errorf("with a deadline: %v", err)
	}
}

func nothingNeedsNoSummaries(t *testing.T, s *pgtest.Server, p *snapshot.Manifest) {
	pauseSummarizer(t, s)
	c := connect(t, s)
	b := start(t, c)
	same := *p
	same.Window.StartLSN = b.StartLSN
	changes, err := b.ChangesWithin(t.Context(), &same, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if relations, blocks := changes.Count(); relations != 0 || blocks != 0 {
		t.Errorf("%d relations, %d blocks", relations, blocks)
	}
	stop(t, b)
}

func switchedOffIsNoticed(t *testing.T, s *pgtest.Server, p *snapshot.Manifest) {
	goOn := pauseSummarizer(t, s)
	s.Exec(t, "UPDATE x SET n = n + 1")
	b := start(t, connect(t, s))
	s.Exec(t, "ALTER SYSTEM SET summarize_wal = off")
	s.Reload(t)
	if _, err := b.Changes(t.Context(), p); !errors.Is(err, pgsource.ErrNoSummaries) || !strings.Contains(err.Error(), "was switched off") {
		t.Errorf("switched off meanwhile: %v", err)
	}
	stop(t, b)
	goOn()
	mustHaveNoSummaries(t, s, p, "summarize_wal is off")
	// Nothing keeps WAL for the summarizer now. What is removed it never sees.
	for range 5 {
		s.Exec(t, "UPDATE x SET n = n + 1")
		s.SwitchWAL(t)
	}
	s.Exec(t, "CHECKPOINT")
	s.Exec(t, "CHECKPOINT")
	s.Exec(t, "ALTER SYSTEM RESET summarize_wal")
	s.Reload(t)
	eventually(t, "summarizing", func() bool {
		return s.Query(t, "SELECT summarizer_pid > 0 FROM pg_get_wal_summarizer_state()") == "t"
	})
	mustHaveNoSummaries(t, s, p, "there is no summary from ")
	p = takeManifest(t, s, "two")
	s.Exec(t, "UPDATE x SET n = n + 1")
	mustHaveSummaries(t, s, p)
}

// asStandby restarts a server as a standby without a primary. It replays its own WAL, and waits.
func asStandby(t *testing.T, s *pgtest.Server) {
	t.Helper()
	s.Stop(t, pgtest.Fast)
	file := filepath.Join(s.Dir, "standby.signal")
	write(t, file, "")
	pgtest.Own(t, file)
	s.Start(t)
}

func promote(t *testing.T, s *pgtest.Server) {
	t.Helper()
	s.Exec(t, "SELECT pg_promote()")
	s.WaitPromoted(t)
}

func TestSummariesAreReadAlongTheHistory(t *testing.T) {
	eachSummaryVersion(t, func(t *testing.T, version string) {
		s := summarizing(t, version)
		s.Exec(t, "CREATE TABLE one AS SELECT generate_series(1, 10000) n; CREATE TABLE two AS SELECT * FROM one; CREATE TABLE three AS SELECT * FROM one")
		p := takeParent(t, s, "one")
		s.Exec(t, "UPDATE one SET n = -n WHERE n % 100 = 0")
		asStandby(t, s)
		promote(t, s)
		s.Exec(t, "UPDATE two SET n = -n WHERE n % 100 = 0")
		s.Exec(t, "CHECKPOINT")
		asStandby(t, s)
		promote(t, s)
		s.Exec(t, "UPDATE three SET n = -n WHERE n % 100 = 0")
		found := p.compare(t, s)
		for _, table := range []string{"one", "two", "three"} {
			if path := pathOf(t, s, table); len(found.differ[path]) == 0 || len(unlisted(t, s, p, found, path)) > 0 {
				t.Errorf("%s: %v differ", table, found.differ[path])
			}
		}
		files := summaryFiles(t, s, p.manifest)
		timelines := make(map[string]bool)
		for _, file := range files {
			timelines[filepath.Base(file)[:8]] = true
			if filepath.Base(file)[:8] == "00000003" {
				continue // the last may begin behind our start
			}
			rename(t, file, file+".away")
			mustHaveNoSummaries(t, s, p.manifest, "there is no summary from ")
			rename(t, file+".away", file)
		}
		if len(timelines) != 3 {
			t.Errorf("there are summaries of the timelines %v", timelines)
		}
		mustHaveSummaries(t, s, p.manifest)
		history := filepath.Join(s.Dir, "pg_wal", "00000003.history")
		rename(t, history, history+".away")
		mustHaveNoSummaries(t, s, p.manifest, "pg_wal has no history of timeline 3")
	})
}

func TestSummariesOfAStandby(t *testing.T) {
	eachSummaryVersion(t, func(t *testing.T, version string) {
		s := summarizing(t, version)
		s.Exec(t, "CREATE TABLE x AS SELECT n, repeat('x', 500) FROM generate_series(1, 2000) n")
		standby := standbyOf(t, s)
		s.Exec(t, "CHECKPOINT")
		catchUp(t, s, standby)
		p := takeParent(t, standby, "one")
		s.Exec(t, "UPDATE x SET n = -n WHERE n % 100 = 0")
		s.Exec(t, "CHECKPOINT")
		catchUp(t, s, standby)
		found := p.compare(t, standby)
		path := pathOf(t, standby, "x")
		if d, n := len(found.differ[path]), len(found.named[path]); d < 15 || n > d+10 {
			t.Errorf("%d pages differ, %d are named", d, n)
		}
	})
}

func TestOlderServersHaveNoSummaries(t *testing.T) {
	s := running(t, "16", pgtest.Options{})
	mustHaveNoSummaries(t, s, takeManifest(t, s, "one"), "PostgreSQL 16 has none")
}
