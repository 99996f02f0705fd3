package repo

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"filippo.io/age"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/keys"
	"github.com/pgtrove/pgtrove/storage"
)

// MaxObjectLockDays is the longest retention that a repository asks for: a hundred years.
const MaxObjectLockDays = 36500

// FormatVersion is the version of the repository format that this package writes and reads.
const FormatVersion = 1

// Errors of this package.
var (
	// ErrNoRepository says that there is no repository where one was looked for.
	ErrNoRepository = errors.New("no repository")
	// ErrExists says that there is a repository already.
	ErrExists = errors.New("a repository exists already")
	// ErrNotEmpty says that the place for a new repository holds something else.
	ErrNotEmpty = errors.New("not empty")
	// ErrVersion says that the repository was made by a newer program.
	ErrVersion = errors.New("unsupported repository version")
	// ErrDamaged says that an object is not what was written: cut short, altered, or in another's place.
	ErrDamaged = errors.New("damaged object")
	// ErrMissing says that an object or chunk that something refers to is not there.
	ErrMissing = errors.New("missing object")
	// ErrConflict says that an archive file is stored already, with other content.
	ErrConflict = errors.New("stored already with different content")
	// ErrFenced says that a session was ended by someone else before it could commit.
	ErrFenced = errors.New("session was fenced")
)

const (
	configKey  = "config"
	keysPrefix = "keys/"
)

// Config is the object "config", a line of JSON and one with its checksum. It holds no secret and nothing that safety depends on: the repository
// ID is bound into every sealed object.
type Config struct {
	Version int       `json:"pgtrove_repository"` // FormatVersion; first, so that it is in the first bytes
	ID      string    `json:"id"`                 // 32 hexadecimal digits
	Created time.Time `json:"created"`
	Params  Params    `json:"params"`
	// Storage is what was known of the storage when the repository was made in it; nil where nobody asked.
	Storage *StorageTest `json:"storage,omitempty"`
}

// StorageTest is what a self-test of a storage found.
type StorageTest struct {
	CreateOnly bool     `json:"create_only"`        // of several who create one object, one is told that it did
	Problems   []string `json:"problems,omitempty"` // whatever it does and should not, for people
}

// Params are the repository's parameters, fixed when it was made.
type Params struct {
	PackSize int `json:"pack_size"` // bytes; a pack is closed when it reaches this
	// ObjectLockDays is for how long the storage is asked to let nobody delete what is written; 0: it is not asked.
	ObjectLockDays int `json:"object_lock_days,omitempty"`
}

// defaultParams are those of a new repository.
var defaultParams = Params{PackSize: 32 << 20}

// marshal returns the object: one line of JSON, and one with its SHA-256, against bit rot.
func (c Config) marshal() ([]byte, error) {
	b, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(b, "\nsha256:%x\n", sha256.Sum256(b)), nil
}

func parseConfig(b []byte) (*Config, error) {
	var c Config
	b, sum, _ := bytes.Cut(b, []byte("\n"))
	if string(sum) != fmt.Sprintf("sha256:%x\n", sha256.Sum256(b)) {
		return nil, fmt.Errorf("%w: config: its checksum is wrong", ErrDamaged)
	}
	if err := json.Unmarshal(b, &c); err != nil {
		return nil, fmt.Errorf("%w: config: %v", ErrDamaged, err)
	}
	if c.Version != FormatVersion {
		return nil, fmt.Errorf("%w %d, this program knows %d", ErrVersion, c.Version, FormatVersion)
	}
	if id, err := hex.DecodeString(c.ID); err != nil || len(id) != 16 || c.Params.PackSize < 1<<16 || c.Params.PackSize > 1<<30 {
		return nil, fmt.Errorf("%w: config: repository ID %q, pack size %d", ErrDamaged, c.ID, c.Params.PackSize)
	}
	if d := c.Params.ObjectLockDays; d < 0 || d > MaxObjectLockDays {
		return nil, fmt.Errorf("%w: config: object lock of %d days", ErrDamaged, d)
	}
	return &c, nil
}

// Repo is an open repository: a store, and the keys that one bundle gives. It is safe for concurrent use.
type Repo struct {
	store  storage.Store
	config Config
	bundle *keys.Bundle
	meta   *keys.Meta
	open   openers

	opening Opening

	archivers sync.Pool // of *archiver
	objects   sync.Pool // of *[]byte: archive files as stored
	contents  sync.Pool // and their contents
}

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

// InitOptions are what the config of a new repository says besides.
type InitOptions struct {
	Storage        *StorageTest // nil: nobody tested it
	ObjectLockDays int          // Params.ObjectLockDays
}

