package main

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/snapshot"
	"github.com/pgtrove/pgtrove/storage"
	"github.com/pgtrove/pgtrove/storage/fault"
)

// fourWeeks is a policy that has something of everything to do with snapshots of days 0 to 27: the window begins with day 20, days 19 and before it
// go, but for the ends of weeks, 6 and 13.
func fourWeeks() forgetOptions {
	return forgetOptions{policy: snapshot.Policy{Daily: 3, Weekly: 4, PITR: snapshot.Period{Days: 7}}}
}

func TestAPolicyIsPlannedAndThenCarriedOut(t *testing.T) {
	w := newRetainer(t)
	ids := w.days("main", 0, 27)
	other := w.days("other", 0, 2)
	now := morning(28)
	w.must(w.open(w.store).Pin(t.Context(), ids[3]))
	w.settings.JSON = true
	o := fourWeeks()
	o.dryRun = true
	before := w.list("")
	dry := w.forgets(now, o)
	if !slices.Equal(before, w.list("")) {
		t.Error("a dry run has changed something")
	}
	rows, sum := planned(t, dry)
	var stay, narrow []int
	for d := range 28 {
		row := rows[ids[d]]
		if row.Keep {
			stay = append(stay, d)
		}
		if row.Narrow {
			narrow = append(narrow, d)
		}
		if row.Keep != (len(row.Reasons) > 0) || !row.DryRun || row.Cluster != "main" || row.Time != morning(d).Format(time.RFC3339) {
			t.Errorf("%+v", row)
		}
	}
	if want := []int{3, 7, 14, 20, 21, 22, 23, 24, 25, 26, 27}; !slices.Equal(stay, want) || len(rows) != 28 {
		t.Errorf("%v stay of %d", stay, len(rows))
	}
	if want := []int{3, 7, 14}; !slices.Equal(narrow, want) {
		t.Errorf("%v are narrowed", narrow)
	}
	c := sum.Clusters[0]
	if got := shownDays(c.WindowsBefore); !slices.Equal(got, [][2]int{{0, 27}}) {
		t.Errorf("before: %v", got)
	}
	after := [][2]int{{3, 3}, {7, 7}, {14, 14}, {20, 27}}
	if got := shownDays(c.WindowsAfter); !slices.Equal(got, after) || len(c.Unreachable) > 0 {
		t.Errorf("after: %v, %v", got, c.Unreachable)
	}
	if sum.Kept != 11 || sum.Removed != 17 || sum.Narrowed != 3 || sum.SpaceUnknown != "" || *sum.BytesFree < 17<<16 || *sum.BytesFree > 19<<16 || *sum.WALBytesFree == 0 {
		t.Errorf("%+v frees %d and %d of WAL", sum, *sum.BytesFree, *sum.WALBytesFree)
	}

	o.dryRun = false
	wal, packs := w.size("wal/"), w.size("packs/")
	if real := w.forgets(now, o); strings.ReplaceAll(real, `"dry_run":false`, `"dry_run":true`) != dry {
		t.Errorf("another plan:\n%s", real)
	}
	if !strings.Contains(w.stderr.String(), "forgot 17 snapshots, narrowed 3") || len(w.list("forget/")) != 20 {
		t.Errorf("%s: %v", &w.stderr, w.list("forget/"))
	}
	w.prunes(28, 4)
	if freed := wal - w.size("wal/"); freed != *sum.WALBytesFree || len(w.list("wal/main/")) != 11 {
		t.Errorf("%d bytes of WAL went, not %d: %v", freed, *sum.WALBytesFree, w.list("wal/main/"))
	}
	if freed := packs - w.size("packs/"); freed < *sum.BytesFree*9/10 || freed > *sum.BytesFree*11/10 {
		t.Errorf("%d bytes of packs went, not %d", freed, *sum.BytesFree)
	}
	var want []string
	for _, d := range stay {
		want = append(want, ids[d])
	}
	want = append(want, slices.Collect(maps.Values(other))...)
	slices.Sort(want)
	if got := w.sound(); !slices.Equal(got, want) {
		t.Errorf("left: %v, want %v", got, want)
	}
	if got := w.windows(); !slices.Equal(got, append(after, [2]int{0, 2})) {
		t.Errorf("what can be recovered: %v", got)
	}
	if again := w.forgets(now, o); len(w.list("forget/")) > 0 || !strings.Contains(again, `"removed":0`) {
		t.Errorf("done again, it asks for %v:\n%s", w.list("forget/"), again)
	}
}

