package index

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/pack"
)

// Retain forgets every segment for which inView says no; numbers of Begin that are not finished stay. Who wants one of them again adds it
// again, under another number. Packs that stand in none of the others, and what is known of their chunks, go as soon as they are more than half
// of all packs: so the cache holds at most twice what its view does, and what a removal costs is in proportion to what was added since the
// last. Notes stay.
//
// inView is called with numbers of complete segments and must not call the Cache. Other methods may run meanwhile, and find nothing
// in what is being forgotten, or still something. A Retain that fails or is killed leaves a cache that answers as rightly, and the next
// one goes on. It reads the record of every pack if there is anything to forget, and everything if packs go, in memory that does not grow with the
// number of chunks.
// Errors: ErrNoSpace, which is no reason to stop using the cache; ErrCache.
func (c *Cache) Retain(inView func(segment uint32) bool) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	gone := c.outside(inView)
	if len(gone) == 0 {
		return nil
	}
	t := &retention{c: c}
	// Names come first: a segment must not count as loaded when some of its packs are gone. From there on nobody can ask for them, whatever is
	// left. Fingerprints go before what they promise, so that a pack that comes back is added anew. Records go last: they tell the
	// next Retain what is left to do. Numbers are never given again, so what still names a pack without a record names nothing.
	for _, step := range []func() error{
		func() error { return t.names(gone) }, t.members, t.fingerprints, t.proofs, t.chunks, t.records,
	} {
		if err := step(); err != nil {
			return fmt.Errorf("forget segments in index cache: %w", err)
		}
		if t.judged && 2*t.dead <= t.all {
			return nil
		}
	}
	return nil
}

// outside gives the loaded segments that inView does not want, by name.
func (c *Cache) outside(inView func(uint32) bool) map[string]uint32 {
	gone := c.Loaded()
	for name, number := range gone {
		if inView(number) {
			delete(gone, name)
		}
	}
	return gone
}

// retention is one run of Retain, which holds the Cache's writing lock.
type retention struct {
	c         *Cache
	judged    bool
	all, dead int    // packs
	live      []bool // by number
}

// sweepBatch is how many writes are made at once.
const sweepBatch = 1 << 12

func (t *retention) isLive(n uint32) bool { return int(n) < len(t.live) && t.live[n] }

// sweep calls fn for every key with a prefix, and writes what it asks for: a value to be set, nothing, or that the key be deleted. value is fn's
// during the call, and what it returns is the caller's until the next.
func (t *retention) sweep(prefix byte, fn func(key, value []byte) (set []byte, remove bool, err error)) error {
	r := t.c.db.read()
	defer r.end()
	var w writes
	if err := t.c.scan(r, prefix, "sweep", func(key, value []byte) (theirs, err error) {
		set, remove, err := fn(key, value)
		switch {
		case err != nil || set == nil && !remove:
			return nil, err
		case remove:
			_ = w.Delete(slices.Clone(key)) // only gathers
		default:
			_ = w.Set(slices.Clone(key), slices.Clone(set))
		}
		if len(w) < sweepBatch {
			return nil, nil
		}
		theirs = t.flush(w)
		w = w[:0]
		return theirs, nil
	}); err != nil {
		return err
	}
	return t.flush(w)
}

// flush writes w, if there is room. It waits until that is done: a database that is given everything at once has much of it in memory.
func (t *retention) flush(w writes) error {
	if len(w) == 0 {
		return nil
	}
	if err := t.c.room(minFree); err != nil {
		return err
	}
	return t.c.update(func(b batch) error {
		for _, w := range w {
			var err error
			if w.value == nil {
				err = b.Delete(w.key)
			} else {
				err = b.Set(w.key, w.value)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// names forgets that segments are loaded.
func (t *retention) names(gone map[string]uint32) error {
	c := t.c
	var w writes
	for _, number := range gone {
		_ = w.Delete(segmentKey(number)) // only gathers
	}
	if err := t.flush(w); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for name, number := range gone {
		delete(c.loaded, name)
		delete(c.known, number)
	}
	return nil
}

// members judges packs, and takes the segments that are gone off those that stay.
func (t *retention) members() error {
	c := t.c
	known := func(number uint32) bool {
		c.mu.RLock()
		defer c.mu.RUnlock()
		_, ok := c.known[number]
		return ok
	}
	t.live = make([]bool, c.next.pack)
	t.judged = true
	return t.sweep(packPrefix, func(key, value []byte) ([]byte, bool, error) {
		n, err := packNumber(key)
		if err == nil && n >= c.next.pack {
			err = errRecord
		}
		if err != nil {
			return nil, false, err
		}
		rec, err := parseRecord(value)
		if err != nil {
			return nil, false, err
		}
		t.all++
		left := slices.DeleteFunc(slices.Clone(rec.members), func(number uint32) bool { return !known(number) })
		switch len(left) {
		case 0:
			t.dead++
			return nil, false, nil
		case len(rec.members):
			t.live[n] = true
			return nil, false, nil
		}
		t.live[n] = true
		rec.members = left
		c.packs.put(n, rec)
		return rec.marshal(), false, nil
	})
}

func (t *retention) fingerprints() error {
	return t.sweep(fingerprintPrefix, func(_, value []byte) ([]byte, bool, error) {
		if len(value) != 4 {
			return nil, false, errRecord
		}
		return nil, !t.isLive(binary.BigEndian.Uint32(value)), nil
	})
}

// proofs removes those that no longer prove anything.
func (t *retention) proofs() error {
	return t.sweep(proofPrefix, func(_, value []byte) ([]byte, bool, error) {
		r := reader{b: value}
		for len(r.b) > 0 {
			if n := uint32(r.uvarint(1<<32 - 1)); r.err != nil || !t.isLive(n) {
				return nil, true, nil
			}
		}
		return nil, false, nil
	})
}

// chunks removes every place in a pack that goes, or that was never added to its end.
func (t *retention) chunks() error {
	var left []byte
	return t.sweep(chunkPrefix, func(key, value []byte) ([]byte, bool, error) {
		if len(key) != 1+chunk.IDSize {
			return nil, false, errRecord
		}
		left = left[:0]
		for b := value; len(b) > 0; {
			var e pack.Entry
			n, rest, err := parseLocation(b, &e)
			if err != nil {
				return nil, false, err
			}
			if t.isLive(n) {
				left = append(left, b[:len(b)-len(rest)]...)
			}
			b = rest
		}
		if len(left) == len(value) {
			return nil, false, nil
		}
		return left, len(left) == 0, nil
	})
}

// records removes those of the packs that go. One that is still in memory names only segments that are gone.
func (t *retention) records() error {
	return t.sweep(packPrefix, func(key, _ []byte) ([]byte, bool, error) {
		n, err := packNumber(key)
		return nil, err == nil && !t.isLive(n), err
	})
}
