package repo

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/keys"
	"github.com/pgtrove/pgtrove/storage"
	"github.com/pgtrove/pgtrove/storage/fault"
)

// pruning are options with which everything may be deleted, at a time when nobody has been silent for long.
func pruning() PruneOptions {
	return PruneOptions{Host: "test", Now: func() time.Time { return time.Date(2000, 1, 1, 1, 0, 0, 0, time.UTC) },
		MaxDelete: 1, MaxRepack: 1 << 40, Mark: markManifests}
}

// markManifests marks what write writes: a manifest is a list of chunks.
func markManifests(_ context.Context, _ *View, snapshots []Commit, live func(chunk.ID)) error {
	for _, c := range snapshots {
		var ids []chunk.ID
		if err := json.Unmarshal(c.Manifest, &ids); err != nil {
			return err
		}
		for _, id := range ids {
			live(id)
		}
	}
	return nil
}

func prune(t *testing.T, r *Repo, o PruneOptions) *PruneReport {
	t.Helper()
	report, err := r.Prune(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func backup(t *testing.T, r *Repo, data [][]byte) (string, []chunk.ID) {
	t.Helper()
	sid, ids, err := write(t.Context(), r, data)
	must(t, err)
	return sid, ids
}

func list(t *testing.T, s storage.Store, prefix string) (keys []string) {
	t.Helper()
	must(t, s.List(t.Context(), prefix, func(i storage.Info) error { keys = append(keys, i.Key); return nil }))
	return keys
}

func TestWhatIsForgottenGoesInTwoRuns(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	data := pieces(1, 60)
	old, oldIDs := backup(t, r, data[:40])
	kept, keptIDs := backup(t, r, data[20:])

	report := prune(t, r, pruning())
	if report.Valid != 2 || report.Condemned.Packs != 1 || len(report.Damage) > 0 { // the metadata is in no manifest
		t.Fatalf("%+v", report)
	}
	if n := len(list(t, f.store, sessionsPrefix)) + len(list(t, f.store, indexPrefix)); n > 0 {
		t.Errorf("%d sessions and segments are left", n)
	}
	check(t, r, oldIDs, data[:40])
	must(t, r.ForgetLast(t.Context(), old))
	if got := commits(t, r); !slices.Equal(got, []string{kept}) {
		t.Fatalf("after forget: %v", got)
	}
	report = prune(t, r, pruning())
	if report.Valid != 1 || len(report.Expired) != 1 || report.Expired[0].ID != old || report.Swept.Packs != 1 || report.Condemned.Packs == 0 {
		t.Fatalf("%+v", report)
	}
	before := report.Stored
	check(t, r, oldIDs, data[:40]) // by what is still there
	prune(t, r, pruning())
	check(t, r, keptIDs, data[20:])
	report = prune(t, r, pruning())
	if report.Stored.Bytes > before.Bytes*3/4 || report.Swept.Packs+report.Condemned.Packs > 0 {
		t.Errorf("before %+v, after %+v", before, report)
	}
	if n := list(t, f.store, forgetPrefix); len(n) > 0 {
		t.Errorf("left: %v", n)
	}
	if n := list(t, f.store, snapshotsPrefix); len(n) != 1 {
		t.Errorf("left: %v", n)
	}
	again, ids := backup(t, r, data)
	check(t, r, ids, data)
	if got := commits(t, r); len(got) != 2 || !slices.Contains(got, kept) || !slices.Contains(got, again) {
		t.Errorf("%v", got)
	}
}

func TestPacksThatAreMostlyDeadAreRepackedUnopened(t *testing.T) {
	f := newFixture(t)
	owner := f.open(t, f.store)
	data := pieces(2, 32)
	first, _ := backup(t, owner, data[:16])
	_, ids := backup(t, owner, append(slices.Clone(data[:3]), data[16:]...))
	must(t, owner.ForgetLast(t.Context(), first))

	// A writer's keys are enough.
	b, err := owner.bundle.Issue(keys.IssueOptions{Name: "writer", Role: keys.Writer, Clusters: []string{keys.AnyCluster}})
	must(t, err)
	r, err := newRepo(f.store, owner.config, b)
	must(t, err)
	report := prune(t, r, pruning())
	if report.Repacked.Packs != 1 {
		t.Fatalf("%+v", report)
	}
	o := pruning()
	o.MaxRepack = 0
	report = prune(t, r, o)
	if report.Swept.Packs < 2 || report.Repacked.Packs != 0 {
		t.Errorf("%+v", report)
	}
	check(t, owner, ids, append(slices.Clone(data[:3]), data[16:]...))
	if report = prune(t, r, o); report.Condemned.Packs+report.Swept.Packs > 0 {
		t.Errorf("not settled: %+v", report)
	}
}

// blocked runs a prune within a session that began before the newest run.
func blocked(t *testing.T, r *Repo, o PruneOptions, then func(ctx context.Context, s *Session, err error) error) error {
	t.Helper()
	return r.Write(t.Context(), options(), func(ctx context.Context, s *Session) error {
		prune(t, r, pruning()) // s did not see it
		_, err := r.Prune(ctx, o)
		return then(ctx, s, err)
	})
}

func TestAnUnfinishedSessionBlocksUntilItIsSilentForLong(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	backup(t, r, pieces(3, 4))
	before := list(t, f.store, "")
	err := blocked(t, r, pruning(), func(ctx context.Context, s *Session, err error) error {
		var b *BlockedError
		if !errors.As(err, &b) || len(b.Sessions) != 1 || b.Sessions[0].ID != s.ID() || b.Sessions[0].Host != "test" {
			t.Fatalf("%v", err)
		}
		before = list(t, f.store, "")
		if _, err := r.Prune(ctx, pruning()); !errors.As(err, &b) {
			t.Fatal(err)
		}
		if after := list(t, f.store, ""); !slices.Equal(before, after) {
			t.Errorf("a blocked run changed something: %v", after)
		}
		o := pruning()
		o.FenceAfter = time.Minute
		o.DryRun = true
		report := prune(t, r, o)
		if after := list(t, f.store, ""); !slices.Equal(before, after) || len(report.Fenced) != 1 {
			t.Errorf("a dry run: %+v", report)
		}
		o.DryRun = false
		if report = prune(t, r, o); len(report.Fenced) != 1 || report.Fenced[0].ID != s.ID() {
			t.Errorf("%+v", report)
		}
		return s.Commit(ctx, []byte("[]"))
	})
	if !errors.Is(err, ErrFenced) {
		t.Errorf("the session committed: %v", err)
	}
	if n := len(commits(t, r)); n != 1 {
		t.Errorf("%d snapshots", n)
	}
	prune(t, r, pruning())
	if n := list(t, f.store, sessionsPrefix); len(n) > 0 {
		t.Errorf("left: %v", n)
	}
}

// TestAFencedSessionIsContinuedWithWhatItUploaded: also after the run that fenced it is over.
func TestAFencedSessionIsContinuedWithWhatItUploaded(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	data := pieces(4, 40)
	o := options()
	err := r.Write(t.Context(), o, func(ctx context.Context, s *Session) error {
		o.Former = s.ID()
		putAll(ctx, t, s, data[:30])
		fencing := pruning()
		fencing.FenceAfter = time.Minute
		if report := prune(t, r, fencing); len(report.Fenced) != 1 {
			t.Fatalf("%+v", report)
		}
		putAll(ctx, t, s, data[30:]) // it does not know yet
		return s.Commit(ctx, []byte("[]"))
	})
	if !errors.Is(err, ErrFenced) {
		t.Fatal(err)
	}
	var added Added
	var ids []chunk.ID
	must(t, r.Write(t.Context(), o, func(ctx context.Context, s *Session) error {
		ids = putAll(ctx, t, s, data)
		prune(t, r, pruning()) // condemns what the first one left
		var b *BlockedError
		if _, err := r.Prune(ctx, pruning()); !errors.As(err, &b) {
			t.Fatalf("a run did not wait: %v", err)
		}
		must(t, commitIDs(ctx, s, ids))
		added = s.Added()
		return nil
	}))
	if added.Plain != 0 {
		t.Errorf("%d bytes were uploaded again", added.Plain)
	}
	for range 4 {
		prune(t, r, pruning())
		check(t, r, ids, data)
	}
}

func TestAPinWinsOverAForget(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	data := pieces(5, 20)
	sid, ids := backup(t, r, data)
	must(t, r.Pin(t.Context(), sid))
	if err := r.ForgetLast(t.Context(), sid); !errors.Is(err, ErrPinned) {
		t.Fatal(err)
	}
	must(t, r.Unpin(t.Context(), sid))
	must(t, r.ForgetLast(t.Context(), sid))
	must(t, r.Pin(t.Context(), sid)) // back
	prune(t, r, pruning())
	prune(t, r, pruning())
	check(t, r, ids, data)
	must(t, r.Unpin(t.Context(), sid)) // the request to forget is still there
	report := prune(t, r, pruning())
	if len(report.Expired) != 1 {
		t.Fatalf("%+v", report)
	}
	if err := r.Pin(t.Context(), sid); !errors.Is(err, ErrNotCounted) {
		t.Errorf("pinned what is removed: %v", err)
	}
	if err := r.Pin(t.Context(), "20000101T000000Z-0123456789abcdef"); !errors.Is(err, ErrNotCounted) {
		t.Errorf("pinned what never was: %v", err)
	}
}

// TestAPinThatARunDidNotSeeBringsTheSnapshotBack: the pin came after the run had listed pins, and before it published.
func TestAPinThatARunDidNotSeeBringsTheSnapshotBack(t *testing.T) {
	f := newFixture(t)
	plain := f.open(t, f.store)
	data := pieces(6, 20)
	sid, ids := backup(t, plain, data)
	prune(t, plain, pruning())
	must(t, plain.ForgetLast(t.Context(), sid))
	pinned := false
	r := f.open(t, fault.New(f.store, func(op fault.Op) fault.Action {
		if op.Verb == fault.Put && strings.HasPrefix(op.Key, gcPrefix) && !pinned {
			pinned = true
			must(t, plain.Pin(t.Context(), sid))
		}
		return fault.Action{}
	}))
	if report := prune(t, r, pruning()); len(report.Expired) != 1 || !pinned {
		t.Fatalf("%+v", report)
	}
	if got := commits(t, plain); !slices.Equal(got, []string{sid}) {
		t.Errorf("hidden: %v", got)
	}
	if report := prune(t, plain, pruning()); len(report.Returned) != 1 || report.Rescued.Packs == 0 {
		t.Errorf("%+v", report)
	}
	for range 3 {
		prune(t, plain, pruning())
	}
	check(t, plain, ids, data)
}

func TestOfTwoRunsAtOnceOneWinsAndTheOtherDeletesNothing(t *testing.T) {
	f := newFixture(t)
	plain := f.open(t, f.store)
	data := pieces(7, 20)
	sid, _ := backup(t, plain, data)
	_, ids := backup(t, plain, data[10:])
	prune(t, plain, pruning())
	must(t, plain.ForgetLast(t.Context(), sid))
	var deleted []string
	ran := false
	r := f.open(t, fault.New(f.store, func(op fault.Op) fault.Action {
		if op.Verb == fault.Put && strings.HasPrefix(op.Key, gcPrefix) && !ran {
			ran = true
			prune(t, plain, pruning())
		}
		if op.Verb == fault.Delete {
			deleted = append(deleted, op.Key)
		}
		return fault.Action{}
	}))
	if _, err := r.Prune(t.Context(), pruning()); !errors.Is(err, ErrOvertaken) || len(deleted) > 0 {
		t.Errorf("%v, and it deleted %v", err, deleted)
	}
	for range 4 {
		prune(t, plain, pruning())
		check(t, plain, ids, data[10:])
	}
	if n := list(t, f.store, basePrefix); len(n) != 1 {
		t.Errorf("left: %v", n)
	}
}

func TestTheNewestCommitsAreReadFirstAndNoMoreThanNeeded(t *testing.T) {
	f := newFixture(t)
	plain := f.open(t, f.store)
	var sids []string
	for n := range 4 {
		o := options()
		o.Now = func() time.Time { return time.Date(2000, 1, 1, n, 0, 0, 0, time.UTC) }
		must(t, plain.Write(t.Context(), o, func(ctx context.Context, s *Session) error {
			sids = append(sids, s.ID())
			return s.Commit(ctx, []byte("[]"))
		}))
	}
	must(t, plain.ForgetLast(t.Context(), sids[3]))
	read := 0
	r := f.open(t, fault.New(f.store, func(op fault.Op) fault.Action {
		if op.Verb == fault.Get && strings.HasPrefix(op.Key, snapshotsPrefix) {
			read++
		}
		return fault.Action{}
	}))
	var got []string
	must(t, r.NewestCommits(t.Context(), "main", func(c Commit) (bool, error) {
		got = append(got, c.ID)
		return len(got) == 2, nil
	}))
	if !slices.Equal(got, []string{sids[2], sids[1]}) || read != 2 {
		t.Errorf("%v of %v, %d read", got, sids, read)
	}
}
