package repo

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"filippo.io/age"

	"github.com/pgtrove/pgtrove/keys"
	"github.com/pgtrove/pgtrove/storage"
)

// RotateKey makes a new key with the name, the role, the trust group and the clusters of one that there is, for these recipients, and removes that one. accepted is as
// RemoveKey gives it. If it fails in between both are there: RemoveKey removes the old one. Errors as AddKey and RemoveKey have them; with those of the latter
// the new key is returned.
func (r *Repo) RotateKey(ctx context.Context, id string, recipients []Recipient) (key *Key, accepted int, err error) {
	_, holders, err := r.ownKeyring(ctx)
	if err != nil {
		return nil, 0, err
	}
	old := holders[id]
	if old == nil {
		return nil, 0, fmt.Errorf("rotate key %s: %w", id, ErrNoKey)
	}
	k := NewKey{Name: old.Name, Role: old.Role, Group: old.Group, Clusters: old.Clusters, Recipients: recipients}
	claimed, err := r.claims(ctx, k.Name)
	if err != nil {
		return nil, 0, err
	}
	if key, err = r.putKey(ctx, k, slices.Concat(old.Claimed, claimed)); err != nil {
		return nil, 0, err
	}
	accepted, err = r.removeKey(ctx, id, true)
	return key, accepted, err
}

// RotateData makes new key pairs for data and WAL, to which is sealed what is written from now on by whoever opens the repository anew. What is there stays as it is: owners have
// the old pairs too. All bundles are wrapped again for whom they were; of those with a passphrase that is not given there is a *PassphraseError, and nothing is changed.
// keys.ErrLocked: one that is given is wrong. Errors besides: keys.ErrRole, ErrUnsigned; those of keys.ParseRecipient where a plugin is not installed.
//
// The new pairs are in use once all owners have them. If it fails after that some writers still seal to the old ones; to do it again does no harm.
func (r *Repo) RotateData(ctx context.Context, passphrases Passphrases) error {
	_, holders, err := r.ownKeyring(ctx)
	if err != nil {
		return err
	}
	next, err := r.bundle.RotateData()
	if err != nil {
		return err
	}
	_, err = r.advance(ctx, next, holders, func(*entryRecord) bool { return true }, passphrases)
	return err
}

// addGroup gives all owners the keys of one more trust group, and returns the repository as one who has them opens it.
func (r *Repo) addGroup(ctx context.Context, _ *keyring, holders map[string]*entryRecord, k NewKey) (*Repo, error) {
	next, err := r.bundle.AddGroup(k.Group)
	if err != nil {
		return nil, err
	}
	return r.advance(ctx, next, holders, func(e *entryRecord) bool { return e.Role == keys.Owner }, k.Passphrases)
}

// rewrapped is a bundle that takes the place of another.
type rewrapped struct {
	record  *entryRecord
	wrapped []byte
}

// advance makes bundles from next, an owner's, for all keys that have to get one. They have a number that no bundle had, and are in use once the record of that number is
// there, which is when all owners have theirs: what one of them seals the others must be able to open, wherever this stops.
func (r *Repo) advance(ctx context.Context, next *keys.Bundle, holders map[string]*entryRecord, who func(*entryRecord) bool, passphrases Passphrases) (*Repo, error) {
	owner, err := newRepo(r.store, r.config, next)
	if err != nil {
		return nil, err
	}
	names, err := r.listKeys(ctx)
	if err == nil {
		err = r.mustBeNewest(names)
	}
	if err == nil && holders[r.entry] == nil {
		err = fmt.Errorf("%w: nobody knows any more whom the bundle of this key (%s) is to be wrapped for: add another owner's, and open the repository with that", ErrMissing, r.entry)
	}
	if err != nil {
		return nil, err
	}
	all, err := r.rewrap(ctx, next, names, holders, who, passphrases)
	if err != nil {
		return nil, err
	}
	defer r.forgetKeyring()
	owner.entry, owner.number = next.Certificate().Entry, names.newest()+1
	if err := owner.putBundles(ctx, all, func(e *entryRecord) bool { return e.Role == keys.Owner }); err != nil {
		return nil, err
	}
	key := bundleKey(generationName, owner.number)
	if err := r.putCertified(ctx, key, generationName, generationRecord{Version: recordVersion, Number: owner.number}); err != nil {
		return nil, err
	}
	if err := owner.putBundles(ctx, all, func(e *entryRecord) bool { return e.Role != keys.Owner }); err != nil {
		return nil, err
	}
	if err := owner.giveLate(ctx, holders, who, passphrases); err != nil {
		return nil, err
	}
	// What the new ones stand for. One that stays does no harm.
	for _, b := range all {
		for _, old := range names.bundles[b.record.Entry] {
			if err := r.store.Delete(ctx, bundleKey(b.record.Entry, old)); err != nil && !errors.Is(err, storage.ErrDenied) {
				return nil, fmt.Errorf("delete the old bundle of key %q: %w", b.record.Name, err)
			}
		}
	}
	return owner, nil
}

