package pg

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"time"
)

// ControlPath is where the control file stands below the data directory.
const ControlPath = "global/pg_control"

// ControlFileSize is the size of the file on disk (PG_CONTROL_FILE_SIZE); what counts is in its first 512 bytes, so that it is
// written in one sector.
const ControlFileSize = 8192

// State is what a cluster was doing when its control file was written (DBState).
type State uint32

// The states, by PostgreSQL's numbers.
const (
	StateStartup State = iota
	StateShutdown
	StateShutdownInRecovery
	StateShuttingDown
	StateInCrashRecovery
	StateInArchiveRecovery
	StateInProduction
)

// String is what pg_controldata prints.
func (s State) String() string {
	names := [...]string{"starting up", "shut down", "shut down in recovery", "shutting down", "in crash recovery",
		"in archive recovery", "in production"}
	if int(s) < len(names) {
		return names[s]
	}
	return "unrecognized status code"
}

// Clean reports whether the cluster was shut down in order.
func (s State) Clean() bool { return s == StateShutdown || s == StateShutdownInRecovery }

// Control is what the control file says (ControlFileData, pg_control.h).
type Control struct {
	SystemID       SystemID
	ControlVersion uint32 // 1300 (13 to 16), 1700 or 1800
	CatalogVersion uint32
	State          State
	Time           time.Time // of the last write, UTC, whole seconds

	// The last checkpoint, or restart point of a standby.
	CheckpointLSN  LSN       // of its record
	RedoLSN        LSN       // where its replay begins
	Timeline       Timeline  // checkPointCopy.ThisTimeLineID
	PrevTimeline   Timeline  // differs from Timeline right after a switch
	FullPageWrites bool      // at the checkpoint
	NextXID        uint64    // not yet assigned at the checkpoint: full transaction ID, epoch in the upper half
	CheckpointTime time.Time // UTC, whole seconds

	// Recovery: zero where it does not apply.
	MinRecoveryPoint    LSN
	MinRecoveryTimeline Timeline
	BackupStartPoint    LSN
	BackupEndPoint      LSN
	BackupEndRequired   bool

	// Settings that standbys and WAL depend on.
	WALLevel             WALLevel
	WALLogHints          bool
	TrackCommitTimestamp bool

	// Fixed by initdb.
	BlockSize       uint32 // of data pages, bytes
	RelSegSize      uint32 // blocks in a file of a large relation
	WALBlockSize    uint32 // bytes
	WALSegmentSize  SegmentSize
	ChecksumVersion uint32 // data_checksum_version: 0 none, 1 as PageChecksum
}

// WALLevel is the setting wal_level (WalLevel).
type WALLevel uint32

// The levels, by PostgreSQL's numbers.
const (
	WALMinimal WALLevel = iota
	WALReplica
	WALLogical
)

// String is the value of the setting.
func (l WALLevel) String() string {
	switch l {
	case WALMinimal:
		return "minimal"
	case WALReplica:
		return "replica"
	case WALLogical:
		return "logical"
	}
	return "unrecognized wal_level"
}

// Major is the major version of the servers that run the cluster, such as 15; 0 for an unknown catalog version.
func (c *Control) Major() int { return MajorFromCatalogVersion(c.CatalogVersion) }

// HasChecksums reports whether data pages have checksums.
func (c *Control) HasChecksums() bool { return c.ChecksumVersion != 0 }

// controlCRC is where each control version has its CRC: after the last field, aligned to 4. All fields that Control has stand at
// the same offsets from 13 to 18: 18 added default_char_signedness behind data_checksum_version, which moved the CRC.
func controlCRC(version uint32) (offset int, ok bool) {
	switch version {
	case 1300, 1700: // 13 to 16; 17
		return 288, true
	case 1800: // 18
		return 292, true
	}
	return 0, false
}

// ParseControl reads a control file of 13 to 18, or at least the first 512 bytes of one, and checks its CRC-32C.
// Errors: ErrControlVersion, ErrControlCRC (also for a truncated one), ErrControlInvalid.
func ParseControl(b []byte) (*Control, error) {
	le := binary.LittleEndian
	if len(b) < 12 {
		return nil, fmt.Errorf("control file of %d bytes: %w", len(b), ErrControlCRC)
	}
	version := le.Uint32(b[8:])
	crcAt, ok := controlCRC(version)
	if !ok {
		return nil, fmt.Errorf("%w: %d, known are 1300, 1700 and 1800 (PostgreSQL %d to %d)", ErrControlVersion, version, OldestMajor, NewestMajor)
	}
	if len(b) < crcAt+4 {
		return nil, fmt.Errorf("control file of %d bytes: %w", len(b), ErrControlCRC)
	}
	// MakeTable builds the table once per process.
	if got, want := crc32.Checksum(b[:crcAt], crc32.MakeTable(crc32.Castagnoli)), le.Uint32(b[crcAt:]); got != want {
		return nil, fmt.Errorf("%w: computed %08X, stored %08X", ErrControlCRC, got, want)
	}
	c := decodeControl(b)
	if err := c.validate(); err != nil {
		return nil, err
	}
	return c, nil
}

