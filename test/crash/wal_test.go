package crash

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/snapshot"
	"github.com/pgtrove/pgtrove/walarchive"
)

// segmentSize of the world's cluster.
const segmentSize = pg.MinSegmentSize

// systemID is what the world's pg_control says.
func systemID(t testing.TB) pg.SystemID {
	t.Helper()
	text, err := os.ReadFile("../../internal/pg/testdata/control-15.bin")
	must(t, err)
	control, err := pg.ParseControl(text)
	must(t, err)
	return control.SystemID
}

func (w *world) wal(t testing.TB) walarchive.Archive {
	t.Helper()
	return walarchive.Archive{Objects: archive{w.open(t, w.store)}, Cluster: cluster, System: systemID(t)}
}

// archives pushes the next segments of a timeline.
func (w *world) archives(t testing.TB, tli pg.Timeline, first, last uint64) {
	t.Helper()
	a := w.wal(t)
	for n := first; n <= last; n++ {
		_, err := a.Push(t.Context(), pg.Segment{Timeline: tli, Number: n}.Name(segmentSize), make([]byte, segmentSize), walarchive.Facts{SegmentSize: segmentSize})
		must(t, err)
	}
	if tli == 1 {
		w.archived = last
	}
}

// forks pushes the history of a timeline that leaves the first in the middle of a segment, and some of its WAL.
func (w *world) forks(t testing.TB, tli pg.Timeline, at uint64) {
	t.Helper()
	text := fmt.Sprintf("1\t%s\tforked\n", pg.LSN(at*uint64(segmentSize)+5000))
	_, err := w.wal(t).Push(t.Context(), tli.HistoryName(), []byte(text), walarchive.Facts{})
	must(t, err)
	w.archives(t, tli, at, at+1)
}

// window of a snapshot that begins and ends in the segment behind the last that is archived.
func (w *world) window() snapshot.Window {
	at := pg.LSN((w.archived + 1) * uint64(segmentSize))
	return snapshot.Window{Timeline: 1, StopTimeline: 1, StartLSN: at + 40, StopLSN: at + 9000, StartTime: w.now.Now(), StopTime: w.now.Now()}
}

// walSnapshot is what a manifest says of WAL.
func walSnapshot(m *snapshot.Manifest) walarchive.Snapshot {
	return walarchive.Snapshot{ID: m.ID, Timeline: m.Window.Timeline, StopTimeline: m.Window.StopTimeline, StartLSN: m.Window.StartLSN, StopLSN: m.Window.StopLSN}
}

// walNeed is the WALNeed of a repository.
func walNeed(r *repo.Repo) repo.WALNeed {
	return func(_ context.Context, staying, leaving []repo.Commit) (repo.WALJudge, error) {
		j := walarchive.NewJudge(archive{r})
		for i, commits := range [][]repo.Commit{staying, leaving} {
			for _, c := range commits {
				m, err := snapshot.ParseManifest(c.Manifest)
				if err != nil {
					return nil, err
				}
				s := walSnapshot(m)
				s.Narrow = c.Narrowed
				j.Add(m.Cluster, m.Server.SystemID, m.Server.WALSegmentSize, s, i == 0)
			}
		}
		return func(ctx context.Context, key string) (repo.WALUse, bool, error) {
			use, follows, err := j.Use(ctx, key)
			return map[walarchive.Use]repo.WALUse{
				walarchive.Parting: repo.WALParting, walarchive.Unneeded: repo.WALUnneeded, walarchive.Unclaimed: repo.WALUnclaimed,
			}[use], follows, err
		}, nil
	}
}

// hasWAL makes sure that all WAL is there which recovery from the snapshots asks for: of one that somebody asked to narrow, up to its stop, of any
// other all that was archived.
func (w *world) hasWAL(t *testing.T, what string, all []*snapshot.Manifest) {
	t.Helper()
	c, err := w.wal(t).Scan(t.Context(), segmentSize)
	must(t, err)
	if _, known := c.History(2); !known {
		t.Errorf("%s: the history of timeline 2 is gone", what)
	}
	for _, m := range all {
		s := walSnapshot(m)
		first, last := uint64(s.StartLSN)/uint64(segmentSize), w.archived
		if w.narrow[m.ID] {
			last = min(last, first)
		}
		for n := first; n <= last; n++ {
			if seg := (pg.Segment{Timeline: 1, Number: n}); !c.Has(seg) {
				t.Errorf("%s: WAL segment %s is gone, which snapshot %s needs", what, seg.Name(segmentSize), m.ID)
			}
		}
	}
}

// narrowing asks to keep no WAL behind a snapshot.
func narrowing(sid string) operation {
	narrowed := func(t *testing.T, w *world) bool {
		return !w.any(t, func(c repo.Commit) bool { return c.ID == sid && !c.Narrowed })
	}
	return operation{
		name: "narrow",
		do: func(ctx context.Context, w *world, r *repo.Repo) error {
			w.narrow[sid] = true
			return r.Narrow(ctx, sid)
		},
		told: func(t *testing.T, w *world, what string, err error) {
			if err == nil && !narrowed(t, w) {
				t.Errorf("%s: success was told, and the snapshot is not narrow", what)
			}
		},
		done: narrowed,
	}
}
