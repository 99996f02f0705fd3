package index_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/index"
	"github.com/pgtrove/pgtrove/storage/storagetest"
)

// Tests run this program again as a child; it does one of these and exits.
const (
	childEnv = "PGTROVE_TEST_CHILD"

	childHold = "hold" // open the cache, say so, close it when the parent says so
	childFill = "fill" // add segments until killed
	childUse  = "use"  // open the cache, which may be damaged, and use it

	childMillion = "million" // useMillion
)

func TestMain(m *testing.M) {
	what, dir, ok := strings.Cut(os.Getenv(childEnv), ":")
	if !ok {
		os.Exit(m.Run())
	}
	if err := child(what, dir); err != nil {
		fmt.Println(err)
		os.Exit(3)
	}
	os.Exit(0)
}

func child(what, dir string) error {
	c, err := index.OpenCache(dir, repositoryID)
	if err != nil {
		return err
	}
	switch what {
	case childHold:
		fmt.Println("open")
		_, _ = io.Copy(io.Discard, os.Stdin)
		return c.Close()
	case childFill:
		fmt.Println("open")
		for i := len(c.Loaded()); ; i++ {
			if err := fill(c, i, 20); err != nil {
				return err
			}
		}
	case childUse:
		return use(c)
	case childMillion:
		return useMillion(c, dir)
	}
	return errors.New("unknown child")
}

// fill adds segment i with that many packs of 300 chunks each.
func fill(c *index.Cache, i, packs int) error {
	var s index.Segment
	for j := range packs {
		s.Packs = append(s.Packs, filled(i, j))
	}
	_, err := c.Add(fmt.Sprintf("index/s/%d", i), &s)
	return err
}

const chunksInFilled = 300

func filled(segment, n int) index.Pack {
	var numbers []uint64
	for k := range uint64(chunksInFilled) {
		numbers = append(numbers, uint64(segment)<<32|uint64(n)<<16|k)
	}
	return packOf(fmt.Sprintf("packs/s/%d-%d", segment, n), numbers...)
}

// checkFilled looks for every chunk of the segments that are loaded, and for some of one that is not.
func checkFilled(c *index.Cache, packs int) error {
	loaded := c.Loaded()
	for i := range len(loaded) + 1 {
		_, ok := loaded[fmt.Sprintf("index/s/%d", i)]
		if ok != (i < len(loaded)) {
			return fmt.Errorf("loaded: %v", loaded)
		}
		for j := range packs {
			p := filled(i, j)
			for k, e := range p.Entries {
				l, found, err := c.Lookup(e.ID, all, nil)
				if err != nil {
					return err
				}
				if found != ok || found && !reflect.DeepEqual(l, p.Location(p.Key, k)) {
					return fmt.Errorf("chunk %d of pack %d of segment %d: loaded %v, found %v", k, j, i, ok, found)
				}
			}
		}
	}
	return nil
}

// use does what a backup does with a cache that it cannot trust: look, add what is missing, look again.
func use(c *index.Cache) error {
	for _, step := range []func() error{
		func() error { return checkFilled(c, 5) },
		func() error { return fill(c, len(c.Loaded()), 5) },
		func() error { return checkFilled(c, 5) },
	} {
		if err := step(); err != nil {
			return errors.Join(err, c.Close())
		}
	}
	return c.Close()
}

func childCommand(what, dir string) (*exec.Cmd, *bytes.Buffer) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+what+":"+dir)
	out := new(bytes.Buffer)
	cmd.Stdout, cmd.Stderr = out, out
	return cmd, out
}

// waitOpen starts a child whose first line says that it has the cache.
func waitOpen(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	cmd.Stdout = nil
	r, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	line := make([]byte, 5)
	if _, err := io.ReadFull(r, line); err != nil || string(line) != "open\n" {
		t.Fatalf("the child says %q, %v", line, err)
	}
}

func TestACacheThatAnotherProcessHoldsIsBusy(t *testing.T) {
	dir := t.TempDir()
	c := open(t, dir)
	number := add(t, c, "index/a/1", packOf("packs/a/1", 1))
	if _, err := index.OpenCache(dir, repositoryID); !errors.Is(err, index.ErrBusy) {
		t.Errorf("twice in one process: %v, want ErrBusy", err)
	}
	closeCache(t, c)

	cmd, out := childCommand(childHold, dir)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	waitOpen(t, cmd)
	// Whatever the repository is: nobody removes a cache in use.
	for _, repository := range []string{repositoryID, "another"} {
		if _, err := index.OpenCache(dir, repository); !errors.Is(err, index.ErrBusy) {
			t.Errorf("held by a process: %v, want ErrBusy", err)
		}
	}
	stdin.Close()
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if out.Len() > 0 {
		t.Errorf("the database talks: %s", out)
	}
	c = open(t, dir)
	wantKeys(t, "afterwards", keys(t, c, id(1), only(number)), "packs/a/1")
}

