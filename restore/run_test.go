package restore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/pgtrove/pgtrove/snapshot"
)

func recovery() *Recovery { return &Recovery{Command: "pgtrove wal fetch %f %p"} }

// restored reads a data directory back: the contents of files, and what else there is.
func restored(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		switch {
		case d.IsDir():
			out[rel] = "directory"
		case d.Type()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			out[rel] = "-> " + target
			return err
		default:
			b, err := os.ReadFile(path)
			out[rel] = string(b)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestARestoreWritesEveryFileAsItWas(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	c := newCluster(t)
	for i := range 30 {
		c.files[fmt.Sprintf("data/base/1/%d", 1000+i)] = pages(r, r.IntN(100))
	}
	large := pages(r, 1500)
	c.files["data/base/1/large"] = large
	c.files["data/base/1/copy of large"] = large // every chunk has two places
	c.files["data/base/1/zeros"] = make([]byte, 500*8192)
	c.files["data/base/1/empty"] = []byte{}
	c.files["data/pg_xact/0000"] = bytes.Repeat([]byte("clog"), 300_000)
	c.entries = append(c.entries, snapshot.Entry{Path: "data/link", Type: snapshot.Symlink, Mode: 0o777, Owner: me(), Link: "base/1"})
	m := c.take(t, "snap")

	dir := filepath.Join(t.TempDir(), "new", "data")
	var written, fetched atomic.Int64
	report, err := Run(t.Context(), c.repo, Options{
		Snapshot: m, To: dir, Jobs: 3, Recovery: recovery(),
		Events: Events{Written: func(n int64) { written.Add(n) }, Fetched: func(n int64) { fetched.Add(n) }},
	})
	if err != nil {
		t.Fatal(err)
	}
	got := restored(t, dir)
	for path, want := range c.files {
		rel := strings.TrimPrefix(path, "data/")
		if got[rel] != string(want) {
			t.Errorf("%s differs", rel)
		}
		info, err := os.Stat(filepath.Join(dir, rel))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != 0o600 || !info.ModTime().Equal(modified) {
			t.Errorf("%s: mode %v, modified %v", rel, info.Mode(), info.ModTime())
		}
		delete(got, rel)
	}
	for rel, want := range map[string]string{
		"link": "-> base/1", "backup_label": string(m.BackupLabel), "recovery.signal": "",
		"postgresql.auto.conf": "# Recovery settings by pgtrove, for snapshot snap\nrestore_command = 'pgtrove wal fetch %f %p'\n",
	} {
		if got[rel] != want {
			t.Errorf("%s: %q, want %q", rel, got[rel], want)
		}
		delete(got, rel)
	}
	for rel, what := range got {
		if what != "directory" {
			t.Errorf("%s is there: %q", rel, what)
		}
	}
	for _, rel := range []string{".", "pg_wal/archive_status", "pg_replslot", "pg_stat_tmp", "base/1"} {
		if info, err := os.Stat(filepath.Join(dir, rel)); err != nil || info.Mode() != fs.ModeDir|0o700 {
			t.Errorf("directory %s: %v, %v", rel, info, err)
		}
	}
	if written.Load() != m.Totals.Size || report.Bytes != m.Totals.Size || report.Files != m.Totals.Files {
		t.Errorf("told of %d bytes, report of %d bytes in %d files; the snapshot has %d in %d",
			written.Load(), report.Bytes, report.Files, m.Totals.Size, m.Totals.Files)
	}
	for key, n := range c.repo.reads {
		if n > int64(len(c.repo.packs[key])) {
			t.Errorf("%d bytes were read of %s, which has %d", n, key, len(c.repo.packs[key]))
		}
	}
	for id, n := range c.repo.opened {
		if n > 1 && c.repo.index[id].Form != 0 {
			t.Errorf("chunk %s was opened %d times", id.Short(), n)
		}
	}
	if info, err := os.Stat(filepath.Join(dir, "base/1/zeros")); err != nil || info.Sys().(*syscall.Stat_t).Blocks > 16 {
		t.Errorf("zero pages take room on disk: %v", err)
	}
}

func TestAClusterLargerThanAPlanIsRestoredInSeveral(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	c := newCluster(t)
	for i := range 100 {
		c.files[fmt.Sprintf("data/base/1/%d", i)] = pages(r, 1+r.IntN(50))
	}
	m := c.take(t, "snap")
	o := Options{Snapshot: m, To: filepath.Join(t.TempDir(), "data"), Jobs: 2, Recovery: recovery()}
	d, err := o.destination()
	if err != nil {
		t.Fatal(err)
	}
	l, err := d.make(&o)
	if err != nil {
		t.Fatal(err)
	}
	run := &runner{c: newSource(c.repo, nil), o: &o, limits: limits{uses: 40, files: 11, recipes: 4, bytes: 100 * 8192}, layout: l, report: &Report{Dir: d.dir}}
	if err := errors.Join(run.run(t.Context()), l.close()); err != nil {
		t.Fatal(err)
	}
	got := restored(t, d.dir)
	for path, want := range c.files {
		if got[strings.TrimPrefix(path, "data/")] != string(want) {
			t.Errorf("%s differs", path)
		}
	}
}

func TestARestoreThatIsInterruptedSaysSoAndCannotStart(t *testing.T) {
	c := newCluster(t)
	c.files["data/base/1/1"] = pages(rand.New(rand.NewPCG(5, 6)), 2000)
	m := c.take(t, "snap")
	failed := errors.New("cable pulled")
	for name, cut := range map[string]func(context.CancelCauseFunc){
		"cancelled":    func(cancel context.CancelCauseFunc) { cancel(failed) },
		"storage gone": func(context.CancelCauseFunc) { c.repo.fail(failed) },
	} {
		dir := filepath.Join(t.TempDir(), "data")
		ctx, cancel := context.WithCancelCause(t.Context())
		defer cancel(nil)
		c.repo.failRead = nil
		_, err := Run(ctx, c.repo, Options{Snapshot: m, To: dir, Recovery: recovery(), Events: Events{Fetched: func(int64) {
			go cancel(nil) // never waits for the restore's own lock
			cut(cancel)
		}}})
		if err == nil {
			t.Fatalf("%s: finished", name)
		}
		c.repo.failRead = nil
		if _, err := os.Stat(filepath.Join(dir, "global/pg_control")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: pg_control: %v", name, err)
		}
		if b, err := os.ReadFile(filepath.Join(dir, Marker)); err != nil || !strings.Contains(string(b), "snap") {
			t.Errorf("%s: marker: %q, %v", name, b, err)
		}
		var refused *RefusedError
		_, err = Run(t.Context(), c.repo, Options{Snapshot: m, To: dir, Recovery: recovery()})
		if !errors.As(err, &refused) || !strings.Contains(refused.Reason, "not empty") || !strings.Contains(refused.Reason, "did not finish") {
			t.Errorf("%s: again: %v", name, err)
		}
	}
}

func TestDamageStopsARestoreAndNamesTheObject(t *testing.T) {
	c := newCluster(t)
	c.files["data/base/1/1"] = pages(rand.New(rand.NewPCG(7, 8)), 300)
	m := c.take(t, "snap")
	key := ""
	for k, d := range c.repo.dirs {
		if d.Kind == 1 && len(d.Entries) > 1 {
			key = k
		}
	}
	whole := c.repo.packs[key]
	for name, damage := range map[string]func() []byte{
		"flipped":   func() []byte { b := slices.Clone(whole); b[len(b)/3] ^= 1; return b },
		"truncated": func() []byte { return whole[:len(whole)/2] },
		"cut short": func() []byte { return whole[:len(whole)-1] }, // behind the last chunk
		"missing":   func() []byte { return nil },
	} {
		if b := damage(); b != nil {
			c.repo.packs[key] = b
		} else {
			delete(c.repo.packs, key)
		}
		dir := filepath.Join(t.TempDir(), "data")
		_, err := Run(t.Context(), c.repo, Options{Snapshot: m, To: dir, Jobs: 2, Recovery: recovery()})
		if !errors.Is(err, errBroken) && !errors.Is(err, ErrMismatch) || !strings.Contains(err.Error(), key) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Stat(filepath.Join(dir, "global/pg_control")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: pg_control: %v", name, err)
		}
	}
}

func TestTheControlFileMustBeTheClusters(t *testing.T) {
	c := newCluster(t)
	m := c.take(t, "snap")
	m.Server.SystemID++
	dir := filepath.Join(t.TempDir(), "data")
	if _, err := Run(t.Context(), c.repo, Options{Snapshot: m, To: dir, Recovery: recovery()}); !errors.Is(err, ErrMismatch) {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "global/pg_control")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("pg_control: %v", err)
	}
}

func TestACopyThatMustNotArchiveIsToldSo(t *testing.T) {
	c := newCluster(t)
	c.files["data/postgresql.auto.conf"] = []byte("archive_mode = 'on'") // no line end
	m := c.take(t, "snap")
	for name, o := range map[string]Options{
		"recovery": {Recovery: recovery()},
		"none":     {FetchWAL: func(context.Context, string) ([]byte, error) { return nil, nil }},
	} {
		o.Snapshot, o.To, o.ArchiveOff = m, filepath.Join(t.TempDir(), "data"), true
		if _, err := Run(t.Context(), c.repo, o); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(o.To, "postgresql.auto.conf"))
		if err != nil || !strings.HasPrefix(string(b), "archive_mode = 'on'\n") || !strings.HasSuffix(string(b), "\narchive_mode = 'off'\n") {
			t.Errorf("%s: %v\n%s", name, err, b)
		}
		if strings.Contains(string(b), "restore_command") != (o.Recovery != nil) {
			t.Errorf("%s: %s", name, b)
		}
	}
}

