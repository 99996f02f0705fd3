package index

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
)

// cacheVersion changes with everything in record.go.
const cacheVersion = 4

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

// disk is the directory of a cache, but for what its database and its shelf do with it.
type disk struct {
	dir    string
	lock   *os.File
	id     string             // the head of the lock file
	files  map[string]fileSum // those of the database when it was opened in good order
	broken atomic.Bool
}

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
	c := newCache(nil)
	c.disk = &disk{dir: dir, lock: lock}
	if err := c.start(repositoryID); err != nil {
		lock.Close()
		return nil, err
	}
	return c, nil
}

func newCache(db database) *Cache {
	return &Cache{db: db, loaded: map[string]uint32{}, open: map[uint32]struct{}{}, known: map[uint32]struct{}{}}
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
	d := c.disk
	if err := d.room(minFree); err != nil {
		return err
	}
	d.id = fmt.Sprintf("pgtrove index cache %d of %q\nboot %s\n", cacheVersion, repositoryID, bootID())
	if !d.usable() {
		if err := d.wipe(); err != nil {
			return err
		}
	}
	err := c.attempt()
	if err != nil && !errors.Is(err, syscall.ENOSPC) {
		if err := d.wipe(); err != nil {
			return err
		}
		err = c.attempt()
	}
	return err
}

// usable reports whether the lock file speaks for what is there, and sums the files up if they were closed in good order.
func (d *disk) usable() bool {
	b, err := io.ReadAll(io.LimitReader(io.NewSectionReader(d.lock, 0, maxLock), maxLock))
	if err != nil {
		return false
	}
	if string(b) == d.id+stateOpen {
		return true
	}
	who, state, _ := strings.Cut(string(b), "\n")
	_, state, _ = strings.Cut(state, "\n") // closed is closed in any boot
	state, files, _ := strings.Cut(state, "\n")
	if state != stateClosed || !strings.HasPrefix(d.id, who+"\n") {
		return false
	}
	d.files, err = sumFiles(filepath.Join(d.dir, dbName), nil)
	return err == nil && matchSums(files, d.files)
}

// maxLock bounds what is read of a lock file: a line for every table of a cache of some terabytes.
const maxLock = 64 << 20

func (d *disk) state(state string) error {
	if err := d.lock.Truncate(0); err != nil {
		return err
	}
	_, err := d.lock.WriteAt([]byte(d.id+state), 0)
	return err
}

func (d *disk) wipe() error {
	d.files = nil
	return errors.Join(os.RemoveAll(filepath.Join(d.dir, dbName)), os.RemoveAll(filepath.Join(d.dir, shelfName)))
}

// attempt opens the database and reads what is kept in memory.
func (c *Cache) attempt() (err error) {
	if err := c.disk.state(stateOpening); err != nil {
		return err
	}
	defer func() {
		// Badger panics on some damage.
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", ErrCache, p)
		}
	}()
	db, err := openOnDisk(filepath.Join(c.disk.dir, dbName))
	if err != nil {
		return err
	}
	c.db = db
	if err := errors.Join(c.load(), c.openShelf()); err != nil {
		if c.shelf != nil {
			_ = c.shelf.close()
		}
		_ = db.close()
		return err
	}
	return c.disk.state(stateOpen)
}

// load reads counters and the names of segments.
func (c *Cache) load() error {
	c.next = counters{} // an attempt that failed may have read something
	clear(c.loaded)
	clear(c.known)
	r := c.db.read()
	defer r.end()
	b, err := r.get(counterKey, nil)
	if err != nil {
		return err
	}
	if b != nil {
		if c.next, err = parseCounters(b); err != nil {
			return err
		}
	}
	return r.scan(segmentPrefix, func(key, name []byte) error {
		if len(key) != 5 || len(name) == 0 {
			return errRecord
		}
		number := binary.BigEndian.Uint32(key[1:])
		if number >= c.next.segment {
			return errRecord
		}
		c.loaded[string(name)] = number
		c.known[number] = struct{}{}
		return nil
	})
}

// Close ends the cache, and its lock with it. No method may be called any more. Its error does not put anything in doubt
// that the cache has answered.
func (c *Cache) Close() error {
	c.writing.Lock()
	defer c.writing.Unlock()
	err := c.db.close()
	if c.disk == nil {
		return err
	}
	return c.disk.close(errors.Join(err, c.shelf.close()))
}

// close records the state of the files, of which err says whether they were closed in good order.
func (d *disk) close(err error) error {
	state := stateFailed
	if err == nil && !d.broken.Load() {
		var sums map[string]fileSum
		if sums, err = sumFiles(filepath.Join(d.dir, dbName), d.files); err == nil {
			state = stateClosed + formatSums(sums)
		}
	}
	if err := errors.Join(err, d.state(state), d.lock.Close()); err != nil {
		return fmt.Errorf("close index cache %s: %w", d.dir, err)
	}
	return nil
}

// failed marks the cache as damaged, so that the next OpenCache begins anew.
func (c *Cache) failed(err error) error {
	if c.disk != nil {
		c.disk.broken.Store(true)
		if e := c.disk.state(stateFailed); e != nil {
			err = errors.Join(err, e)
		}
	}
	return fmt.Errorf("%w: %w", ErrCache, err)
}

// room makes sure that a write does not fill the file system: so much must be free.
func (c *Cache) room(want uint64) error {
	if c.disk == nil {
		return nil
	}
	return c.disk.room(want)
}

func (d *disk) room(want uint64) error {
	var st syscall.Statfs_t
	if err := syscall.Fstatfs(int(d.lock.Fd()), &st); err != nil {
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

// update writes what fn puts into the batch, as database.write does, and tells what errors mean.
func (c *Cache) update(fn func(batch) error) error {
	err := c.db.write(fn)
	if err == nil || errors.Is(err, ErrCache) {
		return err
	}
	if errors.Is(err, syscall.ENOSPC) {
		err = fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	return c.failed(err)
}

// get gives the value of a key, nil if there is none.
func (c *Cache) get(key []byte) ([]byte, error) {
	r := c.db.read()
	defer r.end()
	b, err := r.get(key, nil)
	if err != nil {
		return nil, c.failed(err)
	}
	return b, nil
}
