package lint

import (
	"sort"
	"strings"
	"testing"
)

func rules() map[string]rule {
	return map[string]rule{
		"sources are formatted":              formatted,
		"imports only go down":               importsGoDown,
		"no catch-all packages":              noCatchAllPackages,
		"no func init":                       noInit,
		"no package variables":               noGlobals,
		"packages have a comment":            packageComments,
		"exported things have a comment":     exportedAreDocumented,
		"contexts come first, and not along": contexts,
		"only cmd prints, logs and exits":    onlyCmdSpeaks,
		"testing stays in tests":             testingStaysInTests,
		"no test is skipped":                 noSkips,
		"interfaces have four methods":       smallInterfaces,
		"files and functions are short":      lengths,
	}
}

func TestSourceKeepsTheRules(t *testing.T) {
	files, err := load("../..")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 50 {
		t.Fatalf("only %d files found: not the checkout", len(files))
	}
	for name, check := range rules() {
		t.Run(name, func(t *testing.T) {
			found := check(files)
			sort.Strings(found)
			for _, line := range found {
				t.Error(line)
			}
		})
	}
}

// Each rule finds what it forbids, and leaves its neighbour alone.
func TestRulesFindWhatTheyForbid(t *testing.T) {
	const imp = "import _ \"" + module + "/"
	cases := []struct {
		rule      string
		path      string
		bad, good string
	}{
		{"sources are formatted", "chunk/a.go", "package chunk\nvar  x int\n", "package chunk\n\nvar x int\n"},
		{"imports only go down", "chunk/a.go", imp + "pack\"", imp + "chunk/x\""},
		{"imports only go down", "index/a.go", imp + "repo\"", imp + "pack\""},
		{"imports only go down", "keys/a.go", imp + "storage\"", imp + "chunk\""},
		{"imports only go down", "snapshot/a.go", imp + "keys\"", imp + "internal/pg\""},
		{"imports only go down", "restore/a.go", imp + "storage/fs\"", imp + "snapshot\""},
		{"imports only go down", "restore/a.go", imp + "pgsource\"", imp + "pack\""},
		{"imports only go down", "repo/a.go", imp + "snapshot\"", imp + "storage/fs\""},
		{"imports only go down", "storage/fs/a.go", imp + "internal/pg\"", imp + "storage\""},
		{"imports only go down", "pack/a.go", imp + "internal/pg\"", imp + "chunk\""},
		{"imports only go down", "cmd/pgtrove/a.go", imp + "test/pgtest\"", imp + "gc\""},
		{"imports only go down", "repo/a.go", imp + "newthing\"", "import _ \"fmt\""},
		{"imports only go down", "newthing/a.go", "", ""},
		{"no catch-all packages", "x/a.go", "package util", "package chunk"},
		{"no func init", "chunk/a.go", "func init() {}", "func (x T) init() {}"},
		{"no package variables", "chunk/a.go", "var cache = map[string]int{}", "var ErrX = errors.New(\"\")\nvar _ I = T{}"},
		{"packages have a comment", "chunk/a.go", "package chunk", "// Package chunk cuts.\npackage chunk"},
		{"exported things have a comment", "chunk/a.go", "func Cut() {}", "func cut() {}\nfunc (c Cutter) String() string { return \"\" }"},
		{"exported things have a comment", "chunk/a.go", "type Cutter struct{}", "// Cutter cuts.\ntype Cutter struct{}"},
		{"contexts come first, and not along", "repo/a.go", "type S struct{ ctx context.Context }", "func f(ctx context.Context, n int)"},
		{"contexts come first, and not along", "repo/a.go", "func f(n int, ctx context.Context)", "func f(t *testing.T, ctx context.Context)"},
		{"only cmd prints, logs and exits", "repo/a.go", "import \"log\"", "import \"errors\""},
		{"only cmd prints, logs and exits", "repo/a.go", "func f() { fmt.Println() }", "func f() { fmt.Sprint() }"},
		{"only cmd prints, logs and exits", "repo/a.go", "func f() { w(os.Stderr) }", "func f() { w(os.Args) }"},
		{"testing stays in tests", "repo/a.go", "import \"testing\"", "import \"io\""},
		{"no test is skipped", "repo/a_test.go", "func f() { t.Skip() }", "func f() { t.Log() }"},
		{"interfaces have four methods", "repo/a.go", "type I interface { A(); B(); C(); D(); E() }", "type I interface { A(); B(); C(); D() }"},
		{"files and functions are short", "repo/a.go", "func f() {" + lines(60) + "}", "func f() {" + lines(59) + "}"},
		{"files and functions are short", "repo/a_test.go", lines(501), "func f() {" + lines(60) + "}"},
	}
	for _, c := range cases {
		t.Run(c.rule, func(t *testing.T) {
			if found := rules()[c.rule]([]file{parseCase(t, c.path, c.bad)}); len(found) != 1 {
				t.Errorf("in %s\n%s\nfound %q, want one offence", c.path, c.bad, found)
			}
			if c.good == "" {
				return
			}
			if found := rules()[c.rule]([]file{parseCase(t, c.path, c.good)}); len(found) != 0 {
				t.Errorf("in %s\n%s\nfound %q, want none", c.path, c.good, found)
			}
		})
	}
}

func parseCase(t *testing.T, path, src string) file {
	t.Helper()
	if !strings.Contains(src, "package ") {
		src = "package x\n" + src
	}
	f, err := parse(path, []byte(src))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func lines(n int) string { return strings.Repeat("\n", n) }
