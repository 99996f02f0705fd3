package model

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/storage"
)

// walOf is the WAL that a snapshot needs to come to its own moment, by the numbers of files; first is 0 for one that needs none.
type walOf struct {
	first, last int
	whole       bool // its writer found all of it
}

// needs says whether the snapshot needs a file: up to its stop, and unless it is narrow all that follows.
func (a walOf) needs(n int, narrow bool) bool {
	return a.first > 0 && n >= a.first && (n <= a.last || !narrow)
}

// parseWAL reads what stands in a manifest behind the name of the listing.
func parseWAL(manifest []byte) (walOf, error) {
	var b []byte
	if err := json.Unmarshal(manifest, &b); err != nil {
		return walOf{}, err
	}
	if len(b) < walBytes {
		return walOf{}, fmt.Errorf("manifest of %d bytes", len(b))
	}
	b = b[len(b)-walBytes:]
	return walOf{int(b[0]), int(b[1]), b[2] == 1}, nil
}

// walBytes is how long that is.
const walBytes = 3

func (a walOf) marshal() []byte {
	b := []byte{byte(a.first), byte(a.last), 0}
	if a.whole {
		b[2] = 1
	}
	return b
}

func walDir(cluster string) string { return "wal/" + cluster + "/1/00000001/" }

func walKey(cluster string, n int) string { return fmt.Sprintf("%s%04d", walDir(cluster), n) }

// parseWALKey is the inverse of walKey. 0: it is no such key.
func parseWALKey(key string) (cluster string, n int) {
	parts := strings.Split(key, "/")
	if len(parts) != 5 || parts[0] != "wal" {
		return "", 0
	}
	n, _ = strconv.Atoi(parts[4])
	return parts[1], n
}

// servers are the clusters' servers, which write WAL.
type servers struct {
	mu   sync.Mutex
	last map[string]int // file of each cluster
}

func (s *servers) next(cluster string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last[cluster]++
	return s.last[cluster]
}

// begin is the start of a server's backup: on a primary behind all that is archived, on a standby often long before.
func (b *writer) begin(p *process) (a walOf, own int) {
	if !p.chance(p.w.wal) {
		return walOf{}, 0
	}
	own = p.w.servers.next(b.cluster)
	a.first = own
	if p.pick(2) == 1 {
		a.first = max(1, own-1-p.pick(6))
	}
	return a, own
}

// end archives what the server wrote meanwhile, and looks whether all is there: what is about to go is not.
func (b *writer) end(ctx context.Context, p *process, s *repo.Session, a walOf, own int) (walOf, error) {
	if a.first == 0 {
		return a, nil
	}
	a.last, a.whole = p.w.servers.next(b.cluster), true
	for _, n := range []int{own, a.last} {
		err := client{p.w}.Put(ctx, walKey(b.cluster, n), []byte("WAL"))
		if err == nil || errors.Is(err, storage.ErrExist) {
			p.w.oracle.note(func() { p.w.oracle.archived[walKey(b.cluster, n)] = true })
		}
	}
	for n := a.first; n <= a.last; n++ {
		key := walKey(b.cluster, n)
		if s.LosesWAL(key) || !p.w.oracle.isArchived(key) {
			a.whole = false
			break
		}
		_, err := client{p.w}.Get(ctx, key, storage.Range{}, nil)
		if errors.Is(err, storage.ErrNotExist) {
			a.whole = false
			break
		}
		if err != nil {
			return a, err
		}
	}
	return a, nil
}

// walNeed is the WALNeed of the model's snapshots.
func walNeed(_ context.Context, staying, leaving []repo.Commit) (repo.WALJudge, error) {
	type claim struct {
		walOf
		cluster        string
		narrow, leaves bool
	}
	var claims []claim
	for i, commits := range [][]repo.Commit{staying, leaving} {
		for _, c := range commits {
			a, err := parseWAL(c.Manifest)
			if err != nil {
				return nil, err
			}
			claims = append(claims, claim{a, c.Cluster, c.Narrowed, i == 1})
		}
	}
	before := ""
	return func(_ context.Context, key string) (repo.WALUse, bool, error) {
		cluster, n := parseWALKey(key)
		follows := before == "" || !strings.HasPrefix(before, walDir(cluster)) || before == walKey(cluster, n-1)
		before = key
		use := repo.WALUnclaimed
		for _, c := range claims {
			switch {
			case c.cluster != cluster:
			case c.needs(n, c.narrow) && !c.leaves:
				return repo.WALNeeded, follows, nil
			case c.needs(n, c.narrow):
				use = repo.WALParting
			case use == repo.WALUnclaimed:
				use = repo.WALUnneeded
			}
		}
		return use, follows, nil
	}, nil
}

func (o *oracle) isArchived(key string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.archived[key]
}

// checkWAL looks whether the WAL of every snapshot that counts, or that a pin could still bring back, is there, and whether any was deleted that
// it needs to come to a later moment. Of what its writer knew to be missing nothing was promised.
func (o *oracle) checkWAL(s *state) {
	deleted := o.deletedWAL
	o.deletedWAL = nil
	for _, sid := range slices.Sorted(maps.Keys(s.outcomes)) {
		e := s.outcomes[sid]
		if !e.wal.whole || !s.counts(sid) && !s.returns(sid) {
			continue
		}
		for n := e.wal.first; n <= e.wal.last; n++ {
			if key := walKey(e.cluster, n); !o.objects.there[key] {
				o.violated("snapshot %s counts, and its own WAL %s is gone", sid, key)
				return
			}
		}
		for _, key := range deleted {
			cluster, n := parseWALKey(key)
			if cluster == e.cluster && e.wal.needs(n, o.narrowed[sid]) {
				o.violated("snapshot %s counts, and WAL %s was deleted, which it needs", sid, key)
				return
			}
		}
	}
}

// checkWALLeft looks whether there is no WAL, of a cluster with snapshots, that none of them needs.
func (o *oracle) checkWALLeft(s *state) {
	for _, key := range slices.Sorted(maps.Keys(o.objects.there)) {
		cluster, n := parseWALKey(key)
		if n == 0 {
			continue
		}
		claimed, needed := false, false
		for sid, e := range s.outcomes {
			if e.cluster == cluster && s.counts(sid) {
				claimed = true
				needed = needed || e.wal.needs(n, o.narrowed[sid])
			}
		}
		if claimed && !needed {
			o.violated("left over: %s, which no snapshot needs", key)
		}
	}
}
