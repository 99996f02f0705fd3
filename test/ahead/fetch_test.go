package ahead

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/pgtrove/pgtrove/test/pgtest"
)

// fetch fetches as recovery in dir does, and compares with the original.
func (w *world) fetch(dir, name string, flags ...string) (said string) {
	w.t.Helper()
	to := filepath.Join(dir, "pg_wal", "RECOVERYXLOG")
	cmd := w.Command("pgtrove", append(append([]string{"wal", "fetch", "-v"}, flags...), name, "pg_wal/RECOVERYXLOG")...)
	cmd.Dir = dir
	r := pgtest.Run(w.t, cmd)
	if r.Code != 0 {
		w.t.Fatalf("fetch %s: exit %d\n%s", name, r.Code, r.Stderr)
	}
	if !bytes.Equal(read(w.t, to), read(w.t, filepath.Join(w.Dir, "pg_wal", name))) {
		w.t.Errorf("%s came back with other content", name)
	}
	if err := os.Remove(to); err != nil {
		w.t.Fatal(err)
	}
	return r.Stderr
}

const hereBefore = "was here before its turn"

// spooled waits until nothing is being fetched, and finds the files that are ready for whoever recovers: segments by their names.
func (w *world) spooled() map[string]string {
	w.t.Helper()
	pgtest.WaitNoPgtrove(w.t, w.Home)
	files, err := filepath.Glob(filepath.Join(w.Home, "cache", "pgtrove", "fetched", "*", "*"))
	if err != nil {
		w.t.Fatal(err)
	}
	found := map[string]string{}
	for _, f := range files {
		if name := filepath.Base(f); len(name) == 24 {
			found[name] = f
		}
	}
	return found
}

// recovering makes a directory that looks like a data directory of the cluster.
func (w *world) recovering() string {
	w.t.Helper()
	dir, err := os.MkdirTemp(w.dir, "recovering-")
	if err != nil {
		w.t.Fatal(err)
	}
	for _, sub := range []string{"global", "pg_wal"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o700); err != nil {
			w.t.Fatal(err)
		}
	}
	overwrite(w.t, filepath.Join(dir, "global", "pg_control"), read(w.t, filepath.Join(w.Dir, "global", "pg_control")))
	pgtest.Own(w.t, dir)
	return dir
}

// archivedBacklog is a world with a stopped server whose segments are all archived.
func archivedBacklog(t *testing.T, n int) (w *world, names []string) {
	t.Helper()
	w = newWorld(t, "15", waiting())
	names = w.backlog(n)
	for _, name := range names {
		w.push(0, name)
	}
	return w, names
}

func TestWhatRecoveryAsksForNextIsThereBefore(t *testing.T) {
	w, names := archivedBacklog(t, 10)
	dir := w.recovering()
	if said := w.fetch(dir, names[0], "--ahead", "4MiB"); strings.Contains(said, hereBefore) {
		t.Error(said)
	}
	ready := w.spooled()
	if len(ready) != 4 || ready[names[1]] == "" || ready[names[4]] == "" {
		t.Errorf("ready are %v", ready)
	}
	if err := os.Rename(w.repo+"/wal", w.repo+"/.away"); err != nil { // the storage is not asked for them
		t.Fatal(err)
	}
	if said := w.fetch(dir, names[1], "--ahead", "4MiB"); !strings.Contains(said, hereBefore) {
		t.Error(said)
	}
	if err := os.Rename(w.repo+"/.away", w.repo+"/wal"); err != nil {
		t.Fatal(err)
	}
	for _, name := range names[2:] {
		w.spooled()
		if said := w.fetch(dir, name, "--ahead", "4MiB"); !strings.Contains(said, hereBefore) {
			t.Errorf("%s: %s", name, said)
		}
	}
	// The end is where the archive ended at that moment, and no longer.
	if ready := w.spooled(); len(ready) != 0 {
		t.Errorf("ready are %v", ready)
	}
	// Not in the order of segments: nothing old is served, and nothing old stays.
	w.fetch(dir, names[0], "--ahead", "4MiB")
	if ready := w.spooled(); len(ready) != 4 {
		t.Errorf("ready are %v", ready)
	}
	w.fetch(dir, names[8], "--ahead", "4MiB")
	if ready := w.spooled(); len(ready) != 1 || ready[names[9]] == "" {
		t.Errorf("ready are %v", ready)
	}
	w.fetch(dir, names[0], "--ahead", "0")
}

