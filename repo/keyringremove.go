package repo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/pgtrove/pgtrove/keys"
	"github.com/pgtrove/pgtrove/storage"
)

var (
	// ErrLastOwner says that nobody could open the data any more.
	ErrLastOwner = errors.New("it is the last owner's key")
	// ErrInUse says that an owner is to remove his own key. Another owner has to do it: that shows that there is one who can.
	ErrInUse = errors.New("it is the key in use: another owner's has to remove it")
	// ErrUnproven says that the only owner's key is to be opened by something that nobody has shown to be there.
	ErrUnproven = errors.New("it is the only owner's key, and nobody has shown that the new identity opens anything")
	// ErrRemoving says that no keys can be made anew for all as long as somebody removes one: it must not get them.
	ErrRemoving = errors.New("a key is being removed")
	// ErrKept says that a key is removed, and that the storage keeps its bundle all the same: whoever has its identity can open what it could open before, and nothing that
	// he makes with it counts.
	ErrKept = errors.New("the key is removed, and the storage does not delete its bundle")
)

// RemoveKey removes a key, and gives the number of its snapshots, which go on to count; nothing that it signs from now on does. What was there before can be read by whoever has
// kept a copy of the bundle. To be removed means that the record of it is there: the bundle is deleted after that, and if the storage refuses that (ErrKept), the
// record is enough. After another error RemoveKey is to be called again.
//
// Errors: keys.ErrRole, ErrUnsigned; ErrNoKey; ErrLastOwner; ErrInUse; ErrKept.
func (r *Repo) RemoveKey(ctx context.Context, id string) (accepted int, err error) {
	return r.removeKey(ctx, id, false)
}

// removeKey is RemoveKey. rotated: another key has taken its place, so the one in use may go.
func (r *Repo) removeKey(ctx context.Context, id string, rotated bool) (accepted int, err error) {
	ring, holders, err := r.ownKeyring(ctx)
	if err != nil {
		return 0, err
	}
	defer r.forgetKeyring()
	gone, e := ring.removed[id], holders[id]
	switch {
	case gone != nil && len(ring.names.bundles[id]) == 0 && !ring.names.records[id][removingSuffix]:
		return 0, fmt.Errorf("remove key %s: %w", id, ErrNoKey)
	case gone != nil: // a removal that did not come to its end
		return known(gone.Accepted), r.deleteKey(ctx, id)
	case e == nil && len(ring.names.bundles[id]) == 0:
		return 0, fmt.Errorf("remove key %s: %w", id, ErrNoKey)
	}
	if id == r.entry && !rotated && otherOwner(ring, holders, id) {
		return 0, fmt.Errorf("remove key %s: %w", id, ErrInUse)
	}
	if err := r.closeKey(ctx, ring, holders, id); err != nil {
		return 0, fmt.Errorf("remove key %s: %w", id, err)
	}
	record := &removedRecord{Version: recordVersion, Entry: id, Time: time.Now().UTC(), Accepted: []vouched{}, Rotated: rotated}
	if e != nil {
		record.Name = e.Name
	}
	if err := r.eachSigned(ctx, map[string]bool{}, func(key string, o *outcome) error {
		switch {
		case o == nil: // it may be the key's, and be healed some day
			record.Accepted = append(record.Accepted, unread(key))
			return nil
		case o.by.Entry != id:
			return nil
		}
		why, err := r.refusal(ctx, key, o)
		if err == nil && why == nil {
			record.Accepted = append(record.Accepted, vouch(key, o.sum))
		}
		return err
	}); err != nil {
		return 0, fmt.Errorf("remove key %s: %w", id, err)
	}
	if record, err = putRecord(ctx, r, id, removedSuffix, record); err != nil {
		return 0, fmt.Errorf("remove key %s: %w", id, err)
	}
	return known(record.Accepted), r.deleteKey(ctx, id)
}

