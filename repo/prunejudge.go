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
		p.lastSeen(segmentSession(i.Key), i.ModTime)
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
	outcomes, err := p.Repo.outcomes(ctx)
	if err != nil {
		return err
	}
	if err := p.noneVanished(ctx, func(sid string) bool { return outcomes[sid] != "" }); err != nil { // before anything is changed
		return err
	}
	var dead, waiting []Unfinished
	for _, sid := range slices.Sorted(maps.Keys(p.began)) {
		if outcomes[sid] != "" {
			continue
		}
		u, err := p.unfinishedSession(ctx, sid)
		switch {
		case errors.Is(err, storage.ErrNotExist): // another run has resolved it
		case isLoss(err): // what it may use nobody knows, so nothing is deleted as long as it is there
			p.report.Damage = append(p.report.Damage, fmt.Errorf("%w; remove it once no backup runs that began before %s", err, p.seen[sid].UTC().Format(time.RFC3339)))
		case err != nil:
			return err
		case p.isDead(u):
			dead = append(dead, *u)
		case u.stated < p.last.Number && !u.Repack:
			waiting = append(waiting, *u)
		}
	}
	if len(waiting) > 0 {
		return &BlockedError{waiting}
	}
	p.report.Fenced, p.fencing = dead, map[string]bool{}
	for _, u := range dead {
		p.fencing[u.ID] = true
		if !p.o.DryRun {
			if err := p.fence(ctx, &u); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *pruner) unfinishedSession(ctx context.Context, sid string) (*Unfinished, error) {
	a, err := p.announcement(ctx, sid)
	if err != nil {
		return nil, err
	}
	return &Unfinished{
		ID: sid, Cluster: a.Cluster, Host: a.Host, PID: a.PID, Started: a.Started, LastSeen: p.seen[sid], Repack: a.Repack, stated: a.GC,
	}, nil
}

// isDead says whether a session is not waited for. No safety comes from this clock: a session that was fenced too early finds
// out when it commits, and begins anew.
func (p *pruner) isDead(u *Unfinished) bool {
	now := p.o.Now()
	silent := now.Sub(u.LastSeen) >= p.o.FenceAfter
	tooOld := now.Sub(p.began[u.ID]) >= maxSessionAge
	lost := u.Repack && u.stated < p.last.Number // its run is over, and was not the one that won
	return silent || tooOld || lost
}

// fence ends a session, unless it has just ended by itself.
func (p *pruner) fence(ctx context.Context, u *Unfinished) error {
	key := snapshotsPrefix + u.Cluster + "/" + u.ID
	err := p.end(ctx, key, &outcome{Version: 1, Outcome: outcomeFenced, Nonce: newNonce()})
	if err != nil && !errors.Is(err, ErrFenced) {
		return fmt.Errorf("fence session %s: %w", u.ID, err)
	}
	return nil
}

// judge says which snapshots count, which of these stay, and which sessions are resolved (P3). Snapshots are listed before sessions:
// one that is committed in between is left to the next run.
func (p *pruner) judge(ctx context.Context) (err error) {
	if p.marks, err = p.Repo.marks(ctx); err != nil {
		return err
	}
	p.outcomes = map[string]storage.Info{}
	if err := p.store.List(ctx, snapshotsPrefix, func(i storage.Info) error {
		p.outcomes[i.Key[strings.LastIndexByte(i.Key, '/')+1:]] = i
		return nil
	}); err != nil {
		return fmt.Errorf("list snapshots: %w", err)
	}
	if p.sessions, err = p.Repo.sessions(ctx); err != nil {
		return err
	}
	if err := p.noneVanished(ctx, func(sid string) bool { _, there := p.outcomes[sid]; return there }); err != nil {
		return err
	}
	p.run = &gcRun{Version: gcVersion, Number: p.last.Number + 1, Nonce: newNonce(), Host: p.o.Host, Time: p.o.Now().UTC(),
		Valid: []kept{}, Expired: []named{}, Resolved: []string{}, Bases: []baseRef{}, Sweep: []string{}, Condemned: []string{}}
	sids := slices.Sorted(maps.Keys(p.outcomes))
	fetch := func(ctx context.Context, i int) (*judged, error) { return p.read(ctx, sids[i]) }
	if err := inOrder(ctx, len(sids), fetch, func(_ int, j *judged) error {
		p.enter(j)
		return nil
	}); err != nil {
		return err
	}
	if p.o.DryRun {
		for sid := range p.fencing {
			p.run.Resolved = append(p.run.Resolved, sid)
		}
	}
	p.run.index()
	p.report.Valid = len(p.run.Valid)
	return nil
}

// noneVanished is the guard against a storage that shows less than it has, and against whoever removed snapshots by hand. has says of
// which sessions a listing has shown an outcome.
func (p *pruner) noneVanished(ctx context.Context, has func(sid string) bool) error {
	var gone []Commit
	for _, v := range p.last.Valid {
		if !has(v.ID) {
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
	kind string // "": it is damaged
}

func (p *pruner) read(ctx context.Context, sid string) (*judged, error) {
	i := p.outcomes[sid]
	cluster, _, _ := strings.Cut(strings.TrimPrefix(i.Key, snapshotsPrefix), "/")
	j := &judged{key: i.Key, info: i, Commit: Commit{Cluster: cluster, ID: sid, Pinned: p.marks.pinned[sid], Forgotten: p.marks.forgotten[sid]}}
	o, err := p.outcome(ctx, i.Key)
	switch {
	case err == nil:
		j.kind, j.Manifest = o.Outcome, o.Manifest
	case errors.Is(err, ErrDamaged):
		j.Err = err
	case errors.Is(err, storage.ErrNotExist):
		return nil, fmt.Errorf("read %s: %w", i.Key, ErrOvertaken) // only prunes delete
	default:
		return nil, err
	}
	return j, nil
}

// enter puts an outcome where it belongs.
func (p *pruner) enter(j *judged) {
	p.run.Resolved = append(p.run.Resolved, j.ID)
	returns := p.last.expired(j.ID) && j.Pinned
	counts := p.last.counts(j.ID, p.sessions) || returns
	name := named{j.Cluster, j.ID}
	switch {
	case !counts || j.kind != outcomeSnapshot && j.kind != "" || j.Cluster == pruneCluster:
		p.void = append(p.void, j.key)
	case j.Forgotten && !j.Pinned:
		p.run.Expired = append(p.run.Expired, name)
		p.leaving = append(p.leaving, j.Commit)
		p.report.Expired = append(p.report.Expired, j.Commit)
	default:
		p.run.Valid = append(p.run.Valid, kept{name, p.keptSince(j)})
		p.staying = append(p.staying, j.Commit)
		if returns {
			p.report.Returned = append(p.report.Returned, j.Commit)
		}
	}
}

// keptSince is the age of a snapshot, which the first run that lists it fixes.
func (p *pruner) keptSince(j *judged) time.Time {
	for _, v := range p.last.Valid {
		if v.ID == j.ID {
			return v.KeptSince
		}
	}
	return j.info.ModTime.UTC()
}
