package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/index"
	"github.com/pgtrove/pgtrove/keys"
	"github.com/pgtrove/pgtrove/pack"
	"github.com/pgtrove/pgtrove/storage"
	storagefs "github.com/pgtrove/pgtrove/storage/fs"
)

const (
	hollowPackBytes = 250 * (16*pageSize + sealOverhead)
	hollowTail      = 40_000 // page digests and directory of such a pack, about
	sealOverhead    = 16
	packHead        = 8

	// hollowSegment is the number of a session's first index segment here; the
	// session itself counts from 0.
	hollowSegment       = 1000
	hollowSegmentChunks = 100_000 // as repo.Session publishes
)

// hollow puts packs of data into a repository that have a name, a length and a
// place in the index, and no bytes: each is a file that is one hole. A prune
// that repacks nothing, and a backup, read no more of packs of data.
type hollow struct {
	d      *direct
	store  *storagefs.Store
	bundle *keys.Bundle
	meta   *keys.Meta

	mu    sync.Mutex
	plain map[chunk.ID]int64 // size of every chunk whose size is not the usual one
}

func newHollow(ctx context.Context, d *direct) (*hollow, error) {
	store, err := storagefs.Open(d.repository())
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(filepath.Join(d.dir, "identity"))
	if err != nil {
		return nil, err
	}
	identities, err := keys.ParseIdentityFile(text)
	if err != nil {
		return nil, err
	}
	h := &hollow{d: d, store: store, plain: map[chunk.ID]int64{}}
	err = store.List(ctx, "keys/", func(i storage.Info) error {
		if strings.Contains(i.Key, ".") {
			return nil // about a bundle
		}
		wrapped, err := store.Get(ctx, i.Key, storage.Range{}, nil)
		if err != nil {
			return err
		}
		if h.bundle, err = keys.Unwrap(wrapped, identities.Identities...); err != nil {
			return err
		}
		h.meta, err = h.bundle.Meta()
		return err
	})
	return h, err
}

// hollowSession is the part of a session that stores data. It is safe for
// concurrent use.
type hollowSession struct {
	*hollow
	sid           string
	encapsulation []byte

	mu       sync.Mutex
	open     pack.Directory // of the pack being filled
	nonce    uint64
	packs    int // begun
	segment  index.Segment
	chunks   int // in segment
	segments int // written
}

func (h *hollow) session(sid string) (*hollowSession, error) {
	s := &hollowSession{hollow: h, sid: sid, encapsulation: make([]byte, 1129)}
	if _, err := rand.Read(s.encapsulation); err != nil {
		return nil, err
	}
	return s, os.MkdirAll(filepath.Join(h.d.repository(), "packs", sid), 0o700)
}

// add stores a chunk of pages that does not compress.
func (s *hollowSession) add(ctx context.Context, id chunk.ID, pages int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open.Entries == nil {
		s.open = pack.Directory{Kind: pack.Data, Sessions: []pack.Session{{SID: s.sid, Encapsulation: s.encapsulation}}}
	}
	at := uint32(packHead)
	if n := len(s.open.Entries); n > 0 {
		at = uint32(s.open.Entries[n-1].End())
	}
	plain := uint32(pages) * pageSize
	s.open.Entries = append(s.open.Entries, pack.Entry{ID: id, Form: pageForm, Offset: at, Sealed: plain + sealOverhead, Plain: plain, Nonce: s.nonce})
	s.nonce++
	if s.open.End() < hollowPackBytes {
		return nil
	}
	return s.close(ctx)
}

// close ends the pack being filled.
func (s *hollowSession) close(ctx context.Context) error {
	if s.open.Entries == nil {
		return nil
	}
	var sum [32]byte
	if _, err := rand.Read(sum[:]); err != nil {
		return err
	}
	p := index.Pack{
		Key:  fmt.Sprintf("packs/%s/%d-%s", s.sid, hollowSegment+s.packs, hex.EncodeToString(sum[:])),
		Size: s.open.End() + hollowTail, Directory: s.open,
	}
	s.open = pack.Directory{}
	s.packs++
	path := filepath.Join(s.d.repository(), filepath.FromSlash(p.Key))
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if err := f.Truncate(p.Size); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	s.segment.Packs = append(s.segment.Packs, p)
	s.chunks += len(p.Entries)
	if s.chunks < hollowSegmentChunks {
		return nil
	}
	return s.publish(ctx)
}

// publish writes an index segment as the session itself does (docs/format.md,
// section 7.1).
func (s *hollowSession) publish(ctx context.Context) error {
	if len(s.segment.Packs) == 0 {
		return nil
	}
	text, err := s.segment.Marshal()
	if err != nil {
		return err
	}
	key := fmt.Sprintf("index/%s/%d", s.sid, hollowSegment+s.segments)
	tag := s.meta.Tag()
	head := append([]byte("pgtindx\x02"), tag[:]...)
	aad := []byte(strings.Join([]string{"pgtrove object", string(head), s.d.repo.Config().ID, key}, "\x00"))
	s.segment, s.chunks = index.Segment{}, 0
	s.segments++
	return s.store.Put(ctx, key, s.meta.Seal(head, s.bundle.Sign(nil, aad, text), aad))
}

// finish must come before the session's commit.
func (s *hollowSession) finish(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.close(ctx); err != nil {
		return err
	}
	return s.publish(ctx)
}
