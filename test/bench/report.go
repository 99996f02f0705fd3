package main

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"
	"unicode/utf8"
)

// report is what a section found, in the form in which it is printed and
// written into docs/performance.md.
type report struct {
	head  []string
	rows  [][]string
	notes []string // sentences below the table
}

func (r *report) row(cells ...string) { r.rows = append(r.rows, cells) }

func (r *report) notef(format string, args ...any) {
	r.notes = append(r.notes, fmt.Sprintf(format, args...))
}

// markdown is the table with its columns aligned, and the notes, wrapped.
func (r *report) markdown() string {
	widths := make([]int, len(r.head))
	all := append([][]string{r.head}, r.rows...)
	for _, row := range all {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	var out strings.Builder
	for n, row := range all {
		for i := range r.head {
			cell := ""
			if i < len(row) {
				cell = row[i]
			}
			fmt.Fprintf(&out, "| %s%s ", cell, strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)))
		}
		out.WriteString("|\n")
		if n > 0 {
			continue
		}
		for _, w := range widths {
			out.WriteString("|" + strings.Repeat("-", w+2))
		}
		out.WriteString("|\n")
	}
	out.WriteString("\n" + wrap(strings.Join(r.notes, " "), 125))
	return out.String()
}

// wrap breaks text into lines of at most width characters.
func wrap(text string, width int) string {
	var out strings.Builder
	at := 0
	for word := range strings.FieldsSeq(text) {
		n := utf8.RuneCountInString(word)
		switch {
		case at == 0:
		case at+1+n > width:
			out.WriteByte('\n')
			at = 0
		default:
			out.WriteByte(' ')
			at++
		}
		out.WriteString(word)
		at += n
	}
	return out.String() + "\n"
}

// circumstances are the sentence that every table ends with.
func (r *report) circumstances(programs ...string) {
	all := append([]string{fmt.Sprintf("%s (%s) with %d processors", system(), processor(), runtime.NumCPU())}, programs...)
	r.notef("Measured on %s on %s.", time.Now().UTC().Format("2006-01-02"), strings.Join(all, ", "))
}

func processor() string {
	text, _ := os.ReadFile("/proc/cpuinfo") // not there: unknown
	_, rest, found := strings.Cut(string(text), "model name")
	if !found {
		return runtime.GOARCH
	}
	line, _, _ := strings.Cut(rest, "\n")
	return strings.Join(strings.Fields(strings.TrimLeft(line, " \t:")), " ")
}

func system() string {
	text, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return "Linux " + strings.TrimSpace(string(text))
}

// fillIn puts body between the section's markers in the page at path. What
// stands around them is written by people.
func fillIn(path, section, body string) error {
	page, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	begin := []byte("<!-- bench:" + section + " -->\n")
	end := []byte("<!-- /bench -->")
	head, rest, found := bytes.Cut(page, begin)
	if !found {
		return fmt.Errorf("%s has no line %q", path, bytes.TrimSpace(begin))
	}
	at := bytes.Index(rest, end)
	if at < 0 {
		return fmt.Errorf("%s: %q is not ended", path, bytes.TrimSpace(begin))
	}
	return os.WriteFile(path, bytes.Join([][]byte{head, begin, []byte(body), rest[at:]}, nil), 0o644)
}

func seconds(d time.Duration) string {
	if d < time.Second {
		return fmt.Sprintf("%.2f s", d.Seconds())
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}

// size is bytes in decimal units, three digits.
func size(n int64) string {
	for _, u := range []struct {
		unit string
		size float64
	}{{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"KB", 1e3}} {
		if v := float64(n) / u.size; v >= 1 {
			return fmt.Sprintf("%.*f %s", digits(v), v, u.unit)
		}
	}
	return fmt.Sprintf("%d bytes", n)
}

func digits(v float64) int {
	switch {
	case v < 10:
		return 2
	case v < 100:
		return 1
	}
	return 0
}

// spread is a median with its range.
func spread(values []float64) string {
	if len(values) == 1 {
		return fmt.Sprintf("%.2f", values[0])
	}
	low, high := values[0], values[0]
	for _, v := range values {
		low, high = min(low, v), max(high, v)
	}
	return fmt.Sprintf("%.2f (%.2f-%.2f)", median(values), low, high)
}

// asked says what was wanted of a figure, and whether it is so.
func asked(value, most float64) string {
	if value <= most {
		return fmt.Sprintf("at most %s: met", plain(most))
	}
	return fmt.Sprintf("at most %s: **missed**", plain(most))
}

// plain is a ratio with two decimals, or a count.
func plain(value float64) string {
	if value == float64(int64(value)) && value != 1 {
		return fmt.Sprintf("%.0f", value)
	}
	return fmt.Sprintf("%.2f", value)
}
