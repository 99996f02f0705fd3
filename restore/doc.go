// Package restore brings a snapshot back: it chooses the one from which a target can be reached, plans what to read
// so that each stored byte is read once, writes the files, and makes the recovery settings. It also verifies what a
// repository holds, which is the same plan with nothing written.
//
// It knows no repository: Chunks is all that it needs of one. It talks to no server, and never prints. cmd uses it for
// `pgtrove restore` and `pgtrove verify`.
//
// A restore writes global/pg_control last, so that PostgreSQL cannot start from half a cluster, whatever interrupts it.
package restore

import (
	"context"
	"errors"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/pack"
)

// Chunks is where snapshots' contents come from; a view of package repo is one. All methods may be called from several
// goroutines.
type Chunks interface {
	// Locate says where a chunk of data or metadata is.
	Locate(id chunk.ID) (pack.Location, error)
	// ReadPack appends n bytes at offset off of the pack to dst; fewer where the pack is shorter. A negative off counts
	// from the pack's end.
	ReadPack(ctx context.Context, key string, off, n int64, dst []byte) ([]byte, error)
	// OpenChunk decrypts, decompresses and verifies the sealed bytes of the chunk at loc and appends them to dst.
	OpenChunk(dst []byte, loc pack.Location, sealed []byte) ([]byte, error)
	// MetaChunk returns the verified bytes of a metadata chunk.
	MetaChunk(ctx context.Context, id chunk.ID) ([]byte, error)
}

// Errors of this package, for errors.Is. UnreachableError and RefusedError say more.
var (
	// ErrUnreachable says that no recovery from the snapshots and the WAL at hand comes to the target.
	ErrUnreachable = errors.New("the target cannot be reached")
	// ErrRefused says that a check said no before anything was written.
	ErrRefused = errors.New("restore refused")
	// ErrMismatch says that a snapshot's parts do not fit together, though each is authentic.
	ErrMismatch = errors.New("inconsistent snapshot")
)

// RefusedError is a check that said no before anything was written.
type RefusedError struct {
	Reason string // one sentence, as an error's text
	Hint   string // what a person can do; may be empty
}

func (e *RefusedError) Error() string { return e.Reason }

// Unwrap makes errors.Is(err, ErrRefused) true.
func (e *RefusedError) Unwrap() error { return ErrRefused }
