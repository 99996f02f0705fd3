package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/gc"
	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/snapshot"
)

func TestARefusedPruneSaysWhatAndWhatToDo(t *testing.T) {
	day := time.Date(2026, 11, 21, 2, 15, 0, 0, time.UTC)
	p := &pruneRun{}
	for _, c := range []struct {
		err         error
		code        int
		said, hints []string
	}{
		{&repo.BlockedError{Sessions: []repo.Unfinished{
			{ID: "20261120T021500Z-1", Cluster: "main", Host: "db1", PID: 77, Started: day.Add(-24 * time.Hour), LastSeen: day.Add(-time.Hour)},
			{ID: "20261121T021500Z-2", Cluster: "other", Host: "db2", Started: day, LastSeen: day},
		}}, codeIncomplete,
			[]string{"nothing was changed", "cluster main on host db1 (session 20261120T021500Z-1, process 77), which began at 2026-11-20 02:15:00Z and last wrote at 2026-11-21 01:15:00Z",
				"and by the backup of cluster other on host db2"},
			[]string{"--fence-after"}},
		{&repo.VanishedError{Snapshots: []repo.Commit{{Cluster: "main", ID: "one"}, {Cluster: "b", ID: "two"}}}, codeRefused,
			[]string{"nothing was deleted", "2 snapshots", "one of cluster main, two of cluster b"}, []string{"why they are gone: `pgtrove forget one two`"}},
		{&repo.VanishedError{Snapshots: []repo.Commit{{ID: "one", Pinned: true}, {ID: "two"}, {ID: "three", Pinned: true}}}, codeRefused,
			nil, []string{"why they are gone: `pgtrove unpin one`, `pgtrove unpin three`, ", "and `pgtrove forget one two three`"}},
		{&repo.TooMuchError{Swept: repo.Amount{Packs: 3, Bytes: 71 << 20}, Stored: repo.Amount{Packs: 4, Bytes: 100 << 20}, Limit: 0.5}, codeRefused,
			[]string{"71.0 MiB of 100.0 MiB, which is 71 %", "allows 50 %"}, []string{"--dry-run", "--max-delete 80%`"}},
		{&repo.TooMuchError{Swept: repo.Amount{Bytes: 100}, Stored: repo.Amount{Bytes: 100}, Limit: 0.99}, codeRefused,
			[]string{"100 %"}, []string{"--max-delete 100%`"}},
		{fmt.Errorf("publish: %w", repo.ErrOvertaken), codeBusy, []string{"another prune run"}, []string{"one host"}},
		{pinnedError("one"), codeRefused, []string{"forget one: it is pinned; nothing was changed"}, []string{"`pgtrove unpin one`"}},
		{fmt.Errorf("pin one: %w", repo.ErrNotCounted), codeAbsent, []string{"pin one: no such snapshot"}, []string{"pgtrove snapshots"}},
	} {
		err := p.explain(fmt.Errorf("%w", c.err))
		if got := classify(err).code; got != c.code {
			t.Errorf("%v: exit code %d, want %d", err, got, c.code)
		}
		for _, want := range c.said {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q lacks %q", err, want)
			}
		}
		for _, want := range c.hints {
			if hint := (&app{}).hint(err); !strings.Contains(hint, want) {
				t.Errorf("%v: hint %q lacks %q", err, hint, want)
			}
		}
	}
}

