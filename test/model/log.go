package model

import (
	"context"
	"fmt"
	"regexp"
	"strings"
)

// log is the trace of a schedule: a line for each step. Random parts of names are replaced by who made them and which of his it is,
// so that it reads well.
type log struct {
	on     bool
	lines  []string
	names  map[string]string
	counts map[string]int
	random *regexp.Regexp
}

func newLog(on bool) *log {
	return &log{on: on, names: map[string]string{}, counts: map[string]int{},
		random: regexp.MustCompile(`\d{8}T\d{6}Z-[0-9a-f]{16}|-[0-9a-f]{64}|[0-9a-f]{32}`)}
}

func (l *log) add(step int, who, what string) {
	if !l.on {
		return
	}
	line := l.random.ReplaceAllStringFunc(what, func(s string) string {
		switch {
		case s[0] == '-':
			return ""
		case l.names[s] == "":
			l.counts[who]++
			l.names[s] = fmt.Sprintf("%s.%d", who, l.counts[who])
		}
		return l.names[s]
	})
	l.lines = append(l.lines, fmt.Sprintf("%4d %-8s %s", step, who, line))
}

// String is the whole trace.
func (l *log) String() string { return strings.Join(l.lines, "\n") }

// tell adds what became of a call, and what an object says that was read or created.
func (w *world) tell(ctx context.Context, c *call, what string) {
	if !w.log.on {
		return
	}
	said := ""
	if c.verb == verbPut || c.verb == verbGet {
		said = w.oracle.objects.describe(ctx, c.key)
	}
	w.note(c.by.actor.name, strings.TrimSpace(fmt.Sprintf("%s %s: %s %s", c.verb, c.key, what, said)))
}
