// Package walarchive keeps WAL files as objects: what an object is called, what its header says, when a push or a
// fetch succeeds, and what the files in the archive add up to: gaps, and the windows of time that can be recovered.
//
// It never opens a segment's records (walsource does, and passes on what it found), never opens storage and holds no
// keys: Objects is all that it needs, and cmd makes one of package repo. restore asks it what is there.
package walarchive

import (
	"context"
	"errors"

	"github.com/pgtrove/pgtrove/internal/pg"
)

// Errors of this package, for errors.Is.
var (
	// ErrNotExist says that the archive was reached and does not hold the file.
	ErrNotExist = errors.New("not in the archive")
	// ErrConflict says that the archive holds the file already, with other content.
	ErrConflict = errors.New("archived already with different content")
	// ErrDamaged says that an object is not what was pushed: altered, cut short, or in another's place.
	ErrDamaged = errors.New("damaged WAL object")
	// ErrInvalid says that a name, a header or a file's content breaks the rules of its kind.
	ErrInvalid = errors.New("invalid WAL file")
)

// Objects is the storage of sealed files, as package repo offers it. An implementation makes errors.Is true for this
// package's ErrNotExist where an object is absent (and the storage is known to be there), for ErrConflict where
// PutArchive finds other content, and for ErrDamaged where an object does not open. Any other error leaves open what
// is stored. All methods may be called from several goroutines.
type Objects interface {
	// PutArchive stores content under key with a header that every role can read. On nil the object is durable. same
	// says that it was there before, with the same content.
	PutArchive(ctx context.Context, key string, header, content []byte) (same bool, err error)
	// ArchiveHeader returns the header alone, and the size of the content in bytes.
	ArchiveHeader(ctx context.Context, key string) (header []byte, size int64, err error)
	// GetArchive returns header and content, every byte of both verified.
	GetArchive(ctx context.Context, key string) (header, content []byte, err error)
	// List calls fn for every object whose key begins with prefix, in ascending byte order. Nil only if complete.
	List(ctx context.Context, prefix string, fn func(key string, size int64) error) error
}

// Archive is the WAL of one PostgreSQL cluster in a repository. It holds no state and is safe for concurrent use.
type Archive struct {
	Objects Objects
	Cluster string // its name in the repository
	System  pg.SystemID
}
