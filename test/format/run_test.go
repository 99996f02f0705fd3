package format

import (
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/restore"
	"github.com/pgtrove/pgtrove/snapshot"
	"github.com/pgtrove/pgtrove/storage/fs"
)

// The files testdata/pruned* were made once, by generaterun_test.go.

func openPruned(t *testing.T) (*Repository, ExpectedPruned) {
	t.Helper()
	r, err := Open(os.DirFS("testdata/pruned"), goldenIdentities(t, "pruned.owner.identity")...)
	if err != nil {
		t.Fatal(err)
	}
	var want ExpectedPruned
	readJSON(t, "pruned.json", &want)
	return r, want
}

func TestReaderGoesByTheNewestRun(t *testing.T) {
	r, want := openPruned(t)
	found := map[string]string{}
	for _, m := range goldenSnapshots(t, r) {
		entries, err := r.Listing(m)
		if err != nil || len(entries) != 1 {
			t.Fatalf("%s: %d entries, %v", m.ID, len(entries), err)
		}
		content, err := r.File(entries[0])
		if err != nil {
			t.Errorf("%s: %v", m.ID, err)
		}
		found[m.ID] = sum(content)
	}
	if !maps.Equal(found, want.Visible) {
		t.Errorf("found %v, not %v", found, want.Visible)
	}
	for _, sid := range want.Hidden {
		if counts, hidden := r.Counts(sid); !counts || !hidden {
			t.Errorf("%s: counts %v, hidden %v", sid, counts, hidden)
		}
	}
	for _, sid := range want.Gone {
		if counts, _ := r.Counts(sid); counts {
			t.Errorf("%s counts", sid)
		}
	}
}

func TestReaderReadsWhatWritersMustNotReferTo(t *testing.T) {
	r, want := openPruned(t)
	for _, id := range want.Barred {
		if _, _, err := r.Chunk(id); err != nil || r.WriterMayUse(id) {
			t.Errorf("chunk %s: a writer may use it: %v; %v", id, r.WriterMayUse(id), err)
		}
	}
	for _, id := range want.Usable {
		if _, _, err := r.Chunk(id); err != nil || !r.WriterMayUse(id) {
			t.Errorf("chunk %s: a writer may use it: %v; %v", id, r.WriterMayUse(id), err)
		}
	}
}

func TestReaderReadsRunsAndRequests(t *testing.T) {
	r, want := openPruned(t)
	run, err := r.NewestRun()
	if err != nil {
		t.Fatal(err)
	}
	if run.Number != 2 || run.Host != "backup1.example" || !isNonce(run.Nonce) || run.Time.IsZero() ||
		len(run.Valid) != 3 || len(run.Expired) != 1 || len(run.Bases) != 1 || len(run.Sweep) == 0 || len(run.Condemned) == 0 {
		t.Errorf("%+v", run)
	}
	for _, v := range run.Valid {
		if v.KeptSince.IsZero() || v.KeptSince.Location() != time.UTC {
			t.Errorf("kept since %s", v.KeptSince)
		}
	}
	if len(r.Names("base/")) < 2 || len(r.Names("forget/")) != 3 || len(r.Names("pins/")) != 2 {
		t.Error("the repository lacks something")
	}
	for _, name := range append(r.Names("forget/"), r.Names("pins/")...) {
		if m, err := r.Mark(name); err != nil || m.Time.IsZero() || m.Host == "" {
			t.Errorf("%s: %+v, %v", name, m, err)
		}
	}
	repack, err := r.Session(want.Repack)
	if err != nil || !repack.Repack || repack.GC != 1 || repack.Cluster != "_prune" {
		t.Errorf("%+v, %v", repack, err)
	}
	if o, err := r.Outcome("snapshots/_prune/" + want.Repack); err != nil || o.Outcome != "REPACKED" || o.Manifest != nil {
		t.Errorf("%+v, %v", o, err)
	}
	if s, err := r.Session(want.Open); err != nil || s.Repack || s.GC != 2 {
		t.Errorf("%+v, %v", s, err)
	}
	for _, name := range slices.Concat(r.Names("gc/"), r.Names("sessions/"), r.Names("forget/"), r.Names("pins/")) {
		kind, to := "pgtmark", any(new(Mark))
		switch {
		case strings.HasPrefix(name, "gc/"):
			kind, to = "pgtgcru", new(Run)
		case strings.HasPrefix(name, "sessions/"):
			kind, to = "pgtsess", new(Session)
		}
		payload, err := r.payload(kind, name)
		if err == nil {
			err = strict(payload, "version", 1, to)
		}
		if err != nil {
			t.Errorf("%s: the page does not name every member: %v", name, err)
		}
	}
}

