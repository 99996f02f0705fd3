// Package fleet runs many hosts on one repository in object storage: writers, prunes, readers, and the people who forget, pin and keep.
package fleet

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/storage"
	"github.com/pgtrove/pgtrove/storage/fault"
)

// The seed chooses what each host does and what goes wrong for it, not who comes first: that is up to the machine.
var (
	protocolSeed    = flag.Uint64("protocol.seed", 1, "seed of the run on a real S3 server")
	protocolBackups = flag.Int("protocol.backups", 12, "how many backups each of the two hosts is to commit in it")
)

// TestThreeHostsOnARealServerKeepEveryPromise lets two hosts back up, while a third prunes and forgets and a fourth restores, on a network that fails
// and in processes that are killed.
func TestThreeHostsOnARealServerKeepEveryPromise(t *testing.T) {
	seed := func(n uint64) *rand.Rand { return rand.New(rand.NewPCG(*protocolSeed, n)) }
	w := newProtocolWorld(t, seed(0))
	ctx, stop := context.WithTimeout(t.Context(), 3*time.Minute)
	defer stop()

	var writers, others sync.WaitGroup
	for n, cluster := range []string{"a", "b"} {
		h := &backupHost{protocolWorld: w, cluster: cluster, rand: seed(uint64(n) + 1), cache: filepath.Join(t.TempDir(), "cache"), skew: -time.Duration(n) * time.Hour}
		writers.Go(func() { h.work(ctx) })
	}
	done := make(chan struct{})
	others.Go(func() { (&pruneHost{w, seed(3), filepath.Join(t.TempDir(), "cache")}).work(ctx, done) })
	others.Go(func() { w.restores(ctx, seed(4), done) })
	writers.Wait()
	close(done)
	others.Wait()
	w.late.Wait()
	t.Log(&w.tally)
	if ctx.Err() != nil {
		t.Fatal("nobody gets anything done")
	}

	w.promises("when everybody has gone")
	w.quiesce()
	w.promises("after prunes alone")
	w.clean()
	before := w.keys()
	w.quiesce()
	if after := w.keys(); slices.Equal(before, after) || !slices.Equal(lasting(before), lasting(after)) {
		t.Errorf("prunes of a clean repository changed it: from %v to %v", before, after)
	}

	w.forgetAll()
	w.quiesce()
	w.promises("when all is forgotten")
	w.clean()
	for what, n := range map[string]int{
		"failed calls": w.tally.Failed, "lost answers": w.tally.Lost, "late calls": w.tally.Late, "killed processes": w.tally.Killed,
		"fenced backups": w.tally.Fenced, "WAL files": w.tally.Pushed, "swept packs": w.tally.Swept,
	} {
		if n == 0 {
			t.Errorf("in this run there were no %s", what)
		}
	}
}

// lasting leaves out what each prune makes anew.
func lasting(keys []string) []string {
	return slices.DeleteFunc(slices.Clone(keys), func(k string) bool { return strings.HasPrefix(k, "gc/") || strings.HasPrefix(k, "base/") })
}

func (w *protocolWorld) forgetAll() {
	w.t.Helper()
	r := w.open()
	if err := r.AllCommits(w.t.Context(), "", func(s repo.Commit) error {
		w.note(func() { w.forgotten[s.ID] = true })
		if s.Forgotten && !s.Pinned {
			return nil
		}
		if s.Pinned {
			if err := r.Unpin(w.t.Context(), s.ID); err != nil {
				return err
			}
		}
		return r.Forget(w.t.Context(), s.ID)
	}); err != nil {
		w.t.Fatal(err)
	}
}

// passing says whether an error is one of those that this test makes. Every other one is a finding.
func passing(err error) bool {
	return errors.Is(err, errInjected) || errors.Is(err, errKilled) || errors.Is(err, context.Canceled)
}

// backupHost backs up one cluster, in one process after the other.
type backupHost struct {
	*protocolWorld
	cluster string
	rand    *rand.Rand
	cache   string
	skew    time.Duration // of its clock
}

// work ends when enough backups were acknowledged. One process in four is killed, and two in eight are held up before they commit: one until a prune
// has fenced it, and one while all is forgotten that it may refer to, by prunes that wait for it.
func (h *backupHost) work(ctx context.Context) {
	for n, committed := 0, 0; committed < *protocolBackups && ctx.Err() == nil; n++ {
		kill := -1
		switch {
		case n == 1:
			kill = h.rand.IntN(12)
		case n%4 == 1:
			kill = h.rand.IntN(45)
		}
		runCtx, p, store := h.start(ctx, h.writers, h.rand, kill)
		switch n % 8 {
		case 3:
			p.hold = heldUp(func() { h.wait(runCtx, 2, &h.tally.Pruned) })
		case 6:
			p.hold = heldUp(func() {
				h.awaited.Add(1)
				h.wait(runCtx, 4, &h.tally.Pruned, &h.tally.Blocked)
				h.awaited.Add(-1)
			})
		}
		r, err := repo.Open(runCtx, store, h.key)
		if err == nil {
			var ok bool
			ok, err = h.backup(runCtx, r)
			if ok {
				committed++
			}
		}
		if err == nil {
			err = h.push(runCtx, r, fmt.Sprintf("%024X", n))
		}
		p.end()
		if err != nil {
			h.tally.add(&h.tally.GaveUp)
		}
		if err != nil && !p.isDead() && !passing(err) && !errors.Is(err, repo.ErrFenced) {
			h.t.Errorf("host of cluster %s: %v", h.cluster, err)
		}
	}
}

