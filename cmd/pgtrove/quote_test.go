package main

import (
	"os/exec"
	"strings"
	"testing"
)

func TestAShellReadsBackWhatWasQuoted(t *testing.T) {
	words := []string{"plain", "/a b/c", "it's", `back\slash`, "$HOME `id` $(id)", "", "*", "~", "a\nb", `"`, "%p", "-x", "é", "a;b&c|d>e", "!"}
	line := "printf '%s\\0' " + commandLine(words...)
	for _, shell := range []string{"sh", "bash"} {
		out, err := exec.Command(shell, "-c", line).Output()
		if err != nil {
			t.Fatalf("%s: %v", shell, err)
		}
		if got := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00"); strings.Join(got, "|") != strings.Join(words, "|") {
			t.Errorf("%s reads %q, want %q", shell, got, words)
		}
	}
}

func TestPlainWordsAreNotQuoted(t *testing.T) {
	if got := commandLine("/usr/bin/pgtrove", "--repo=/srv/b_1.2", "wal", "push"); got != "/usr/bin/pgtrove --repo=/srv/b_1.2 wal push" {
		t.Error(got)
	}
}

func TestPercentSignsSurvivePostgreSQLsPlaceholders(t *testing.T) {
	if got := percentQuote("/srv/100%f"); got != "/srv/100%%f" {
		t.Error(got)
	}
}
