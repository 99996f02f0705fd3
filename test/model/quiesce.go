package model

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/repo"
)

// lastPrunes is how many prunes alone must be enough to clean up after anything.
const lastPrunes = 4

// quiesce lets prunes run alone, days apart, after everybody has gone, and looks at what is left: only what lives.
func (w *world) quiesce(ctx context.Context) {
	w.note("", "--- everybody has gone, prunes run alone")
	var before []string
	for range lastPrunes + 1 {
		before = w.oracle.objects.keys()
		time.Sleep(8 * day)
		report, err := w.repo.Prune(ctx, pruneOptions("last", time.Now))
		if err != nil {
			w.oracle.violated("a prune alone fails: %v", err)
			return
		}
		w.oracle.pruned("last", report)
		w.oracle.check(ctx)
	}
	w.oracle.checkLeft(ctx, before)
	w.restoreAll(ctx)
}

// restoreAll restores every snapshot that there is, which are all that somebody relies on.
func (w *world) restoreAll(ctx context.Context) {
	seen := map[string]bool{}
	if err := w.repo.Commits(ctx, "", func(c repo.Commit) error {
		seen[c.ID] = true
		return errors.Join(c.Err, w.readAll(ctx, c))
	}); err != nil {
		w.oracle.violated("restore at the end: %v", err)
	}
	for _, sid := range slices.Sorted(maps.Keys(w.oracle.told)) {
		if w.oracle.mustStay(sid) && !seen[sid] {
			w.oracle.violated("snapshot %s must be there at the end, and is not listed", sid)
		}
	}
}

// keys gives every object's name but those that each prune makes anew.
func (o *objects) keys() (keys []string) {
	for _, key := range slices.Sorted(maps.Keys(o.there)) {
		if !strings.HasPrefix(key, "gc/") && !strings.HasPrefix(key, "base/") {
			keys = append(keys, key)
		}
	}
	return keys
}

// checkLeft looks whether nothing is there but what lives, and that the last prune changed nothing of what was there before it.
func (o *oracle) checkLeft(ctx context.Context, before []string) {
	if o.violation != "" {
		return
	}
	s, err := o.objects.state(ctx)
	if err != nil {
		o.violated("the objects cannot be read: %v", err)
		return
	}
	live := map[chunk.ID]bool{}
	for sid, e := range s.outcomes {
		if !s.counts(sid) {
			o.violated("left over: the outcome %s of %s", e.Outcome, sid)
		}
		for _, id := range e.needs {
			live[id] = true
		}
	}
	bases := s.run.bases()
	runs := 0
	for _, key := range slices.Sorted(maps.Keys(o.objects.there)) {
		top, rest, _ := strings.Cut(key, "/")
		switch {
		case top == "gc":
			runs++
		case top == "sessions", top == "index", top == "base" && !slices.Contains(bases, key),
			(top == "forget" || top == "pins") && s.outcomes[strings.TrimSuffix(rest, ".last")] == nil:
			o.violated("left over: %s", key)
		case top == "packs":
			held, err := o.objects.held(ctx, key)
			if err != nil || !slices.ContainsFunc(held, func(id chunk.ID) bool { return live[id] }) {
				o.violated("left over: %s, in which nothing lives (%s) %v", key, o.objects.image.letters(held), err)
			}
		}
	}
	o.checkWALLeft(s)
	if runs != 1 {
		o.violated("left over: %d prune runs", runs)
	}
	if after := o.objects.keys(); !slices.Equal(before, after) {
		o.violated("a prune of a clean repository changed it: from %v to %v", before, after)
	}
}
