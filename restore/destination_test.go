package restore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgtrove/pgtrove/snapshot"
)

// spaced is a cluster with two tablespaces, one of them inside its data directory.
func spaced(t *testing.T, outside string) (*cluster, *snapshot.Manifest) {
	t.Helper()
	c := newCluster(t)
	c.dir("data/inside", 0o700)
	for oid, location := range map[string]string{"16400": outside, "16401": "/was/here/inside"} {
		link := "data/pg_tblspc/" + oid
		c.entries = append(c.entries, snapshot.Entry{Path: link, Type: snapshot.Tablespace, Mode: 0o700, Owner: me(), Link: location})
		c.dir(link+"/PG_15_202209061", 0o700)
		c.dir(link+"/PG_15_202209061/5", 0o700)
		c.files[link+"/PG_15_202209061/5/1"] = make([]byte, 8192)
		c.files[link+"/PG_15_202209061/5/PG_VERSION"] = []byte("15\n" + oid)
	}
	m := c.take(t, "snap")
	m.TablespaceMap = fmt.Appendf(nil, "16400 %s\n16401 /was/here/inside\n", outside)
	return c, m
}

func TestTablespacesGoWhereTheyWereUnlessToldElse(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "fast disk")
	c, m := spaced(t, outside)
	everything := t.TempDir()
	for name, mapping := range map[string]map[string]string{
		"all":          {"16401": filepath.Join(t.TempDir(), "b")},
		"as they were": nil,
		"by path":      {outside: filepath.Join(t.TempDir(), "a")},
		"by OID":       {"16400": filepath.Join(t.TempDir(), "a"), "16401": filepath.Join(t.TempDir(), "b")},
	} {
		dir := filepath.Join(t.TempDir(), "data")
		o := Options{Snapshot: m, To: dir, Tablespaces: mapping, Recovery: recovery()}
		where := map[string]string{"16400": outside, "16401": filepath.Join(dir, "inside")}
		if name == "all" {
			o.AllTablespaces, where["16400"] = everything, filepath.Join(everything, "16400")
		}
		report, err := Run(t.Context(), c.repo, o)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for oid := range where {
			for _, key := range []string{oid, outside} {
				if to := mapping[key]; to != "" && (key == oid || oid == "16400") {
					where[oid] = to
				}
			}
		}
		lines := ""
		for _, oid := range []string{"16400", "16401"} {
			link := filepath.Join(dir, "pg_tblspc", oid)
			if to, err := os.Readlink(link); err != nil || to != where[oid] {
				t.Errorf("%s: link %s leads to %q, want %q", name, oid, to, where[oid])
			}
			if b, err := os.ReadFile(filepath.Join(where[oid], "PG_15_202209061/5/PG_VERSION")); err != nil || string(b) != "15\n"+oid {
				t.Errorf("%s: content of %s: %q, %v", name, oid, b, err)
			}
			lines += oid + " " + where[oid] + "\n"
		}
		if b, err := os.ReadFile(filepath.Join(dir, "tablespace_map")); err != nil || string(b) != lines {
			t.Errorf("%s: tablespace_map %q, want %q", name, b, lines)
		}
		if len(report.Tablespaces) != 2 || report.Tablespaces[0] != (Moved{outside, where["16400"]}) {
			t.Errorf("%s: reported %v", name, report.Tablespaces)
		}
		if err := os.RemoveAll(outside); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRefusalsChangeNothing(t *testing.T) {
	taken := t.TempDir()
	if err := os.WriteFile(filepath.Join(taken, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c, m := spaced(t, taken)
	live, server := t.TempDir(), aProcess(t)
	if err := os.WriteFile(filepath.Join(live, "postmaster.pid"), fmt.Appendf(nil, "%d\n%s\n", server, live), 0o600); err != nil {
		t.Fatal(err)
	}
	stale := t.TempDir()
	if err := os.WriteFile(filepath.Join(stale, "postmaster.pid"), []byte("4194399\n"), 0o600); err != nil { // beyond pid_max
		t.Fatal(err)
	}
	dangling := filepath.Join(t.TempDir(), "dangling")
	if err := os.Symlink("/nowhere/at all", dangling); err != nil {
		t.Fatal(err)
	}
	free := filepath.Join(t.TempDir(), "data")
	elsewhere := map[string]string{"16400": filepath.Join(t.TempDir(), "new")}
	for name, x := range map[string]struct {
		to      string
		mapping map[string]string
		want    []string
	}{
		"full directory":         {taken, elsewhere, []string{"not empty", "file"}},
		"live server":            {live, elsewhere, []string{"running", fmt.Sprint(server)}},
		"dead server":            {stale, elsewhere, []string{"not empty"}},
		"a file":                 {filepath.Join(taken, "file"), elsewhere, []string{"not a directory"}},
		"a link to nothing":      {dangling, elsewhere, []string{"link"}},
		"no directory":           {"", elsewhere, []string{"no directory"}},
		"tablespace in use":      {free, nil, []string{"not empty", taken, "--tablespace"}},
		"unknown tablespace":     {free, map[string]string{"16400": "/x/y", "17": "/x"}, []string{"no tablespace 17", "16401 at /was/here/inside"}},
		"relative":               {free, map[string]string{"16400": "x"}, []string{"absolute"}},
		"into the data":          {free, map[string]string{"16400": free}, []string{"data directory itself"}},
		"two in one place":       {free, map[string]string{"16400": "/x/y", "16401": "/x/y/"}, []string{"both"}},
		"into a full directory":  {free, map[string]string{"16400": live}, []string{"not empty", live}},
		"a line end in its path": {free, map[string]string{"16400": "/x\ny"}, []string{"absolute"}},
	} {
		_, err := Run(t.Context(), c.repo, Options{Snapshot: m, To: x.to, Tablespaces: x.mapping, Recovery: recovery()})
		var refused *RefusedError
		if !errors.As(err, &refused) || !errors.Is(err, ErrRefused) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, word := range x.want {
			if !strings.Contains(refused.Reason+"; "+refused.Hint, word) {
				t.Errorf("%s: %q is not in: %s; %s", name, word, refused.Reason, refused.Hint)
			}
		}
		for _, path := range []string{free, elsewhere["16400"], "/x/y"} {
			if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: %s was made", name, path)
			}
		}
	}
	if len(c.repo.reads) != 0 {
		t.Errorf("read from the repository: %v", c.repo.reads)
	}
}

func TestRootGivesFilesToTheirFormerOwnersByName(t *testing.T) {
	u, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	g, err := user.LookupGroupId(u.Gid)
	if err != nil {
		t.Fatal(err)
	}
	o := ownership{root: true, known: map[snapshot.Owner]ids{}}
	for name, c := range map[string]struct {
		was  snapshot.Owner
		want string
	}{
		"known here":   {snapshot.Owner{UID: 4001, GID: 4002, User: u.Username, Group: g.Name}, u.Uid + " " + u.Gid},
		"unknown here": {snapshot.Owner{UID: 4001, GID: 4002, User: "no such user", Group: "no such group"}, "4001 4002"},
		"nameless":     {snapshot.Owner{UID: 4001, GID: 4002}, "4001 4002"},
	} {
		if got := o.of(c.was); fmt.Sprint(got.uid, got.gid) != c.want {
			t.Errorf("%s: %v, want %s", name, got, c.want)
		}
	}
	o.root = false
	if got := o.of(snapshot.Owner{UID: 4001, GID: 4002}); got != (ids{-1, -1}) {
		t.Errorf("without root: %v", got)
	}
}

func TestTablespaceMapsReadBackAsPostgreSQLReadsThem(t *testing.T) {
	got := parseMap([]byte("16400 /a b\n16401 /with\\\nline end\n16402 /back\\\\slash\n16403 /single\\x\n"))
	want := []mapLine{{"16400", "/a b"}, {"16401", "/with\nline end"}, {"16402", `/back\slash`}, {"16403", `/single\x`}}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%q, want %q", got, want)
	}
	d := destination{spaces: []tablespace{{oid: "1", old: "/a", new: "/a"}, {oid: "2", old: "/b", new: `/c\d`}}}
	if got := string(d.tablespaceMap([]byte("x"))); got != "1 /a\n2 /c\\\\d\n" {
		t.Errorf("moved: %q", got)
	}
	d.spaces[1].new = "/b"
	if got := string(d.tablespaceMap([]byte("as it was"))); got != "as it was" {
		t.Errorf("not moved: %q", got)
	}
}