func TestRulesOfRuns(t *testing.T) {
	const pack = "packs/20260304T050607Z-0123456789abcdef/12-0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	wal := func(first, last string) []RunWAL {
		return []RunWAL{{"wal/main/7300000000000000001/" + first, "wal/main/7300000000000000001/" + last}}
	}
	sound := func() Run {
		return Run{WALSweep: wal("00000001/a", "00000001/b"), WALCondemned: wal("00000001/c", "00000001/d"), WALBegun: wal("00000001/d", "00000001/d"),
			Number: 7, Valid: []RunSnapshot{{Cluster: "main", ID: "a"}}, Expired: []RunSnapshot{{Cluster: "main", ID: "b"}},
			Bases: []RunBase{{Key: "base/0000000006/0123456789abcdef0123456789abcdef-0"}}, Sweep: []string{pack}, Condemned: []string{pack}}
	}
	run := sound()
	accepts(t, "a sound run", run.check("gc/0000000007"))
	refuses(t, "another number", run.check("gc/0000000008"), ErrDamaged)
	refuses(t, "a number that is not padded", run.check("gc/7"), ErrDamaged)
	for what, breaks := range map[string]func(*Run){
		"run 0":                  func(r *Run) { r.Number = 0 },
		"a snapshot elsewhere":   func(r *Run) { r.Valid[0].Cluster = "../main" },
		"a snapshot of no name":  func(r *Run) { r.Expired[0].ID = "" },
		"a base elsewhere":       func(r *Run) { r.Bases[0].Key = "index/a/0" },
		"a base without a nonce": func(r *Run) { r.Bases[0].Key = "base/0000000006/0" },
		"a sweep of no pack":     func(r *Run) { r.Sweep[0] = "snapshots/main/a" },
		"WAL of two timelines":   func(r *Run) { r.WALSweep = wal("00000001/a", "00000002/b") },
		"WAL in no order":        func(r *Run) { r.WALCondemned = wal("00000001/b", "00000001/a") },
		"a history begun":        func(r *Run) { r.WALBegun = wal("00000002.history", "00000002.history") },
		"no pack condemned":      func(r *Run) { r.Condemned[0] = "config" },
	} {
		r := sound()
		breaks(&r)
		refuses(t, what, r.check(fmt.Sprintf("gc/%010d", r.Number)), ErrDamaged)
	}
}

func TestTodaysCodeReadsThePrunedRepository(t *testing.T) {
	_, want := openPruned(t)
	store, err := fs.Open("testdata/pruned")
	if err != nil {
		t.Fatal(err)
	}
	r, err := repo.Open(t.Context(), store, goldenIdentities(t, "pruned.owner.identity")...)
	if err != nil {
		t.Fatal(err)
	}
	view, err := r.OpenView(t.Context(), "", goldenCluster)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := view.Close(); err != nil {
			t.Error(err)
		}
	}()
	found := map[string]string{}
	var all []*snapshot.Manifest
	if err := r.Commits(t.Context(), "", func(c repo.Commit) error {
		m, err := snapshot.ParseManifest(c.Manifest)
		if err != nil {
			return err
		}
		all = append(all, m)
		return m.Root.Walk(t.Context(), view, func(e *snapshot.Entry) error {
			content, err := rebuildWithTodaysCode(t.Context(), view, e.Recipe)
			found[path.Base(m.ID)] = sum(content)
			return err
		})
	}); err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(found, want.Visible) {
		t.Errorf("found %v, not %v", found, want.Visible)
	}
	report, err := restore.Verify(t.Context(), view, r, restore.VerifyOptions{Snapshots: all, ReadData: true, IsDamage: func(error) bool { return true }})
	if err != nil || len(report.Damage) > 0 {
		t.Errorf("%v, %+v", err, report)
	}
}
