package fleet

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/storage"
	"github.com/pgtrove/pgtrove/storage/mem"
	"github.com/pgtrove/pgtrove/test/s3test"
)

// What there is to back up: three pieces fill a pack.
const (
	pieceCount = 40
	pieceSize  = 20 << 10
	packTarget = 1 << 16
)

// protocolWorld is a repository in a bucket, the hosts that use it, and what people were told.
type protocolWorld struct {
	t       *testing.T
	direct  storage.Store // without faults
	writers storage.Store // may create and read
	readers storage.Store // may read
	key     age.Identity
	pieces  map[chunk.ID][]byte
	ids     []chunk.ID // of the pieces
	late    sync.WaitGroup
	tally   protocolTally
	awaited atomic.Int32 // writers that are held up, and that no prune may take for dead

	mu        sync.Mutex
	told      map[string]bool // snapshots whose writer was told that they are committed
	forgotten map[string]bool // for which there may be a request to forget them
	archived  map[string][]byte
}

func newProtocolWorld(t *testing.T, r *rand.Rand) *protocolWorld {
	t.Helper()
	server := s3test.New(t, s3test.Options{})
	bucket, writer, reader := server.Bucket(), server.Account(), server.Account()
	server.Policy(bucket, fmt.Sprintf(`{"Version":"2012-10-17","Statement":[
		{"Effect":"Allow","Principal":{"AWS":[%[1]q,%[2]q]},"Action":"s3:GetObject","Resource":"arn:aws:s3:::%[3]s/*"},
		{"Effect":"Allow","Principal":{"AWS":[%[1]q,%[2]q]},"Action":"s3:ListBucket","Resource":"arn:aws:s3:::%[3]s"},
		{"Effect":"Allow","Principal":{"AWS":[%[1]q]},"Action":"s3:PutObject","Resource":"arn:aws:s3:::%[3]s/*"}]}`, writer.AccessKey, reader.AccessKey, bucket))
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	w := &protocolWorld{
		t: t, key: id, pieces: map[chunk.ID][]byte{}, told: map[string]bool{}, forgotten: map[string]bool{}, archived: map[string][]byte{},
		direct: server.Store(bucket, "fleet", server.Root), writers: server.Store(bucket, "fleet", writer), readers: server.Store(bucket, "fleet", reader),
	}
	hasher := chunk.NewHasher(w.makeRepository(id))
	source := rand.NewChaCha8(sha256.Sum256(fmt.Append(nil, r.Uint64())))
	for range pieceCount {
		b := make([]byte, pieceSize)
		_, _ = source.Read(b)
		piece := hasher.StreamID(b)
		w.pieces[piece], w.ids = b, append(w.ids, piece)
	}
	return w
}

// makeRepository has packs that are small enough for a small backup to take several.
func (w *protocolWorld) makeRepository(id *age.X25519Identity) chunk.Key {
	w.t.Helper()
	ctx, store := w.t.Context(), mem.New(nil)
	r, err := repo.Init(ctx, store, id.Recipient(), time.Now())
	if err != nil {
		w.t.Fatal(err)
	}
	config := r.Config()
	config.Params.PackSize = packTarget
	text, err := json.Marshal(config)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := store.List(ctx, "", func(i storage.Info) error {
		b, err := store.Get(ctx, i.Key, storage.Range{}, nil)
		if i.Key == storage.ConfigKey {
			b = fmt.Appendf(text, "\nsha256:%x\n", sha256.Sum256(text))
		}
		if err != nil {
			return err
		}
		return w.direct.Put(ctx, i.Key, b)
	}); err != nil {
		w.t.Fatal(err)
	}
	return r.IDKey()
}

