package repo

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/pgtrove/pgtrove/storage"
)

// look lists packs and sessions, and when each session last wrote something (P1). A pack that is not in this listing is not judged by
// this run: its session may have begun since.
func (p *pruner) look(ctx context.Context) error {
	p.packs, p.seen, p.began = map[string]int64{}, map[string]time.Time{}, map[string]time.Time{}
	p.segments, p.clusters = map[string][]string{}, map[string]string{}
	if err := p.store.List(ctx, packsPrefix, func(i storage.Info) error {
		k, ok := parsePackKey(i.Key)
		if !ok {
			return nil // not ours; verify reports it
		}
		p.packs[i.Key] = i.Size
		p.lastSeen(k.sid, i.ModTime)
		return nil
	}); err != nil {
		return fmt.Errorf("list packs: %w", err)
	}
	if err := p.store.List(ctx, indexPrefix, func(i storage.Info) error {
		sid := segmentSession(i.Key)
		p.segments[sid] = append(p.segments[sid], i.Key)
		p.lastSeen(sid, i.ModTime)
		return nil
	}); err != nil {
		return fmt.Errorf("list index: %w", err)
	}
	if err := p.store.List(ctx, sessionsPrefix, func(i storage.Info) error {
		sid := strings.TrimPrefix(i.Key, sessionsPrefix)
		p.began[sid] = i.ModTime
		p.lastSeen(sid, i.ModTime)
		return nil
	}); err != nil {
		return fmt.Errorf("list sessions: %w", err)
	}
	return nil
}

func (p *pruner) lastSeen(sid string, t time.Time) {
	if t.After(p.seen[sid]) {
		p.seen[sid] = t
	}
}

// endSessions fences those that are dead, and finds those that must be waited for (P2): a session that stated an older run than the
// newest may have found, before it, the very packs that this run would delete. Who stated the newest was told that they are condemned.
func (p *pruner) endSessions(ctx context.Context) error {
	dead, waiting, err := p.unended(ctx)
	if err != nil {
		return err
	}
	if len(waiting) > 0 && p.o.Assume == nil {
		return &BlockedError{waiting}
	}
	return p.fenceAll(ctx, dead)
}

// unended gives the sessions without an outcome that are dead, and those that may have found what the last run condemned.
func (p *pruner) unended(ctx context.Context) (dead, waiting []Unfinished, err error) {
	outcomes, err := p.Repo.outcomes(ctx)
	if err != nil {
		return nil, nil, err
	}
	if err := p.noneVanished(ctx, func(key string) bool { return slices.Contains(outcomes[outcomeSession(key)], key) }); err != nil {
		return nil, nil, err // before anything is changed
	}
	sids := slices.Sorted(maps.Keys(p.began))
	fetch := func(ctx context.Context, i int) (*Unfinished, error) { return p.announced(ctx, sids[i]) }
	if err := inOrder(ctx, len(sids), fetch, func(i int, u *Unfinished) error {
		if u == nil {
			return nil
		}
		p.clusters[u.ID] = u.Cluster
		switch {
		case slices.Contains(outcomes[u.ID], snapshotsPrefix+u.Cluster+"/"+u.ID): // its own; another's says nothing
		case u.err != nil && outcomes[u.ID] != nil: // it has ended, that much is known
		case u.err != nil: // what it may use nobody knows, so nothing is deleted as long as it is there
			p.report.Damage = append(p.report.Damage, fmt.Errorf("%w; remove it once no backup runs that began before %s", u.err, u.LastSeen.UTC().Format(time.RFC3339)))
		case p.isDead(u):
			dead = append(dead, *u)
		case u.nowhere: // whatever it uses, no snapshot comes of it
		case u.stated < p.last.Number && !u.Repack:
			waiting = append(waiting, *u)
		}
		return nil
	}); err != nil {
		return nil, nil, err
	}
	return dead, waiting, nil
}

func (p *pruner) fenceAll(ctx context.Context, dead []Unfinished) error {
	p.report.Fenced, p.fencing = dead, map[string]bool{}
	for _, u := range dead {
		p.fencing[u.ID] = true
		if u.nowhere { // its announcement is deleted as if it were resolved
			p.nowhere = append(p.nowhere, sessionsPrefix+u.ID)
			continue
		}
		if !p.o.DryRun {
			if err := p.fence(ctx, &u); err != nil {
				return err
			}
		}
	}
	return nil
}

