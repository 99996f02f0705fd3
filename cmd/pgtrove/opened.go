package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/pgtrove/pgtrove/internal/durable"
	"github.com/pgtrove/pgtrove/keys"
	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/storage"
	"github.com/pgtrove/pgtrove/walarchive"
)

// openedCache remembers, in files of mode 0600, what opening a repository reads: archive_command and restore_command open it for one object each,
// and would ask the storage three times before they ask what they are there for. Only wal push and wal fetch use it, and only for storage that
// costs a request.
//
// The files hold no secret: the key bundle in them is sealed as it is in the storage, and takes the identity or passphrase to open. What could
// do harm is a file about a repository that is not there any more, where another has taken its place: what is pushed with the keys of the
// old one nobody can read, and its name is taken for good. So a file is believed for a minute; then the repository's config is read again, and if
// that is not byte for byte the one in the file, the repository is opened anew. A new repository with an identity of its own is noticed at
// once, since that does not open the old bundle.
//
// Keys are removed, and get new data keys, by new objects under keys/. So every ten minutes these are listed, and the repository is opened
// anew if there are others than when it was opened. So long at most a host goes on with a key that was removed, or seals WAL with data keys that were replaced.
type openedCache struct {
	dir string // "" is none
	now func() time.Time
}

const (
	// believed is for how long nobody asks whether the repository is still the same. It bounds what is pushed in vain after another has taken
	// its place under the same passphrase, and how long an emptied bucket is taken for an archive that has ended.
	believed = time.Minute
	// listed is for how long nobody asks whether a key was added, removed or changed.
	listed = 10 * time.Minute
	// reopened is when the bundle is read again, come what may.
	reopened = 24 * time.Hour
)

// openedFile is the content, with a hash of the rest: a rotten file must not look like a damaged repository.
type openedFile struct {
	Version int       `json:"version"`
	Place   string    `json:"place"` // of the storage
	Read    time.Time `json:"read"`  // when config and bundle were
	Listed  time.Time `json:"listed"`
	Keys    string    `json:"keys"` // hash of the names under keys/ when they were listed
	Config  []byte    `json:"config"`
	Bundle  []byte    `json:"bundle"`
	Sum     string    `json:"sha256"`
}

// openedVersion is that of openedFile.
const openedVersion = 2

func (f openedFile) sum() string {
	h := sha256.New()
	_, _ = fmt.Fprintf(h, "%d %q %d %d %q %d ", f.Version, f.Place, f.Read.UnixNano(), f.Listed.UnixNano(), f.Keys, len(f.Config))
	h.Write(f.Config)
	h.Write(f.Bundle)
	return hex.EncodeToString(h.Sum(nil))
}

func (c openedCache) path(place string) string {
	sum := sha256.Sum256([]byte(place))
	return filepath.Join(c.dir, hex.EncodeToString(sum[:16]))
}

// find gives what is known of the repository at place, and whether that was seen to be so a moment ago; nil if there is nothing to rely on.
func (c openedCache) find(place string) (f *openedFile, fresh bool) {
	if c.dir == "" {
		return nil, false
	}
	path := c.path(place)
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0 {
		return nil, false
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, false
	}
	f = &openedFile{}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if d.Decode(f) != nil || f.Version != openedVersion || f.Place != place || f.Sum != f.sum() {
		return nil, false
	}
	if age := c.now().Sub(f.Read); age < 0 || age >= reopened {
		return nil, false
	}
	age := c.now().Sub(info.ModTime())
	return f, age >= 0 && age < believed
}

func (f *openedFile) opening() repo.Opening { return repo.Opening{Config: f.Config, Bundle: f.Bundle} }

// keep remembers what the repository at place was opened with, when the names under keys/ were these. Where that fails the next call asks more, which is no reason to fail this one.
func (c openedCache) keep(place string, o repo.Opening, names string) {
	now := c.now().UTC()
	c.write(openedFile{Version: openedVersion, Place: place, Read: now, Listed: now, Keys: names, Config: o.Config, Bundle: o.Bundle})
}

