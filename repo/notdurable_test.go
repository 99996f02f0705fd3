package repo

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/pgtrove/pgtrove/storage"
	"github.com/pgtrove/pgtrove/storage/fault"
	"github.com/pgtrove/pgtrove/storage/fs"
	"github.com/pgtrove/pgtrove/storage/storagetest"
)

// unsyncedEnv tells a child of TestWhatMayVanishIsNoSuccess which object's name cannot be made durable.
const unsyncedEnv = "PGTROVE_TEST_UNSYNCED"

// TestWhatMayVanishIsNoSuccess: the object is there and is the caller's own, but the fsync of its directory has failed.
func TestWhatMayVanishIsNoSuccess(t *testing.T) {
	if prefix := os.Getenv(unsyncedEnv); prefix != "" {
		unsynced(t, prefix)
		return
	}
	for _, prefix := range []string{walKey, snapshotsPrefix, gcPrefix} {
		cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$") // what it does to itself cannot be undone
		cmd.Env = append(os.Environ(), unsyncedEnv+"="+prefix)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", prefix, err, out)
		}
	}
}

func unsynced(t *testing.T, prefix string) {
	below, err := fs.Create(t.TempDir())
	must(t, err)
	id, err := age.GenerateX25519Identity()
	must(t, err)
	_, err = Init(t.Context(), below, id.Recipient(), time.Now())
	must(t, err)
	armed := false
	r, err := Open(t.Context(), fault.New(below, func(op fault.Op) fault.Action {
		if op.Verb == fault.Put && strings.HasPrefix(op.Key, prefix) && !armed {
			armed = true
			number, err := storagetest.NextFile()
			must(t, err)
			must(t, storagetest.FailSync(number+1)) // the object's file is opened first, and its directory beside it
		}
		return fault.Action{}
	}), id)
	must(t, err)
	act := func() error {
		switch prefix {
		case snapshotsPrefix:
			_, _, err := write(t.Context(), r, pieces(1, 2))
			return err
		case gcPrefix:
			_, err := r.Prune(t.Context(), pruning())
			return err
		}
		_, err := r.PutArchive(t.Context(), walKey, nil, walLike(1000))
		return err
	}
	tries := 1
	if prefix == walKey {
		tries = 2 // the second finds the name taken
	}
	for range tries {
		if err := act(); !errors.Is(err, storage.ErrNotDurable) || !errors.Is(err, syscall.EIO) {
			t.Errorf("%v", err)
		}
		if there := list(t, below, prefix); len(there) != 1 {
			t.Errorf("there is %v", there)
		}
	}
}
