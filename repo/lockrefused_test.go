package repo

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/keys"
	"github.com/pgtrove/pgtrove/storage"
	"github.com/pgtrove/pgtrove/storage/fault"
	"github.com/pgtrove/pgtrove/test/s3test"
)

// refusedLocks is what a run that ends with err did about locks.
func refusedLocks(t *testing.T, r *PruneReport, err error) LockReport {
	t.Helper()
	if !isRefusal(err) || r == nil {
		t.Fatalf("%+v, %v", r, err)
	}
	return r.Locks
}

// stale announces a session that states no run, as a stolen host can each day.
func (b *lockedBucket) stale() {
	b.t.Helper()
	r, err := Open(b.t.Context(), hiding{b.store}, b.id)
	must(b.t, err)
	_, err = r.announce(b.t.Context(), options(), false)
	must(b.t, err)
}

// hiding lists no runs.
type hiding struct{ storage.Store }

func (h hiding) List(ctx context.Context, prefix string, fn func(storage.Info) error) error {
	if prefix == gcPrefix {
		return nil
	}
	return h.Store.List(ctx, prefix, fn)
}

func TestARefusedPruneKeepsWhatMayBeNeededLocked(t *testing.T) {
	b := newLockedBucket(t, s3test.New(t, s3test.Options{Versions: true}))
	r := b.repo
	wal := func(sid string) string { return "wal/main/1/00000001/" + sid }
	options := func(hours int) PruneOptions {
		o := after(hours)
		o.FenceAfter = 1000 * time.Hour
		o.Archived = func(c Commit) []string { return []string{wal(c.ID), wal("absent")} }
		return o
	}
	old, _ := backup(t, r, pieces(40, 20))
	pinned, ids := backup(t, r, pieces(41, 20))
	must(t, r.Pin(t.Context(), pinned))
	prune(t, r, options(0))
	must(t, r.Forget(t.Context(), old))
	prune(t, r, options(0)) // condemns
	must(t, b.store.Put(t.Context(), wal(pinned), nil))
	late, _ := backup(t, r, pieces(42, 4)) // which no run has judged
	must(t, b.store.Put(t.Context(), wal(late), nil))
	must(t, b.store.Put(t.Context(), wal("other"), nil))
	b.stale()

	var blocked *BlockedError
	report, err := r.Prune(t.Context(), options(7))
	if l := refusedLocks(t, report, err); l.Extended != 0 || !l.Until.Equal(r.config.Created.Add(24*time.Hour)) {
		t.Errorf("there was time: %+v", l)
	}
	before := b.locks()
	o := options(9)
	o.DryRun = true
	report, err = r.Prune(t.Context(), o)
	would := refusedLocks(t, report, err).Extended
	start := time.Now().Add(9 * time.Hour)
	report, err = r.Prune(t.Context(), options(9))
	l := refusedLocks(t, report, err)
	if !errors.As(err, &blocked) || l.Until.Before(start.Add(24*time.Hour-time.Second)) || l.Refused != 0 || l.Err != nil || l.Missing != nil {
		t.Errorf("%+v, %v", l, err)
	}
	extended := 0
	for key, until := range b.locks() {
		switch {
		case !until.Before(l.Until):
			extended++
		case key != wal("other") && !strings.HasPrefix(key, forgetPrefix):
			t.Errorf("%s is locked until %s, not %s", key, until, l.Until)
		case !until.Equal(before[key]):
			t.Errorf("%s is locked until %s, and was until %s", key, until, before[key])
		}
	}
	if extended != l.Extended || would != l.Extended+2 { // it does not know what never was
		t.Errorf("%d are locked for longer: %+v, and a dry run would have extended %d", extended, l, would)
	}
	if run, err := r.newestRun(t.Context()); err != nil || run.Number != 2 || !run.LockedUntil.IsZero() {
		t.Errorf("published: %+v, %v", run, err)
	}
	check(t, r, ids, pieces(41, 20))
}

func TestWhateverRefusesAPruneLocksAreExtended(t *testing.T) {
	b := newLockedBucket(t, s3test.New(t, s3test.Options{Versions: true}))
	sid, _ := backup(t, b.repo, pieces(43, 20))
	must(t, b.repo.Forget(t.Context(), sid))
	other, _ := backup(t, b.repo, pieces(44, 4))
	prune(t, b.repo, after(0))

	o := after(9)
	o.MaxDelete = 0.01
	var much *TooMuchError
	report, err := b.repo.Prune(t.Context(), o)
	if l := refusedLocks(t, report, err); !errors.As(err, &much) || report.Swept.Packs == 0 || l.Extended < 5 || time.Until(l.Until) < 32*time.Hour {
		t.Errorf("%+v, %v", report, err)
	}
	down, err := Open(t.Context(), fault.New(b.store, func(op fault.Op) fault.Action {
		if op.Verb == fault.Lock {
			return fault.Action{Before: storage.ErrUnreachable}
		}
		return fault.Action{}
	}), b.id)
	must(t, err)
	report, err = down.Prune(t.Context(), o)
	if l := refusedLocks(t, report, err); !errors.As(err, &much) || l.Extended != 0 || l.Refused < 5 || !errors.Is(l.Err, storage.ErrUnreachable) || !l.Until.Equal(b.repo.config.Created.Add(24*time.Hour)) {
		t.Errorf("%+v, %v", l, err)
	}

	var gone *VanishedError
	must(t, b.store.Delete(t.Context(), snapshotsPrefix+"main/"+other))
	report, err = b.repo.Prune(t.Context(), after(12))
	if l := refusedLocks(t, report, err); !errors.As(err, &gone) || l.Extended < 5 || time.Until(l.Until) < 35*time.Hour || l.Missing != nil {
		t.Errorf("%+v, %v", l, err)
	}

	owner, err := b.repo.bundle.AddGroup("other")
	must(t, err)
	r, err := newRepo(b.store, b.repo.config, issue(t, owner, "host", keys.Writer, "other"))
	must(t, err)
	report, err = r.Prune(t.Context(), after(15))
	if l := refusedLocks(t, report, err); !errors.Is(err, keys.ErrRole) || l.Extended < 5 || time.Until(l.Until) < 38*time.Hour || l.Missing != nil {
		t.Errorf("%+v, %v", l, err)
	}
}

func TestWhatTheLastRunDeletesIsNotKeptLocked(t *testing.T) {
	f := newFixture(t)
	p := pruner{Repo: f.open(t, f.store), packs: map[string]int64{"packs/a/0": 1, "packs/b/0": 1, "packs/c/0": 1},
		last: &gcRun{Sweep: []string{"packs/b/0"}, Condemned: []string{"packs/c/0"}}}
	p.last.index()
	keys, err := p.mayBeNeeded(t.Context())
	if got := strings.Join(keys, " "); err != nil || !strings.HasSuffix(got, " packs/a/0 packs/c/0") || !strings.HasPrefix(got, "config keys/") {
		t.Errorf("%s, %v", got, err)
	}
}
