package repo

import (
	"context"
	"errors"
	"fmt"

	"github.com/pgtrove/pgtrove/keys"
	"github.com/pgtrove/pgtrove/storage"
)

// objectKind is the magic in the first eight bytes of a sealed object, the last being the version.
type objectKind string

const (
	kindSession objectKind = "pgtsess\x01"
	kindIndex   objectKind = "pgtindx\x01"
	kindOutcome objectKind = "pgtsnap\x01"
	kindGC      objectKind = "pgtgcru\x01"
	kindMark    objectKind = "pgtmark\x01"
)

// aad binds a sealed object to its repository and its name, so that one object in another's place does not open.
func (r *Repo) aad(kind objectKind, key string) []byte {
	return fmt.Appendf(nil, "pgtrove object\x00%s\x00%s\x00%s", kind, r.config.ID, key)
}

// seal returns the stored form of an object that is to stand under key.
func (r *Repo) seal(kind objectKind, key string, plain []byte) []byte {
	return r.meta.Seal([]byte(kind), plain, r.aad(kind, key))
}

// get reads and opens the object under key. ErrDamaged when it does not open.
func (r *Repo) get(ctx context.Context, kind objectKind, key string) ([]byte, error) {
	b, err := r.store.Get(ctx, key, storage.Range{}, nil)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	return r.unseal(kind, key, b)
}

func (r *Repo) unseal(kind objectKind, key string, b []byte) ([]byte, error) {
	if len(b) < len(kind) || string(b[:len(kind)-1]) != string(kind[:len(kind)-1]) {
		return nil, fmt.Errorf("%w: %s does not begin as it should", ErrDamaged, key)
	}
	if b[len(kind)-1] != kind[len(kind)-1] {
		return nil, fmt.Errorf("%w: %s has version %d", ErrVersion, key, b[len(kind)-1])
	}
	plain, err := r.meta.Open(nil, b[len(kind):], r.aad(kind, key))
	if errors.Is(err, keys.ErrDamaged) {
		return nil, fmt.Errorf("%w: %s does not open", ErrDamaged, key)
	}
	return plain, err
}
