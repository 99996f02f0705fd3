package repo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/pgtrove/pgtrove/storage"
)

// reader says for whom an index is loaded.
type reader int

const (
	forReading reader = iota // and for pruning: whatever may be there
	forWriting               // only what stays there until the session has its outcome
)

// listing is what the storage showed of the protocol's state when a view was opened.
type listing struct {
	run      *gcRun              // the newest
	names    []string            // every index segment under index/
	segments []string            // names of those that count, bases included
	sessions map[string]bool     // IDs
	outcomes map[string][]string // session ID to keys
	damaged  map[string]bool     // packs that somebody found damaged, by key

	distrusted *distrust // by whom a writer goes no more
}

// list looks at everything that says which index segments count (W1): the bases of the newest prune run, and the segments of sessions
// that exist and that no run has resolved. Who reads must look at gc/ once more after loading them.
//
// Of sessions that were fenced a writer believes the segments that the fence names, and so looks outcomes up after the
// segments were listed: such a session may still be writing, to no effect, and what it publishes now no prune may ever see.
func (r *Repo) list(ctx context.Context, who reader) (*listing, error) {
	l := &listing{}
	var err error
	if l.run, err = r.newestRun(ctx); err != nil {
		return nil, err
	}
	if l.damaged, err = r.damagedPacks(ctx); err != nil { // before the index, which then names what was copied out of them
		return nil, err
	}
	if err := r.store.List(ctx, indexPrefix, func(i storage.Info) error {
		l.names = append(l.names, i.Key)
		return nil
	}); err != nil {
		return nil, fmt.Errorf("list index: %w", err)
	}
	if l.sessions, err = r.sessions(ctx); err != nil {
		return nil, err
	}
	if l.outcomes, err = r.outcomes(ctx); err != nil {
		return nil, err
	}
	for _, b := range l.run.Bases {
		l.segments = append(l.segments, b.Key)
	}
	var fenced map[string]*outcome
	if who == forWriting {
		if fenced, err = r.voidSessions(ctx, l); err != nil {
			return nil, err
		}
	}
	for _, name := range l.names {
		sid := segmentSession(name)
		if o := fenced[sid]; l.open(sid) && (o == nil || slices.Contains(o.Segments, name)) {
			l.segments = append(l.segments, name)
		}
	}
	if who == forWriting {
		l.distrusted, err = r.distrusted(ctx)
	}
	return l, err
}

// open says whether a session's segments count beside the bases.
func (l *listing) open(sid string) bool { return l.sessions[sid] && !l.run.resolved[sid] }

// voidSessions gives the outcomes of those sessions with segments that ended without effect.
func (r *Repo) voidSessions(ctx context.Context, l *listing) (map[string]*outcome, error) {
	var sids []string
	for _, name := range l.names {
		sid := segmentSession(name)
		if l.open(sid) && l.outcomes[sid] != nil && (len(sids) == 0 || sids[len(sids)-1] != sid) { // names are in order
			sids = append(sids, sid)
		}
	}
	void := map[string]*outcome{}
	fetch := func(ctx context.Context, i int) (*outcome, error) { return r.void(ctx, sids[i], l.outcomes[sids[i]]) }
	err := inOrder(ctx, len(sids), fetch, func(i int, o *outcome) error {
		if o != nil {
			void[sids[i]] = o
		}
		return nil
	})
	return void, err
}

// segmentSession is the session of the index segment under key.
func segmentSession(key string) string {
	sid, _, _ := strings.Cut(strings.TrimPrefix(key, indexPrefix), "/")
	return sid
}

// void gives the outcome with which a session ended without effect; nil if it did not.
func (r *Repo) void(ctx context.Context, sid string, keys []string) (*outcome, error) {
	key := keys[0]
	if len(keys) > 1 {
		var err error
		if key, err = r.ownOutcome(ctx, sid, keys); err != nil || key == "" {
			return nil, err
		}
	}
	o, err := r.outcome(ctx, key)
	switch {
	case isLoss(err), isForeign(err):
		return nil, nil // it says nothing of the chunks, which are verified one by one
	case errors.Is(err, storage.ErrNotExist):
		return &outcome{}, nil // a prune deleted it, and has said so first: the view is loaded anew
	case err != nil:
		return nil, err
	case o.Outcome == outcomeFenced || o.Outcome == outcomeAborted:
		return o, nil
	}
	return nil, nil
}

func (r *Repo) sessions(ctx context.Context) (map[string]bool, error) {
	sessions := map[string]bool{}
	err := r.store.List(ctx, sessionsPrefix, func(i storage.Info) error {
		sessions[strings.TrimPrefix(i.Key, sessionsPrefix)] = true
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list sessions: %w", err)
	}
	return sessions, nil
}

// barred are the packs that a writer must not refer to any more: this run deletes them, or the next one will.
func (g *gcRun) barred() map[string]bool {
	b := make(map[string]bool, len(g.Sweep)+len(g.Condemned))
	for _, key := range g.Sweep {
		b[key] = true
	}
	for _, key := range g.Condemned {
		b[key] = true
	}
	return b
}
