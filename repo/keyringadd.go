package repo

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"filippo.io/age"

	"github.com/pgtrove/pgtrove/keys"
	"github.com/pgtrove/pgtrove/storage"
)

var (
	// ErrName says that another key has the name.
	ErrName = errors.New("another key is called so")
	// ErrClaimed says that keys of other names go on to make snapshots of a host of the name that a key was to get.
	ErrClaimed = errors.New("others make snapshots that say they are of a host of this name")
	// ErrNoKey says that no key has that ID, or that it was removed.
	ErrNoKey = errors.New("no such key")
	// ErrStale says that the repository's keys were made anew since it was opened. Who opens it again has them.
	ErrStale = errors.New("the keys were made anew meanwhile")
	// ErrUnsigned says that the repository was made before there were keys to add: it has no root key that could certify them.
	ErrUnsigned = errors.New("the repository has no root key, so no keys can be added to it or removed")
)

// Recipient is whom a key's bundle is wrapped for.
type Recipient struct {
	Recipient age.Recipient
	Text      string // as keys.ParseRecipient reads it, kept for owners to wrap the bundle again; "": it cannot be kept, as of a passphrase
	Kind      string // for people: keys.KindIdentity and others
	// Proven: whoever calls has what opens it, as where the identity was made here just now. Only RotateKey asks.
	Proven bool
}

// recipientOf is a Recipient of which only age's part is known.
func recipientOf(r age.Recipient) Recipient {
	switch r := r.(type) {
	case *age.X25519Recipient:
		return Recipient{Recipient: r, Text: r.String(), Kind: keys.KindIdentity}
	case *age.HybridRecipient:
		return Recipient{Recipient: r, Text: r.String(), Kind: keys.KindIdentity}
	case *age.ScryptRecipient:
		return Recipient{Recipient: r, Kind: keys.KindPassphrase}
	}
	return Recipient{Recipient: r}
}

// texts are what recipients are called by in a certificate: nil where one of them has no text and is no passphrase either.
func texts(recipients []Recipient) []string {
	all := []string{}
	for _, r := range recipients {
		switch {
		case r.Text != "":
			all = append(all, r.Text)
		case r.Kind != keys.KindPassphrase:
			return nil
		}
	}
	return all
}

// NewKey is a key to be made.
type NewKey struct {
	Name       string // no other key's, and the host's where it is for one: no other key may then make snapshots that say they are of it
	Role       keys.Role
	Group      string      // trust group, made if there is none of this name; "" is the first
	Clusters   []string    // whose snapshots it may make; none: all
	Recipients []Recipient // each of them can open it
	Passphrases
}

// Passphrases are what bundles are wrapped for again of which nobody keeps that, by the ID of the key. A change that all owners must have, as a new trust group is,
// needs those of all of them.
type Passphrases map[string]Passphrase

// Passphrase is both sides of one (keys.Passphrase).
type Passphrase struct {
	Recipient age.Recipient
	Identity  age.Identity
}

// PassphraseError says of which keys the passphrases are missing.
type PassphraseError struct{ Names, IDs []string }

func (e *PassphraseError) Error() string {
	return fmt.Sprintf("the passphrase of %q is needed to wrap its keys again", strings.Join(e.Names, ", "))
}

// Key is an entry of the keyring.
type Key struct {
	ID       string
	Name     string
	Role     keys.Role
	Group    string // trust group; "" is the first
	Clusters []string
	Kind     string // what opens it: keys.KindIdentity and others
	Created  time.Time
	Current  bool // the repository is open with it
	Removing bool // somebody has begun to remove it: no snapshot that it makes is sure to count
	// Err says what is wrong with it: there is a bundle of which no owner has certified whose it is, or none at all. Then what is said of the key may
	// be missing.
	Err error
}

func (e *entryRecord) key() Key {
	return Key{ID: e.Entry, Name: e.Name, Role: e.Role, Group: e.Group, Clusters: e.Clusters, Kind: e.Kind, Created: e.Created}
}

