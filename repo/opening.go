package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"filippo.io/age"

	"github.com/pgtrove/pgtrove/keys"
	"github.com/pgtrove/pgtrove/storage"
)

// Opening is what opening a repository reads from its storage: whoever keeps it can open the repository again without asking the storage.
// It is no more secret than the storage is: the bundle in it is sealed.
//
// It says what the repository was. What is written with it into a repository that has taken the other's place since, nobody can
// read, so whoever keeps one has to ask Current from time to time.
type Opening struct {
	Config []byte // the object config
	Bundle []byte // the object that holds the key bundle
}

// Opening gives what this repository was opened with.
func (r *Repo) Opening() Opening { return r.opening }

// Reopen opens the repository in store as it was. It reads nothing. Errors are those of Open, but for those of the storage: ErrDamaged also
// where o is not what Opening gave.
func Reopen(store storage.Store, o Opening, ids ...age.Identity) (*Repo, error) {
	c, err := parseConfig(o.Config)
	if err != nil {
		return nil, err
	}
	bundle, err := keys.Unwrap(o.Bundle, ids...)
	if err != nil {
		return nil, fmt.Errorf("open key bundle: %w", err)
	}
	return newOpened(store, *c, bundle, o)
}

// Current says whether the repository in store is still the one of o, by one look at its config, which has the repository's ID in it.
// An error is the storage's.
func Current(ctx context.Context, store storage.Store, o Opening) (bool, error) {
	b, err := store.Get(ctx, configKey, storage.Range{}, nil)
	if errors.Is(err, storage.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read config: %w", err)
	}
	return bytes.Equal(b, o.Config), nil
}
