package main

import (
	"strings"
)

// shellQuote writes s so that a POSIX shell reads it as one word. Plain words stay as they are.
func shellQuote(s string) string {
	plain := s != "" && strings.IndexFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_-./:=@+,", r))
	}) < 0
	if plain {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// commandLine joins words to a command that a shell takes apart again.
func commandLine(words ...string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = shellQuote(w)
	}
	return strings.Join(quoted, " ")
}

// percentQuote protects text from the placeholders (%f, %p, %r) of restore_command and archive_command.
func percentQuote(s string) string { return strings.ReplaceAll(s, "%", "%%") }
