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
	run      *gcRun            // the newest
	names    []string          // every index segment under index/
	segments []string          // names of those that count, bases included
	sessions map[string]bool   // IDs
	outcomes map[string]string // session ID to key
}

// list looks at everything that says which index segments count (W1): the bases of the newest prune run, and the segments of sessions
// that exist and that no run has resolved. Who reads must look at gc/ once more after loading them.
//
// A writer leaves out the segments of sessions that were fenced or aborted, and so looks outcomes up after the
// segments were listed: such a session may still be writing, to no effect, and what it publishes now no prune will ever see.
func (r *Repo) list(ctx context.Context, who reader) (*listing, error) {
	l := &listing{}
	var err error
	if l.run, err = r.newestRun(ctx); err != nil {
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
	void := map[string]bool{}
	if who == forWriting {
		if void, err = r.voidSessions(ctx, l); err != nil {
			return nil, err
		}
	}
	for _, name := range l.names {
		if sid := segmentSession(name); l.open(sid) && !void[sid] {
			l.segments = append(l.segments, name)
		}
	}
	return l, nil
}

// open says whether a session's segments count beside the bases.
func (l *listing) open(sid string) bool { return l.sessions[sid] && !l.run.resolved[sid] }

// voidSessions gives those, of the sessions with segments, that ended without effect.
func (r *Repo) voidSessions(ctx context.Context, l *listing) (map[string]bool, error) {
	var sids []string
	for _, name := range l.names {
		sid := segmentSession(name)
		if l.open(sid) && l.outcomes[sid] != "" && !slices.Contains(sids[max(0, len(sids)-1):], sid) { // names are in order
			sids = append(sids, sid)
		}
	}
	void := map[string]bool{}
	fetch := func(ctx context.Context, i int) (bool, error) { return r.void(ctx, l.outcomes[sids[i]]) }
	err := inOrder(ctx, len(sids), fetch, func(i int, v bool) error {
		void[sids[i]] = v
		return nil
	})
	return void, err
}

// segmentSession is the session of the index segment under key.
func segmentSession(key string) string {
	sid, _, _ := strings.Cut(strings.TrimPrefix(key, indexPrefix), "/")
	return sid
}

// void says whether the outcome under key ended its session without effect.
func (r *Repo) void(ctx context.Context, key string) (bool, error) {
	o, err := r.outcome(ctx, key)
	switch {
	case errors.Is(err, ErrDamaged):
		return false, nil // it says nothing of the chunks, which are verified one by one
	case errors.Is(err, storage.ErrNotExist):
		return true, nil // a prune deleted it, and has said so first: the view is loaded anew
	case err != nil:
		return false, err
	}
	return o.Outcome == outcomeFenced || o.Outcome == outcomeAborted, nil
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
