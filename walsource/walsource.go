// Package walsource is the source side of WAL archiving: it reads the files that PostgreSQL hands to archive_command, decides
// whether they are what their names say, and reads out of a segment what a recovery wants to know beforehand.
//
// It never writes, never talks to a server and knows nothing of repositories. cmd uses it for wal push, the standby's and the
// backup's own WAL go through it too.
//
// A segment is read once from its first byte to its last: page headers (xlog_internal.h) and the chain of records with their checksums
// (xlogrecord.h), whose form is the same from PostgreSQL 13 to 18. Numbers are little-endian, as in internal/pg.
package walsource

import (
	"errors"
	"fmt"
	"time"

	"github.com/pgtrove/pgtrove/internal/pg"
)

// Errors of this package. Those that are returned name the file, say what was found and what was expected.
//
// All but ErrBroken mean that the file must not be archived under its name.
var (
	// ErrEmpty says that a file is empty, or nothing but zeros: made beforehand, never written.
	ErrEmpty = errors.New("empty file")
	// ErrTruncated says that a file is shorter than it must be.
	ErrTruncated = errors.New("truncated file")
	// ErrForeign says that a segment belongs to another cluster.
	ErrForeign = errors.New("file of another cluster")
	// ErrMisnamed says that a file is WAL, but not the part of it that its name says.
	ErrMisnamed = errors.New("content does not fit the name")
	// ErrVersion says that a segment was written by a version of PostgreSQL that this package does not know.
	ErrVersion = errors.New("unknown version of WAL")
	// ErrNotWAL says that a file has a WAL file's name and something else in it.
	ErrNotWAL = errors.New("not a WAL file")
	// ErrUnfinished is in a RecordError: the server has not filled the segment yet.
	ErrUnfinished = errors.New("unfinished segment")
	// ErrBroken is in a RecordError: the server has filled the segment, but its records cannot be read to the end.
	ErrBroken = errors.New("broken WAL")
)

// Expect is what the caller knows of the cluster, from its control file. A zero field is not compared.
type Expect struct {
	SystemID    pg.SystemID
	SegmentSize pg.SegmentSize // bytes
	BlockSize   uint32         // of WAL pages, bytes
}

// ExpectControl takes it all from a control file.
func ExpectControl(c *pg.Control) Expect {
	return Expect{SystemID: c.SystemID, SegmentSize: c.WALSegmentSize, BlockSize: c.WALBlockSize}
}

// Header is what the first page of a segment says.
type Header struct {
	SystemID      pg.SystemID
	SegmentSize   pg.SegmentSize // bytes
	BlockSize     uint32         // of WAL pages, bytes
	Magic         uint16         // XLOG_PAGE_MAGIC
	Major         int            // of the PostgreSQL that Magic belongs to, such as 15
	FirstTimeline pg.Timeline    // of the first page: below the name's where the timeline forked off inside the segment
}

// Ends sums up the transactions that ended in a segment: the records of COMMIT, ABORT, COMMIT PREPARED and ROLLBACK PREPARED, which are those that
// recovery compares with a target time or xid (recoveryStopsBefore and recoveryStopsAfter, xlogrecovery.c). A subtransaction that was
// rolled back counts, as it does there.
type Ends struct {
	Commits, Aborts int // records

	// The earliest and latest time in these records, UTC, microseconds; zero when there are none. The order of the records is not exactly
	// that of their times. Recovery to a time needs a record with a later one to stop before, so that LastCommit itself
	// is already too late for a target when nothing comes after it.
	FirstCommit, LastCommit time.Time

	// The lowest and highest transaction ID that ended, in the order modulo 2^32; 0 when there are none.
	MinXID, MaxXID uint32
}

// RestorePoint is a target for recovery_target_name.
type RestorePoint struct {
	Name string
	LSN  pg.LSN    // after the record: what pg_create_restore_point returned
	Time time.Time // UTC, microseconds
}

// Info is what is known of a segment after it was read. What a record says belongs to the segment in which the record ends.
type Info struct {
	Header
	Ends
	Segment pg.Segment // by its name
	Partial bool       // by its name: the end of a timeline that was left

	Records       int // that end in the segment
	RestorePoints []RestorePoint
	// EndOfData is the position after the last record that is whole in the segment, and the segment's end when a record runs into the next
	// one. What comes behind it is padding after XLOG_SWITCH, or in a partial segment of no meaning.
	EndOfData pg.LSN
	Switched  bool // the segment was ended early, as by pg_switch_wal
	// FullPageWritesOff: the segment says that full_page_writes was off at some time: by a change of it or at a checkpoint.
	FullPageWritesOff bool
	// HeadUnread: the segment begins in the midst of a record whose beginning was not at hand. If that record ends here and is the end of a
	// transaction or a restore point, it is missing above.
	HeadUnread bool
	// Unknown counts records of transactions' ends, checkpoints and restore points in a form that no known version writes, though their
	// checksums are right. What they say is missing above.
	Unknown int
}

// RecordError says where the chain of records of a segment with a valid first page ends before the segment does. It wraps ErrUnfinished
// or ErrBroken; the Info that comes with it holds what was read up to there. Partial segments never have it: behind their last record
// stands anything.
//
// A server archives a segment when it is full: then its records are valid up to its end or to XLOG_SWITCH, and a record that a crash
// cut off is marked as such. So there are two ways to get here, told apart by the segment's last page.
//
// ErrUnfinished: the last page is not written, or the chain ends on it: somebody pushes a segment that the server still writes, by hand
// for example. It must be refused: archived, it would conflict with the segment's real content for ever.
//
// ErrBroken: the server wrote up to the end, but something in between was damaged or is of a derivative with its own format.
// Store it, mark it as not recoverable past LSN, and warn: the bytes are all that there is, they do not get better by being
// refused, and an archiver that stops here keeps every later segment out of the archive and fills the server's disk. A new base
// backup makes whole again what comes after.
type RecordError struct {
	Name   string // of the file
	LSN    pg.LSN // of the record or page that is wrong
	Reason string
	Err    error // ErrUnfinished or ErrBroken
}

func (e *RecordError) Error() string {
	return fmt.Sprintf("%s: %v at %s: %s", e.Name, e.Err, e.LSN, e.Reason)
}

func (e *RecordError) Unwrap() error { return e.Err }
