package repo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/pgtrove/pgtrove/keys"
	"github.com/pgtrove/pgtrove/storage"
)

// What stands under keys/ (docs/format.md, 6.2 and 6.3). An entry is what one key is called by: it has a record, and a bundle for each time that its
// keys were made anew.
const (
	entrySuffix    = "entry"    // who has the key
	removingSuffix = "removing" // from now on nothing that the key commits is sure to count
	removedSuffix  = "removed"  // nothing that the key has signed counts, but for what the record names
	generationName = "generation"
)

// keyNames is a listing of keys/.
type keyNames struct {
	bundles map[string][]int           // by entry: the numbers of its bundles, ascending
	records map[string]map[string]bool // by entry: the suffixes of its records
	active  map[int]bool               // bundles of these numbers are in use, besides the first
	owners  map[int]bool               // and of these, those that only owners have
	taken   map[int]bool               // numbers that anything has, whoever has put it there
}

// parseKeyName says what a name under keys/ means: the bundle of an entry with its number, or a record of an entry, or, of no entry, that bundles of a
// number are in use.
func parseKeyName(key string) (entry, record string, number int, ok bool) {
	name, ok := strings.CutPrefix(key, keysPrefix)
	entry, what, dot := strings.Cut(name, ".")
	if !ok || entry == "" || strings.Contains(name, "/") {
		return "", "", 0, false
	}
	switch what {
	case "":
		return entry, "", 1, !dot
	case entrySuffix, removingSuffix, removedSuffix:
		return entry, what, 0, true
	}
	number, err := strconv.Atoi(what)
	if err != nil || number < 2 || strconv.Itoa(number) != what {
		return "", "", 0, false
	}
	if entry == generationName {
		entry = ""
	}
	return entry, "", number, true
}

func bundleKey(entry string, number int) string {
	if number == 1 {
		return keysPrefix + entry
	}
	return fmt.Sprintf("%s%s.%d", keysPrefix, entry, number)
}

func recordKey(entry, suffix string) string { return keysPrefix + entry + "." + suffix }

func listKeys(ctx context.Context, store storage.Store) (*keyNames, error) {
	n := &keyNames{bundles: map[string][]int{}, records: map[string]map[string]bool{}, active: map[int]bool{}, owners: map[int]bool{},
		taken: map[int]bool{}}
	if err := store.List(ctx, keysPrefix, func(i storage.Info) error {
		entry, record, number, ok := parseKeyName(i.Key)
		if n.taken[number] = true; !ok {
			return nil
		}
		switch {
		case entry == "":
			n.active[number] = true
		case record == "":
			n.bundles[entry] = append(n.bundles[entry], number)
		default:
			if n.records[entry] == nil {
				n.records[entry] = map[string]bool{}
			}
			n.records[entry][record] = true
		}
		return nil
	}); err != nil {
		return nil, fmt.Errorf("list keys: %w", err)
	}
	for _, numbers := range n.bundles {
		slices.Sort(numbers)
	}
	return n, nil
}

// listKeys is listKeys of the repository's storage, in which bundles are in use only of those numbers of which an owner says so.
func (r *Repo) listKeys(ctx context.Context) (*keyNames, error) {
	n, err := listKeys(ctx, r.store)
	if err != nil || !r.signed() {
		return n, err
	}
	for number := range maps.Clone(n.active) {
		g, err := r.generation(ctx, number)
		if err != nil {
			return nil, err
		}
		if g == nil {
			delete(n.active, number)
		}
		n.owners[number] = g != nil && g.Owners
	}
	return n, nil
}

// generation is what an owner has said of the bundles of a number; nil: nobody has, and they are not in use.
func (r *Repo) generation(ctx context.Context, number int) (*generationRecord, error) {
	text, err := r.getCertified(ctx, bundleKey(generationName, number), generationName)
	g := new(generationRecord)
	switch {
	case errors.Is(err, storage.ErrNotExist), unbelievable(err):
		return nil, nil
	case err != nil:
		return nil, err
	case json.Unmarshal(text, g) != nil || g.Version != recordVersion || g.Number != number:
		return nil, nil
	}
	return g, nil
}

// current gives the numbers of an entry's bundles that are in use, the newest first. What role the key has decides which, so it has to be known.
func (n *keyNames) current(entry string, role keys.Role) (numbers []int) {
	for _, number := range slices.Backward(n.bundles[entry]) {
		// The first bundle of an entry that was made since is as new as any.
		if number == 1 || n.active[number] && (role == keys.Owner || !n.owners[number]) {
			numbers = append(numbers, number)
		}
	}
	return numbers
}

// next is the number for new bundles: above those in use, and nobody has it. What somebody puts there who is no owner does not decide how high it is.
func (n *keyNames) next() int {
	next := 2
	for number := range n.active {
		next = max(next, number+1)
	}
	for n.taken[next] {
		next++
	}
	return next
}

