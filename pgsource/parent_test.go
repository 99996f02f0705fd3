package pgsource_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/pgsource"
	"github.com/pgtrove/pgtrove/snapshot"
	"github.com/pgtrove/pgtrove/test/pgtest"
)

const testRepository = "0123456789abcdef"

// parentCopy is a snapshot that was taken, with the files of relations as they were read.
type parentCopy struct {
	manifest *snapshot.Manifest
	files    map[string][]byte // by path
}

func manifestOf(id string, c *pgsource.Cluster, b *pgsource.Backup, s *pgsource.StopInfo) *snapshot.Manifest {
	return &snapshot.Manifest{
		Version: snapshot.Version, ID: id, Cluster: "main", Server: c.Server(), BackupLabel: s.BackupLabel,
		Window: snapshot.Window{Timeline: s.Timeline, StopTimeline: s.StopTimeline, StartLSN: s.StartLSN, StopLSN: s.StopLSN,
			StartTime: b.StartTime, StopTime: s.StopTime},
	}
}

// takeManifest takes a backup and nothing of its files.
func takeManifest(t *testing.T, s *pgtest.Server, id string) *snapshot.Manifest {
	t.Helper()
	c := connect(t, s)
	b := start(t, c)
	m := manifestOf(id, c, b, stop(t, b))
	closeNow(t, c)
	return m
}

func closeNow(t *testing.T, c *pgsource.Cluster) {
	t.Helper()
	if err := c.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

func takeParent(t *testing.T, s *pgtest.Server, id string) *parentCopy {
	t.Helper()
	return takeParentWhile(t, s, id, func() {})
}

// takeParentWhile runs something after the files were read and before the backup stops.
func takeParentWhile(t *testing.T, s *pgtest.Server, id string, run func()) *parentCopy {
	t.Helper()
	c := connect(t, s)
	defer closeNow(t, c)
	b := start(t, c)
	p := &parentCopy{files: make(map[string][]byte)}
	for _, src := range sources(t, b, nil) {
		if src.Form != 0 {
			p.files[src.Path] = contentOf(t, src)
		}
	}
	run()
	p.manifest = manifestOf(id, c, b, stop(t, b))
	return p
}

func sources(t *testing.T, b *pgsource.Backup, changes *pgsource.Changes) []snapshot.Source {
	t.Helper()
	files, err := b.Files(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return b.Sources(t.Context(), files, b.Verifier(), changes)
}

func contentOf(t *testing.T, src snapshot.Source) []byte {
	t.Helper()
	content, err := src.Open()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	defer content.Close()
	size, err := content.Size()
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(io.NewSectionReader(content, 0, size))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// comparison is what a backup found against a parent: pages of relation files by path, those behind the parent's end left out.
type comparison struct {
	differ map[string][]int64 // pages that differ, of all forks
	named  map[string][]int64 // pages that the summaries' set has, of the forks that it covers
	missed map[string][]int64 // pages that differ, of files with a set that does not have them
	start  pg.LSN             // of the backup that compared
}

// compare takes a backup and makes sure that every page which differs from the parent's copy is in the set of its file, or that
// the file has none. Except are files whose pages may differ unnamed.
func (p *parentCopy) compare(t *testing.T, s *pgtest.Server, except ...string) *comparison {
	t.Helper()
	c := connect(t, s)
	defer closeNow(t, c)
	b := start(t, c)
	changes, err := b.Changes(t.Context(), p.manifest)
	if err != nil {
		t.Fatal(err)
	}
	found := &comparison{differ: make(map[string][]int64), named: make(map[string][]int64), missed: make(map[string][]int64), start: b.StartLSN}
	for _, src := range sources(t, b, changes) {
		if src.Form != 0 {
			p.compareFile(t, src, found)
		}
	}
	stop(t, b)
	for path, pages := range found.missed {
		if !slices.Contains(except, path) {
			t.Errorf("%s: pages %v differ and are not named", path, pages)
		}
	}
	return found
}

func (p *parentCopy) compareFile(t *testing.T, src snapshot.Source, found *comparison) {
	t.Helper()
	name := filepath.Base(src.Path)
	isMap := strings.HasSuffix(name, "_fsm") || strings.HasSuffix(name, "_vm")
	if isMap != (src.Changed == nil) {
		t.Errorf("%s: set is %v", src.Path, src.Changed)
	}
	size := 1 << src.Form
	old, now := p.files[src.Path], contentOf(t, src)
	for i := 0; (i+1)*size <= min(len(old), len(now)); i++ {
		page := int64(i)
		differs := !bytes.Equal(old[i*size:(i+1)*size], now[i*size:(i+1)*size])
		if differs {
			found.differ[src.Path] = append(found.differ[src.Path], page)
		}
		if src.Changed == nil {
			continue
		}
		if src.Changed.Has(page) {
			found.named[src.Path] = append(found.named[src.Path], page)
		} else if differs {
			found.missed[src.Path] = append(found.missed[src.Path], page)
		}
	}
}

// pathOf is where the listing has a relation of the database postgres.
func pathOf(t *testing.T, s *pgtest.Server, relation string) string {
	t.Helper()
	return pathIn(t, s, "postgres", relation)
}

func pathIn(t *testing.T, s *pgtest.Server, database, relation string) string {
	t.Helper()
	return snapshot.DataRoot + "/" + s.QueryIn(t, database, "SELECT pg_relation_filepath('"+relation+"')")
}
