package pgsource

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pgtrove/pgtrove/internal/durable"
)

// LastBackupFile is the file in the data directory that names the last snapshot of it. It is never backed up, so neither a restored
// directory nor one that was rolled back to an older copy names the newest snapshot; that is what Backup.Vouch relies on.
//
// For each repository and cluster name it has two lines, and the newest come last: the last line is the ID of the newest snapshot.
//
//	# <repository ID> <cluster>
//	<snapshot ID>
const LastBackupFile = "pgtrove.last"

const (
	lastMax     = 16                   // pairs that are kept
	lastMaxSize = 64 << 10             // bytes: more is not ours
	lastTemp    = "pgsql_tmp.pgtrove." // see replaceLast
)

// lastEntry is one pair of lines.
type lastEntry struct{ repository, cluster, snapshot string }

// LastSnapshot returns the ID of the last snapshot of this data directory in a repository under a cluster name; "" when the
// directory names none, also because its file is not exactly as SetLastSnapshot leaves it.
// Errors: fs.ErrPermission, and others of reading the file.
func (c *Cluster) LastSnapshot(repositoryID, cluster string) (string, error) {
	entries, err := c.readLast()
	if err != nil {
		return "", err
	}
	for _, e := range entries {
		if e.repository == repositoryID && e.cluster == cluster {
			return e.snapshot, nil
		}
	}
	return "", nil
}

// SetLastSnapshot notes in the data directory that the snapshot id was committed: durably, and in one step for readers. What it
// notes of other repositories stays; of two calls at once, one may forget what the other noted. The file gets the owner of the
// data directory when we are root, and is readable for whom the directory is: a pg_basebackup of the server reads it too.
//
// Errors: fs.ErrPermission where the directory cannot be written to, as by a member of its group, or on a file system that is
// mounted read-only. The directory then names an older snapshot or none, which is safe.
func (c *Cluster) SetLastSnapshot(repositoryID, cluster, id string) error {
	for _, word := range []string{repositoryID, cluster, id} {
		if !isWord(word) {
			return fmt.Errorf("note last snapshot: %q is not one word", word)
		}
	}
	old, err := c.readLast()
	if err != nil {
		return fmt.Errorf("note last snapshot: %w", err)
	}
	var entries []lastEntry
	for _, e := range old {
		if e.repository != repositoryID || e.cluster != cluster {
			entries = append(entries, e)
		}
	}
	entries = append(entries, lastEntry{repositoryID, cluster, id})
	entries = entries[max(len(entries)-lastMax, 0):]
	var b strings.Builder
	for _, e := range entries {
		fmt.Fprintf(&b, "# %s %s\n%s\n", e.repository, e.cluster, e.snapshot)
	}
	if err := c.replaceLast([]byte(b.String())); err != nil {
		if errors.Is(err, unix.EROFS) {
			err = fmt.Errorf("%w: %w", fs.ErrPermission, err)
		}
		return fmt.Errorf("note last snapshot: %w", err)
	}
	return nil
}

// isWord reports whether s can stand in a line of the file beside others.
func isWord(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f })
}

func (c *Cluster) lastPath() string { return filepath.Join(c.root, LastBackupFile) }

// readLast reads the file; nil when it is not there or not as we write it.
func (c *Cluster) readLast() ([]lastEntry, error) {
	// Not to hang on a pipe, nor to be led elsewhere.
	f, err := os.OpenFile(c.lastPath(), os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ELOOP):
		return nil, nil
	case err != nil:
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > lastMaxSize {
		return nil, nil
	}
	data, err := io.ReadAll(io.LimitReader(f, lastMaxSize+1))
	if err != nil {
		return nil, err
	}
	return parseLast(string(data)), nil
}

// parseLast returns nil unless text is exactly of the form that SetLastSnapshot writes.
func parseLast(text string) []lastEntry {
	body, ok := strings.CutSuffix(text, "\n")
	if !ok {
		return nil
	}
	lines := strings.Split(body, "\n")
	if len(lines)%2 != 0 || len(lines) > 2*lastMax {
		return nil
	}
	var entries []lastEntry
	for i := 0; i < len(lines); i += 2 {
		words := strings.Split(lines[i], " ")
		if len(words) != 3 || words[0] != "#" || !isWord(words[1]) || !isWord(words[2]) || !isWord(lines[i+1]) {
			return nil
		}
		e := lastEntry{words[1], words[2], lines[i+1]}
		for _, other := range entries {
			if other.repository == e.repository && other.cluster == e.cluster {
				return nil
			}
		}
		entries = append(entries, e)
	}
	return entries
}

// replaceLast puts data in the file's place. It is not durable.Replace: that one's temporary file could not have another owner
// before it has its name, and a file that the server's account cannot read makes a pg_basebackup that meets it fail, for good
// when we were killed. Whatever begins with pgsql_tmp, pg_basebackup leaves alone (PG_TEMP_FILE_PREFIX in sendDir), and so do we.
func (c *Cluster) replaceLast(data []byte) (err error) {
	dir, err := stat(c.root)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(c.root, lastTemp+"*")
	if err != nil {
		return err
	}
	defer func() {
		_ = f.Close() // everything was fsynced, or failed already
		if err != nil {
			_ = os.Remove(f.Name()) // the first error says why
		}
	}()
	if os.Geteuid() == 0 {
		if err := f.Chown(int(dir.Uid), int(dir.Gid)); err != nil {
			return err
		}
	}
	mode := fs.FileMode(0o600)
	if dir.Mode&0o040 != 0 {
		mode = 0o640 // pg_file_create_mode with group access
	}
	if err := f.Chmod(mode); err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), c.lastPath()); err != nil {
		return err
	}
	return durable.SyncDir(c.root)
}
