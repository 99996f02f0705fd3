// Package walahead keeps on this host what archive_command and restore_command do ahead of PostgreSQL's asking: Records of segments that were
// pushed before their turn, a Spool of segments that were fetched before theirs, and the Ledger of those that were given up.
//
// It never talks to a storage and holds no keys: what it is told it keeps in files, and gives back only if it is about the very
// same thing. Records and Spool are caches: lost, damaged or foreign files are as good as none, and no failure to write them is an error of the
// command. The Ledger is none: it stands in the data directory and is durable. cmd uses it for wal push and wal fetch.
package walahead

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/pgtrove/pgtrove/internal/pg"
)

// Owner says whose WAL it is, and where it is archived. Nothing is shared between two that differ in any of it.
type Owner struct {
	Place      string // of the storage
	Repository string // its ID
	Cluster    string
	System     pg.SystemID
}

// dir is the owner's own directory below base; also are further things that tell directories apart.
func (o Owner) dir(base string, also ...any) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q %q %d %v", o.Place, o.Repository, o.Cluster, o.System, also))
	return filepath.Join(base, hex.EncodeToString(sum[:16]))
}

// Below a cache directory.
const (
	recordsDir = "pushed"
	spoolsDir  = "fetched"
)

// Tidy removes from a cache directory what nobody has come for: records and spools of any owner that are older than their time.
func Tidy(cache string, now time.Time) {
	for dir, kept := range map[string]time.Duration{recordsDir: recordKept, spoolsDir: spoolKept} {
		owners, _ := os.ReadDir(filepath.Join(cache, dir))
		for _, o := range owners {
			path := filepath.Join(cache, dir, o.Name())
			files, _ := os.ReadDir(path)
			for _, f := range files {
				if info, err := f.Info(); err == nil && now.Sub(info.ModTime()) > kept {
					_ = os.Remove(filepath.Join(path, f.Name()))
				}
			}
			if info, err := o.Info(); err == nil && now.Sub(info.ModTime()) > kept {
				_ = os.Remove(path) // succeeds only if it is empty
			}
		}
	}
}

// replace writes a file of a cache in one step for readers. It does not sync: what a crash leaves of it has to be told by a checksum.
func replace(path string, data []byte) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".new-*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}

// readOwn reads a small file that only our own account could have written; nil if it is none.
func readOwn(path string) []byte {
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0 || info.Size() > 1<<16 {
		return nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	return b
}