// heldUp does something before a commit.
func heldUp(do func()) func(fault.Verb, string) {
	once := false
	return func(verb fault.Verb, key string) {
		if !once && verb == fault.Put && strings.HasPrefix(key, "snapshots/") {
			once = true
			do()
		}
	}
}

// wait ends when so many more of these have been counted.
func (w *protocolWorld) wait(ctx context.Context, more int, counts ...*int) {
	sum := func() (n int) {
		for _, c := range counts {
			n += w.tally.get(c)
		}
		return n
	}
	for before := sum(); sum() < before+more && ctx.Err() == nil; {
		time.Sleep(5 * time.Millisecond)
	}
}

// backup stores some of the pieces; a session that was fenced is gone on with in another.
func (h *backupHost) backup(ctx context.Context, r *repo.Repo) (committed bool, err error) {
	var want []chunk.ID
	for _, at := range h.rand.Perm(pieceCount)[:6+h.rand.IntN(8)] {
		want = append(want, h.ids[at])
	}
	inherit, former := h.rand.IntN(2) == 0, ""
	for range 6 {
		var sid string
		o := repo.SessionOptions{Cluster: h.cluster, Host: "host-" + h.cluster, CacheDir: h.cache, Former: former, Now: func() time.Time { return time.Now().Add(h.skew) }}
		err = r.Write(ctx, o, func(ctx context.Context, s *repo.Session) error {
			sid = s.ID()
			listing, err := h.store(ctx, r, s, want, inherit)
			if err != nil {
				return err
			}
			manifest, err := manifestOf(listing)
			if err != nil {
				return err
			}
			return s.Commit(ctx, manifest)
		})
		if err == nil {
			h.note(func() { h.told[sid] = true })
			h.tally.add(&h.tally.Committed)
			return true, nil
		}
		if !errors.Is(err, repo.ErrFenced) {
			return false, err
		}
		h.tally.add(&h.tally.Fenced)
		former = sid
	}
	return false, err
}

// store makes sure that everything of a snapshot is in the repository, and gives its listing. What is inherited is looked up, never written.
func (h *backupHost) store(ctx context.Context, r *repo.Repo, s *repo.Session, want []chunk.ID, inherit bool) (chunk.ID, error) {
	if inherit {
		parent, ids, err := h.parent(ctx, r, s)
		if err != nil {
			return parent, err
		}
		if ids != nil {
			all := append([]chunk.ID{parent}, ids...)
			missing, err := s.Missing(ctx, parent, func(context.Context) ([]chunk.ID, error) { return all, nil })
			if err != nil || len(missing) == 0 {
				return parent, err
			}
			want = ids
		}
	}
	w, err := s.NewWriter()
	if err != nil {
		return chunk.ID{}, err
	}
	var text []byte
	for _, id := range want {
		if _, err := w.Bytes(ctx, h.pieces[id]); err != nil {
			return chunk.ID{}, err
		}
		text = append(text, id[:]...)
		if h.rand.IntN(8) == 0 {
			if err := s.Flush(ctx); err != nil {
				return chunk.ID{}, err
			}
		}
	}
	return w.Meta(ctx, text)
}

// parent gives the listing of the cluster's newest snapshot and what stands in it; nothing if there is none that can be read.
func (h *backupHost) parent(ctx context.Context, r *repo.Repo, s *repo.Session) (listing chunk.ID, ids []chunk.ID, err error) {
	var last *repo.Commit
	if err := r.NewestCommits(ctx, h.cluster, func(c repo.Commit) (bool, error) {
		last = &c
		return true, nil
	}); err != nil || last == nil {
		return listing, nil, err
	}
	if listing, err = listingOf(last.Manifest); err != nil {
		return listing, nil, err
	}
	text, err := s.MetaChunk(ctx, listing)
	if errors.Is(err, repo.ErrMissing) {
		return listing, nil, nil
	}
	return listing, parseListing(text), err
}

// push archives a WAL file.
func (h *backupHost) push(ctx context.Context, r *repo.Repo, name string) error {
	key, content := "wal/"+h.cluster+"/7000000000000000001/00000001/"+name, h.pieces[h.ids[h.rand.IntN(pieceCount)]]
	if _, err := r.PutArchive(ctx, key, nil, content); err != nil {
		return err
	}
	h.note(func() { h.archived[key] = content })
	h.tally.add(&h.tally.Pushed)
	return nil
}