// noCluster is where the cluster of a session should stand that can commit nowhere. No outcome is under such a name.
const noCluster = "/"

// announced reads what a session says of itself; nil if it is gone, resolved by another run.
func (p *pruner) announced(ctx context.Context, sid string) (*Unfinished, error) {
	a, err := p.announcement(ctx, sid)
	nowhere := errors.Is(err, errNowhere)
	switch {
	case errors.Is(err, storage.ErrNotExist):
		return nil, nil
	case isLoss(err):
		return &Unfinished{ID: sid, LastSeen: p.seen[sid], err: err}, nil
	case nowhere:
		a.Cluster = noCluster
	case err != nil:
		return nil, err
	}
	return &Unfinished{
		ID: sid, Cluster: a.Cluster, Host: a.Host, PID: a.PID, Started: a.Started, LastSeen: p.seen[sid], Repack: a.Repack, stated: a.GC, nowhere: nowhere,
	}, nil
}

// isDead says whether a session is not waited for. No safety comes from this clock: a session that was fenced too early finds
// out when it commits, and begins anew.
func (p *pruner) isDead(u *Unfinished) bool {
	now := p.o.Now()
	silent := now.Sub(u.LastSeen).Abs() >= p.o.FenceAfter // or from a time to come, by a clock that is wrong
	tooOld := now.Sub(p.began[u.ID]).Abs() >= maxSessionAge
	lost := u.Repack && u.stated < p.last.Number // its run is over, and was not the one that won
	return silent || tooOld || lost
}

// fence ends a session, unless it has just ended by itself.
func (p *pruner) fence(ctx context.Context, u *Unfinished) error {
	key := snapshotsPrefix + u.Cluster + "/" + u.ID
	err := p.end(ctx, key, &outcome{Version: 1, Outcome: outcomeFenced, Nonce: newNonce(), Segments: p.segments[u.ID]})
	if err != nil && !errors.Is(err, ErrFenced) {
		return fmt.Errorf("fence session %s: %w", u.ID, err)
	}
	return nil
}

// judge says which snapshots count, which of these stay, and which sessions are resolved (P3). Snapshots are listed before sessions:
// one that is committed in between is left to the next run.
func (p *pruner) judge(ctx context.Context) error { return p.judgeBy(ctx, p.enter) }

// judgeBy is judge with another rule of where an outcome belongs.
func (p *pruner) judgeBy(ctx context.Context, enter func(context.Context, *judged) error) (err error) {
	if p.marks, err = p.Repo.marks(ctx); err != nil {
		return err
	}
	p.marks.assume(p.o.Assume)
	p.outcomes = map[string]storage.Info{}
	if err := p.store.List(ctx, snapshotsPrefix, func(i storage.Info) error {
		p.outcomes[i.Key] = i
		return nil
	}); err != nil {
		return fmt.Errorf("list snapshots: %w", err)
	}
	if p.sessions, err = p.Repo.sessions(ctx); err != nil {
		return err
	}
	if err := p.noneVanished(ctx, func(key string) bool { _, there := p.outcomes[key]; return there }); err != nil {
		return err
	}
	p.run = &gcRun{Version: gcVersion, Number: p.last.Number + 1, Nonce: newNonce(), Host: p.o.Host, Time: p.o.Now().UTC(),
		Valid: []kept{}, Expired: []named{}, Resolved: []string{}, Bases: []baseRef{}, Sweep: []string{}, Condemned: []string{}}
	keys := slices.Sorted(maps.Keys(p.outcomes))
	fetch := func(ctx context.Context, i int) (*judged, error) { return p.read(ctx, keys[i]) }
	if err := inOrder(ctx, len(keys), fetch, func(_ int, j *judged) error { return enter(ctx, j) }); err != nil {
		return err
	}
	p.part()
	if p.o.DryRun {
		for sid := range p.fencing {
			p.run.Resolved = append(p.run.Resolved, sid)
		}
	}
	p.run.index()
	p.carryWAL()
	p.report.Valid = len(p.run.Valid)
	return p.timesAgree()
}

