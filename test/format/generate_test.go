package format

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/keys"
	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/snapshot"
	"github.com/pgtrove/pgtrove/storage/fs"
	"github.com/pgtrove/pgtrove/walarchive"
)

// This file wrote testdata/repository, once. It is made of inputs rather than
// of a real cluster, which would be a hundred times as large, but every object
// comes from the packages that write real ones. Made anew, all secrets, IDs
// and places of cuts are others: golden files are replaced only when the
// format's version is.
var update = flag.Bool("update", false, "replace testdata/repository by a new one")

const (
	goldenCluster = "main"
	goldenSystem  = 7301234567890123456
	goldenForm    = 13
	pageSize      = 1 << goldenForm
)

func goldenTime(session int) time.Time {
	return time.Date(2026, 3, 4, 5, session, 7, 0, time.UTC)
}

type generator struct {
	t     *testing.T
	store *fs.Store
	repo  *repo.Repo
	owner *keys.Bundle
	want  Expected
}

func TestGoldenRepositoryIsReplacedOnlyWhenAsked(t *testing.T) {
	if !*update {
		return
	}
	g := &generator{t: t, want: Expected{WAL: map[string]ExpectedWAL{}}}
	g.init()
	g.first()
	g.second()
	g.abandoned()
	g.fenced()
	g.wal()
	text, err := json.Marshal(g.want)
	g.must(err)
	text = bytes.ReplaceAll(append(text, '\n'), []byte("},{"), []byte("},\n{"))
	g.must(os.WriteFile("testdata/repository.json", text, 0o644))
}

func (g *generator) must(err error) {
	g.t.Helper()
	if err != nil {
		g.t.Fatal(err)
	}
}

// init makes the repository, with two bundles that two identities open.
func (g *generator) init() {
	g.must(os.RemoveAll("testdata/repository"))
	recipients := map[string]age.Recipient{}
	for _, role := range []string{"owner", "writer"} {
		text, recipient, err := keys.GenerateIdentity()
		g.must(err)
		recipients[role] = recipient
		g.must(os.WriteFile("testdata/repository."+role+".identity", text, 0o644))
	}
	var err error
	g.store, err = fs.Create("testdata/repository")
	g.must(err)
	g.repo, g.owner = initBare(g.t, g.store, recipients["owner"], "repository.owner.identity")
	writer := *g.owner
	writer.Role, writer.DataKeys, writer.WALKeys = keys.Writer, withoutSecrets(g.owner.DataKeys), withoutSecrets(g.owner.WALKeys)
	wrapped, err := keys.Wrap(&writer, recipients["writer"])
	g.must(err)
	g.must(g.store.Put(g.t.Context(), "keys/00112233445566ff", wrapped))
}

func (g *generator) session(n int, fn func(ctx context.Context, s *repo.Session) error) error {
	o := repo.SessionOptions{Cluster: goldenCluster, Host: "db1.example", Now: func() time.Time { return goldenTime(n) }}
	return g.repo.Write(g.t.Context(), o, fn)
}

// pages are n pages that differ from each other and from those of other seeds.
func pages(seed uint32, n int) []byte {
	b := make([]byte, n*pageSize)
	for i := range n {
		p := b[i*pageSize:]
		binary.LittleEndian.PutUint32(p[4:], seed)
		binary.LittleEndian.PutUint32(p[16:], uint32(i))
		p[pageSize-1] = 1
	}
	return b
}

// text is n bytes, runs of one letter each: enough of a change for cuts, and
// little to store.
func text(n, run int) []byte {
	rnd := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, 0, n+run)
	for len(b) < n {
		b = append(b, bytes.Repeat([]byte{'a' + byte(rnd.IntN(26))}, run)...)
	}
	return b[:n]
}

func join(parts ...[]byte) []byte { return slices.Concat(parts...) }

// file is an input.
type file struct {
	entry   Entry
	form    chunk.Form
	content []byte
	recipe  string
}

