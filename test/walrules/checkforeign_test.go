package walrules

import (
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/pgtrove/pgtrove/test/pgtest"
)

// TestCheckIsNotContentWithAnotherServersSegment: of the name that the server's own has. An older state of a server runs, and archives nowhere.
func TestCheckIsNotContentWithAnotherServersSegment(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	s := a.server("15", pgtest.Options{})
	s.WaitArchived(t, s.SwitchWAL(t))
	s.Stop(t, pgtest.Fast)
	old := filepath.Join(a.dir, "old")
	pgtest.MustRun(t, exec.Command("cp", "-a", s.Dir, old))
	pgtest.Own(t, old)
	s.Start(t)
	for range 6 {
		s.Exec(t, "SELECT pg_logical_emit_message(false, 'x', 'y')")
		s.WaitArchived(t, s.SwitchWAL(t))
	}
	s.Stop(t, pgtest.Fast)
	setBack := pgtest.Adopt(t, s.Version, old)
	setBack.ExtraEnv = a.env()
	setBack.Configure(t, map[string]string{"archive_command": "true"})
	setBack.Start(t)
	setBack.Exec(t, "CREATE TABLE other AS SELECT generate_series(1, 1000)")
	all := check(t, setBack, "archiving")
	if len(all) != 1 || !all[0].says("problem", "other content under the name of segment") {
		t.Errorf("%+v", all)
	}
	setBack.Stop(t, pgtest.Fast)
}
