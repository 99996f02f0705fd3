package index

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	badger "github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
)

// cacheVersion changes with everything in record.go.
const cacheVersion = 3

// A cache directory holds
//
//	lock     locked by the process that has the cache open; it says what the cache is, and in which state
//	db/      Badger's
//	notes    large notes, where the database says
//
// The lock file has three lines: version and repository, the machine's boot, and the state. Of a closed database, it then
// lists the files.
const (
	lockName = "lock"
	dbName   = "db"

	shelfName = "notes"

	stateOpening = "opening" // a process that dies here died of what it found
	stateOpen    = "open"    // good if the process died; not if the machine did, since nothing is synced
	stateClosed  = "closed"
	stateFailed  = "failed"
)

// minFree is the room below which the cache does not write, in bytes; notes and proofs end earlier, since the index is worth more.
const (
	minFree      = 128 << 20
	minFreeNotes = 2 * minFree
)

// OpenCache opens the cache in directory dir, which it makes with mode 0700, for the repository with that ID. What is there and is
// not exactly such a cache in good order (another repository's, another version's, a damaged one, one that was open when
// the machine went down) is removed first, but only what a cache put there.
//
// Errors: ErrBusy when somebody has it open, ErrNoSpace, else the file system's. None of them is a reason to fail a
// backup: another directory does as well.
func OpenCache(dir, repositoryID string) (*Cache, error) {
	c, err := openCache(dir, repositoryID)
	if err != nil {
		return nil, fmt.Errorf("open index cache %s: %w", dir, err)
	}
	return c, nil
}

func openCache(dir, repositoryID string) (*Cache, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return nil, err
	}
	lock, err := lockFile(filepath.Join(dir, lockName))
	if err != nil {
		return nil, err
	}
	c := &Cache{dir: dir, lock: lock, loaded: map[string]uint32{}, open: map[uint32]struct{}{}, known: map[uint32]struct{}{}}
	if err := c.start(repositoryID); err != nil {
		lock.Close()
		return nil, err
	}
	return c, nil
}

// lockFile opens the file and locks it. The lock ends with the process, however that ends.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		return f, nil
	}
	f.Close()
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, ErrBusy
	}
	return nil, fmt.Errorf("lock: %w", err)
}

func (c *Cache) start(repositoryID string) error {
	if err := c.room(minFree); err != nil {
		return err
	}
	id := fmt.Sprintf("pgtrove index cache %d of %q\nboot %s\n", cacheVersion, repositoryID, bootID())
	if !c.usable(id) {
		if err := c.wipe(); err != nil {
			return err
		}
	}
	err := c.attempt(id)
	if err != nil && !errors.Is(err, syscall.ENOSPC) {
		if err := c.wipe(); err != nil {
			return err
		}
		err = c.attempt(id)
	}
	return err
}

// usable reports whether the lock file speaks for what is there, and sums the files up if they were closed in good order.
func (c *Cache) usable(id string) bool {
	b, err := io.ReadAll(io.LimitReader(io.NewSectionReader(c.lock, 0, maxLock), maxLock))
	if err != nil {
		return false
	}
	if string(b) == id+stateOpen {
		return true
	}
	who, state, _ := strings.Cut(string(b), "\n")
	_, state, _ = strings.Cut(state, "\n") // closed is closed in any boot
	state, files, _ := strings.Cut(state, "\n")
	if state != stateClosed || !strings.HasPrefix(id, who+"\n") {
		return false
	}
	c.files, err = sumFiles(filepath.Join(c.dir, dbName), nil)
	return err == nil && matchSums(files, c.files)
}

// maxLock bounds what is read of a lock file: a line for every table of a cache of some terabytes.
const maxLock = 64 << 20

func (c *Cache) state(id, state string) error {
	if err := c.lock.Truncate(0); err != nil {
		return err
	}
	_, err := c.lock.WriteAt([]byte(id+state), 0)
	return err
}

func (c *Cache) wipe() error {
	c.files = nil
	return errors.Join(os.RemoveAll(filepath.Join(c.dir, dbName)), os.RemoveAll(filepath.Join(c.dir, shelfName)))
}

// attempt opens the database and reads what is kept in memory.
func (c *Cache) attempt(id string) (err error) {
	c.id = id
	if err := c.state(id, stateOpening); err != nil {
		return err
	}
	defer func() {
		// Badger panics on some damage.
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", ErrCache, p)
		}
	}()
	db, err := badger.Open(badgerOptions(filepath.Join(c.dir, dbName)))
	if err != nil {
		return err
	}
	c.db = db
	if err := errors.Join(c.load(), c.openShelf()); err != nil {
		if c.shelf != nil {
			_ = c.shelf.close()
		}
		db.Close()
		return err
	}
	return c.state(id, stateOpen)
}

