// Package pg is what PostgreSQL 13 to 18 fix about their clusters: positions and names in the WAL, timelines, the control
// file, data pages and their checksums, the names of relation files.
//
// It never touches a server and knows nothing of repositories; the only files it opens are those a caller names. Every package
// that deals with PostgreSQL uses it: pgsource, walsource, snapshot, walarchive, restore and cmd.
//
// Numbers on disk are read as little-endian: all platforms that the project is built for are.
package pg

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Errors of this package. Each one that is returned says which input it is about.
var (
	// ErrSyntax says that a text is not the LSN, timeline, system identifier or file name that was asked for.
	ErrSyntax = errors.New("invalid syntax")
	// ErrHistory says that a timeline history file breaks its format.
	ErrHistory = errors.New("invalid timeline history")
	// ErrControlCRC says that a control file's checksum is wrong: torn by a write at the same time, or damaged.
	ErrControlCRC = errors.New("the checksum of the control file is wrong")
	// ErrControlVersion says that a control file is of a version that this package does not know.
	ErrControlVersion = errors.New("unknown version of the control file")
	// ErrControlInvalid says that a control file with a right checksum holds values that no server writes.
	ErrControlInvalid = errors.New("invalid control file")
)

// Versions of PostgreSQL that this package knows.
const (
	OldestMajor = 13
	NewestMajor = 18
)

// LSN is a position in the WAL of a timeline: bytes since the beginning of the cluster (XLogRecPtr). 0 is no position.
// As text, in JSON too, it is what the server prints: "0/16B3748".
type LSN uint64

// MaxLSN lies after every position.
const MaxLSN = ^LSN(0)

// ParseLSN reads what the server prints: two hexadecimal numbers of at most 8 digits. Errors: ErrSyntax.
func ParseLSN(s string) (LSN, error) {
	hi, lo, ok := strings.Cut(s, "/")
	if !ok || len(hi) > 8 || len(lo) > 8 {
		return 0, fmt.Errorf("LSN %q: %w", s, ErrSyntax)
	}
	h, err1 := strconv.ParseUint(hi, 16, 32)
	l, err2 := strconv.ParseUint(lo, 16, 32)
	if err1 != nil || err2 != nil {
		return 0, fmt.Errorf("LSN %q: %w", s, ErrSyntax)
	}
	return LSN(h<<32 | l), nil
}

// String is the form of pg_lsn and of the server's log up to 18.
func (l LSN) String() string { return fmt.Sprintf("%X/%X", uint32(l>>32), uint32(l)) }

// MarshalText implements encoding.TextMarshaler.
func (l LSN) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (l *LSN) UnmarshalText(b []byte) (err error) {
	*l, err = ParseLSN(string(b))
	return err
}

// Timeline is a branch of a cluster's history (TimeLineID), from 1. 0 is none. In JSON it is a number, in file names 8
// hexadecimal digits.
type Timeline uint32

// ParseTimeline reads the 8 hexadecimal digits, upper case, of a WAL file's name. Errors: ErrSyntax, also for timeline 0.
func ParseTimeline(s string) (Timeline, error) {
	v, err := parseHex8(s)
	if err != nil || v == 0 {
		return 0, fmt.Errorf("timeline %q: %w", s, ErrSyntax)
	}
	return Timeline(v), nil
}

// String is the form in file names: 8 hexadecimal digits.
func (t Timeline) String() string { return fmt.Sprintf("%08X", uint32(t)) }

// HistoryName is the name of the timeline's history file. Timeline 1 has none.
func (t Timeline) HistoryName() string { return t.String() + historySuffix }

// SystemID identifies a cluster and its physical copies (system_identifier). 0 is none. As text, in JSON too, it is decimal.
type SystemID uint64

// ParseSystemID reads a decimal system identifier. Errors: ErrSyntax.
func ParseSystemID(s string) (SystemID, error) {
	v, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("system identifier %q: %w", s, ErrSyntax)
	}
	return SystemID(v), nil
}

// String is decimal, as pg_controldata prints it.
func (s SystemID) String() string { return strconv.FormatUint(uint64(s), 10) }

// MarshalText implements encoding.TextMarshaler: a JSON number would lose digits in many readers.
func (s SystemID) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *SystemID) UnmarshalText(b []byte) (err error) {
	*s, err = ParseSystemID(string(b))
	return err
}

// parseHex8 reads exactly 8 digits of the alphabet that PostgreSQL allows in WAL file names (IsXLogFileName).
func parseHex8(s string) (uint32, error) {
	if len(s) != 8 {
		return 0, ErrSyntax
	}
	var v uint32
	for i := range 8 {
		c := s[i]
		switch {
		case c >= '0' && c <= '9':
			v = v<<4 | uint32(c-'0')
		case c >= 'A' && c <= 'F':
			v = v<<4 | uint32(c-'A'+10)
		default:
			return 0, ErrSyntax
		}
	}
	return v, nil
}
