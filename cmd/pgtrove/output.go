package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// output is where a command speaks: results on stdout, everything else on stderr. It is safe for concurrent use.
type output struct {
	stdout   io.Writer
	stderr   io.Writer
	terminal bool // stderr draws

	json, quiet, verbose bool

	mu    sync.Mutex
	above io.Writer // while a progress bar is drawn, lines go above it
}

// object prints one result as a line of JSON.
func (o *output) object(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode result: %w", err)
	}
	return o.result(append(b, '\n'))
}

// print writes human text that is a result.
func (o *output) print(format string, args ...any) error {
	return o.result(fmt.Appendf(nil, format, args...))
}

func (o *output) result(b []byte) error {
	if _, err := o.stdout.Write(b); err != nil {
		return fmt.Errorf("write result: %w", err)
	}
	return nil
}

// info says what happens; -q leaves it out.
func (o *output) info(format string, args ...any) {
	if !o.quiet {
		o.line("", format, args...)
	}
}

// detail says what only -v shows.
func (o *output) detail(format string, args ...any) {
	if o.verbose {
		o.line("", format, args...)
	}
}

// warn says what a person should know though the command goes on.
func (o *output) warn(format string, args ...any) { o.line("pgtrove: warning: ", format, args...) }

func (o *output) line(prefix, format string, args ...any) {
	o.mu.Lock()
	defer o.mu.Unlock()
	w := o.stderr
	if o.above != nil {
		w = o.above
	}
	_, _ = fmt.Fprintf(w, "%s%s\n", prefix, oneLine(fmt.Sprintf(format, args...)))
}

// drawAbove sends lines to w until it is called with nil.
func (o *output) drawAbove(w io.Writer) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.above = w
}

// oneLine joins what libraries spread over several lines.
func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// jsonTime is a time in a result: RFC 3339 in UTC, to the microsecond that PostgreSQL keeps; null when unknown.
type jsonTime time.Time

// MarshalJSON implements json.Marshaler.
func (t jsonTime) MarshalJSON() ([]byte, error) {
	if time.Time(t).IsZero() {
		return []byte("null"), nil
	}
	return json.Marshal(time.Time(t).UTC().Truncate(time.Microsecond).Format(time.RFC3339Nano))
}

// showTime is a time for people: UTC, to the second.
func showTime(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02 15:04:05Z")
}

func showJSONTime(t jsonTime) string { return showTime(time.Time(t)) }