// badgerOptions make it small: the cache works beside a database server, and a backup has memory for chunks to hold.
func badgerOptions(dir string) badger.Options {
	o := badger.DefaultOptions(dir).
		WithLogger(nil).
		WithBypassLockGuard(true). // ours also covers the removal of the directory
		WithSyncWrites(false).
		WithDetectConflicts(false).
		WithMetricsEnabled(false).
		WithMemTableSize(8 << 20).
		WithNumMemtables(2).
		WithNumCompactors(2).
		WithNumLevelZeroTables(4).
		WithNumLevelZeroTablesStall(8).
		WithBaseTableSize(2 << 20).
		WithBaseLevelSize(64 << 20).
		WithCompression(options.None). // IDs do not compress, and blocks are then read where they are mapped
		WithBlockCacheSize(0).
		WithIndexCacheSize(0).
		WithChecksumVerificationMode(options.NoVerification).
		WithValueThreshold(256 << 10). // above every value, so that the value log stays empty and needs no care
		WithValueLogFileSize(4 << 20)
	// Tables are of one size on every level. A compaction builds up to 13 of them at once, each in twice its size of memory; by
	// default they double from level to level, and with them the memory: over 1 GB was measured for the index of 100 GB.
	o.TableSizeMultiplier = 1
	return o
}

// load reads counters and the names of segments.
func (c *Cache) load() error {
	return c.db.View(func(txn *badger.Txn) error {
		b, err := value(txn, counterKey, nil)
		if err != nil {
			return err
		}
		if b != nil {
			if c.next, err = parseCounters(b); err != nil {
				return err
			}
		}
		it := txn.NewIterator(badger.IteratorOptions{Prefix: []byte{segmentPrefix}, PrefetchValues: true, PrefetchSize: 100})
		defer it.Close()
		for it.Rewind(); it.Valid(); it.Next() {
			key := it.Item().Key()
			name, err := it.Item().ValueCopy(nil)
			if err != nil {
				return err
			}
			if len(key) != 5 || len(name) == 0 {
				return errRecord
			}
			number := binary.BigEndian.Uint32(key[1:])
			if number >= c.next.segment {
				return errRecord
			}
			c.loaded[string(name)] = number
			c.known[number] = struct{}{}
		}
		return nil
	})
}

// Close ends the cache, and its lock with it. No method may be called any more. Its error does not put anything in doubt
// that the cache has answered.
func (c *Cache) Close() error {
	c.writing.Lock()
	defer c.writing.Unlock()
	err := errors.Join(c.db.Close(), c.shelf.close())
	state := stateFailed
	if err == nil && !c.broken.Load() {
		var sums map[string]fileSum
		if sums, err = sumFiles(filepath.Join(c.dir, dbName), c.files); err == nil {
			state = stateClosed + formatSums(sums)
		}
	}
	if err := errors.Join(err, c.state(c.id, state), c.lock.Close()); err != nil {
		return fmt.Errorf("close index cache %s: %w", c.dir, err)
	}
	return nil
}

// failed marks the cache as damaged, so that the next OpenCache begins anew.
func (c *Cache) failed(err error) error {
	c.broken.Store(true)
	if e := c.state(c.id, stateFailed); e != nil {
		err = errors.Join(err, e)
	}
	return fmt.Errorf("%w: %w", ErrCache, err)
}

// room makes sure that a write does not fill the file system: so much must be free.
func (c *Cache) room(want uint64) error {
	var st syscall.Statfs_t
	if err := syscall.Fstatfs(int(c.lock.Fd()), &st); err != nil {
		return fmt.Errorf("look for room: %w", err)
	}
	if free := st.Bavail * uint64(st.Bsize); free < want {
		return fmt.Errorf("%w: %d MiB free, want %d", ErrNoSpace, free>>20, want>>20)
	}
	return nil
}

// bootID names the time since the machine started; empty where the kernel does not tell, and then nothing is ever of
// this boot.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return fmt.Sprintf("unknown, process %d", os.Getpid())
	}
	return strings.TrimSpace(string(b))
}

// setter adds a write to a batch. It keeps both slices.
type setter func(key, value []byte) error

// update writes what fn sets, in that order: whoever reads later writes reads the earlier ones too, even after the
// process was killed in between.
func (c *Cache) update(fn func(set setter) error) error {
	batch := c.db.NewWriteBatch()
	defer batch.Cancel()
	if err := fn(batch.Set); err != nil {
		return c.writeFailed(err)
	}
	if err := batch.Flush(); err != nil {
		return c.writeFailed(err)
	}
	return nil
}

func (c *Cache) writeFailed(err error) error {
	if errors.Is(err, ErrCache) {
		return err
	}
	if errors.Is(err, syscall.ENOSPC) {
		err = fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	return c.failed(err)
}

// get gives the value of a key, nil if there is none.
func (c *Cache) get(key []byte) ([]byte, error) {
	txn := c.db.NewTransaction(false)
	defer txn.Discard()
	b, err := value(txn, key, nil)
	if err != nil {
		return nil, c.failed(err)
	}
	return b, nil
}

// value appends the value of a key to dst; nil if there is none.
func value(txn *badger.Txn, key, dst []byte) ([]byte, error) {
	item, err := txn.Get(key)
	if errors.Is(err, badger.ErrKeyNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return item.ValueCopy(dst)
}