// size is how many bytes objects have.
func (w *retainer) size(prefix string) (n int64) {
	w.t.Helper()
	w.must(w.store.List(w.t.Context(), prefix, func(i storage.Info) error { n += i.Size; return nil }))
	return n
}

func TestAPlanForPeopleSaysWhatGoesAndWhyTheOthersStay(t *testing.T) {
	w := newRetainer(t)
	ids := w.days("main", 18, 22)
	w.take("main", 25) // its WAL is not there
	w.wal("main", 26)
	ids[27] = w.take("main", 27)
	w.wal("main", 27)
	o := forgetOptions{policy: snapshot.Policy{Weekly: 2, PITR: snapshot.Period{Days: 6}}, dryRun: true}
	out := w.forgets(morning(28), o)
	row := func(d int) string {
		for line := range strings.Lines(out) {
			if strings.HasPrefix(line, ids[d]) {
				return strings.TrimSpace(strings.TrimPrefix(line, ids[d]))
			}
		}
		return ""
	}
	for d, want := range map[int]string{
		18: "main     2026-03-19 02:15:00Z  complete  forget  no rule keeps it",
		21: "main     2026-03-22 02:15:00Z  complete  keep    weekly 2026-W12, pitr window 6d",
		27: "main     2026-03-28 02:15:00Z  complete  keep    last good, weekly 2026-W13, pitr window 6d",
	} {
		if row(d) != want {
			t.Errorf("day %d: %q, want %q", d, row(d), want)
		}
	}
	for _, want := range []string{"cluster main: 4 snapshots stay, 3 to forget\n", "missing", "  recoverable before:\n    system 7, timeline 1: 0/1301000 to 0/1800000  (2026-03-19 02:15:00Z to 2026-03-23 20:15:00Z)\n",
		"  recoverable after:\n    system 7, timeline 1: 0/1601000 to 0/1800000  (2026-03-22 02:15:00Z to 2026-03-23 20:15:00Z)\n",
		"inside --pitr-window, but recoverable neither before nor after: 2026-03-23 20:15:00Z to 2026-03-28 02:15:00Z\n", "the next prunes free about 1"} {
		if !strings.Contains(out, want) {
			t.Errorf("it does not say %q:\n%s", want, out)
		}
	}
	w.settings.Quiet = true
	if out := w.forgets(morning(28), o); out != "" {
		t.Errorf("quietly: %s", out)
	}
}

func TestRulesApplyToOneClusterUnlessToAll(t *testing.T) {
	w := newRetainer(t)
	main, other := w.days("main", 0, 2), w.days("other", 0, 2)
	o := forgetOptions{policy: snapshot.Policy{Last: 1}}
	w.forgets(morning(3), o)
	if got := w.list("forget/"); !slices.Equal(got, sorted("forget/"+main[0], "forget/"+main[1])) {
		t.Errorf("%v", got)
	}
	o.allClusters = true
	w.forgets(morning(3), o)
	if got := w.list("forget/"); !slices.Equal(got, sorted("forget/"+main[0], "forget/"+main[1], "forget/"+other[0], "forget/"+other[1])) {
		t.Errorf("%v", got)
	}
	w.settings.Cluster = "third"
	o.allClusters = false
	if out := w.forgets(morning(3), o); out != "" || !strings.Contains(w.stderr.String(), "no snapshots of cluster third yet") {
		t.Errorf("%s%s", out, &w.stderr)
	}
	w.prunes(4, 2)
	if got := w.sound(); !slices.Equal(got, sorted(main[2], other[2])) {
		t.Errorf("%v", got)
	}
}

func sorted(all ...string) []string {
	slices.Sort(all)
	return all
}

