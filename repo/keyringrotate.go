package repo

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"filippo.io/age"

	"github.com/pgtrove/pgtrove/keys"
	"github.com/pgtrove/pgtrove/storage"
)

// RotateKey makes a new key with the name, the role, the trust group and the clusters of one that there is, for these recipients, and removes that one. accepted is as
// RemoveKey gives it. If it fails in between both are there: RemoveKey removes the old one. Errors as AddKey and RemoveKey have them; with those of the latter
// the new key is returned. ErrUnproven: it is the only owner's, and of no recipient it is Proven that somebody has the identity.
func (r *Repo) RotateKey(ctx context.Context, id string, recipients []Recipient) (key *Key, accepted int, err error) {
	ring, holders, err := r.ownKeyring(ctx)
	if err != nil {
		return nil, 0, err
	}
	old := holders[id]
	if old == nil {
		return nil, 0, fmt.Errorf("rotate key %s: %w", id, ErrNoKey)
	}
	if id == r.entry && !otherOwner(ring, holders, id) && !slices.ContainsFunc(recipients, func(to Recipient) bool { return to.Proven }) {
		return nil, 0, fmt.Errorf("rotate key %s: %w", id, ErrUnproven)
	}
	k := NewKey{Name: old.Name, Role: old.Role, Group: old.Group, Clusters: old.Clusters, Recipients: recipients}
	if key, err = r.putKey(ctx, k, ring.names, old.Claimed); err != nil {
		return nil, 0, err
	}
	accepted, err = r.removeKey(ctx, id, true)
	return key, accepted, err
}

// RotateData makes new key pairs for data and WAL, to which is sealed what is written from now on by whoever opens the repository anew. What is there stays as it is: owners have
// the old pairs too. All bundles are wrapped again for whom they were; of those with a passphrase that is not given there is a *PassphraseError, and nothing is changed.
// keys.ErrLocked: one that is given is wrong. Errors besides: keys.ErrRole, ErrUnsigned; ErrMissing: of a key nobody knows whose it is; ErrRemoving: one is being removed, or was
// meanwhile; those of keys.ParseRecipient where a plugin is not installed.
//
// The new pairs are in use once all owners have them. If it fails after that some writers still seal to the old ones; to do it again does no harm.
func (r *Repo) RotateData(ctx context.Context, passphrases Passphrases) error {
	ring, holders, err := r.ownKeyring(ctx)
	if err != nil {
		return err
	}
	next, err := r.bundle.RotateData()
	if err != nil {
		return err
	}
	_, err = r.advance(ctx, ring, holders, newKeys{bundle: next, passphrases: passphrases})
	return err
}

// addGroup gives all owners the keys of one more trust group, and returns the repository as one who has them opens it.
func (r *Repo) addGroup(ctx context.Context, ring *keyring, holders map[string]*entryRecord, k NewKey) (*Repo, error) {
	next, err := r.bundle.AddGroup(k.Group)
	if err != nil {
		return nil, err
	}
	return r.advance(ctx, ring, holders, newKeys{bundle: next, ownersOnly: true, passphrases: k.Passphrases})
}

// newKeys are what bundles are made from that take the place of others.
type newKeys struct {
	bundle      *keys.Bundle // this owner's
	ownersOnly  bool         // nobody else gets one
	passphrases Passphrases
}

func (n *newKeys) areFor(e *entryRecord) bool { return !n.ownersOnly || e.Role == keys.Owner }

// rewrapped is a bundle that takes the place of another.
type rewrapped struct {
	record  *entryRecord
	wrapped []byte
}

// advance makes bundles for all keys that have to get one. They have a number that no bundle had, and are in use once the record of that number is
// there, which is when all owners have theirs: what one of them seals the others must be able to open, wherever this stops.
func (r *Repo) advance(ctx context.Context, ring *keyring, holders map[string]*entryRecord, n newKeys) (*Repo, error) {
	owner, err := newRepo(r.store, r.config, n.bundle)
	if err == nil {
		err = r.allKnown(ring, holders)
	}
	if err != nil {
		return nil, err
	}
	all, err := r.rewrap(ctx, n, ring.names, holders)
	if err != nil {
		return nil, err
	}
	defer r.forgetKeyring()
	owner.entry, owner.number = n.bundle.Certificate().Entry, ring.names.next()
	if err := owner.putBundles(ctx, all, func(e *entryRecord) bool { return e.Role == keys.Owner }); err != nil {
		return nil, err
	}
	key := bundleKey(generationName, owner.number)
	if err := r.putCertified(ctx, key, generationName, generationRecord{Version: recordVersion, Number: owner.number, Owners: n.ownersOnly}); err != nil {
		return nil, err
	}
	now, err := owner.freshKeyring(ctx)
	if err != nil {
		return nil, err
	}
	if err := owner.putBundles(ctx, all, func(e *entryRecord) bool { return e.Role != keys.Owner && !now.isGoing(e.Entry) }); err != nil {
		return nil, err
	}
	late, err := owner.giveLate(ctx, holders, n)
	if err != nil {
		return nil, err
	}
	if err := owner.inUse(ctx, slices.Concat(all, late)); err != nil {
		return nil, err
	}
	// What the new ones stand for. One that stays does no harm.
	for _, b := range all {
		for _, old := range ring.names.bundles[b.record.Entry] {
			if err := r.store.Delete(ctx, bundleKey(b.record.Entry, old)); err != nil && !errors.Is(err, storage.ErrDenied) {
				return nil, fmt.Errorf("delete the old bundle of key %q: %w", b.record.Name, err)
			}
		}
	}
	return owner, nil
}