func (c openedCache) write(f openedFile) {
	if c.dir == "" {
		return
	}
	f.Sum = f.sum()
	text, err := json.Marshal(f)
	if err == nil && os.MkdirAll(c.dir, 0o700) == nil && durable.Replace(c.path(f.Place), 0o600, text) == nil {
		c.confirm(f.Place)
	}
}

// sameKeys says whether the names under keys/ are those of when f was written, and notes it if so. It asks the storage only if that was not seen lately.
func (c openedCache) sameKeys(ctx context.Context, f *openedFile, store storage.Store) (bool, error) {
	if age := c.now().Sub(f.Listed); age >= 0 && age < listed {
		return true, nil
	}
	names, err := keyNames(ctx, store)
	if err != nil || names != f.Keys {
		return false, err
	}
	f.Listed = c.now().UTC()
	c.write(*f)
	return true, nil
}

// keyNames is a hash of the names under keys/, of which each key that is added, removed or changed makes another.
func keyNames(ctx context.Context, store storage.Store) (string, error) {
	h := sha256.New()
	if err := store.List(ctx, "keys/", func(i storage.Info) error {
		_, err := fmt.Fprintf(h, "%q ", i.Key)
		return err
	}); err != nil {
		return "", fmt.Errorf("list keys: %w", err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// confirm notes that the repository was just seen to be the one in the file. It sets the time itself: a file server has a clock of its own.
func (c openedCache) confirm(place string) { _ = os.Chtimes(c.path(place), c.now(), c.now()) }

func (c openedCache) forget(place string) {
	if c.dir != "" {
		_ = os.Remove(c.path(place))
	}
}

// withOpened runs do with the repository in store, opened by what is known of it or else anew. If do fails in a way that another
// repository in its place, or another bundle, would explain, it runs again with the repository as it is: do must be of a kind that this does no harm.
func (a *app) withOpened(ctx context.Context, c openedCache, name, place string, store storage.Store, do func(*repo.Repo) error) error {
	r, err := a.reopen(ctx, c, place, store)
	if err != nil {
		return fmt.Errorf("open repository %s: %w", name, err)
	}
	if r != nil {
		if err := do(r); !outdated(err) {
			return err
		}
		c.forget(place)
	}
	if c.dir == "" {
		if r, err = a.openIn(ctx, name, store); err != nil {
			return err
		}
		return do(r)
	}
	names, err := keyNames(ctx, store) // before they are read
	if err != nil {
		return fmt.Errorf("open repository %s: %w", name, err)
	}
	if r, err = a.openIn(ctx, name, store); err != nil {
		return err
	}
	c.keep(place, r.Opening(), names)
	return do(r)
}

// reopen gives the repository by what is known of it, nil if that is nothing to rely on.
func (a *app) reopen(ctx context.Context, c openedCache, place string, store storage.Store) (*repo.Repo, error) {
	f, fresh := c.find(place)
	if f == nil {
		return nil, nil
	}
	given, err := a.identities(ctx, store)
	if err != nil {
		return nil, err
	}
	r, err := repo.ReopenWith(store, f.opening(), given)
	if err != nil {
		c.forget(place)
		return nil, nil // whatever is wrong, opening it anew will tell
	}
	a.obey(r.Config())
	if fresh {
		return r, nil
	}
	same, err := repo.Current(ctx, store, f.opening())
	if same && err == nil {
		same, err = c.sameKeys(ctx, f, store)
	}
	if err != nil {
		return nil, err
	}
	if !same {
		c.forget(place)
		return nil, nil
	}
	c.confirm(place)
	return r, nil
}

// outdated says whether err may come of a repository or a bundle that is not the present one: a bundle from before `key rotate --data` lacks the keys that
// others have sealed to since.
func outdated(err error) bool {
	return errors.Is(err, repo.ErrDamaged) || errors.Is(err, walarchive.ErrDamaged) || errors.Is(err, keys.ErrRole) || errors.Is(err, keys.ErrLocked)
}