// closeKey says that a key is being removed, from when on its holder's sessions are not told that they have committed.
func (r *Repo) closeKey(ctx context.Context, ring *keyring, holders map[string]*entryRecord, id string) error {
	owner := holders[id] == nil || holders[id].Role == keys.Owner // a bundle of which nobody knows whose it is may be the only owner's
	if owner && !otherOwner(ring, holders, id) {
		return ErrLastOwner
	}
	if _, err := putRecord(ctx, r, id, removingSuffix, &removingRecord{Version: recordVersion, Entry: id}); err != nil {
		return err
	}
	if !owner {
		return nil
	}
	// Two owners who remove each other at the same time both see it now.
	ring, holders, err := r.ownKeyring(ctx)
	if err != nil {
		return err
	}
	if !otherOwner(ring, holders, id) {
		return errors.Join(ErrLastOwner, r.store.Delete(ctx, recordKey(id, removingSuffix)))
	}
	return nil
}

// otherOwner says whether there is an owner besides, whom nobody removes.
func otherOwner(ring *keyring, holders map[string]*entryRecord, id string) bool {
	for entry, e := range holders {
		if entry != id && e.Role == keys.Owner && !ring.removing[entry] && len(ring.names.current(entry, keys.Owner)) > 0 {
			return true
		}
	}
	return false
}

// deleteKey deletes the bundles of a key of which a record says that it is removed.
func (r *Repo) deleteKey(ctx context.Context, id string) error {
	names, err := listKeys(ctx, r.store) // who made all anew may have given it one meanwhile
	if err != nil {
		return err
	}
	var kept error
	for _, number := range names.bundles[id] {
		err := r.store.Delete(ctx, bundleKey(id, number))
		switch {
		case errors.Is(err, storage.ErrDenied):
			kept = fmt.Errorf("%w: %w", ErrKept, err)
		case err != nil:
			return fmt.Errorf("delete the bundle of key %s, which is removed: %w", id, err)
		}
	}
	if err := r.store.Delete(ctx, recordKey(id, removingSuffix)); err != nil && !errors.Is(err, storage.ErrDenied) { // it says nothing any more
		return fmt.Errorf("delete what said that key %s is being removed: %w", id, err)
	}
	return kept
}

// claims gives the snapshots of other keys than owners' that say they are of a host of that name, and those that cannot be read: they may be such. They have done so
// before there was a key of this name. Those in seen it passes over, and puts there what it has looked at.
func (r *Repo) claims(ctx context.Context, name string, seen map[string]bool) (all []vouched, err error) {
	err = r.eachSigned(ctx, seen, func(key string, o *outcome) error {
		switch {
		case o == nil:
			all = append(all, unread(key))
			return nil
		}
		if host, _ := originHost(o.Manifest); o.by.Role == keys.Owner || !sameHost(host, name) {
			return nil
		}
		why, err := r.refusal(ctx, key, o)
		if err == nil && why == nil {
			all = append(all, vouch(key, o.sum))
		}
		return err
	})
	return all, err
}

// eachSigned calls fn, by one goroutine at a time, for every snapshot that counts or has just ceased to, and whose signature is good; and without an outcome for one that
// cannot be read. Those in seen it passes over, and puts there what it has looked at.
func (r *Repo) eachSigned(ctx context.Context, seen map[string]bool, fn func(key string, o *outcome) error) error {
	_, found, err := r.counting(ctx, "", true)
	if err != nil {
		return err
	}
	found = slices.DeleteFunc(found, func(at counted) bool { return seen[at.key] })
	type read struct {
		there bool
		o     *outcome
	}
	fetch := func(ctx context.Context, i int) (read, error) {
		if found[i].open {
			if own, err := r.isAnnounced(ctx, found[i].key); err != nil || !own {
				return read{}, err
			}
		}
		o, err := r.outcome(ctx, found[i].key)
		switch {
		case errors.Is(err, storage.ErrNotExist):
			return read{}, nil
		case unbelievable(err):
			return read{there: true}, nil
		}
		return read{true, o}, err
	}
	return inOrder(ctx, len(found), fetch, func(i int, got read) error {
		seen[found[i].key] = true
		if !got.there || got.o != nil && (got.o.by == nil || got.o.Outcome != outcomeSnapshot) {
			return nil
		}
		return fn(found[i].key, got.o)
	})
}