// InitWith is Init with options. Errors: those of Check, ErrExists also where another Init was faster; *InitError where the storage failed.
func InitWith(ctx context.Context, store storage.Store, recipient age.Recipient, now time.Time, o InitOptions) (*Repo, error) {
	if err := Check(ctx, store); err != nil {
		return nil, err
	}
	id := make([]byte, 16)
	_, _ = rand.Read(id) // never fails (crypto/rand)
	c := Config{Version: FormatVersion, ID: hex.EncodeToString(id), Created: now.UTC().Truncate(time.Second), Params: defaultParams, Storage: o.Storage}
	c.Params.ObjectLockDays = o.ObjectLockDays
	bundle, err := keys.Generate(c.ID, string(keys.Owner))
	if err != nil {
		return nil, fmt.Errorf("make keys: %w", err)
	}
	wrapped, err := keys.Wrap(bundle, recipient)
	if err != nil {
		return nil, fmt.Errorf("seal key bundle: %w", err)
	}
	text, err := c.marshal()
	if err != nil {
		return nil, err
	}
	r, err := newOpened(store, c, bundle, Opening{Config: text, Bundle: wrapped}) // while nothing is there: nothing fails once config is
	if err != nil {
		return nil, err
	}
	key := keysPrefix + newID()
	if err := store.Put(ctx, key, wrapped); err != nil {
		return nil, abandon(ctx, store, key, &InitError{Err: fmt.Errorf("write key bundle: %w", err)})
	}
	if err := ctx.Err(); err != nil { // config is not asked for yet, so that it is certain that it is not there
		return nil, abandon(ctx, store, key, &InitError{Err: fmt.Errorf("write config: %w", err)})
	}
	if err := store.Put(ctx, configKey, text); err != nil {
		return nil, abandon(ctx, store, key, noConfig(ctx, store, text, err))
	}
	return r, nil
}

// Open opens the repository in store with whatever bundle one of the identities fits. keys.ErrLocked: none does.
func Open(ctx context.Context, store storage.Store, ids ...age.Identity) (*Repo, error) {
	var o Opening
	var err error
	if o.Config, err = readConfig(ctx, store); err != nil {
		return nil, err
	}
	c, err := parseConfig(o.Config)
	if err != nil {
		return nil, err
	}
	var bundle *keys.Bundle
	foreign := ""
	err = store.List(ctx, keysPrefix, func(i storage.Info) error {
		if bundle != nil {
			return nil
		}
		b, err := store.Get(ctx, i.Key, storage.Range{}, nil)
		if err != nil {
			return fmt.Errorf("read %s: %w", i.Key, err)
		}
		bundle, err = keys.Unwrap(b, ids...)
		switch {
		case errors.Is(err, keys.ErrLocked):
			return nil
		case err == nil && bundle.Repository != c.ID:
			foreign, bundle = i.Key, nil // an Init left it that did not come to its end
			return nil
		}
		o.Bundle = b
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open key bundle: %w", err)
	}
	switch {
	case bundle == nil && foreign != "":
		return nil, fmt.Errorf("%w: key bundle %s belongs to another repository than %s, and no other one opens", ErrDamaged, foreign, c.ID)
	case bundle == nil:
		return nil, fmt.Errorf("open key bundle: %w", keys.ErrLocked)
	}
	return newOpened(store, *c, bundle, o)
}

// ReadConfig reads the config object. ErrNoRepository where there is none.
func ReadConfig(ctx context.Context, store storage.Store) (*Config, error) {
	b, err := readConfig(ctx, store)
	if err != nil {
		return nil, err
	}
	return parseConfig(b)
}

func readConfig(ctx context.Context, store storage.Store) ([]byte, error) {
	b, err := store.Get(ctx, configKey, storage.Range{}, nil)
	if errors.Is(err, storage.ErrNotExist) {
		return nil, ErrNoRepository
	}
	if err != nil {
		return nil, fmt.Errorf("read config: %w", err)
	}
	return b, nil
}

func newOpened(store storage.Store, c Config, bundle *keys.Bundle, o Opening) (*Repo, error) {
	r, err := newRepo(store, c, bundle)
	if err == nil {
		r.opening = o
	}
	return r, err
}

func newRepo(store storage.Store, c Config, bundle *keys.Bundle) (*Repo, error) {
	if bundle.Repository != c.ID {
		return nil, fmt.Errorf("%w: key bundle belongs to repository %s, config says %s", ErrDamaged, bundle.Repository, c.ID)
	}
	meta, err := bundle.Meta()
	if err != nil {
		return nil, err
	}
	return &Repo{store: store, config: c, bundle: bundle, meta: meta}, nil
}

// Config returns the repository's config.
func (r *Repo) Config() Config { return r.config }

// Role returns what the opened bundle allows.
func (r *Repo) Role() keys.Role { return r.bundle.Role }

// IDKey returns K_id, which names chunks.
func (r *Repo) IDKey() chunk.Key { return r.bundle.IDKey() }

// newID returns 64 random bits in hexadecimal.
func newID() string {
	var b [8]byte
	_, _ = rand.Read(b[:])
	return hex.EncodeToString(b[:])
}
