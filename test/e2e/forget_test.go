package e2e

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pgtrove/pgtrove/keys"
	"github.com/pgtrove/pgtrove/repo"
	storagefs "github.com/pgtrove/pgtrove/storage/fs"
	"github.com/pgtrove/pgtrove/test/pgtest"
)

// window is one of info, or of a plan.
type window struct {
	Timeline int    `json:"timeline"`
	From     string `json:"from_lsn"`
	To       string `json:"to_lsn"`
}

// plan is what the tests look at of forget --json with rules.
type plan struct {
	Type                    string
	Kept, Removed, Narrowed int
	BytesFree               *int64 `json:"bytes_free"`
	WALBytesFree            *int64 `json:"wal_bytes_free"`
	Clusters                []struct {
		Before []window `json:"windows_before"`
		After  []window `json:"windows_after"`
	}
	reasons map[string]string // of those that stay, by ID
}

func (w *world) plan(args ...string) (p plan) {
	w.t.Helper()
	p.reasons = map[string]string{}
	for line := range strings.Lines(w.ok(append([]string{"forget", "--json"}, args...)...)) {
		var row struct {
			Type, ID string
			Keep     bool
			Reasons  []string
		}
		if err := json.Unmarshal([]byte(line), &row); err != nil {
			w.t.Fatal(err)
		}
		switch {
		case row.Type == "forget" && row.Keep:
			p.reasons[row.ID] = strings.Join(row.Reasons, ", ")
		case row.Type == "plan":
			if err := json.Unmarshal([]byte(line), &p); err != nil {
				w.t.Fatal(err)
			}
		}
	}
	if p.Type != "plan" || len(p.reasons) != p.Kept {
		w.t.Fatalf("no plan: %+v", p)
	}
	return p
}

// windows are those of info.
func (w *world) windows() (all []window) {
	w.t.Helper()
	for line := range strings.Lines(w.ok("info", "--json")) {
		var row struct{ Windows []window }
		if err := json.Unmarshal([]byte(line), &row); err != nil {
			w.t.Fatal(err)
		}
		all = append(all, row.Windows...)
	}
	return all
}

// narrow makes the request that a window in the past makes: no snapshot of a test is old enough for the command.
func (w *world) narrow(id string) {
	w.t.Helper()
	ids, err := keys.ParseIdentityFile(read(w.t, w.key))
	if err != nil {
		w.t.Fatal(err)
	}
	store, err := storagefs.Open(w.repo)
	if err != nil {
		w.t.Fatal(err)
	}
	r, err := repo.Open(w.t.Context(), store, ids.Identities...)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := r.Narrow(w.t.Context(), id); err != nil {
		w.t.Fatal(err)
	}
	dir := filepath.Join(w.repo, "forget")
	pgtest.Own(w.t, dir, filepath.Join(dir, id+".wal"))
}

