package pgsource_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pgtrove/pgtrove/internal/durable"
	"github.com/pgtrove/pgtrove/pgsource"
	"github.com/pgtrove/pgtrove/test/pgtest"
)

func lastOf(t *testing.T, c *pgsource.Cluster, repository, cluster string) string {
	t.Helper()
	id, err := c.LastSnapshot(repository, cluster)
	if err != nil {
		t.Error(err)
	}
	return id
}

func setLast(t *testing.T, c *pgsource.Cluster, repository, cluster, id string) {
	t.Helper()
	if err := c.SetLastSnapshot(repository, cluster, id); err != nil {
		t.Error(err)
	}
}

func TestDirectoryNamesItsLastSnapshot(t *testing.T) {
	s := running(t, "15", pgtest.Options{})
	c := connect(t, s)
	file := filepath.Join(s.Dir, pgsource.LastBackupFile)
	t.Run("for each repository and cluster", func(t *testing.T) { lastIsKept(t, c, file) })
	t.Run("in a file of the server's account", func(t *testing.T) { lastHasTheServersOwner(t, s, c, file) })
	t.Run("only if it is as we left it", func(t *testing.T) { strangeLastIsNone(t, c, file) })
	t.Run("never in a backup", func(t *testing.T) { lastIsNotListed(t, s, c) })
	t.Run("unless it cannot be written", func(t *testing.T) { lastNeedsPermission(t, s, c) })
}

func lastIsKept(t *testing.T, c *pgsource.Cluster, file string) {
	if got := lastOf(t, c, "r1", "main"); got != "" {
		t.Errorf("a new directory names %q", got)
	}
	setLast(t, c, "r1", "main", "one")
	setLast(t, c, "r2", "main", "two")
	setLast(t, c, "r1", "other", "three")
	setLast(t, c, "r1", "main", "four")
	data, err := os.ReadFile(file)
	if want := "# r2 main\ntwo\n# r1 other\nthree\n# r1 main\nfour\n"; err != nil || string(data) != want {
		t.Errorf("%v, %q", err, data)
	}
	for _, c1 := range [][3]string{{"r1", "main", "four"}, {"r2", "main", "two"}, {"r1", "other", "three"}, {"r2", "other", ""}} {
		if got := lastOf(t, c, c1[0], c1[1]); got != c1[2] {
			t.Errorf("%s, %s: %q", c1[0], c1[1], got)
		}
	}
	for i := range 20 {
		setLast(t, c, fmt.Sprint("x", i), "main", "id")
	}
	if data, err := os.ReadFile(file); err != nil || strings.Count(string(data), "\n") != 32 || !strings.HasPrefix(string(data), "# x4 main\n") {
		t.Errorf("%v, %q", err, data)
	}
	for _, bad := range [][3]string{{"", "main", "id"}, {"r", "a b", "id"}, {"r", "main", "id\nx"}, {"r", "main", ""}} {
		if err := c.SetLastSnapshot(bad[0], bad[1], bad[2]); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func lastHasTheServersOwner(t *testing.T, s *pgtest.Server, c *pgsource.Cluster, file string) {
	for dirMode, want := range map[fs.FileMode]fs.FileMode{0o700: 0o600, 0o750: 0o640} {
		if err := os.Chmod(s.Dir, dirMode); err != nil {
			t.Fatal(err)
		}
		setLast(t, c, "r1", "main", "one")
		dir, err1 := os.Stat(s.Dir)
		info, err2 := os.Stat(file)
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		owner, is := dir.Sys().(*syscall.Stat_t), info.Sys().(*syscall.Stat_t)
		if info.Mode() != want || is.Uid != owner.Uid || is.Gid != owner.Gid {
			t.Errorf("directory %v: mode %v, owner %d:%d", dirMode, info.Mode(), is.Uid, is.Gid)
		}
	}
	pgtest.MustRun(t, s.Command("pg_basebackup", "-D", filepath.Join(pgtest.TempDir(t), "copy"), "--no-sync", "-c", "fast"))
}

func strangeLastIsNone(t *testing.T, c *pgsource.Cluster, file string) {
	for _, text := range []string{
		"", "\n", "# r1 main\n", "# r1 main\none", "# r1 main\none\n\n", "# r1  main\none\n", "# r1 main x\none\n", "r1 main\none\n",
		"# r1 main\none two\n", "# r1 main\none\n# r1 main\ntwo\n", "# r1 main\r\none\r\n", "# r1 main\none\n" + strings.Repeat("#", 1<<17),
		"# r1 main\none\n" + manyPairs(16),
	} {
		write(t, file, text)
		if got := lastOf(t, c, "r1", "main"); got != "" {
			t.Errorf("%.50q: %q", text, got)
		}
	}
	write(t, file, "# r1 main\none\n"+manyPairs(15))
	if got := lastOf(t, c, "r1", "main"); got != "one" {
		t.Errorf("a good file: %q", got)
	}
	write(t, file+".target", "# r1 main\none\n")
	for _, make := range []func() error{
		func() error { return os.Symlink(file+".target", file) },
		func() error { return unix.Mkfifo(file, 0o600) },
	} {
		if err := errors.Join(os.Remove(file), make()); err != nil {
			t.Fatal(err)
		}
		if got := lastOf(t, c, "r1", "main"); got != "" {
			t.Errorf("what is no file: %q", got)
		}
	}
	setLast(t, c, "r1", "main", "two")
	if got := lastOf(t, c, "r1", "main"); got != "two" {
		t.Errorf("in the place of a pipe: %q", got)
	}
	if err := os.Remove(file + ".target"); err != nil {
		t.Fatal(err)
	}
}

func manyPairs(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "# x%d main\nid\n", i)
	}
	return b.String()
}

