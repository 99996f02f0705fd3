package main

import (
	"slices"
	"testing"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/snapshot"
)

func TestThePruneKnowsWhichWALASnapshotNeeds(t *testing.T) {
	commit := func(w snapshot.Window) repo.Commit {
		m := snapshot.Manifest{
			Version: snapshot.Version, ID: "one", Cluster: "main", BackupLabel: []byte("x"), Root: snapshot.Root{Chunks: []chunk.ID{{1}}},
			Server: snapshot.Server{SystemID: 7, BlockSize: 8192, WALSegmentSize: 16 << 20}, Window: w,
		}
		text, err := m.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		return repo.Commit{ID: "one", Cluster: "main", Manifest: text}
	}
	for name, c := range map[string]struct {
		w    snapshot.Window
		want []string
	}{
		"one segment":             {snapshot.Window{Timeline: 1, StopTimeline: 1, StartLSN: 0x2000028, StopLSN: 0x2000138}, []string{"wal/main/7/00000001/000000010000000000000002"}},
		"to the end of a segment": {snapshot.Window{Timeline: 1, StopTimeline: 1, StartLSN: 0x2000028, StopLSN: 0x3000000}, []string{"wal/main/7/00000001/000000010000000000000002"}},
		"into the next":           {snapshot.Window{Timeline: 1, StopTimeline: 1, StartLSN: 0x2000028, StopLSN: 0x3000001}, []string{"wal/main/7/00000001/000000010000000000000002", "wal/main/7/00000001/000000010000000000000003"}},
		"of a standby that follows": {snapshot.Window{Timeline: 2, StopTimeline: 3, StartLSN: 0x2000028, StopLSN: 0x2000138}, []string{
			"wal/main/7/00000002.history", "wal/main/7/00000002/000000020000000000000002", "wal/main/7/00000003.history", "wal/main/7/00000003/000000030000000000000002"}},
		"nothing known": {snapshot.Window{}, nil},
	} {
		if got := walOfCommit(commit(c.w)); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	endless := snapshot.Window{Timeline: 1, StopTimeline: 1<<32 - 1, StartLSN: 0, StopLSN: 1<<64 - 1}
	if n := len(walOfCommit(commit(endless))); n > maxWALOfCommit+1 {
		t.Errorf("%d objects", n)
	}
	if got := walOfCommit(repo.Commit{ID: "one", Cluster: "main", Manifest: []byte("{")}); got != nil {
		t.Errorf("of no manifest: %q", got)
	}
}