func TestWithoutRecoveryTheWALLiesReady(t *testing.T) {
	c := newCluster(t)
	m := c.take(t, "snap")
	dir := filepath.Join(t.TempDir(), "data")
	_, err := Run(t.Context(), c.repo, Options{
		Snapshot: m, To: dir, WAL: []string{"00000002.history", "000000020000000000000002"},
		FetchWAL: func(_ context.Context, name string) ([]byte, error) { return []byte("content of " + name), nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	got := restored(t, dir)
	if got["pg_wal/000000020000000000000002"] != "content of 000000020000000000000002" || got["pg_wal/00000002.history"] == "" {
		t.Error("pg_wal is not as ordered")
	}
	for _, name := range []string{"recovery.signal", "standby.signal", "postgresql.auto.conf"} {
		if _, ok := got[name]; ok {
			t.Errorf("%s was made", name)
		}
	}
	if got["backup_label"] == "" {
		t.Error("no backup_label")
	}
}

func TestModesOfAClusterWithGroupAccessComeBack(t *testing.T) {
	c := newCluster(t)
	for i := range c.entries {
		c.entries[i].Mode = 0o750
	}
	m := c.take(t, "snap")
	dir := filepath.Join(t.TempDir(), "data")
	if err := os.Mkdir(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := Run(t.Context(), c.repo, Options{Snapshot: m, To: dir, Recovery: recovery()}); err != nil {
		t.Fatal(err)
	}
	for rel, want := range map[string]fs.FileMode{
		".": fs.ModeDir | 0o750, "global": fs.ModeDir | 0o750, "pg_wal/archive_status": fs.ModeDir | 0o750,
		"backup_label": 0o640, "recovery.signal": 0o640, "postgresql.auto.conf": 0o640, "PG_VERSION": 0o600,
	} {
		if info, err := os.Stat(filepath.Join(dir, rel)); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v, want %v", rel, info.Mode(), err, want)
		}
	}
}

func TestFilesFromElsewhereComeBackInsideAndAreReported(t *testing.T) {
	c := newCluster(t)
	c.dir("config", 0o755)
	c.dir("config/conf.d", 0o755)
	for path, link := range map[string]string{
		"config/postgresql.conf": "/etc/postgresql/15/main/postgresql.conf", "config/conf.d/a.conf": "/etc/postgresql/15/main/conf.d/a.conf",
		"data/server.crt": "/etc/ssl/server.crt",
	} {
		c.files[path] = []byte("recovery_target_name = 'old' # of " + path + "\n")
		c.links[path] = link
	}
	m := c.take(t, "snap")
	dir := filepath.Join(t.TempDir(), "data")
	rec := recovery()
	rec.Target = Target{Kind: Immediate}
	report, err := Run(t.Context(), c.repo, Options{Snapshot: m, To: dir, Recovery: rec})
	if err != nil {
		t.Fatal(err)
	}
	got := restored(t, dir)
	for _, path := range []string{"postgresql.conf", "conf.d/a.conf"} {
		if got[ConfigDir+"/"+path] != string(c.files["config/"+path]) {
			t.Errorf("%s is not beside the data", path)
		}
	}
	want := []Moved{
		{"/etc/postgresql/15/main/conf.d/a.conf", filepath.Join(dir, ConfigDir, "conf.d/a.conf")},
		{"/etc/postgresql/15/main/postgresql.conf", filepath.Join(dir, ConfigDir, "postgresql.conf")},
	}
	if !slices.Equal(report.Config, want) {
		t.Errorf("reported: %v", report.Config)
	}
	if want := []Moved{{"/etc/ssl/server.crt", filepath.Join(dir, "server.crt")}}; !slices.Equal(report.Links, want) {
		t.Errorf("links reported: %v", report.Links)
	}
	// What the old configuration sets would be a second target.
	if conf := got["postgresql.auto.conf"]; !strings.Contains(conf, "\nrecovery_target_name = ''\n") {
		t.Errorf("postgresql.auto.conf:\n%s", conf)
	}
}
