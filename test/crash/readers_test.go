package crash

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/restore"
	"github.com/pgtrove/pgtrove/snapshot"
	"github.com/pgtrove/pgtrove/storage"
	"github.com/pgtrove/pgtrove/storage/fault"
)

// prunedMeanwhile does something with a view, and prunes several times before its call n to the storage. It returns how many
// calls there were.
func (w *world) prunedMeanwhile(t *testing.T, n int, do func(r *repo.Repo, v *repo.View)) (calls int) {
	t.Helper()
	opened := 0
	s := fault.New(w.store, func(op fault.Op) fault.Action {
		if opened > 0 && op.N-opened == n {
			for range 3 {
				w.now.advance(25 * time.Hour)
				w.prune(t)
			}
		}
		return fault.Action{}
	})
	r := w.open(t, s)
	v, err := r.OpenView(t.Context(), "", cluster)
	must(t, err)
	opened = s.Calls()
	do(r, v)
	must(t, v.Close())
	return s.Calls() - opened
}

func (w *world) manifest(t *testing.T, sid string) (m *snapshot.Manifest) {
	t.Helper()
	must(t, w.open(t, w.store).AllCommits(t.Context(), "", func(c repo.Commit) (err error) {
		if c.ID == sid {
			m, err = snapshot.ParseManifest(c.Manifest)
		}
		return err
	}))
	return m
}

func TestARestoreGoesOnWhilePrunesMovePacks(t *testing.T) {
	onTmpfs(t)
	base, _, kept := history(t)
	m := base.manifest(t, kept)
	for n, calls := 1, 1; n <= calls; n++ {
		w := base.clone(t)
		calls = w.prunedMeanwhile(t, n, func(_ *repo.Repo, v *repo.View) {
			w.restores(t, fmt.Sprintf("pruned before call %d", n), v, m)
		})
	}
}

func TestARestoreOfAForgottenSnapshotFinishesOrTheSnapshotIsGone(t *testing.T) {
	onTmpfs(t)
	base, forgotten, _ := history(t)
	m := base.manifest(t, forgotten)
	finished, lost := 0, 0
	for n, calls := 1, 1; n <= calls; n++ {
		w := base.clone(t)
		calls = w.prunedMeanwhile(t, n, func(_ *repo.Repo, v *repo.View) {
			_, err := restore.Run(t.Context(), v, restore.Options{
				Snapshot: m, To: filepath.Join(t.TempDir(), "data"), Jobs: 1, Recovery: &restore.Recovery{Command: "x"}, IsDamage: isLoss,
			})
			switch {
			case err == nil:
				finished++
			case isLoss(err) && w.manifest(t, forgotten) == nil:
				lost++
			default:
				t.Errorf("pruned before call %d: %v", n, err)
			}
		})
	}
	if lost == 0 {
		t.Errorf("%d restores finished, none was overtaken", finished)
	}
}

func TestVerifyCallsNothingDamagedThatPrunesMoved(t *testing.T) {
	base, forgotten, kept := history(t)
	all := []*snapshot.Manifest{base.manifest(t, forgotten), base.manifest(t, kept)}
	for n, calls := 1, 1; n <= calls; n++ {
		w := base.clone(t)
		calls = w.prunedMeanwhile(t, n, func(r *repo.Repo, v *repo.View) {
			report, err := restore.Verify(t.Context(), v, r, restore.VerifyOptions{
				Snapshots: all, ReadData: true, Jobs: 1,
				IsDamage: func(err error) bool { return isLoss(err) || errors.Is(err, storage.ErrNotExist) },
				Counts:   func(_ context.Context, id string) (bool, error) { return w.manifest(t, id) != nil, nil },
			})
			if err != nil || len(report.Damage) > 0 {
				t.Errorf("pruned before call %d: %v %+v", n, err, report)
			}
		})
	}
}
