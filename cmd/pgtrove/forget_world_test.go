package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/keys"
	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/restore"
	"github.com/pgtrove/pgtrove/snapshot"
	"github.com/pgtrove/pgtrove/storage"
	"github.com/pgtrove/pgtrove/storage/mem"
	"github.com/pgtrove/pgtrove/walarchive"
)

// retainer is a repository in memory whose clock is set, with a snapshot and a segment of WAL for each day.
type retainer struct {
	*app
	t        *testing.T
	store    *mem.Store
	identity age.Identity
	now      time.Time
	place    string            // of the repository
	walState snapshot.WALState // that the next snapshots have
	timeline pg.Timeline       // that the next snapshots are taken on
	stdout   bytes.Buffer
	stderr   bytes.Buffer
}

func newRetainer(t *testing.T) *retainer {
	t.Helper()
	text, recipient, err := keys.GenerateIdentity()
	if err != nil {
		t.Fatal(err)
	}
	ids, err := keys.ParseIdentityFile(text)
	if err != nil {
		t.Fatal(err)
	}
	w := &retainer{t: t, identity: ids.Identities[0], now: morning(0), walState: snapshot.WALComplete, timeline: 1}
	w.app = &app{env: environmentOf(nil), out: &output{stdout: &w.stdout, stderr: &w.stderr}, unattended: true}
	w.settings.CacheDir = filepath.Join(t.TempDir(), "cache")
	w.store = mem.New(func() time.Time { return w.now })
	if _, err := repo.Init(t.Context(), w.store, recipient, w.now); err != nil {
		t.Fatal(err)
	}
	return w
}

// morning is 2:15 of a day in the past; day 0 is a Sunday.
func morning(day int) time.Time { return time.Date(2026, 3, 1+day, 2, 15, 0, 0, time.UTC) }

func (w *retainer) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *retainer) open(s storage.Store) *repo.Repo {
	w.t.Helper()
	r, err := repo.Open(w.t.Context(), s, w.identity)
	w.must(err)
	return r
}

const (
	testSegment = pg.MinSegmentSize
	testSystem  = pg.SystemID(7)
)

// wal archives the segment of a day, in which the last commit is of the evening.
func (w *retainer) wal(cluster string, day int) {
	w.t.Helper()
	n := pg.Segment{Timeline: 1, Number: uint64(day + 1)}
	evening := morning(day).Add(18 * time.Hour)
	w.now = evening
	_, err := archiveKey{cluster, testSystem}.in(w.open(w.store)).Push(w.t.Context(), n.Name(testSegment), make([]byte, testSegment),
		walarchive.Facts{SegmentSize: testSegment, FirstCommit: evening, LastCommit: evening, End: n.End(testSegment)})
	w.must(err)
}

// take commits a snapshot on the morning of a day, which needs that day's segment. Half of what it holds it shares with the others.
func (w *retainer) take(cluster string, day int) string {
	w.t.Helper()
	w.now = morning(day)
	r, sid := w.open(w.store), ""
	segment := pg.LSN(day+1) * pg.LSN(testSegment)
	shared, own := bytes.Repeat([]byte("shared"), 1<<14), make([]byte, 1<<16)
	_, _ = rand.Read(own)
	w.must(r.Write(w.t.Context(), repo.SessionOptions{Cluster: cluster, Host: "db1", Now: func() time.Time { return w.now }}, func(ctx context.Context, s *repo.Session) error {
		sid = s.ID()
		var sources []snapshot.Source
		sources = append(sources, snapshot.Source{Entry: snapshot.Entry{Path: "data", Type: snapshot.Dir, Mode: 0o700}})
		for name, b := range map[string][]byte{"data/shared": shared, "data/own": own} {
			sources = append(sources, snapshot.Source{Entry: snapshot.Entry{Path: name, Type: snapshot.File, Mode: 0o600, Size: int64(len(b))},
				Open: func() (snapshot.Content, error) { return held{bytes.NewReader(b)}, nil }})
		}
		res, err := snapshot.Take(ctx, sources, snapshot.Options{Jobs: 1, Key: r.IDKey(), NewWriter: func() (snapshot.Writer, error) { return s.NewWriter() }, Notes: s})
		if err != nil {
			return err
		}
		m := &snapshot.Manifest{
			Version: snapshot.Version, ID: sid, Cluster: cluster,
			Server: snapshot.Server{SystemID: testSystem, Version: 150018, BlockSize: 8192, WALSegmentSize: testSegment},
			Window: snapshot.Window{Timeline: w.timeline, StopTimeline: w.timeline, StartLSN: segment + 40, StopLSN: segment + 4096, StartTime: w.now.Add(-time.Minute), StopTime: w.now},
			Totals: snapshot.Totals{Size: res.Size, Files: res.Files}, BackupLabel: []byte("START WAL LOCATION\n"), Root: res.Root, WAL: w.walState,
		}
		text, err := m.Marshal()
		if err != nil {
			return err
		}
		return s.Commit(ctx, text)
	}))
	return sid
}

type held struct{ *bytes.Reader }

func (held) Close() error           { return nil }
func (h held) Size() (int64, error) { return h.Reader.Size(), nil }

// days takes snapshots of a cluster and archives its WAL, and returns the IDs by the day.
func (w *retainer) days(cluster string, from, to int) map[int]string {
	w.t.Helper()
	ids := map[int]string{}
	for d := from; d <= to; d++ {
		ids[d] = w.take(cluster, d)
		w.wal(cluster, d)
	}
	return ids
}

// forgetting runs the command's policy on a store and returns what it printed.
func (w *retainer) forgetting(s storage.Store, now time.Time, o forgetOptions) (out string, damage, err error) {
	w.t.Helper()
	w.stdout.Reset()
	w.stderr.Reset()
	damage, err = w.forgetByPolicy(w.t.Context(), w.open(s), now, o)
	return w.stdout.String(), damage, err
}

