package crash

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/gc"
	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/restore"
	"github.com/pgtrove/pgtrove/snapshot"
	"github.com/pgtrove/pgtrove/storage"
	"github.com/pgtrove/pgtrove/storage/mem"
	"github.com/pgtrove/pgtrove/walarchive"
)

const (
	cluster  = "main"
	pageSize = 8192
	dataFile = "data/base/5/16384"
)

// files are a cluster's, by their path in the listing.
type files map[string][]byte

// with is the files with some pages of one of them written.
func (f files) with(path string, seed uint64, pages ...int) files {
	out := files{}
	for p, b := range f {
		out[p] = b
	}
	b := bytes.Clone(f[path])
	r := rand.NewChaCha8(sha256.Sum256(fmt.Append(nil, path, seed)))
	for _, page := range pages {
		for len(b) < (page+1)*pageSize {
			b = append(b, 0)
		}
		_, _ = r.Read(b[page*pageSize : (page+1)*pageSize])
	}
	out[path] = b
	return out
}

func run(from, to int) (pages []int) {
	for p := from; p < to; p++ {
		pages = append(pages, p)
	}
	return pages
}

// world is a repository in memory, and what is to be in it.
type world struct {
	store *mem.Store
	key   age.Identity
	now   *clock
	taken map[string]files // by the ID of the snapshot

	archived uint64          // the last segment of timeline 1 that is in the archive
	narrow   map[string]bool // snapshots that somebody asked to narrow, by ID
}

// clock is the time of all hosts and of the storage.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(time.Second)
	return c.at
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newWorld has a repository with packs of 64 KiB, so that a small cluster takes several.
func newWorld(t testing.TB) *world {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	must(t, err)
	w := &world{key: id, now: &clock{at: time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)}, taken: map[string]files{}, narrow: map[string]bool{}}
	w.store = mem.New(w.now.Now)
	r, err := repo.Init(t.Context(), w.store, id.Recipient(), w.now.Now())
	must(t, err)
	c := r.Config()
	c.Params.PackSize = 1 << 16
	text, err := json.Marshal(c)
	must(t, err)
	must(t, w.store.Delete(t.Context(), "config"))
	must(t, w.store.Put(t.Context(), "config", fmt.Appendf(text, "\nsha256:%x\n", sha256.Sum256(text))))
	return w
}

// clone is a copy of the world that goes its own way.
func (w *world) clone(t testing.TB) *world {
	t.Helper()
	c := &world{key: w.key, now: &clock{}, taken: map[string]files{}, archived: w.archived, narrow: maps.Clone(w.narrow)}
	c.store = mem.New(c.now.Now)
	must(t, w.store.List(t.Context(), "", func(i storage.Info) error {
		b, err := w.store.Get(t.Context(), i.Key, storage.Range{}, nil)
		if err != nil {
			return err
		}
		c.now.at = i.ModTime.Add(-time.Second) // so that the copy is as old
		return c.store.Put(t.Context(), i.Key, b)
	}))
	c.now.at = w.now.at
	for sid, f := range w.taken {
		c.taken[sid] = f
	}
	return c
}

func (w *world) open(t testing.TB, s storage.Store) *repo.Repo {
	t.Helper()
	r, err := repo.Open(t.Context(), s, w.key)
	must(t, err)
	return r
}

func isLoss(err error) bool {
	return errors.Is(err, repo.ErrDamaged) || errors.Is(err, repo.ErrMissing) || errors.Is(err, snapshot.ErrInvalid)
}

type content struct{ *bytes.Reader }

func (content) Close() error           { return nil }
func (c content) Size() (int64, error) { return c.Reader.Size(), nil }

func sources(f files) []snapshot.Source {
	me := snapshot.Owner{UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())}
	var all []snapshot.Source
	for _, dir := range []string{"data", "data/global", "data/base", "data/base/5", "data/pg_wal"} {
		all = append(all, snapshot.Source{Entry: snapshot.Entry{Path: dir, Type: snapshot.Dir, Mode: 0o700, Owner: me}})
	}
	for path, b := range f {
		s := snapshot.Source{
			Entry: snapshot.Entry{Path: path, Type: snapshot.File, Mode: 0o600, Owner: me, Size: int64(len(b))},
			Last:  strings.HasSuffix(path, pg.ControlPath),
			Open:  func() (snapshot.Content, error) { return content{bytes.NewReader(b)}, nil },
		}
		if strings.Contains(path, "/base/") {
			s.Form = 13
		}
		all = append(all, s)
	}
	return all
}

