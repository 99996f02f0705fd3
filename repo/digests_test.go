package repo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/pack"
	"github.com/pgtrove/pgtrove/storage"
	"github.com/pgtrove/pgtrove/storage/fault"
)

const testForm = chunk.Form(13)

// run is a chunk of pages as the tests know it.
type run struct {
	id       chunk.ID
	plain    []byte
	digests  []chunk.Digest
	prefixes []chunk.Prefix
}

// makeRuns gives n runs of 8 pages each, with what the hasher says of them.
func makeRuns(r *Repo, seed byte, n int) (runs []run) {
	h := chunk.NewHasher(r.IDKey())
	for _, b := range pieces(seed, n) {
		one := run{plain: b, digests: h.PageDigests(nil, testForm, b)}
		for _, d := range one.digests {
			one.prefixes = append(one.prefixes, d.Prefix())
		}
		one.id = h.RunID(one.digests)
		runs = append(runs, one)
	}
	return runs
}

// writing is a session's work that does nothing but store runs.
func writing(runs []run) func(ctx context.Context, s *Session) error {
	return func(ctx context.Context, s *Session) error {
		w, err := s.NewWriter()
		if err != nil {
			return err
		}
		for _, r := range runs {
			if _, err := w.Pages(ctx, testForm, r.digests, r.plain); err != nil {
				return err
			}
		}
		return nil
	}
}

func runIDs(runs []run) []chunk.ID {
	var ids []chunk.ID
	for _, r := range runs {
		ids = append(ids, r.id)
	}
	return ids
}

// digestReader is a View or a Session.
type digestReader interface {
	PageDigests(ctx context.Context, ids []chunk.ID, each func(chunk.ID, []chunk.Prefix) error) error
}

// checkDigests reads the digests of all runs, each asked for twice, and compares them with what the hasher said.
func checkDigests(t testing.TB, d digestReader, runs []run) {
	t.Helper()
	got := map[chunk.ID][]chunk.Prefix{}
	ids := runIDs(runs)
	err := d.PageDigests(t.Context(), append(ids, ids...), func(id chunk.ID, digests []chunk.Prefix) error {
		if _, ok := got[id]; ok {
			t.Errorf("chunk %s comes twice", id.Short())
		}
		got[id] = digests
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != len(runs) {
		t.Errorf("%d chunks, want %d", len(got), len(runs))
	}
	for _, r := range runs {
		if !slices.Equal(got[r.id], r.prefixes) {
			t.Errorf("chunk %s: %v, want %v", r.id.Short(), got[r.id], r.prefixes)
		}
	}
}

func openView(t testing.TB, r *Repo, cache string) *View {
	t.Helper()
	v, err := r.OpenView(t.Context(), cache, "main")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = v.Close() })
	return v
}

func TestPageDigestsComeFromThePacksInOneReadEach(t *testing.T) {
	f := newFixture(t)
	reads := map[string]int{}
	counting := fault.New(f.store, func(op fault.Op) fault.Action {
		if op.Verb == fault.Get {
			reads[op.Key]++
		}
		return fault.Action{}
	})
	r := f.open(t, counting)
	runs := makeRuns(r, 1, 70)
	commit(t, r, at(0, t.TempDir()), func(ctx context.Context, s *Session) error {
		if err := errors.Join(writing(runs)(ctx, s), s.Flush(ctx)); err != nil {
			return err
		}
		checkDigests(t, s, runs)
		size, err := s.ChunkSize(runs[3].id)
		if size != 64<<10 {
			t.Errorf("a chunk of %d bytes", size)
		}
		if _, err := s.ChunkSize(name(1)); !errors.Is(err, ErrMissing) {
			t.Errorf("the size of no chunk: %v", err)
		}
		return err
	})
	clear(reads)
	v := openView(t, r, "") // of a host without a cache
	clear(reads)
	for range 2 {
		checkDigests(t, v, runs)
	}
	packs := 0
	for key, n := range reads {
		if packs++; n != 1 || !strings.HasPrefix(key, packsPrefix) {
			t.Errorf("%s is read %d times", key, n)
		}
	}
	if want := count(t, f.store, packsPrefix); packs != want || packs < 4 {
		t.Errorf("%d of %d packs are read", packs, want)
	}
}