// allKnown says whether it is known of each bundle that is in use whose it is, and that he is to have new keys: an owner who did not get them could not read what is
// written from then on, and if he were the only one nobody could.
func (r *Repo) allKnown(ring *keyring, holders map[string]*entryRecord) error {
	for _, entry := range ring.names.entries() {
		switch {
		case ring.removed[entry] != nil || len(ring.names.current(entry, keys.Owner)) == 0:
		case ring.removing[entry]:
			return fmt.Errorf("%w: %s: end that first", ErrRemoving, entry)
		case holders[entry] == nil && entry == r.entry:
			return fmt.Errorf("%w: nobody knows any more whom the bundle of this key (%s) is to be wrapped for: add another owner's, and with that one remove it", ErrMissing, entry)
		case holders[entry] == nil:
			return fmt.Errorf("%w: nobody knows any more whose key %s is, and whom its bundle is to be wrapped for: remove it, and add it anew if it was an owner's or a host's",
				ErrMissing, entry)
		}
	}
	if e := holders[r.entry]; e == nil || e.Role != keys.Owner {
		return fmt.Errorf("%w: the record of the key in use (%s)", ErrMissing, r.entry)
	}
	return nil
}

// inUse makes sure that new bundles are what is used from now on, before those go for which they stand, and that nobody has got one who was removed meanwhile.
func (r *Repo) inUse(ctx context.Context, all []rewrapped) error {
	ring, err := r.freshKeyring(ctx)
	if err != nil {
		return err
	}
	for _, b := range all {
		e := b.record
		switch {
		case !ring.isGoing(e.Entry):
			if !slices.Contains(ring.names.current(e.Entry, e.Role), r.number) {
				err = errors.Join(err, fmt.Errorf("%w: the new bundle of key %q, number %d, is not in use, so the old ones stay", ErrMissing, e.Name, r.number))
			}
			continue
		case ring.removed[e.Entry] != nil || e.Role != keys.Owner: // an owner who is being removed may yet stay
			err = errors.Join(err, r.store.Delete(ctx, bundleKey(e.Entry, r.number)))
		}
		err = errors.Join(err, fmt.Errorf("%w: %q (%s), while all got new ones, and it may have seen them: do it again once it is removed", ErrRemoving, e.Name, e.Entry))
	}
	return err
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
func (r *Repo) giveLate(ctx context.Context, had map[string]*entryRecord, n newKeys) ([]rewrapped, error) {
	ring, err := r.freshKeyring(ctx)
	if err != nil {
		return nil, err
	}
	holders, err := r.holders(ctx, ring)
	if err != nil {
		return nil, err
	}
	late := maps.Clone(holders)
	maps.DeleteFunc(late, func(entry string, _ *entryRecord) bool { return had[entry] != nil || ring.isGoing(entry) })
	all, err := r.rewrap(ctx, n, ring.names, late)
	if err != nil {
		return nil, err
	}
	return all, r.putBundles(ctx, all, func(*entryRecord) bool { return true })
}

// rewrap makes the bundles of advance. It changes nothing.
func (r *Repo) rewrap(ctx context.Context, n newKeys, names *keyNames, holders map[string]*entryRecord) (all []rewrapped, err error) {
	lacks := &PassphraseError{}
	for _, entry := range names.entries() {
		e := holders[entry]
		if e == nil || !n.areFor(e) || len(names.current(entry, e.Role)) == 0 {
			continue
		}
		to, called, err := r.recipients(e)
		if err != nil {
			return nil, err
		}
		if pass, given := n.passphrases[entry]; to == nil && given {
			if err := r.opens(ctx, e, names, pass.Identity); err != nil {
				return nil, err
			}
			to, called = []age.Recipient{pass.Recipient}, []string{}
		}
		if to == nil {
			lacks.Names, lacks.IDs = append(lacks.Names, e.Name), append(lacks.IDs, entry)
			continue
		}
		b := n.bundle
		if entry != b.Certificate().Entry {
			if b, err = n.bundle.Issue(keys.IssueOptions{Entry: entry, Name: e.Name, Role: e.Role, Group: e.Group, Clusters: e.Clusters, Created: e.Created,
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
	wrapped, err := r.Raw(ctx, bundleKey(e.Entry, names.current(e.Entry, e.Role)[0]))
	if err != nil {
		return err
	}
	if _, err := keys.Unwrap(wrapped, id); err != nil {
		return fmt.Errorf("key %q: %w", e.Name, err)
	}
	return nil
}
