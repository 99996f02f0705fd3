package format

import (
	"bytes"
	"errors"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

// The files testdata/repository* were made once, by generate_test.go, and are
// only read: the repository, the identities that open its two bundles, and
// what it was made from.

func openGolden(t *testing.T, role string) *Repository {
	t.Helper()
	r, err := Open(os.DirFS("testdata/repository"), goldenIdentities(t, "repository."+role+".identity")...)
	if err != nil {
		t.Fatal(err)
	}
	if r.Bundle.Role != role {
		t.Fatalf("the bundle of a %s", r.Bundle.Role)
	}
	return r
}

func readExpected(t *testing.T) Expected {
	t.Helper()
	var want Expected
	readJSON(t, "repository.json", &want)
	if len(want.Snapshots) != 2 || len(want.WAL) != 4 || len(want.Absent) != 1 || len(want.Abandoned) != 1 {
		t.Fatal("repository.json lacks something")
	}
	return want
}

func goldenSnapshots(t *testing.T, r *Repository) []*Manifest {
	t.Helper()
	found, err := r.Snapshots()
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestReaderRebuildsEveryFile(t *testing.T) {
	r, want := openGolden(t, "owner"), readExpected(t)
	found := goldenSnapshots(t, r)
	if len(found) != len(want.Snapshots) {
		t.Fatalf("%d snapshots", len(found))
	}
	kinds := map[string]int{}
	for i, m := range found {
		entries, err := r.Listing(m)
		if err != nil {
			t.Fatal(err)
		}
		if len(entries) != len(want.Snapshots[i].Entries) || m.Root.Depth < want.Snapshots[i].Depth {
			t.Fatalf("%d entries in a listing of depth %d", len(entries), m.Root.Depth)
		}
		for j, w := range want.Snapshots[i].Entries {
			kinds[w.Recipe]++
			checkEntry(t, r, entries[j], w)
		}
	}
	for _, kind := range []string{"inline stream", "inline relation", "chunks relation", "inline patch, inline relation",
		"inline patch, inline patch, inline relation", "chunks patch, chunks relation"} {
		if kinds[kind] == 0 {
			t.Errorf("no file with the recipe %s", kind)
		}
	}
}

func checkEntry(t *testing.T, r *Repository, e Entry, want ExpectedEntry) {
	t.Helper()
	content, err := r.File(e)
	if err != nil {
		t.Fatal(err)
	}
	if kinds := r.recipeKinds(t, e.recipe); kinds != want.Recipe {
		t.Errorf("%s: the recipe is %s, not %s", e.Path, kinds, want.Recipe)
	}
	switch e.Type {
	case typeFile:
		if sum(content) != want.SHA256 {
			t.Errorf("%s: other bytes than were stored", e.Path)
		}
	case typeLink:
		if sum([]byte(e.Target)) != want.SHA256 {
			t.Errorf("%s: target %q", e.Path, e.Target)
		}
		e.Target = ""
	}
	e.recipe = reference{}
	if !reflect.DeepEqual(e, want.Entry) {
		t.Errorf("entry %+v, not %+v", e, want.Entry)
	}
}

// recipeKinds says in which ways a recipe is stored, outermost first.
func (r *Repository) recipeKinds(t *testing.T, ref reference) string {
	t.Helper()
	if ref.kind == 0 {
		return ""
	}
	recipe, err := r.recipe(ref)
	if err != nil {
		t.Fatal(err)
	}
	kinds := []string{"", "inline", "chunks"}[ref.kind] + " " + []string{"", "stream", "relation", "patch"}[recipe.Kind]
	if recipe.patch != nil {
		kinds += ", " + r.recipeKinds(t, recipe.patch.parent)
	}
	return kinds
}

func TestReaderReadsManifests(t *testing.T) {
	r, want := openGolden(t, "writer"), readExpected(t)
	for i, m := range goldenSnapshots(t, r) {
		if m.Totals.New <= 0 || m.Totals.Added <= 0 || i == 0 && m.Totals.Read < m.Totals.Size {
			t.Errorf("totals %+v", m.Totals)
		}
		m.Totals.New, m.Totals.Added, m.Totals.Read = 0, 0, 0
		m.Root.Depth, m.Root.Chunks = 0, nil
		if !reflect.DeepEqual(*m, want.Snapshots[i].Manifest) {
			t.Errorf("manifest\n%+v, not\n%+v", *m, want.Snapshots[i].Manifest)
		}
	}
}

func TestPageNamesEveryMemberOfJSON(t *testing.T) {
	r := openGolden(t, "owner")
	line, _, _ := bytes.Cut(readFile(t, "repository/config"), []byte("\n"))
	for name, to := range map[string]any{"sessions/": new(Session), "snapshots/": new(Outcome), "config": new(Config)} {
		for _, name := range r.Names(name) {
			payload, member := line, "pgtrove_repository"
			if name != "config" {
				var err error
				payload, err = r.payload(map[byte]string{'e': "pgtsess", 'n': "pgtsnap"}[name[1]], name)
				if err != nil {
					t.Fatal(err)
				}
				member = "version"
			}
			if err := strict(payload, member, 1, to); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

func TestReaderReadsSessions(t *testing.T) {
	r := openGolden(t, "writer")
	outcomes := map[string]string{}
	for _, name := range r.Names("snapshots/") {
		o, err := r.Outcome(name)
		if err != nil {
			t.Fatal(err)
		}
		outcomes[path.Base(name)] = o.Outcome
		if !isNonce(o.Nonce) {
			t.Errorf("%s: nonce %q", name, o.Nonce)
		}
	}
	var ended []string
	sid := regexp.MustCompile(`^\d{8}T\d{6}Z-[0-9a-f]{16}$`)
	for _, name := range r.Names("sessions/") {
		s, err := r.Session(path.Base(name))
		if err != nil {
			t.Fatal(err)
		}
		if !sid.MatchString(path.Base(name)) || s.Started.Format("20060102T150405Z") != path.Base(name)[:16] {
			t.Errorf("%s started at %s", name, s.Started)
		}
		if s.Cluster != "main" || s.Host != "db1.example" || s.PID == 0 || s.GC != 0 || !isNonce(s.Nonce) {
			t.Errorf("%s: %+v", name, s)
		}
		ended = append(ended, outcomes[path.Base(name)])
	}
	if want := []string{"SNAPSHOT", "SNAPSHOT", "", "FENCED"}; !slices.Equal(ended, want) {
		t.Errorf("outcomes %q", ended)
	}
}

func isNonce(s string) bool { return len(s) == 32 && isHex(s) }

func TestReaderReadsEveryPack(t *testing.T) {
	r := openGolden(t, "owner")
	indexed := map[string]segmentPack{}
	for _, name := range r.Names("index/") {
		packs, err := r.Segment(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range packs {
			indexed[p.Key] = p
		}
	}
	forms, kinds := map[byte]int{}, map[byte]int{}
	key := regexp.MustCompile(`^packs/[^/]+/\d+-[0-9a-f]{64}$`)
	names := r.Names("packs/")
	for _, name := range names {
		object, err := r.Object(name)
		if err != nil {
			t.Fatal(err)
		}
		p, err := r.Bundle.OpenPack(name, object)
		if err != nil {
			t.Fatal(err)
		}
		if !key.MatchString(name) || p.Kind == kindArchive {
			t.Errorf("%s of kind %d", name, p.Kind)
		}
		if i := indexed[name]; !bytes.Equal(i.Raw, p.Raw) || i.Size != uint64(len(object)) {
			t.Errorf("%s is not as the index says", name)
		}
		kinds[p.Kind]++
		for i, e := range p.Chunks {
			forms[e.Form]++
			if _, err := p.Chunk(i); err != nil {
				t.Error(err)
			}
		}
	}
	if len(names) != len(indexed) || kinds[kindData] == 0 || kinds[kindMeta] == 0 || forms[0] == 0 || forms[10] == 0 || forms[13] == 0 {
		t.Errorf("%d packs, %d in the index; kinds %v, forms %v", len(names), len(indexed), kinds, forms)
	}
}

func TestReaderReadsArchivedFiles(t *testing.T) {
	r, want := openGolden(t, "owner"), readExpected(t)
	if names := r.Names("wal/"); !slices.Equal(names, slices.Sorted(maps.Keys(want.WAL))) {
		t.Fatalf("archived are %q", names)
	}
	for name, w := range want.WAL {
		h, content, err := r.WAL(name)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(*h, w.Header) || sum(content) != w.SHA256 {
			t.Errorf("%s: %d bytes, header\n%+v, not\n%+v", name, len(content), *h, w.Header)
		}
		object, err := r.Object(name)
		if err != nil {
			t.Fatal(err)
		}
		p, err := r.Bundle.OpenPack(name, object)
		if err != nil || len(p.Chunks) != w.Chunks {
			t.Errorf("%s: %d chunks (%v)", name, len(p.Chunks), err)
		}
	}
}

func TestReaderOpensNoContentAsWriter(t *testing.T) {
	r := openGolden(t, "writer")
	for _, m := range goldenSnapshots(t, r) {
		entries, err := r.Listing(m)
		if err != nil {
			t.Fatal(err)
		}
		refused := 0
		for _, e := range entries {
			if _, err := r.File(e); errors.Is(err, ErrRole) {
				refused++
			} else if err != nil {
				t.Error(err)
			}
		}
		if refused == 0 {
			t.Errorf("%s: opens without the secret", m.ID)
		}
	}
	for _, name := range r.Names("wal/") {
		if _, _, err := r.WAL(name); !errors.Is(err, ErrRole) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestOnlySessionsThatCountAreRead(t *testing.T) {
	r, want := openGolden(t, "owner"), readExpected(t)
	if _, plain, err := r.Chunk(want.Abandoned[0]); err != nil || string(plain) != "abandoned" {
		t.Errorf("of a session without outcome: %q, %v", plain, err)
	}
	// A snapshot may refer to what a session stored before it was fenced; a new one must not.
	if _, plain, err := r.Chunk(want.Absent[0]); err != nil || string(plain) != "fenced" {
		t.Errorf("of a fenced session: %q, %v", plain, err)
	}
	if !r.WriterMayUse(want.Abandoned[0]) || r.WriterMayUse(want.Absent[0]) {
		t.Error("a writer may refer to what a session without outcome stored, and not to what a fenced one did")
	}

	// Without its announcement a session is none.
	objects := goldenObjects(t)
	last := goldenSnapshots(t, r)[1]
	delete(objects, "sessions/"+last.ID)
	if r, err := Open(objects, goldenIdentities(t, "repository.owner.identity")...); err != nil {
		t.Error(err)
	} else if found := goldenSnapshots(t, r); len(found) != 1 || found[0].ID == last.ID {
		t.Errorf("%d snapshots", len(found))
	} else if _, _, err := r.Chunk(last.Root.Chunks[0]); !errors.Is(err, ErrDamaged) {
		t.Errorf("of a session that is gone: %v", err)
	}

	// What has no valid name is no object.
	objects = goldenObjects(t)
	for _, name := range []string{"lost+found/a", "snapshots/main/.tmp-1", "keys/.tmp-2", "index/a b/0", "wal/é"} {
		objects[name] = &fstest.MapFile{Data: []byte("foreign")}
	}
	if with, err := Open(objects, goldenIdentities(t, "repository.owner.identity")...); err != nil || !slices.Equal(with.names, r.names) {
		t.Errorf("foreign files: %v", err)
	}
}

// goldenObjects is a copy of the repository, to damage.
func goldenObjects(t *testing.T) fstest.MapFS {
	t.Helper()
	objects := fstest.MapFS{}
	dir := os.DirFS("testdata/repository")
	if err := fs.WalkDir(dir, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := fs.ReadFile(dir, name)
		objects[name] = &fstest.MapFile{Data: b}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return objects
}

func TestReaderDependsOnNoPackageOfTheProject(t *testing.T) {
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	allowed := map[string]bool{"filippo.io/age": true, "github.com/zeebo/blake3": true, "golang.org/x/crypto/chacha20poly1305": true,
		"github.com/klauspost/compress/zstd": true}
	n := 0
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), ".go") || strings.HasSuffix(f.Name(), "_test.go") {
			continue
		}
		n++
		tree, err := parser.ParseFile(token.NewFileSet(), f.Name(), nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, spec := range tree.Imports {
			imported := strings.Trim(spec.Path.Value, `"`)
			first, _, _ := strings.Cut(imported, "/")
			if strings.Contains(first, ".") && !allowed[imported] {
				t.Errorf("%s imports %s", f.Name(), imported)
			}
		}
	}
	if n < 5 {
		t.Errorf("%d files", n)
	}
}