// open opens the repository without faults.
func (w *protocolWorld) open() *repo.Repo {
	w.t.Helper()
	r, err := repo.Open(w.t.Context(), w.direct, w.key)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// note runs do, which reads or changes what people were told.
func (w *protocolWorld) note(do func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	do()
}

// mustRead says whether nothing may take the snapshot away.
func (w *protocolWorld) mustRead(sid string) (must bool) {
	w.note(func() { must = w.told[sid] && !w.forgotten[sid] })
	return must
}

// manifestOf makes a manifest of a listing's name, and listingOf reads it. A listing is the names of the pieces in a row.
func manifestOf(listing chunk.ID) ([]byte, error) { return json.Marshal(listing[:]) }

func listingOf(manifest []byte) (id chunk.ID, err error) {
	var b []byte
	if err := json.Unmarshal(manifest, &b); err != nil || len(b) != len(id) {
		return id, fmt.Errorf("manifest %q: %w", manifest, err)
	}
	return chunk.ID(b), nil
}

func parseListing(b []byte) (ids []chunk.ID) {
	for ; len(b) >= chunk.IDSize; b = b[chunk.IDSize:] {
		ids = append(ids, chunk.ID(b[:chunk.IDSize]))
	}
	return ids
}

// protocolMark is the Marker of these snapshots.
func protocolMark(ctx context.Context, v *repo.View, snapshots []repo.Commit, live func(chunk.ID)) error {
	var losses []error
	for _, s := range snapshots {
		listing, err := listingOf(s.Manifest)
		if err != nil {
			return err
		}
		live(listing)
		text, err := v.MetaChunk(ctx, listing)
		if errors.Is(err, repo.ErrMissing) || errors.Is(err, repo.ErrDamaged) {
			losses = append(losses, err)
		} else if err != nil {
			return err
		}
		for _, id := range parseListing(text) {
			live(id)
		}
	}
	if losses != nil {
		return &repo.LossError{Losses: losses}
	}
	return nil
}

// reloads is how often a restore loads the index anew after a missing pack: oftener than there can be prunes meanwhile.
const reloads = 50

// read restores a snapshot bit by bit.
func (w *protocolWorld) read(ctx context.Context, v *repo.View, s repo.Commit) error {
	for tries := 0; ; tries++ {
		err := w.readOnce(ctx, v, s)
		if tries == reloads || !errors.Is(err, repo.ErrMissing) {
			return err
		}
		if err := v.Reload(ctx); err != nil {
			return err
		}
	}
}

func (w *protocolWorld) readOnce(ctx context.Context, v *repo.View, s repo.Commit) error {
	listing, err := listingOf(s.Manifest)
	if err != nil {
		return errors.Join(s.Err, err)
	}
	text, err := v.MetaChunk(ctx, listing)
	if err != nil {
		return err
	}
	ids := parseListing(text)
	if len(ids) == 0 {
		return fmt.Errorf("the listing of %s has nothing in it", s.ID)
	}
	for _, id := range ids {
		loc, err := v.Locate(id)
		if err != nil {
			return err
		}
		sealed, err := v.ReadPack(ctx, loc.Pack, int64(loc.Offset), int64(loc.Sealed), nil)
		if err != nil {
			return err
		}
		b, err := v.OpenChunk(nil, loc, sealed)
		if err != nil {
			return err
		}
		if !bytes.Equal(b, w.pieces[id]) {
			return fmt.Errorf("chunk %s is not what was backed up", id.Short())
		}
	}
	return nil
}

// promises makes sure, when everybody has gone, that nothing is lost that somebody was told: every snapshot that must be there is listed, every one
// that is listed is complete, and so is every WAL file.
func (w *protocolWorld) promises(when string) {
	w.t.Helper()
	ctx, r := w.t.Context(), w.open()
	v, err := r.OpenView(ctx, "", "a")
	if err != nil {
		w.t.Fatalf("%s: %v", when, err)
	}
	defer v.Close()
	there := map[string]bool{}
	if err := r.AllCommits(ctx, "", func(s repo.Commit) error {
		there[s.ID] = true
		if err := w.read(ctx, v, s); err != nil {
			w.t.Errorf("%s: snapshot %s cannot be restored: %v", when, s.ID, err)
		}
		return nil
	}); err != nil {
		w.t.Errorf("%s: list snapshots: %v", when, err)
	}
	for _, sid := range slices.Sorted(maps.Keys(w.told)) {
		if w.mustRead(sid) && !there[sid] {
			w.t.Errorf("%s: snapshot %s was acknowledged, nobody forgot it, and it is gone", when, sid)
		}
	}
	for key, want := range w.archived {
		if _, got, err := r.GetArchive(ctx, key); err != nil || !bytes.Equal(got, want) {
			w.t.Errorf("%s: %s was acknowledged, and is not what was stored: %v", when, key, err)
		}
	}
}

// week is longer than anybody is waited for.
const week = 8 * 24 * time.Hour

// quiesce runs prunes alone until they can find nothing more to do.
func (w *protocolWorld) quiesce() {
	w.t.Helper()
	for range 4 {
		o := repo.PruneOptions{Host: "last", Now: func() time.Time { return time.Now().Add(week) }, MaxRepack: 1 << 30, MaxDelete: 1, Mark: protocolMark}
		report, err := w.open().Prune(w.t.Context(), o)
		if err != nil || len(report.Damage) > 0 {
			w.t.Fatalf("a prune alone: %v, %+v", err, report)
		}
	}
}

// keys gives the names of all objects.
func (w *protocolWorld) keys() (keys []string) {
	w.t.Helper()
	if err := w.direct.List(w.t.Context(), "", func(i storage.Info) error {
		keys = append(keys, i.Key)
		return nil
	}); err != nil {
		w.t.Fatal(err)
	}
	return keys
}

// clean makes sure that nothing is left but what lives.
func (w *protocolWorld) clean() {
	w.t.Helper()
	counts := map[string]bool{}
	if err := w.open().AllCommits(w.t.Context(), "", func(s repo.Commit) error {
		counts[s.ID] = true
		return nil
	}); err != nil {
		w.t.Fatal(err)
	}
	runs := 0
	for _, key := range w.keys() {
		top, _, _ := strings.Cut(key, "/")
		lives := counts[key[strings.LastIndexByte(key, '/')+1:]] // what is named by a snapshot; one that is forgotten may be pinned
		switch {
		case top == "gc":
			runs++
		case top == "sessions", top == "index", (top == "snapshots" || top == "forget" || top == "pins") && !lives,
			(top == "packs" || top == "base") && len(counts) == 0:
			w.t.Errorf("left over: %s", key)
		}
	}
	if runs != 1 {
		w.t.Errorf("left over: %d prune runs", runs)
	}
}
