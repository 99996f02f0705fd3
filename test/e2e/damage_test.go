package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pgtrove/pgtrove/test/pgtest"
)

// verified is what the tests look at of verify --json.
type verified struct {
	Type, Object     string
	Snapshots        json.RawMessage
	Files            json.RawMessage
	Packs            json.RawMessage
	Known            []string
	Lost             int
	Slice, Slices    int
	PackBytes        int64   `json:"pack_bytes"`
	ReadBytes        int64   `json:"read_bytes"`
	WALFiles         int     `json:"wal_files"`
	AllSince         *string `json:"all_since"`
	Damaged          int
	Breaks           map[string]any
	snapshots, files []string
}

// verifyJSON runs verify, which must end with this exit code, and gives its results by type.
func (w *world) verifyJSON(code int, args ...string) map[string][]verified {
	w.t.Helper()
	r := w.run(append([]string{"verify", "--json"}, args...)...)
	if r.Code != code {
		w.t.Errorf("verify %v: exit %d, want %d\n%s%s", args, r.Code, code, r.Stdout, r.Stderr)
	}
	all := map[string][]verified{}
	for line := range strings.Lines(r.Stdout) {
		var v verified
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			w.t.Fatalf("%v: %s", err, line)
		}
		_, _ = json.Unmarshal(v.Snapshots, &v.snapshots), json.Unmarshal(v.Files, &v.files)
		all[v.Type] = append(all[v.Type], v)
	}
	if len(all["verify"]) != 1 {
		w.t.Fatalf("verify %v gave no result\n%s%s", args, r.Stdout, r.Stderr)
	}
	return all
}

// packOf gives the largest pack of a kind that a snapshot brought.
func (w *world) packOf(sid, kind string) string {
	w.t.Helper()
	of := slices.DeleteFunc(w.matching("packs/"+sid+"/*"), func(key string) bool {
		return !strings.Contains(w.ok("inspect", "--json", key), `"kind":"`+kind+`"`)
	})
	return w.largest(of)
}

func (w *world) largest(keys []string) string {
	w.t.Helper()
	found, size := "", int64(0)
	for _, key := range keys {
		info, err := os.Stat(filepath.Join(w.repo, key))
		if err != nil {
			w.t.Fatal(err)
		}
		if info.Size() > size {
			found, size = key, info.Size()
		}
	}
	if found == "" {
		w.t.Fatal("there is none")
	}
	return found
}

// flip changes a byte in every so many of an object, but for its last 4 KiB if it is so large. put puts it back.
func (w *world) flip(key string, every int) (put func()) {
	w.t.Helper()
	path := filepath.Join(w.repo, key)
	b := read(w.t, path)
	keep := slices.Clone(b)
	for at := every; at < max(len(b)-4096, every+1); at += every {
		b[at] ^= 0x10
	}
	write := func(b []byte) {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			w.t.Fatal(err)
		}
	}
	write(b)
	return func() { write(keep) }
}

// pruneAll prunes until nothing is left to do, and says every time that all may be deleted that is not needed.
func (w *world) pruneAll() {
	w.t.Helper()
	for range 4 {
		w.prune("--max-delete", "100%", "--max-repack", "0")
	}
}

