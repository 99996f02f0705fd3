package repo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/keys"
	"github.com/pgtrove/pgtrove/storage"
	"github.com/pgtrove/pgtrove/storage/fault"
	"github.com/pgtrove/pgtrove/storage/mem"
)

// fixture is a new repository in memory, and the identity that opens it.
type fixture struct {
	store *mem.Store
	id    age.Identity
}

func newFixture(t testing.TB) fixture {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	f := fixture{mem.New(nil), id}
	if _, err := Init(context.Background(), f.store, id.Recipient(), time.Now()); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f fixture) open(t testing.TB, s storage.Store) *Repo {
	t.Helper()
	r, err := Open(context.Background(), s, f.id)
	if err != nil {
		t.Fatal(err)
	}
	r.config.Params.PackSize = 1 << 20 // several packs in a small test
	return r
}

func options() SessionOptions {
	return SessionOptions{Cluster: "main", Host: "test", Now: time.Now}
}

// pieces makes n chunks of 64 KiB that do not compress.
func pieces(seed byte, n int) [][]byte {
	r := rand.NewChaCha8([32]byte{seed})
	out := make([][]byte, n)
	for i := range out {
		out[i] = make([]byte, 64<<10)
		_, _ = r.Read(out[i])
	}
	return out
}

// write stores pieces in a session of its own and commits them as the manifest, which is the list of their IDs.
func write(ctx context.Context, r *Repo, data [][]byte) (sid string, ids []chunk.ID, err error) {
	err = r.Write(ctx, options(), func(ctx context.Context, s *Session) error {
		sid = s.ID()
		w, err := s.NewWriter()
		if err != nil {
			return err
		}
		for _, b := range data {
			id, err := w.Bytes(ctx, b)
			if err != nil {
				return err
			}
			ids = append(ids, id)
		}
		if _, err := w.Meta(ctx, []byte("metadata")); err != nil {
			return err
		}
		manifest, err := json.Marshal(ids)
		if err != nil {
			return err
		}
		return s.Commit(ctx, manifest)
	})
	return sid, ids, err
}

// check reads every chunk through a fresh view.
func check(t *testing.T, r *Repo, ids []chunk.ID, want [][]byte) {
	t.Helper()
	v, err := r.OpenView(t.Context(), "", "main")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = v.Close() }()
	for i, id := range ids {
		got, err := readChunk(t.Context(), v, id)
		if err != nil || !bytes.Equal(got, want[i]) {
			t.Fatalf("chunk %d: %v", i, err)
		}
	}
}

func readChunk(ctx context.Context, v *View, id chunk.ID) ([]byte, error) {
	loc, err := v.Locate(id)
	if err != nil {
		return nil, err
	}
	sealed, err := v.ReadPack(ctx, loc.Pack, int64(loc.Offset), int64(loc.Sealed), nil)
	if err != nil {
		return nil, err
	}
	return v.OpenChunk(nil, loc, sealed)
}

func commits(t *testing.T, r *Repo) []string {
	t.Helper()
	var out []string
	if err := r.Commits(t.Context(), "", func(c Commit) error { out = append(out, c.ID); return c.Err }); err != nil {
		t.Fatal(err)
	}
	return out
}