// pruneHost prunes, and does what a person does from there: forgets and pins.
type pruneHost struct {
	*protocolWorld
	rand  *rand.Rand
	cache string
}

// work goes on until the writers are done and something was deleted. Every third prune takes whoever was silent for a moment for dead, also those that
// are not; but none does while a writer is to be waited for, and then all that there is is forgotten.
func (h *pruneHost) work(ctx context.Context, done <-chan struct{}) {
	for n := 0; ctx.Err() == nil; n++ {
		select {
		case <-done:
			if h.tally.get(&h.tally.Swept) > 0 {
				return
			}
		default:
		}
		kill := -1
		if h.rand.IntN(6) == 0 {
			kill = h.rand.IntN(80)
		}
		runCtx, p, store := h.start(ctx, h.direct, h.rand, kill)
		r, err := repo.Open(runCtx, store, h.key)
		if err == nil {
			err = errors.Join(h.keep(runCtx, r), h.prune(runCtx, r, n%3 == 0 && h.awaited.Load() == 0))
		}
		p.end()
		var blocked *repo.BlockedError
		switch {
		case err == nil:
		case errors.As(err, &blocked):
			h.tally.add(&h.tally.Blocked)
		case errors.Is(err, repo.ErrOvertaken): // by a call of a former process that came late
			h.tally.add(&h.tally.Overtaken)
		case !p.isDead() && !passing(err):
			h.t.Errorf("prune: %v", err)
		default:
			h.tally.add(&h.tally.GaveUp)
		}
	}
}

func (h *pruneHost) prune(ctx context.Context, r *repo.Repo, ruthless bool) error {
	o := repo.PruneOptions{Host: "pruner", CacheDir: h.cache, Now: time.Now, FenceAfter: 5 * time.Second, MaxDelete: 1, Mark: protocolMark}
	if ruthless {
		o.FenceAfter = time.Millisecond
	}
	if h.rand.IntN(4) > 0 {
		o.MaxRepack = 1 << 30
	}
	report, err := r.Prune(ctx, o)
	if report != nil && len(report.Damage) > 0 {
		h.t.Errorf("prune run %d finds damage: %v", report.Run, errors.Join(report.Damage...))
	}
	if err == nil {
		h.tally.report(report)
	}
	return err
}

// keep forgets snapshots, the newest few of each cluster less often but where a writer is to be waited for, and pins one now and then.
func (h *pruneHost) keep(ctx context.Context, r *repo.Repo) error {
	var all []repo.Commit
	if err := r.Commits(ctx, "", func(s repo.Commit) error {
		all = append(all, s)
		return nil
	}); err != nil {
		return err
	}
	for n, s := range all {
		left := len(all) - n
		if n+1 < len(all) && all[n+1].Cluster != s.Cluster {
			left = 1
		}
		switch {
		case s.Pinned || h.awaited.Load() == 0 && (left < 6 && h.rand.IntN(8) > 0 || h.rand.IntN(3) == 0):
		case h.rand.IntN(40) == 0:
			if err := r.Pin(ctx, s.ID); errors.Is(err, repo.ErrNotCounted) {
				continue // what a prune that was killed had begun came late
			} else if err != nil {
				return err
			}
			h.note(func() { h.told[s.ID] = true }) // whether its writer heard of it or not
		default:
			h.note(func() { h.forgotten[s.ID] = true })
			if err := r.Forget(ctx, s.ID); err != nil {
				return err
			}
		}
	}
	return nil
}

// restores reads snapshots until the writers are done.
func (w *protocolWorld) restores(ctx context.Context, r *rand.Rand, done <-chan struct{}) {
	for ctx.Err() == nil {
		select {
		case <-done:
			return
		default:
		}
		runCtx, p, store := w.start(ctx, w.readers, r, -1)
		sid, err := w.restore(runCtx, store, r)
		p.end()
		switch {
		case err == nil && sid != "":
			w.tally.add(&w.tally.Restored)
		case err != nil && !passing(err) && (sid == "" || w.mustRead(sid)):
			w.t.Errorf("restore %s: %v", sid, err)
		}
	}
}

// restore reads one of the snapshots; "" if there is none.
func (w *protocolWorld) restore(ctx context.Context, store storage.Store, rnd *rand.Rand) (sid string, err error) {
	r, err := repo.Open(ctx, store, w.key)
	if err != nil {
		return "", err
	}
	var all []repo.Commit
	if err := r.Commits(ctx, "", func(s repo.Commit) error {
		all = append(all, s)
		return nil
	}); err != nil || len(all) == 0 {
		return "", err
	}
	s := all[rnd.IntN(len(all))]
	v, err := r.OpenView(ctx, "", s.Cluster)
	if err != nil {
		return s.ID, err
	}
	err = w.read(ctx, v, s)
	return s.ID, errors.Join(err, v.Close())
}
