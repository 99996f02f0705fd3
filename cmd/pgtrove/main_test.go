package main

import (
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"pgtrove": main})
}

// TestScripts runs the transcripts in testdata, one per theme. Nothing in the surroundings of the test shows in them.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(e *testscript.Env) error {
			e.Setenv("HOME", e.WorkDir+"/home")
			for _, name := range []string{"XDG_CONFIG_HOME", "XDG_CACHE_HOME", "PGHOST", "PGPORT", "PGUSER", "PGDATABASE", "PGDATA", "PGPASSWORD", "PGSERVICE"} {
				e.Setenv(name, "")
			}
			return os.Mkdir(e.WorkDir+"/home", 0o700)
		},
	})
}