// forgets is forgetting in which nothing goes wrong.
func (w *retainer) forgets(now time.Time, o forgetOptions) string {
	w.t.Helper()
	out, damage, err := w.forgetting(w.store, now, o)
	w.must(err)
	w.must(damage)
	return out
}

// copyOf copies objects, with their own times or with that of the copy.
func (w *retainer) copyOf(from *mem.Store, at time.Time) *mem.Store {
	w.t.Helper()
	var now time.Time
	to := mem.New(func() time.Time { return now })
	w.must(from.List(w.t.Context(), "", func(i storage.Info) error {
		if now = at; at.IsZero() {
			now = i.ModTime
		}
		b, err := from.Get(w.t.Context(), i.Key, storage.Range{}, nil)
		if err != nil {
			return err
		}
		return to.Put(w.t.Context(), i.Key, b)
	}))
	return to
}

func (w *retainer) list(prefix string) (keys []string) {
	w.t.Helper()
	w.must(w.store.List(w.t.Context(), prefix, func(i storage.Info) error { keys = append(keys, i.Key); return nil }))
	return keys
}

// prunes runs prunes on days from day on.
func (w *retainer) prunes(day, n int) {
	w.t.Helper()
	for i := range n {
		w.now = morning(day + i)
		r := w.open(w.store)
		p := &pruneRun{app: w.app, repo: r, o: defaultPruneOptions(), begun: w.now}
		p.o.maxDelete = 1
		o := p.options()
		o.Now = func() time.Time { return w.now }
		report, err := r.Prune(w.t.Context(), o)
		w.must(err)
		if len(report.Damage) > 0 {
			w.t.Fatalf("%v", report.Damage)
		}
	}
}

// sound makes sure that every snapshot that is shown restores, byte by byte, and has its WAL; and returns their IDs.
func (w *retainer) sound() (ids []string) {
	w.t.Helper()
	r := w.open(w.store)
	c, err := loadCatalog(w.t.Context(), r, "")
	w.must(err)
	v, err := r.OpenView(w.t.Context(), "", "main")
	w.must(err)
	defer func() { w.must(v.Close()) }()
	report, err := restore.Verify(w.t.Context(), v, r, restore.VerifyOptions{Snapshots: c.snapshots, ReadData: true, Jobs: 1, IsDamage: isDamage})
	if err != nil || len(report.Damage) > 0 {
		w.t.Errorf("verify: %v %v", err, report)
	}
	states, err := walStates(w.t.Context(), r, c.snapshots)
	w.must(err)
	for i, m := range c.snapshots {
		if states[i] != snapshot.WALComplete {
			w.t.Errorf("the WAL of %s is %s", m.ID, states[i])
		}
		ids = append(ids, m.ID)
	}
	slices.Sort(ids)
	return ids
}

// windows are those of info, as days.
func (w *retainer) windows() (all [][2]int) {
	w.t.Helper()
	r := w.open(w.store)
	c, err := loadCatalog(w.t.Context(), r, "")
	w.must(err)
	archives, err := findArchives(w.t.Context(), r, "", c.snapshots)
	w.must(err)
	for _, coverage := range archives {
		info, _, err := clusterInfo(w.t.Context(), archiveKey{coverage.Cluster, coverage.System}.in(r), coverage, c)
		w.must(err)
		for _, window := range info.Windows {
			all = append(all, [2]int{dayOf(window.FromTime), dayOf(window.ToTime)})
		}
	}
	return all
}

func dayOf(t jsonTime) int { return int(time.Time(t).Sub(morning(0)).Hours()) / 24 }

// plannedShown is what the tests read of a snapshot of a plan, and planShown of its sum.
type plannedShown struct {
	Type    string   `json:"type"`
	ID      string   `json:"id"`
	Cluster string   `json:"cluster"`
	Time    string   `json:"time"`
	Keep    bool     `json:"keep"`
	Reasons []string `json:"reasons"`
	Narrow  bool     `json:"narrow"`
	DryRun  bool     `json:"dry_run"`
}

type planShown struct {
	Type         string `json:"type"`
	DryRun       bool   `json:"dry_run"`
	Kept         int    `json:"kept"`
	Removed      int    `json:"removed"`
	Narrowed     int    `json:"narrowed"`
	BytesFree    *int64 `json:"bytes_free"`
	WALBytesFree *int64 `json:"wal_bytes_free"`
	SpaceUnknown string `json:"space_unknown"`
	Clusters     []struct {
		Cluster       string      `json:"cluster"`
		WindowsBefore []timeShown `json:"windows_before"`
		WindowsAfter  []timeShown `json:"windows_after"`
		Unreachable   []timeShown `json:"unreachable"`
	} `json:"clusters"`
}

type timeShown struct {
	From time.Time `json:"from_time"`
	To   time.Time `json:"to_time"`
}

func shownDays(windows []timeShown) (all [][2]int) {
	for _, w := range windows {
		all = append(all, [2]int{dayOf(jsonTime(w.From)), dayOf(jsonTime(w.To))})
	}
	return all
}

// planned reads the lines of a plan: the snapshots by ID, and the sum.
func planned(t *testing.T, out string) (rows map[string]plannedShown, sum planShown) {
	t.Helper()
	rows = map[string]plannedShown{}
	for line := range strings.Lines(out) {
		var row plannedShown
		if err := json.Unmarshal([]byte(line), &row); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if row.Type == "forget" {
			rows[row.ID] = row
		} else if err := json.Unmarshal([]byte(line), &sum); err != nil || sum.Type != "plan" {
			t.Fatalf("%v: %s", err, line)
		}
	}
	return rows, sum
}
