package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/pgtrove/pgtrove/repo"
)

// pruneJSON is what a run of prune did, or would do.
type pruneJSON struct {
	Type      string        `json:"type"`
	Run       uint64        `json:"run"` // its number; 0: it did not come so far
	DryRun    bool          `json:"dry_run"`
	Snapshots int           `json:"snapshots"` // that stay
	Removed   []prunedJSON  `json:"removed"`
	Held      []prunedJSON  `json:"held"` // forgotten, and stay as long as something is damaged
	Last      []prunedJSON  `json:"last"` // forgotten, and stay because their clusters have nothing else
	Returned  []prunedJSON  `json:"returned"`
	Fenced    []sessionJSON `json:"fenced"`
	Blocked   []sessionJSON `json:"blocked"`  // by which; nothing was changed then
	Vanished  []prunedJSON  `json:"vanished"` // nothing was changed then
	Stored    amountJSON    `json:"stored"`   // all packs, before
	Deleted   amountJSON    `json:"deleted"`
	Condemned amountJSON    `json:"condemned"` // the next run deletes these
	Repacked  amountJSON    `json:"repacked"`  // part of condemned: what is needed of them was copied
	Rescued   amountJSON    `json:"rescued"`   // condemned before, and needed after all
	WAL       walPrunedJSON `json:"wal"`
	Tidied    amountJSON    `json:"tidied"` // files that killed writers left half-written; packs counts files
	Locked    []string      `json:"locked"`
	Lock      lockJSON      `json:"object_lock"`
	Damage    []string      `json:"damage"`       // the first of it
	Damages   int           `json:"damage_count"` // of all
	Seconds   float64       `json:"seconds"`
}

type prunedJSON struct {
	ID       string   `json:"id"`
	Cluster  string   `json:"cluster"`
	StopTime jsonTime `json:"stop_time"`
}

type sessionJSON struct {
	ID       string   `json:"id"`
	Cluster  string   `json:"cluster"`
	Host     string   `json:"host"`
	PID      int      `json:"pid"`
	Started  jsonTime `json:"started"`
	LastSeen jsonTime `json:"last_seen"`
	Repack   bool     `json:"repack"`
}

type amountJSON struct {
	Packs int   `json:"packs"`
	Bytes int64 `json:"bytes"`
}

// lockJSON is what became of the retention of what is needed.
type lockJSON struct {
	Until       jsonTime `json:"until"`    // everything needed is locked at least until then; null: the repository asks for no locks, or it is not known
	Extended    int      `json:"extended"` // objects
	NotExtended int      `json:"not_extended"`
	Missing     []string `json:"missing"` // objects that are needed, and were gone when they were to be locked
	Waiting     int      `json:"waiting"` // objects that are not needed and locked yet; a later run deletes them
}

func prunedResult(commits []repo.Commit) []prunedJSON {
	out := []prunedJSON{}
	for _, c := range commits {
		j := prunedJSON{ID: c.ID, Cluster: c.Cluster}
		if m, err := parseCommit(c); err == nil {
			j.StopTime = jsonTime(m.Window.StopTime)
		}
		out = append(out, j)
	}
	return out
}

func sessionsResult(sessions []repo.Unfinished) []sessionJSON {
	out := []sessionJSON{}
	for i := range sessions {
		u := &sessions[i]
		out = append(out, sessionJSON{u.ID, u.Cluster, u.Host, u.PID, jsonTime(u.Started), jsonTime(u.LastSeen), u.Repack})
	}
	return out
}

// pruneResult is the report of a run that ended with err.
func pruneResult(r *repo.PruneReport, err error) pruneJSON {
	var blocked *repo.BlockedError
	var vanished *repo.VanishedError
	j := pruneJSON{
		Type: "prune", Run: r.Run, Snapshots: r.Valid, Removed: prunedResult(r.Expired), Held: prunedResult(r.Held), Last: prunedResult(r.Last), Returned: prunedResult(r.Returned),
		Fenced: sessionsResult(r.Fenced), Blocked: []sessionJSON{}, Vanished: []prunedJSON{}, Stored: amountJSON(r.Stored), Deleted: amountJSON(r.Swept),
		Condemned: amountJSON(r.Condemned), Repacked: amountJSON(r.Repacked), Rescued: amountJSON(r.Rescued), Tidied: amountJSON(r.Tidied), Locked: []string{}, Damage: []string{},
		Lock: lockJSON{jsonTime(r.Locks.Until), r.Locks.Extended, r.Locks.Refused, append([]string{}, r.Locks.Missing...), len(r.Waiting)},
	}
	if errors.As(err, &blocked) {
		j.Blocked = sessionsResult(blocked.Sessions)
	}
	if errors.As(err, &vanished) {
		j.Vanished = prunedResult(vanished.Snapshots)
	}
	j.WAL = walPruned(r)
	j.Locked = append(j.Locked, r.Locked...)
	var damage []error
	damage, j.Damages = listDamage(r.Damage, listedDamage)
	for _, d := range damage {
		j.Damage = append(j.Damage, oneLine(d.Error()))
	}
	return j
}