// entries gives the IDs of all that stand under keys/, in order.
func (n *keyNames) entries() []string {
	all := slices.Collect(maps.Keys(n.bundles))
	for entry := range n.records {
		if n.bundles[entry] == nil {
			all = append(all, entry)
		}
	}
	slices.Sort(all)
	return all
}

// with gives the entries that have a record of that suffix, in order.
func (n *keyNames) with(suffix string) (entries []string) {
	for _, entry := range n.entries() {
		if n.records[entry][suffix] {
			entries = append(entries, entry)
		}
	}
	return entries
}

// keyring is what the owners say of the repository's keys. A record that the root key has not certified says nothing.
type keyring struct {
	names    *keyNames
	removed  map[string]*removedRecord // by entry
	removing map[string]bool           // of those that are not removed, where somebody has begun to

	mu      sync.Mutex
	entries map[string]*entryRecord // nil: not read yet
	bad     map[string]error        // entries with a record that cannot be believed, and why
	former  map[string]*entryRecord // who had those that are removed, as far as somebody asked; nil: nobody knows
}

// isGoing says whether a key is removed, or being removed.
func (k *keyring) isGoing(entry string) bool { return k.removed[entry] != nil || k.removing[entry] }

// ringOf is where a Repo keeps its keyring: read once, for a key that is removed meanwhile is not removed for a command that has begun.
type ringOf struct {
	mu    sync.Mutex
	names *keyNames // as Open has listed them; nil: not listed
	ring  *keyring
}

// keyring gives what the owners said when the repository was opened.
func (r *Repo) keyring(ctx context.Context) (*keyring, error) {
	r.ring.mu.Lock()
	defer r.ring.mu.Unlock()
	if r.ring.ring != nil {
		return r.ring.ring, nil
	}
	ring, err := r.readKeyring(ctx, r.ring.names)
	if err == nil {
		r.ring.ring = ring
	}
	return ring, err
}

// freshKeyring is keyring, of now.
func (r *Repo) freshKeyring(ctx context.Context) (*keyring, error) {
	r.ring.mu.Lock()
	defer r.ring.mu.Unlock()
	ring, err := r.readKeyring(ctx, nil)
	if err == nil {
		r.ring.ring, r.ring.names = ring, ring.names
	}
	return ring, err
}

func (r *Repo) readKeyring(ctx context.Context, names *keyNames) (*keyring, error) {
	if names == nil {
		var err error
		if names, err = r.listKeys(ctx); err != nil {
			return nil, err
		}
	}
	k := &keyring{names: names, removed: map[string]*removedRecord{}, removing: map[string]bool{}, bad: map[string]error{}, former: map[string]*entryRecord{}}
	gone := names.with(removedSuffix)
	fetch := func(ctx context.Context, i int) (*removedRecord, error) {
		return getRecord[removedRecord](ctx, r, gone[i], removedSuffix)
	}
	if err := readEach(ctx, k, gone, fetch, func(i int, rec *removedRecord) { k.removed[gone[i]] = rec }); err != nil {
		return nil, err
	}
	going := slices.DeleteFunc(names.with(removingSuffix), func(entry string) bool { return k.removed[entry] != nil })
	closing := func(ctx context.Context, i int) (*removingRecord, error) {
		return getRecord[removingRecord](ctx, r, going[i], removingSuffix)
	}
	return k, readEach(ctx, k, going, closing, func(i int, _ *removingRecord) { k.removing[going[i]] = true })
}

// holders reads who has the keys that are not removed, by entry.
func (r *Repo) holders(ctx context.Context, k *keyring) (map[string]*entryRecord, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.entries != nil {
		return k.entries, nil
	}
	there := slices.DeleteFunc(k.names.with(entrySuffix), func(entry string) bool { return k.removed[entry] != nil })
	found := map[string]*entryRecord{}
	fetch := func(ctx context.Context, i int) (*entryRecord, error) {
		return getRecord[entryRecord](ctx, r, there[i], entrySuffix)
	}
	if err := readEach(ctx, k, there, fetch, func(i int, rec *entryRecord) { found[there[i]] = rec }); err != nil {
		return nil, err
	}
	k.entries = found
	return found, nil
}

// readEach reads a record of each of some entries. What cannot be believed is noted in bad and passed over.
func readEach[T any](ctx context.Context, k *keyring, entries []string, fetch func(ctx context.Context, i int) (*T, error), use func(i int, rec *T)) error {
	type read struct {
		rec *T
		err error
	}
	each := func(ctx context.Context, i int) (read, error) {
		rec, err := fetch(ctx, i)
		if err != nil && !errors.Is(err, storage.ErrNotExist) && !unbelievable(err) {
			return read{}, err
		}
		return read{rec, err}, nil
	}
	return inOrder(ctx, len(entries), each, func(i int, got read) error {
		switch {
		case errors.Is(got.err, storage.ErrNotExist): // deleted since
		case got.err != nil:
			k.bad[entries[i]] = got.err
		default:
			use(i, got.rec)
		}
		return nil
	})
}