func TestForgettingByPolicyKeepsWhatItPromises(t *testing.T) {
	w := newWorld(t, "15", pgtest.Options{Conf: map[string]string{"autovacuum": "off"}})
	w.fill("ballast", 5)
	w.Exec(t, "CREATE TABLE story (n int)")
	var all []snapshot
	var after []string // a moment after each snapshot
	for n := range 5 {
		w.fill(fmt.Sprint("only_", n), 5)
		w.Exec(t, fmt.Sprintf("INSERT INTO story VALUES (%d)", n))
		all = append(all, w.backup("--tag", fmt.Sprint("n=", n)))
		w.Exec(t, fmt.Sprintf("DROP TABLE only_%d; INSERT INTO story VALUES (%d)", n, 10+n))
		w.Exec(t, "SELECT pg_sleep(0.05)")
		after = append(after, w.Query(t, "SELECT clock_timestamp()"))
		w.Exec(t, "SELECT pg_sleep(0.05)")
	}
	w.Exec(t, "INSERT INTO story VALUES (20)")
	w.archived()
	w.Stop(t, pgtest.Fast) // which archives no more
	w.ok("pin", all[0].ID)
	w.narrow(all[0].ID)

	if p := w.plan("--pitr-window", "1h"); p.Kept != 5 || p.Removed != 0 || !slices.Equal(p.Clusters[0].After, w.windows()) {
		t.Errorf("all snapshots are of this hour, but %+v", p)
	}
	rules := []string{"--keep-last", "2", "--keep-yearly", "1"}
	var dry plan
	w.unchanged("a dry run", func() { dry = w.plan(append(rules, "--dry-run")...) })
	if dry.Kept != 3 || dry.Removed != 2 || dry.Narrowed != 1 || dry.reasons[all[0].ID] != "pinned" || dry.reasons[all[3].ID] != "last" ||
		!strings.HasPrefix(dry.reasons[all[4].ID], "last good, last, yearly 20") || !slices.Equal(dry.Clusters[0].Before, w.windows()) {
		t.Errorf("%+v", dry)
	}
	p := w.plan(rules...)
	if fmt.Sprint(p.reasons, p.Clusters, *p.BytesFree, *p.WALBytesFree) != fmt.Sprint(dry.reasons, dry.Clusters, *dry.BytesFree, *dry.WALBytesFree) {
		t.Errorf("the plan was %+v, and is %+v", dry, p)
	}
	w.shows(all[0].ID, all[3].ID, all[4].ID)
	w.tells([]string{"snapshots"}, "pinned narrowed n=0")
	before, wal := w.stored(), w.size("wal")
	w.verify()
	for range 3 {
		w.prune("--max-delete", "100%")
		w.verify()
	}
	if freed := before - w.stored(); freed < *p.BytesFree*8/10 || freed > *p.BytesFree*12/10 || freed < 8<<20 {
		t.Errorf("%d bytes were freed, and not %d", freed, *p.BytesFree)
	}
	if freed := wal - w.size("wal"); freed != *p.WALBytesFree || freed == 0 {
		t.Errorf("%d bytes of WAL were freed, and not %d", freed, *p.WALBytesFree)
	}
	if got := w.windows(); !slices.Equal(got, p.Clusters[0].After) || len(got) != 2 {
		t.Errorf("promised were the windows %v, and there are %v", p.Clusters[0].After, got)
	}
	w.tells([]string{"snapshots", "--json"}, `"pinned":true,"narrowed":true`) // the request is spent
	for want, args := range map[string][]string{
		"0":                           {all[0].ID, "--target-immediate"}, // its own moment
		"0 1 2 3 10 11 12 13":         {"--target-time", after[3]},
		"0 1 2 3 4 10 11 12 13 14":    {"--target-time", after[4]},
		"0 1 2 3 4 10 11 12 13 14 20": nil,
	} {
		s := w.adopt(w.restore(args...))
		sameRows(t, s, "SELECT string_agg(n::text, ' ' ORDER BY n) FROM story", want)
		s.Stop(t, pgtest.Immediate)
	}
	for _, moment := range after[:3] {
		w.fails(5, []string{"hint: "}, "restore", "--target-time", moment, "--to", w.newDir())
	}
	w.tells([]string{"forget", "--keep-last", "1", "--prune"}, "no rule keeps it", "forgot 1 snapshot, narrowed 0", "prune run 4: 2 snapshots kept, 1 removed")
	w.shows(all[0].ID, all[4].ID)
	w.fails(2, []string{"snapshot is missing", "--keep-daily"}, "forget", "--dry-run")
}

// size sums up the files below a directory of the repository.
func (w *world) size(dir string) (bytes int64) {
	w.t.Helper()
	for path, description := range w.inventory() {
		var size int64
		if _, err := fmt.Sscan(description, &size); err != nil {
			w.t.Fatal(err)
		}
		if strings.HasPrefix(path, dir+"/") {
			bytes += size
		}
	}
	return bytes
}
