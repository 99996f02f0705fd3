package runbooks

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"github.com/pgtrove/pgtrove/test/pgtest"
)

// sections are the titles of a page.
func sections(t *testing.T, page string) (titles []string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("../../docs/runbooks", page))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`(?m)^## (.*)$`).FindAllStringSubmatch(string(b), -1) {
		titles = append(titles, m[1])
	}
	return titles
}

// TestALostKeyIsReplaced follows all sections of the page: the server's host has a writer's key, and owners have theirs elsewhere.
func TestALostKeyIsReplaced(t *testing.T) {
	s, dir := protected(t)
	at := func(name string) string { return filepath.Join(dir, name) }
	move := func(from, to string) {
		t.Helper()
		if err := os.Rename(at(from), at(to)); err != nil {
			t.Fatal(err)
		}
	}
	opens := func(name string) bool {
		t.Helper()
		cmd := s.Command("pgtrove", "snapshots", "--key-file", at(name))
		r := pgtest.Run(t, cmd)
		if r.Code != 0 && r.Code != 8 {
			t.Fatalf("snapshots: exit %d\n%s", r.Code, r.Stderr)
		}
		return r.Code == 0
	}
	var followed []string
	section := func(title string, variables ...string) string {
		t.Helper()
		followed = append(followed, title)
		return follow(t, s, "lost-key.md#"+title, variables...)
	}
	move("key", "owner")
	key := func(args ...string) {
		t.Helper()
		pgtest.MustRun(t, s.Command("pgtrove", append([]string{"key"}, append(args, "--key-file", at("owner"))...)...))
	}
	key("add", "--role", "writer", "--name", "db1", "--output", at("key"))
	key("add", "--role", "owner", "--name", "second", "--output", at("second"))
	key("export", "--paper", "--output", at("paper"))
	s.Exec(t, "INSERT INTO orders SELECT generate_series(1001, 1100)")

	move("key", "lost")
	section("1 A host has lost its identity", "NAME=db1", "OWNER="+at("owner"), "NEW="+at("key"))
	if opens("lost") || !opens("key") {
		t.Error("the host's old identity opens, or the new one does not")
	}
	pgtest.MustRun(t, s.Command("pgtrove", "backup", "--checkpoint", "fast"))

	typeOff(t, at("paper"), at("typed"))
	said := section("3 The only owner's identity is lost, there is a paper copy", "NAME=owner", "TYPED="+at("typed"), "NEW="+at("owner2"))
	if opens("typed") || opens("owner") || !opens("owner2") {
		t.Error("the owner's old identity opens, or the new one does not")
	}
	if !regexp.MustCompile(`(?m)^1: `).MatchString(said) {
		t.Errorf("no paper copy was printed:\n%s", said)
	}
	section("2 An owner has lost his identity, another has his", "NAME=owner", "OWNER="+at("second"), "NEW="+at("owner3"))
	if opens("owner2") || !opens("owner3") {
		t.Error("the second owner could not replace the first one's identity")
	}

	move("key", "stolen")
	section("5 A host or a key was stolen", "STOLEN=db1", "OWNER="+at("owner3"), "REPLACEMENT=db1b", "ROLE=writer", "CLUSTERS=main", "NEW="+at("key"), "BAD=")
	if opens("stolen") || !opens("key") {
		t.Error("the stolen identity opens, or the new host's does not")
	}
	s.Exec(t, "INSERT INTO orders SELECT generate_series(1101, 1200)")
	s.WaitArchived(t, s.SwitchWAL(t))
	pgtest.MustRun(t, s.Command("pgtrove", "backup", "--checkpoint", "fast"))
	restored := restore(t, s, at("owner3"), at("restored"))
	same(t, restored, "SELECT count(*) FROM orders", "1200")
	restored.Stop(t, pgtest.Immediate)

	section("4 No owner's identity is left", "NEW_REPOSITORY="+at("repo2"), "NEW_KEY="+at("new-owner"))
	if want := sections(t, "lost-key.md"); len(want) != len(followed) || slices.ContainsFunc(want, func(s string) bool { return !slices.Contains(followed, s) }) {
		t.Errorf("sections %q, followed %q", want, followed)
	}
}

// typeOff types the numbered lines of a sheet into a file, in small letters.
func typeOff(t *testing.T, sheet, file string) {
	t.Helper()
	text, err := os.ReadFile(sheet)
	if err != nil {
		t.Fatal(err)
	}
	lines := regexp.MustCompile(`(?m)^\d+: .*$`).FindAll(text, -1)
	if err := os.WriteFile(file, bytes.ToLower(bytes.Join(lines, []byte("\n"))), 0o644); err != nil {
		t.Fatal(err)
	}
	pgtest.Own(t, file)
}

// restore brings the cluster back beside the running one, with an identity.
func restore(t *testing.T, s *pgtest.Server, identity, to string) *pgtest.Server {
	t.Helper()
	pgtest.MustRun(t, s.Command("pgtrove", "restore", "--to", to, "--key-file", identity))
	restored := pgtest.Adopt(t, "15", to)
	restored.Args = append(restored.Args, "-c", "archive_mode=off")
	restored.Start(t)
	restored.WaitPromoted(t)
	return restored
}