func TestChunksWithoutPagesHaveNoDigests(t *testing.T) {
	f := newFixture(t)
	commit(t, f.open(t, f.store), at(0, ""), func(ctx context.Context, s *Session) error {
		w, err := s.NewWriter()
		if err != nil {
			return err
		}
		stream, err := w.Bytes(ctx, []byte("bytes"))
		if err != nil {
			return err
		}
		meta, err := w.Meta(ctx, []byte("metadata"))
		if err != nil {
			return err
		}
		if err := s.Flush(ctx); err != nil {
			return err
		}
		if b, err := s.MetaChunk(ctx, meta); string(b) != "metadata" || err != nil {
			t.Errorf("%q, %v", b, err)
		}
		n := 0
		err = s.PageDigests(ctx, []chunk.ID{stream, meta}, func(_ chunk.ID, digests []chunk.Prefix) error {
			if n++; len(digests) != 0 {
				t.Errorf("digests: %v", digests)
			}
			return nil
		})
		if n != 2 {
			t.Errorf("%d chunks", n)
		}
		err = errors.Join(err, s.PageDigests(ctx, nil, nil))
		stop := errors.New("stop")
		if got := s.PageDigests(ctx, []chunk.ID{stream}, func(chunk.ID, []chunk.Prefix) error { return stop }); !errors.Is(got, stop) {
			t.Errorf("the caller's error: %v", got)
		}
		if got := s.PageDigests(ctx, []chunk.ID{stream, name(1)}, func(chunk.ID, []chunk.Prefix) error { return nil }); !errors.Is(got, ErrMissing) || !strings.Contains(got.Error(), name(1).Short()) {
			t.Errorf("a chunk that is nowhere: %v", got)
		}
		return err
	})
}

// twice stores the same runs in the packs of two sessions, which it gives.
func twice(t *testing.T, r *Repo) (runs []run, sids []string) {
	t.Helper()
	runs = makeRuns(r, 1, 40)
	sids = make([]string, 2)
	sids[0] = commit(t, r, at(0, ""), func(ctx context.Context, s *Session) error {
		// The first one has its view already, in which nothing of this is.
		sids[1] = commit(t, r, at(1, ""), writing(runs))
		return writing(runs)(ctx, s)
	})
	return runs, sids
}

func packsOf(t testing.TB, s storage.Store, sid string) (keys []string) {
	t.Helper()
	if err := s.List(t.Context(), packsPrefix+sid+"/", func(i storage.Info) error { keys = append(keys, i.Key); return nil }); err != nil {
		t.Fatal(err)
	}
	return keys
}

