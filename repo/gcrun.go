package repo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pgtrove/pgtrove/storage"
)

// gcRun is the payload of gc/<n>: all that one prune run decided, created at once. The newest one is the truth about what
// counts; docs/protocol.md says why that is enough.
type gcRun struct {
	Version   int       `json:"version"`
	Number    uint64    `json:"number"`
	Nonce     string    `json:"nonce"`
	Host      string    `json:"host"`
	Time      time.Time `json:"time"`
	Valid     []kept    `json:"valid"`     // snapshots that count
	Expired   []named   `json:"expired"`   // snapshots that counted until this run
	Resolved  []string  `json:"resolved"`  // sessions that had an outcome
	Bases     []baseRef `json:"bases"`     // the compacted index
	Sweep     []string  `json:"sweep"`     // packs that this run deletes
	Condemned []string  `json:"condemned"` // packs that the next run deletes, unless somebody needs them
	// LockedUntil is until when the storage keeps all that valid snapshots need, at least. Zero: for as long after its Put as config asks.
	LockedUntil time.Time `json:"locked_until,omitzero"`

	Narrow       []string   `json:"narrow,omitempty"`        // IDs of snapshots that keep no WAL behind their stop
	WALSweep     []KeyRange `json:"wal_sweep,omitempty"`     // archived WAL that this run deletes
	WALCondemned []KeyRange `json:"wal_condemned,omitempty"` // archived WAL that the next run deletes, unless somebody needs it
	// WALBegun is the part of WALCondemned that a run has begun to delete, this one or one before, perhaps not to the end. It stays there as long as it exists, needed
	// or not: that run may go on at any time.
	WALBegun []KeyRange `json:"wal_begun,omitempty"`

	// Made by index: keys of outcomes, and IDs of sessions.
	valid, expired, resolved, narrow map[string]bool
}

// named is a snapshot.
type named struct {
	Cluster string `json:"cluster"`
	ID      string `json:"id"`
}

func (n named) key() string { return snapshotsPrefix + n.Cluster + "/" + n.ID }

// kept is a snapshot that counts. KeptSince is its age for retention: when the storage said that it was committed, fixed by the first run
// that lists it. So neither a host's clock nor a copied bucket makes a snapshot older than it is.
type kept struct {
	named
	KeptSince time.Time `json:"kept_since"`
	Refused   bool      `json:"refused,omitempty"` // and was so from the first run on that listed it: it never needed anything
}

// baseRef is a shard of the compacted index: an index segment under base/.
type baseRef struct {
	Key    string `json:"key"`
	Chunks int    `json:"chunks"`
	Group  string `json:"group,omitempty"` // the tag of the trust group whose key opens it, so that others need not try
}

const (
	gcVersion = 1
	gcDigits  = 10 // so that names sort as numbers do
)

func gcKey(n uint64) string { return fmt.Sprintf("%s%0*d", gcPrefix, gcDigits, n) }

func parseNumber(s string) (uint64, bool) {
	n, err := strconv.ParseUint(s, 10, 64)
	return n, err == nil && len(s) == gcDigits && n > 0
}

func (g *gcRun) index() {
	g.valid, g.expired, g.resolved, g.narrow = map[string]bool{}, map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, v := range g.Valid {
		g.valid[v.key()] = true
	}
	for _, e := range g.Expired {
		g.expired[e.key()] = true
	}
	for _, sid := range g.Resolved {
		g.resolved[sid] = true
	}
	for _, sid := range g.Narrow {
		g.narrow[sid] = true
	}
}

// counts is the rule of what a snapshot is: the newest run lists it, or its session is there and no run has looked at it yet. key is its
// outcome's: another host may have created one of the same ID under a cluster of its own. sessions must have been listed before the run
// was read.
func (g *gcRun) counts(key string, sessions map[string]bool) bool {
	sid := outcomeSession(key)
	return g.valid[key] || sessions[sid] && !g.resolved[sid]
}

// tags gives the groups' tags of bases, by key.
func (g *gcRun) tags() map[string]string {
	tags := make(map[string]string, len(g.Bases))
	for _, b := range g.Bases {
		tags[b.Key] = b.Group
	}
	return tags
}

func (g *gcRun) marshal() ([]byte, error) { return json.Marshal(g) }

func (g *gcRun) validate() error {
	for _, v := range g.Valid {
		if err := storage.CheckKey(v.key()); err != nil {
			return err
		}
	}
	for _, e := range g.Expired {
		if err := storage.CheckKey(e.key()); err != nil {
			return err
		}
	}
	for _, b := range g.Bases {
		if !strings.HasPrefix(b.Key, basePrefix) {
			return fmt.Errorf("base %q", b.Key)
		}
	}
	for _, key := range slices.Concat(g.Sweep, g.Condemned) {
		if _, ok := parsePackKey(key); !ok || !strings.HasPrefix(key, packsPrefix) {
			return fmt.Errorf("pack %q", key)
		}
	}
	for _, r := range slices.Concat(g.WALSweep, g.WALCondemned, g.WALBegun) {
		if err := r.validate(); err != nil {
			return err
		}
	}
	return nil
}

// newestNumber returns the number of the newest prune run, 0 where there was none.
func (r *Repo) newestNumber(ctx context.Context) (uint64, error) {
	newest := uint64(0)
	err := r.store.List(ctx, gcPrefix, func(i storage.Info) error {
		n, ok := parseNumber(strings.TrimPrefix(i.Key, gcPrefix))
		if !ok {
			return fmt.Errorf("%w: %s is no name of a prune run", ErrDamaged, i.Key)
		}
		newest = max(newest, n)
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("list prune runs: %w", err)
	}
	return newest, nil
}

// newestRun returns what the newest prune run decided; the zero run, number 0, where there was none.
func (r *Repo) newestRun(ctx context.Context) (*gcRun, error) {
	last := uint64(0)
	for {
		n, err := r.newestNumber(ctx)
		if err != nil {
			return nil, err
		}
		if n == 0 {
			g := &gcRun{Version: gcVersion}
			g.index()
			return g, nil
		}
		g, err := r.run(ctx, n)
		if errors.Is(err, storage.ErrNotExist) && n != last {
			last = n // deleted by a newer one in between
			continue
		}
		return g, err
	}
}

func (r *Repo) run(ctx context.Context, n uint64) (*gcRun, error) {
	key := gcKey(n)
	b, err := r.get(ctx, kindGC, key)
	if err != nil {
		return nil, err
	}
	var g gcRun
	if err := json.Unmarshal(b, &g); err != nil {
		return nil, fmt.Errorf("%w: %s does not say what a prune run says", ErrDamaged, key)
	}
	if g.Version != gcVersion {
		return nil, fmt.Errorf("%w: %s has version %d", ErrVersion, key, g.Version)
	}
	if err := g.validate(); err != nil || g.Number != n {
		return nil, fmt.Errorf("%w: %s, number %d: %v", ErrDamaged, key, g.Number, err)
	}
	g.index()
	return &g, nil
}
