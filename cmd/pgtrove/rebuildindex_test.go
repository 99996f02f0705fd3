package main

import (
	"strings"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/repo"
)

func TestADryRunOfRebuildIndexSaysWhatItWouldEnd(t *testing.T) {
	w := newRetainer(t)
	for dryRun, want := range map[bool]string{true: "  would be ended, because it is silent: the backup of cluster lost", false: "  ended, because it is silent: the backup of cluster lost"} {
		w.stdout.Reset()
		w.must(w.showRebuild(&repo.RebuildReport{Fenced: []repo.Unfinished{{ID: "s", Cluster: "lost"}}}, dryRun, time.Second))
		if got := w.stdout.String(); !strings.Contains(got, want) {
			t.Errorf("dry run %v: %s", dryRun, got)
		}
	}
}
