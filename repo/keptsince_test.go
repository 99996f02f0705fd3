package repo

import (
	"context"
	"errors"
	"maps"
	"slices"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/pgtrove/pgtrove/storage"
	"github.com/pgtrove/pgtrove/storage/mem"
)

// day is a moment of the year 2026.
func day(d int) time.Time { return time.Date(2026, 1, 1, 3, 0, 0, 0, time.UTC).AddDate(0, 0, d) }

func TestNeitherClaimsNorCopiesNorClocksMakeASnapshotOlderThanItIs(t *testing.T) {
	const key = "snapshots/main/one"
	c := Commit{Cluster: "main", ID: "one"}
	for _, x := range []struct {
		name                                    string
		created, previous, now, claimed, stored time.Time // previous: none, if zero
		want                                    time.Time
	}{
		{"as it says", day(0), day(4), day(6), day(5), day(5).Add(time.Minute), day(5)},
		{"it claims to be old", day(0), day(4), day(6), day(-900), day(5), day(4)},
		{"it claims to be old, before the first run", day(0), time.Time{}, day(6), day(-900), day(5), day(0)},
		{"it claims to be new", day(0), day(4), day(6), day(900), day(5), day(5)},
		{"it says nothing", day(0), day(4), day(6), time.Time{}, day(5), day(5)},
		{"the bucket was copied", day(0), day(4), day(40), day(5), day(39), day(5)},
		{"the bucket was copied, and it says nothing", day(0), day(4), day(40), time.Time{}, day(39), day(39)},
		{"the copy kept no times", day(0), day(4), day(40), day(5), time.Unix(0, 0), day(4)},
		{"the copy kept no times, before the first run", day(0), time.Time{}, day(40), day(5), time.Unix(0, 0), day(0)},
		{"the run before had a clock that runs a little ahead", day(0), day(5).Add(time.Minute), day(6), day(5), day(5), day(5).Add(time.Minute)},
		{"the run before had a clock far ahead", day(0), day(2000), day(6), day(5), day(5), day(6)},
		{"this run has a clock far ahead", day(0), day(4), day(2000), day(5), day(5), day(5)},
		{"the storage has a clock far ahead", day(0), day(4), day(6), day(5), day(2000), day(5)},
		{"the storage has a clock far ahead, and it claims to be new", day(0), day(4), day(6), day(2000), day(2000), day(6)},
		{"the storage has a clock far ahead, and it says nothing", day(0), day(4), day(6), time.Time{}, day(2000), day(6)},
		{"this run has a clock far behind", day(0), day(4), day(-2000), day(5), day(5), day(5)},
		{"who made the repository had a clock far ahead", day(2000), time.Time{}, day(6), day(-900), day(5), day(6)},
	} {
		r := &Repo{config: Config{Created: x.created}}
		run := &gcRun{}
		if !x.previous.IsZero() {
			run.Number, run.Time = 7, x.previous
		}
		got := r.ages(run, x.now, func(Commit) time.Time { return x.claimed }).of(c, key, x.stored)
		if !got.since.Equal(x.want) || got.fixed {
			t.Errorf("%s: kept since %s, want %s", x.name, got.since, x.want)
		}
		run.Valid = []kept{{named: named{"main", "one"}, KeptSince: day(3)}}
		if got := r.ages(run, x.now, nil).of(c, key, x.stored); !got.since.Equal(day(3)) || !got.fixed {
			t.Errorf("%s, and a run has fixed it: %s", x.name, got.since)
		}
		run.Valid, run.expired = nil, map[string]bool{key: true}
		claims := func(Commit) time.Time { return day(2) }
		if got := r.ages(run, day(6), claims).of(c, key, day(5)); x.created == day(0) && !got.since.Equal(day(2)) {
			t.Errorf("%s, and it was brought back: %s", x.name, got.since)
		}
	}
}

// retained is a repository in a store with a clock, whose snapshots claim what they are told to.
type retained struct {
	t     *testing.T
	store *mem.Store
	id    age.Identity
	now   time.Time
	ended map[string]time.Time
}

func newRetained(t *testing.T) *retained {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	must(t, err)
	x := &retained{t: t, id: id, now: day(0), ended: map[string]time.Time{}}
	x.store = mem.New(func() time.Time { return x.now })
	_, err = Init(t.Context(), x.store, id.Recipient(), x.now)
	must(t, err)
	return x
}

func (x *retained) repo() *Repo { return fixture{x.store, x.id}.open(x.t, x.store) }

// take commits a snapshot on a day, which claims to be of another.
func (x *retained) take(seed byte, on, claimed int) string {
	x.t.Helper()
	x.now = day(on)
	sid, _ := backup(x.t, x.repo(), pieces(seed, 3))
	x.ended[sid] = day(claimed)
	return sid
}

func (x *retained) options(now time.Time) PruneOptions {
	o := pruning()
	o.Now, o.Ended = func() time.Time { return now }, x.claim
	return o
}

