package repo

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// announceAs puts an announcement as a host may that keeps to no rule.
func (f fixture) announceAs(t *testing.T, r *Repo, sid string, a announcement) {
	t.Helper()
	a.Version, a.Host, a.Nonce = 1, "evil", "x"
	text, err := json.Marshal(a)
	must(t, err)
	must(t, f.store.Put(t.Context(), sessionsPrefix+sid, r.seal(kindSession, sessionsPrefix+sid, text)))
}

// nowhere are announcements of sessions that can commit nowhere: cluster by the session's ID.
func nowhere() map[string]string {
	all := map[string]string{"a/b": "zzz", strings.Repeat("x", 120) + "/y": "main"}
	for i, cluster := range []string{"", "a b", "../x", strings.Repeat("x", 300), "a/b", ".", "/"} {
		all[fmt.Sprintf("20000101T000000Z-%016x", i)] = cluster
	}
	return all
}

func TestAnAnnouncementOfNoPlaceGoesWhenItIsDead(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	data := pieces(50, 2)
	sid, ids := backup(t, r, data)
	prune(t, r, pruning())
	for sid, cluster := range nowhere() {
		f.announceAs(t, r, sid, announcement{Cluster: cluster})
	}
	left := func() []string { return list(t, f.store, sessionsPrefix) }
	before := left()
	if report := prune(t, r, pruning()); len(report.Fenced) > 0 || len(left()) != len(before) {
		t.Errorf("one that is alive was ended: %+v", report.Fenced)
	}
	o := pruning()
	o.Now = func() time.Time { return time.Now().Add(48 * time.Hour) }
	o.DryRun = true
	if report := prune(t, r, o); len(report.Fenced) != len(before) || len(left()) != len(before) {
		t.Errorf("a dry run: %d of %d, left %v", len(report.Fenced), len(before), left())
	}
	o.DryRun = false
	if report := prune(t, r, o); len(report.Fenced) != len(before) || len(left()) != 0 || len(report.Damage) > 0 {
		t.Errorf("%+v, left %v", report, left())
	}
	if got := list(t, f.store, snapshotsPrefix); !slices.Equal(got, []string{snapshotsPrefix + "main/" + sid}) {
		t.Errorf("%v", got)
	}
	check(t, r, ids, data)
}

func TestAnAnnouncementOfNoPlaceEndsNoRebuild(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	backup(t, r, pieces(50, 2))
	for sid, cluster := range nowhere() {
		f.announceAs(t, r, sid, announcement{Cluster: cluster})
	}
	o := RebuildOptions{Host: "h", Now: func() time.Time { return time.Now().Add(48 * time.Hour) }}
	report, err := r.Rebuild(t.Context(), o)
	if err != nil || len(report.Fenced) != len(nowhere()) {
		t.Errorf("%v, %+v", err, report)
	}
	if left := list(t, f.store, sessionsPrefix); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestNobodyWaitsForASessionThatCanCommitNowhere(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	backup(t, r, pieces(50, 2))
	prune(t, r, pruning())
	f.announceAs(t, r, "20000101T000000Z-0000000000000000", announcement{Cluster: "a/b", GC: 0}) // of before the run
	key := snapshotsPrefix + "a/b/20000101T000000Z-0000000000000000"
	must(t, f.store.Put(t.Context(), key, r.seal(kindOutcome, key, []byte(`{"version":1,"outcome":"SNAPSHOT","nonce":"x","manifest":[]}`))))
	must(t, r.AllCommits(t.Context(), "", func(c Commit) error {
		if c.Cluster != "main" {
			t.Errorf("shown: %s of %s", c.ID, c.Cluster)
		}
		return nil
	}))
	prune(t, r, pruning())
	if got := list(t, f.store, snapshotsPrefix+"a/"); len(got) > 0 {
		t.Errorf("%v", got)
	}
	must(t, r.Write(t.Context(), options(), func(context.Context, *Session) error { return nil }))
}
