package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/pgtrove/pgtrove/keys"
	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/storage"
	"github.com/pgtrove/pgtrove/storage/fault"
	"github.com/pgtrove/pgtrove/storage/mem"
	"github.com/pgtrove/pgtrove/storage/meter"
	"github.com/pgtrove/pgtrove/walarchive"
)

// archiver is a host that archives into a storage in memory, as if every call were a request.
type archiver struct {
	*app
	t     *testing.T
	cache openedCache
	clock time.Time
	store storage.Store
}

func newArchiver(t *testing.T) *archiver {
	dir := t.TempDir()
	h := &archiver{t: t, clock: time.Now(), store: mem.New(nil)}
	h.app = &app{env: environmentOf(nil), out: &output{stdout: io.Discard, stderr: io.Discard}, unattended: true}
	h.settings.KeyFile = filepath.Join(dir, "identity")
	h.cache = openedCache{dir: filepath.Join(dir, "opened"), now: func() time.Time { return h.clock }}
	h.makeRepository(h.newIdentity())
	return h
}

func (h *archiver) newIdentity() age.Recipient {
	h.t.Helper()
	text, recipient, err := keys.GenerateIdentity()
	if err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(h.settings.KeyFile, text, 0o600); err != nil {
		h.t.Fatal(err)
	}
	return recipient
}

// makeRepository puts a new repository in the place of whatever is there.
func (h *archiver) makeRepository(recipient age.Recipient) {
	h.t.Helper()
	h.store = mem.New(nil)
	if _, err := repo.Init(h.t.Context(), h.store, recipient, time.Now()); err != nil {
		h.t.Fatal(err)
	}
}

// requests runs do as wal push and wal fetch do and counts what it asks of the storage.
func (h *archiver) requests(do func(ctx context.Context, a walarchive.Archive) error) (int64, error) {
	counting := meter.New(h.store)
	err := h.withOpened(h.t.Context(), h.cache, "s3://bucket", "place", counting, func(r *repo.Repo) error {
		return do(h.t.Context(), walarchive.Archive{Objects: walObjects{r}, Cluster: "main", System: 7})
	})
	return counting.Counts().Requests(), err
}

const history = "1\t0/3000000\tno recovery target specified\n"

func pushing(tli int) func(context.Context, walarchive.Archive) error {
	return func(ctx context.Context, a walarchive.Archive) error {
		_, err := a.Push(ctx, fmt.Sprintf("%08X.history", tli), []byte(history), walarchive.Facts{})
		return err
	}
}

func fetching(tli int) func(context.Context, walarchive.Archive) error {
	return func(ctx context.Context, a walarchive.Archive) error {
		_, content, err := a.Fetch(ctx, fmt.Sprintf("%08X.history", tli))
		if err == nil && string(content) != history {
			return fmt.Errorf("fetched %q", content)
		}
		return err
	}
}

// want runs do, which must take n requests and end in class.
func (h *archiver) want(what string, n int64, class error, do func(context.Context, walarchive.Archive) error) {
	h.t.Helper()
	got, err := h.requests(do)
	if got != n || !errors.Is(err, class) || (err != nil) != (class != nil) {
		h.t.Errorf("%s: %d requests, error %v; want %d, %v", what, got, err, n, class)
	}
}

func TestRequestsOfWALPushAndFetch(t *testing.T) {
	h := newArchiver(t)
	if n, err := h.requests(pushing(2)); err != nil || n > 6 {
		t.Fatalf("the first push: %d requests, %v", n, err)
	}
	h.want("push", 1, nil, pushing(3))
	h.want("push of what is there", 2, nil, pushing(3))
	h.want("fetch", 1, nil, fetching(3))
	h.want("fetch of what is not there", 1, walarchive.ErrNotExist, fetching(9))

	h.clock = h.clock.Add(2 * believed)
	h.want("push after a while", 2, nil, pushing(4))
	h.want("push after that", 1, nil, pushing(5))
	h.clock = h.clock.Add(2 * believed)
	h.want("fetch after a while", 2, nil, fetching(5))
	h.want("fetch after that", 1, nil, fetching(5))

	h.clock = h.clock.Add(reopened)
	if n, err := h.requests(fetching(5)); err != nil || n < 4 {
		t.Errorf("after a day: %d requests, %v", n, err)
	}
}