func (x *retained) claim(c Commit) time.Time { return x.ended[c.ID] }

// prune runs on a day, by a host whose clock says another.
func (x *retained) prune(on, clock int) {
	x.t.Helper()
	x.now = day(on)
	prune(x.t, x.repo(), x.options(day(clock)))
}

// copy is the same objects with the times of today.
func (x *retained) copy(on int) {
	x.t.Helper()
	x.now = day(on)
	to := mem.New(func() time.Time { return x.now })
	must(x.t, x.store.List(x.t.Context(), "", func(i storage.Info) error {
		b, err := x.store.Get(x.t.Context(), i.Key, storage.Range{}, nil)
		if err != nil {
			return err
		}
		return to.Put(x.t.Context(), i.Key, b)
	}))
	x.store = to
}

// ages are the retention times by snapshot, of those that a run has fixed and of those that it has not.
func (x *retained) ages(clock int) (fixed, open map[string]time.Time) {
	x.t.Helper()
	fixed, open = map[string]time.Time{}, map[string]time.Time{}
	var all []Commit
	must(x.t, x.repo().AllCommits(x.t.Context(), "", func(c Commit) error { all = append(all, c); return nil }))
	found, err := x.repo().Retention(x.t.Context(), all, RetentionOptions{Now: day(clock), Ended: x.claim, AcceptTimes: true})
	must(x.t, err)
	for i, c := range all {
		if found[i].Fixed {
			fixed[c.ID] = found[i].Since
		} else {
			open[c.ID] = found[i].Since
		}
	}
	return fixed, open
}

func (x *retained) fixed(want map[string]time.Time) {
	x.t.Helper()
	fixed, open := x.ages(500)
	if len(open) > 0 || !maps.EqualFunc(fixed, want, time.Time.Equal) {
		x.t.Errorf("the ages are %v (%v not fixed), want %v", fixed, open, want)
	}
}

func TestTheFirstRunThatListsASnapshotFixesItsAge(t *testing.T) {
	x := newRetained(t)
	honest, lying := x.take(1, 1, 1), x.take(2, 2, -700)
	if fixed, open := x.ages(3); len(fixed) > 0 || !open[honest].Equal(day(1)) || !open[lying].Equal(day(0)) {
		t.Errorf("before any run: %v, %v", fixed, open)
	}
	x.prune(4, 4)
	want := map[string]time.Time{honest: day(1), lying: day(0)}
	x.fixed(want)
	later := x.take(3, 6, -700)
	future := x.take(4, 7, 7000)
	_, open := x.ages(8)
	if !open[later].Equal(day(4)) || !open[future].Equal(day(7)) {
		t.Errorf("between runs: %v", open)
	}
	x.prune(8, 8)
	want[later], want[future] = open[later], open[future]
	x.fixed(want)

	x.copy(100)
	moved := x.take(5, 101, 101)
	x.prune(102, 102)
	want[moved] = day(101)
	x.fixed(want)
	x.ended = map[string]time.Time{} // nobody asks any more
	for n := range 3 {
		x.prune(200+n, 9000) // and the clock is wrong
	}
	x.fixed(want)
}

func TestWhatIsCopiedBeforeAnyRunListsItKeepsItsAge(t *testing.T) {
	x := newRetained(t)
	a, b := x.take(1, 1, 1), x.take(2, 2, 2)
	x.copy(50)
	x.prune(51, 51)
	x.fixed(map[string]time.Time{a: day(1), b: day(2)})
}

func TestAClockThatRanAheadOnceDoesNoLastingHarm(t *testing.T) {
	x := newRetained(t)
	a := x.take(1, 1, 1)
	x.prune(2, 3000)
	b := x.take(2, 3, 3)
	x.prune(4, 4)
	c := x.take(3, 5, 5)
	x.prune(6, 6)
	x.fixed(map[string]time.Time{a: day(1), b: day(4), c: day(5)})
}

func TestASnapshotThatAPinBringsBackIsAsOldAsItWas(t *testing.T) {
	x := newRetained(t)
	a, b := x.take(1, 1, 1), x.take(2, 2, 2)
	x.prune(3, 3)
	must(t, x.repo().Forget(t.Context(), a))
	x.prune(50, 50)
	must(t, x.store.Put(t.Context(), pinsPrefix+a, nil)) // the run had not seen it
	x.prune(60, 60)
	x.fixed(map[string]time.Time{a: day(1), b: day(2)})
}

