package walarchive

import (
	"fmt"
	"strings"

	"github.com/pgtrove/pgtrove/internal/pg"
)

// Kind says what a WAL file is. The numbers stand in headers.
type Kind uint8

// The kinds of files that PostgreSQL archives.
const (
	Segment Kind = 1 // a whole segment
	Partial Kind = 2 // <segment>.partial: what a timeline's last segment held when a server left the timeline
	Backup  Kind = 3 // <segment>.<offset>.backup: a base backup's history file
	History Kind = 4 // <timeline>.history
	// Dropped is no file of PostgreSQL but a note of ours: <first segment>-<last segment>.gap, segments that were given up. See GapNote.
	Dropped Kind = 5
	// PartKind is none either, but a piece of a segment that its server has not finished: <segment>.part/<from>-<to>-<receiver>. See Part.
	PartKind Kind = 6
	// Receivers is the one note that says that parts may exist. See Archive.AnnounceReceiver.
	Receivers Kind = 7
)

// archived says whether PostgreSQL archives files of the kind.
func (k Kind) archived() bool { return k >= Segment && k <= History }

// String names the kind.
func (k Kind) String() string {
	switch k {
	case Segment:
		return "segment"
	case Partial:
		return "partial"
	case Backup:
		return "backup"
	case History:
		return "history"
	case Dropped:
		return "gap"
	case PartKind:
		return "part"
	case Receivers:
		return "receivers"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// Prefix is what the keys of all WAL objects begin with.
const Prefix = "wal/"

// Name is a WAL file's name taken apart as far as it goes without the segment size.
type Name struct {
	Kind     Kind
	Timeline pg.Timeline
	File     string // as PostgreSQL calls it
}

// OfSegment is the name of the segment that a file is or belongs to, the first one of a GapNote; "" of other kinds.
func (n Name) OfSegment() string {
	if n.Kind == History || n.Kind == Receivers {
		return ""
	}
	return n.File[:24]
}

// Span says which bytes of its segment a part has; 0 and 0 of other kinds.
func (n Name) Span() (from, to int64) {
	p, err := parsePartName(n.File)
	if n.Kind != PartKind || err != nil {
		return 0, 0
	}
	return p.From, p.To
}

// number is the segment that a file is or belongs to where segments have that size.
func (n Name) number(size pg.SegmentSize) (pg.Segment, error) {
	return pg.ParseSegment(n.OfSegment(), size)
}

// ParseName takes apart the name of any file that PostgreSQL archives, and those of a GapNote, a Part and the note of receivers. ErrInvalid:
// there is no file of that name.
func ParseName(file string) (Name, error) {
	if file == receiversFile {
		return Name{Kind: Receivers, File: file}, nil
	}
	first, _, ok := cutGapName(file)
	kindOfOurs := Dropped
	if strings.Contains(file, partSuffix) {
		p, err := parsePartName(file)
		if err != nil {
			return Name{}, err
		}
		first, kindOfOurs, ok = p.Segment, PartKind, true
	}
	if ok {
		tli, err := pg.WALFileTimeline(first)
		if err != nil {
			return Name{}, fmt.Errorf("%w: %w", ErrInvalid, err)
		}
		return Name{Kind: kindOfOurs, Timeline: tli, File: file}, nil
	}
	kind, err := pg.ClassifyWALFile(file)
	if err != nil {
		return Name{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	tli, err := pg.WALFileTimeline(file)
	if err != nil {
		return Name{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	n := Name{Timeline: tli, File: file}
	switch kind {
	case pg.KindSegment:
		n.Kind = Segment
	case pg.KindPartial:
		n.Kind = Partial
	case pg.KindBackup:
		n.Kind = Backup
	case pg.KindHistory:
		n.Kind = History
	}
	return n, nil
}

// prefix is what the keys of one cluster's WAL begin with.
func (a Archive) prefix() string {
	return Prefix + a.Cluster + "/" + a.System.String() + "/"
}

// Key returns the object key of a file. A history file stands beside its timeline's directory, so that a probe for a
// timeline is one Get; and so does the note of receivers.
func (a Archive) Key(n Name) string {
	if n.Kind == History || n.Kind == Receivers {
		return a.prefix() + n.File
	}
	return a.prefix() + n.Timeline.String() + "/" + n.File
}

// ParseKey is the inverse of Key, for keys of any cluster. ErrInvalid: no WAL object is called so.
func ParseKey(key string) (cluster string, system pg.SystemID, n Name, err error) {
	bad := func() (string, pg.SystemID, Name, error) {
		return "", 0, Name{}, fmt.Errorf("%w: object key %q", ErrInvalid, key)
	}
	rest, ok := strings.CutPrefix(key, Prefix)
	parts := strings.SplitN(rest, "/", 4)
	if !ok || len(parts) < 3 || parts[0] == "" {
		return bad()
	}
	system, err = pg.ParseSystemID(parts[1])
	if err != nil {
		return bad()
	}
	n, err = ParseName(parts[len(parts)-1])
	if err != nil {
		return bad()
	}
	a := Archive{Cluster: parts[0], System: system}
	if a.Key(n) != key {
		return bad()
	}
	return parts[0], system, n, nil
}
