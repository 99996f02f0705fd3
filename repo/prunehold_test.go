package repo

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/pgtrove/pgtrove/chunk"
)

// TestDamageKeepsWhatIsSound: of three snapshots the newest is broken, and the others are forgotten, as rules do that do not look at chunks.
func TestDamageKeepsWhatIsSound(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	first, ids := backup(t, r, pieces(31, 4))
	second, otherIDs := backup(t, r, pieces(32, 4))
	third, _ := backup(t, r, pieces(33, 4))
	must(t, r.Forget(t.Context(), first))
	prune(t, r, pruning()) // has expired it
	must(t, f.store.Delete(t.Context(), packsOf(t, f.store, third)[0]))
	must(t, r.Forget(t.Context(), second))
	for range 3 {
		report := prune(t, r, pruning())
		if len(report.Damage) != 1 || report.Valid != 2 || len(report.Expired) > 0 || len(report.Held) != 1 || report.Held[0].ID != second {
			t.Fatalf("damage %v, %d valid, %d expired, %d held", report.Damage, report.Valid, len(report.Expired), len(report.Held))
		}
		if got := list(t, f.store, snapshotsPrefix); len(got) != 3 || len(list(t, f.store, forgetPrefix)) != 2 {
			t.Fatalf("left: %v", got)
		}
	}
	for _, sid := range []string{first, second} { // either comes back
		must(t, r.store.Put(t.Context(), pinsPrefix+sid, []byte("by hand: the one that has expired does not count")))
	}
	prune(t, r, pruning())
	check(t, r, ids, pieces(31, 4))
	check(t, r, otherIDs, pieces(32, 4))
	for _, sid := range []string{first, second} {
		must(t, r.Unpin(t.Context(), sid))
	}
	must(t, r.Forget(t.Context(), third)) // and with it the damage, at the latest with the run after the one that sees this
	prune(t, r, pruning())
	prune(t, r, pruning())
	report := prune(t, r, pruning())
	if got := commitsAsked(t, r); len(report.Damage) > 0 || report.Valid != 1 || len(report.Last) != 1 || report.Last[0].ID == third || !slices.Equal(got, []string{report.Last[0].ID}) {
		t.Fatalf("damage %v, %d valid, %d stay: %v", report.Damage, report.Valid, len(report.Last), got)
	}
}

// commitsAsked are the snapshots that count, hidden or not.
func commitsAsked(t *testing.T, r *Repo) (ids []string) {
	t.Helper()
	must(t, r.AllCommits(t.Context(), "", func(c Commit) error { ids = append(ids, c.ID); return nil }))
	return ids
}

// TestForgettingWhatIsBrokenEndsTheDamage: also where two are broken, and only one is forgotten at first.
func TestForgettingWhatIsBrokenEndsTheDamage(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	var broken []string
	for n := range 2 {
		sid, _ := backup(t, r, pieces(byte(41+n), 4))
		broken = append(broken, sid)
	}
	_, ids := backup(t, r, pieces(43, 4))
	for _, sid := range broken {
		must(t, f.store.Delete(t.Context(), packsOf(t, f.store, sid)[0]))
	}
	for n, sid := range broken {
		must(t, r.Forget(t.Context(), sid))
		report := prune(t, r, pruning())
		if len(report.Expired) != 1 || report.Expired[0].ID != sid || len(report.Held) > 0 || (len(report.Damage) > 0) != (n == 0) {
			t.Fatalf("damage %v, %d expired, %d held", report.Damage, len(report.Expired), len(report.Held))
		}
	}
	prune(t, r, pruning())
	if got := list(t, f.store, snapshotsPrefix); len(got) != 1 {
		t.Errorf("left: %v", got)
	}
	check(t, r, ids, pieces(43, 4))
}

// TestTheLastSnapshotOfAClusterGoesOnlyIfThatIsSaid: two who forget at the same time each count on what the other leaves.
func TestTheLastSnapshotOfAClusterGoesOnlyIfThatIsSaid(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	var all []string
	for n := range 3 {
		sid, _ := backup(t, r, pieces(byte(51+n), 4))
		all = append(all, sid)
	}
	slices.Sort(all)
	for _, sid := range all {
		must(t, r.Forget(t.Context(), sid))
	}
	for n := range 2 {
		report := prune(t, r, pruning())
		if report.Valid != 1 || len(report.Last) != 1 || report.Last[0].ID != all[2] || len(report.Expired) != 2*(1-n) {
			t.Fatalf("%d valid, %d last, %d expired", report.Valid, len(report.Last), len(report.Expired))
		}
	}
	must(t, r.ForgetLast(t.Context(), all[2]))
	if got := list(t, f.store, forgetPrefix); !slices.ContainsFunc(got, func(key string) bool { return strings.HasSuffix(key, all[2]+".last") }) {
		t.Errorf("%v", got)
	}
	if report := prune(t, r, pruning()); report.Valid != 0 || len(report.Last) > 0 || len(report.Expired) != 1 {
		t.Fatalf("%d valid, %d last, %d expired", report.Valid, len(report.Last), len(report.Expired))
	}
	prune(t, r, pruning())
	if got := list(t, f.store, forgetPrefix); len(got) > 0 {
		t.Errorf("left: %v", got)
	}
}

// TestARunThatIsOvertakenBeforeItsBaseSaysSo: the other has taken the index segments into its base, and deleted them.
func TestARunThatIsOvertakenBeforeItsBaseSaysSo(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	_, ids := backup(t, r, pieces(61, 4))
	o := pruning()
	overtaken := false
	o.Mark = func(ctx context.Context, v *View, snapshots []Commit, live func(chunk.ID)) error {
		if !overtaken {
			overtaken = true
			prune(t, f.open(t, f.store), pruning())
		}
		return markManifests(ctx, v, snapshots, live)
	}
	if _, err := r.Prune(t.Context(), o); !errors.Is(err, ErrOvertaken) {
		t.Errorf("%v", err)
	}
	check(t, r, ids, pieces(61, 4))
}