func TestAClockThatWasSetBackBelievesNothing(t *testing.T) {
	h := newArchiver(t)
	if _, err := h.requests(pushing(2)); err != nil {
		t.Fatal(err)
	}
	h.clock = h.clock.Add(-time.Hour)
	if n, err := h.requests(pushing(3)); err != nil || n < 4 {
		t.Errorf("%d requests, %v", n, err)
	}
}

// readable says whether the file of a timeline can be fetched by somebody who opens the repository as it is.
func (h *archiver) readable(tli int) {
	h.t.Helper()
	fresh := *h
	fresh.cache.dir = ""
	if _, err := fresh.requests(fetching(tli)); err != nil {
		h.t.Errorf("what was pushed cannot be read: %v", err)
	}
}

func TestANewRepositoryWithANewIdentityIsNoticedAtOnce(t *testing.T) {
	h := newArchiver(t)
	if _, err := h.requests(pushing(2)); err != nil {
		t.Fatal(err)
	}
	h.makeRepository(h.newIdentity())
	if _, err := h.requests(pushing(3)); err != nil {
		t.Fatal(err)
	}
	h.readable(3)
}

func TestANewRepositoryForTheSameKeyIsNoticedWhenTheOldOneIsNoLongerBelieved(t *testing.T) {
	h := newArchiver(t)
	recipient := h.newIdentity()
	h.makeRepository(recipient)
	if _, err := h.requests(pushing(2)); err != nil {
		t.Fatal(err)
	}
	h.makeRepository(recipient)
	h.clock = h.clock.Add(believed)
	if _, err := h.requests(pushing(2)); err != nil {
		t.Fatal(err)
	}
	h.readable(2)
}