func TestAPruneRefusesTimesThatMostlyContradictEachOther(t *testing.T) {
	x := newRetained(t)
	old := x.take(1, 1, 1)
	must(t, x.repo().Forget(t.Context(), old))
	x.prune(2, 2)
	for n := range 4 {
		x.take(byte(10+n), 10+n, 10+n)
	}
	x.copy(12)
	x.take(20, 13, 13)
	before := list(t, x.store, "")
	for _, dry := range []bool{true, false} {
		o := x.options(day(14))
		o.DryRun = dry
		_, err := x.repo().Prune(t.Context(), o)
		if errors.As(err, new(*TimesError)) {
			t.Fatalf("one of five is no majority: %v", err)
		}
		must(t, err)
		if dry != slices.Equal(before, list(t, x.store, "")) {
			t.Error("the dry run has changed something, or the other nothing")
		}
	}

	x = newRetained(t)
	var all []string
	for n := range 5 {
		all = append(all, x.take(byte(10+n), 10+n, 10+n))
	}
	x.copy(40)
	all = append(all, x.take(20, 41, 41), x.take(21, 42, 42))
	before = list(t, x.store, "")
	_, err := x.repo().Prune(t.Context(), x.options(day(43)))
	var apart *TimesError
	if !errors.As(err, &apart) || apart.Compared != 7 || len(apart.Apart) != 5 || apart.Apart[0].Ended.After(day(14)) || !apart.Apart[0].Stored.Equal(day(40)) {
		t.Fatalf("%v", err)
	}
	again := RebuildOptions{Host: "test", Now: x.options(day(43)).Now, Ended: x.options(day(43)).Ended}
	if _, err := x.repo().Rebuild(t.Context(), again); !errors.As(err, new(*TimesError)) {
		t.Errorf("a rebuild fixes them: %v", err)
	}
	again.AcceptTimes, again.DryRun = true, true
	_, err = x.repo().Rebuild(t.Context(), again)
	must(t, err)
	if !slices.Equal(before, list(t, x.store, "")) {
		t.Error("a run that refused has changed something")
	}
	o := x.options(day(43))
	o.AcceptTimes = true
	prune(t, x.repo(), o)
	want := map[string]time.Time{}
	for n, sid := range all[:5] {
		want[sid] = day(10 + n)
	}
	want[all[5]], want[all[6]] = day(41), day(42)
	x.fixed(want)
}

func TestOneOrTwoWrongClocksRefuseNoPrune(t *testing.T) {
	x := newRetained(t)
	for n := range 3 {
		x.take(byte(2*n), 10*n, -900)
		x.take(byte(2*n+1), 10*n+1, 900)
		x.prune(10*n+2, 10*n+2)
	}
}

func TestADryRunSaysWhatForgettingWouldGain(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	data := pieces(1, 48)
	gone, _ := backup(t, r, data[:40])     // packs of its own, one that is shared to a small part, one mostly
	_, ids := backup(t, r, data[29:])      // shares the rest
	prune(t, r, pruning())                 // condemns what no manifest names
	prune(t, r, pruning())                 // and deletes it
	before := prune(t, r, dry(nil)).Stored // what there is
	session := make(chan struct{})
	ended := make(chan error)
	began := make(chan struct{})
	go func() {
		ended <- r.Write(context.WithoutCancel(t.Context()), options(), func(context.Context, *Session) error {
			close(began)
			<-session
			return errors.New("given up")
		})
	}()
	<-began
	prune(t, r, pruning())
	if _, err := r.Prune(t.Context(), dry(nil)); !errors.As(err, new(*BlockedError)) {
		t.Errorf("a run with a session under way: %v", err)
	}
	all := list(t, f.store, "")
	report := prune(t, r, dry(&Assumption{Forgotten: map[string]bool{gone: true}, Narrowed: map[string]bool{gone: true}}))
	if !slices.Equal(all, list(t, f.store, "")) || len(report.Expired) != 1 || report.Valid != 1 {
		t.Errorf("%+v", report)
	}
	close(session)
	<-ended
	tomorrow := func(o PruneOptions) PruneOptions { // what was given up is silent then
		now := o.Now().Add(25 * time.Hour)
		o.Now = func() time.Time { return now }
		return o
	}
	if nothing := prune(t, r, tomorrow(dry(nil))); nothing.Gain != (Gain{}) {
		t.Errorf("nothing is asked for, and it gains %+v", nothing.Gain)
	}
	must(t, r.Forget(t.Context(), gone))
	for range 3 {
		prune(t, r, tomorrow(pruning()))
	}
	after := prune(t, r, tomorrow(dry(nil))).Stored
	freed := before.Bytes - after.Bytes
	if diff := report.Gain.Bytes - freed; diff < -16<<10 || diff > 16<<10 || freed < 1<<20 {
		t.Errorf("it was to gain %+v, and has gained %d of %d", report.Gain, freed, before.Bytes)
	}
	dead := int64(29 * (64 << 10))
	if sum := report.Gain.Bytes + report.Gain.Later; sum < dead || sum > dead+64<<10 {
		t.Errorf("%+v of %d bytes that nobody else needs", report.Gain, dead)
	}
	check(t, r, ids, data[29:])
}

func dry(a *Assumption) PruneOptions {
	o := pruning()
	o.DryRun, o.Assume = true, a
	return o
}
