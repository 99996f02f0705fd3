package ahead

import (
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/pgtrove/pgtrove/test/pgtest"
)

// TestRecoveryGoesOnWhereWhatFetchesAheadStandsStill: a process that was stopped, or a frozen cgroup, keeps its locks.
func TestRecoveryGoesOnWhereWhatFetchesAheadStandsStill(t *testing.T) {
	w, names := archivedBacklog(t, 4)
	dir := w.recovering()
	w.fetch(dir, names[0])
	file := w.spooled()[names[1]]
	if file == "" {
		t.Fatal("not spooled")
	}
	for _, path := range []string{file, file + ".seal"} {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	claim, err := os.Create(file + ".claim")
	if err != nil {
		t.Fatal(err)
	}
	defer claim.Close()
	pgtest.Own(t, file+".claim")
	if err := syscall.Flock(int(claim.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if said := w.fetch(dir, names[1]); strings.Contains(said, hereBefore) {
		t.Error(said)
	}
	if said := w.fetch(dir, names[2]); !strings.Contains(said, hereBefore) { // which nobody claims
		t.Error(said)
	}
}
