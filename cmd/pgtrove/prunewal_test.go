package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/pgsource"
	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/snapshot"
	"github.com/pgtrove/pgtrove/walarchive"
)

func TestThePruneReportSaysWhichWALGoes(t *testing.T) {
	const dir = "wal/main/7300000000000000001/00000002/"
	row := func(first, last string, files int) repo.WALRange {
		return repo.WALRange{KeyRange: repo.KeyRange{First: dir + first, Last: dir + last}, Amount: repo.Amount{Packs: files, Bytes: int64(files) << 20}}
	}
	r := &repo.PruneReport{
		WALStored: repo.Amount{Packs: 30, Bytes: 30 << 20}, WALSwept: []repo.WALRange{row("000000020000000000000001", "000000020000000000000009.partial", 10)},
		WALCondemned: []repo.WALRange{row("00000002000000000000000B", "00000002000000000000000B", 1)},
	}
	text := pruneText(r, time.Second)
	for _, want := range []string{
		"  deleted: 10 WAL files of 10.0 MiB\n    cluster main, timeline 2: 000000020000000000000001 to 000000020000000000000009.partial\n",
		"  the next run deletes: 1 WAL file of 1.0 MiB\n    cluster main, timeline 2: 00000002000000000000000B\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("it does not say %q:\n%s", want, text)
		}
	}
	got, err := json.Marshal(pruneResult(r, nil).WAL)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"stored":{"files":30,"bytes":31457280},"deleted":{"files":10,"bytes":10485760},"condemned":{"files":1,"bytes":1048576},"rows":[` +
		`{"cluster":"main","system_id":"7300000000000000001","timeline":2,"first":"000000020000000000000001","last":"000000020000000000000009.partial","files":10,"bytes":10485760,"deleted":true},` +
		`{"cluster":"main","system_id":"7300000000000000001","timeline":2,"first":"00000002000000000000000B","last":"00000002000000000000000B","files":1,"bytes":1048576,"deleted":false}]}`
	if string(got) != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
	for range shownRows {
		r.WALCondemned = append(r.WALCondemned, r.WALCondemned[0])
	}
	if text := pruneText(r, time.Second); !strings.Contains(text, "    and 1 more row\n") || strings.Count(text, "timeline 2: 00000002000000000000000B\n") != shownRows {
		t.Errorf("of many rows it says\n%s", text)
	}
	if text := pruneText(&repo.PruneReport{}, time.Second); strings.Contains(text, "WAL") {
		t.Errorf("of none it says\n%s", text)
	}
}

// commitOf is a snapshot of system 7 from segment 4 on, with segments of 1 MB, which stopped in segment 5.
func commitOf(t *testing.T) repo.Commit {
	t.Helper()
	m := snapshot.Manifest{
		Version: snapshot.Version, ID: "one", Cluster: "main", BackupLabel: []byte("x"), Root: snapshot.Root{Chunks: []chunk.ID{{1}}},
		Server: snapshot.Server{SystemID: 7, BlockSize: 8192, WALSegmentSize: pg.MinSegmentSize},
		Window: snapshot.Window{Timeline: 1, StopTimeline: 1, StartLSN: 4<<20 + 40, StopLSN: 5<<20 + 80},
	}
	text, err := m.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return repo.Commit{ID: m.ID, Cluster: m.Cluster, Manifest: text}
}

func TestWhichWALSnapshotsNeedIsReadFromTheirManifests(t *testing.T) {
	const dir = "wal/main/7/00000001/00000001000000000000000"
	commit, narrow, damaged, elsewhere := commitOf(t), commitOf(t), commitOf(t), commitOf(t)
	narrow.Narrowed, damaged.Err, elsewhere.ID = true, repo.ErrDamaged, "two"
	for name, c := range map[string]struct {
		staying, leaving []repo.Commit
		want             []repo.WALUse // of segments 3, 5 and 6
	}{
		"stays":                         {staying: []repo.Commit{commit}, want: []repo.WALUse{repo.WALUnneeded, repo.WALNeeded, repo.WALNeeded}},
		"stays, narrow":                 {staying: []repo.Commit{narrow}, want: []repo.WALUse{repo.WALUnneeded, repo.WALNeeded, repo.WALUnneeded}},
		"leaves":                        {leaving: []repo.Commit{commit}, want: []repo.WALUse{repo.WALUnneeded, repo.WALParting, repo.WALParting}},
		"leaves, narrow":                {leaving: []repo.Commit{narrow}, want: []repo.WALUse{repo.WALUnneeded, repo.WALParting, repo.WALUnneeded}},
		"leaves, damaged":               {staying: []repo.Commit{narrow}, leaving: []repo.Commit{damaged}, want: []repo.WALUse{repo.WALNeeded, repo.WALNeeded, repo.WALNeeded}},
		"leaves, in another's place":    {staying: []repo.Commit{narrow}, leaving: []repo.Commit{elsewhere}, want: []repo.WALUse{repo.WALNeeded, repo.WALNeeded, repo.WALNeeded}},
		"none":                          {want: []repo.WALUse{repo.WALUnclaimed, repo.WALUnclaimed, repo.WALUnclaimed}},
		"narrow and not, one behind it": {staying: []repo.Commit{narrow, commit}, want: []repo.WALUse{repo.WALUnneeded, repo.WALNeeded, repo.WALNeeded}},
	} {
		p := &pruneRun{app: newApp(), repo: newMemRepo(t)}
		judge, err := p.walNeed(t.Context(), c.staying, c.leaving)
		if err != nil {
			t.Fatal(err)
		}
		for i, n := range []string{"3", "5", "6"} {
			if got, _, err := judge(t.Context(), dir+n); err != nil || got != c.want[i] {
				t.Errorf("%s: segment %s: %v %v, want %v", name, n, got, err, c.want[i])
			}
		}
	}
}

// condemned is a repository with segments 1 to 3 of system 7, of which a prune has condemned the first two.
func condemned(t *testing.T) *repo.Repo {
	t.Helper()
	r := newMemRepo(t)
	archive := archiveKey{"main", 7}.in(r)
	for _, file := range []string{"000000010000000000000001", "000000010000000000000002", "000000010000000000000003"} {
		if _, err := archive.Push(t.Context(), file, make([]byte, pg.MinSegmentSize), walarchive.Facts{SegmentSize: pg.MinSegmentSize}); err != nil {
			t.Fatal(err)
		}
	}
	o := repo.PruneOptions{Now: time.Now, MaxDelete: 1, Mark: func(context.Context, *repo.View, []repo.Commit, func(chunk.ID)) error { return nil }}
	o.WAL = func(context.Context, []repo.Commit, []repo.Commit) (repo.WALJudge, error) {
		return func(_ context.Context, key string) (repo.WALUse, bool, error) {
			if strings.HasSuffix(key, "3") {
				return repo.WALNeeded, true, nil
			}
			return repo.WALUnneeded, true, nil
		}, nil
	}
	if report, err := r.Prune(t.Context(), o); err != nil || repo.WALAmount(report.WALCondemned).Packs != 2 {
		t.Fatalf("%+v %v", report, err)
	}
	return r
}

func TestABackupIsRefusedWhoseWALAPruneIsAboutToRemove(t *testing.T) {
	r := condemned(t)
	archive := archiveKey{"main", 7}.in(r)
	write(t, r, 1, 7, func(_ context.Context, s *repo.Session) {
		err := mustKeepWAL(s, archive, &pgsource.Backup{Timeline: 1, StartLSN: 2<<20 + 40}, pg.MinSegmentSize)
		if err == nil || classify(err).code != codeRefused || !strings.Contains(err.Error(), "000000010000000000000002") || !strings.Contains((&app{}).hint(err), "CHECKPOINT on the standby") {
			t.Errorf("%v", err)
		}
		for _, start := range []pg.LSN{3<<20 + 40, 4<<20 + 40} {
			if err := mustKeepWAL(s, archive, &pgsource.Backup{Timeline: 1, StartLSN: start}, pg.MinSegmentSize); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestABackupDoesNotFindWALThatAPruneIsAboutToRemove(t *testing.T) {
	r := condemned(t)
	write(t, r, 1, 7, func(ctx context.Context, s *repo.Session) {
		a := walarchive.Archive{Objects: stayingWAL{walObjects{r}, s.LosesWAL}, Cluster: "main", System: 7}
		var missing *walarchive.IncompleteError
		err := a.WaitComplete(ctx, pg.MinSegmentSize, 2<<20+40, 3<<20+80, 1, walarchive.Wait{})
		if !errors.As(err, &missing) || missing.Names(9)[0] != "000000010000000000000002" || missing.Count() != 1 {
			t.Errorf("%v", err)
		}
		if err := a.WaitComplete(ctx, pg.MinSegmentSize, 3<<20+40, 3<<20+80, 1, walarchive.Wait{}); err != nil {
			t.Error(err)
		}
		for file, want := range map[string]error{"000000010000000000000002": walarchive.ErrNotExist, "000000010000000000000003": nil} {
			if _, err := a.Header(ctx, file); !errors.Is(err, want) {
				t.Errorf("%s: %v", file, err)
			}
			if _, content, err := a.Fetch(ctx, file); !errors.Is(err, want) || err == nil && !bytes.Equal(content, make([]byte, pg.MinSegmentSize)) {
				t.Errorf("%s: %v", file, err)
			}
		}
	})
}
