package restore

import (
	"context"
	"fmt"
	"maps"

	"github.com/pgtrove/pgtrove/snapshot"
)

// run verifies in rounds. After a round that found damage the index is loaded anew, for what is gone may only have been moved. It is
// damage when another look shows no other.
func (v *verifier) run(ctx context.Context) error {
	renew, _ := v.c.(Renewable)
	for n := 0; ; n++ {
		before := v.bad
		if err := v.round(ctx); err != nil {
			return err
		}
		same := v.later && maps.EqualFunc(before, v.bad, func(*Damage, *Damage) bool { return true })
		if len(v.bad) == 0 || renew == nil || same || n == maxReloads {
			return nil
		}
		if err := renew.Reload(ctx); err != nil {
			return fmt.Errorf("look again for what is damaged: %w", err)
		}
		if err := v.dropRemoved(ctx); err != nil {
			return err
		}
		v.later = true
	}
}

// round verifies what the snapshots refer to by the index as it is now. Packs that were found good are not read again.
func (v *verifier) round(ctx context.Context) error {
	v.sound = map[string]*checked{}
	for key, p := range v.packs {
		if v.bad[key] == nil {
			v.sound[key] = p
		}
	}
	v.marks.recent.clear()
	v.packs, v.seen, v.bad = map[string]*checked{}, map[recipeKey]struct{}{}, map[string]*Damage{}
	*v.report = VerifyReport{Snapshots: len(v.o.Snapshots), Removed: v.report.Removed}
	for _, m := range v.o.Snapshots {
		if v.o.Events.Snapshot != nil && !v.later {
			v.o.Events.Snapshot(m.ID)
		}
		if err := v.references(ctx, m); err != nil {
			return fmt.Errorf("verify snapshot %s: %w", m.ID, err)
		}
	}
	if err := v.listing(ctx); err != nil {
		return err
	}
	return v.contents(ctx)
}

// dropRemoved leaves out the snapshots that do not count any more.
func (v *verifier) dropRemoved(ctx context.Context) error {
	if v.o.Counts == nil {
		return nil
	}
	var left []*snapshot.Manifest
	for _, m := range v.o.Snapshots {
		counts, err := v.o.Counts(ctx, m.ID)
		if err != nil {
			return fmt.Errorf("look for snapshot %s: %w", m.ID, err)
		}
		if counts {
			left = append(left, m)
		} else {
			v.report.Removed = append(v.report.Removed, m.ID)
		}
	}
	v.o.Snapshots = left
	return nil
}
