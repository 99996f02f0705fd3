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
		n := len(u.why)
		made, err := a.forgetPlanned(ctx, r, p)
		if err != nil {
			return err
		}
		if err := a.stillPromised(ctx, r, p, made, nil, &u); err != nil {
			return err
		}
		if len(u.why) > n { // nothing takes narrowing back once a prune has seen it
			continue
		}
		narrow, err := narrowPlanned(ctx, r, p)
		if err != nil {
			return err
		}
		if len(narrow) > 0 {
			if err := a.stillPromised(ctx, r, p, made, narrow, &u); err != nil {
				return err
			}
		}
		if len(u.why) == n {
			forgotten, narrowed = forgotten+len(made), narrowed+len(narrow)
		}
	}
	if err := u.err(); err != nil {
		return err
	}
	a.out.info("forgot %s, narrowed %d", showCount(int64(forgotten), "snapshot", "snapshots"), narrowed)
	return nil
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
func (a *app) stillPromised(ctx context.Context, r *repo.Repo, p *clusterPlan, made []repo.Commit, narrowed []string, u *undone) error {
	narrows := map[string]bool{}
	for _, v := range p.verdicts {
		if p.narrows(v) {
			narrows[v.ID] = true
		}
	}
	if len(made)+len(narrows) == 0 {
		return nil
	}
	if len(narrowed) == 0 && len(made) > 0 {
		last, err := a.lastNow(ctx, r, p.cluster, made)
		if err != nil {
			return err
		}
		if last != "" {
			u.takeBack(ctx, r, "of cluster "+p.cluster+" this would leave "+last, made, nil)
			return nil
		}
	}
	now := map[string]repo.Commit{}
	if err := r.Commits(ctx, p.cluster, func(c repo.Commit) error { now[c.ID] = c; return nil }); err != nil {
		return err
	}
	windows, err := p.windows(ctx, func(id string) (stays, narrow bool) {
		c, there := now[id]
		return there, c.Narrowed || narrows[id]
	})
	if err != nil {
		return err
	}
	if lost := p.broken(windows, p.unreachable()); lost != "" {
		u.takeBack(ctx, r, lost, made, narrowed)
	}
	return nil
}