// Keys lists the keys that are not removed, the oldest first. In a repository without a root key no more is known of most than their IDs.
func (r *Repo) Keys(ctx context.Context) ([]Key, error) {
	ring, err := r.freshKeyring(ctx)
	if err != nil {
		return nil, err
	}
	if !r.signed() {
		return r.bareKeys(ring), nil
	}
	holders, err := r.holders(ctx, ring)
	if err != nil {
		return nil, err
	}
	var all []Key
	current := r.bundle.Certificate().Entry
	for _, entry := range ring.names.entries() {
		if ring.removed[entry] != nil {
			continue
		}
		k := Key{ID: entry}
		known := holders[entry]
		switch {
		case known != nil:
			k = known.key()
			k.Err = ring.bad[entry] // another record of it
			if len(ring.names.current(entry, k.Role)) == 0 {
				k.Err = fmt.Errorf("%w: key %s has no bundle, so nobody can use it", ErrMissing, entry)
			}
		case ring.bad[entry] != nil:
			k.Err = ring.bad[entry]
		case len(ring.names.bundles[entry]) == 0:
			continue // a record that was deleted meanwhile, or one that says that no key is being removed
		default:
			k.Err = fmt.Errorf("%w: no owner has certified whose key %s is", ErrOrigin, entry)
		}
		k.Current = entry == current
		k.Removing = ring.removing[entry]
		all = append(all, k)
	}
	slices.SortStableFunc(all, func(a, b Key) int { return a.Created.Compare(b.Created) })
	return all, nil
}

func (r *Repo) bareKeys(ring *keyring) (all []Key) {
	for _, entry := range ring.names.entries() {
		k := Key{ID: entry}
		if entry == r.entry {
			k = Key{ID: entry, Name: r.bundle.Name, Role: r.bundle.Role, Created: r.bundle.Created, Current: true}
		}
		all = append(all, k)
	}
	return all
}

// mustOwn says whether this bundle can certify keys: ErrUnsigned, keys.ErrRole.
func (r *Repo) mustOwn() error {
	switch {
	case !r.signed():
		return ErrUnsigned
	case r.bundle.Signing.RootSecret.IsZero():
		return fmt.Errorf("only an owner's key may do this, and this one is a %s's: %w", r.bundle.Role, keys.ErrRole)
	}
	return nil
}

// AddKey makes a key. What it is wrapped for can open the repository when AddKey has returned nil. Only an owner may: keys.ErrRole. ErrName; ErrClaimed; ErrUnsigned; ErrFormat of keys where
// the name, the group or the clusters are none; *PassphraseError where there is a new trust group.
//
// This Repo goes on with the keys that it was opened with: it does not know a trust group that was made.
func (r *Repo) AddKey(ctx context.Context, k NewKey) (*Key, error) {
	ring, holders, err := r.ownKeyring(ctx)
	if err != nil {
		return nil, err
	}
	for _, e := range holders {
		if sameHost(e.Name, k.Name) {
			return nil, fmt.Errorf("add key %q: %w: %s", k.Name, ErrName, e.Entry)
		}
	}
	owner := r
	if !slices.ContainsFunc(r.bundle.Groups(), func(g keys.Group) bool { return g.Name == k.Group }) {
		if err := r.canIssue(k); err != nil { // before anything is changed
			return nil, err
		}
		if owner, err = r.addGroup(ctx, ring, holders, k); err != nil {
			return nil, fmt.Errorf("add trust group %q: %w", k.Group, err)
		}
	}
	return owner.putKey(ctx, k, ring.names, nil)
}

// ownKeyring is the keyring of now, for an owner to change it, whose key is not removed and has all keys that there are.
func (r *Repo) ownKeyring(ctx context.Context) (*keyring, map[string]*entryRecord, error) {
	if err := r.mustOwn(); err != nil {
		return nil, nil, err
	}
	ring, err := r.freshKeyring(ctx)
	if err != nil {
		return nil, nil, err
	}
	if by := r.bundle.Certificate(); ring.removed[by.Entry] != nil {
		return nil, nil, errRemoved(by)
	}
	if err := r.mustBeNewest(ring.names); err != nil {
		return nil, nil, err
	}
	holders, err := r.holders(ctx, ring)
	return ring, holders, err
}

// mustBeNewest says whether this owner's bundle is the newest one that he has, as any change gives all owners one. From an older one no bundles may be made: they would
// lack what has been written with since. ErrStale.
func (r *Repo) mustBeNewest(names *keyNames) error {
	if numbers := names.current(r.bundle.Certificate().Entry, keys.Owner); len(numbers) == 0 || numbers[0] != r.number {
		return ErrStale
	}
	return nil
}

// canIssue says what is wrong with a key of a trust group that is not there yet.
func (r *Repo) canIssue(k NewKey) error {
	k.Group = r.bundle.Group
	_, err := r.issue(k, time.Now(), nil)
	return err
}

