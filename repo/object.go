package repo

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/pgtrove/pgtrove/keys"
	"github.com/pgtrove/pgtrove/storage"
)

// objectKind is the magic in the first seven bytes of a sealed object. Behind it stands the version of the envelope.
type objectKind string

const (
	kindSession objectKind = "pgtsess"
	kindIndex   objectKind = "pgtindx"
	kindOutcome objectKind = "pgtsnap"
	kindGC      objectKind = "pgtgcru"
	kindMark    objectKind = "pgtmark"
	kindKey     objectKind = "pgtkeys"
)

const (
	// envelopeBare is the version of a repository without a root key: there is one key for all, and nobody signs.
	envelopeBare = 1
	// envelopeTagged is that of all others: a tag behind the version names the key, and snapshots and index segments say who made them.
	envelopeTagged = 2

	bareHead   = 8
	taggedHead = bareHead + keys.TagSize
)

// signed says of a kind that who writes it signs it. It is sealed with the key of the writer's trust group; other kinds with the one that all groups have.
func (k objectKind) signed() bool { return k == kindIndex || k == kindOutcome }

// signed says whether the repository has a root key, which certifies who may sign.
func (r *Repo) signed() bool { return r.bundle.Signing.Root != nil }

// aad binds a sealed object to its repository and its name, so that one object in another's place does not open. head is all that stands before what
// is sealed.
func (r *Repo) aad(head []byte, key string) []byte {
	return fmt.Appendf(nil, "pgtrove object\x00%s\x00%s\x00%s", head, r.config.ID, key)
}

// seal returns the stored form of an object that is to stand under key.
func (r *Repo) seal(kind objectKind, key string, plain []byte) []byte {
	return r.sealFor(kind, !kind.signed(), key, plain)
}

// sealFor is seal where who may read it is not plain from the kind: all groups, or the bundle's own.
func (r *Repo) sealFor(kind objectKind, all bool, key string, plain []byte) []byte {
	head := []byte(kind)
	if !r.signed() {
		head = append(head, envelopeBare)
		return r.meta.Seal(head, plain, r.aad(head, key))
	}
	tag, seal := r.meta.Tag(), r.meta.Seal
	if all {
		tag, seal = r.meta.CommonTag(), r.meta.SealCommon
	}
	head = append(append(head, envelopeTagged), tag[:]...)
	aad := r.aad(head, key)
	if kind.signed() {
		plain = r.bundle.Sign(nil, aad, plain)
	}
	return seal(head, plain, aad)
}

// opened is a sealed object that was read.
type opened struct {
	plain []byte
	group string // whose key it is sealed with; "" also of what all groups read
	// common: it is sealed for all groups.
	common bool
	by     *keys.Certificate // of who signed it; nil of a kind or in a repository where nobody does. Whether that key was removed the keyring says
	sum    [sha256.Size]byte // of the object as stored
}

// get reads and opens the object under key, and checks its signature where it must have one. Errors: storage.ErrNotExist; ErrDamaged when it does not open, also, with
// keys.ErrOrigin, when nobody has signed it whom the root key certifies; keys.ErrForeign.
func (r *Repo) get(ctx context.Context, kind objectKind, key string) ([]byte, error) {
	o, err := r.getOpened(ctx, kind, key)
	return o.plain, err
}

// getOpened is get, and says who signed it.
func (r *Repo) getOpened(ctx context.Context, kind objectKind, key string) (opened, error) {
	b, err := r.store.Get(ctx, key, storage.Range{}, nil)
	if err != nil {
		return opened{}, fmt.Errorf("read %s: %w", key, err)
	}
	return r.unseal(kind, key, b)
}

func (r *Repo) unseal(kind objectKind, key string, b []byte) (o opened, err error) {
	if len(b) < bareHead || string(b[:len(kind)]) != string(kind) {
		return o, fmt.Errorf("%w: %s does not begin as it should", ErrDamaged, key)
	}
	o.sum = sha256.Sum256(b)
	switch version := b[len(kind)]; {
	case version != envelopeBare && version != envelopeTagged:
		return o, fmt.Errorf("%w: %s has version %d", ErrVersion, key, version)
	case version == envelopeBare && r.signed() && kind.signed():
		return o, fmt.Errorf("%w: %s: %w: it is unsigned", ErrDamaged, key, keys.ErrOrigin)
	case (version == envelopeTagged) != r.signed():
		return o, fmt.Errorf("%w: %s has version %d, which this repository does not use", ErrDamaged, key, version)
	case version == envelopeBare:
		o.plain, err = r.meta.Open(nil, b[bareHead:], r.aad(b[:bareHead], key))
		return o, sealDamage(key, err)
	case len(b) < taggedHead:
		return o, fmt.Errorf("%w: %s ends early", ErrDamaged, key)
	}
	aad := r.aad(b[:taggedHead], key)
	o.plain, o.group, o.common, err = r.meta.OpenTagged(nil, [keys.TagSize]byte(b[bareHead:taggedHead]), b[taggedHead:], aad)
	switch {
	case errors.Is(err, keys.ErrForeign) && r.bundle.Role == keys.Owner: // who has the keys of all groups
		return o, fmt.Errorf("%w: %s is sealed with a key that is nobody's", ErrDamaged, key)
	case err != nil || !kind.signed():
		return o, sealDamage(key, err)
	}
	if o.by, o.plain, err = r.bundle.OpenSigned(aad, o.plain); err != nil {
		return o, fmt.Errorf("%w: %s: %w", ErrDamaged, key, err)
	}
	return o, nil
}

// sealDamage is what to say of an object that opening has failed for.
func sealDamage(key string, err error) error {
	switch {
	case errors.Is(err, keys.ErrDamaged):
		return fmt.Errorf("%w: %s does not open", ErrDamaged, key)
	case err != nil:
		return fmt.Errorf("%s: %w", key, err)
	}
	return nil
}
