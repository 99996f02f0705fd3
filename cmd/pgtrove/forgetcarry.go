package main

import (
	"context"
	"errors"

	"github.com/pgtrove/pgtrove/repo"
)

// carryOut makes the requests, cluster by cluster. Each that was made is one less for the next run, which makes the same plan of what is left. Where somebody else has
// forgotten meanwhile what the plan of a cluster counts on, that cluster's are taken back.
func (a *app) carryOut(ctx context.Context, r *repo.Repo, plan *forgetPlan) error {
	forgotten, narrowed := 0, 0
	var u undone
	for _, p := range plan.clusters {
		made, narrow, err := a.carryOutOne(ctx, r, p, &u)
		if err != nil {
			if told := u.err(); told != nil { // of the clusters before
				a.out.warn("%v", told)
			}
			return err
		}
		forgotten, narrowed = forgotten+made, narrowed+narrow
	}
	if err := u.err(); err != nil {
		return err
	}
	a.out.info("forgot %s, narrowed %d", showCount(int64(forgotten), "snapshot", "snapshots"), narrowed)
	return nil
}

// carryOutOne does so for one cluster. It looks again before it narrows, since nothing takes that back once a prune has seen it; and afterwards, as long as none has.
func (a *app) carryOutOne(ctx context.Context, r *repo.Repo, p *clusterPlan, u *undone) (forgotten, narrowed int, err error) {
	made, err := a.forgetPlanned(ctx, r, p)
	if err != nil {
		return 0, 0, err
	}
	if kept, err := a.stillPromised(ctx, r, p, made, nil, u); err != nil || !kept {
		return 0, 0, err
	}
	narrow, err := narrowPlanned(ctx, r, p)
	if err != nil || len(narrow) == 0 {
		return len(made), 0, err
	}
	_, err = a.stillPromised(ctx, r, p, made, narrow, u)
	return len(made), len(narrow), err
}

// forgetPlanned asks for what the plan of a cluster forgets, and says what that is now.
func (a *app) forgetPlanned(ctx context.Context, r *repo.Repo, p *clusterPlan) (made []repo.Commit, err error) {
	for _, v := range p.verdicts {
		if !p.forgets(v) {
			continue
		}
		switch err := r.Forget(ctx, v.ID); {
		case errors.Is(err, repo.ErrPinned):
			a.out.warn("snapshot %s stays: it has been pinned meanwhile", v.ID)
		case err != nil:
			return nil, err
		default:
			made = append(made, p.commits[v.ID])
		}
	}
	return made, nil
}

// narrowPlanned asks for what the plan of a cluster narrows.
func narrowPlanned(ctx context.Context, r *repo.Repo, p *clusterPlan) (ids []string, err error) {
	for _, v := range p.verdicts {
		if p.narrows(v) {
			if err := r.Narrow(ctx, v.ID); err != nil {
				return nil, err
			}
			ids = append(ids, v.ID)
		}
	}
	return ids, nil
}

// stillPromised looks again at what is there now, and whether it keeps, with all that the plan narrows, what the plan promises. If not, it takes back what was made and
// narrowed.
func (a *app) stillPromised(ctx context.Context, r *repo.Repo, p *clusterPlan, made []repo.Commit, narrowed []string, u *undone) (bool, error) {
	narrows := map[string]bool{}
	for _, v := range p.verdicts {
		if p.narrows(v) {
			narrows[v.ID] = true
		}
	}
	if len(made)+len(narrows) == 0 {
		return true, nil
	}
	if len(made) > 0 && len(narrowed) == 0 {
		last, err := a.lastNow(ctx, r, p.cluster, made)
		if err != nil {
			return false, err
		}
		if last != "" {
			u.takeBack(ctx, r, "this would leave "+last+" of cluster "+p.cluster, made, nil)
			return false, nil
		}
	}
	now := map[string]repo.Commit{}
	if err := r.Commits(ctx, p.cluster, func(c repo.Commit) error { now[c.ID] = c; return nil }); err != nil {
		return false, err
	}
	windows, err := p.windows(ctx, func(id string) (stays, narrow bool) {
		c, there := now[id]
		return there, c.Narrowed || narrows[id]
	})
	if err != nil {
		return false, err
	}
	lost := p.broken(windows, p.unreachable())
	if lost != "" {
		u.takeBack(ctx, r, lost, made, narrowed)
	}
	return lost == "", nil
}