func replace(t testing.TB, s storage.Store, key string, change func(b []byte) []byte) {
	t.Helper()
	b, err := s.Get(t.Context(), key, storage.Range{}, nil)
	if err == nil {
		err = s.Delete(t.Context(), key)
	}
	if b = change(b); err == nil && b != nil {
		err = s.Put(t.Context(), key, b)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// packDamages are what can become of a pack's end.
func packDamages(t testing.TB, foreign []byte) map[string]func(b []byte) []byte {
	flip := func(at func(b []byte, tr pack.Trailer) int64) func(b []byte) []byte {
		return func(b []byte) []byte {
			tr, err := pack.ParseTrailer(b, int64(len(b)))
			if err != nil {
				t.Fatal(err)
			}
			b[at(b, tr)] ^= 1
			return b
		}
	}
	return map[string]func(b []byte) []byte{
		"gone":         func([]byte) []byte { return nil },
		"half":         func(b []byte) []byte { return b[:len(b)/2] },
		"its end only": func(b []byte) []byte { return b[len(b)-2000:] },
		"a few bytes":  func(b []byte) []byte { return b[:10] },
		"another pack": func([]byte) []byte { return foreign },
		"a flipped bit in the digests": flip(func(_ []byte, tr pack.Trailer) int64 {
			off, n := tr.DigestsAt()
			return off + n/2
		}),
		"a flipped bit in the directory":              flip(func(b []byte, tr pack.Trailer) int64 { return int64(len(b)) - tr.TailLen() + 50 }),
		"a flipped bit in the length of the digests":  flip(func(b []byte, _ pack.Trailer) int64 { return int64(len(b) - pack.TrailerSize + 2) }),
		"a flipped bit in the magic":                  flip(func(b []byte, _ pack.Trailer) int64 { return int64(len(b) - 4) }),
		"a huge length of the directory":              flip(func(b []byte, _ pack.Trailer) int64 { return int64(len(b) - pack.TrailerSize + 4) }),
		"a version of the future in the last byte":    flip(func(b []byte, _ pack.Trailer) int64 { return int64(len(b) - 1) }),
		"a flipped bit in the sealed directory's tag": flip(func(b []byte, _ pack.Trailer) int64 { return int64(len(b) - pack.TrailerSize - 1) }),
	}
}

func TestOneOfTwoPacksIsEnoughForPageDigests(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	runs, sids := twice(t, r)
	first, second := packsOf(t, f.store, sids[0]), packsOf(t, f.store, sids[1])
	foreign, err := f.store.Get(t.Context(), first[1], storage.Range{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for what, damage := range packDamages(t, foreign) {
		clone := fixture{cloneStore(t, f.store), f.id}
		r := clone.open(t, clone.store)
		// What stood in the first pack is lost with both copies, what stood in the second has one left.
		broken := map[string]bool{first[0]: true, second[0]: true, second[1]: true}
		for key := range broken {
			replace(t, clone.store, key, damage)
		}
		v := openView(t, r, "")
		lost := map[chunk.ID]bool{}
		for _, run := range runs {
			locations, err := v.cache.Locations(run.id, v.counts, nil)
			if err != nil || len(locations) != 2 {
				t.Fatalf("%d places, %v", len(locations), err)
			}
			lost[run.id] = broken[locations[0].Pack] && broken[locations[1].Pack]
		}
		whole := slices.DeleteFunc(slices.Clone(runs), func(r run) bool { return lost[r.id] })
		if len(whole) == len(runs) || len(whole) < 20 {
			t.Fatalf("%s: %d of %d are whole: the test has lost its subject", what, len(whole), len(runs))
		}
		checkDigests(t, v, whole)
		err := v.PageDigests(t.Context(), runIDs(runs), func(id chunk.ID, digests []chunk.Prefix) error {
			for _, r := range runs {
				if r.id == id && !slices.Equal(r.prefixes, digests) {
					t.Errorf("%s: wrong digests", what)
				}
			}
			return nil
		})
		named := slices.ContainsFunc(runs, func(r run) bool { return lost[r.id] && err != nil && strings.Contains(err.Error(), r.id.Short()) })
		packed := err != nil && (strings.Contains(err.Error(), first[0]) || strings.Contains(err.Error(), second[0]))
		if !isLoss(err) || !named || !packed {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestPageDigestsOfAStorageThatIsDownAreNotDamaged(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	runs, _ := twice(t, r)
	down := false
	store := fault.New(f.store, func(op fault.Op) fault.Action {
		if down {
			return fault.Action{Before: storage.ErrUnreachable}
		}
		return fault.Action{}
	})
	v := openView(t, f.open(t, store), "")
	down = true
	err := v.PageDigests(t.Context(), runIDs(runs), func(chunk.ID, []chunk.Prefix) error { return nil })
	if !errors.Is(err, storage.ErrUnreachable) || isLoss(err) {
		t.Fatal(err)
	}
	down = false
	checkDigests(t, v, runs) // nothing of the failure is kept
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := v.PageDigests(ctx, runIDs(runs), func(chunk.ID, []chunk.Prefix) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("of a call that was ended: %v", err)
	}
}

func TestWorkersReadEachPacksDigestsOnce(t *testing.T) {
	f := newFixture(t)
	var mu sync.Mutex
	reads := map[string]int{}
	r := f.open(t, fault.New(f.store, func(op fault.Op) fault.Action {
		mu.Lock()
		defer mu.Unlock()
		if op.Verb == fault.Get && strings.HasPrefix(op.Key, packsPrefix) {
			reads[op.Key]++
		}
		return fault.Action{}
	}))
	runs := makeRuns(r, 1, 70)
	commit(t, r, at(0, ""), writing(runs))
	v := openView(t, r, "")
	var wg sync.WaitGroup
	for worker := range 4 {
		wg.Go(func() {
			for range 5 {
				for i := worker; i+8 < len(runs); i += 3 {
					want := map[chunk.ID][]chunk.Prefix{}
					for _, r := range runs[i : i+8] {
						want[r.id] = r.prefixes
					}
					if err := v.PageDigests(t.Context(), runIDs(runs[i:i+8]), func(id chunk.ID, digests []chunk.Prefix) error {
						if !slices.Equal(digests, want[id]) {
							t.Error("wrong digests")
						}
						return nil
					}); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	for key, n := range reads {
		if n != 1 {
			t.Errorf("%s is read %d times", key, n)
		}
	}
}

func TestTheDigestsInMemoryAreBounded(t *testing.T) {
	var c digestCache
	sized := func(pages uint32) *packDigests {
		d := &pack.Directory{Kind: pack.Data}
		for ; pages > 0; pages -= min(pages, 1000) {
			d.Entries = append(d.Entries, pack.Entry{Form: testForm, Plain: min(pages, 1000) << testForm})
		}
		return &packDigests{dir: d}
	}
	loads := 0
	get := func(key string, pages uint32) {
		t.Helper()
		d, err := c.get(t.Context(), key, func() (*packDigests, error) { loads++; return sized(pages), nil })
		if err != nil || d.dir.Pages() != int(pages) {
			t.Errorf("%s: %v", key, err)
		}
	}
	for i := range 100 {
		get("often", 1000)
		get(fmt.Sprint(i), 1<<17) // 1 MiB
		if c.size > digestCacheSize || len(c.packs) > 17 {
			t.Fatalf("%d bytes in %d packs", c.size, len(c.packs))
		}
	}
	if loads != 101 {
		t.Errorf("%d loads: what is used often should stay", loads)
	}
	get("huge", 1<<17*17)
	if _, ok := c.packs["huge"]; ok || len(c.packs) < 10 {
		t.Errorf("a pack above the bound pushed out the others: %d", len(c.packs))
	}
	broken := errors.New("broken")
	if _, err := c.get(t.Context(), "x", func() (*packDigests, error) { return nil, broken }); !errors.Is(err, broken) {
		t.Error(err)
	}
	get("x", 1)
}