// decodeControl reads the fields at the offsets that a C compiler gives them on 64-bit machines.
func decodeControl(b []byte) *Control {
	u32 := func(at int) uint32 { return binary.LittleEndian.Uint32(b[at:]) }
	u64 := func(at int) uint64 { return binary.LittleEndian.Uint64(b[at:]) }
	seconds := func(at int) time.Time { return time.Unix(int64(u64(at)), 0).UTC() }
	const copyAt = 40 // checkPointCopy
	return &Control{
		SystemID:       SystemID(u64(0)),
		ControlVersion: u32(8),
		CatalogVersion: u32(12),
		State:          State(u32(16)),
		Time:           seconds(24),

		CheckpointLSN:  LSN(u64(32)),
		RedoLSN:        LSN(u64(copyAt)),
		Timeline:       Timeline(u32(copyAt + 8)),
		PrevTimeline:   Timeline(u32(copyAt + 12)),
		FullPageWrites: b[copyAt+16] != 0,
		NextXID:        u64(copyAt + 24),
		CheckpointTime: seconds(copyAt + 64),

		MinRecoveryPoint:    LSN(u64(136)),
		MinRecoveryTimeline: Timeline(u32(144)),
		BackupStartPoint:    LSN(u64(152)),
		BackupEndPoint:      LSN(u64(160)),
		BackupEndRequired:   b[168] != 0,

		WALLevel:             WALLevel(u32(172)),
		WALLogHints:          b[176] != 0,
		TrackCommitTimestamp: b[200] != 0,

		BlockSize:       u32(216),
		RelSegSize:      u32(220),
		WALBlockSize:    u32(224),
		WALSegmentSize:  SegmentSize(u32(228)),
		ChecksumVersion: u32(252),
	}
}

// validate refuses what could make a caller divide by zero or allocate without bounds.
func (c *Control) validate() error {
	powerOfTwo := func(v, low, high uint32) bool { return v >= low && v <= high && v&(v-1) == 0 }
	switch {
	case c.SystemID == 0:
		return fmt.Errorf("%w: system identifier 0", ErrControlInvalid)
	case !powerOfTwo(c.BlockSize, 1<<10, 32<<10):
		return fmt.Errorf("%w: block size %d", ErrControlInvalid, c.BlockSize)
	case !powerOfTwo(c.WALBlockSize, 1<<10, 64<<10):
		return fmt.Errorf("%w: WAL block size %d", ErrControlInvalid, c.WALBlockSize)
	case c.RelSegSize == 0:
		return fmt.Errorf("%w: relation segments of 0 blocks", ErrControlInvalid)
	case !c.WALSegmentSize.Valid():
		return fmt.Errorf("%w: WAL segment size %d", ErrControlInvalid, uint32(c.WALSegmentSize))
	}
	return nil
}

// ReadControl reads and checks the control file below the data directory pgdata, as ReadControlBytes does.
func ReadControl(pgdata string) (*Control, error) {
	_, c, err := ReadControlBytes(pgdata)
	return c, err
}

// A running server overwrites its control file in place, in one write that a reader can see half done. The next look comes
// after it, or after the next one: writes are rare.
const (
	controlTries = 20
	controlPause = 5 * time.Millisecond
)

// ReadControlBytes reads the control file below the data directory pgdata, again if a write of the server tore it, and returns it whole
// (ControlFileSize bytes) and parsed. It gives up after a tenth of a second.
// Errors: fs.ErrNotExist when there is none, as in what is no data directory; those of ParseControl.
func ReadControlBytes(pgdata string) ([]byte, *Control, error) {
	path := filepath.Join(pgdata, ControlPath)
	for try := 1; ; try++ {
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, nil, fmt.Errorf("read control file: %w", err)
		}
		c, err := ParseControl(b)
		if err == nil {
			return b, c, nil
		}
		if !errors.Is(err, ErrControlCRC) || try == controlTries {
			return nil, nil, fmt.Errorf("read control file %s: %w", path, err)
		}
		time.Sleep(controlPause)
	}
}
