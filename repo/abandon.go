package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/pgtrove/pgtrove/storage"
)

// abandonTime is how long looking at what an Init has put may take, and taking it away again.
const abandonTime = 15 * time.Second

// InitError is an Init that the storage did not let come to its end.
type InitError struct {
	// MayExist: the repository may be there all the same, now or in a moment: it is not known what became of the last request. What opens it must
	// not be thrown away.
	MayExist bool
	Left     string // the keys of what is left of bundles, or may be, with a space between two; "": none. Another Init does not mind it
	Err      error
}

func (e *InitError) Error() string { return e.Err.Error() }

func (e *InitError) Unwrap() error { return e.Err }

// noConfig is the error of an Init whose Put of config, with that text, failed with err. A refusal does not say that it is not there: the first answer may
// have been lost, and the request that was sent again refused, because what is there is locked, or the storage full since. So it is read.
func noConfig(ctx context.Context, store storage.Store, text []byte, err error) *InitError {
	e := &InitError{Err: fmt.Errorf("write config: %w", err)}
	if errors.Is(err, storage.ErrExist) {
		e.Err = fmt.Errorf("write config: %w", ErrExists)
	}
	if ctx.Err() != nil || errors.Is(err, storage.ErrUnreachable) { // it may still arrive
		e.MayExist = true
		return e
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abandonTime)
	defer cancel()
	switch there, err := store.Get(ctx, configKey, storage.Range{}, nil); {
	case errors.Is(err, storage.ErrNotExist):
	case err != nil || bytes.Equal(there, text):
		e.MayExist = true
	default: // another Init was faster
		e.Err = fmt.Errorf("write config: %w", ErrExists)
	}
	return e
}

// abandon takes away the bundles that an Init has put, and the records of them, if nothing can need them, and completes its error. It also works when the caller has given up,
// and does not try where nobody answers.
func abandon(ctx context.Context, store storage.Store, put []string, e *InitError) error {
	if e.MayExist || errors.Is(e.Err, storage.ErrUnreachable) {
		e.Left = strings.Join(put, " ")
		return e
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abandonTime)
	defer cancel()
	var left []string
	for _, key := range put {
		if store.Delete(ctx, key) == nil {
			continue
		}
		if _, err := store.Get(ctx, key, storage.Range{Len: 1}, nil); !errors.Is(err, storage.ErrNotExist) {
			left = append(left, key)
		}
	}
	e.Left = strings.Join(left, " ")
	return e
}