func TestThePruneReportSaysWhatWasDoneAndWhatWouldBe(t *testing.T) {
	r := &repo.PruneReport{
		Run: 7, Valid: 12, Expired: []repo.Commit{{ID: "one", Cluster: "main"}}, Returned: []repo.Commit{{ID: "two", Cluster: "main"}},
		Fenced: []repo.Unfinished{{ID: "three", Cluster: "main", Host: "db1"}, {ID: "four", Host: "ops", Repack: true}},
		Stored: repo.Amount{Packs: 10, Bytes: 320 << 20}, Swept: repo.Amount{Packs: 2, Bytes: 64 << 20},
		Condemned: repo.Amount{Packs: 3, Bytes: 96 << 20}, Repacked: repo.Amount{Packs: 1, Bytes: 32 << 20}, Rescued: repo.Amount{Packs: 1, Bytes: 1 << 20}, Stopped: true,
	}
	say := func(dryRun bool, err error) string {
		var text strings.Builder
		a := newApp()
		a.out = &output{stdout: &text, stderr: &text}
		p := &pruneRun{app: a, o: pruneOptions{dryRun: dryRun}, begun: time.Now()}
		if err := p.show(r, err); err != nil {
			t.Fatal(err)
		}
		return text.String()
	}
	did := say(false, nil)
	for _, want := range []string{
		"prune run 7: 12 snapshots kept, 1 removed, in ", "removed: snapshot one of cluster main\n", "back, because it is pinned: snapshot two",
		"silent: the backup of cluster main on host db1 (session three", "silent: a prune on host ops (session four",
		"deleted: 2 packs of 64.0 MiB, out of 10 packs of 320.0 MiB\n",
		"the next run deletes: 3 packs of 96.0 MiB, of which 1 pack of 32.0 MiB still held something needed, which is copied\n",
		"needed after all: 1 pack of 1.0 MiB\n", "a newer run has begun",
	} {
		if !strings.Contains(did, want) {
			t.Errorf("it does not say %q:\n%s", want, did)
		}
	}
	for want, got := range map[string]string{
		"prune run 7: 12": did, "nothing was changed; prune run 7 would do this: 12": say(true, nil),
		"nothing was deleted; prune run 7 would do this: 12": say(false, &repo.TooMuchError{}),
	} {
		if !strings.HasPrefix(got, want) {
			t.Errorf("it does not begin with %q:\n%s", want, got)
		}
	}
	if got := say(false, &repo.BlockedError{}); got != "" { // the error says all
		t.Errorf("a blocked run says\n%s", got)
	}
	r = &repo.PruneReport{Locks: repo.LockReport{Until: time.Date(2026, 12, 5, 0, 0, 0, 0, time.UTC), Extended: 12}}
	for dryRun, want := range map[bool]string{false: "locks were extended", true: "locks would be extended"} {
		if got := say(dryRun, &repo.BlockedError{}); !strings.HasPrefix(got, want) || !strings.Contains(got, "until 2026-12-05 00:00:00Z: of 12 objects") {
			t.Errorf("a blocked run says\n%s", got)
		}
	}
}

func TestThePruneReportSaysWhatBecameOfLocks(t *testing.T) {
	day := time.Date(2026, 12, 5, 0, 0, 0, 0, time.UTC)
	good := &repo.PruneReport{Locks: repo.LockReport{Until: day, Extended: 1234}}
	if got := pruneText(good, 0); !strings.Contains(got, "\n  locked until 2026-12-05 00:00:00Z: 1234 objects, ") {
		t.Error(got)
	}
	p := &pruneRun{app: newApp()}
	waiting := &repo.PruneReport{Waiting: []string{"packs/a/b"}}
	if got := pruneText(waiting, 0); !strings.Contains(got, "\n  locked yet, and deleted by a later run: 1 object ") || pruneResult(waiting, nil).Lock.Waiting != 1 {
		t.Error(got)
	}
	for _, r := range []*repo.PruneReport{good, waiting} {
		if err := p.shortcomings(r); err != nil {
			t.Error(err)
		}
	}
	j, err := json.Marshal(pruneResult(good, nil).Lock)
	if err != nil || string(j) != `{"until":"2026-12-05T00:00:00Z","extended":1234,"not_extended":0,"missing":[],"waiting":0}` {
		t.Errorf("%s, %v", j, err)
	}
	if j, err = json.Marshal(pruneResult(&repo.PruneReport{}, nil).Lock); err != nil || string(j) != `{"until":null,"extended":0,"not_extended":0,"missing":[],"waiting":0}` {
		t.Errorf("%s, %v", j, err)
	}

	bad := &repo.PruneReport{Locked: []string{"packs/a/b"}, LockedErr: errors.New("not you"),
		Locks: repo.LockReport{Until: day, Refused: 3, Err: errors.New("nor that")}}
	err = p.shortcomings(bad)
	if classify(err).code != codeIncomplete {
		t.Errorf("exit code %d: %v", classify(err).code, err)
	}
	for _, want := range []string{"refused to delete 1 object, such as packs/a/b (not you); and ", "to lock 3 objects for longer", "until 2026-12-05 00:00:00Z at least", "(nor that)"} {
		if !strings.Contains(fmt.Sprint(err), want) {
			t.Errorf("%q lacks %q", err, want)
		}
	}
	if hint := p.hint(err); !strings.Contains(hint, "s3:PutObjectRetention") {
		t.Errorf("hint %q", hint)
	}
	gone := &repo.PruneReport{Locks: repo.LockReport{Until: day, Extended: 7, Missing: []string{"packs/a/b", "packs/a/c"}}}
	if err = p.shortcomings(gone); !strings.Contains(fmt.Sprint(err), "2 objects were gone when their locks were to be extended") ||
		!strings.Contains(fmt.Sprint(err), "packs/a/b, packs/a/c") || !strings.Contains(p.hint(err), "`pgtrove verify`") || classify(err).code != codeIncomplete {
		t.Errorf("%v, %s", err, p.hint(err))
	}
	bad.Locks.Until = time.Time{}
	if err = p.shortcomings(bad); !strings.Contains(fmt.Sprint(err), "it is not known until when what is needed is locked") {
		t.Error(err)
	}
}

