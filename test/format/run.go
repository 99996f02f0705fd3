package format

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"strings"
	"time"
)

// Run is section 7.7.
type Run struct {
	Version   int
	Number    uint64
	Nonce     string
	Host      string
	Time      time.Time
	Valid     []RunSnapshot
	Expired   []RunSnapshot
	Resolved  []string
	Bases     []RunBase
	Sweep     []string
	Condemned []string

	LockedUntil  time.Time `json:"locked_until"`
	Narrow       []string
	WALSweep     []RunWAL `json:"wal_sweep"`
	WALCondemned []RunWAL `json:"wal_condemned"`
	WALBegun     []RunWAL `json:"wal_begun"`
}

// RunWAL is a row of archived WAL: what stands under the keys from First to Last.
type RunWAL struct{ First, Last string }

// RunSnapshot is a snapshot in a run.
type RunSnapshot struct {
	Cluster   string
	ID        string
	KeptSince time.Time `json:"kept_since"` // zero where it expired
}

// RunBase is a shard of the compacted index.
type RunBase struct {
	Key    string
	Chunks int
	Group  string // the tag of its key; "": not said
}

// Mark is section 7.9.
type Mark struct {
	Version int
	Time    time.Time
	Host    string
}

// NewestRun reads the run with the highest number, nil if there is none.
func (r *Repository) NewestRun() (*Run, error) {
	names := r.Names("gc/")
	if len(names) == 0 {
		return nil, nil
	}
	for _, name := range names {
		if !regexp.MustCompile(`^gc/\d{10}$`).MatchString(name) {
			return nil, damaged("%s is no run's name", name)
		}
	}
	return r.Run(names[len(names)-1])
}

// Run reads one prune run.
func (r *Repository) Run(name string) (*Run, error) {
	plain, err := r.payload("pgtgcru", name)
	if err != nil {
		return nil, err
	}
	var run Run
	if err := versioned(plain, "version", &run); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if err := run.check(name); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return &run, nil
}

func (run *Run) check(name string) error {
	if run.Number == 0 || name != fmt.Sprintf("gc/%010d", run.Number) {
		return damaged("its number is %d", run.Number)
	}
	for _, s := range append(append([]RunSnapshot(nil), run.Valid...), run.Expired...) {
		if !isName("snapshots/"+s.Cluster+"/"+s.ID) || strings.Contains(s.Cluster+s.ID, "/") {
			return damaged("snapshot %q of cluster %q", s.ID, s.Cluster)
		}
	}
	for _, b := range run.Bases {
		if !regexp.MustCompile(`^base/\d{10}/[0-9a-f]{32}-\d+$`).MatchString(b.Key) {
			return damaged("base %q", b.Key)
		}
		if b.Group != "" && (len(b.Group) != 16 || !isHex(b.Group)) {
			return damaged("base %q of the group %q", b.Key, b.Group)
		}
	}
	for _, key := range append(append([]string(nil), run.Sweep...), run.Condemned...) {
		if !regexp.MustCompile(`^packs/[^/]+/\d+-[0-9a-f]{64}$`).MatchString(key) {
			return damaged("pack %q", key)
		}
	}
	for _, rows := range [][]RunWAL{run.WALSweep, run.WALCondemned, run.WALBegun} {
		for _, row := range rows {
			file := regexp.MustCompile(`^wal/[^/]+/[^/]+/[^/]+/[^/]+$`).MatchString
			if !isName(row.First) || !isName(row.Last) || !file(row.First) || path.Dir(row.First) != path.Dir(row.Last) || row.First > row.Last {
				return damaged("WAL from %q to %q", row.First, row.Last)
			}
		}
	}
	return nil
}

// lists says whether snapshots has the ID.
func lists(snapshots []RunSnapshot, sid string) bool {
	for _, s := range snapshots {
		if s.ID == sid {
			return true
		}
	}
	return false
}

// unresolved says whether a session exists that no run has resolved.
func (r *Repository) unresolved(sid string) bool {
	if r.run != nil {
		for _, resolved := range r.run.Resolved {
			if resolved == sid {
				return false
			}
		}
	}
	return r.has("sessions/" + sid)
}

// Counts is section 7.10: whether a snapshot counts, and whether it is hidden.
func (r *Repository) Counts(sid string) (counts, hidden bool) {
	pinned := r.has("pins/" + sid)
	counts = r.unresolved(sid)
	if r.run != nil {
		counts = counts || lists(r.run.Valid, sid) || pinned && lists(r.run.Expired, sid)
	}
	return counts, r.has("forget/"+sid) && !pinned
}

// Mark reads a request.
func (r *Repository) Mark(name string) (Mark, error) {
	var m Mark
	plain, err := r.payload("pgtmark", name)
	if err != nil {
		return m, err
	}
	return m, versioned(plain, "version", &m)
}

// segments are the index segments that count (section 7.10): those a reader
// takes in, and of these the ones that a writer may refer to.
func (r *Repository) segments() (read []string, write map[string]bool, err error) {
	void := map[string]bool{}
	for _, name := range r.Names("snapshots/") {
		o, err := r.Outcome(name)
		if err != nil && !errors.Is(err, ErrForeign) && !errors.Is(err, ErrOrigin) {
			return nil, nil, err
		}
		void[path.Base(name)] = o.Outcome == "FENCED" || o.Outcome == "ABORTED"
	}
	write = map[string]bool{}
	if r.run != nil {
		for _, b := range r.run.Bases {
			read, write[b.Key] = append(read, b.Key), true
		}
	}
	for _, name := range r.Names("index/") {
		if sid := strings.Split(name, "/")[1]; r.unresolved(sid) {
			read, write[name] = append(read, name), !void[sid]
		}
	}
	return read, write, nil
}

// WriterMayUse says whether a writer may refer to a chunk.
func (r *Repository) WriterMayUse(id ID) bool { return r.usable[r.Bundle.Group][id] }
