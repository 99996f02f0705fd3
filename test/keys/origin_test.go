package keys

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/test/pgtest"
)

// TestASnapshotThatClaimsAnotherHostsNameIsToldAndUsedForNothing: also where it is made by a program that does not refuse to.
func TestASnapshotThatClaimsAnotherHostsNameIsToldAndUsedForNothing(t *testing.T) {
	t.Parallel()
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	w := newWorldOf(t, host)
	other := w.add("writer", "intruder", "--clusters", "main,other")
	good := w.backup("")
	for args, says := range map[string]string{
		"backup":                  "says that it is of host",
		"backup --cluster theirs": "may not write snapshots of cluster theirs",
	} {
		if r := w.ends(5, other, strings.Fields(args)...); !has(r.Stderr, `key "intruder"`, says, "hint: ") {
			t.Errorf("%s: %s", args, r.Stderr)
		}
	}
	bogus := w.forge(other, good)

	if r := w.ends(5, "", "snapshots"); !has(r.Stdout, good.ID) || strings.Contains(r.Stdout, bogus) || !has(r.Stderr, "warning: refused: snapshot "+bogus, `key "intruder"`, "pgtrove forget "+bogus) {
		t.Errorf("snapshots: %s%s", r.Stdout, r.Stderr)
	}
	all := lines(t, w.ends(5, w.owner, "snapshots", "--json").Stdout)
	if len(all) != 2 || all[0].Type != "snapshot" || all[1].Type != "refused" || all[1].ID != bogus || !has(all[1].Error, "intruder") {
		t.Errorf("snapshots --json: %+v", all)
	}
	if r := w.ends(5, "", "info"); !has(r.Stdout, "snapshots: 1,") || !has(r.Stderr, bogus) {
		t.Errorf("info: %s%s", r.Stdout, r.Stderr)
	}
	if r := w.ends(5, w.owner, "verify", "--read-data"); !has(r.Stderr, bogus, "1 snapshot is refused") {
		t.Errorf("verify: %s%s", r.Stdout, r.Stderr)
	}
	if r := w.ends(3, "", "check"); !has(r.Stdout, "refused: snapshot "+bogus, "1 snapshot, the newest taken") {
		t.Errorf("check: %s%s", r.Stdout, r.Stderr)
	}
	r := w.ends(0, w.owner, "restore", "latest", "--to", w.dir+"/latest")
	if !has(r.Stderr, "restoring snapshot "+good.ID, "warning: refused: snapshot "+bogus) {
		t.Errorf("restore: %s", r.Stderr)
	}
	if r := w.ends(5, w.owner, "restore", bogus, "--to", w.dir+"/bogus"); !has(r.Stderr, "intruder", "pgtrove forget "+bogus) {
		t.Errorf("restore of what is refused: %s", r.Stderr)
	}
	if r := w.ends(5, w.owner, "forget", "--keep-last", "1"); !has(r.Stdout, "1 snapshot stays, 0 to forget") {
		t.Errorf("forget: %s%s", r.Stdout, r.Stderr)
	}
	if next := w.backup(""); next.Added > good.Added/2 {
		t.Errorf("%+v shares nothing with %+v", next, good)
	}
	w.ok(w.owner, "prune")
	w.ends(5, "", "snapshots") // no prune removes it by itself
	w.ok(w.owner, "forget", bogus)
	w.ok("", "snapshots")
	w.ok(w.owner, "prune")
	if all := lines(t, w.ok("", "snapshots", "--json")); len(all) != 2 {
		t.Errorf("%d snapshots are left", len(all))
	}
}

// forge commits, with somebody's key, a snapshot that says to be of the host that another one is of, and to be newer.
func (w *world) forge(identity string, of snapshot) (id string) {
	w.t.Helper()
	ctx := w.t.Context()
	th := newThief(w.t, w.repo, identity)
	var m map[string]any
	if err := th.repo.Commits(ctx, "main", func(c repo.Commit) error {
		if c.ID != of.ID {
			return nil
		}
		return json.Unmarshal(c.Manifest, &m)
	}); err != nil || m == nil {
		w.t.Fatalf("read snapshot %s: %v", of.ID, err)
	}
	o := repo.SessionOptions{Cluster: "main", Host: "intruder", Now: time.Now}
	if err := th.repo.Write(ctx, o, func(ctx context.Context, s *repo.Session) error {
		id = s.ID()
		m["id"] = id
		m["window"].(map[string]any)["stop_time"] = time.Now().Add(time.Hour).UTC()
		text, err := json.Marshal(m)
		if err != nil {
			return err
		}
		return s.Commit(ctx, text)
	}); err != nil {
		w.t.Fatal(err)
	}
	pgtest.Own(w.t, w.repo) // what this program wrote
	return id
}

// TestGroupsShareNothing: two hosts that must not trust each other back up the same data, and neither sees more of the other than that it is there.
func TestGroupsShareNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	text := marker("table")
	w.plant("planted", text, text)
	ours := w.backup("")
	apart := w.add("writer", "apart", "--clusters", "apart", "--group", "apart")
	theirs := w.backup(apart, "--cluster", "apart", "--wal", "include")
	if theirs.Added < ours.Added/2 {
		t.Errorf("they share something: %+v, %+v", ours, theirs)
	}
	if again := w.backup(apart, "--cluster", "apart", "--wal", "include"); again.Added > theirs.Added/2 {
		t.Errorf("a group shares nothing with itself: %+v, %+v", theirs, again)
	}
	for key, sees := range map[string]string{"": ours.ID, apart: theirs.ID, w.owner: ours.ID + " " + theirs.ID} {
		shown := ""
		for _, cluster := range []string{"main", "apart"} {
			shown += w.ok(key, "snapshots", "--cluster", cluster)
		}
		for _, id := range []string{ours.ID, theirs.ID} {
			if strings.Contains(shown, id) != strings.Contains(sees, id) {
				t.Errorf("%q sees\n%s", key, shown)
			}
		}
		w.ok(key, "verify")
		w.ok(key, "info")
	}
	th := newThief(t, copyOf(t, w.repo), apart, text)
	th.mayBeForeign = true
	th.everything()
	if len(th.found) > 0 || th.opened > 0 || th.foreign == 0 {
		t.Errorf("%v; %d chunks opened, %d objects are another group's", th.found, th.opened, th.foreign)
	}
	for _, key := range []string{"", apart} {
		if r := w.ends(8, key, "prune"); !has(r.Stderr, "an owner's key must do this", "hint: ") {
			t.Errorf("prune: %s", r.Stderr)
		}
	}
	w.ok(w.owner, "prune")
	for cluster, id := range map[string]string{"main": ours.ID, "apart": theirs.ID} {
		w.ok(w.owner, "restore", id, "--cluster", cluster, "--no-recovery", "--to", filepath.Join(w.dir, cluster))
	}
}
