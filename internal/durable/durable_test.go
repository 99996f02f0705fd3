package durable_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/pgtrove/pgtrove/internal/durable"
)

// onlyFiles fails when anything but want is in dir.
func onlyFiles(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("%s holds %q, want %q", dir, got, want)
	}
}

func content(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestCreateDoesNotReplace(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	if err := durable.Create(path, 0o640, []byte("one")); err != nil {
		t.Fatal(err)
	}
	if err := durable.Create(path, 0o600, []byte("two")); !errors.Is(err, fs.ErrExist) || !strings.Contains(err.Error(), path) {
		t.Errorf("second: %v", err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o640 || content(t, path) != "one" {
		t.Errorf("%v %v, %q", info.Mode(), err, content(t, path))
	}
	onlyFiles(t, dir, "f")
	if err := os.Symlink("nowhere", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := durable.Create(filepath.Join(dir, "link"), 0o600, nil); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over a dangling link: %v", err)
	}
	onlyFiles(t, dir, "f", "link")
}

func TestOneOfManyCreatorsWins(t *testing.T) {
	dir := t.TempDir()
	for round := range 20 {
		path := filepath.Join(dir, fmt.Sprint(round))
		var winner atomic.Int64
		var group sync.WaitGroup
		for i := range 8 {
			group.Go(func() {
				data := bytes.Repeat([]byte{byte('a' + i)}, 10000)
				switch err := durable.Create(path, 0o600, data); {
				case err == nil && !winner.CompareAndSwap(0, int64('a'+i)):
					t.Error("two winners")
				case err != nil && !errors.Is(err, fs.ErrExist):
					t.Error(err)
				}
			})
		}
		group.Wait()
		if got := content(t, path); got != strings.Repeat(string(rune(winner.Load())), 10000) {
			t.Errorf("%.10s... of %d bytes, winner %c", got, len(got), rune(winner.Load()))
		}
	}
}

func TestReplaceIsAllOrNothing(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	if err := durable.Replace(path, 0o600, []byte("one")); err != nil {
		t.Fatal(err)
	}
	var done atomic.Bool
	var reader sync.WaitGroup
	reader.Go(func() {
		for !done.Load() {
			if b, err := os.ReadFile(path); err != nil || (string(b) != "one" && len(b) != 100000) {
				t.Errorf("%d bytes, %v", len(b), err)
				return
			}
		}
	})
	for range 50 {
		if err := durable.Replace(path, 0o644, bytes.Repeat([]byte("x"), 100000)); err != nil {
			t.Error(err)
		}
	}
	done.Store(true)
	reader.Wait()
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o644 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	onlyFiles(t, dir, "f")
	if err := os.Mkdir(filepath.Join(dir, "d"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := durable.Replace(filepath.Join(dir, "d"), 0o600, nil); err == nil {
		t.Error("replaced a directory")
	}
	onlyFiles(t, dir, "d", "f")
}

func TestMissingDirectoryIsNotMade(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "no", "f")
	if err := durable.Create(path, 0o600, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if err := durable.Replace(path, 0o600, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if err := durable.SyncDir(filepath.Join(dir, "no")); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	onlyFiles(t, dir)
}

// TestFullDiskLeavesNothing needs no full disk: the limit on file sizes fails the write just the same.
func TestFullDiskLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	var old syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 1 << 20, Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
			t.Error(err)
		}
	}()
	for name, write := range map[string]func(string, os.FileMode, []byte) error{"create": durable.Create, "replace": durable.Replace} {
		path := filepath.Join(dir, "f")
		if err := write(path, 0o600, make([]byte, 2<<20)); !errors.Is(err, syscall.EFBIG) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", name, err)
		}
	}
	onlyFiles(t, dir)
}

func TestModesDoNotDependOnTheUmask(t *testing.T) {
	dir := t.TempDir()
	defer syscall.Umask(syscall.Umask(0o277))
	for mode, name := range map[os.FileMode]string{0o600: "a", 0o644: "b", 0o400: "c"} {
		if err := durable.Create(filepath.Join(dir, name), mode, nil); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode() != mode {
			t.Errorf("%v, want %v", info.Mode(), mode)
		}
	}
	if err := durable.MkdirAll(filepath.Join(dir, "x/y/z"), 0o750|os.ModeSetgid); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"x", "x/y", "x/y/z"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode() != 0o750|os.ModeSetgid|os.ModeDir {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
	// Below it, the bit is inherited and stays.
	if err := durable.MkdirAll(filepath.Join(dir, "x/w"), 0o700); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(filepath.Join(dir, "x/w")); err != nil || info.Mode() != 0o700|os.ModeSetgid|os.ModeDir {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

func TestMkdirAllTakesWhatIsThere(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			if err := durable.MkdirAll(filepath.Join(dir, "a", "b", "c")+"/", 0o700); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		t.Error(err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o711 {
		t.Errorf("changed to %v, %v", info.Mode(), err)
	}
	if err := durable.Create(filepath.Join(dir, "f"), 0o600, nil); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"f", "f/g", "f/g/h"} {
		if err := durable.MkdirAll(filepath.Join(dir, path), 0o700); !errors.Is(err, syscall.ENOTDIR) {
			t.Errorf("%s: %v", path, err)
		}
	}
}