func TestWhatCannotBeReadStaysAndIsTold(t *testing.T) {
	w := newRetainer(t)
	ids := w.days("main", 0, 3)
	key := "snapshots/main/" + ids[1]
	w.must(w.store.Delete(t.Context(), key))
	w.now = morning(4)
	w.must(w.store.Put(t.Context(), key, []byte("rot")))
	out, damage, err := w.forgetting(w.store, morning(5), forgetOptions{policy: snapshot.Policy{Last: 1}})
	w.must(err)
	if !errors.Is(damage, repo.ErrDamaged) || !strings.Contains(damage.Error(), ids[1]) || !strings.Contains(out, "cannot be read") || !strings.Contains(out, "is not known now") {
		t.Errorf("%v:\n%s", damage, out)
	}
	if got := w.list("forget/"); !slices.Equal(got, sorted("forget/"+ids[0], "forget/"+ids[2])) {
		t.Errorf("%v", got)
	}
}

// TestNoSnapshotGoesWithItsNamesake: who takes over a host can give one of his snapshots the ID of another cluster's.
func TestNoSnapshotGoesWithItsNamesake(t *testing.T) {
	w := newRetainer(t)
	ids := w.days("main", 0, 2)
	w.must(w.store.Put(t.Context(), "snapshots/other/"+ids[0], []byte("made up")))
	o := forgetOptions{policy: snapshot.Policy{Last: 1, PITR: snapshot.Period{Hours: 1}}}
	out := w.forgets(morning(3), o)
	if got := w.list("forget/"); !slices.Equal(got, []string{"forget/" + ids[1]}) || !strings.Contains(out, "another cluster has one of the same ID") {
		t.Errorf("%v:\n%s", got, out)
	}
}

func TestTheLastGoodSnapshotIsForgottenOnlyIfThatIsMeant(t *testing.T) {
	w := newRetainer(t)
	ids := w.days("main", 0, 1)
	bad := w.take("main", 5)
	w.days("other", 0, 1)
	names := []string{ids[0], ids[1]}
	w.stdout.Reset()
	err := w.forget(t.Context(), w.open(w.store), names, forgetOptions{})
	if classify(err).code != codeRefused || !strings.Contains(err.Error(), "no snapshot that can be restored of cluster main") || !strings.Contains(w.hint(err), "--allow-last") {
		t.Errorf("%v; hint: %s", err, w.hint(err))
	}
	if len(w.list("forget/")) > 0 || w.stdout.Len() > 0 {
		t.Errorf("refused, and done: %v %s", w.list("forget/"), &w.stdout)
	}
	w.must(w.forget(t.Context(), w.open(w.store), []string{ids[1], bad}, forgetOptions{}))
	if err := w.forget(t.Context(), w.open(w.store), names, forgetOptions{dryRun: true}); classify(err).code != codeRefused {
		t.Errorf("%v", err)
	}
	w.must(w.forget(t.Context(), w.open(w.store), names, forgetOptions{allowLast: true}))
	if !strings.Contains(w.stderr.String(), "this leaves no snapshot of cluster main") || len(w.list("forget/")) != 5 {
		t.Errorf("%v: %s", w.list("forget/"), &w.stderr)
	}
}

func TestAPolicyRefusesTimesThatMostlyContradictEachOther(t *testing.T) {
	w := newRetainer(t)
	w.days("main", 0, 3)
	copied := newRetainer(t)
	copied.identity, copied.store, copied.now = w.identity, w.store, morning(40)
	before := w.store
	copied.store = copied.copyOf(before, morning(40))
	o := forgetOptions{policy: snapshot.Policy{Daily: 2}}
	_, _, err := copied.forgetting(copied.store, morning(41), o)
	if !errors.As(err, new(*repo.TimesError)) || classify(err).code != codeRefused || !strings.Contains(copied.hint(err), "--accept-times") || len(copied.list("forget/")) > 0 {
		t.Errorf("%v: %v", err, copied.list("forget/"))
	}
	o.acceptTimes = true
	if out := copied.forgets(morning(41), o); len(copied.list("forget/")) != 2 || !strings.Contains(out, "2026-03-01 02:15:00Z") {
		t.Errorf("%v\n%s", copied.list("forget/"), out)
	}
}