func (f *file) source() snapshot.Source {
	e := f.entry
	s := snapshot.Source{
		Entry: snapshot.Entry{
			Path: e.Path, Type: snapshot.Type(e.Type), Mode: uint32(e.Mode), Size: int64(e.Size), Link: e.Target,
			Owner: snapshot.Owner{UID: uint32(e.UID), GID: uint32(e.GID), User: e.User, Group: e.Group},
			Stat:  snapshot.Stat{ModTime: e.Modified, ChangeTime: e.Changed, Device: e.Device, Inode: e.Inode},
		},
		Form: f.form,
		Last: strings.HasSuffix(e.Path, "pg_control"),
	}
	if e.Type == typeFile {
		s.Open = func() (snapshot.Content, error) { return opened{bytes.NewReader(f.content)}, nil }
	}
	if e.Path == "data/base/5/16384" {
		s.Check = func(_ context.Context, _ []byte, first int64) (snapshot.Checked, error) {
			if first > 0 {
				return snapshot.Checked{}, nil
			}
			return snapshot.Checked{Damaged: []snapshot.DamagedPage{{Path: e.Path, Block: 3, Stored: 7, Computed: 65535}}}, nil
		}
	}
	return s
}

type opened struct{ *bytes.Reader }

func (opened) Close() error           { return nil }
func (o opened) Size() (int64, error) { return o.Reader.Size(), nil }

// inputs are the files of the first snapshot.
func inputs() []*file {
	files := []*file{
		{content: []byte("15\n"), entry: Entry{Path: "data/PG_VERSION"}, recipe: "inline stream"},
		{content: text(8192, 512), entry: Entry{Path: "data/global/pg_control"}, recipe: "inline stream"},
		{content: text(4<<20+100_000, 512), entry: Entry{Path: "data/log/server.log"}, recipe: "inline stream"},
		{content: []byte("port = 5433\n"), entry: Entry{Path: "config/postgresql.conf", Target: "/etc/postgresql/15/main/postgresql.conf"}, recipe: "inline stream"},
		{entry: Entry{Path: "data/base/5/PG_EMPTY"}},
		{form: goldenForm, entry: Entry{Path: "data/base/5/16380"}},
		{form: goldenForm, content: pages(1, 200), entry: Entry{Path: "data/base/5/16384"}, recipe: "inline relation"},
		{form: goldenForm, content: join(pages(1, 100), make([]byte, 20*pageSize), pages(2, 30), make([]byte, 5*pageSize)),
			entry: Entry{Path: "data/base/5/16385"}, recipe: "inline relation"},
		{form: goldenForm, content: make([]byte, 40*pageSize), entry: Entry{Path: "data/base/5/16386"}, recipe: "inline relation"},
		{form: goldenForm, content: bytes.Repeat(pages(3, 1), 90), entry: Entry{Path: "data/base/5/16387"}, recipe: "inline relation"},
		{form: goldenForm, content: pages(4, 3)[:3*pageSize-100], entry: Entry{Path: "data/base/5/16388"}, recipe: "inline stream"},
		{form: goldenForm, content: pages(5, 1200), entry: Entry{Path: "data/base/5/16390"}, recipe: "chunks relation"},
		{form: 10, content: pages(6, 4), entry: Entry{Path: "data/base/5/16391"}, recipe: "inline relation"},
		{form: goldenForm, content: pages(7, 2), entry: Entry{Path: "data/pg_tblspc/16400/PG_15_202209061/5/16401"}, recipe: "inline relation"},
	}
	for _, f := range files {
		f.entry.Type, f.entry.Mode = typeFile, 0o600
	}
	for _, dir := range []string{"data", "data/base", "data/base/5", "data/global", "data/log", "data/pg_wal", "data/links",
		"data/pg_tblspc", "data/pg_tblspc/16400/PG_15_202209061", "data/pg_tblspc/16400/PG_15_202209061/5"} {
		files = append(files, &file{entry: Entry{Path: dir, Type: typeDirectory, Mode: 0o700}})
	}
	files = append(files, &file{entry: Entry{Path: "data/pg_tblspc/16400", Type: typeTablespace, Mode: 0o700, Target: "/srv/ssd/ts"}})
	// Enough for a listing with an upper level.
	const links, long = 220, 4000
	targets := text(links*long, 64)
	for i := range links {
		e := Entry{Path: fmt.Sprintf("data/links/%03d", i), Type: typeLink, Mode: 0o777, Target: string(targets[i*long : (i+1)*long])}
		files = append(files, &file{entry: e})
	}
	for i, f := range files {
		e := &f.entry
		e.UID, e.GID, e.User, e.Group = 26, 70_000, "postgres", "dba"
		e.Size = uint64(len(f.content))
		e.Modified, e.Changed = 1_700_000_000_123_456_789+int64(i), -5-int64(i)
		e.Device, e.Inode = 1<<63+uint64(i), 1000+uint64(i)
	}
	return files
}

