package index

import (
	"errors"

	badger "github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
)

// database is what a Cache stands on: keys and values, in the order of the keys. No value is empty. It is safe for concurrent use.
type database interface {
	// read begins a reading, which sees at least what was written before.
	read() reading
	// write writes what fn puts into the batch, in that order: whoever reads later writes reads the earlier ones too, even after
	// the process was killed in between. fn may read; what its own batch says it does not see. If fn fails, some of it
	// may be written all the same.
	write(fn func(batch) error) error
	close() error
}

// reading reads, until its end. It is for one goroutine.
type reading interface {
	// get gives a copy of a value, in the memory of dst if it has room; nil if there is none.
	get(key, dst []byte) ([]byte, error)
	// scan calls fn for every key that begins with prefix, in order, until it fails. key and value are fn's during the call.
	scan(prefix byte, fn func(key, value []byte) error) error
	end()
}

// batch gathers writes. It keeps the slices that it is given.
type batch interface {
	Set(key, value []byte) error
	Delete(key []byte) error
}

// onDisk is the database in Badger.
type onDisk struct{ db *badger.DB }

func openOnDisk(dir string) (*onDisk, error) {
	db, err := badger.Open(badgerOptions(dir))
	if err != nil {
		return nil, err
	}
	return &onDisk{db}, nil
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

func (d *onDisk) close() error { return d.db.Close() }

func (d *onDisk) read() reading { return onDiskReading{d.db.NewTransaction(false)} }

func (d *onDisk) write(fn func(batch) error) error {
	b := d.db.NewWriteBatch()
	defer b.Cancel()
	if err := fn(b); err != nil {
		return err
	}
	return b.Flush()
}

type onDiskReading struct{ txn *badger.Txn }

func (r onDiskReading) end() { r.txn.Discard() }

func (r onDiskReading) get(key, dst []byte) ([]byte, error) {
	item, err := r.txn.Get(key)
	if errors.Is(err, badger.ErrKeyNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return item.ValueCopy(dst)
}

// scan prefetches nothing: values stand beside their keys, and each item that is fetched ahead costs a goroutine.
func (r onDiskReading) scan(prefix byte, fn func(key, value []byte) error) error {
	it := r.txn.NewIterator(badger.IteratorOptions{Prefix: []byte{prefix}})
	defer it.Close()
	for it.Rewind(); it.Valid(); it.Next() {
		item := it.Item()
		if err := item.Value(func(b []byte) error { return fn(item.Key(), b) }); err != nil {
			return err
		}
	}
	return nil
}