// TestAPolicyThatIsInterruptedAnywhereIsGoneOnWith ends it at every call to the storage, and runs it again.
func TestAPolicyThatIsInterruptedAnywhereIsGoneOnWith(t *testing.T) {
	w := newRetainer(t)
	w.days("main", 20, 27)
	w.settings.Quiet, w.settings.CacheDir = true, "" // or prune's calls are most of all, and the first run's are not those of the others
	o := forgetOptions{policy: snapshot.Policy{Last: 3, Weekly: 2, PITR: snapshot.Period{Days: 1}}}
	base, now := w.store, morning(28)
	calls, opened := 0, 0
	count := fault.New(w.copyOf(base, time.Time{}), func(op fault.Op) fault.Action { calls = op.N; return fault.Action{} })
	w.open(count)
	opened = calls
	_, _, err := w.forgetting(count, now, o)
	w.must(err)
	w.store = w.copyOf(base, time.Time{})
	w.forgets(now, o)
	want := w.list("forget/")
	if len(want) < 5 || !slices.ContainsFunc(want, func(key string) bool { return strings.HasSuffix(key, ".wal") }) {
		t.Fatalf("there is not enough to do: %v", want)
	}
	down := errors.Join(storage.ErrUnreachable, errors.New("injected"))
	for at := opened + 1; at <= calls-opened; at++ { // it was opened twice
		for name, action := range map[string]fault.Action{"before it": {Before: down}, "after it": {After: down}} {
			w.store = w.copyOf(base, time.Time{})
			s := fault.New(w.store, func(op fault.Op) fault.Action {
				switch {
				case op.N < at:
					return fault.Action{}
				case op.N == at:
					return action
				}
				return fault.Action{Before: down}
			})
			if _, _, err := w.forgetting(s, now, o); err == nil {
				t.Errorf("killed %s, call %d: success was told", name, at)
			}
			for _, key := range w.list("forget/") {
				if !slices.Contains(want, key) {
					t.Errorf("killed %s, call %d: it asked for %s", name, at, key)
				}
			}
			w.forgets(now, o)
			if got := w.list("forget/"); !slices.Equal(got, want) {
				t.Errorf("killed %s, call %d, and run again: %v, want %v", name, at, got, want)
			}
		}
	}
	t.Logf("%d calls", calls-2*opened)
	w.prunes(28, 3)
	w.sound()
}

// TestAWindowThatIsMadeLongerBeginsAmongNarrowSnapshots: what one of them still reaches of the promised time stays.
func TestAWindowThatIsMadeLongerBeginsAmongNarrowSnapshots(t *testing.T) {
	w := newRetainer(t)
	ids := w.days("main", 0, 9)
	for d := range 7 {
		w.must(w.open(w.store).Narrow(t.Context(), ids[d]))
	}
	out := w.forgets(morning(10), forgetOptions{policy: snapshot.Policy{Last: 1, PITR: snapshot.Period{Days: 5, Hours: 8}}}) // from the noon of day 4
	if got := w.list("forget/"); slices.Contains(got, "forget/"+ids[4]) || !slices.Contains(got, "forget/"+ids[3]) {
		t.Errorf("%v\n%s", got, out)
	}
	w.prunes(10, 4)
	if got := w.windows(); !slices.Equal(got, [][2]int{{4, 9}}) {
		t.Errorf("%v", got)
	}
}

func TestByNameNoSnapshotGoesWithItsNamesake(t *testing.T) {
	w := newRetainer(t)
	ids := w.days("main", 0, 2)
	w.must(w.store.Put(t.Context(), "snapshots/other/"+ids[0], []byte("made up")))
	err := w.forget(t.Context(), w.open(w.store), []string{ids[1], ids[0]}, forgetOptions{})
	if classify(err).code != codeRefused || !strings.Contains(err.Error(), ids[0]) || len(w.list("forget/")) > 0 {
		t.Errorf("%v: %v", err, w.list("forget/"))
	}
	w.prunes(3, 2)
	w.must(w.forget(t.Context(), w.open(w.store), []string{ids[0]}, forgetOptions{}))
}
