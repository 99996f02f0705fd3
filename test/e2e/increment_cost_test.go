package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/test/pgtest"
)

// says runs a backup that must succeed, as a person sees it, and whose summary must contain every one of parts.
func (w *world) says(args []string, parts ...string) {
	w.t.Helper()
	r := w.run(append([]string{"backup"}, args...)...)
	if r.Code != 0 {
		w.t.Fatalf("exit %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
	for _, p := range parts {
		if !strings.Contains(r.Stdout, p) {
			w.t.Errorf("the summary lacks %q:\n%s", p, r.Stdout)
		}
	}
}

func TestASnapshotOfAQuietClusterCostsNearlyNothing(t *testing.T) {
	eachVersion(t, []string{"15", "18"}, func(t *testing.T, version string) {
		w := unarchived(t, version, still(summaryConf(version)))
		w.Pgbench(t, "-i", "-s", "2", "-q")
		w.Exec(t, "VACUUM FREEZE")
		w.Exec(t, "CHECKPOINT")
		time.Sleep(settle)
		w.says(nil, "nothing was skipped: it is the first snapshot of this cluster", "pages changed", "added")
		for range 2 {
			m := w.freeze()
			if m.Read > 64<<10 || m.Added > 32<<10 || m.ChangedPages != 0 || m.SkippedFiles+m.Read != m.Size {
				t.Errorf("nothing changed: %d of %d bytes were read, %d added, %d pages changed, %d bytes in files were skipped",
					m.Read, m.Size, m.Added, m.ChangedPages, m.SkippedFiles)
			}
		}
		w.says(nil, "not touched since the last snapshot", "0 pages changed")

		// Every file is read, and nothing else is stored for it.
		m := w.freeze("--paranoid")
		if m.Read != m.Size || m.SkippedFiles+m.SkippedBlocks != 0 || m.Added > 64<<10 {
			t.Errorf("--paranoid: %d of %d bytes were read, %d added", m.Read, m.Size, m.Added)
		}
		w.says([]string{"--paranoid"}, "nothing was skipped: --paranoid asks for it")

		accounts := fileSize(t, w.pathIn("postgres", "pgbench_accounts"))
		w.Exec(t, "UPDATE pgbench_accounts SET abalance = 1 WHERE aid IN (1, 70000, 150000)")
		m = w.freeze()
		if m.ChangedPages < 3 || m.ChangedPages > 100 || m.Added > 300<<10 {
			t.Errorf("an update of three rows: %d pages changed, %d bytes were added", m.ChangedPages, m.Added)
		}
		if version == "15" && m.Read < accounts || version == "18" && (m.Read > 1<<20 || m.SkippedBlocks < accounts-1<<20) {
			t.Errorf("an update of three rows in a file of %d bytes: %d were read, %d of blocks skipped", accounts, m.Read, m.SkippedBlocks)
		}
		if version == "18" {
			w.Exec(t, "UPDATE pgbench_accounts SET abalance = 2 WHERE aid = 7")
			w.says(nil, "of pages that no WAL summary lists")
			w.Exec(t, "ALTER SYSTEM SET summarize_wal = off")
			w.Reload(t)
			w.WaitQuery(t, "SHOW summarize_wal", "off", time.Minute)
			w.Exec(t, "UPDATE pgbench_accounts SET abalance = 3 WHERE aid = 7")
			w.says(nil, "changed files were read in full: no complete WAL summaries: summarize_wal is off")
		}
		drop(t, w.freeze().restored())
	})
}

func TestADirectoryThatCannotBeMarkedIsReadAgain(t *testing.T) {
	w := unarchived(t, "15", still(nil))
	w.table("plain", "1000")
	w.freeze()
	mark := filepath.Join(w.Dir, "pgtrove.last")
	if err := os.Remove(mark); err != nil {
		t.Fatal(err)
	}
	w.says(nil, "nothing was skipped: the last snapshot is no base to skip from: pgtrove.last in the data directory does not name a snapshot in this repository")
	if err := os.Remove(mark); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(mark, 0o700); err != nil { // nobody can put a file in its place
		t.Fatal(err)
	}
	pgtest.Own(t, mark)
	for range 2 {
		r := w.run("backup", "--json")
		if r.Code != 0 || !strings.Contains(r.Stderr, "the next backup will read every file") {
			t.Errorf("exit %d, and it is not said that the next backup will read everything:\n%s", r.Code, r.Stderr)
		}
		if s := lastSnapshot(t, r.Stdout); s.SkippedFiles+s.SkippedBlocks != 0 {
			t.Errorf("%d bytes were skipped", s.SkippedFiles+s.SkippedBlocks)
		}
	}
	if err := os.Remove(mark); err != nil {
		t.Fatal(err)
	}

	// A directory that may only be read, and has an older mark.
	w.freeze()
	if err := os.Chmod(w.Dir, 0o500); err != nil {
		t.Fatal(err)
	}
	r := w.run("backup")
	if err := os.Chmod(w.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if r.Code != 0 || !strings.Contains(r.Stderr, "cannot write pgtrove.last in the data directory, so the next backup will read every file") {
		t.Errorf("exit %d\n%s", r.Code, r.Stderr)
	}
	w.says(nil, "nothing was skipped: the last snapshot is no base to skip from: pgtrove.last in the data directory names another snapshot")
	w.Exec(t, "UPDATE plain SET n = -n WHERE n < 10")
	drop(t, w.freeze().restored())
}

func TestCheckTellsWhatIsMissing(t *testing.T) {
	w := newWorld(t, "18", still(nil))
	w.table("plain", "8000")
	checked := func(code int, parts ...string) {
		t.Helper()
		r := w.run("check")
		if r.Code != code {
			t.Errorf("check: exit %d, want %d\n%s%s", r.Code, code, r.Stdout, r.Stderr)
		}
		for _, p := range parts {
			if !strings.Contains(r.Stdout, p) {
				t.Errorf("check does not say %q:\n%s", p, r.Stdout)
			}
		}
	}
	const hint = "ALTER SYSTEM SET summarize_wal = on; SELECT pg_reload_conf();"
	checked(3, "there is no snapshot", "summarize_wal is off", hint)
	w.Exec(t, "CHECKPOINT")
	time.Sleep(settle)
	w.freeze()
	w.archived()
	checked(0, "summarize_wal is off", hint, "the next backup can skip files that did not change since")
	w.Exec(t, "UPDATE plain SET n = -n WHERE n = 7")
	m := w.freeze()
	w.archived()
	checked(0, fmt.Sprintf("the last backup read %.1f MiB to find", float64(m.Read)/(1<<20)), hint)
	for statement := range strings.SplitSeq(strings.TrimSuffix(hint, ";"), "; ") {
		w.Exec(t, statement)
	}
	w.WaitQuery(t, "SHOW summarize_wal", "on", time.Minute)
	checked(0, "summarize_wal is on")
	if r := w.run("check"); strings.Contains(r.Stdout, hint) || strings.Contains(r.Stdout, "advice") {
		t.Errorf("check still advises:\n%s", r.Stdout)
	}
	if r := w.run("check", "-q"); r.Code != 0 || r.Stdout+r.Stderr != "" {
		t.Errorf("check -q where all is well: exit %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
	for statement := range strings.SplitSeq("ALTER SYSTEM SET archive_command = ''; SELECT pg_reload_conf()", "; ") {
		w.Exec(t, statement)
	}
	w.WaitQuery(t, "SELECT current_setting('archive_command') IN ('', '(disabled)')", "t", time.Minute)
	checked(3, "archive_command")
}

// variant is a copy of a world's repository and of its cache, for one backup.
type variant struct {
	repo, cache string
}

func (w *world) variant(name string) variant {
	w.t.Helper()
	v := variant{filepath.Join(w.dir, name+".repo"), filepath.Join(w.dir, name+".cache")}
	w.copy(w.repo, v.repo)
	w.copy(filepath.Join(w.Home, "cache"), v.cache)
	return v
}

func (w *world) copy(from, to string) {
	w.t.Helper()
	pgtest.MustRun(w.t, pgtest.Command(w.t, w.dir, "cp", "-a", from, to))
}

func (w *world) remove(dir string) {
	w.t.Helper()
	if err := os.RemoveAll(dir); err != nil {
		w.t.Fatal(err)
	}
}

func TestNoCacheMakesAnIncrementLarger(t *testing.T) {
	w := unarchived(t, "15", still(nil))
	w.Pgbench(t, "-i", "-s", "2", "-q")
	old := filepath.Join(w.dir, "old.cache")
	w.freeze()
	w.copy(filepath.Join(w.Home, "cache"), old)
	w.copy(w.repo, filepath.Join(w.dir, "before.repo"))
	w.Pgbench(t, "-n", "-c", "2", "-t", "500")
	w.freeze()

	// Another repository of the same cluster, so that its cache knows the same files by other names.
	repo, key := w.repo, w.key
	foreign := filepath.Join(w.dir, "foreign.cache")
	w.repo, w.key = filepath.Join(w.dir, "foreign.repo"), filepath.Join(w.dir, "foreign.txt")
	w.ExtraEnv = append(w.env(), "XDG_CACHE_HOME="+foreign)
	w.ok("init")
	w.freeze()
	w.repo, w.key = repo, key
	w.ExtraEnv = w.env()

	w.Pgbench(t, "-n", "-c", "2", "-t", "500")
	w.Exec(t, "CHECKPOINT")
	mark := filepath.Join(w.Dir, "pgtrove.last")
	marked := read(t, mark)
	variants := map[string]variant{}
	for _, name := range []string{"same", "again", "lost", "stale", "other's", "garbled", "ahead"} {
		variants[name] = w.variant(name)
	}
	w.remove(variants["lost"].cache)
	w.remove(variants["stale"].cache)
	w.copy(old, variants["stale"].cache)
	putUnderOurNames(t, w, foreign, variants["other's"].cache)
	garble(t, variants["garbled"].cache)
	w.remove(variants["ahead"].repo) // a repository that lost what the cache knows
	w.copy(filepath.Join(w.dir, "before.repo"), variants["ahead"].repo)

	added := map[string]int64{}
	for name, v := range variants {
		overwrite(t, mark, marked)
		w.repo, w.ExtraEnv = v.repo, nil
		w.ExtraEnv = append(w.env(), "XDG_CACHE_HOME="+v.cache)
		m := w.freeze()
		added[name] = m.Added
		w.verify()
		if name != "same" && name != "again" {
			drop(t, m.restored())
		}
	}
	w.repo = repo
	w.ExtraEnv = w.env()
	same := added["same"]
	if same < 100<<10 {
		t.Errorf("the increment added %d bytes: too few to compare", same)
	}
	if n := added["ahead"]; n < same {
		t.Errorf("with a cache that knows chunks which are gone, %d bytes were added, else %d", n, same)
	}
	delete(added, "ahead")
	for name, n := range added {
		if n > same+same/100 || n < same-same/100 {
			t.Errorf("cache %s: %d bytes were added, else %d", name, n, same)
		}
	}
}

// putUnderOurNames makes the only cache below to that of another repository.
func putUnderOurNames(t *testing.T, w *world, from, to string) {
	t.Helper()
	theirs, ours := cacheOf(t, from), cacheOf(t, to)
	w.remove(ours)
	w.copy(theirs, ours)
}

// cacheOf finds the database of a cluster's cache by a file that Badger makes.
func cacheOf(t *testing.T, dir string) (found string) {
	t.Helper()
	err := filepath.Walk(dir, func(path string, _ os.FileInfo, err error) error {
		if err == nil && filepath.Base(path) == "MANIFEST" {
			found = filepath.Dir(path)
		}
		return err
	})
	if err != nil || found == "" {
		t.Fatalf("no cache in %s: %v", dir, err)
	}
	return found
}

// garble changes bytes all over the tables of a cache.
func garble(t *testing.T, dir string) {
	t.Helper()
	err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err != nil || !info.Mode().IsRegular() || info.Size() == 0 {
			return err
		}
		b := read(t, path)
		for i := len(b) / 3; i < len(b); i += 1000 {
			b[i] ^= 0x55
		}
		return os.WriteFile(path, b, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestTwoBackupsAtOnceBothSucceed(t *testing.T) {
	w := unarchived(t, "15", still(nil))
	w.Pgbench(t, "-i", "-s", "2", "-q")
	both := func() {
		t.Helper()
		w.Exec(t, "CHECKPOINT")
		results := make(chan pgtest.Result, 2)
		for range 2 {
			cmd := w.Command("pgtrove", "backup", "--json")
			go func() { results <- pgtest.Run(t, cmd) }()
		}
		var row []*moment
		for range 2 {
			r := <-results
			if r.Code != 0 {
				t.Errorf("exit %d\n%s%s", r.Code, r.Stdout, r.Stderr)
				continue
			}
			row = append(row, &moment{snapshot: lastSnapshot(t, r.Stdout), world: w})
		}
		files, spaces := everyFile(t, w.Dir)
		for _, m := range row {
			m.files, m.spaces = files, spaces
			drop(t, m.restored())
		}
	}
	both()
	w.Pgbench(t, "-n", "-c", "2", "-t", "200")
	both()
	w.Pgbench(t, "-n", "-c", "2", "-t", "200")
	drop(t, w.freeze().restored())
	if n := len(w.snapshots()); n != 5 {
		t.Errorf("%d snapshots", n)
	}
}

// The parent names chunks that are in no pack any more: they are stored again, also those of files that nobody touched.
func TestWhatTheRepositoryLostIsStoredAgain(t *testing.T) {
	eachVersion(t, []string{"18"}, func(t *testing.T, version string) {
		w := unarchived(t, version, still(summaryConf(version)))
		w.Pgbench(t, "-i", "-s", "1", "-q")
		w.Exec(t, "CHECKPOINT")
		time.Sleep(settle)
		row := []*moment{w.freeze()}
		w.Pgbench(t, "-n", "-t", "100")
		w.stopped(func() { // other inodes: the next listing has nothing in common with the first, though most files do
			w.copy(w.Dir, w.Dir+".copy")
			w.remove(w.Dir)
			if err := os.Rename(w.Dir+".copy", w.Dir); err != nil {
				t.Fatal(err)
			}
		})
		w.Exec(t, "CHECKPOINT")
		time.Sleep(settle)
		row = append(row, w.freeze())
		w.remove(filepath.Join(w.repo, "packs", row[0].ID))
		w.remove(filepath.Join(w.repo, "index", row[0].ID))
		m := w.freeze()
		if m.Added < row[0].Added/2 || m.SkippedFiles == 0 {
			t.Errorf("%d bytes were added, and %d skipped; %d are lost", m.Added, m.SkippedFiles, row[0].Added)
		}
		drop(t, m.restored())
		for _, lost := range row {
			w.ok("forget", lost.ID)
		}
		w.verify()
	})
}