// claimAttempts is how often putKey begins anew because somebody has committed a snapshot of a host of the key's name meanwhile.
const claimAttempts = 5

// putKey makes a key and stores it: first whose it is, so that there is no bundle of which nobody knows that. known is a listing in which nothing spoke against the name.
func (r *Repo) putKey(ctx context.Context, k NewKey, known *keyNames, claimed []vouched) (*Key, error) {
	seen := map[string]bool{}
	more, err := r.claims(ctx, k.Name, seen)
	if err != nil {
		return nil, err
	}
	defer r.forgetKeyring() // only now: claims goes by what was said before there was the key
	for range claimAttempts {
		claimed = slices.Concat(claimed, more)
		issued, err := r.issue(k, time.Now(), claimed)
		if err != nil {
			return nil, err
		}
		more, err = r.putIssued(ctx, issued, known, seen)
		if err == nil && len(more) == 0 {
			key := issued.record.key()
			return &key, nil
		}
		var left error
		for _, o := range slices.Backward(issued.objects()) {
			left = r.store.Delete(context.WithoutCancel(ctx), o.key) // what stays Keys shows, and RemoveKey removes
		}
		if err == nil && left != nil {
			err = fmt.Errorf("%w: %w", ErrClaimed, left)
		}
		if err != nil {
			return nil, fmt.Errorf("add key %q: %w", k.Name, err)
		}
	}
	return nil, fmt.Errorf("add key %q: %w", k.Name, ErrClaimed)
}

// putIssued stores a key's objects. more are snapshots that have its name as their host's, were committed before the record of the key was there, and that it does not
// name: the sessions were told that they count, so the key must not be there without naming them.
func (r *Repo) putIssued(ctx context.Context, issued *issuedKey, known *keyNames, seen map[string]bool) (more []vouched, err error) {
	objects := issued.objects()
	if err := r.putSame(ctx, objects[0].key, objects[0].content); err != nil {
		return nil, err
	}
	if more, err = r.claims(ctx, issued.record.Name, seen); err != nil || len(more) > 0 {
		return more, err
	}
	if err := r.onlyOne(ctx, &issued.record, known); err != nil {
		return nil, err
	}
	if err := r.putSame(ctx, objects[1].key, objects[1].content); err != nil {
		return nil, err
	}
	return nil, r.isNewest(ctx, &issued.record)
}

// onlyOne says whether somebody else makes a key of the same name: ErrName. Of two who do so at the same time at least one sees the other.
func (r *Repo) onlyOne(ctx context.Context, e *entryRecord, known *keyNames) error {
	names, err := listKeys(ctx, r.store)
	if err != nil {
		return err
	}
	for _, entry := range names.with(entrySuffix) {
		if entry == e.Entry || known.records[entry][entrySuffix] {
			continue
		}
		other, err := getRecord[entryRecord](ctx, r, entry, entrySuffix)
		switch {
		case errors.Is(err, storage.ErrNotExist) || unbelievable(err):
		case err != nil:
			return err
		case sameHost(other.Name, e.Name):
			return fmt.Errorf("%w: %s, made at the same time", ErrName, entry)
		}
	}
	return nil
}

// isNewest says whether a bundle that was just stored has all keys that there are: who makes all bundles anew looks for new entries afterwards, and gives them theirs. If
// that was over before, nobody does: ErrStale.
func (r *Repo) isNewest(ctx context.Context, e *entryRecord) error {
	names, err := r.listKeys(ctx)
	if err != nil {
		return err
	}
	if numbers := names.current(e.Entry, e.Role); len(numbers) > 0 && numbers[0] > 1 {
		return nil
	}
	return r.mustBeNewest(names)
}

// putSame is Put, but that the very same object is there already is no failure: an answer was lost.
func (r *Repo) putSame(ctx context.Context, key string, content []byte) error {
	err := r.store.Put(ctx, key, content)
	if errors.Is(err, storage.ErrExist) {
		if there, readErr := r.store.Get(ctx, key, storage.Range{}, nil); readErr == nil && bytes.Equal(there, content) {
			return nil
		}
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", key, err)
	}
	return nil
}

// forgetKeyring makes the next look at the keyring a new one.
func (r *Repo) forgetKeyring() {
	r.ring.mu.Lock()
	defer r.ring.mu.Unlock()
	r.ring.ring, r.ring.names = nil, nil
}