func TestDamagedPacksAreRepairedAndTheNextBackupHealsThem(t *testing.T) {
	w := unarchived(t, "15", still(nil))
	w.fill("stays", 20)
	first := w.freeze()
	w.fill("more", 5)
	second := w.freeze()
	file, err := filepath.Rel(w.Dir, w.pathIn("postgres", "stays"))
	if err != nil {
		t.Fatal(err)
	}
	file = "data/" + file
	pack := w.packOf(first.ID, "data")
	w.flip(pack, 5<<20)

	w.ok("verify")
	if d := w.verifyJSON(9, "--read-data")["damage"]; len(d) != 1 || d[0].Object != pack || !slices.Equal(d[0].snapshots, []string{first.ID, second.ID}) || !slices.Contains(d[0].files, file) {
		t.Errorf("verify found %+v", d)
	}
	w.fails(9, []string{pack, first.ID, second.ID, file, "hint: `pgtrove verify --repair`"}, "verify", "--read-data")
	w.asWriter()
	w.unchanged("a writer's repair", func() { w.fails(8, []string{"only an owner's opens"}, "verify", "--repair") })
	w.ExtraEnv = w.env()
	w.fails(9, []string{
		"damaged: " + pack, "lost: " + pack, "repaired: 1 damaged pack is given up", file, "hint: take a backup", "`pgtrove forget " + min(first.ID, second.ID) + " " + max(first.ID, second.ID) + "`",
	}, "verify", "--repair")
	w.unchanged("another repair", func() {
		if again := w.verifyJSON(9, "--repair")["repair"]; len(again) != 1 || len(again[0].Known) != 1 || again[0].Lost != 1 {
			t.Errorf("%+v", again)
		}
	})
	w.fails(9, []string{"given up", pack, file, "hint: take a backup"}, "verify")
	before := w.stored()
	w.fails(9, []string{"holds what nothing else has", "no pack is deleted"}, "prune")
	if w.stored() != before {
		t.Error("a prune deleted something")
	}

	third := w.freeze()
	if third.Added > 6<<20 { // one chunk, of whatever length: that it is there verify tells
		t.Errorf("the backup that heals added %d bytes", third.Added)
	}
	w.verify()
	for _, m := range []*moment{first, second, third} {
		drop(t, m.restored())
	}
	w.pruneAll()
	if left := slices.Concat(w.matching(pack), w.matching("forget/packs/*/*"), w.matching("snapshots/_prune/*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	w.verify()
	w.unchanged("a repair where there is nothing to repair", func() { w.ok("verify", "--repair") })
	for _, m := range []*moment{first, second, third} {
		drop(t, m.restored())
	}
}

// TestWhatCannotBeHealedIsForgotten: metadata of an old snapshot, and a pack that is gone, in which files are that have changed since.
func TestWhatCannotBeHealedIsForgotten(t *testing.T) {
	w := unarchived(t, "15", still(nil))
	w.fill("stays", 5)
	first := w.freeze()
	w.fill("more", 5)
	second := w.freeze()
	w.flip(w.packOf(first.ID, "meta"), 1000)
	gone := w.packOf(second.ID, "data")
	if err := os.Remove(filepath.Join(w.repo, gone)); err != nil {
		t.Fatal(err)
	}
	w.fails(9, []string{first.ID, second.ID, "hint: `pgtrove verify --repair`"}, "verify")
	w.fails(9, []string{"lost: snapshot " + first.ID, "lost: snapshot " + second.ID, "repaired: 2 damaged packs are given up"}, "verify", "--repair")
	if given := w.matching("forget/" + gone); len(given) != 1 {
		t.Errorf("the pack that is gone is not given up: %v", given)
	}
	third := w.freeze()
	drop(t, third.restored())
	lost := map[string]bool{}
	for _, d := range w.verifyJSON(9, "--read-data")["damage"] {
		for _, id := range d.snapshots {
			lost[id] = true
		}
	}
	if !lost[first.ID] || !lost[second.ID] || lost[third.ID] {
		t.Errorf("lost are %v of %s, %s, %s", lost, first.ID, second.ID, third.ID)
	}
	w.fails(9, []string{"no pack is deleted"}, "prune")
	w.ok("verify", third.ID, "--read-data")
	for id := range lost {
		w.ok("forget", id)
	}
	w.pruneAll()
	w.verify()
	drop(t, third.restored())
	if left := slices.Concat(w.matching("forget/*-*"), w.matching("forget/packs/*/*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestADamagedIndexIsRebuiltWhileEverybodyGoesOn(t *testing.T) {
	w := unarchived(t, "15", still(nil))
	w.fill("stays", 10)
	first := w.freeze()
	w.prune()
	w.fill("more", 5)
	second := w.freeze()
	base, segment := w.matching("base/*/*")[0], w.matching("index/*/*")[0]
	w.flip(base, 1000)
	w.flip(segment, 1000)
	w.ExtraEnv = append(w.env(), "PGTROVE_CACHE_DIR="+filepath.Join(w.newDir(), "cache")) // one that knows nothing
	hint := "hint: `pgtrove rebuild-index`"
	w.unchanged("what finds the index damaged", func() {
		w.fails(9, []string{base, segment, first.ID, second.ID, hint}, "verify", "--read-data")
		w.fails(9, []string{"cannot be read", hint}, "prune")
		dir := w.newDir()
		w.fails(9, []string{"warning: 2 parts of the index cannot be read", hint}, "restore", second.ID, "--no-recovery", "--to", dir)
		w.tells([]string{"rebuild-index", "--dry-run"}, "nothing was changed; the index would be new")
	})
	// Only whose cache still knows what the index said goes on as if nothing were.
	w.asWriter()
	cache := filepath.Join(w.newDir(), "cache")
	w.ExtraEnv = append(w.ExtraEnv, "PGTROVE_CACHE_DIR="+cache)
	r := w.run("backup", "--json", "--checkpoint", "fast")
	if r.Code != 0 || !strings.Contains(r.Stderr, "warning: 2 parts of the index cannot be read") {
		t.Errorf("backup: exit %d\n%s", r.Code, r.Stderr)
	}
	w.tells([]string{"rebuild-index"}, "the index is new", "for 3 snapshots")
	w.ExtraEnv = w.env()
	w.verify()
	for _, m := range []*moment{first, second} {
		drop(t, m.restored())
	}
	w.pruneAll()
	w.verify()

	// A pack that does not say what it holds.
	pack := w.packOf(first.ID, "data")
	path := filepath.Join(w.repo, pack)
	b := read(t, path)
	b[len(b)-30] ^= 1
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	w.fails(9, []string{pack, "hint: `pgtrove verify --repair`"}, "rebuild-index")
	w.fails(9, []string{"nothing is lost"}, "verify", "--repair")
	w.verify()
	w.pruneAll()
	if left := w.matching(pack); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	drop(t, first.restored())
}

func TestSlicesAddUpToEverything(t *testing.T) {
	w := newWorld(t, "15", pgtest.Options{})
	w.fill("stays", 5)
	for range 3 {
		w.backup()
	}
	w.archived()
	wal := w.matching("wal/main/*/*/*")
	segment := w.largest(wal)
	for _, args := range [][]string{{"--read-data=0%"}, {"--read-data=101%"}, {"--read-data=5"}, {"--read-data="}, {"--repair", "--read-data=x%"}} {
		w.fails(2, []string{"--read-data", "give a share"}, append([]string{"verify"}, args...)...)
	}
	put := w.flip(segment, 50_000)
	sum, files, found := int64(0), 0, 4
	for n := range 4 {
		code := 0
		out := w.run("verify", "--json", "--read-data=25%")
		if strings.Contains(out.Stdout, `"type":"damage"`) {
			code, found = 9, min(found, n)
		} else if n > found {
			t.Errorf("run %d passes over what run %d found damaged", n, found)
		}
		var v verified
		lines := strings.Split(strings.TrimSpace(out.Stdout), "\n")
		if err := json.Unmarshal([]byte(lines[len(lines)-1]), &v); err != nil || out.Code != code {
			t.Fatalf("exit %d, %v\n%s%s", out.Code, err, out.Stdout, out.Stderr)
		}
		if v.Slice != n+1 || v.Slices != 4 || (v.AllSince != nil) != (n == 3) || v.ReadBytes > v.PackBytes {
			t.Errorf("run %d: %+v", n, v)
		}
		sum, files = sum+v.ReadBytes, files+v.WALFiles
		if n == 3 && (sum != v.PackBytes || files < len(wal)) {
			t.Errorf("four slices read %d bytes of %d, and %d files of WAL of %d", sum, v.PackBytes, files, len(wal))
		}
	}
	if found == 4 {
		t.Error("the damaged segment was found in no slice")
	}
	w.unchanged("a repair of WAL", func() {
		found := w.verifyJSON(9, "--repair")
		if d := found["damage"]; len(d) != 1 || d[0].Object != segment || d[0].Breaks["timeline"] != 1.0 {
			t.Errorf("%+v", d)
		}
	})
	w.fails(9, []string{segment, "no recovery on timeline 1 comes across"}, "verify", "--read-data")
	put()
	if v := w.verifyJSON(0, "--read-data")["verify"][0]; v.Slices != 1 || v.ReadBytes != v.PackBytes || v.AllSince == nil {
		t.Errorf("%+v", v)
	}
	w.tells([]string{"verify", "--read-data=50%"}, "slice 1 of 2 was read", "everything was read since")
}
