package repo

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"filippo.io/age"

	"github.com/pgtrove/pgtrove/keys"
	"github.com/pgtrove/pgtrove/storage"
)

// Check says whether a new repository can be made in store: ErrExists, ErrNotEmpty, or nil. What a failed Init or a self-test had to leave does not
// count: no more than test objects, and key bundles without a config.
func Check(ctx context.Context, store storage.Store) error {
	errFound := errors.New("found")
	found := ""
	err := store.List(ctx, "", func(i storage.Info) error {
		switch {
		case i.Key == configKey:
			return ErrExists
		case found != "" && i.Key > configKey:
			return errFound // there is no config: it would have come before
		case !strings.HasPrefix(i.Key, storage.SelfTestPrefix) && !strings.HasPrefix(i.Key, keysPrefix):
			found = i.Key
		}
		return nil
	})
	switch {
	case err != nil && !errors.Is(err, errFound):
		return err
	case found == "":
		return nil
	}
	return fmt.Errorf("%w: holds %s and maybe more", ErrNotEmpty, found)
}

// Init makes a repository whose owner bundle is sealed to recipient. The config object is written last: before it is
// there, nothing takes the place for a repository.
func Init(ctx context.Context, store storage.Store, recipient age.Recipient, now time.Time) (*Repo, error) {
	return InitWith(ctx, store, recipient, now, InitOptions{})
}

// InitOptions are what a new repository is besides.
type InitOptions struct {
	Storage        *StorageTest // nil: nobody tested it
	ObjectLockDays int          // Params.ObjectLockDays
	// Name of the first owner's key; "": "owner". Others have a number behind it.
	Name string
	// Owners get a key each, after the one for the recipient of InitWith, which may be nil if there are any.
	Owners []Recipient
	// Host is a key that is made in the same moment for the host itself. What InitWith returns is then opened with that one, and nobody has an owner's
	// secrets but whom it was sealed to.
	Host *NewKey
}

// InitWith is Init with options. Errors: those of Check, ErrExists also where another Init was faster; *InitError where the storage failed; those of AddKey for what is
// wrong with a key.
func InitWith(ctx context.Context, store storage.Store, recipient age.Recipient, now time.Time, o InitOptions) (*Repo, error) {
	if err := Check(ctx, store); err != nil {
		return nil, err
	}
	id := make([]byte, 16)
	_, _ = rand.Read(id) // never fails (crypto/rand)
	c := Config{Version: FormatVersion, ID: hex.EncodeToString(id), Created: now.UTC().Truncate(time.Second), Params: defaultParams, Storage: o.Storage}
	c.Params.ObjectLockDays = o.ObjectLockDays
	text, err := c.marshal()
	if err != nil {
		return nil, err
	}
	r, issued, err := firstKeys(store, c, text, recipient, o) // while nothing is there: nothing fails once config is
	if err != nil {
		return nil, err
	}
	var put []string
	for _, k := range issued {
		for _, object := range k.objects() {
			put = append(put, object.key)
			if err := store.Put(ctx, object.key, object.content); err != nil {
				return nil, abandon(ctx, store, put, &InitError{Err: fmt.Errorf("write key bundle: %w", err)})
			}
		}
	}
	if err := ctx.Err(); err != nil { // config is not asked for yet, so that it is certain that it is not there
		return nil, abandon(ctx, store, put, &InitError{Err: fmt.Errorf("write config: %w", err)})
	}
	if err := store.Put(ctx, configKey, text); err != nil {
		return nil, abandon(ctx, store, put, noConfig(ctx, store, text, err))
	}
	return r, nil
}

// firstKeys makes a repository's first keys, and the repository as the last of them opens it.
func firstKeys(store storage.Store, c Config, text []byte, recipient age.Recipient, o InitOptions) (*Repo, []*issuedKey, error) {
	owners := slices.Clone(o.Owners)
	if recipient != nil {
		owners = slices.Insert(owners, 0, recipientOf(recipient))
	}
	if len(owners) == 0 {
		return nil, nil, errors.New("make keys: a repository needs an owner")
	}
	if o.Name == "" {
		o.Name = string(keys.Owner)
	}
	root, err := keys.Generate(c.ID, o.Name)
	if err != nil {
		return nil, nil, fmt.Errorf("make keys: %w", err)
	}
	owner, err := newRepo(store, c, root)
	if err != nil {
		return nil, nil, err
	}
	var issued []*issuedKey
	for i, to := range owners {
		k := NewKey{Name: o.Name, Role: keys.Owner, Recipients: []Recipient{to}}
		if i > 0 {
			k.Name = fmt.Sprintf("%s-%d", o.Name, i+1)
		}
		one, err := owner.issue(k, c.Created, nil)
		if err != nil {
			return nil, nil, err
		}
		issued = append(issued, one)
	}
	open := issued[0]
	if o.Host != nil {
		if slices.ContainsFunc(issued, func(k *issuedKey) bool { return k.record.Name == o.Host.Name }) {
			return nil, nil, fmt.Errorf("make key %q: %w", o.Host.Name, ErrName)
		}
		if open, err = owner.issue(*o.Host, c.Created, nil); err != nil {
			return nil, nil, err
		}
		issued = append(issued, open)
	}
	r, err := newOpened(store, c, open.bundle, Opening{Config: text, Bundle: open.wrapped})
	return r, issued, err
}
