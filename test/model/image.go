package model

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"filippo.io/age"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/keys"
	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/storage"
	"github.com/pgtrove/pgtrove/storage/mem"
)

// packSize is the least that a repository may have, in bytes: a writer reserves as much memory.
const packSize = 1 << 16

// image is a new repository, with which every schedule begins, and all that there may be to back up.
type image struct {
	objects  map[string][]byte
	identity age.Identity
	config   repo.Config
	bundle   *keys.Bundle
	meta     *keys.Meta
	hasher   *chunk.Hasher
	pieces   [][]byte
	ids      []chunk.ID         // of the pieces
	listings map[chunk.ID][]int // the pieces in every listing that there can be
}

func newImage(ctx context.Context, pieces int) (*image, error) {
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		return nil, err
	}
	store := mem.New(nil)
	r, err := repo.Init(ctx, store, identity.Recipient(), time.Now())
	if err != nil {
		return nil, err
	}
	m := &image{objects: map[string][]byte{}, identity: identity, config: r.Config(), hasher: chunk.NewHasher(r.IDKey())}
	if err := store.List(ctx, "", func(i storage.Info) error {
		m.objects[i.Key], err = store.Get(ctx, i.Key, storage.Range{}, nil)
		return err
	}); err != nil {
		return nil, err
	}
	for key, b := range m.objects {
		if key == storage.ConfigKey || strings.Contains(key, ".") { // who has the key
			continue
		}
		if m.bundle, err = keys.Unwrap(b, identity); err != nil {
			return nil, err
		}
		if m.meta, err = m.bundle.Meta(); err != nil {
			return nil, err
		}
	}
	for i := range pieces {
		b := bytes.Repeat(fmt.Appendf(nil, "piece %d of the model ", i), 4)
		m.pieces = append(m.pieces, b)
		m.ids = append(m.ids, m.hasher.StreamID(b))
	}
	m.listings = map[chunk.ID][]int{}
	for set := 1; set < 1<<pieces; set++ {
		var in []int
		for i := range pieces {
			if set>>i&1 == 1 {
				in = append(in, i)
			}
		}
		id, _ := m.listing(in)
		m.listings[id] = in
	}
	return m, m.shrinkPacks()
}

// shrinkPacks rewrites the config.
func (m *image) shrinkPacks() error {
	m.config.Params.PackSize = packSize
	text, err := json.Marshal(m.config)
	if err != nil {
		return err
	}
	m.objects[storage.ConfigKey] = fmt.Appendf(text, "\nsha256:%x\n", sha256.Sum256(text))
	return nil
}

// copy puts the repository into an empty store.
func (m *image) copy(ctx context.Context, s storage.Store) error {
	for key, b := range m.objects {
		if err := s.Put(ctx, key, b); err != nil {
			return err
		}
	}
	return nil
}

func (m *image) open(ctx context.Context, s storage.Store) (*repo.Repo, error) {
	return repo.Open(ctx, s, m.identity)
}

// listing gives the list of pieces as a backup stores it: their IDs in a row, and the name of that as a chunk of metadata.
func (m *image) listing(pieces []int) (chunk.ID, []byte) {
	var b []byte
	for _, i := range pieces {
		b = append(b, m.ids[i][:]...)
	}
	return m.hasher.MetaID(b), b
}

// piece gives the number of the piece with that ID, -1 if there is none.
func (m *image) piece(id chunk.ID) int { return slices.Index(m.ids, id) }

// needs gives every chunk of a snapshot: its listing, and what stands in it.
func (m *image) needs(listing chunk.ID) ([]chunk.ID, error) {
	in, ok := m.listings[listing]
	if !ok {
		return nil, fmt.Errorf("listing %s was never written", listing.Short())
	}
	all := []chunk.ID{listing}
	for _, i := range in {
		all = append(all, m.ids[i])
	}
	return all, nil
}

// letters writes chunks as people like to read them: the pieces as letters, a listing as L and what stands in it.
func (m *image) letters(ids []chunk.ID) string {
	spell := func(pieces ...int) (s string) {
		for _, i := range pieces {
			s += string(rune('a' + i))
		}
		return s
	}
	var out []string
	for _, id := range ids {
		if in, ok := m.listings[id]; ok {
			out = append(out, "L"+spell(in...))
		} else {
			out = append(out, spell(m.piece(id)))
		}
	}
	return strings.Join(out, " ")
}

// parseListing takes a listing apart.
func parseListing(b []byte) ([]chunk.ID, error) {
	if len(b) == 0 || len(b)%chunk.IDSize != 0 {
		return nil, fmt.Errorf("a listing of %d bytes", len(b))
	}
	var ids []chunk.ID
	for ; len(b) > 0; b = b[chunk.IDSize:] {
		ids = append(ids, chunk.ID(b[:chunk.IDSize]))
	}
	return ids, nil
}
