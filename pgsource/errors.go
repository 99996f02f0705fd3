package pgsource

import (
	"errors"
	"fmt"
	"strings"

	"github.com/pgtrove/pgtrove/internal/pg"
)

// Errors of this package, for errors.Is.
var (
	// ErrSettings says that the connection string or the libpq environment is wrong, or names a database that is not there.
	ErrSettings = errors.New("invalid connection settings")
	// ErrUnreachable says that no server answers, or that it takes no connections now (starting, shutting down, full).
	ErrUnreachable = errors.New("server unreachable")
	// ErrRejected says that the server does not let the role in: pg_hba.conf, password, certificate.
	ErrRejected = errors.New("connection rejected by the server")
	// ErrConnectionLost says that the connection ended in between. It voids a backup that was running.
	ErrConnectionLost = errors.New("connection to the server lost")
	// ErrNotDataDir says that a directory is not a data directory of PostgreSQL.
	ErrNotDataDir = errors.New("not a data directory")
	// ErrForeign says that a data directory is not the one in which the server of the connection runs.
	ErrForeign = errors.New("not the data directory of this server")
	// ErrWALLevel says that wal_level is minimal, with which no backup can be made.
	ErrWALLevel = errors.New("wal_level is minimal")
	// ErrPromoted says that the standby was promoted while the backup ran. It voids the backup.
	ErrPromoted = errors.New("the standby was promoted during the backup")
	// ErrFullPageWrites says that a standby replayed WAL which its primary wrote with full_page_writes off, after the point
	// where the backup began. It voids the backup, or keeps it from starting.
	ErrFullPageWrites = errors.New("the primary wrote WAL with full_page_writes off")
	// ErrBackupState says that a backup was started twice on a connection, or stopped without having been started.
	ErrBackupState = errors.New("no backup can be started or stopped now")
	// ErrSegmentIncomplete says that a WAL segment is still being written.
	ErrSegmentIncomplete = errors.New("the WAL segment is not complete yet")
	// ErrSegmentRemoved says that the server removed or recycled a WAL segment.
	ErrSegmentRemoved = errors.New("the server has removed the WAL segment")
	// ErrNotVouched says that a data directory may differ from its last snapshot in ways that nothing tells: everything has to be read.
	ErrNotVouched = errors.New("the last snapshot is no base to skip from")
	// ErrNoSummaries says that the server's WAL summaries do not tell which blocks changed since a snapshot.
	ErrNoSummaries = errors.New("no complete WAL summaries")
	// ErrInRecovery says that a standby cannot do what was asked for.
	ErrInRecovery = errors.New("the server is a standby")
)

// VersionError says that the server's major version is not supported.
type VersionError struct {
	Version int // server_version_num, such as 120005
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("the server is PostgreSQL %d; supported are %d to %d", e.Version/10000, pg.OldestMajor, pg.NewestMajor)
}

// PrivilegeError says which privileges a role lacks.
type PrivilegeError struct {
	Role     string
	Database string   // privileges on functions count in one database
	Missing  []string // a complete statement each, for a superuser to run in Database on the primary
}

func (e *PrivilegeError) Error() string {
	return fmt.Sprintf("role %q lacks privileges in database %q: %s", e.Role, e.Database, strings.Join(e.Missing, " "))
}

// DataDirError says why a directory cannot be backed up as the server's data directory. Its cause is ErrNotDataDir, ErrForeign, or an
// error of the file system such as fs.ErrNotExist and fs.ErrPermission.
type DataDirError struct {
	Dir        string
	FromServer bool // the server named it, nobody else did
	Err        error
}

func (e *DataDirError) Error() string { return fmt.Sprintf("data directory %s: %v", e.Dir, e.Err) }

// Unwrap returns the cause.
func (e *DataDirError) Unwrap() error { return e.Err }