// backup takes a snapshot upon the newest one, as the command does. The ID is that of the session even if that fails, "" if it
// did not begin.
func (w *world) backup(ctx context.Context, r *repo.Repo, f files) (sid string, err error) {
	parent, err := w.newest(ctx, r)
	if err != nil {
		return "", err
	}
	control, err := pg.ParseControl(f["data/"+pg.ControlPath])
	if err != nil {
		return "", err
	}
	o := repo.SessionOptions{Cluster: cluster, Host: "db1", Now: w.now.Now}
	err = r.Write(ctx, o, func(ctx context.Context, s *repo.Session) error {
		sid = s.ID()
		o := snapshot.Options{Jobs: 1, Key: r.IDKey(), NewWriter: func() (snapshot.Writer, error) { return s.NewWriter() }, Notes: s, Known: &snapshot.Known{}}
		if err := s.Leftovers(ctx, func(id chunk.ID, _ chunk.Form, d []chunk.Prefix) error { o.Known.Add(id, d); return nil }); err != nil {
			return err
		}
		if parent != nil {
			var err error
			if o.Parent, err = snapshot.LoadParent(ctx, parent, s); err != nil {
				return err
			}
			o.Parent.IsLoss = isLoss
		}
		res, err := snapshot.Take(ctx, sources(f), o)
		if err != nil {
			return err
		}
		m := &snapshot.Manifest{
			Version: snapshot.Version, ID: sid, Cluster: cluster,
			Server: snapshot.Server{SystemID: control.SystemID, Version: 150018, BlockSize: pageSize, WALSegmentSize: segmentSize, DataDirectory: "/was/here"},
			Window: w.window(),
			Totals: snapshot.Totals{Size: res.Size, Files: res.Files}, BackupLabel: []byte("START WAL LOCATION: 0/2000028\n"), Root: res.Root,
		}
		text, err := m.Marshal()
		if err != nil {
			return err
		}
		return s.Commit(ctx, text)
	})
	return sid, err
}

func (w *world) newest(ctx context.Context, r *repo.Repo) (newest *snapshot.Manifest, err error) {
	err = r.Commits(ctx, cluster, func(c repo.Commit) error {
		if c.Err != nil {
			return c.Err
		}
		newest, err = snapshot.ParseManifest(c.Manifest)
		return err
	})
	return newest, err
}

// take is backup in a test that needs it.
func (w *world) take(t testing.TB, f files) string {
	t.Helper()
	sid, err := w.backup(t.Context(), w.open(t, w.store), f)
	must(t, err)
	w.taken[sid] = f
	w.archives(t, 1, w.archived+1, w.archived+2)
	w.now.advance(time.Hour)
	return sid
}

// any says whether a snapshot that counts, forgotten ones too, is of some kind.
func (w *world) any(t *testing.T, is func(repo.Commit) bool) (found bool) {
	t.Helper()
	must(t, w.open(t, w.store).AllCommits(t.Context(), "", func(c repo.Commit) error {
		found = found || is(c)
		return nil
	}))
	return found
}

func (w *world) pruning(r *repo.Repo) repo.PruneOptions {
	return repo.PruneOptions{Host: "backup1", Now: w.now.Now, MaxRepack: 1 << 30, MaxDelete: 1, Mark: mark, WAL: walNeed(r)}
}

type judge struct{ *repo.View }

// IsDamage implements gc.Judge.
func (judge) IsDamage(err error) bool { return isLoss(err) }

func mark(ctx context.Context, v *repo.View, commits []repo.Commit, live func(chunk.ID)) error {
	var all []*snapshot.Manifest
	for _, c := range commits {
		m, err := snapshot.ParseManifest(c.Manifest)
		if err != nil {
			return err
		}
		all = append(all, m)
	}
	return gc.Mark(ctx, judge{v}, all, live)
}