func TestOfMuchDamageThePruneListsSomeAndCountsTheRest(t *testing.T) {
	say := func(damage []error) string {
		t.Helper()
		var text strings.Builder
		a := newApp()
		a.out = &output{stdout: &text, stderr: &text}
		p := &pruneRun{app: a}
		if err := p.shortcomings(&repo.PruneReport{Damage: damage}); !errors.Is(err, repo.ErrDamaged) {
			t.Errorf("%v", err)
		} else {
			a.report(err, exitPolicy{})
		}
		return text.String()
	}
	few := []error{errors.New("first"), repo.ErrMissing}
	if got := say(few); !strings.HasPrefix(got, "damaged: first\ndamaged: ") || strings.Contains(got, "more") || !strings.Contains(got, "2 things are damaged") {
		t.Error(got)
	}
	loss := &gc.LossError{More: 1_600_000}
	for n := range 3000 {
		loss.Damage = append(loss.Damage, &gc.DamageError{Snapshot: "one", Path: fmt.Sprint(n), Err: repo.ErrMissing})
	}
	many := append(losses(loss), few...)
	got := say(many)
	if strings.Count(got, "damaged: ") != 20 || !strings.Contains(got, "\nand 1602982 more; `pgtrove verify` lists them\n") || !strings.Contains(got, "1603002 things are damaged") {
		t.Error(got)
	}
	if j := pruneResult(&repo.PruneReport{Damage: many}, nil); len(j.Damage) != 1000 || j.Damages != 1_603_002 {
		t.Errorf("%d are listed of %d", len(j.Damage), j.Damages)
	}
	if j := pruneResult(&repo.PruneReport{}, nil); j.Damage == nil || j.Damages != 0 {
		t.Errorf("%v of %d", j.Damage, j.Damages)
	}
}

func TestAManifestThatDoesNotParseIsALossAndEndsNoPrune(t *testing.T) {
	p := &pruneRun{app: newApp()}
	err := p.mark(t.Context(), nil, []repo.Commit{{ID: "one", Cluster: "main", Manifest: []byte("{")}, {ID: "two", Err: repo.ErrDamaged}}, func(chunk.ID) {})
	var lost *repo.LossError
	if !errors.As(err, &lost) || len(lost.Losses) != 2 || !strings.Contains(lost.Losses[0].Error(), "snapshot one of cluster main") {
		t.Errorf("%v", err)
	}
	if err := p.mark(t.Context(), nil, nil, func(chunk.ID) {}); err != nil {
		t.Errorf("nothing to mark: %v", err)
	}
}

func TestSnapshotsAreFoundAlsoIfForgottenOrDamaged(t *testing.T) {
	c := &catalog{commits: []repo.Commit{
		{ID: "20261101T000000Z-aa", Forgotten: true}, {ID: "20261102T000000Z-bb"}, {ID: "20261103T000000Z-cc", Err: repo.ErrDamaged},
		{ID: "20261103T000000Z-dd", Forgotten: true, Pinned: true}, {ID: "20261104T000000Z-cc", Forgotten: true},
	}}
	for name, want := range map[string]string{"aa": "20261101T000000Z-aa", "20261101": "20261101T000000Z-aa", "bb": "20261102T000000Z-bb", "dd": "20261103T000000Z-dd",
		"cc": "20261103T000000Z-cc"} { // the one of that name that is not forgotten
		if got, err := c.find(name); err != nil || got.ID != want {
			t.Errorf("%s is %s (%v), want %s", name, got.ID, err, want)
		}
	}
	for name, want := range map[string]error{"20261103": snapshot.ErrAmbiguous, "ee": snapshot.ErrNotFound, "": snapshot.ErrNotFound} {
		if got, err := c.find(name); !errors.Is(err, want) {
			t.Errorf("%q is %s (%v)", name, got.ID, err)
		}
	}
	if n := c.forgotten(); n != 2 {
		t.Errorf("%d are forgotten", n)
	}
}