func TestADamagedOrForeignFileIsNotServedFromTheSpool(t *testing.T) {
	w, names := archivedBacklog(t, 8)
	dir, other := w.recovering(), w.recovering()
	w.fetch(dir, names[0])
	ready := w.spooled()
	if len(ready) != 7 {
		t.Fatalf("ready are %v", ready)
	}
	if said := w.fetch(other, names[1], "--ahead", "0"); strings.Contains(said, hereBefore) {
		t.Error(said)
	}
	spoil := map[string]func(path string) error{
		names[1]: func(path string) error { b := read(t, path); b[len(b)/2] ^= 1; return os.WriteFile(path, b, 0o600) },
		names[2]: func(path string) error { return os.Truncate(path, 1<<19) },
		names[3]: func(path string) error { return os.WriteFile(path, read(t, ready[names[7]]), 0o600) },
		names[4]: func(path string) error { return os.Truncate(path+".seal", 40) },
		names[5]: func(path string) error { // another segment with its sum
			return os.WriteFile(path+".seal", bytes.ReplaceAll(read(t, ready[names[7]]+".seal"), []byte(names[7]), []byte(names[5])), 0o600)
		},
	}
	for i := 1; i <= 5; i++ {
		if err := spoil[names[i]](ready[names[i]]); err != nil {
			t.Fatal(err)
		}
	}
	for i := 1; i <= 5; i++ {
		w.spooled() // or it may be fetched anew in time
		if said := w.fetch(dir, names[i]); strings.Contains(said, hereBefore) {
			t.Errorf("%s: %s", names[i], said)
		}
	}
	if said := w.fetch(dir, names[6]); !strings.Contains(said, hereBefore) {
		t.Error(said)
	}

	// Another repository in the old one's place: what was fetched from that one is nothing.
	w.fetch(dir, names[0])
	w.spooled()
	if err := os.Rename(w.repo, w.repo+".old"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(w.key, w.key+".old"); err != nil {
		t.Fatal(err)
	}
	w.ok("init")
	cmd := w.Command("pgtrove", "wal", "fetch", names[1], "pg_wal/RECOVERYXLOG")
	cmd.Dir = dir
	if r := pgtest.Run(t, cmd); r.Code != 4 {
		t.Errorf("exit %d\n%s", r.Code, r.Stderr)
	}
}

// TestNeitherAFullDiskNorAKilledProcessHarmsRecovery: what fetches ahead may end anyhow.
func TestNeitherAFullDiskNorAKilledProcessHarmsRecovery(t *testing.T) {
	w, names := archivedBacklog(t, 12)
	dir := w.recovering()
	small := filepath.Join(w.dir, "small")
	if err := os.Mkdir(small, 0o755); err != nil {
		t.Fatal(err)
	}
	if os.Getuid() == 0 {
		if err := syscall.Mount("tmpfs", small, "tmpfs", 0, "size=2500k,mode=777"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			pgtest.WaitNoPgtrove(t, w.Home)
			if err := syscall.Unmount(small, 0); err != nil {
				t.Error(err)
			}
		})
	}
	for _, name := range names[:6] {
		w.fetch(dir, name, "--cache-dir", small)
	}
	pgtest.WaitNoPgtrove(t, w.Home)

	// Killed as soon as it has begun, wherever it is then.
	for _, name := range names[6:] {
		w.fetch(dir, name)
		killPrefetch(t, dir)
	}
	if ready := w.spooled(); len(ready) > 5 {
		t.Errorf("ready are %v", ready)
	}
}

// killPrefetch kills what fetches ahead for dir, if it is there.
func killPrefetch(t *testing.T, dir string) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cwd")
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range all {
		cwd, _ := os.Readlink(link)
		line, _ := os.ReadFile(filepath.Join(filepath.Dir(link), "cmdline"))
		if cwd == dir && bytes.Contains(line, []byte("\x00prefetch\x00")) {
			_ = exec.Command("kill", "-9", filepath.Base(filepath.Dir(link))).Run() // it may have ended
		}
	}
}

func TestTwoStandbysOnOneHostFollowTheArchiveThroughAPromotion(t *testing.T) {
	w := newWorld(t, "15", pgtest.Options{WALSegMB: 1})
	w.Pgbench(t, "-i", "-s", "1", "-q")
	w.backup()
	w.archived()
	// They have nothing but the archive, and share a home, and so a cache.
	standbys := [2]*pgtest.Server{}
	for i := range standbys {
		dir := w.restore("--standby")
		s := pgtest.Adopt(t, w.Version, dir)
		s.Home = w.Home
		s.ExtraEnv = append(w.env(), "PGTROVE_CACHE_DIR="+filepath.Join(w.Home, "cache", "pgtrove"))
		s.Args = append(s.Args, "-c", "archive_mode=on", "-c", "archive_command="+pgtest.Binary(t)+" wal push %p",
			"-c", "restore_command="+pgtest.Binary(t)+" -v wal fetch %f %p")
		standbys[i] = s
	}
	w.segments(20)
	w.archived()
	for _, s := range standbys {
		s.Start(t)
	}
	for _, s := range standbys {
		s.WaitQuery(t, "SELECT count(*) FROM filler", "40000", 1e11)
	}
	for _, s := range standbys {
		if !strings.Contains(s.Log(), hereBefore) {
			t.Errorf("nothing was fetched before its turn:\n%s", s.Log())
		}
	}
	w.Stop(t, pgtest.Fast)
	// One takes over on a new timeline, the other follows.
	standbys[0].Exec(t, "SELECT pg_promote()")
	standbys[0].WaitPromoted(t)
	standbys[0].Exec(t, "CREATE TABLE after AS SELECT generate_series(1, 1000) AS n")
	for range 5 {
		standbys[0].Exec(t, "INSERT INTO after SELECT generate_series(1, 1000)")
		standbys[0].WaitArchived(t, standbys[0].SwitchWAL(t))
	}
	standbys[1].WaitQuery(t, "SELECT count(*) FROM after", "6000", 1e11)
	for _, s := range standbys {
		s.Stop(t, pgtest.Fast)
	}
	pgtest.WaitNoPgtrove(t, w.Home)
}
