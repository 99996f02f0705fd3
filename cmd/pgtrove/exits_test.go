package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write generated documentation instead of comparing it")

func TestExitCodesPageIsTheTable(t *testing.T) {
	page := filepath.Join("..", "..", "docs", "exit-codes.md")
	want := exitCodesPage()
	if *update {
		if err := os.WriteFile(page, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(page)
	if err != nil || string(got) != want {
		t.Errorf("docs/exit-codes.md is stale (%v): run go test ./cmd/pgtrove -run ExitCodesPage -update", err)
	}
}

// exitCodesPage writes the documentation from the table that the program itself uses.
func exitCodesPage() string {
	var b strings.Builder
	b.WriteString(`# Exit codes and messages

Generated from the table in ` + "`cmd/pgtrove/exittable.go`" + ` by ` + "`go test ./cmd/pgtrove -run ExitCodesPage -update`" + `; a test fails
when it is stale.

Every failure is one line on stderr, ` + "`pgtrove: <what failed>: <why>`" + `, and, where a person can do something about it, a
line ` + "`hint: <what to do>`" + `.

| code | meaning |
|---|---|
`)
	for _, m := range codeMeanings() {
		fmt.Fprintf(&b, "| %d | %s |\n", m.code, m.meaning)
	}
	b.WriteString(`
PostgreSQL runs ` + "`wal push`" + ` and ` + "`wal fetch`" + ` and reads their exit codes its own way:

- ` + "`wal push`" + ` (archive_command): 0 means that the file is durable in the repository; or, only with
  ` + "`--max-backlog`" + ` and a warning, that it was given up and the gap durably recorded. Every failure is between 1 and 125, also a
  signal that ended the command; PostgreSQL keeps the file and tries again.
- ` + "`wal fetch`" + ` (restore_command): 4 means that the repository was read and does not hold the file; recovery ends there. Every
  other failure, a mistake on the command line included, is 126, which makes PostgreSQL give up instead of ending recovery
  early. On a standby (` + "`standby.signal`" + ` in the working directory) 126 would shut the server down, and every other failure is 7:
  PostgreSQL asks again. ` + "`--strict`" + ` makes it 126 there too.

## Errors

The first line that fits an error decides.

| error | code | meaning | hint |
|---|---|---|---|
`)
	for _, r := range exitRules() {
		hint := r.hint
		if r.ofBucket != "" {
			hint += "; in a bucket: " + r.ofBucket
		}
		if r.hintOf != nil {
			hint = strings.TrimPrefix(hint+"; as the error says", "; ")
		}
		fmt.Fprintf(&b, "| %s | %d | %s | %s |\n", r.name, r.code, r.meaning, strings.ReplaceAll(hint, "|", "\\|"))
	}
	return b.String()
}

func TestEveryRuleIsReachable(t *testing.T) {
	for i, r := range exitRules() {
		if r.is == nil {
			continue
		}
		if got := classify(fmt.Errorf("outer: %w", r.is)); got.name != r.name {
			t.Errorf("rule %d, %s: its error is classified as %s", i, r.name, got.name)
		}
	}
}

func TestAllExitCodesArePromised(t *testing.T) {
	promised := map[int]bool{}
	for _, m := range codeMeanings() {
		promised[m.code] = true
	}
	for _, r := range exitRules() {
		if !promised[r.code] || r.code == codeDone || r.code >= codeFetch {
			t.Errorf("%s exits with %d", r.name, r.code)
		}
	}
}

func TestOnlyAbsenceEndsARecovery(t *testing.T) {
	t.Chdir(t.TempDir())
	failures := []error{usageError{err: errors.New("x")}, errInterrupted, errRefused, errors.New("x")}
	for _, r := range exitRules() {
		if r.is != nil && r.is != errAbsentFile {
			failures = append(failures, r.is)
		}
	}
	codes := func(p exitPolicy, want int) {
		t.Helper()
		if got := p.code(fmt.Errorf("fetch: %w", errAbsentFile)); got != codeAbsent {
			t.Errorf("absent: exit code %d", got)
		}
		for _, err := range failures {
			if got := p.code(fmt.Errorf("fetch: %w", err)); got != want {
				t.Errorf("%v: exit code %d, want %d", err, got, want)
			}
		}
	}
	codes(exitPolicy{fetch: true}, 126)
	codes(exitPolicy{fetch: true, strict: true}, 126)
	if err := os.WriteFile("standby.signal", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	codes(exitPolicy{fetch: true}, 7)
	codes(exitPolicy{fetch: true, strict: true}, 126)
}

func TestMistakesInRestoreCommandDoNotEndARecovery(t *testing.T) {
	const file = "000000010000000000000001"
	for line, want := range map[string]bool{
		"wal fetch " + file + " pg_wal/RECOVERYXLOG": true,
		"wal fetch --colour " + file + " p":          true,
		"--colour wal fetch " + file + " p":          true,
		"--rpo /srv/b wal fetch 00000002.history p":  true,
		"--repo /srv/b wal fetch " + file:            true,
		"wal --repo /srv/b fetch " + file + " p":     true,
		"wal fecth " + file + " p":                   true,
		"fetch " + file + " p":                       true,
		"wla fetch 00000002.history p":               true,
		"wal push pg_wal/" + file:                    false,
		"wal push " + file:                           false,
		"inspect wal/main/7/00000001/" + file:        false,
		"backup --tag wal=fetch":                     false,
		"bakup":                                      false,
	} {
		if got := exitPolicyOf(newRootCommand(newApp()), strings.Fields(line)).fetch; got != want {
			t.Errorf("%q: recovery reads its exit code: %v, want %v", line, got, want)
		}
	}
}

func TestAnErrorMayBringItsOwnHint(t *testing.T) {
	a := &app{}
	if got := a.hint(fmt.Errorf("outer: %w", withHint(refused("no"), "do %d", 5))); got != "do 5" {
		t.Errorf("hint %q", got)
	}
}

// panicking returns a program that panics as soon as a command looks at its environment.
func panicking() (*app, *strings.Builder) {
	var text strings.Builder
	a := newApp()
	a.stdout, a.stderr = &text, &text
	a.out = &output{stdout: &text, stderr: &text}
	asked := false
	a.env.lookup = func(string) (string, bool) {
		if asked {
			return "", false
		}
		asked = true
		panic("boom")
	}
	return a, &text
}

func TestAPanicIsAMessageAndAnExitCode(t *testing.T) {
	t.Chdir(t.TempDir())
	for line, want := range map[string]int{"version": 1, "wal push x": 1, "wal fetch 00000002.history x": 126} {
		a, text := panicking()
		code := a.main(strings.Fields(line))
		if got := text.String(); code != want || !strings.HasPrefix(got, "pgtrove: internal error: boom\nhint: ") || strings.Contains(got, "goroutine") {
			t.Errorf("%s: exit code %d, want %d, and it said:\n%s", line, code, want, got)
		}
	}
}