// issuedKey is a key that was made, and is not stored yet.
type issuedKey struct {
	bundle  *keys.Bundle
	wrapped []byte
	record  entryRecord
	signed  []byte // the record as stored
}

type object struct {
	key     string
	content []byte
}

// objects are in the order in which they must be there.
func (k *issuedKey) objects() []object {
	return []object{{recordKey(k.record.Entry, entrySuffix), k.signed}, {bundleKey(k.record.Entry, 1), k.wrapped}}
}

// issue makes a key.
func (r *Repo) issue(k NewKey, now time.Time, claimed []vouched) (*issuedKey, error) {
	if len(k.Clusters) == 0 {
		k.Clusters = []string{keys.AnyCluster}
	}
	for _, c := range k.Clusters {
		if c != keys.AnyCluster && storage.CheckPart(c) != nil {
			return nil, fmt.Errorf("make key %q: %w: no cluster can be called %q", k.Name, keys.ErrFormat, c)
		}
	}
	if len(k.Recipients) == 0 {
		return nil, fmt.Errorf("make key %q: %w: nothing to wrap it for", k.Name, keys.ErrFormat)
	}
	kept := texts(k.Recipients)
	b, err := r.bundle.Issue(keys.IssueOptions{Entry: keys.NewEntryID(), Name: k.Name, Role: k.Role, Group: k.Group, Clusters: k.Clusters, Created: now, Recipients: kept})
	if err != nil {
		return nil, err
	}
	issued := &issuedKey{bundle: b, record: entryRecord{Version: recordVersion, Entry: b.Certificate().Entry, Name: b.Name, Role: b.Role, Group: b.Group,
		Clusters: k.Clusters, Created: b.Created, Kind: k.Recipients[0].Kind, Claimed: claimed}}
	var to []age.Recipient
	for _, one := range k.Recipients {
		to = append(to, one.Recipient)
	}
	if len(kept) == len(k.Recipients) {
		if issued.record.Recipients, err = r.sealRecipients(issued.record.Entry, kept); err != nil {
			return nil, err
		}
	}
	if issued.wrapped, err = keys.Wrap(b, to...); err != nil {
		return nil, fmt.Errorf("make key %q: %w", k.Name, err)
	}
	issued.signed, err = r.sealCertified(recordKey(issued.record.Entry, entrySuffix), entrySuffix, issued.record)
	return issued, err
}

// sealRecipients seals for owners whom an entry's bundle is wrapped for: an encapsulation, and behind it what is sealed by its key.
func (r *Repo) sealRecipients(entry string, texts []string) ([]byte, error) {
	plain, err := json.Marshal(texts)
	if err != nil {
		return nil, err
	}
	s, err := r.bundle.DataSealer(r.config.ID, entry+"."+entrySuffix)
	if err != nil {
		return nil, err
	}
	sealed, _ := s.Seal(slices.Clone(s.Encapsulation()), plain, sha256.Sum256([]byte(entry)))
	return sealed, nil
}

// recipients opens what sealRecipients sealed: whom to wrap for, and what they are called. Nothing where it was a passphrase, or where nobody knows.
func (r *Repo) recipients(e *entryRecord) (to []age.Recipient, called []string, err error) {
	if len(e.Recipients) == 0 {
		return nil, nil, nil
	}
	if len(e.Recipients) < keys.EncapsulationSize {
		return nil, nil, fmt.Errorf("%w: whom key %q is wrapped for", ErrDamaged, e.Name)
	}
	o, err := r.bundle.DataOpener(r.config.ID, e.Entry+"."+entrySuffix, e.Recipients[:keys.EncapsulationSize])
	if err != nil {
		return nil, nil, err
	}
	plain, err := o.Open(nil, e.Recipients[keys.EncapsulationSize:], sha256.Sum256([]byte(e.Entry)), 0)
	if err != nil {
		return nil, nil, fmt.Errorf("whom key %q is wrapped for: %w", e.Name, err)
	}
	if err := json.Unmarshal(plain, &called); err != nil {
		return nil, nil, fmt.Errorf("%w: whom key %q is wrapped for", ErrDamaged, e.Name)
	}
	for _, text := range called {
		one, _, err := keys.ParseRecipient(text)
		if err != nil {
			return nil, nil, fmt.Errorf("whom key %q is wrapped for: %w", e.Name, err)
		}
		to = append(to, one)
	}
	return to, called, nil
}
