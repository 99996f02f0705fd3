package index_test

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// damages are what can become of a file.
var damages = map[string]func(b []byte, r *rand.Rand) []byte{
	"truncated":  func(b []byte, r *rand.Rand) []byte { return b[:r.IntN(len(b)+1)] },
	"zeroed":     func(b []byte, _ *rand.Rand) []byte { return make([]byte, len(b)) },
	"lengthened": func(b []byte, r *rand.Rand) []byte { return append(b, bytes.Repeat([]byte{0xa5}, 1+r.IntN(5000))...) },
	"bits flipped": func(b []byte, r *rand.Rand) []byte {
		for range min(len(b), 1+r.IntN(8)) {
			b[r.IntN(len(b))] ^= 1 << r.IntN(8)
		}
		return b
	},
	"removed": nil,
}

// A backup that finds a damaged cache must neither fail nor take a wrong answer from it.
func TestADamagedCacheHealsItself(t *testing.T) {
	source := closedCache(t)
	files, err := filepath.Glob(filepath.Join(source, "db", "*"))
	if err != nil || len(files) < 4 {
		t.Fatalf("%q, %v", files, err)
	}
	r := rand.New(rand.NewPCG(1, 2))
	for _, file := range append(files, filepath.Join(source, "lock")) {
		name, err := filepath.Rel(source, file)
		if err != nil {
			t.Fatal(err)
		}
		for what, damage := range damages {
			dir := filepath.Join(t.TempDir(), "cache")
			if err := os.CopyFS(dir, os.DirFS(source)); err != nil {
				t.Fatal(err)
			}
			spoil(t, filepath.Join(dir, name), damage, r)
			// In a process of its own, since the database kills it on some damage.
			cmd, out := childCommand(childUse, dir)
			if err := cmd.Run(); err != nil || out.Len() > 0 {
				t.Errorf("%s %s: %v: %.600s", name, what, err, out)
			}
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// The database kills the process that opens some damaged files. When that happens all the same (nothing vouches for what a
// killed process left), then once.
func TestACacheThatKillsItsProcessDoesSoOnce(t *testing.T) {
	dir := killedCache(t)
	tables, err := filepath.Glob(filepath.Join(dir, "db", "*.sst"))
	if err != nil || len(tables) == 0 {
		t.Fatalf("%q, %v", tables, err)
	}
	spoil(t, tables[0], damages["zeroed"], nil)
	cmd, out := childCommand(childUse, dir)
	if err := cmd.Run(); err == nil {
		t.Error("the first process survived: this test has lost its subject")
	}
	cmd, out = childCommand(childUse, dir)
	if err := cmd.Run(); err != nil {
		t.Errorf("the second one: %v: %.600s", err, out)
	}
}

func spoil(t *testing.T, path string, damage func([]byte, *rand.Rand) []byte, r *rand.Rand) {
	t.Helper()
	if damage == nil {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		return
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, damage(b, r), 0o600); err != nil {
		t.Fatal(err)
	}
}

// closedCache makes a cache that was closed in good order.
func closedCache(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "closed")
	c := open(t, dir)
	for i := range 2 {
		if err := fill(c, i, 5); err != nil {
			t.Fatal(err)
		}
	}
	closeCache(t, c)
	return dir
}

// killedCache makes one whose process was killed: part of it is in the database's log only.
func killedCache(t *testing.T) string {
	t.Helper()
	dir := closedCache(t)
	c := open(t, dir)
	for i := range 3 {
		if err := fill(c, 2+i, 5); err != nil {
			t.Fatal(err)
		}
	}
	copied := filepath.Join(t.TempDir(), "killed")
	if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	closeCache(t, c)
	return copied
}
