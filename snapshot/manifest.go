package snapshot

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/pgtrove/pgtrove/internal/pg"
)

// Version is the version of the manifest's JSON that this package writes and reads.
const Version = 1

// Errors of this package.
var (
	// ErrInvalid says that a manifest, listing or recipe was authentic but breaks its format.
	ErrInvalid = errors.New("invalid snapshot data")
	// ErrNotFound says that no snapshot has the ID asked for.
	ErrNotFound = errors.New("no such snapshot")
	// ErrAmbiguous says that an abbreviated ID fits more than one snapshot.
	ErrAmbiguous = errors.New("ambiguous snapshot")
)

// Manifest is what is known of one snapshot besides its files: the payload of the commit object
// snapshots/<cluster>/<id>. docs/format.md lists every field.
type Manifest struct {
	Version int    `json:"version"`
	ID      string `json:"id"` // the session that wrote it; its name in the repository
	Cluster string `json:"cluster"`

	Server Server `json:"server"`
	Origin Origin `json:"origin"`
	Window Window `json:"window"`
	Totals Totals `json:"totals"`

	Tags    map[string]string `json:"tags,omitempty"`
	WAL     WALState          `json:"wal"`               // as of the commit
	Damaged []DamagedPage     `json:"damaged,omitempty"` // pages whose checksum was wrong in the source

	// Unsettled are paths of files in which a page was wrong and excused: the server seemed to be writing it.
	Unsettled []string `json:"unsettled,omitempty"`

	BackupLabel   []byte `json:"backup_label"`             // byte for byte from pg_backup_stop
	TablespaceMap []byte `json:"tablespace_map,omitempty"` // likewise; empty: the cluster has no tablespaces
	Root          Root   `json:"root"`
}

// Server describes the PostgreSQL cluster that was backed up.
type Server struct {
	SystemID       pg.SystemID    `json:"system_id"`
	Version        int            `json:"version"`          // server_version_num, such as 150018
	BlockSize      int            `json:"block_size"`       // bytes
	WALSegmentSize pg.SegmentSize `json:"wal_segment_size"` // bytes
	Checksums      bool           `json:"checksums"`        // data_checksums
	DataDirectory  string         `json:"data_directory"`
}

// Major returns the major version, such as 15.
func (s Server) Major() int { return s.Version / 10000 }

// VersionString returns the version as people write it, such as "15.18".
func (s Server) VersionString() string { return fmt.Sprintf("%d.%d", s.Version/10000, s.Version%10000) }

// Origin says where and by what a snapshot was taken.
type Origin struct {
	Host    string `json:"host"`
	Tool    string `json:"tool"`    // "pgtrove <version>"
	Standby bool   `json:"standby"` // taken from a server in recovery
}

// Window is the stretch of WAL that a recovery from this snapshot has to replay before it is consistent.
type Window struct {
	Timeline     pg.Timeline `json:"timeline"` // at the start
	StopTimeline pg.Timeline `json:"stop_timeline"`
	StartLSN     pg.LSN      `json:"start_lsn"`
	StopLSN      pg.LSN      `json:"stop_lsn"`
	StartTime    time.Time   `json:"start_time"` // the server's clock, UTC
	StopTime     time.Time   `json:"stop_time"`
	NextXID      uint64      `json:"next_xid"` // full transaction ID (epoch in the upper half) not yet assigned at the stop; 0: unknown
}

// Totals counts a snapshot, in bytes where nothing else is said.
type Totals struct {
	Size  int64 `json:"size"`  // of the cluster: all regular files
	Read  int64 `json:"read"`  // read from the data directory
	New   int64 `json:"new"`   // plain bytes of the chunks that the repository did not have
	Added int64 `json:"added"` // stored by this snapshot: packs and index segments
	Files int64 `json:"files"`

	ChangedPages int64   `json:"changed_pages,omitzero"` // pages of relation files that are not as in the snapshot before
	Skipped      Skipped `json:"skipped,omitzero"`
	Meta         int64   `json:"meta,omitzero"`    // the part of Added that is listings, recipes and index
	Seconds      float64 `json:"seconds,omitzero"` // from the start of the program to the commit
}

// Skipped counts what was not read, because it cannot have changed since the snapshot before.
type Skipped struct {
	Files      int64 `json:"files"` // whole files
	FileBytes  int64 `json:"file_bytes"`
	BlockBytes int64 `json:"block_bytes"` // of files that were opened, or of which no page was listed as changed
}

// WALState says whether the WAL from start to stop was in the repository.
type WALState string

// The states of a snapshot's WAL.
const (
	WALComplete WALState = "complete"
	WALMissing  WALState = "missing"  // waited for, and did not come
	WALUnproven WALState = "unproven" // nobody looked
)

// DamagedPage is a page whose checksum did not match in the source. It is stored as it was read.
type DamagedPage struct {
	Path     string `json:"path"`  // in the listing
	Block    uint32 `json:"block"` // counted from the start of the relation, as pg_checksums does
	Stored   uint16 `json:"stored"`
	Computed uint16 `json:"computed"`
}

// Validate checks what a reader relies on.
func (m *Manifest) Validate() error {
	switch {
	case m.Version != Version:
		return fmt.Errorf("%w: manifest version %d, this program reads %d", ErrInvalid, m.Version, Version)
	case m.ID == "" || m.Cluster == "":
		return fmt.Errorf("%w: manifest without ID or cluster", ErrInvalid)
	case m.Server.BlockSize <= 0 || m.Server.BlockSize&(m.Server.BlockSize-1) != 0:
		return fmt.Errorf("%w: block size %d", ErrInvalid, m.Server.BlockSize)
	case !m.Server.WALSegmentSize.Valid():
		return fmt.Errorf("%w: WAL segment size %d", ErrInvalid, m.Server.WALSegmentSize)
	case m.Window.StopLSN < m.Window.StartLSN:
		return fmt.Errorf("%w: stop %s lies before start %s", ErrInvalid, m.Window.StopLSN, m.Window.StartLSN)
	case len(m.BackupLabel) == 0:
		return fmt.Errorf("%w: no backup_label", ErrInvalid)
	}
	return m.Root.validate()
}

// Marshal returns the manifest's stored form, JSON.
func (m *Manifest) Marshal() ([]byte, error) {
	if err := m.Validate(); err != nil {
		return nil, err
	}
	return json.Marshal(m)
}

// ParseManifest reads what Marshal wrote and validates it.
func ParseManifest(b []byte) (*Manifest, error) {
	var m Manifest
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, fmt.Errorf("%w: manifest: %v", ErrInvalid, err)
	}
	if err := m.Validate(); err != nil {
		return nil, err
	}
	return &m, nil
}