func TestAnObjectOfANewRepositoryIsReadWithItsKeys(t *testing.T) {
	h := newArchiver(t)
	recipient := h.newIdentity()
	h.makeRepository(recipient)
	if _, err := h.requests(pushing(2)); err != nil {
		t.Fatal(err)
	}
	h.makeRepository(recipient)
	other := *h
	other.cache.dir = t.TempDir()
	if _, err := other.requests(pushing(2)); err != nil {
		t.Fatal(err)
	}
	for what, do := range map[string]func(context.Context, walarchive.Archive) error{"fetch": fetching(2), "push": pushing(2)} {
		if _, err := h.requests(do); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestAnEmptiedPlaceIsNoArchiveThatHasEnded(t *testing.T) {
	h := newArchiver(t)
	if _, err := h.requests(pushing(2)); err != nil {
		t.Fatal(err)
	}
	h.store = mem.New(nil)
	h.clock = h.clock.Add(believed)
	if _, err := h.requests(fetching(3)); !errors.Is(err, repo.ErrNoRepository) || errors.Is(err, walarchive.ErrNotExist) {
		t.Error(err)
	}
}

func TestAStorageThatIsGoneIsNoOtherRepository(t *testing.T) {
	h := newArchiver(t)
	if _, err := h.requests(pushing(2)); err != nil {
		t.Fatal(err)
	}
	there := h.store
	h.store = fault.New(there, func(fault.Op) fault.Action { return fault.Action{Before: storage.ErrUnreachable} })
	h.clock = h.clock.Add(believed)
	if _, err := h.requests(pushing(3)); !errors.Is(err, storage.ErrUnreachable) {
		t.Error(err)
	}
	h.store = there
	h.want("push when it is back", 2, nil, pushing(3))
}

func TestWhatIsRememberedIsOursAndWhole(t *testing.T) {
	h := newArchiver(t)
	if _, err := h.requests(pushing(2)); err != nil {
		t.Fatal(err)
	}
	path := h.cache.path("place")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if info, err := os.Stat(h.cache.dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("directory: mode %v, %v", info.Mode(), err)
	}
	identity, err := os.ReadFile(h.settings.KeyFile)
	if err != nil || bytes.Contains(text, bytes.TrimSpace(identity)[len(identity)-60:]) {
		t.Errorf("the identity stands in it (%v)", err)
	}
	for what, spoil := range map[string]func() error{
		"readable for others": func() error { return os.Chmod(path, 0o644) },
		"rotten": func() error {
			return os.WriteFile(path, bytes.Replace(text, []byte(`"config":"e`), []byte(`"config":"f`), 1), 0o600)
		},
		"cut short": func() error { return os.WriteFile(path, text[:len(text)/2], 0o600) },
		"another place's": func() error {
			return os.WriteFile(path, bytes.Replace(text, []byte(`"place"`), []byte(`"plaice"`), 1), 0o600)
		},
		"a link": func() error {
			return errors.Join(os.Rename(path, path+".old"), os.Symlink(path+".old", path))
		},
	} {
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		if o, _ := h.cache.find("place"); o != nil {
			t.Errorf("%s, and believed", what)
		}
		if _, err := h.requests(fetching(2)); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	h.clock = time.Now()
	if o, fresh := h.cache.find("place"); o == nil || !fresh {
		t.Error("as it was, and not believed")
	}
	if o, _ := h.cache.find("other place"); o != nil {
		t.Error("believed of another place")
	}
}

func TestWithoutACacheDirectoryThereIsNoCache(t *testing.T) {
	h := newArchiver(t)
	h.cache.dir = ""
	t.Chdir(t.TempDir())
	for range 2 {
		if n, err := h.requests(pushing(2)); err != nil || n < 5 {
			t.Errorf("%d requests, %v", n, err)
		}
	}
	if files, err := os.ReadDir("."); err != nil || len(files) != 0 {
		t.Errorf("%v, %v", files, err)
	}
}

// owner opens the repository with an identity of its own, as of now.
func (h *archiver) owner(text []byte) *repo.Repo {
	h.t.Helper()
	f, err := keys.ParseIdentityFile(text)
	if err != nil {
		h.t.Fatal(err)
	}
	r, err := repo.OpenWith(h.t.Context(), h.store, repo.OpenOptions{Identities: f.Identities})
	if err != nil {
		h.t.Fatal(err)
	}
	return r
}

func TestAKeyThatWasChangedOrRemovedIsNoticedWithinMinutes(t *testing.T) {
	h := newArchiver(t)
	owner, err := os.ReadFile(h.settings.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	add := func(name string) string {
		t.Helper()
		recipient := h.newIdentity() // from here on the archiver's own
		k, err := h.owner(owner).AddKey(t.Context(), repo.NewKey{Name: name, Role: keys.Standby, Recipients: []repo.Recipient{
			{Recipient: recipient, Text: fmt.Sprint(recipient), Kind: keys.KindIdentity}}})
		if err != nil {
			t.Fatal(err)
		}
		return k.ID
	}
	id := add("db1")
	if _, err := h.requests(pushing(2)); err != nil {
		t.Fatal(err)
	}
	seals := func() string {
		f, _ := h.cache.find("place")
		if f == nil {
			t.Fatal("nothing is remembered")
		}
		sum := sha256.Sum256(f.Bundle)
		return hex.EncodeToString(sum[:])
	}
	before := seals()
	if err := h.owner(owner).RotateData(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	h.want("push with the old keys", 1, nil, pushing(3))
	h.clock = h.clock.Add(listed)
	if n, err := h.requests(pushing(4)); err != nil || n < 5 || seals() == before {
		t.Errorf("after the data keys were rotated: %d requests, %v; the same bundle: %v", n, err, seals() == before)
	}
	h.readable(2)
	h.readable(4)
	h.clock = h.clock.Add(listed)
	h.want("push, with a look at the config and a listing of the keys", 3, nil, pushing(5))
	h.want("push after that", 1, nil, pushing(6))

	if _, err := h.owner(owner).RemoveKey(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	h.clock = h.clock.Add(listed)
	if _, err := h.requests(pushing(7)); !errors.Is(err, keys.ErrLocked) {
		t.Errorf("after the key was removed: %v", err)
	}
	add("db2")
	h.readable(6)
	if _, err := h.requests(pushing(7)); err != nil {
		t.Error(err)
	}
}

func TestAFetchAfterTheDataKeysWereRotatedTakesTheNewOnes(t *testing.T) {
	h := newArchiver(t)
	if _, err := h.requests(pushing(2)); err != nil {
		t.Fatal(err)
	}
	h.want("fetch", 1, nil, fetching(2))
	text, err := os.ReadFile(h.settings.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.owner(text).RotateData(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	primary := *h // which remembers nothing, so that it has the new keys at once
	primary.cache.dir = t.TempDir()
	if _, err := primary.requests(pushing(3)); err != nil {
		t.Fatal(err)
	}
	if _, err := h.requests(fetching(3)); err != nil {
		t.Errorf("what was remembered from before: %v", err)
	}
}
