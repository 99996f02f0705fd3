package format

import (
	"bytes"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/pgtrove/pgtrove/test/pgtest"
)

// TestReaderReadsABackupOfARealCluster holds the page against what the program
// writes today: the reader and a restore come to the same bytes.
func TestReaderReadsABackupOfARealCluster(t *testing.T) {
	dir := pgtest.TempDir(t)
	repository, identity, restored := filepath.Join(dir, "repo"), filepath.Join(dir, "identity.txt"), filepath.Join(dir, "restored")
	s := pgtest.New(t, "15", pgtest.Options{WALSegMB: 1, Conf: map[string]string{
		"archive_mode": "on", "archive_command": pgtest.Binary(t) + " wal push %p",
	}})
	s.ExtraEnv = []string{"PGTROVE_REPO=" + repository, "PGTROVE_KEY_FILE=" + identity}
	pgtrove := func(args ...string) { pgtest.MustRun(t, s.Command("pgtrove", args...)) }
	pgtrove("init")
	s.Start(t)
	// TOAST, a relation of several chunks, pages that repeat, and a truncated file.
	s.Exec(t, `CREATE TABLE a AS SELECT n, repeat(md5(n::text), 20) AS t FROM generate_series(1, 5000) n;
		CREATE TABLE b AS SELECT n, (SELECT string_agg(md5((n * i)::text), '') FROM generate_series(1, 300) i) AS t FROM generate_series(1, 20) n;
		CREATE TABLE c AS SELECT 1 AS n FROM generate_series(1, 20000); TRUNCATE c;`)
	pgtrove("backup", "--checkpoint", "fast", "--tag", "of=format")
	s.Exec(t, "UPDATE a SET n = n + 1 WHERE n < 100; SELECT pg_create_restore_point('here')")
	s.WaitArchived(t, s.SwitchWAL(t))
	pgtrove("backup", "--checkpoint", "fast")
	pgtrove("restore", "--to", restored)
	pgtrove("verify", "--read-data")

	text, err := os.ReadFile(identity)
	if err != nil {
		t.Fatal(err)
	}
	ids, err := age.ParseIdentities(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	r, err := Open(os.DirFS(repository), ids...)
	if err != nil {
		t.Fatal(err)
	}
	found := goldenSnapshots(t, r)
	if len(found) != 2 || found[0].Tags["of"] != "format" || found[1].Server.SystemID != s.Query(t, "SELECT system_identifier FROM pg_control_system()") {
		t.Fatalf("%d snapshots", len(found))
	}
	entries, err := r.Listing(found[1])
	if err != nil {
		t.Fatal(err)
	}
	files, relations := 0, 0
	for _, e := range entries {
		below, inData := strings.CutPrefix(e.Path, "data/")
		if e.Type != typeFile || !inData {
			continue
		}
		content, err := r.File(e)
		if err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile(filepath.Join(restored, below))
		if err != nil {
			t.Fatal(err)
		}
		if below == "postgresql.auto.conf" { // to which restore adds
			want = want[:min(len(want), len(content))]
		}
		if !bytes.Equal(content, want) {
			t.Errorf("%s: %d bytes, restored %d others", e.Path, len(content), len(want))
		}
		if files++; strings.HasPrefix(r.recipeKinds(t, e.recipe), "inline relation") {
			relations++
		}
	}
	if int64(files) != found[1].Totals.Files || relations < 100 {
		t.Errorf("%d files, %d of them of relations, in %+v", files, relations, found[1].Totals)
	}
	checkLiveWAL(t, r, filepath.Join(dir, "fetched"), func(name, to string) { pgtrove("wal", "fetch", "--pgdata", s.Dir, name, to) })
	for _, name := range r.Names("packs/") {
		checkLivePack(t, r, name)
	}
}

func checkLiveWAL(t *testing.T, r *Repository, to string, fetch func(name, to string)) {
	t.Helper()
	points := 0
	names := r.Names("wal/")
	for _, name := range names {
		h, content, err := r.WAL(name)
		if err != nil {
			t.Error(err)
			continue
		}
		if points += len(h.Points); h.Kind != walSegment || len(h.Points) == 0 {
			continue
		}
		fetch(path.Base(name), to)
		if want, err := os.ReadFile(to); err != nil || !bytes.Equal(content, want) {
			t.Errorf("%s: other bytes than were fetched (%v)", name, err)
		}
	}
	// PostgreSQL archives a history file for each backup.
	if points == 0 || !slices.ContainsFunc(names, func(n string) bool { return strings.HasSuffix(n, ".backup") }) {
		t.Errorf("%d restore points in %q", points, names)
	}
}

func checkLivePack(t *testing.T, r *Repository, name string) {
	t.Helper()
	object, err := r.Object(name)
	if err != nil {
		t.Fatal(err)
	}
	p, err := r.Bundle.OpenPack(name, object)
	if err != nil {
		t.Fatal(err)
	}
	for i := range p.Chunks {
		if _, err := p.Chunk(i); err != nil {
			t.Error(err)
		}
	}
}
