package fs_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pgtrove/pgtrove/internal/durable"
	"github.com/pgtrove/pgtrove/storage"
	pgfs "github.com/pgtrove/pgtrove/storage/fs"
	"github.com/pgtrove/pgtrove/storage/storagetest"
)

// withoutSync runs in a child: what is not on disk must not be acknowledged.
func withoutSync(s *pgfs.Store, root string) error {
	if err := s.Put(background, "a/first", []byte("x")); err != nil {
		return err
	}
	number, err := storagetest.NextFile()
	if err != nil {
		return err
	}
	fails := func(what string, err error, say string) error {
		if !errors.Is(err, storage.ErrUnreachable) || !errors.Is(err, unix.EIO) || !strings.Contains(err.Error(), say) {
			return fmt.Errorf("%s: %v, want %q", what, err, say)
		}
		if strings.HasPrefix(err.Error(), "put ") && !errors.Is(err, storage.ErrNotDurable) {
			return fmt.Errorf("%s: %v is not ErrNotDurable", what, err)
		}
		return nil
	}
	// The object's file is synced while its directory, opened beside it, cannot be.
	if err := storagetest.FailSync(number + 1); err != nil {
		return err
	}
	if err := fails("a name that is not durable", s.Put(background, "a/second", []byte("x")), "sync directory"); err != nil {
		return err
	}
	// Another writer may have synced it meanwhile, and told success.
	if _, err := s.Get(background, "a/second", storage.Range{}, nil); err != nil {
		return fmt.Errorf("it was taken away again: %w", err)
	}
	if err := fails("an object of which another writer may know no better", s.Put(background, "a/second", []byte("x")), "sync directory"); err != nil {
		return err
	}
	if err := storagetest.FailSync(number); err != nil {
		return err
	}
	content := s.Put(background, "a/third", []byte("x"))
	_, there := s.Get(background, "a/third", storage.Range{}, nil)
	if !errors.Is(there, storage.ErrNotExist) {
		return fmt.Errorf("what was not synced is there: %v", there)
	}
	return errors.Join(
		fails("content that is not durable", content, "/.tmp-"),
		fails("an object that another program may have put there", s.Put(background, "a/first", []byte("x")), "sync file"),
		fails("a directory that is not durable", s.Put(background, "b/c/d", []byte("x")), "sync directory"),
		isGone(root+"/b"), // or who comes next would take it for durable
		fails("a removal that is not durable", s.Delete(background, "a/first"), "sync directory"),
		fails("one that was not durable before", s.Delete(background, "a/first"), "sync directory"),
	)
}

func isGone(path string) error {
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is there: %v", path, err)
	}
	return nil
}

func TestNothingIsAcknowledgedBeforeItIsSynced(t *testing.T) {
	_, root := repository(t)
	cmd, out := startChild(t, childNoSync, root)
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	s, err := pgfs.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	wantErr(t, "Put, when the disk is well again", s.Put(t.Context(), "a/second", nil), storage.ErrExist)
}

// TestAnErrorThatLeavesAnObjectIsNoAnswer: who reads the object then must not take it for stored.
func TestAnErrorThatLeavesAnObjectIsNoAnswer(t *testing.T) {
	s, root := repository(t)
	put(t, s, "a/b", "x")
	if err := os.Chmod(root+"/a", 0o300); err != nil { // it cannot be synced, since it cannot be opened
		t.Fatal(err)
	}
	unprivileged(t, root, func() {
		for _, key := range []string{"a/b", "a/c"} {
			err := s.Put(t.Context(), key, []byte("x"))
			wantErr(t, "Put "+key, err, storage.ErrDenied)
			wantErr(t, "Put "+key, err, storage.ErrNotDurable)
			if b, err := get(t, s, key); err != nil || b != "x" {
				t.Errorf("%q, %v", b, err)
			}
		}
	})
	if err := os.Chmod(root+"/a", 0o700); err != nil {
		t.Fatal(err)
	}
	err := s.Put(t.Context(), "a/c", nil)
	wantErr(t, "Put of what is there", err, storage.ErrExist)
	if errors.Is(err, storage.ErrNotDurable) {
		t.Errorf("%v is ErrNotDurable", err)
	}
	// What the rule is for is not a file.
	if err := unix.Mkfifo(root+"/a/pipe", 0o600); err != nil {
		t.Fatal(err)
	}
	if err := durable.Sync(root + "/a/pipe"); err != nil {
		t.Error(err)
	}
}