// putBundles stores bundles under this bundle's number. Of two who make all bundles anew at the same time the first object that they put decides: its name is the
// same for both.
func (r *Repo) putBundles(ctx context.Context, all []rewrapped, which func(*entryRecord) bool) error {
	for _, b := range all {
		if which(b.record) {
			if err := r.putSame(ctx, bundleKey(b.record.Entry, r.number), b.wrapped); err != nil {
				return err
			}
		}
	}
	return nil
}

// giveLate makes bundles for keys that were added while the others got theirs.
func (r *Repo) giveLate(ctx context.Context, had map[string]*entryRecord, who func(*entryRecord) bool, passphrases Passphrases) error {
	ring, err := r.freshKeyring(ctx)
	if err != nil {
		return err
	}
	holders, err := r.holders(ctx, ring)
	if err != nil {
		return err
	}
	late := func(e *entryRecord) bool { return who(e) && had[e.Entry] == nil }
	all, err := r.rewrap(ctx, r.bundle, ring.names, holders, late, passphrases)
	if err != nil {
		return err
	}
	return r.putBundles(ctx, all, late)
}

// rewrap makes the bundles of advance. It changes nothing.
func (r *Repo) rewrap(ctx context.Context, next *keys.Bundle, names *keyNames, holders map[string]*entryRecord, who func(*entryRecord) bool,
	passphrases Passphrases) (all []rewrapped, err error) {
	lacks := &PassphraseError{}
	for _, entry := range names.entries() {
		e := holders[entry]
		if e == nil || !who(e) || len(names.current(entry)) == 0 {
			continue
		}
		to, called, err := r.recipients(e)
		if err != nil {
			return nil, err
		}
		if pass, given := passphrases[entry]; to == nil && given {
			if err := r.opens(ctx, e, names, pass.Identity); err != nil {
				return nil, err
			}
			to, called = []age.Recipient{pass.Recipient}, []string{}
		}
		if to == nil {
			lacks.Names, lacks.IDs = append(lacks.Names, e.Name), append(lacks.IDs, entry)
			continue
		}
		b := next
		if entry != next.Certificate().Entry {
			if b, err = next.Issue(keys.IssueOptions{Entry: entry, Name: e.Name, Role: e.Role, Group: e.Group, Clusters: e.Clusters, Created: e.Created,
				Recipients: called}); err != nil {
				return nil, err
			}
		}
		wrapped, err := keys.Wrap(b, to...)
		if err != nil {
			return nil, err
		}
		all = append(all, rewrapped{e, wrapped})
	}
	if len(lacks.IDs) > 0 {
		return nil, lacks
	}
	return all, nil
}

// opens says whether an identity opens the newest bundle of a key: who mistypes a passphrase must not lock its owner out.
func (r *Repo) opens(ctx context.Context, e *entryRecord, names *keyNames, id age.Identity) error {
	wrapped, err := r.Raw(ctx, bundleKey(e.Entry, names.current(e.Entry)[0]))
	if err != nil {
		return err
	}
	if _, err := keys.Unwrap(wrapped, id); err != nil {
		return fmt.Errorf("key %q: %w", e.Name, err)
	}
	return nil
}
