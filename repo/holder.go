package repo

import (
	"context"

	"github.com/pgtrove/pgtrove/keys"
)

// Certificate says whose key opened the repository; nil in a repository without a root key. It is not to be changed.
func (r *Repo) Certificate() *keys.Certificate { return r.bundle.Certificate() }

// KeyRecord returns what an object under keys/ that is no bundle says, as JSON, for people to look at; nil where there is a bundle under that name. Errors: storage.ErrNotExist,
// ErrDamaged, ErrMissing for what is no name of either; keys.ErrOrigin where no owner has certified it.
func (r *Repo) KeyRecord(ctx context.Context, key string) ([]byte, error) {
	entry, what, _, ok := parseKeyName(key)
	switch {
	case !ok:
		return nil, ErrMissing
	case entry == "":
		what = generationName
	case what == "":
		return nil, nil
	}
	return r.getCertified(ctx, key, what)
}
