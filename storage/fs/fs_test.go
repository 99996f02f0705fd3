package fs_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/pgtrove/pgtrove/internal/durable"
	"github.com/pgtrove/pgtrove/storage"
	"github.com/pgtrove/pgtrove/storage/fs"
	"github.com/pgtrove/pgtrove/storage/storagetest"
)

// repository makes a store with a config in a new directory.
func repository(t *testing.T) (*fs.Store, string) {
	t.Helper()
	return repositoryIn(t, filepath.Join(t.TempDir(), "repo"))
}

func repositoryIn(t *testing.T, root string) (*fs.Store, string) {
	t.Helper()
	s, err := fs.Create(root)
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, storage.ConfigKey, "{}")
	return s, root
}

func put(t *testing.T, s storage.Store, key, data string) {
	t.Helper()
	if err := s.Put(t.Context(), key, []byte(data)); err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, s storage.Store, key string) (string, error) {
	t.Helper()
	b, err := s.Get(t.Context(), key, storage.Range{}, nil)
	return string(b), err
}

func list(t *testing.T, s storage.Store, prefix string) ([]string, error) {
	t.Helper()
	var keys []string
	err := s.List(t.Context(), prefix, func(i storage.Info) error {
		keys = append(keys, i.Key)
		return nil
	})
	return keys, err
}

func wantErr(t *testing.T, what string, err error, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: error %v, want %v", what, err, want)
	}
}

func wantMode(t *testing.T, path string, want os.FileMode) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode() & (os.ModePerm | os.ModeSetgid); got != want {
		t.Errorf("%s has mode %v, want %v", path, got, want)
	}
}

