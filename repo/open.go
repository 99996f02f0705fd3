package repo

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/keys"
	"github.com/pgtrove/pgtrove/pack"
	"github.com/pgtrove/pgtrove/storage"
)

// openers keeps what opening chunks needs and is dear to make: the decapsulated key of each session, and hashers and
// decompressors for whoever comes.
type openers struct {
	groups   groupSet
	only     bool // views are of the bundle's own group
	mu       sync.Mutex
	sessions map[openerKey]*keys.Opener
	named    map[string]int // by a session's ID: the group whose K_id names its chunks
	tools    sync.Pool      // of *tool
}

type openerKey struct {
	kind          pack.Kind
	sid           string
	encapsulation string
}

type tool struct {
	opener  *packOpener
	hashers []*chunk.Hasher // one for each group
	decomp  *pack.Decompressor
	packed  []byte
}

// chunkAAD is what a metadata chunk is sealed with: its repository and its name.
func (r *Repo) chunkAAD(id chunk.ID) []byte {
	return fmt.Appendf(nil, "pgtrove meta chunk\x00%s\x00%s", r.config.ID, id[:])
}

// OpenChunk decrypts, decompresses and verifies the sealed bytes of the chunk at loc and appends them to dst. It may be
// called from several goroutines. ErrDamaged: they are not what was stored. keys.ErrRole: this role opens no data.
func (r *Repo) OpenChunk(dst []byte, loc pack.Location, sealed []byte) ([]byte, error) {
	t, err := r.tool()
	if err != nil {
		return nil, err
	}
	defer r.open.tools.Put(t)
	if len(sealed) != int(loc.Sealed) {
		return nil, fmt.Errorf("%w: %s ends inside chunk %s", ErrDamaged, loc.Pack, loc.ID.Short())
	}
	t.packed, err = r.decrypt(t.packed[:0], loc, sealed, t.opener)
	if err != nil {
		return nil, err
	}
	have := len(dst)
	dst, err = t.decomp.Decompress(dst, t.packed, loc.Encoding, int(loc.Plain))
	if err != nil {
		return nil, fmt.Errorf("%w: chunk %s in %s: %w", ErrDamaged, loc.ID.Short(), loc.Pack, err)
	}
	if !r.isNamed(t, loc, dst[have:]) {
		return nil, fmt.Errorf("%w: chunk %s in %s has other content than its name says", ErrDamaged, loc.ID.Short(), loc.Pack)
	}
	return dst, nil
}

// isNamed says whether plain is the chunk at loc. Metadata bear the names of the group whose key sealed them. Contents are sealed to the data key, which is
// no group's, so of these every group's name will do: to find bytes that bear another's nobody can. A session writes for one group, which is found out once.
func (r *Repo) isNamed(t *tool, loc pack.Location, plain []byte) bool {
	if loc.Kind == pack.Meta {
		return t.hashers[t.opener.at].MetaID(plain) == loc.ID
	}
	first := 0
	if len(t.hashers) > 1 {
		r.open.mu.Lock()
		first = r.open.named[loc.SID]
		r.open.mu.Unlock()
	}
	for n := range t.hashers {
		i := (first + n) % len(t.hashers)
		if !t.hashers[i].Verify(loc.ID, loc.Form, plain) {
			continue
		}
		if i != first && loc.Kind == pack.Data {
			r.open.mu.Lock()
			if r.open.named == nil {
				r.open.named = map[string]int{}
			}
			r.open.named[loc.SID] = i
			r.open.mu.Unlock()
		}
		return true
	}
	return false
}

// decrypt opens metadata with o, which then knows whose they are.
func (r *Repo) decrypt(dst []byte, loc pack.Location, sealed []byte, o *packOpener) ([]byte, error) {
	var err error
	if loc.Kind == pack.Meta {
		dst, err = o.Open(dst, sealed, r.chunkAAD(loc.ID))
	} else {
		var s *keys.Opener
		if s, err = r.opener(loc); err != nil {
			return nil, err
		}
		dst, err = s.Open(dst, sealed, loc.ID, loc.Nonce)
	}
	if errors.Is(err, keys.ErrDamaged) {
		return nil, fmt.Errorf("%w: chunk %s in %s does not open", ErrDamaged, loc.ID.Short(), loc.Pack)
	}
	return dst, err
}

