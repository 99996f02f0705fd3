package keys

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/pgtrove/pgtrove/keys"
	"github.com/pgtrove/pgtrove/pack"
	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/storage"
	storagefs "github.com/pgtrove/pgtrove/storage/fs"
)

// thief has a key, a copy of the repository and whatever directories he found on the host, and looks for something in all of it.
type thief struct {
	t       *testing.T
	repo    *repo.Repo
	store   storage.Store
	markers []string

	found             map[string]string // by marker: one of the places where it was
	objects           int
	opened, refused   int // chunks of data
	archived, closed  int // WAL files that opened, and that did not
	decompressor      *pack.Decompressor
	compressedObjects int
	mayBeForeign      bool // some objects are another group's
	foreign           int  // those that do not open for that
}

// newThief opens a repository with an identity file.
func newThief(t *testing.T, dir, identity string, markers ...string) *thief {
	t.Helper()
	text, err := os.ReadFile(identity)
	if err != nil {
		t.Fatal(err)
	}
	f, err := keys.ParseIdentityFile(text)
	if err != nil {
		t.Fatal(err)
	}
	th := &thief{t: t, markers: markers, found: map[string]string{}}
	if th.store, err = storagefs.Open(dir); err != nil {
		t.Fatal(err)
	}
	if th.repo, err = repo.OpenWith(t.Context(), th.store, repo.OpenOptions{Identities: f.Identities}); err != nil {
		t.Fatal(err)
	}
	if th.decompressor, err = pack.NewDecompressor(1); err != nil {
		t.Fatal(err)
	}
	return th
}

// look looks for the markers in some bytes, and in whatever zstd frame begins in them.
func (th *thief) look(where string, b []byte) {
	th.t.Helper()
	th.match(where, b)
	magic := []byte{0x28, 0xb5, 0x2f, 0xfd}
	for from := 0; ; {
		at := bytes.Index(b[from:], magic)
		if at < 0 {
			return
		}
		from += at
		r, err := zstd.NewReader(bytes.NewReader(b[from:]), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(1<<28))
		if err != nil {
			th.t.Fatal(err)
		}
		plain, _ := io.ReadAll(io.LimitReader(r, 1<<26)) // what comes before an error counts
		r.Close()
		if len(plain) > 0 {
			th.compressedObjects++
			th.match(where+", decompressed", plain)
		}
		from += len(magic)
	}
}

func (th *thief) match(where string, b []byte) {
	for _, m := range th.markers {
		if bytes.Contains(b, []byte(m)) {
			th.found[m] = where
		}
	}
}

// everything reads each object as it is, and by every call of the package repo that opens one.
func (th *thief) everything() {
	th.t.Helper()
	ctx := th.t.Context()
	var names []string
	if err := th.store.List(ctx, "", func(i storage.Info) error {
		names = append(names, i.Key)
		return nil
	}); err != nil {
		th.t.Fatal(err)
	}
	for _, key := range names {
		th.objects++
		raw, err := th.store.Get(ctx, key, storage.Range{}, nil)
		if err != nil {
			th.t.Fatal(err)
		}
		th.look(key, raw)
		if plain, err := th.repo.Payload(ctx, key); err == nil {
			th.look(key+", opened", plain)
		}
		switch {
		case strings.HasPrefix(key, "packs/"):
			th.pack(key, raw)
		case strings.HasPrefix(key, "wal/"):
			th.archive(key)
			th.pack(key, raw)
		}
	}
}

// pack opens the chunks in one.
func (th *thief) pack(key string, raw []byte) {
	th.t.Helper()
	d, err := th.repo.PackDirectory(th.t.Context(), key)
	if err != nil {
		if strings.HasPrefix(key, "packs/") {
			th.fails(key, err)
		}
		return
	}
	th.look(key+", its header", d.Header)
	for i := range d.Entries {
		loc := d.Location(key, i)
		sealed := raw[loc.Offset : loc.Offset+loc.Sealed]
		plain, err := th.repo.OpenChunk(nil, loc, sealed)
		switch {
		case err == nil:
			th.look(key+", a chunk", plain)
			if loc.Kind == pack.Data {
				th.opened++
			}
			continue
		case loc.Kind == pack.Data && isClosed(err):
			th.refused++
		case loc.Kind == pack.Meta:
			th.t.Errorf("%s: %v", key, err)
		}
		for _, kind := range []pack.Kind{pack.Data, pack.Meta, pack.Archive} { // as something else than it is
			other := loc
			other.Kind = kind
			if plain, err := th.repo.OpenChunk(nil, other, sealed); err == nil {
				th.look(key+", a chunk, as "+kind.String(), plain)
			}
		}
		if plain, err := th.decompressor.Decompress(nil, sealed, loc.Encoding, int(loc.Plain)); err == nil && loc.Encoding != pack.Raw {
			th.look(key+", a chunk that nobody sealed", plain)
		}
	}
}

// fails notes that an object does not open at all, as only another group's may.
func (th *thief) fails(key string, err error) {
	th.t.Helper()
	if th.mayBeForeign {
		th.foreign++
		return
	}
	th.t.Errorf("%s: %v", key, err)
}

// isClosed says of an error that the key opens no such thing, or not this one.
func isClosed(err error) bool { return errors.Is(err, keys.ErrRole) || errors.Is(err, keys.ErrLocked) }

// archive opens an archived WAL file.
func (th *thief) archive(key string) {
	th.t.Helper()
	header, _, err := th.repo.ArchiveHeader(th.t.Context(), key)
	if err != nil {
		th.fails(key, err)
		return
	}
	th.look(key+", its header", header)
	_, content, err := th.repo.GetArchive(th.t.Context(), key)
	th.look(key+", its content", content)
	switch {
	case err == nil && len(content) > 0:
		th.archived++
	case isClosed(err):
		th.closed++
	case err != nil:
		th.t.Errorf("%s: %v", key, err)
	}
}

// files reads the files below some directories.
func (th *thief) files(dirs ...string) (n int) {
	th.t.Helper()
	for _, dir := range dirs {
		if err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			n++
			b, err := os.ReadFile(path)
			th.look(path, b)
			return err
		}); err != nil {
			th.t.Fatal(err)
		}
	}
	return n
}
