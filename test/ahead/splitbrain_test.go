package ahead

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/pgtrove/pgtrove/test/pgtest"
)

// TestNothingGetsAheadOfASegmentThatMayBeRefused: two servers have the first segment in common, as one that was set back or cloned has with the other.
func TestNothingGetsAheadOfASegmentThatMayBeRefused(t *testing.T) {
	w := newWorld(t, "15", waiting())
	names := w.backlog(6)
	in := func(n string) string { return filepath.Join(w.Dir, "pg_wal", n) }
	elsewhere := filepath.Join(w.dir, "elsewhere")
	if err := os.Mkdir(elsewhere, 0o755); err != nil {
		t.Fatal(err)
	}
	other := func(n string, content []byte) string {
		path := filepath.Join(elsewhere, n)
		overwrite(t, path, content)
		pgtest.Own(t, path)
		return path
	}
	differs := func(n string) []byte {
		b := bytes.Clone(read(t, in(n)))
		b[len(b)-9] ^= 1
		return b
	}
	w.ok("wal", "push", other(names[0], read(t, in(names[0]))))
	w.ok("wal", "push", other(names[1], read(t, in(names[1]))))
	w.ok("wal", "push", other(names[2], differs(names[2])))
	w.push(0, names[0])
	for _, n := range names[3:] {
		if w.stored(n) {
			t.Errorf("%s of the server that is refused is stored", n)
		}
	}
	w.push(5, names[2])
	w.ok("wal", "push", other(names[3], differs(names[3]))) // the other server goes on
}