func count(t *testing.T, s storage.Store, prefix string) (n int) {
	t.Helper()
	if err := s.List(t.Context(), prefix, func(storage.Info) error { n++; return nil }); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestWhatASessionCommitsReadsBack(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	data := pieces(1, 70)
	sid, ids, err := write(t.Context(), r, data)
	if err != nil {
		t.Fatal(err)
	}
	check(t, r, ids, data)
	if got := commits(t, r); !slices.Equal(got, []string{sid}) {
		t.Fatalf("committed: %v", got)
	}
	if n := count(t, f.store, packsPrefix); n < 4 {
		t.Errorf("%d packs: the test does not reach several", n)
	}
}

func TestASecondSessionStoresNothingThatIsThere(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	data := pieces(1, 40)
	if _, _, err := write(t.Context(), r, data); err != nil {
		t.Fatal(err)
	}
	before := count(t, f.store, packsPrefix)
	for _, cache := range []string{"", t.TempDir()} {
		for range 2 { // with an empty and with a filled cache
			o := options()
			o.CacheDir = cache
			err := r.Write(t.Context(), o, func(ctx context.Context, s *Session) error {
				w, err := s.NewWriter()
				if err != nil {
					return err
				}
				for _, b := range data {
					if _, err := w.Bytes(ctx, b); err != nil {
						return err
					}
				}
				return s.Commit(ctx, []byte("1"))
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	if after := count(t, f.store, packsPrefix); after != before {
		t.Errorf("%d packs became %d", before, after)
	}
}

func TestDataAndMetadataOfTheSameBytesAreDifferentChunks(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	b := []byte("the same bytes")
	err := r.Write(t.Context(), options(), func(ctx context.Context, s *Session) error {
		w, err := s.NewWriter()
		if err != nil {
			return err
		}
		data, err := w.Bytes(ctx, b)
		if err != nil {
			return err
		}
		meta, err := w.Meta(ctx, b)
		if err != nil {
			return err
		}
		if err := s.Flush(ctx); err != nil {
			return err
		}
		if _, err := s.view.MetaChunk(ctx, data); !errors.Is(err, ErrDamaged) {
			t.Errorf("a chunk of data is taken for metadata: %v", err)
		}
		got, err := s.view.MetaChunk(ctx, meta)
		if !bytes.Equal(got, b) {
			t.Errorf("got %q, %v", got, err)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestAFailedSessionLeavesNoSnapshotAndItsPacksAreUsedAgain(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	data := pieces(1, 40)
	errGiveUp := errors.New("give up")
	err := r.Write(t.Context(), options(), func(ctx context.Context, s *Session) error {
		w, err := s.NewWriter()
		if err != nil {
			return err
		}
		for _, b := range data {
			if _, err := w.Bytes(ctx, b); err != nil {
				return err
			}
		}
		return errGiveUp
	})
	if !errors.Is(err, errGiveUp) {
		t.Fatal(err)
	}
	if got := commits(t, r); len(got) != 0 {
		t.Fatalf("committed: %v", got)
	}
	before := count(t, f.store, packsPrefix)
	_, ids, err := write(t.Context(), r, data)
	if err != nil {
		t.Fatal(err)
	}
	check(t, r, ids, data)
	// What was in the open pack is sent again, and a pack of metadata is new.
	if added := count(t, f.store, packsPrefix) - before; added > 2 {
		t.Errorf("%d packs were sent again", added)
	}
}

// TestEveryStorageCallFailsOnce runs a session once for each of its storage calls, in which that call fails, and once
// in which it succeeds but the answer is lost. No run may commit something that does not read back, or tell success
// without a commit.
func TestEveryStorageCallFailsOnce(t *testing.T) {
	data := pieces(1, 40)
	errFault := fmt.Errorf("%w: injected", storage.ErrUnreachable)
	f := newFixture(t)
	counting := fault.New(f.store, nil)
	r := f.open(t, counting)
	start := counting.Calls()
	if _, _, err := write(t.Context(), r, data); err != nil {
		t.Fatal(err)
	}
	calls := counting.Calls() - start
	if calls < 10 {
		t.Fatalf("only %d calls", calls)
	}
	for n := 1; n <= calls; n++ {
		for _, lost := range []bool{false, true} {
			f := newFixture(t)
			var base int
			s := fault.New(f.store, func(op fault.Op) fault.Action {
				switch {
				case base == 0 || op.N != base+n:
					return fault.Action{}
				case lost:
					return fault.Action{After: errFault}
				}
				return fault.Action{Before: errFault}
			})
			r := f.open(t, s)
			base = s.Calls()
			sid, ids, err := write(t.Context(), r, data)
			clean := f.open(t, f.store)
			committed := commits(t, clean)
			switch {
			case err == nil && !slices.Equal(committed, []string{sid}):
				t.Errorf("call %d, lost %v: success without a commit", n, lost)
			case len(committed) > 0:
				check(t, clean, ids, data)
			case !errors.Is(err, storage.ErrUnreachable):
				t.Errorf("call %d, lost %v: the cause is hidden: %v", n, lost, err)
			}
			if _, ids, err = write(t.Context(), clean, data); err != nil {
				t.Fatalf("call %d, lost %v: the next session fails: %v", n, lost, err)
			}
			check(t, clean, ids, data)
		}
	}
}

func TestTwoSessionsAtOnceBothCommit(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	cache := t.TempDir()
	data := pieces(1, 30)
	done := make(chan error, 2)
	for range 2 {
		go func() {
			o := options()
			o.CacheDir = cache // one of them gets it, the other works beside it
			done <- r.Write(t.Context(), o, func(ctx context.Context, s *Session) error {
				w, err := s.NewWriter()
				if err != nil {
					return err
				}
				for _, b := range data {
					if _, err := w.Bytes(ctx, b); err != nil {
						return err
					}
				}
				return s.Commit(ctx, []byte("1"))
			})
		}()
	}
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if got := commits(t, r); len(got) != 2 {
		t.Errorf("committed: %v", got)
	}
}

func TestASessionThatSomeoneElseEndedDoesNotCommit(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	err := r.Write(t.Context(), options(), func(ctx context.Context, s *Session) error {
		key := s.outcomeKey()
		fence := []byte(`{"version":1,"outcome":"FENCED","nonce":"other"}`)
		if err := f.store.Put(ctx, key, r.seal(kindOutcome, key, fence)); err != nil {
			return err
		}
		return s.Commit(ctx, []byte("1"))
	})
	if !errors.Is(err, ErrFenced) {
		t.Fatal(err)
	}
	if got := commits(t, r); len(got) != 0 {
		t.Errorf("committed: %v", got)
	}
}

// TestSegmentsOfFencedSessionsAreNotBelieved: by writers. What readers need of them may have been committed by others.
func TestSegmentsOfFencedSessionsAreNotBelieved(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	var ids []chunk.ID
	cache := t.TempDir()
	o := options()
	o.CacheDir = cache
	_ = r.Write(t.Context(), o, func(ctx context.Context, s *Session) error {
		w, err := s.NewWriter()
		if err != nil {
			return err
		}
		id, err := w.Bytes(ctx, []byte("content"))
		if err != nil {
			return err
		}
		ids = append(ids, id)
		if err := s.Flush(ctx); err != nil {
			return err
		}
		key := s.outcomeKey()
		return f.store.Put(ctx, key, r.seal(kindOutcome, key, []byte(`{"version":1,"outcome":"FENCED","nonce":"other"}`)))
	})
	for _, dir := range []string{"", cache} {
		for who, want := range map[reader]error{forWriting: ErrMissing, forReading: nil} {
			v, _, err := r.openView(t.Context(), dir, "main", who)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := v.Locate(ids[0]); !errors.Is(err, want) {
				t.Errorf("cache %q, reader %d: %v", dir, who, err)
			}
			if err := v.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestAWrongKeyOpensNothing(t *testing.T) {
	f := newFixture(t)
	other, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), f.store, other); !errors.Is(err, keys.ErrLocked) {
		t.Fatal(err)
	}
}

func TestInitRefusesWhatIsThere(t *testing.T) {
	f := newFixture(t)
	if err := Check(t.Context(), f.store); !errors.Is(err, ErrExists) {
		t.Errorf("an existing repository: %v", err)
	}
	s := mem.New(nil)
	if err := s.Put(t.Context(), "holiday/photo.jpg", []byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := Check(t.Context(), s); !errors.Is(err, ErrNotEmpty) {
		t.Errorf("something else: %v", err)
	}
	if _, err := Open(t.Context(), s); !errors.Is(err, ErrNoRepository) {
		t.Errorf("open something else: %v", err)
	}
}

// cloneStore copies every object.
func cloneStore(t testing.TB, from storage.Store) *mem.Store {
	t.Helper()
	to := mem.New(nil)
	err := from.List(t.Context(), "", func(i storage.Info) error {
		b, err := from.Get(t.Context(), i.Key, storage.Range{}, nil)
		if err != nil {
			return err
		}
		return to.Put(t.Context(), i.Key, b)
	})
	if err != nil {
		t.Fatal(err)
	}
	return to
}
