package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pgtrove/pgtrove/keys"
	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/storage/fault"
)

// mostWrites is how many calls a session that finds nothing new may make beyond
// reading.
const mostWrites = 5

// callCount is the number of calls by verb and by what stands before the first
// slash of the key.
type callCount map[string]int

func (c callCount) sum() (n int) {
	for _, v := range c {
		n += v
	}
	return n
}

// writes is how many were not to read.
func (c callCount) writes() (n int) {
	for what, v := range c {
		if strings.HasPrefix(what, string(fault.Put)) || strings.HasPrefix(what, string(fault.Delete)) {
			n += v
		}
	}
	return n
}

func (c callCount) String() string {
	var all []string
	for _, what := range slices.Sorted(maps.Keys(c)) {
		all = append(all, fmt.Sprintf("%s %d", what, c[what]))
	}
	return strings.Join(all, ", ")
}

// nothingNew takes a snapshot of what the last one has, as a backup does that
// believes the files' times, and counts the calls from the look for the parent
// on.
func (h *history) nothingNew(ctx context.Context) (callCount, error) {
	calls := callCount{}
	counting := false
	store := fault.New(h.hold.store, func(op fault.Op) fault.Action {
		if counting {
			kind, _, _ := strings.Cut(op.Key, "/")
			calls[string(op.Verb)+" "+kind]++
		}
		return fault.Action{}
	})
	text, err := os.ReadFile(filepath.Join(h.d.dir, "identity"))
	if err != nil {
		return nil, err
	}
	identities, err := keys.ParseIdentityFile(text)
	if err != nil {
		return nil, err
	}
	r, err := repo.Open(ctx, store, identities.Identities...)
	if err != nil {
		return nil, err
	}
	counting = true
	d := &direct{h.d.dir, h.d.jobs, r}
	result, err := d.take(ctx, h.still())
	if err == nil && (result.Read > 0 || result.SkippedFiles != int64(h.files)+1) {
		err = fmt.Errorf("of %d files %d were skipped, and %d bytes read", h.files+1, result.SkippedFiles, result.Read)
	}
	return calls, err
}