func (g *generator) take(ctx context.Context, s *repo.Session, files []*file) *snapshot.Result {
	var sources []snapshot.Source
	for _, f := range files {
		sources = append(sources, f.source())
	}
	r, err := snapshot.Take(ctx, sources, snapshot.Options{
		Key: g.repo.IDKey(), NewWriter: func() (snapshot.Writer, error) { return s.NewWriter() },
	})
	g.must(err)
	return r
}

// commit writes the manifest of r and expects it and the files.
func (g *generator) commit(ctx context.Context, s *repo.Session, n int, files []*file, r *snapshot.Result) error {
	m := &snapshot.Manifest{
		Version: 1, ID: s.ID(), Cluster: goldenCluster,
		Server: snapshot.Server{SystemID: goldenSystem, Version: 150018, BlockSize: 8192, WALSegmentSize: 1 << 20, Checksums: true,
			DataDirectory: "/var/lib/pgsql/15/data"},
		Origin: snapshot.Origin{Host: "db1.example", Tool: "pgtrove golden", Standby: n > 1},
		Window: snapshot.Window{Timeline: 1, StopTimeline: pg.Timeline(n), StartLSN: 0x1_02000028, StopLSN: 0x1_02000138,
			StartTime: goldenTime(n), StopTime: goldenTime(n).Add(1500 * time.Millisecond), NextXID: 1<<32 + 5},
		Totals: snapshot.Totals{Size: r.Size, Read: r.Read, Files: r.Files},
		WAL:    snapshot.WALComplete, Damaged: r.Damaged, BackupLabel: []byte("START WAL LOCATION: 1/2000028 (file 000000010000000100000020)\n"),
		Root: r.Root,
	}
	var w Manifest
	w.Version, w.ID, w.Cluster = 1, s.ID(), goldenCluster
	w.Server.SystemID, w.Server.Version, w.Server.BlockSize, w.Server.WALSegmentSize = "7301234567890123456", 150018, 8192, 1<<20
	w.Server.Checksums, w.Server.DataDirectory = true, "/var/lib/pgsql/15/data"
	w.Origin.Host, w.Origin.Tool, w.Origin.Standby = "db1.example", "pgtrove golden", n > 1
	w.Window.Timeline, w.Window.StopTimeline, w.Window.StartLSN, w.Window.StopLSN = 1, uint32(n), "1/2000028", "1/2000138"
	w.Window.StartTime, w.Window.StopTime, w.Window.NextXID = goldenTime(n), goldenTime(n).Add(1500*time.Millisecond), 1<<32+5
	w.WAL, w.BackupLabel = "complete", m.BackupLabel
	if n == 1 {
		m.Tags, w.Tags = map[string]string{"reason": "golden"}, map[string]string{"reason": "golden"}
		m.TablespaceMap, w.TablespaceMap = []byte("16400 /srv/ssd/ts\n"), []byte("16400 /srv/ssd/ts\n")
		w.Damaged = []DamagedPage{{Path: "data/base/5/16384", Block: 3, Stored: 7, Computed: 65535}}
	}
	g.must(s.Flush(ctx))
	m.Totals.Added, m.Totals.New = s.Added().Stored, s.Added().Plain

	want := ExpectedSnapshot{Depth: 2 - n}
	slices.SortFunc(files, func(a, b *file) int { return strings.Compare(a.entry.Path, b.entry.Path) })
	for _, f := range files {
		e := ExpectedEntry{Entry: f.entry, Recipe: f.recipe}
		switch e.Type {
		case typeFile:
			w.Totals.Size += int64(e.Size)
			w.Totals.Files++
			e.SHA256 = sum(f.content)
		case typeLink:
			e.SHA256, e.Target = sum([]byte(e.Target)), ""
		}
		want.Entries = append(want.Entries, e)
	}
	want.Manifest = w
	g.want.Snapshots = append(g.want.Snapshots, want)
	text, err := m.Marshal()
	g.must(err)
	return s.Commit(ctx, text)
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

func (g *generator) first() {
	files := inputs()
	g.must(g.session(1, func(ctx context.Context, s *repo.Session) error {
		return g.commit(ctx, s, 1, files, g.take(ctx, s, files))
	}))
}

// second takes a snapshot with patches. No writer of version 1 makes them yet,
// so this listing is put together here.
func (g *generator) second() {
	recipes := map[string]snapshot.RecipeRef{}
	view, err := g.repo.OpenView(g.t.Context(), g.t.TempDir(), goldenCluster)
	g.must(err)
	g.must(g.repo.Commits(g.t.Context(), goldenCluster, func(c repo.Commit) error {
		m, err := snapshot.ParseManifest(c.Manifest)
		if err != nil {
			return err
		}
		return m.Root.Walk(g.t.Context(), view, func(e *snapshot.Entry) error {
			recipes[e.Path] = e.Recipe
			return nil
		})
	}))
	g.must(view.Close())

	g.must(g.session(2, func(ctx context.Context, s *repo.Session) error {
		w, err := s.NewWriter()
		g.must(err)
		hasher := chunk.NewHasher(g.repo.IDKey())
		own := func(content []byte) func(first, count uint32) snapshot.Extent {
			id, err := w.Pages(ctx, goldenForm, hasher.PageDigests(nil, goldenForm, content), content)
			g.must(err)
			return func(first, count uint32) snapshot.Extent {
				return snapshot.Extent{ID: id, Form: goldenForm, First: first, Count: count}
			}
		}
		a, b := pages(20, 10), pages(21, 6)
		fromA, fromB := own(a), own(b)
		zero := snapshot.Extent{Form: goldenForm, Count: 2, Zero: true}
		at := func(content []byte, from, to int) []byte { return content[from*pageSize : to*pageSize] }

		// Grown by 8 pages, of which 3 come from the end of a chunk.
		old := pages(1, 200)
		grown := snapshot.Patch{Form: goldenForm, Depth: 1, Parent: recipes["data/base/5/16384"], Pages: 208, Changes: []snapshot.Change{
			{Keep: 50, Extents: []snapshot.Extent{fromA(2, 4), zero, fromB(0, 6)}},
			{Keep: 138, Extents: []snapshot.Extent{fromA(7, 3), fromB(1, 5)}},
		}}
		grownContent := join(at(old, 0, 50), at(a, 2, 6), make([]byte, 2*pageSize), b, at(old, 62, 200), at(a, 7, 10), at(b, 1, 6))
		// A patch upon that patch, which shortens the file.
		shorter := snapshot.Patch{Form: goldenForm, Depth: 2, Parent: snapshot.RecipeRef{Inline: snapshot.MarshalPatch(grown)}, Pages: 100,
			Changes: []snapshot.Change{{Extents: []snapshot.Extent{fromB(5, 1)}}, {Keep: 51, Extents: []snapshot.Extent{fromA(0, 1)}}}}
		shorterContent := join(at(b, 5, 6), at(grownContent, 1, 52), at(a, 0, 1), at(grownContent, 53, 100))
		// A patch upon a recipe in chunks, itself in chunks.
		large := pages(5, 1200)
		patch := snapshot.Patch{Form: goldenForm, Depth: 1, Parent: recipes["data/base/5/16390"], Pages: 1200,
			Changes: []snapshot.Change{{Keep: 1199, Extents: []snapshot.Extent{fromA(9, 1)}}}}
		marshalled := snapshot.MarshalPatch(patch)
		inChunks := snapshot.RecipeRef{}
		for piece := range slices.Chunk(marshalled, 40) {
			id, err := w.Meta(ctx, piece)
			g.must(err)
			inChunks.Chunks = append(inChunks.Chunks, id)
		}
		// A patch without changes.
		same := snapshot.Patch{Form: goldenForm, Depth: 16, Parent: recipes["data/base/5/16385"], Pages: 155}

		parent := "inline relation"
		files := []*file{
			{entry: Entry{Path: "data", Type: typeDirectory, Mode: 0o700}},
			{entry: Entry{Path: "data/16384", Type: typeFile}, content: grownContent, recipe: "inline patch, " + parent},
			{entry: Entry{Path: "data/16384_2", Type: typeFile}, content: shorterContent, recipe: "inline patch, inline patch, " + parent},
			{entry: Entry{Path: "data/16385", Type: typeFile}, content: join(pages(1, 100), make([]byte, 20*pageSize), pages(2, 30), make([]byte, 5*pageSize)),
				recipe: "inline patch, " + parent},
			{entry: Entry{Path: "data/16390", Type: typeFile}, content: join(at(large, 0, 1199), at(a, 9, 10)), recipe: "chunks patch, chunks relation"},
		}
		refs := []snapshot.RecipeRef{{}, {Inline: snapshot.MarshalPatch(grown)}, {Inline: snapshot.MarshalPatch(shorter)}, {Inline: snapshot.MarshalPatch(same)}, inChunks}
		var listing []byte
		r := &snapshot.Result{}
		for i, f := range files {
			f.entry.Size = uint64(len(f.content))
			if f.entry.Type == typeFile {
				r.Files++
				r.Size += int64(f.entry.Size)
			}
			listing = append(listing, listed(f.entry, refs[i])...)
		}
		for piece := range slices.Chunk(listing, 100) {
			id, err := w.Meta(ctx, piece)
			g.must(err)
			r.Root.Chunks = append(r.Root.Chunks, id)
		}
		return g.commit(ctx, s, 2, files, r)
	}))
}

// listed is an entry of a listing with all that this file does not need left empty.
func listed(e Entry, recipe snapshot.RecipeRef) []byte {
	b := binary.AppendUvarint(nil, uint64(len(e.Path)))
	b = append(append(b, e.Path...), e.Type)
	b = binary.AppendUvarint(b, e.Mode)
	b = append(b, 0, 0, 0, 0)
	b = binary.AppendUvarint(b, e.Size)
	b = append(b, 0, 0, 0, 0, 0)
	switch {
	case recipe.Empty():
		b = append(b, 0)
	case recipe.Chunks == nil:
		b = binary.AppendUvarint(append(b, 1), uint64(len(recipe.Inline)))
		b = append(b, recipe.Inline...)
	default:
		b = binary.AppendUvarint(append(b, 2), uint64(len(recipe.Chunks)))
		for _, id := range recipe.Chunks {
			b = append(b, id[:]...)
		}
	}
	return append(binary.AppendUvarint(nil, uint64(len(b))), b...)
}

// abandoned ends without an outcome; what it stored may be used.
func (g *generator) abandoned() {
	err := g.session(3, func(ctx context.Context, s *repo.Session) error {
		w, err := s.NewWriter()
		g.must(err)
		id, err := w.Bytes(ctx, []byte("abandoned"))
		g.must(err)
		g.want.Abandoned = append(g.want.Abandoned, ID(id))
		g.must(s.Flush(ctx))
		return errors.New("given up")
	})
	if err == nil {
		g.t.Fatal("a session that failed has no error")
	}
}

// fenced is a session that somebody else has ended, which no program does yet.
func (g *generator) fenced() {
	var key string
	err := g.session(4, func(ctx context.Context, s *repo.Session) error {
		w, err := s.NewWriter()
		g.must(err)
		id, err := w.Bytes(ctx, []byte("fenced"))
		g.must(err)
		g.want.Absent = append(g.want.Absent, ID(id))
		g.must(s.Flush(ctx))
		key = "snapshots/" + goldenCluster + "/" + s.ID()
		return errors.New("given up")
	})
	if err == nil {
		g.t.Fatal("a session that failed has no error")
	}
	meta, err := g.owner.Meta()
	g.must(err)
	const kind = "pgtsnap\x01"
	payload := `{"version":1,"outcome":"FENCED","nonce":"00112233445566778899aabbccddeeff"}`
	aad := fmt.Appendf(nil, "pgtrove object\x00%s\x00%s\x00%s", kind, g.repo.Config().ID, key)
	g.must(g.store.Put(g.t.Context(), key, meta.Seal([]byte(kind), []byte(payload), aad)))
}

// archive lets walarchive write to the repository.
type archive struct{ *repo.Repo }

func (a archive) PutArchive(ctx context.Context, key string, header, content []byte) (bool, error) {
	stored, err := a.Repo.PutArchive(ctx, key, header, content)
	return stored == repo.StoredSame, err
}

func (g *generator) wal() {
	push := func(cluster, key string, content []byte, f walarchive.Facts, want WALHeader, chunks int) {
		a := walarchive.Archive{Objects: archive{g.repo}, Cluster: cluster, System: goldenSystem}
		_, err := a.Push(g.t.Context(), filepath.Base(key), content, f)
		g.must(err)
		want.Cluster, want.System, want.File = cluster, goldenSystem, filepath.Base(key)
		g.want.WAL[key] = ExpectedWAL{want, sum(content), chunks}
	}
	const dir = "/7301234567890123456/"
	at := func(micro int64) (time.Time, Time) { return time.UnixMicro(micro).UTC(), Time{true, micro} }
	first, wantFirst := at(1_772_600_000_123_456)
	last, wantLast := at(1_772_600_099_000_001)
	push(goldenCluster, "wal/main"+dir+"00000001/000000010000000100000020", join(text(40_000, 512), make([]byte, 1<<20-40_000)),
		walarchive.Facts{SegmentSize: 1 << 20, Major: 15, FirstCommit: first, LastCommit: last, MinXID: 4_294_967_290, MaxXID: 12,
			End: 0x1_02009c40, Broken: true, FullPageWritesOff: true, RestorePoints: []walarchive.RestorePoint{
				{Name: "before upgrade", LSN: 0x1_02001000, Time: first}, {Name: "ü", LSN: 0x1_02002000}}},
		WALHeader{Kind: walSegment, Timeline: 1, SegmentSize: 1 << 20, Major: 15, Earliest: wantFirst, Latest: wantLast,
			Lowest: 4_294_967_290, Highest: 12, End: 0x1_02009c40, Flags: 5, Points: []RestorePoint{
				{"before upgrade", 0x1_02001000, wantFirst}, {"ü", 0x1_02002000, Time{}}}}, 1)
	push("other", "wal/other"+dir+"00000003/000000030000000100000001.partial", join(make([]byte, 5<<20), text(3<<20, 512)),
		walarchive.Facts{SegmentSize: 8 << 20, Unsure: true}, WALHeader{Kind: walPartial, Timeline: 3, SegmentSize: 8 << 20, Flags: 2}, 2)
	label := []byte("START WAL LOCATION: 1/2000028 (file 000000010000000100000020)\n")
	push(goldenCluster, "wal/main"+dir+"00000001/000000010000000100000020.00000028.backup", label,
		walarchive.Facts{SegmentSize: 1 << 20, Major: 15}, WALHeader{Kind: walBackup, Timeline: 1, SegmentSize: 1 << 20, Major: 15}, 1)
	history := []byte("1\t1/2000138\tno recovery target specified\n")
	push(goldenCluster, "wal/main"+dir+"00000002.history", history, walarchive.Facts{},
		WALHeader{Kind: walHistory, Timeline: 2, Inline: history}, 1)
}