func TestTheCacheOfAnotherRepositoryIsNotUsed(t *testing.T) {
	dir := t.TempDir()
	c := open(t, dir)
	add(t, c, "index/a/1", packOf("packs/a/1", 1))
	closeCache(t, c)
	other, err := index.OpenCache(dir, "another")
	if err != nil {
		t.Fatal(err)
	}
	if got := other.Loaded(); len(got) > 0 {
		t.Errorf("loaded: %v", got)
	}
	wantKeys(t, "another repository's chunk", keys(t, other, id(1), all))
	closeCache(t, other)
	if got := open(t, dir).Loaded(); len(got) > 0 {
		t.Errorf("loaded after the other: %v", got)
	}
}

// The lock file's second line names the machine's boot: nothing is synced, so that what was written before a crash of the machine
// counts only if the cache was closed.
func TestACacheThatWasOpenWhenTheMachineWentDownIsNotUsed(t *testing.T) {
	for _, c := range []struct {
		name         string
		close        bool
		replace, by  string
		wantSegments int
	}{
		{"open, this boot", false, "", "", 1},
		{"open, another boot", false, "boot ", "boot 0", 0},
		{"closed, another boot", true, "boot ", "boot 0", 1},
		{"another version", true, "cache 4 of", "cache 3 of", 0},
		{"failed", true, "\nclosed", "\nfailed", 0},
		{"died while opening", true, "\nclosed", "\nopening", 0},
		{"no lock file", true, "pgtrove", "", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			copied := filepath.Join(t.TempDir(), "copy")
			cache := open(t, dir)
			add(t, cache, "index/a/1", packOf("packs/a/1", 1))
			if c.close {
				closeCache(t, cache)
			}
			// What a process leaves that is killed is what another one sees while it lives.
			if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(copied, "lock")
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Contains(b, []byte(c.replace)) {
				t.Fatalf("%q is not in the lock file %q", c.replace, b)
			}
			b = bytes.Replace(b, []byte(c.replace), []byte(c.by), 1)
			if c.by == "" && c.replace != "" {
				b = nil
			}
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			if got := open(t, copied).Loaded(); len(got) != c.wantSegments {
				t.Errorf("loaded: %v, want %d", got, c.wantSegments)
			}
		})
	}
}

func TestAKilledAddIsWholeOrNothing(t *testing.T) {
	dir := t.TempDir()
	partial := false
	for round := 0; round < 8 || !partial; round++ {
		if round == 60 {
			t.Fatal("60 kills, and none in the middle of an Add that left something")
		}
		before := len(loadedIn(t, dir))
		cmd, out := childCommand(childFill, dir)
		waitOpen(t, cmd)
		time.Sleep(time.Duration(5+round*13%50) * time.Millisecond)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err == nil || out.Len() > 0 {
			t.Fatalf("the child ended by itself: %v %s", err, out)
		}
		c := open(t, dir)
		loaded := len(c.Loaded())
		if loaded < before {
			t.Errorf("%d segments were loaded, and now %d", before, loaded)
		}
		if err := checkFilled(c, 20); err != nil {
			t.Fatal(err)
		}
		// A number that was given and is not loaded is one of a killed Add.
		number, err := c.Begin()
		if err != nil {
			t.Fatal(err)
		}
		partial = partial || int(number) > loaded+round
		closeCache(t, c)
	}
}

func loadedIn(t *testing.T, dir string) map[string]uint32 {
	c := open(t, dir)
	defer closeCache(t, c)
	return c.Loaded()
}

func TestAFullFileSystemIsToldInTime(t *testing.T) {
	if !storagetest.CanMount(t) {
		return
	}
	if _, err := index.OpenCache(filepath.Join(storagetest.Tmpfs(t, "size=20m"), "cache"), repositoryID); !errors.Is(err, index.ErrNoSpace) {
		t.Errorf("a small file system: %v, want ErrNoSpace", err)
	}
	dir := storagetest.Tmpfs(t, "size=180m")
	c := open(t, filepath.Join(dir, "cache"))
	number, err := c.Begin()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.AddPack(number, packOf("packs/a/1", 1)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "other"), make([]byte, 60<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := c.AddPack(number, packOf("packs/a/2", 2)); !errors.Is(err, index.ErrNoSpace) {
		t.Errorf("a file system that fills up: %v, want ErrNoSpace", err)
	}
	wantKeys(t, "what was added before", keys(t, c, id(1), all), "packs/a/1")
	closeCache(t, c)
}
