package repo

import (
	"context"
	"crypto/subtle"
	"slices"
	"sync"

	"github.com/zeebo/blake3"

	"github.com/pgtrove/pgtrove/chunk"
)

const (
	noteContext = "pgtrove v1 2026 repo cache note"
	noteMACSize = 16
)

// notes is what a session knows of the notes in its cache. A note stands there behind a keyed MAC over its key and its value, so
// that nothing is believed that was not written, under this key, by a program that had the repository's secret.
type notes struct {
	key     [chunk.KeySize]byte
	hashers sync.Pool // of *blake3.Hasher

	mu      sync.Mutex
	touched map[chunk.ID]struct{} // those that outlast the session
}

func newNotes(k chunk.Key) *notes {
	n := &notes{touched: map[chunk.ID]struct{}{}}
	blake3.DeriveKey(noteContext, k[:], n.key[:])
	return n
}

func (n *notes) mac(key chunk.ID, value []byte) (mac [noteMACSize]byte) {
	h, ok := n.hashers.Get().(*blake3.Hasher)
	if !ok {
		var err error
		if h, err = blake3.NewKeyed(n.key[:]); err != nil {
			panic("repo: keyed BLAKE3: " + err.Error()) // only for another length of the key
		}
	}
	h.Reset()
	_, _ = h.Write(key[:])
	_, _ = h.Write(value)
	var sum [32]byte
	h.Sum(sum[:0])
	n.hashers.Put(h)
	copy(mac[:], sum[:])
	return mac
}

func (n *notes) touch(keys ...chunk.ID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, key := range keys {
		n.touched[key] = struct{}{}
	}
}

// Recall appends what Remember kept under key to dst, in this session or an earlier one of the cluster on this host; nil if
// there is nothing that can be believed. It never fails: a cache that does not answer knows nothing.
func (s *Session) Recall(key chunk.ID, dst []byte) []byte {
	have := len(dst)
	b, err := s.view.cache.Note(key, dst)
	if err != nil || len(b) < have+noteMACSize {
		return nil
	}
	mac := s.notes.mac(key, b[have+noteMACSize:])
	if subtle.ConstantTimeCompare(mac[:], b[have:have+noteMACSize]) != 1 {
		return nil
	}
	return append(b[:have], b[have+noteMACSize:]...)
}

// Remember keeps value, which is copied, for Recall, in place of what is there. Values of more than 64 KiB are forgotten, and so may be
// any other.
//
// A session that commits forgets all that was neither remembered, kept nor asked for by Missing in it; what was only recalled is
// what the last snapshot was. A key must name what the value describes: then a value can become useless, but never wrong.
func (s *Session) Remember(key chunk.ID, value []byte) {
	if len(value) > maxNote {
		return
	}
	mac := s.notes.mac(key, value)
	if err := s.view.cache.PutNote(key, slices.Concat(mac[:], value)); err != nil {
		return // it is a cache
	}
	s.notes.touch(key)
}

// maxNote is the largest value that is remembered, in bytes.
const maxNote = 64 << 10

// Keep makes what is remembered under these keys outlast the session.
func (s *Session) Keep(keys ...chunk.ID) { s.notes.touch(keys...) }

// Missing says which of the chunks that a recipe names (of data and of metadata) are in no pack of the view, as often and in the order that
// ids gives them. recipe names the recipe; ids is called only if the answer is not known: that all of the chunks stand in
// certain packs is remembered, and then only these packs are looked for in the view.
func (s *Session) Missing(ctx context.Context, recipe chunk.ID, ids func(context.Context) ([]chunk.ID, error)) ([]chunk.ID, error) {
	s.notes.touch(recipe)
	except := s.view.excepted()
	if ok, err := s.view.cache.Proven(recipe, s.view.counts, except); err == nil && ok {
		return nil, nil
	}
	all, err := ids(ctx)
	if err != nil {
		return nil, err
	}
	return s.view.cache.Prove(recipe, all, s.view.counts, except)
}

// sweepNotes forgets what this session had no use for. Only a committed session knows what that is.
func (s *Session) sweepNotes() {
	if s.view.temp != "" {
		return
	}
	s.notes.mu.Lock()
	defer s.notes.mu.Unlock()
	_ = s.view.cache.Sweep(s.notes.touched) // what stays takes room, no more
}
