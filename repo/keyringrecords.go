package repo

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/pgtrove/pgtrove/keys"
	"github.com/pgtrove/pgtrove/storage"
)

// recordVersion is that of all records under keys/.
const recordVersion = 1

// entryRecord is keys/<entry>.entry: who has a key.
type entryRecord struct {
	Version  int       `json:"version"`
	Entry    string    `json:"entry"`
	Name     string    `json:"name"`
	Role     keys.Role `json:"role"`
	Group    string    `json:"group,omitempty"`
	Clusters []string  `json:"clusters"`
	Created  time.Time `json:"created"`
	Kind     string    `json:"kind"` // what its bundle is wrapped for, for people
	// Recipients is what its bundle is wrapped for, as text, sealed to the data key: owners wrap it again. nil: a passphrase, which nobody keeps.
	Recipients []byte `json:"recipients,omitempty"`
	// Claimed are snapshots of other keys that had said to be of a host of this name before there was a key of this name.
	Claimed []vouched `json:"claimed,omitempty"`
}

// removingRecord is keys/<entry>.removing.
type removingRecord struct {
	Version int    `json:"version"`
	Entry   string `json:"entry"`
}

// removedRecord is keys/<entry>.removed.
type removedRecord struct {
	Version  int       `json:"version"`
	Entry    string    `json:"entry"`
	Name     string    `json:"name,omitempty"`
	Time     time.Time `json:"time"`              // for people
	Accepted []vouched `json:"accepted"`          // snapshots signed by the key that counted, and go on to count
	Rotated  bool      `json:"rotated,omitempty"` // another key took its place, and nobody distrusts what it has stored
}

// generationRecord is keys/generation.<n>: every owner has a bundle of that number, so what is sealed with it all of them can read.
type generationRecord struct {
	Version int  `json:"version"`
	Number  int  `json:"number"`
	Owners  bool `json:"owners,omitempty"` // nobody else has one of that number
}

// vouched is a snapshot that an owner has looked at. The digest is of its object: the name alone somebody could use again once the snapshot is deleted. Of one that could
// not be read then there is none, and the name has to do: who made it nobody knows until it is healed, and it was there.
type vouched struct {
	Cluster string `json:"cluster"`
	ID      string `json:"id"`
	SHA256  []byte `json:"sha256,omitempty"`
}

func vouch(key string, sum [sha256.Size]byte) vouched {
	return vouched{Cluster: outcomeCluster(key), ID: outcomeSession(key), SHA256: sum[:]}
}

// vouchedFor says whether an outcome is one of all.
func vouchedFor(all []vouched, key string, sum [sha256.Size]byte) bool {
	for _, v := range all {
		if (len(v.SHA256) == 0 || string(v.SHA256) == string(sum[:])) && (named{v.Cluster, v.ID}).key() == key {
			return true
		}
	}
	return false
}

// unread is a snapshot that cannot be read now.
func unread(key string) vouched {
	return vouched{Cluster: outcomeCluster(key), ID: outcomeSession(key)}
}

// known counts those that could be read.
func known(all []vouched) (n int) {
	for _, v := range all {
		if len(v.SHA256) > 0 {
			n++
		}
	}
	return n
}

func (e *entryRecord) about() (int, string)    { return e.Version, e.Entry }
func (e *removingRecord) about() (int, string) { return e.Version, e.Entry }
func (e *removedRecord) about() (int, string)  { return e.Version, e.Entry }

// record is what the root key certifies of an entry.
type record interface {
	about() (version int, entry string)
}

// getRecord reads a record of an entry. Errors: storage.ErrNotExist, ErrDamaged, ErrVersion; keys.ErrOrigin where it is not what an owner has said of this entry.
func getRecord[T any, P interface {
	*T
	record
}](ctx context.Context, r *Repo, entry, suffix string) (*T, error) {
	key := recordKey(entry, suffix)
	text, err := r.getCertified(ctx, key, suffix)
	if err != nil {
		return nil, err
	}
	rec := new(T)
	if err := json.Unmarshal(text, rec); err != nil {
		return nil, fmt.Errorf("%w: %s does not say what it should", ErrDamaged, key)
	}
	version, of := P(rec).about()
	switch {
	case version != recordVersion:
		return nil, fmt.Errorf("%w: %s has version %d", ErrVersion, key, version)
	case of != entry:
		return nil, fmt.Errorf("%s: %w: it is about the key %s", key, keys.ErrOrigin, of)
	}
	return rec, nil
}

// getCertified reads what the root key has certified. Errors as those of getRecord.
func (r *Repo) getCertified(ctx context.Context, key, what string) ([]byte, error) {
	signed, err := r.get(ctx, kindKey, key)
	if err != nil {
		return nil, err
	}
	text, err := r.bundle.Certified(what, signed)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	return text, nil
}

// putCertified writes a statement that the bundle, an owner's, certifies. Errors: keys.ErrRole; those of storage.
func (r *Repo) putCertified(ctx context.Context, key, what string, statement any) error {
	object, err := r.sealCertified(key, what, statement)
	if err != nil {
		return err
	}
	return r.putSame(ctx, key, object)
}

// putRecord writes a record of an entry, in the place of what stands there if no owner has made that. Where another owner was faster, or an answer was lost, it gives what
// is there.
func putRecord[T any, P interface {
	*T
	record
}](ctx context.Context, r *Repo, entry, suffix string, rec *T) (*T, error) {
	key := recordKey(entry, suffix)
	err := r.putCertified(ctx, key, suffix, rec)
	if !errors.Is(err, storage.ErrExist) {
		return rec, err
	}
	there, readErr := getRecord[T, P](ctx, r, entry, suffix)
	switch {
	case readErr == nil:
		return there, nil
	case !unbelievable(readErr):
		return nil, errors.Join(err, readErr)
	}
	if err := r.store.Delete(ctx, key); err != nil {
		return nil, fmt.Errorf("delete %s, which no owner has made: %w", key, err)
	}
	return rec, r.putCertified(ctx, key, suffix, rec)
}

// sealCertified is the stored form of a statement that the bundle certifies.
func (r *Repo) sealCertified(key, what string, statement any) ([]byte, error) {
	text, err := json.Marshal(statement)
	if err != nil {
		return nil, err
	}
	signed, err := r.bundle.Certify(what, text)
	if err != nil {
		return nil, err
	}
	return r.seal(kindKey, key, signed), nil
}