// noneVanished is the guard against a storage that shows less than it has, and against whoever removed snapshots by hand. has says of
// which outcomes a listing has shown the key.
func (p *pruner) noneVanished(ctx context.Context, has func(key string) bool) error {
	var gone []Commit
	for _, v := range p.last.Valid {
		if !has(v.key()) {
			gone = append(gone, Commit{Cluster: v.Cluster, ID: v.ID})
		}
	}
	if gone == nil {
		return nil
	}
	m, err := p.Repo.marks(ctx)
	if err != nil {
		return err
	}
	gone = slices.DeleteFunc(gone, func(c Commit) bool { return m.hidden(c.ID) })
	if len(gone) == 0 {
		return nil
	}
	newest, err := p.newestNumber(ctx)
	switch {
	case err != nil:
		return err
	case newest != p.last.Number:
		return ErrOvertaken // by runs that expired and deleted them
	}
	return &VanishedError{gone}
}

// judged is an outcome that was read.
type judged struct {
	Commit
	key  string
	info storage.Info
	kind string // "": it is damaged, or nobody knows who made it
}

func (p *pruner) read(ctx context.Context, key string) (*judged, error) {
	sid := outcomeSession(key)
	j := &judged{key: key, info: p.outcomes[key],
		Commit: Commit{Cluster: outcomeCluster(key), ID: sid, Pinned: p.marks.pinned[sid], Forgotten: p.marks.forgotten[sid]}}
	var err error
	j.kind, err = p.take(ctx, key, &j.Commit)
	switch {
	case errors.Is(err, storage.ErrNotExist):
		return nil, fmt.Errorf("read %s: %w", key, ErrOvertaken) // only prunes delete
	case isForeign(err):
		return nil, errOthers("decide which snapshots stay", key)
	case err != nil:
		return nil, err
	}
	return j, nil
}

// enter puts an outcome where it belongs.
func (p *pruner) enter(ctx context.Context, j *judged) error {
	own, err := p.isOwn(ctx, j)
	if err != nil {
		return err
	}
	if !own {
		p.void = append(p.void, j.key) // and its session is not resolved by it
		return nil
	}
	p.run.Resolved = append(p.run.Resolved, j.ID)
	returns := p.last.expired[j.key] && j.Pinned
	counts := p.last.counts(j.key, p.sessions) || returns
	snapshot := (j.kind == outcomeSnapshot || j.kind == "") && j.Cluster != pruneCluster
	if snapshot && !counts && !p.last.expired[j.key] {
		if err := p.mustBeLate(ctx, j.key); err != nil {
			return err
		}
	}
	switch {
	case !counts || !snapshot:
		p.void = append(p.void, j.key)
		if snapshot && p.last.expired[j.key] {
			p.parted = append(p.parted, named{j.Cluster, j.ID})
		}
	case j.Forgotten && !j.Pinned:
		p.parting = append(p.parting, j)
	default:
		p.stay(j)
		if returns {
			p.report.Returned = append(p.report.Returned, j.Commit)
		}
	}
	return nil
}

// isOwn says whether an outcome stands where its session announced that it would. A host may create others under its own cluster, and ends no
// session of another host with them.
func (p *pruner) isOwn(ctx context.Context, j *judged) (bool, error) {
	if !p.sessions[j.ID] || p.last.valid[j.key] || p.last.expired[j.key] {
		return true, nil
	}
	cluster, known := p.clusters[j.ID]
	if !known { // announced since
		u, err := p.announced(ctx, j.ID)
		if err != nil || u == nil {
			return true, err
		}
		cluster = u.Cluster
	}
	return cluster == "" || cluster == j.Cluster, nil
}

// mustBeLate is the guard against a lost gc/ and a listing of sessions that is cut short: either would make good snapshots look like
// commits of sessions that were fenced and deleted before.
func (p *pruner) mustBeLate(ctx context.Context, key string) error {
	if p.last.Number == 0 {
		if err := p.showsLostRuns(ctx, key); err != nil {
			return err
		}
	}
	session := sessionsPrefix + outcomeSession(key)
	_, err := p.store.Get(ctx, session, storage.Range{Len: 1}, nil)
	switch {
	case errors.Is(err, storage.ErrNotExist):
		return nil
	case err != nil:
		return err
	case p.last.resolved[outcomeSession(key)]:
		return nil
	}
	return fmt.Errorf("%w: %s is there, and was not listed", storage.ErrUnreachable, session)
}
