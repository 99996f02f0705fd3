package model

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/storage"
)

// oracle knows what people were told and looks, after each change, whether the objects that are stored keep these promises. It reads them
// all at once and by itself: what it says does not depend on the code that it judges.
type oracle struct {
	objects objects

	mu        sync.Mutex
	tally     tally
	violation string
	dirty     bool
	told      map[string]bool // snapshots whose writer was told that they are committed
	forgotten map[string]bool // for which there was a request to forget them, at any time
	pins      map[string]bool // whose pin was acknowledged, and that nobody began to unpin since

	narrowed   map[string]bool // snapshots for which there was a request to narrow them, at any time
	archived   map[string]bool // WAL files of which somebody was told that they are archived, by key
	deletedWAL []string        // such files that were deleted since the last look
}

func newOracle(m *image, s storage.Store) *oracle {
	return &oracle{objects: objects{image: m, store: s, there: map[string]bool{}, read: map[string]any{}},
		told: map[string]bool{}, forgotten: map[string]bool{}, pins: map[string]bool{},
		narrowed: map[string]bool{}, archived: map[string]bool{}}
}

// violated notes the first promise that was broken.
func (o *oracle) violated(format string, args ...any) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.violation == "" {
		o.violation = fmt.Sprintf(format, args...)
	}
}

func (o *oracle) note(fn func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	fn()
	o.dirty = true
}

// committed: a writer was told so.
func (o *oracle) committed(sid string) {
	o.note(func() { o.told[sid] = true; o.tally.Committed++ })
}

// pinned: a person was told so.
func (o *oracle) pinned(sid string) {
	o.note(func() { o.pins[sid] = true; o.tally.Pinned++ })
}

// unpinning: from now on the snapshot may go, if it was to be forgotten.
func (o *oracle) unpinning(sid string) { o.note(func() { delete(o.pins, sid) }) }

// pruned judges what a run says of itself. One that was overtaken has looked for packs that others were right to delete.
func (o *oracle) pruned(who string, r *repo.PruneReport) {
	o.note(func() { o.tally.report(r) })
	if len(r.Damage) > 0 && !r.Stopped {
		o.violated("%s finds damage in run %d: %v", who, r.Run, r.Damage[0])
	}
}

// mustStay says whether nothing may take the snapshot away.
func (o *oracle) mustStay(sid string) bool {
	return o.pins[sid] || o.told[sid] && !o.forgotten[sid]
}

// mustRead says whether a restore that began may not fail: the snapshot still counts.
func (o *oracle) mustRead(sid string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.mustStay(sid)
}

// changed takes note of an object that was created or deleted.
func (o *oracle) changed(key string, there bool) {
	o.objects.changed(key, there)
	top, rest, _ := strings.Cut(key, "/")
	switch top {
	case "forget":
		if sid, ok := strings.CutSuffix(rest, ".wal"); ok {
			o.narrowed[sid] = true
		} else if !strings.HasSuffix(rest, ".last") {
			o.forgotten[rest] = true
		}
	case "wal":
		if !there && o.isArchived(key) {
			o.deletedWAL = append(o.deletedWAL, key)
			o.dirty = true
			o.tally.SweptWAL++
		}
	case "gc", "snapshots", "sessions", "base":
		o.dirty = true
	case "packs", "index":
		o.dirty = o.dirty || !there
	}
}

// check looks whether every promise is kept.
func (o *oracle) check(ctx context.Context) {
	if !o.dirty || o.violation != "" {
		return
	}
	o.dirty = false
	s, err := o.objects.state(ctx)
	if err != nil {
		o.violated("the objects cannot be read: %v", err)
		return
	}
	for _, key := range s.run.bases() {
		if !o.objects.there[key] {
			o.violated("run %d names %s, which is not there", s.run.Number, key)
		}
	}
	for _, sid := range slices.Sorted(maps.Keys(o.told)) {
		if !o.forgotten[sid] && !s.counts(sid) {
			o.violated("snapshot %s: its writer was told that it is committed, nobody forgot it, and it does not count", sid)
		}
	}
	// A run that did not see the pin may end the snapshot, and the next one brings it back.
	for _, sid := range slices.Sorted(maps.Keys(o.pins)) {
		if !s.counts(sid) && !s.returns(sid) {
			o.violated("snapshot %s: its pin was acknowledged, and it is gone", sid)
		}
	}
	o.checkWAL(s)
	o.checkChunks(ctx, s)
}

// checkChunks looks whether every chunk of every snapshot that counts, or that a pin could still bring back, stands in a pack that
// is there, and whether a reader finds it.
func (o *oracle) checkChunks(ctx context.Context, s *state) {
	var found map[chunk.ID]bool
	for _, sid := range slices.Sorted(maps.Keys(s.outcomes)) {
		if !s.counts(sid) && !s.returns(sid) {
			continue
		}
		if found == nil {
			var err error
			if found, err = o.objects.findable(ctx, s); err != nil {
				o.violated("the index cannot be read: %v", err)
				return
			}
		}
		for _, id := range s.outcomes[sid].needs {
			if !found[id] {
				o.violated("snapshot %s counts, and chunk %s %s", sid, id.Short(), o.objects.whereabouts(ctx, id))
				return
			}
		}
	}
}
