package index

import (
	"maps"
	"slices"
	"sync"
)

// OpenMemory makes an empty cache in memory, for the repository with that ID: for tests, models and small repositories. It takes
// some hundred bytes for every chunk, has no goroutines, locks nothing, never fails for want of room, and is gone with Close.
func OpenMemory(_ string) (*Cache, error) {
	return newCache(&inMemory{}), nil
}

// inMemory is the database without a disk.
type inMemory struct {
	mu     sync.RWMutex
	tables map[byte]map[string][]byte // by the first byte of the key, then by the key; values are replaced, never changed
}

func (m *inMemory) close() error { return nil }

func (m *inMemory) read() reading { return m }

func (m *inMemory) end() {}

func (m *inMemory) get(key, dst []byte) ([]byte, error) {
	m.mu.RLock()
	value, ok := m.tables[key[0]][string(key)]
	m.mu.RUnlock()
	if !ok {
		return nil, nil
	}
	return append(dst[:0], value...), nil
}

func (m *inMemory) scan(prefix byte, fn func(key, value []byte) error) error {
	m.mu.RLock()
	table := maps.Clone(m.tables[prefix]) // fn runs without the lock, and may write
	m.mu.RUnlock()
	var b []byte
	for _, key := range slices.Sorted(maps.Keys(table)) {
		b = append(b[:0], key...)
		if err := fn(b, table[key]); err != nil {
			return err
		}
	}
	return nil
}

func (m *inMemory) write(fn func(batch) error) error {
	var w writes
	if err := fn(&w); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, w := range w {
		table := m.tables[w.key[0]]
		switch {
		case w.value == nil:
			delete(table, string(w.key))
			continue
		case m.tables == nil:
			m.tables = map[byte]map[string][]byte{}
		}
		if table == nil {
			table = map[string][]byte{}
			m.tables[w.key[0]] = table
		}
		table[string(w.key)] = w.value
	}
	return nil
}

// writes is a batch; a key without a value is deleted.
type writes []struct{ key, value []byte }

func (w *writes) Set(key, value []byte) error {
	*w = append(*w, struct{ key, value []byte }{key, value})
	return nil
}

func (w *writes) Delete(key []byte) error { return w.Set(key, nil) }