func lastIsNotListed(t *testing.T, s *pgtest.Server, c *pgsource.Cluster) {
	for _, name := range []string{"pgsql_tmp.pgtrove.123", durable.TempPrefix + "123", "base/" + durable.TempPrefix + "123"} {
		write(t, filepath.Join(s.Dir, name), "x")
	}
	b := start(t, c)
	files := list(t, b)
	stop(t, b)
	for name, want := range map[string]bool{
		pgsource.LastBackupFile: false, "pgsql_tmp.pgtrove.123": false, durable.TempPrefix + "123": false, "base/" + durable.TempPrefix + "123": true,
		"PG_VERSION": true,
	} {
		if _, got := files["data/"+name]; got != want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

// lastNeedsPermission acts as a member of the directory's group, by the file system's user ID of one thread.
func lastNeedsPermission(t *testing.T, s *pgtest.Server, c *pgsource.Cluster) {
	chmod := func(path string, mode fs.FileMode) {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	chmod(filepath.Dir(s.Dir), 0o711)
	chmod(s.Dir, 0o750)
	setLast(t, c, "r1", "main", "one")
	chmod(s.Dir, 0o550) // enough where we are not root
	defer func() { _ = os.Chmod(s.Dir, 0o700) }()
	info, err := os.Stat(s.Dir)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		if os.Geteuid() == 0 {
			const nobody = 65534
			if err := errors.Join(unix.Setfsgid(int(info.Sys().(*syscall.Stat_t).Gid)), unix.Setfsuid(nobody)); err != nil {
				t.Error(err)
				return
			}
		}
		if err := c.SetLastSnapshot("r1", "main", "two"); !errors.Is(err, fs.ErrPermission) {
			t.Error(err)
		}
		if id, err := c.LastSnapshot("r1", "main"); err != nil || id != "one" {
			t.Errorf("%q, %v", id, err)
		}
	}()
	<-done
	left, err := filepath.Glob(filepath.Join(s.Dir, "pgsql_tmp.pgtrove.*"))
	if err != nil || len(left) != 1 { // that of lastIsNotListed
		t.Errorf("%v, %v", left, err)
	}
}
