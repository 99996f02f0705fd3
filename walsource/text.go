package walsource

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/pgtrove/pgtrove/internal/pg"
)

// BackupHistory is what a backup history file says (build_backup_content, xlogbackup.c).
type BackupHistory struct {
	Start, Stop         pg.LSN
	StartFile, StopFile string // names of segments
	Label               string // its first line
	StartTime, StopTime string // as the server wrote them, in its log_timezone
}

// ValidateHistory checks that data is the content of the timeline history file name.
// Errors: pg.ErrSyntax for another name, ErrEmpty, ErrTruncated, ErrMisnamed (wraps pg.ErrHistory).
func ValidateHistory(name string, data []byte) (pg.History, error) {
	kind, err := pg.ClassifyWALFile(name)
	if err != nil {
		return nil, err
	}
	if kind != pg.KindHistory {
		return nil, fmt.Errorf("%s is a %s, not a history file: %w", name, kind, pg.ErrSyntax)
	}
	tli, err := pg.WALFileTimeline(name)
	if err != nil {
		return nil, err
	}
	if err := checkText(data); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	h, err := pg.ParseHistory(tli, data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", name, ErrMisnamed, err)
	}
	if len(h) < 2 {
		return nil, fmt.Errorf("%s: %w: it names no ancestor of timeline %d", name, ErrEmpty, tli)
	}
	return h, nil
}

// checkText accepts what the server writes: lines, each with its end.
func checkText(data []byte) error {
	switch {
	case len(bytes.Trim(data, "\x00")) == 0:
		return fmt.Errorf("%w: %d bytes, none but zeros", ErrEmpty, len(data))
	case bytes.IndexByte(data, 0) >= 0:
		return fmt.Errorf("%w: a zero byte in a text file", ErrNotWAL)
	case data[len(data)-1] != '\n':
		return fmt.Errorf("%w: its last line has no end", ErrTruncated)
	}
	return nil
}

// ValidateBackup checks that data is the content of the backup history file name.
// Errors: pg.ErrSyntax for another name, ErrEmpty, ErrTruncated, ErrMisnamed, ErrNotWAL.
func ValidateBackup(name string, data []byte, expect Expect) (*BackupHistory, error) {
	kind, err := pg.ClassifyWALFile(name)
	if err != nil {
		return nil, err
	}
	if kind != pg.KindBackup {
		return nil, fmt.Errorf("%s is a %s, not a backup history file: %w", name, kind, pg.ErrSyntax)
	}
	if err := checkText(data); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	b, err := parseBackup(string(data))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	segment, offset := name[:24], name[25:33]
	// The timeline in the name is that of the stop.
	if b.StartFile[8:] != segment[8:] {
		return nil, fmt.Errorf("%s: %w: its backup starts in %s", name, ErrMisnamed, b.StartFile)
	}
	if size := expect.SegmentSize; size != 0 {
		if got := fmt.Sprintf("%08X", uint64(b.Start)%uint64(size)); got != offset {
			return nil, fmt.Errorf("%s: %w: its backup starts at offset %s", name, ErrMisnamed, got)
		}
	}
	return b, nil
}

// parseBackup reads the lines "NAME: value". The positions must be there; they stand before the label, which is free text.
func parseBackup(text string) (*BackupHistory, error) {
	b := new(BackupHistory)
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		var err error
		switch {
		case key == "START WAL LOCATION" && b.StartFile == "":
			b.Start, b.StartFile, err = parseLocation(value)
		case key == "STOP WAL LOCATION" && b.StopFile == "":
			b.Stop, b.StopFile, err = parseLocation(value)
		case key == "START TIME" && b.StartTime == "":
			b.StartTime = value
		case key == "LABEL" && b.Label == "":
			b.Label = value
		case key == "STOP TIME":
			b.StopTime = value
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %s: %w", ErrNotWAL, key, err)
		}
	}
	switch {
	case b.StartFile == "":
		return nil, fmt.Errorf("%w: no START WAL LOCATION", ErrNotWAL)
	case b.StopFile == "":
		return nil, fmt.Errorf("%w: no STOP WAL LOCATION", ErrTruncated)
	case b.Stop < b.Start:
		return nil, fmt.Errorf("%w: the backup stops at %s before its start at %s", ErrNotWAL, b.Stop, b.Start)
	}
	return b, nil
}

// parseLocation reads "0/2000028 (file 000000010000000000000002)".
func parseLocation(s string) (pg.LSN, string, error) {
	text, rest, _ := strings.Cut(s, " (file ")
	file, end, _ := strings.Cut(rest, ")")
	lsn, err := pg.ParseLSN(text)
	if err != nil {
		return 0, "", err
	}
	if kind, err := pg.ClassifyWALFile(file); err != nil || kind != pg.KindSegment || end != "" {
		return 0, "", fmt.Errorf("location %q: %w", s, pg.ErrSyntax)
	}
	return lsn, file, nil
}