func (w *world) prune(t testing.TB) *repo.PruneReport {
	t.Helper()
	r := w.open(t, w.store)
	report, err := r.Prune(t.Context(), w.pruning(r))
	must(t, err)
	if len(report.Damage) > 0 {
		t.Fatalf("prune run %d: %v", report.Run, errors.Join(report.Damage...))
	}
	w.now.advance(time.Hour)
	return report
}

// archive is what wal push writes to.
type archive struct{ *repo.Repo }

func (a archive) PutArchive(ctx context.Context, key string, header, content []byte) (bool, error) {
	stored, err := a.Repo.PutArchive(ctx, key, header, content)
	return stored == repo.StoredSame, asArchive(err)
}

func (a archive) ArchiveHeader(ctx context.Context, key string) ([]byte, int64, error) {
	header, size, err := a.Repo.ArchiveHeader(ctx, key)
	return header, size, asArchive(err)
}

func (a archive) GetArchive(ctx context.Context, key string) (header, content []byte, err error) {
	header, content, err = a.Repo.GetArchive(ctx, key)
	return header, content, asArchive(err)
}

// asArchive adds walarchive's class, as the commands do.
func asArchive(err error) error {
	switch {
	case errors.Is(err, storage.ErrNotExist):
		return errors.Join(err, walarchive.ErrNotExist)
	case errors.Is(err, repo.ErrDamaged):
		return errors.Join(err, walarchive.ErrDamaged)
	}
	return err
}

const walFile = "000000010000000000000002"

func walContent() []byte {
	b := make([]byte, pg.MinSegmentSize)
	_, _ = rand.NewChaCha8([32]byte{77}).Read(b)
	return b
}

func push(ctx context.Context, r *repo.Repo) error {
	_, err := walarchive.Archive{Objects: archive{r}, Cluster: cluster, System: 1}.Push(ctx, walFile, walContent(), walarchive.Facts{SegmentSize: pg.MinSegmentSize})
	return err
}

// sound makes sure that every snapshot that counts, forgotten ones too, restores bit by bit, that verify finds nothing wrong, and that
// all in want are among them.
func (w *world) sound(t *testing.T, what string, want ...string) {
	t.Helper()
	r := w.open(t, w.store)
	v, err := r.OpenView(t.Context(), "", cluster)
	must(t, err)
	defer func() { must(t, v.Close()) }()
	there := map[string]bool{}
	var all []*snapshot.Manifest
	must(t, r.AllCommits(t.Context(), "", func(c repo.Commit) error {
		if c.Err != nil {
			return c.Err
		}
		m, err := snapshot.ParseManifest(c.Manifest)
		all, there[c.ID] = append(all, m), true
		return err
	}))
	for _, sid := range want {
		if !there[sid] {
			t.Errorf("%s: snapshot %s is gone", what, sid)
		}
	}
	for _, m := range all {
		w.restores(t, what, v, m)
	}
	w.hasWAL(t, what, all)
	report, err := restore.Verify(t.Context(), v, r, restore.VerifyOptions{Snapshots: all, ReadData: true, Jobs: 1, IsDamage: isLoss})
	if err != nil || len(report.Damage) > 0 {
		t.Errorf("%s: verify: %v %v", what, err, report)
	}
}

func (w *world) restores(t *testing.T, what string, v *repo.View, m *snapshot.Manifest) {
	t.Helper()
	want, ok := w.taken[m.ID]
	if !ok {
		t.Errorf("%s: nobody took snapshot %s", what, m.ID)
		return
	}
	dir, err := os.MkdirTemp(os.Getenv("TMPDIR"), "restore")
	must(t, err)
	defer func() { _ = os.RemoveAll(dir) }()
	to := filepath.Join(dir, "data")
	_, err = restore.Run(t.Context(), v, restore.Options{
		Snapshot: m, To: to, Jobs: 1, Recovery: &restore.Recovery{Command: "pgtrove wal fetch %f %p"}, IsDamage: isLoss,
	})
	if err != nil {
		t.Errorf("%s: restore %s: %v", what, m.ID, err)
		return
	}
	for path, b := range want {
		got, err := os.ReadFile(filepath.Join(to, strings.TrimPrefix(path, "data/")))
		if err != nil || !bytes.Equal(got, b) {
			t.Errorf("%s: %s of snapshot %s came back other than it was: %v", what, path, m.ID, err)
		}
	}
}
