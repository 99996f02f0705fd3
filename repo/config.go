package repo

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

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
	// ErrOrigin is keys.ErrOrigin: nobody whom the repository's root key stands behind has made this, or nobody who may.
	ErrOrigin = keys.ErrOrigin
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
	entry   string // whose bundle it is; "" where that is not known
	number  int    // and which of its bundles; 0 likewise
	ring    ringOf

	archivers sync.Pool // of *archiver
	objects   sync.Pool // of *[]byte: archive files as stored
	contents  sync.Pool // and their contents
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

// Root returns the public half of the repository's root key, for an identity file to pin; nil in a repository that has none.
func (r *Repo) Root() ed25519.PublicKey { return r.bundle.Signing.Root }

// IDKey returns K_id, which names chunks.
func (r *Repo) IDKey() chunk.Key { return r.bundle.IDKey() }

// newID returns 64 random bits in hexadecimal.
func newID() string {
	var b [8]byte
	_, _ = rand.Read(b[:])
	return hex.EncodeToString(b[:])
}