// names gives everything below dir, files that are no objects too.
func names(t *testing.T, dir string) []string {
	t.Helper()
	var all []string
	err := filepath.Walk(dir, func(path string, _ os.FileInfo, err error) error {
		all = append(all, strings.TrimPrefix(strings.TrimPrefix(path, dir), "/"))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all[1:]
}

func TestConformance(t *testing.T) {
	storagetest.Run(t, func(t *testing.T) storage.Store {
		s, _ := repository(t)
		return s
	})
}

func TestAnOutageIsToldAsOne(t *testing.T) {
	storagetest.RunOutage(t, func(t *testing.T) (storage.Store, storagetest.Switch) {
		root := filepath.Join(t.TempDir(), "repo")
		s, err := fs.Create(root)
		if err != nil {
			t.Fatal(err)
		}
		move := func(from, to string) {
			if err := os.Rename(from, to); err != nil {
				t.Fatal(err)
			}
		}
		return s, storagetest.Switch{Away: func() { move(root, root+".away") }, Back: func() { move(root+".away", root) }}
	})
}

func TestModesDoNotDependOnTheUmask(t *testing.T) {
	for _, umask := range []int{0, 0o022, 0o777} {
		func() {
			dir := t.TempDir()
			defer syscall.Umask(syscall.Umask(umask))
			s, root := repositoryIn(t, filepath.Join(dir, "deep", "repo"))
			put(t, s, "a/b/c", "x")
			wantMode(t, root, 0o700)
			wantMode(t, filepath.Dir(root), 0o700)
			wantMode(t, root+"/config", 0o600)
			wantMode(t, root+"/a", 0o700)
			wantMode(t, root+"/a/b", 0o700)
			wantMode(t, root+"/a/b/c", 0o600)
		}()
	}
}

func TestGroupAccessOfTheRootIsPassedOn(t *testing.T) {
	for _, c := range []struct{ root, dir, file os.FileMode }{
		{0o750, 0o750, 0o640},
		{0o770 | os.ModeSetgid, 0o770 | os.ModeSetgid, 0o640},
		{0o755, 0o750, 0o640}, // others get nothing
		{0o705, 0o700, 0o600},
	} {
		root := t.TempDir()
		if err := os.Chmod(root, c.root); err != nil {
			t.Fatal(err)
		}
		s, _ := repositoryIn(t, root)
		put(t, s, "a/b", "x")
		wantMode(t, root, c.root)
		wantMode(t, root+"/a", c.dir)
		wantMode(t, root+"/a/b", c.file)
		wantMode(t, root+"/config", c.file)
	}
}

// TestWhatTheSuperuserMakesIsTheRepositorysOwners: else a key that root adds could not even be looked at by the account that backs up. Nobody but the
// superuser can give files away, so for others all is theirs.
func TestWhatTheSuperuserMakesIsTheRepositorysOwners(t *testing.T) {
	uid, gid := os.Getuid(), os.Getgid()
	root := t.TempDir()
	if uid == 0 {
		uid, gid = 12345, 54321
		if err := os.Chown(root, uid, gid); err != nil {
			t.Fatal(err)
		}
	}
	s, _ := repositoryIn(t, root)
	put(t, s, "a/b/c", "x")
	for _, name := range []string{"config", "a", "a/b", "a/b/c"} {
		info, err := os.Stat(root + "/" + name)
		if err != nil {
			t.Fatal(err)
		}
		if st := info.Sys().(*syscall.Stat_t); int(st.Uid) != uid || int(st.Gid) != gid {
			t.Errorf("%s belongs to %d:%d, want %d:%d", name, st.Uid, st.Gid, uid, gid)
		}
	}
}

func TestCreateRefusesAPlaceThatIsTaken(t *testing.T) {
	_, root := repository(t)
	_, err := fs.Create(root)
	wantErr(t, "a repository", err, storage.ErrExist)

	other := t.TempDir()
	for _, name := range []string{"notes.txt", ".hidden"} {
		path := filepath.Join(other, name)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err = fs.Create(other)
		wantErr(t, name, err, storage.ErrNotEmpty)
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(other, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := fs.Create(filepath.Join(other, "file")); !errors.Is(err, syscall.ENOTDIR) {
		t.Errorf("a file: %v", err)
	}
	if got := names(t, other); !slices.Equal(got, []string{"file"}) {
		t.Errorf("a refused Create left %q", got)
	}
	fresh := t.TempDir() // a new file system's root
	if err := os.Mkdir(filepath.Join(fresh, "lost+found"), 0); err != nil {
		t.Fatal(err)
	}
	repositoryIn(t, fresh)
}

func TestOpenSaysWhetherTheDirectoryIsThere(t *testing.T) {
	dir := t.TempDir()
	_, err := fs.Open(filepath.Join(dir, "absent"))
	wantErr(t, "absent", err, storage.ErrNotExist)
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = fs.Open(filepath.Join(dir, "file"))
	wantErr(t, "file", err, storage.ErrNotExist)
	_, err = fs.Open(filepath.Join(dir, "file", "below"))
	wantErr(t, "below a file", err, storage.ErrNotExist)
	s, err := fs.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	_, err = get(t, s, storage.ConfigKey)
	wantErr(t, "config of no repository", err, storage.ErrNotExist)
}

// unreachable checks that no verb takes the storage for an empty one.
func unreachable(t *testing.T, s storage.Store) {
	t.Helper()
	_, err := get(t, s, "wal/absent")
	wantErr(t, "Get of an absent object", err, storage.ErrUnreachable)
	_, err = get(t, s, "wal/there")
	wantErr(t, "Get of an object that was there", err, storage.ErrUnreachable)
	wantErr(t, "Put", s.Put(t.Context(), "wal/new", nil), storage.ErrUnreachable)
	wantErr(t, "Put into a new directory", s.Put(t.Context(), "x/y/z", nil), storage.ErrUnreachable)
	wantErr(t, "Delete", s.Delete(t.Context(), "wal/absent"), storage.ErrUnreachable)
	for _, prefix := range []string{"", "wal/", "none/"} {
		_, err = list(t, s, prefix)
		wantErr(t, "List "+prefix, err, storage.ErrUnreachable)
	}
}

func TestAVanishedRootIsNoEmptyStorage(t *testing.T) {
	s, root := repository(t)
	put(t, s, "wal/there", "x")
	if err := os.Rename(root, root+".away"); err != nil {
		t.Fatal(err)
	}
	unreachable(t, s)
	// The mount point of a share that is not mounted is an empty directory.
	if err := os.Mkdir(root, 0o700); err != nil {
		t.Fatal(err)
	}
	unreachable(t, s)
	if got := names(t, root); len(got) > 0 {
		t.Errorf("something was written under the mount point: %q", got)
	}
	if err := os.Remove(root); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(root+".away", root); err != nil {
		t.Fatal(err)
	}
	if got, err := get(t, s, "wal/there"); err != nil || got != "x" {
		t.Errorf("after its return: %q, %v", got, err)
	}
}

func TestARootThatVanishesDuringAListingFailsIt(t *testing.T) {
	s, root := repository(t)
	for _, key := range []string{"d1/k", "d2/k", "d3/k"} {
		put(t, s, key, "x")
	}
	var seen []string
	err := s.List(t.Context(), "d", func(i storage.Info) error {
		seen = append(seen, i.Key)
		return os.Rename(root, root+".away")
	})
	wantErr(t, "List", err, storage.ErrUnreachable)
	if !slices.Equal(seen, []string{"d1/k"}) {
		t.Errorf("saw %q", seen)
	}
}

func TestNamesThatAreNoKeysAreNotListed(t *testing.T) {
	s, root := repository(t)
	put(t, s, "packs/a/1", "x")
	for _, name := range []string{durable.TempPrefix + "123", ".nfs0001", "packs/" + durable.TempPrefix + "1",
		"packs/a/" + durable.TempPrefix + "2", "packs/a b", "packs/a~"} {
		if err := os.WriteFile(filepath.Join(root, name), []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(root, "lost+found"), 0); err != nil {
		t.Fatal(err)
	}
	got, err := list(t, s, "")
	if err != nil || !slices.Equal(got, []string{"config", "packs/a/1"}) {
		t.Errorf("listed %q, %v", got, err)
	}
}

func TestLinksToOtherDisksAreFollowed(t *testing.T) {
	s, root := repository(t)
	disk := filepath.Join(t.TempDir(), "disk")
	if err := os.Mkdir(disk, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(disk, root+"/wal"); err != nil {
		t.Fatal(err)
	}
	put(t, s, "wal/main/1", "x")
	put(t, s, "wal-e", "x")
	put(t, s, "wal0", "x")
	got, err := list(t, s, "wal")
	if err != nil || !slices.Equal(got, []string{"wal-e", "wal/main/1", "wal0"}) {
		t.Errorf("listed %q, %v", got, err)
	}
	if err := os.Rename(disk, disk+".away"); err != nil {
		t.Fatal(err)
	}
	for _, prefix := range []string{"", "wal", "wal/", "wal/main/"} {
		_, err = list(t, s, prefix)
		wantErr(t, "List "+prefix+" without the disk", err, storage.ErrUnreachable)
	}
	_, err = get(t, s, "wal/main/1")
	wantErr(t, "Get without the disk", err, storage.ErrUnreachable)
}

func TestACircleOfLinksEnds(t *testing.T) {
	s, root := repository(t)
	if err := os.Symlink(".", root+"/wal"); err != nil {
		t.Fatal(err)
	}
	if _, err := list(t, s, "wal/"); err == nil {
		t.Error("the listing ended without an error")
	}
}

func TestDeleteLeavesNoEmptyDirectories(t *testing.T) {
	s, root := repository(t)
	put(t, s, "packs/a/b/1", "x")
	put(t, s, "packs/a/2", "x")
	for _, key := range []string{"packs/a", "packs/a/b/1"} {
		if err := s.Delete(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
	if got := names(t, root); !slices.Equal(got, []string{"config", "packs", "packs/a", "packs/a/2"}) {
		t.Errorf("left: %q", got)
	}
	if err := s.Delete(t.Context(), "packs/a/2"); err != nil {
		t.Fatal(err)
	}
	if got := names(t, root); !slices.Equal(got, []string{"config", "packs"}) {
		t.Errorf("left: %q", got)
	}
	// An empty directory is no object.
	if err := os.Mkdir(root+"/packs/empty", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(t.Context(), "packs/empty"); err != nil {
		t.Fatal(err)
	}
	if got := names(t, root); !slices.Equal(got, []string{"config", "packs", "packs/empty"}) {
		t.Errorf("left: %q", got)
	}
}

func TestAKeyBelowAnotherIsRefused(t *testing.T) {
	s, root := repository(t)
	put(t, s, "a/b", "x")
	before := names(t, root)
	for _, key := range []string{"a", "a/b/c", "a/b/c/d", "config/x"} {
		wantErr(t, "Put "+key, s.Put(t.Context(), key, nil), storage.ErrKey)
	}
	if got := names(t, root); !slices.Equal(got, before) {
		t.Errorf("left: %q", got)
	}
}

func TestAnExistingKeyIsFoundBeforeAnythingIsWritten(t *testing.T) {
	s, root := repository(t)
	put(t, s, "a/b", "x")
	if err := os.Chmod(root+"/a", 0o500); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chmod(root+"/a", 0o700) })
	unprivileged(t, root, func() {
		wantErr(t, "Put into a directory that takes no file", s.Put(t.Context(), "a/b", []byte("y")), storage.ErrExist)
		wantErr(t, "Put of another", s.Put(t.Context(), "a/c", []byte("y")), storage.ErrDenied)
	})
}

func TestACancelledPutLeavesNothing(t *testing.T) {
	s, root := repository(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	wantErr(t, "Put", s.Put(ctx, "a/b", []byte("x")), context.Canceled)
	if got := names(t, root); !slices.Equal(got, []string{"config"}) {
		t.Errorf("left: %q", got)
	}
}