func (r *Repo) tool() (*tool, error) {
	if t, ok := r.open.tools.Get().(*tool); ok {
		return t, nil
	}
	d, err := pack.NewDecompressor(1)
	if err != nil {
		return nil, err
	}
	o, err := r.packOpener()
	if err != nil {
		return nil, err
	}
	t := &tool{opener: o, decomp: d}
	for _, g := range o.groups {
		t.hashers = append(t.hashers, chunk.NewHasher(g.id))
	}
	return t, nil
}

// opener returns the key of the session that sealed loc, decapsulating it once.
func (r *Repo) opener(loc pack.Location) (*keys.Opener, error) {
	r.open.mu.Lock()
	defer r.open.mu.Unlock()
	k := openerKey{kind: loc.Kind, sid: loc.SID, encapsulation: string(loc.Encapsulation)}
	if o, ok := r.open.sessions[k]; ok {
		return o, nil
	}
	open := r.bundle.DataOpener
	if loc.Kind == pack.Archive {
		open = r.bundle.WALOpener
	}
	o, err := open(r.config.ID, loc.SID, loc.Encapsulation)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", loc.Pack, err)
	}
	if r.open.sessions == nil {
		r.open.sessions = map[openerKey]*keys.Opener{}
	}
	if loc.Kind != pack.Archive || len(r.open.sessions) < 64 {
		r.open.sessions[k] = o // an archive file has a key of its own, which is used a few times and never again
	}
	return o, nil
}

// unknownSize stands for the size of an object of which only the end was read. The sections' lengths are then not
// compared with it; what lies in them is authenticated all the same.
const unknownSize = pack.MaxObject

// readEnd reads the directory of a pack from the object's end, and gives what it has read, and what opened it.
func (r *Repo) readEnd(ctx context.Context, key string, aad []byte) (*pack.Directory, []byte, *packOpener, error) {
	tail, _, err := r.readTail(ctx, key, unknownSize, pack.TailSize, false)
	if err != nil {
		return nil, nil, nil, err
	}
	dir, o, err := r.openDirectory(tail, unknownSize, aad)
	if err != nil {
		return nil, nil, nil, asDamage(key, err)
	}
	return dir, tail, o, nil
}

// readTail reads the end of a pack of size bytes: its trailer and directory, and with digests its page digests too; first so many
// bytes as guess says, and once more if that was too little. It is shorter than the trailer says if the object is.
func (r *Repo) readTail(ctx context.Context, key string, size, guess int64, digests bool) ([]byte, pack.Trailer, error) {
	for n := max(guess, int64(pack.TrailerSize)); ; {
		tail, err := r.store.Get(ctx, key, storage.Range{Off: -n}, nil)
		if err != nil {
			return nil, pack.Trailer{}, fmt.Errorf("read %s: %w", key, err)
		}
		t, err := pack.ParseTrailer(tail, size)
		if err != nil {
			return nil, t, asDamage(key, err)
		}
		want := t.TailLen()
		if digests {
			want += int64(t.Digests)
		}
		if int64(len(tail)) >= want || int64(len(tail)) < n {
			return tail, t, nil
		}
		n = want
	}
}

// PackDirectory reads the directory of the pack under key: what it holds, by its own account.
func (r *Repo) PackDirectory(ctx context.Context, key string) (*pack.Directory, error) {
	dir, _, err := r.PackEnd(ctx, key)
	return dir, err
}

// PackEnd is PackDirectory, and gives the bytes that it has read, of which the last is the pack's.
func (r *Repo) PackEnd(ctx context.Context, key string) (*pack.Directory, []byte, error) {
	aad, err := r.packKeyAAD(key)
	if err != nil {
		return nil, nil, err
	}
	dir, tail, _, err := r.readEnd(ctx, key, aad)
	return dir, tail, err
}