const (
	// shownDamage is how many lines people are told of what is damaged, and listedDamage how many --json lists: one lost pack may
	// concern every file of a cluster.
	shownDamage  = 20
	listedDamage = 1000
)

// unlistedError stands for damage of which only the number is known.
type unlistedError struct{ n int }

func (e unlistedError) Error() string { return fmt.Sprintf("%d more that cannot be read", e.n) }

// listDamage returns at most limit of what is damaged, and the number of all.
func listDamage(damage []error, limit int) (listed []error, count int) {
	for _, d := range damage {
		var unlisted unlistedError
		if errors.As(d, &unlisted) {
			count += unlisted.n
			continue
		}
		count++
		if len(listed) < limit {
			listed = append(listed, d)
		}
	}
	return listed, count
}

// show prints what was done; for people nothing if the run failed, unless it is refused for what it would delete.
func (p *pruneRun) show(r *repo.PruneReport, err error) error {
	if p.settings.JSON {
		j := pruneResult(r, err)
		j.DryRun, j.Seconds = p.o.dryRun, time.Since(p.begun).Seconds()
		return p.out.object(j)
	}
	much := (*repo.TooMuchError)(nil)
	switch {
	case p.settings.Quiet:
		return nil
	case err != nil && !errors.As(err, &much):
		return p.showLocks(r)
	}
	head := fmt.Sprintf("prune run %d", r.Run)
	switch {
	case p.o.dryRun:
		head = "nothing was changed; " + head + " would do this"
	case err != nil: // it may have ended sessions
		head = "nothing was deleted; " + head + " would do this"
	}
	return p.out.print("%s: %s", head, pruneText(r, time.Since(p.begun)))
}

// showLocks says what a run did for which the error does not say all.
func (p *pruneRun) showLocks(r *repo.PruneReport) error {
	if r.Locks.Extended == 0 {
		return nil
	}
	did := "were"
	if p.o.dryRun {
		did = "would be"
	}
	return p.out.print("locks %s extended all the same, until %s: of %s, so that nobody deletes what is needed\n", did, showTime(r.Locks.Until),
		showCount(int64(r.Locks.Extended), "object", "objects"))
}

// pruneText says what a run did, or would do.
func pruneText(r *repo.PruneReport, took time.Duration) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s kept, %d removed, in %s\n", showCount(int64(r.Valid), "snapshot", "snapshots"), len(r.Expired), showDuration(took))
	for _, c := range r.Expired {
		fmt.Fprintf(&b, "  removed: snapshot %s of cluster %s\n", c.ID, c.Cluster)
	}
	for _, c := range r.Held {
		fmt.Fprintf(&b, "  not removed, because something is damaged: snapshot %s of cluster %s\n", c.ID, c.Cluster)
	}
	for _, c := range r.Last {
		fmt.Fprintf(&b, "  not removed, because it is the last: snapshot %s of cluster %s\n", c.ID, c.Cluster)
	}
	for _, c := range r.Returned {
		fmt.Fprintf(&b, "  back, because it is pinned: snapshot %s of cluster %s\n", c.ID, c.Cluster)
	}
	for i := range r.Fenced {
		fmt.Fprintf(&b, "  ended, because it is silent: %s\n", describeSession(&r.Fenced[i]))
	}
	if r.Swept.Packs == 0 {
		fmt.Fprintf(&b, "  deleted: nothing of %s\n", showAmount(r.Stored))
	} else {
		fmt.Fprintf(&b, "  deleted: %s, out of %s\n", showAmount(r.Swept), showAmount(r.Stored))
	}
	if r.Condemned.Packs > 0 {
		fmt.Fprintf(&b, "  the next run deletes: %s", showAmount(r.Condemned))
		if r.Repacked.Packs > 0 {
			fmt.Fprintf(&b, ", of which %s still held something needed, which is copied", showAmount(r.Repacked))
		}
		b.WriteString("\n")
	}
	b.WriteString(walPrunedText(r))
	if r.Tidied.Packs > 0 {
		fmt.Fprintf(&b, "  half-written by backups that were killed, deleted too: %s of %s\n", showCount(int64(r.Tidied.Packs), "file", "files"), showBytes(r.Tidied.Bytes))
	}
	if r.Rescued.Packs > 0 {
		fmt.Fprintf(&b, "  needed after all: %s\n", showAmount(r.Rescued))
	}
	if r.Locks.Extended > 0 {
		fmt.Fprintf(&b, "  locked until %s: %s, so that nobody deletes what is needed\n", showTime(r.Locks.Until), showCount(int64(r.Locks.Extended), "object", "objects"))
	}
	if n := len(r.Waiting); n > 0 {
		fmt.Fprintf(&b, "  locked yet, and deleted by a later run: %s that nobody needs\n", showCount(int64(n), "object", "objects"))
	}
	if r.Stopped {
		b.WriteString("  a newer run has begun, and deletes what this one did not\n")
	}
	return b.String()
}

func showAmount(a repo.Amount) string {
	return fmt.Sprintf("%s of %s", showCount(int64(a.Packs), "pack", "packs"), showBytes(a.Bytes))
}
