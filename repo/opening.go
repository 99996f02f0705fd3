package repo

import (
	"bytes"
	"context"
	"crypto/ed25519"
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
// read, so whoever keeps one has to ask Current from time to time. That keys were made anew or removed since it does not know.
type Opening struct {
	Config []byte // the object config
	Bundle []byte // the object that holds the key bundle
}

// Opening gives what this repository was opened with.
func (r *Repo) Opening() Opening { return r.opening }

// OpenOptions are what somebody has to open a repository with.
type OpenOptions struct {
	Identities []age.Identity
	Root       ed25519.PublicKey // the root key that the repository must have, known from elsewhere; nil: not known
	// Entry is that of the key that is tried first, as Repo.Entry gave it before; "": not known. With a Root no other is tried if it opens, even one that may more.
	Entry string
}

// Open opens the repository in store with whatever bundle one of the identities fits. keys.ErrLocked: none does.
func Open(ctx context.Context, store storage.Store, ids ...age.Identity) (*Repo, error) {
	return OpenWith(ctx, store, OpenOptions{Identities: ids})
}

// OpenWith is Open. Of several bundles that open it takes an owner's, then a standby's, then a writer's. Errors: ErrNoRepository, ErrVersion, ErrDamaged; keys.ErrLocked, also where
// the only key that fits was removed; keys.ErrOrigin: a bundle opens, and somebody else has made it than the owner of the root key, or, where that is not known, two
// that have nothing to do with each other open.
func OpenWith(ctx context.Context, store storage.Store, o OpenOptions) (*Repo, error) {
	config, err := readConfig(ctx, store)
	if err != nil {
		return nil, err
	}
	c, err := parseConfig(config)
	if err != nil {
		return nil, err
	}
	var f *finder
	for range 2 {
		names, err := listKeys(ctx, store)
		if err != nil {
			return nil, err
		}
		f = &finder{store: store, config: *c, o: o, names: names, opened: map[string]bool{}}
		if err := f.find(ctx); err != nil {
			return nil, fmt.Errorf("open key bundle: %w", err)
		}
		if !f.vanished {
			break
		}
		// Made anew between the listing and the look at it: the new one was there before the old one went.
	}
	if f.best == nil {
		return nil, fmt.Errorf("open key bundle: %w", f.why())
	}
	f.best.opening.Config = config
	return f.best, nil
}

// Entry is that of the key which the repository is open with; "" where it was opened with ReopenWith and has no root key.
func (r *Repo) Entry() string {
	if c := r.bundle.Certificate(); r.entry == "" && c != nil {
		return c.Entry
	}
	return r.entry
}

// candidate is a bundle's place under keys/.
type candidate struct {
	entry  string
	number int
}

// finder looks for the bundle to open a repository with.
type finder struct {
	store  storage.Store
	config Config
	o      OpenOptions
	names  *keyNames

	opened   map[string]bool // entries of which a bundle opened, or of which nobody knows whether the newest one would
	best     *Repo
	vanished bool   // a bundle that was listed was gone
	denied   error  // a bundle that the storage does not let anybody read
	foreign  string // a bundle of another repository, which opens
	locked   error  // why an identity could not be tried
	removed  error  // why one that opens is not to be used
	origin   error  // likewise
	damaged  error
}

// errEnough ends the search.
var errEnough = errors.New("found")

func (f *finder) find(ctx context.Context) error {
	var first, all []candidate
	for _, entry := range f.names.entries() {
		for _, number := range f.names.current(entry, keys.Owner) {
			if entry == f.o.Entry {
				first = append(first, candidate{entry, number})
			} else {
				all = append(all, candidate{entry, number})
			}
		}
	}
	if err := f.tryAll(ctx, first); err != nil || f.best != nil && f.o.Root != nil {
		return err
	}
	return f.tryAll(ctx, all)
}

// tryAll opens what it can, of each entry the newest.
func (f *finder) tryAll(ctx context.Context, all []candidate) error {
	type object struct {
		wrapped []byte
		err     error
	}
	fetch := func(ctx context.Context, i int) (object, error) {
		b, err := f.store.Get(ctx, bundleKey(all[i].entry, all[i].number), storage.Range{}, nil)
		if err != nil {
			err = fmt.Errorf("read %s: %w", bundleKey(all[i].entry, all[i].number), err)
		}
		if errors.Is(err, storage.ErrNotExist) || errors.Is(err, storage.ErrDenied) {
			return object{err: err}, nil
		}
		return object{wrapped: b}, err
	}
	err := inOrder(ctx, len(all), fetch, func(i int, got object) error {
		switch {
		case f.opened[all[i].entry]:
			return nil
		case errors.Is(got.err, storage.ErrDenied): // an older one of the entry must not be taken for the newest
			f.opened[all[i].entry], f.denied = true, errors.Join(f.denied, got.err)
			return nil
		case got.err != nil: // removed, or made anew, since
			f.vanished = true
			return nil
		}
		return f.try(ctx, all[i], got.wrapped)
	})
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}

// try opens one bundle.
func (f *finder) try(ctx context.Context, at candidate, wrapped []byte) error {
	if f.best != nil && bytes.Contains(wrapped[:min(len(wrapped), 256)], []byte("\n-> scrypt ")) {
		return nil // to find out that a passphrase does not fit takes a second, and that it fits what another one has sealed it would not be known to
	}
	key := bundleKey(at.entry, at.number)
	b, err := keys.Unwrap(wrapped, f.o.Identities...)
	switch {
	case errors.Is(err, keys.ErrLocked):
		if errors.Unwrap(err) != keys.ErrLocked { // it says more than that it does not fit: a plugin failed
			f.locked = err
		}
		return nil
	case errors.Is(err, ErrOrigin):
		f.origin = fmt.Errorf("%s: %w", key, err)
		return nil
	case err != nil:
		f.damaged = errors.Join(f.damaged, fmt.Errorf("%s: %w", key, err))
		return nil
	case b.Repository != f.config.ID: // an Init left it that did not come to its end
		f.foreign = key
		return nil
	}
	if err := b.CheckRoot(f.o.Root); err != nil {
		f.origin = fmt.Errorf("%s: %w", key, err)
		return nil
	}
	if c := b.Certificate(); c != nil && c.Entry != at.entry {
		f.origin = fmt.Errorf("%s: %w: it is that of the key %s", key, ErrOrigin, c.Entry)
		return nil
	}
	r, err := newOpened(f.store, f.config, b, Opening{Bundle: wrapped})
	if err != nil {
		return err
	}
	r.entry, r.number, r.ring.names = at.entry, at.number, f.names
	use, err := f.mayUse(ctx, r)
	if !use || err != nil {
		return err
	}
	f.opened[at.entry] = true
	if f.best != nil && !f.best.Root().Equal(r.Root()) {
		return fmt.Errorf("%w: %s and %s both open, and have nothing to do with each other: one of them somebody has put there who is no owner; say by which root key to go",
			ErrOrigin, bundleKey(f.best.entry, f.best.number), key)
	}
	if f.best == nil || rank(r.Role()) > rank(f.best.Role()) {
		f.best = r
	}
	if f.o.Root != nil && rank(f.best.Role()) == rank(keys.Owner) {
		return errEnough // without a root key to go by all are tried, to see whether they agree
	}
	return nil
}

// mayUse says whether a bundle that opens is one to use: its key is not removed, and it is no newer one than other owners have.
func (f *finder) mayUse(ctx context.Context, r *Repo) (bool, error) {
	if !r.signed() {
		return true, nil
	}
	if r.number > 1 {
		if g, err := r.generation(ctx, r.number); g == nil || g.Owners && r.Role() != keys.Owner || err != nil {
			return false, err
		}
	}
	if !f.names.records[r.entry][removedSuffix] {
		return true, nil
	}
	_, err := getRecord[removedRecord](ctx, r, r.entry, removedSuffix)
	switch {
	case err == nil:
		f.removed = fmt.Errorf("%w: key %q (%s) was removed", keys.ErrLocked, r.bundle.Name, r.entry)
		return false, nil
	case errors.Is(err, storage.ErrNotExist), unbelievable(err):
		return true, nil
	}
	return false, err
}

// why says what is in the way where no bundle is to be used.
func (f *finder) why() error {
	switch {
	case f.removed != nil:
		return f.removed
	case f.origin != nil:
		return f.origin
	case f.damaged != nil:
		return f.damaged
	case f.denied != nil:
		return f.denied
	case f.foreign != "":
		return fmt.Errorf("%w: key bundle %s belongs to another repository than %s, and no other one opens", ErrDamaged, f.foreign, f.config.ID)
	case f.locked != nil:
		return f.locked
	}
	return keys.ErrLocked
}

// rank orders roles by what they may.
func rank(role keys.Role) int {
	switch role {
	case keys.Owner:
		return 2
	case keys.Standby:
		return 1
	}
	return 0
}

// Reopen opens the repository in store as it was. It reads nothing. Errors are those of Open, but for those of the storage: ErrDamaged also
// where o is not what Opening gave.
func Reopen(store storage.Store, o Opening, ids ...age.Identity) (*Repo, error) {
	return ReopenWith(store, o, OpenOptions{Identities: ids})
}

// ReopenWith is Reopen, with what OpenWith takes.
func ReopenWith(store storage.Store, o Opening, with OpenOptions) (*Repo, error) {
	c, err := parseConfig(o.Config)
	if err != nil {
		return nil, err
	}
	bundle, err := keys.Unwrap(o.Bundle, with.Identities...)
	if err == nil {
		err = bundle.CheckRoot(with.Root)
	}
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
