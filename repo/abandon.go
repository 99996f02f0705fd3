package repo

import (
	"context"
	"errors"
	"time"

	"github.com/pgtrove/pgtrove/storage"
)

// abandonTime is how long taking away again what an Init has put may take.
const abandonTime = 15 * time.Second

// InitError is an Init that the storage did not let come to its end.
type InitError struct {
	// MayExist: the repository may be there all the same, now or in a moment: it is not known what became of the last request. What opens it must
	// not be thrown away.
	MayExist bool
	Left     string // the key of the bundle that is left, or may be; "": none. Another Init does not mind it
	Err      error
}

func (e *InitError) Error() string { return e.Err.Error() }

func (e *InitError) Unwrap() error { return e.Err }

// abandon takes away the bundle that an Init has put, if nothing can need it, and completes its error. It also works when the caller has given up,
// and does not try where nobody answers.
func abandon(ctx context.Context, store storage.Store, key string, e *InitError) error {
	if e.MayExist || errors.Is(e.Err, storage.ErrUnreachable) {
		e.Left = key
		return e
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abandonTime)
	defer cancel()
	if store.Delete(ctx, key) == nil {
		return e
	}
	if _, err := store.Get(ctx, key, storage.Range{Len: 1}, nil); !errors.Is(err, storage.ErrNotExist) {
		e.Left = key
	}
	return e
}
