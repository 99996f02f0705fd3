package model

import (
	"fmt"

	"github.com/pgtrove/pgtrove/repo"
)

// tally counts what happened in schedules: a model in which nobody gets anything done finds nothing.
type tally struct {
	Schedules, Steps                               int
	Committed, Fenced, Restored, Forgotten, Pinned int
	Pruned, Blocked, Overtaken, Crashes, Outages   int
	Expired, Returned, FencedBy                    int
	Rebuilt, Repaired                              int
	Swept, Condemned, Repacked, Rescued            int // packs
	SweptWAL, Narrowed                             int
}

func (t *tally) add(u tally) {
	t.Schedules += u.Schedules
	t.Steps += u.Steps
	t.Committed += u.Committed
	t.Fenced += u.Fenced
	t.Restored += u.Restored
	t.Forgotten += u.Forgotten
	t.Pinned += u.Pinned
	t.Pruned += u.Pruned
	t.Blocked += u.Blocked
	t.Overtaken += u.Overtaken
	t.Crashes += u.Crashes
	t.Outages += u.Outages
	t.Expired += u.Expired
	t.Returned += u.Returned
	t.FencedBy += u.FencedBy
	t.Rebuilt += u.Rebuilt
	t.Repaired += u.Repaired
	t.Swept += u.Swept
	t.Condemned += u.Condemned
	t.Repacked += u.Repacked
	t.Rescued += u.Rescued
	t.SweptWAL += u.SweptWAL
	t.Narrowed += u.Narrowed
}

// report adds what a prune says that it did.
func (t *tally) report(r *repo.PruneReport) {
	t.Pruned++
	t.Expired += len(r.Expired)
	t.Returned += len(r.Returned)
	t.FencedBy += len(r.Fenced)
	t.Swept += r.Swept.Packs
	t.Condemned += r.Condemned.Packs
	t.Repacked += r.Repacked.Packs
	t.Rescued += r.Rescued.Packs
}

func (t *tally) String() string { return fmt.Sprintf("%+v", *t) }
